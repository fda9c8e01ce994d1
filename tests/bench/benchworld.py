"""A world to measure in: its own state folder and four simulated GPUs, and the end of everything in it."""

import compileall
import contextlib
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sysconfig
import tempfile
import time
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import gpuwrap

CLOCK = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
/* clock end FILE SECONDS: makes FILE, sleeps, appends the moment of its end. clock begin FILE: appends that of its start. */
int main(int argc, char **argv)
{
    struct timespec now;
    FILE *file = fopen(argv[2], "a");
    if (!file) return 1;
    if (argc > 3) usleep((useconds_t)(atof(argv[3]) * 1e6));
    clock_gettime(CLOCK_MONOTONIC, &now);
    fprintf(file, "%s %ld.%09ld\n", argv[1], now.tv_sec, now.tv_nsec);
    return 0;
}
"""
PATIENCE_SECONDS = 300.0


class BenchWorld:
    """Starts gpuruns, finds the arbiter, and leaves nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._command = os.path.join(sysconfig.get_path("scripts"), "gpurun")
        ours = ("GPURUN_", "CUDA_", "SLURM_", "PYTHONDONTWRITEBYTECODE")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        # As pip does at an installation; a checkout would be compiled anew at each start.
        compileall.compile_dir(os.path.dirname(gpuwrap.__file__), quiet=2)
        self._environment = clean | {"GPURUN_DIR": str(folder / "state"), "GPURUN_SIM": "4x24G"}
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "BenchWorld":
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
        for process in self._started:
            process.wait()
        self.end_arbiter()

    @property
    def command(self) -> str:
        """The gpurun that is measured."""
        return self._command

    def on_slurm(self, variables: dict[str, str]) -> dict[str, str]:
        """Return an environment in which it speaks to a Slurm, without simulated GPUs."""
        return {name: value for name, value in self._environment.items() if name != "GPURUN_SIM"} | variables

    def run(self, *words: str, stdout: int | None = None) -> None:
        """Run gpurun to its end."""
        subprocess.run([self._command, *words], env=self._environment, check=True, stdout=stdout)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start gpurun."""
        process = subprocess.Popen([self._command, *words], env=self._environment)
        self._started.append(process)
        return process

    def crowd(self, count: int, *words: str) -> None:
        """Start many from one shell, and wait for all."""
        script = f"for i in $(seq {count}); do {self._command} {' '.join(words)} & done; wait"
        subprocess.run(["bash", "-c", script], env=self._environment, check=True)

    @property
    def _world(self) -> Path:
        return next((self._folder / "state").iterdir())

    def arbiter_pid(self) -> int:
        """The process that listens on the bell."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(self._world / "bell"))
            pid: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            return pid

    def keeper_pid(self) -> int:
        """Its only child."""
        pid = self.arbiter_pid()
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def kill_arbiter(self) -> None:
        """As the crash tests do; its keeper takes over."""
        os.kill(self.arbiter_pid(), signal.SIGKILL)

    def end_arbiter(self) -> None:
        """End keeper and arbiter, so that the next gpurun must summon."""
        with contextlib.suppress(OSError, StopIteration, IndexError):
            keeper, arbiter = self.keeper_pid(), self.arbiter_pid()
            for pid in (keeper, arbiter):
                os.kill(pid, signal.SIGKILL)
            self._await(lambda: not os.path.exists(f"/proc/{arbiter}"), "the arbiter to end")

    def _rows(self, sql: str) -> list[Any]:
        with contextlib.closing(sqlite3.connect(f"file:{self._world}/state.db?mode=ro", uri=True)) as database:
            return database.execute(sql).fetchall()

    def pids(self, state: str) -> list[int]:
        """Leaders of the jobs in a state."""
        return [row[0] for row in self._rows(f"SELECT pid FROM job WHERE state = '{state}'")]

    def await_states(self, *, running: int, waiting: int) -> None:
        """Wait until exactly so many jobs run and wait."""
        self._await(
            lambda: len(self.pids("running")) == running and len(self.pids("waiting")) == waiting,
            f"{running} jobs to run and {waiting} to wait",
        )

    @staticmethod
    def _await(condition: Any, what: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(StopIteration, FileNotFoundError, sqlite3.Error):
                if condition():
                    return
            if time.monotonic() > until:
                raise SystemExit(f"waited in vain for {what}")
            time.sleep(0.02)

    @staticmethod
    def pss(pid: int) -> float:
        """Proportional set size in MiB."""
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", rollup, re.M).group(1)) / 1024  # type: ignore[union-attr]

    def cpu_seconds(self) -> float:
        """CPU time so far of the arbiter and of all waiting clients; by the scheduler, since clock ticks are too coarse."""
        pids = [self.arbiter_pid(), *self.pids("waiting")]
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9

    @staticmethod
    @cache
    def clock_program() -> str:
        """A program that only writes down when it began or ended, so that its own start costs nothing."""
        folder = Path(tempfile.mkdtemp(prefix="gpurun-clock-"))
        (folder / "clock.c").write_text(CLOCK)
        subprocess.run(["gcc", "-O2", "-o", folder / "clock", folder / "clock.c"], check=True)
        return str(folder / "clock")

    @staticmethod
    def read_gap(stamp: str) -> float:
        """Seconds from the end of one to the beginning of the next."""
        moments = dict(line.split() for line in Path(stamp).read_text().splitlines())
        return float(moments["begin"]) - float(moments["end"])

    def hand_off(self, waiting: int) -> float:
        """From the end of a job on all GPUs to the first instruction of the one that waits."""
        stamp = str(self._folder / f"stamp-{time.monotonic_ns()}")
        clock = self.clock_program()
        holder = self.start("-g", "4", clock, "end", stamp, "0.3")
        self._await(lambda: os.path.exists(stamp), "the holder to run")
        waiter = self.start("-g", "4", clock, "begin", stamp)
        self._await(lambda: len(self.pids("waiting")) >= waiting, "the next to wait")
        holder.wait()
        waiter.wait()
        return self.read_gap(stamp)

    def block(self) -> None:
        """Let a job hold all GPUs, within one step of the priority of all that come, so that it need not give way."""
        self._block = self.start("-g", "4", "-p", "9", "sleep", "3600")
        self._await(lambda: len(self.pids("running")) == 1, "the first to run")

    def wait_behind(self, count: int) -> None:
        """Let so many wait in all, no two alike."""
        for number in range(len(self.pids("waiting")), count):
            self.start("-g", "4", "-p", "0", "true", "--seed", str(number))
        self._await(lambda: len(self.pids("waiting")) == count, f"{count} to wait")

    def hand_offs(self, count: int) -> list[float]:
        """The same while many more may wait behind: the job that holds the GPUs is changed for another each time."""
        gaps = []
        waiting = len(self.pids("waiting"))
        for _ in range(count):
            stamp = str(self._folder / f"stamp-{time.monotonic_ns()}")
            clock = self.clock_program()
            holder = self.start("-g", "4", "-p", "8", clock, "end", stamp, "0.4")
            waiter = self.start("-g", "4", "-p", "7", clock, "begin", stamp)
            following = self.start("-g", "4", "-p", "6", "sleep", "3600")
            self._await(lambda: len(self.pids("waiting")) == waiting + 3, "all to wait")
            self._block.kill()
            self._block.wait()
            holder.wait()
            waiter.wait()
            gaps.append(self.read_gap(stamp))
            self._block = following
            self._await(lambda: len(self.pids("running")) == 1, "the next to hold the GPUs")
        return gaps

    def fill(self, count: int) -> None:
        """Let many jobs wait, no two of them alike: each has a row and a reason of its own."""
        self.run("true")
        holder = self.start("-g", "4", "sleep", "600")
        # By its pid: the job before it may still be told as running.
        self._await(lambda: holder.pid in self.pids("running"), "the GPUs to be held")
        for number in range(count):
            options = ("-q", "-N", f"run{number}x", "-p", str(number % 7), "-m", f"{2000 + number}M")
            self.start(*options, "true", f"train{number}.sh", "--lr", f"0.{number}")
        self.await_states(running=1, waiting=count)
