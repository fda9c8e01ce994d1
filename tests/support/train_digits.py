"""A real training run, small: scikit-learn's digits. `train_digits.py LOG TAG [EPOCHS]`

Writes the lines of `work.c` at its start and end, and takes 3 GiB of a simulated GPU while it computes.
"""

import os
import sys
import time
from pathlib import Path


def say(log: str, what: str, tag: str, at: int) -> None:
    names = ("GPURUN_JOB", "CUDA_VISIBLE_DEVICES", "GPURUN_GPU_UUIDS", "GPURUN_GRANTED")
    job, devices, uuids, granted = (os.environ.get(name, "-") for name in names)
    line = f"{at} {what} tag={tag} job={job} devices={devices} uuids={uuids} granted={granted} pid={os.getpid()}\n"
    file = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(file, line.encode())
    os.close(file)


def train(epochs: int, seed: int) -> float:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier

    images, labels = load_digits(return_X_y=True)
    cut = len(images) * 3 // 4
    model = SGDClassifier(random_state=seed)
    for _ in range(epochs):
        model.partial_fit(images[:cut] / 16, labels[:cut], classes=range(10))
    return float(model.score(images[cut:] / 16, labels[cut:]))


def main() -> None:
    begun = time.monotonic_ns()
    log, tag, *rest = sys.argv[1:]
    say(log, "start", tag, begun)
    taken = [
        Path(os.environ["GPURUN_SIM_DIR"], device, str(os.getpid())) for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",")
    ]
    for file in taken:
        file.write_text(str(3 * 2**30))
    score = train(int(rest[0]) if rest else 5, seed=len(tag))
    for file in taken:
        file.unlink()
    say(log, "end", tag, time.monotonic_ns())
    print(f"{tag} {score:.2f}")
    sys.exit(0 if score > 0.8 else 1)


if __name__ == "__main__":
    main()
