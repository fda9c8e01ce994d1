"""A crowd of gpuruns started at once, and what is proven of it afterwards.

The moments at which a test disturbs a crowd are points of its progress (how many programs have started), never of time:
a slow machine sees the same story.
"""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proof import (
    GIB,
    MAYBE,
    NEVER,
    Asked,
    Faults,
    Life,
    each_ran_as_asked,
    granted_in_order,
    left_over,
    no_gpu_is_given_twice,
    read_log,
    read_moves,
    taken_once,
)
from waiting import wait_until
from world import World

# Within one step (10): any difference counts for the order, but none makes another job give way.
PRIORITIES = (-4, 0, 0, 0, 3, 5)
CONNECT_SECONDS = 2.0
# Who came more than 10 s after his start counts from then. Starts are told in hundredths of a second.
BY_TURN = """
SELECT id, argv FROM job
ORDER BY iif(submitted_mono * 100 - start_ticks > 1000, submitted_mono * 100, start_ticks), pid
"""


def mixed(count: int, random: random.Random, prefix: str = "j") -> list[Asked]:
    """Whole-GPU jobs, some for two GPUs, and shared ones of 1 to 20 GiB, of several priorities."""
    asked = []
    for number in range(count):
        kind = random.random()
        asked.append(
            Asked(
                tag=f"{prefix}{number:03}",
                gpus=2 if kind < 0.08 else 1,
                memory=None if kind < 0.5 else random.randint(1, 20) * GIB,
                priority=random.choice(PRIORITIES),
            )
        )
    return asked


