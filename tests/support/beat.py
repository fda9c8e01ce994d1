"""The program of the tests of giving way: takes GPU memory and says at each step that it goes on.

    beat.py LOG TAG [take=BYTES|granted] [every=MS] [steps=N] [until=FILE] [catch=N,N] [exit=N] [state=FILE] [ranks=2]

Each line is one write() to a file opened O_APPEND: NANOSECONDS TAG PID WHAT VALUE, by CLOCK_MONOTONIC. WHAT is `start`
(value: the GPUs), `take` and `free` (bytes on each, never more than granted), `beat` (the number of the step), `signal`,
`end` (the status).
It ends after `steps`, or once the file `until` exists; a caught signal is told, and TERM then ends it. With `state` it
notes there how far it came when TERM ends it, exits 1, goes on from there in its next run, and says its `attempt` first.
With `ranks=2` a second process holds 1 GiB of `take` for as long as the first lives.
"""

import _signal as signal
import os
import sys
import time

log, tag = sys.argv[1:3]
given = dict(word.split("=", 1) for word in sys.argv[3:])
fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
devices = [index for index in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if index]
every, steps = int(given.get("every", "10")) / 1000, int(given.get("steps", "0"))
status = int(given.get("exit", "0"))
asked = False


def say(what, value):
    os.write(fd, f"{time.monotonic_ns()} {tag} {os.getpid()} {what} {value}\n".encode())


def caught(number, _frame):
    global asked
    say("signal", number)
    asked = asked or number == signal.SIGTERM


def hold(size):
    for index in devices:
        path = f"{os.environ['GPURUN_SIM_DIR']}/{index}/{os.getpid()}"
        if not size:
            os.unlink(path)
            continue
        with open(path + ".half", "w") as file:
            file.write(size)
        os.rename(path + ".half", path)


if "state" in given:
    say("attempt", os.environ["GPURUN_ATTEMPT"])
say("start", ",".join(devices) or "-")
for number in given.get("catch", "").split(","):
    if number:
        signal.signal(int(number), caught)
signal.signal(signal.SIGINT, caught if "2" in given.get("catch", "").split(",") else signal.SIG_DFL)
take = given.get("take")
if take:
    granted = min(os.environ["GPURUN_GRANTED"].split(","), key=int)  # beside paused jobs not the same on each
    take = granted if take == "granted" else str(min(int(take), int(granted)))
    rank = 2**30 if given.get("ranks") == "2" else 0
    if rank and not os.fork():
        hold(str(rank))
        leader = os.getppid()
        while os.getppid() == leader:
            time.sleep(0.01)
        hold("")
        os._exit(0)
    hold(str(int(take) - rank))
    # After it did: whoever is paused between the two would else be told to hold what it has not taken.
    say("take", take)
step = 0
if os.path.exists(given.get("state", "")):
    with open(given["state"]) as file:
        step = int(file.read())
while not asked and not (steps and step >= steps) and not ("until" in given and os.path.exists(given["until"])):
    step += 1
    say("beat", step)
    time.sleep(every)
if take:
    say("free", take)
    hold("")
if asked and "state" in given and step < steps:
    with open(given["state"], "w") as file:
        file.write(str(step))
    status = 1
say("end", status)
sys.exit(status)
