"""demo: the story of gpurun on simulated GPUs, with the real arbiter, database, signals and processes.

It plays in a world of its own in a temporary folder, and leaves nothing behind, also when it is interrupted.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .asking import Given, World

SPEC = "2x24G"
# What the demo calls a training: takes memory as a simulated program does, and sleeps.
TRAINING = '''\
import os, sys, time
gigabytes, seconds = float(sys.argv[1]), float(sys.argv[2])
for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    with open(f"{os.environ['GPURUN_SIM_DIR']}/{gpu}/{os.getpid()}", "w") as memory:
        memory.write(str(int(gigabytes * 2**30)))
time.sleep(seconds)
'''
PATIENCE_SECONDS = 20.0


def main(given: Given, operands: list[str]) -> int:
    """Play the story; exit 1 if it did not go as told."""
    if operands:
        from ..errors import UsageError

        raise UsageError(f"{operands[0]}: demo takes no operand")
    with tempfile.TemporaryDirectory(prefix="gpurun-demo-") as folder:
        story = Story(Path(folder), fast="fast" in given)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # by way of cleaning up
        try:
            story.play()
        finally:
            story.clean_up()
    return 0


class Story:
    """The stage: a folder, an environment, and the programs started so far."""

    def __init__(self, folder: Path, *, fast: bool) -> None:
        self._fast = fast
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []
        (folder / "train.py").write_text(TRAINING)
        os.environ.update(GPURUN_DIR=str(folder / "state"), GPURUN_SIM=SPEC)
        for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "GPURUN_JOB"):
            os.environ.pop(name, None)
        # `python` and `gpurun` shall be those of this installation.
        os.environ["PATH"] = os.path.dirname(sys.executable) + ":" + os.environ.get("PATH", "/usr/bin:/bin")
        self._gpurun = [sys.executable, "-m", "gpuwrap"]

    def play(self) -> None:
        """Tell the whole story."""
        self._tell("gpurun: one word in front of a command, and it starts when a GPU is really free.")
        self._tell("This is played on two simulated GPUs of 24G; arbiter, database and processes are real.")
        self._queue()
        self._share()
        self._overtake()
        self._give_way()
        self._tell("\nThat was all. On real GPUs it is the same: put gpurun in front. man gpurun tells the rest.")

    def _queue(self) -> None:
        self._tell("\n1. Waiting. Three trainings want a whole GPU each; there are two.")
        first = [self._start("python train.py 20 3") for _ in range(2)]
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        third = self._start("python train.py 20 1.5")
        self._await("the third to wait", lambda: self._count("waiting") == 1)
        self._show("ls")
        self._tell("It says who holds what. It starts by itself when the first has ended:")
        self._await("the first to end", lambda: any(process.poll() is not None for process in first))
        self._await("the third to start", lambda: self._count("waiting") == 0)
        self._show("ls")
        for process in (*first, third):
            process.wait()

    def _share(self) -> None:
        self._tell("\n2. Sharing. Who says how much memory it needs (-m) shares a GPU with others that fit.")
        small = [self._start("-m 8G python train.py 7 2.5") for _ in range(4)]
        self._await("all four to run", lambda: self._count("running") == 4)
        self._show("ls")
        self._tell("Four trainings on two GPUs, and no GPU promises more than it has.")
        for process in small:
            process.wait()

    def _overtake(self) -> None:
        self._tell("\n3. Priority. Both GPUs are busy, two jobs wait, and then comes one that matters more.")
        busy = [self._start("python train.py 20 3") for _ in range(2)]
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        line = [self._start(f"-N lr-{number} python train.py 20 0.5") for number in (1, 2)]
        self._await("two to wait", lambda: self._count("waiting") == 2)
        line.append(self._start("-p high -N paper python train.py 20 0.5"))
        self._await("three to wait", lambda: self._count("waiting") == 3)
        self._show("ls")
        self._tell("Higher runs first, so paper is next. Changed your mind? At once, and it tells the new place:")
        self._show("renice high lr-2")
        self._tell("And what is no longer wanted leaves the line:")
        self._show("kill lr-1")
        for process in (*busy, *line):
            process.wait()
        self._show("ls -a")

    def _give_way(self) -> None:
        self._tell("\n4. Giving way. Both GPUs train at low priority, and now somebody needs an answer.")
        training = [self._start("-p low -r python train.py 6 5") for _ in range(2)]
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        urgent = self._start("-p urgent -N answer python train.py 4 1.5")
        self._await("one training to give way", lambda: self._count("paused") == 1)
        self._show("ls")
        self._tell("One training stands still and keeps its memory; nobody's work is lost. When the answer is there:")
        urgent.wait()
        self._await("the training to go on", lambda: self._count("paused") == 0)
        self._show("ls")
        for process in training:
            process.wait()

    def _tell(self, text: str) -> None:
        print(text, flush=True)
        if not self._fast:
            time.sleep(min(3.0, 0.6 + len(text) / 60))

    def _start(self, words: str) -> subprocess.Popen[bytes]:
        print(f"$ gpurun {words} &", flush=True)
        process = subprocess.Popen([*self._gpurun, *words.split()], cwd=self._folder, stderr=subprocess.DEVNULL)
        self._started.append(process)
        return process

    def _show(self, words: str) -> None:
        print(f"$ gpurun {words}", flush=True)
        subprocess.run([*self._gpurun, *words.split()], check=False)
        if not self._fast:
            time.sleep(1.5)

    def _count(self, state: str) -> int:
        return sum(job.state.value == state for job in World({}).live())

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > until:
                from ..errors import SOME_FAILED, GpurunError

                raise GpurunError(f"the story broke off: waited in vain for {what}", status=SOME_FAILED)
            time.sleep(0.02)

    def clean_up(self) -> None:
        """End what is left, and send the arbiter home before its folder goes."""
        for process in self._started:
            if process.poll() is None:
                process.terminate()
        for process in self._started:
            process.wait()
        world = World({})
        with contextlib.suppress(Exception):
            self._await("the last job to be noted", lambda: not world.live())
            if world.has_arbiter():
                world.ask("leave")
        shutil.rmtree(self._folder / "state", ignore_errors=True)