class Crowd:
    """Clients of one world whose programs write one log."""

    def __init__(self, world: World, work: Path, folder: Path, total_bytes: int = 24 * GIB) -> None:
        self.world, self.work, self.total_bytes = world, work, total_bytes
        self.log = folder / "log"
        self.log.touch()
        self.errors = folder / "stderr"
        self.errors.touch()
        self.asked: dict[str, Asked] = {}
        self.clients: dict[str, subprocess.Popen[Any]] = {}
        self.expected_status: dict[str, int | None] = {}
        self.killed_ns: dict[int, int] = {}
        self.touched: set[str] = set()
        self.stopped: list[str] = []
        self.kills_of_gpurun: list[float] = []

    # Starting

    def start(self, asked: Asked, *words: str, status: int = 0, **popen: Any) -> "subprocess.Popen[Any]":
        """Start one; `words` are for the program (`for=100`). It must exit with `status`.

        Its process group is its own but its session ours, so that the kernel does not discard a SIGTSTP.
        """
        options = ["-g", str(asked.gpus), "-p", str(asked.priority)]
        if asked.memory is not None:
            options += ["-m", f"{asked.memory // 2**20}M"]
        if status:
            words = (*words, f"exit={status}")
        with self.errors.open("ab") as errors:
            client = self.world.start(
                *options, "--", self.work, self.log, asked.tag, *words,
                stdout=subprocess.DEVNULL, stderr=errors, **{"process_group": 0, **popen},
            )  # fmt: skip
        self.asked[asked.tag] = asked
        self.clients[asked.tag] = client
        self.expected_status[asked.tag] = status
        return client

    def start_mixed(self, count: int, random: random.Random, longest_ms: int = 120, prefix: str = "j") -> None:
        for asked in mixed(count, random, prefix):
            memory = asked.memory or 2 * GIB
            words = (f"for={random.randint(10, longest_ms)}", f"take={memory}")
            self.start(asked, *words, status=random.choice((0, 0, 0, 7)))

    # Looking

    def lives(self) -> list[Life]:
        return read_log(self.log.read_text())

    def started(self) -> int:
        return self.log.read_bytes().count(b" start ")

    def has_started(self, tag: str) -> bool:
        return f" start tag={tag} " in self.log.read_text()

    def until_started(self, count: int, within: float = 60) -> None:
        wait_until(lambda: self.started() >= count, f"{count} programs to start", within)

    def alive(self) -> list[str]:
        """Tags of clients (or the programs they became) that have not ended."""
        return [tag for tag, client in self.clients.items() if client.poll() is None]

    def waiting(self) -> list[str]:
        """Tags of those whose program has not started, as far as the log says."""
        text = self.log.read_text()
        return [tag for tag in self.alive() if f" start tag={tag} " not in text]

    def states(self) -> dict[int, str]:
        """The state of each job by pid, from the database itself: as fast as can be."""
        try:
            return {row["pid"]: row["state"] for row in self.world.rows("SELECT pid, state FROM job")}
        except sqlite3.OperationalError:  # it is being made this moment
            return {}

    def until_in_line(self, tags: Sequence[str], within: float = 60) -> None:
        """Wait until all of them are registered and none has been granted."""
        pids = {self.clients[tag].pid for tag in tags}
        wait_until(
            lambda: pids <= {pid for pid, state in self.states().items() if state == "waiting"},
            f"{len(pids)} jobs to stand in line",
            within,
        )

    # Disturbing

    def kill(self, tag: str, number: int = signal.SIGKILL, starts: tuple[int, int] = MAYBE) -> None:
        """Send a signal that ends it; from now on its program may run as often as `starts` says."""
        client = self.clients[tag]
        # Once it was waited for its pid may be another's.
        if client.poll() is not None:
            return
        self.touched.add(tag)
        self.asked[tag] = replace(self.asked[tag], starts=starts)
        self.expected_status[tag] = -number if starts == NEVER else None
        if number == signal.SIGKILL:
            self.killed_ns[client.pid] = time.monotonic_ns()
        client.send_signal(number)

    def stop(self, tag: str, number: int = signal.SIGSTOP) -> None:
        """Stop it as Ctrl-Z does; `cont` lets it go on."""
        if self.clients[tag].poll() is None:
            self.touched.add(tag)
            self.stopped.append(tag)
            self.clients[tag].send_signal(number)

    def cont(self) -> None:
        for tag in self.stopped:
            if self.clients[tag].poll() is None:
                self.clients[tag].send_signal(signal.SIGCONT)
        self.stopped.clear()

    def kill_of_gpurun(self, pids: Sequence[int | None]) -> None:
        """`kill -9` on arbiter or keeper."""
        self.kills_of_gpurun.append(time.time())
        for pid in pids:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def unsure(self) -> list[tuple[float, float]]:
        """When waiting clients may not have been connected: from a kill until a while after the next arbiter's start.

        Whoever has not knocked again is passed over; on a busy machine sixty clients need their time for it.
        """
        starts = [row["started_at"] for row in self.world.rows("SELECT started_at FROM arbiter ORDER BY id")]
        return [
            (at - 0.1, next((start for start in starts if start > at), at) + CONNECT_SECONDS) for at in self.kills_of_gpurun
        ]

    # Judging

    def finish(self, within: float = 90) -> None:
        """Wait for every client to end."""
        wait_until(lambda: not self.alive(), "all clients to end", within)

    def uuids(self) -> set[str]:
        return {uuid for life in self.lives() for uuid in life.uuids}

    def asked_by_job(self) -> dict[int, Asked]:
        """What each job number asked for, by the tag in its command line; in the order of their turns.

        Of what comes at once that is the order of its starts, whoever was registered first.
        """
        found = {}
        for row in self.world.rows(BY_TURN):
            argv = os.fsdecode(row["argv"]).split("\0")
            if str(self.log) in argv:
                found[row["id"]] = self.asked[argv[argv.index(str(self.log)) + 1]]
        return found

    def prove(self, what: str, *, order: bool = True) -> None:
        """All proofs. The arbiter may still idle, everything else of the crowd must be gone."""
        if self.kills_of_gpurun:
            # Nobody may be left who could have noticed the last ends: the next command must.
            self.world.jobs()
        faults = Faults()
        lives = self.lives()
        asked = list(self.asked.values())
        for tag, client in self.clients.items():
            expected = self.expected_status[tag]
            if expected is not None and client.returncode != expected:
                faults.add([f"{tag}: exit status {client.returncode}, not {expected}"])
        faults.add(each_ran_as_asked(asked, lives, self.killed_ns))
        faults.add(no_gpu_is_given_twice(asked, lives, self.total_bytes, self.killed_ns))
        moves = read_moves(self.world.directory)
        faults.add(taken_once(moves, lives))
        by_job = self.asked_by_job()
        ran = {life.job: life.tag for life in lives}
        faults.add(
            f"job {job}: {tag} ran in it, but it is {by_job[job].tag if job in by_job else 'unknown'}"
            for job, tag in ran.items()
            if job not in by_job or by_job[job].tag != tag
        )
        if order:
            excused = [job for job, one in by_job.items() if one.tag in self.touched]
            faults.add(granted_in_order(moves, by_job, excused, self.unsure()))
        faults.add(self.settle())
        faults.check(what)

    def settle(self, within: float = 10) -> list[str]:
        """What is left over once the arbiter had time to see that everything has ended."""
        found: list[str] = []

        def empty() -> bool:
            idle = [self.world.arbiter_pid(), self.world.keeper_pid()]
            found[:] = left_over(self.world.directory, self.uuids(), idle=idle)
            return not found

        with contextlib.suppress(AssertionError):
            wait_until(empty, "the world to be empty", within)
        return found

    def leaves_by_itself(self, within: float = 60) -> None:
        """Wait for the idle arbiter to leave, and prove that then nothing at all is left."""
        wait_until(lambda: self.world.arbiter_pid() is None, "the idle arbiter to leave", within)
        wait_until(lambda: not left_over(self.world.directory, self.uuids()), "its keeper to leave", 5)
        assert left_over(self.world.directory, self.uuids()) == []

    def complaints(self) -> list[str]:
        """What clients and programs wrote to standard error."""
        return self.errors.read_text().splitlines()
