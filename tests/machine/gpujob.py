#!/usr/bin/python3 -S
"""gpujob TAG SECONDS [MIB]: hold memory of the GPU and make a step each 20 ms, each a line of the tag's log.

With MIB 0 it holds nothing there, as a program that still imports. TERM is written down, and ends it.
"""

import os
import signal
import sys
import time

tag, seconds, size = sys.argv[1], float(sys.argv[2]), int((sys.argv[3:] or ["3000"])[0])
log = os.open(f"/var/tmp/beats/{tag}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def ask(number: int, _frame: object) -> None:
    os.write(log, f"signal {number}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


signal.signal(signal.SIGTERM, ask)
signal.signal(signal.SIGHUP, signal.SIG_IGN)  # sent right after TERM to what a session left
held = []
for gpu in filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if size else ()):
    held.append(f"/opt/gpus/alloc/{gpu}/{os.getpid()}")
    with open(held[-1], "w") as file:
        file.write(str(size << 20))
over = time.monotonic() + seconds
step = 0
while time.monotonic() < over:
    step += 1
    os.write(log, f"{step}\n".encode())
    time.sleep(0.02)
for path in held:
    os.unlink(path)
