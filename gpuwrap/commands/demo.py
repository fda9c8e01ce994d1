"""demo: the story of gpurun on simulated GPUs, with the real arbiter, database, signals and processes.

1. It plays in a world of its own in a temporary folder, and leaves nothing behind, also when it is interrupted.
2. Nothing in it is a matter of time: trainings end when the story has them end, however long the reader is given.
3. Every step is looked at; a story that does not go as told breaks off with the reason.
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
from textwrap import fill
from typing import NoReturn

from ..errors import SOME_FAILED, GpurunError, UsageError
from ..tables import terminal_width
from .asking import Given, World

SPEC = "2x24G"
# What the demo calls a training: takes memory as a simulated program does, and goes on until the story has it end.
TRAINING = '''\
import os, sys, time
gigabytes = float(sys.argv[1].removesuffix("G"))
for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    with open(f"{os.environ['GPURUN_SIM_DIR']}/{gpu}/{os.getpid()}", "w") as memory:
        memory.write(str(int(gigabytes * 2**30)))
while not os.path.exists(os.environ["DEMO_END"]):
    time.sleep(0.02)
'''
# What `--script` prints: every line of README's daily use can be tried with it. It takes a simulated GPU's memory, and begins
# with the epoch that it had saved, if it was ended and is run again (-r).
SCRIPT = '''\
import os, time
gpus, job = os.environ.get("CUDA_VISIBLE_DEVICES", ""), os.environ.get("GPURUN_JOB", "0")
if "GPURUN_SIM_DIR" in os.environ:  # simulated GPUs: it takes 5G of each by writing how much
    for gpu in filter(None, gpus.split(",")):
        open(f"{os.environ['GPURUN_SIM_DIR']}/{gpu}/{os.getpid()}", "w").write(str(5 * 2**30))
saved = f"epoch-{job}"
for epoch in range(int(open(saved).read()) if os.path.exists(saved) else 0, 60):
    print(f"job {job}, epoch {epoch}, GPU {gpus or 'none'}", flush=True)
    time.sleep(1)
    open(saved, "w").write(str(epoch + 1))
os.remove(saved)
'''
PATIENCE_SECONDS = 30.0


def main(given: Given, operands: list[str]) -> int:
    """Play the story; exit 1 if it did not go as told."""
    if operands:
        raise UsageError(f"{operands[0]}: demo takes no operand")
    if "script" in given:
        print(SCRIPT, end="")
        return 0
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
        self._tell("train.py 20G takes 20G of a GPU's memory, and trains until the story has it end.")
        self._queue()
        self._share()
        self._overtake()
        self._give_way()
        self._tell("\nThat was all. On real GPUs it is the same: put gpurun in front. man gpurun tells the rest.")
        self._tell(f"To play by yourself: export GPURUN_SIM={SPEC}; gpurun sleep 60 & gpurun ls")

    def _queue(self) -> None:
        self._tell("\n1. Waiting. Three trainings want a whole GPU each; there are two.")
        first, second = self._start("python train.py 20G"), self._start("python train.py 20G")
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        third = self._start("python train.py 20G")
        self._await("the third to wait", lambda: self._count("waiting") == 1)
        self._show("ls")
        self._tell("It says who holds what. When the first has ended, the third starts by itself:")
        self._end(first)
        self._await("the third to start", lambda: self._count("waiting") == 0)
        self._show("ls")
        self._end(second, third)

    def _share(self) -> None:
        self._tell("\n2. Sharing. Who says how much memory it needs (-m) shares a GPU with others that fit.")
        small = [self._start("-m 8G python train.py 7G") for _ in range(4)]
        self._await("all four to run", lambda: self._count("running") == 4)
        self._show("ls")
        self._tell("Four trainings on two GPUs, and no GPU promises more than it has.")
        self._end(*small)

    def _overtake(self) -> None:
        self._tell("\n3. Priority. Both GPUs are busy, two jobs wait, and then comes one that matters more.")
        busy = [self._start("python train.py 20G") for _ in range(2)]
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        unwanted, hurried = self._start("-N lr-1 python train.py 20G"), self._start("-N lr-2 python train.py 20G")
        paper = self._start("-p high -N paper python train.py 20G")
        self._await("three to wait", lambda: self._count("waiting") == 3)
        self._show("ls")
        self._tell("Higher runs first, so paper is next. Changed your mind? At once, and it tells the new place:")
        self._show("renice high lr-2")
        self._tell("And what is no longer wanted leaves the line:")
        self._show("kill lr-1")
        self._await("lr-1 to leave the line", lambda: unwanted.poll() is not None)
        self._tell("One GPU becomes free: it is lr-2's, which is first now.")
        self._end(busy[0])
        self._await("lr-2 to start", lambda: self._count("waiting") == 1)
        self._show("ls -a")
        self._end(busy[1], hurried, paper)

    def _give_way(self) -> None:
        self._tell("\n4. Giving way. Both GPUs train at low priority, and now somebody needs an answer.")
        training = [self._start("-p low -r python train.py 6G") for _ in range(2)]
        self._await("both GPUs to be taken", lambda: self._count("running") == 2)
        urgent = self._start("-p urgent -N answer python train.py 4G")
        self._await("one training to give way", lambda: self._count("paused") == 1)
        self._show("ls")
        self._tell("One training stands still and keeps its memory; nobody's work is lost. When the answer is there:")
        self._end(urgent)
        self._await("the training to go on", lambda: self._count("paused") == 0)
        self._show("ls")
        self._end(*training)

    def _tell(self, text: str) -> None:
        width = terminal_width()
        print(text if width is None else "\n".join(fill(line, max(width, 20)) for line in text.split("\n")), flush=True)
        if not self._fast:
            time.sleep(min(3.0, 0.6 + len(text) / 60))

    def _start(self, words: str) -> subprocess.Popen[bytes]:
        """Start a program through gpurun in the background; returns once it has its number."""
        print(f"$ gpurun {words} &", flush=True)
        known = self._registered()
        process = subprocess.Popen(
            [*self._gpurun, *words.split()],
            cwd=self._folder,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DEMO_END": self._end_of(len(self._started))},
        )
        self._started.append(process)
        self._await(f"gpurun {words} to have a number", lambda: self._registered() > known)
        return process

    def _end_of(self, number: int) -> str:
        """The file whose presence ends a training."""
        return str(self._folder / f"end-{number}")

    def _end(self, *processes: subprocess.Popen[bytes]) -> None:
        """Have trainings end, those that wait as soon as they start, and see that they succeeded."""
        for process in processes:
            Path(self._end_of(self._started.index(process))).touch()
        for process in processes:
            self._await("a training to end", lambda process=process: process.poll() is not None)  # type: ignore[misc]
            if process.returncode:
                self._break_off(f"a training ended with {process.returncode}")

    def _show(self, words: str) -> None:
        """Type a verb, and see that it succeeded."""
        print(f"$ gpurun {words}", flush=True)
        status = subprocess.run([*self._gpurun, *words.split()], check=False).returncode
        if status:
            self._break_off(f"gpurun {words} ended with {status}")
        if not self._fast:
            time.sleep(1.5)

    @staticmethod
    def _registered() -> int:
        reader = World({}).reader
        return 0 if reader is None else len(reader.jobs(ended=True))

    def _count(self, state: str) -> int:
        return sum(job.state.value == state for job in World({}).live())

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > until:
                self._break_off(f"waited in vain for {what}")
            time.sleep(0.02)

    @staticmethod
    def _break_off(why: str) -> NoReturn:
        raise GpurunError(f"the story broke off: {why}", status=SOME_FAILED)

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
