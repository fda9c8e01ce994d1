"""A real training that goes on from its checkpoint. `train_resuming.py LOG TAG STATE EPOCHS [pause=MS] [every=N] [deaf]`

It writes the lines of `beat.py`: a `beat` for each epoch, `saved` with the number of the last epoch in the checkpoint, and
at its end `result`, a digest of what it has learned. It fills an 80 GB card. Asked by TERM it saves and ends; `deaf` dies
of it. A checkpoint is made after `every` epochs in any case.
"""

import hashlib
import os
import pickle
import signal
import sys
import time
from pathlib import Path

log, tag, state, epochs = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
given = dict(word.partition("=")[::2] for word in sys.argv[5:])
fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
asked = False


def say(what, value):
    os.write(fd, f"{time.monotonic_ns()} {tag} {os.getpid()} {what} {value}\n".encode())


def caught(number, _frame):
    global asked
    asked = True
    say("signal", number)


def save():
    half = state.with_suffix(".half")
    half.write_bytes(pickle.dumps((epoch, model)))
    os.replace(half, state)
    say("saved", epoch)


def hold(size):
    for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if "GPURUN_SIM_DIR" in os.environ else ():
        file = Path(os.environ["GPURUN_SIM_DIR"], index, str(os.getpid()))
        if size:
            file.with_suffix(".half").write_text(str(size))
            file.with_suffix(".half").rename(file)
        else:
            file.unlink()


say("start", os.environ.get("CUDA_VISIBLE_DEVICES", "-"))
if "deaf" not in given:
    signal.signal(signal.SIGTERM, caught)

from sklearn.datasets import load_digits  # noqa: E402
from sklearn.linear_model import SGDClassifier  # noqa: E402

images, labels = load_digits(return_X_y=True)
epoch, model = pickle.loads(state.read_bytes()) if state.exists() else (0, SGDClassifier(random_state=1))
memory = 78 * 2**30
hold(memory)
say("take", memory)
while epoch < epochs and not asked:
    model.partial_fit(images / 16, labels, classes=range(10))
    epoch += 1
    say("beat", epoch)
    if epoch % int(given.get("every", "25")) == 0:
        save()
    time.sleep(int(given.get("pause", "0")) / 1000)
if asked:
    save()
else:
    say("result", hashlib.sha256(model.coef_.tobytes()).hexdigest())
hold(0)
say("free", memory)
say("end", int(asked))
os._exit(int(asked))  # what the interpreter tidies up is not measured
