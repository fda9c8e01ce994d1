"""A storm: jobs of random priorities and sizes on four GPUs, reniced, paused, resumed and killed at random.

Some may be restarted (`-r`) and are ended for others, some are gangs of two processes, some have a time limit, which a few
meet. Afterwards: whoever was left alone ran whole, and once for each time that it was granted, no memory was exceeded,
nobody computed beside a whole-GPU job, nobody was paused twice within `min_return` or ended before `min_run`, no gang
stood still for a job that might be long, nobody starved, and nothing at all is left.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from pauses import GIB, PYTHON, Stage, groups_go_with_their_world, groups_of, may_freeze, stands
from proof import Faults, left_over, read_moves, taken_once
from waiting import wait_until
from world import World

__all__ = ["groups_go_with_their_world"]
pytestmark = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")

CARDS, CARD_GIB = 4, 80
STEP = 10
PRIORITIES = (-20, -10, 0, 0, 0, 5, 20, 50, 60, 60)
# Nobody is ended before it has run for so long, and this is the only setting that is not the default's.
MIN_RUN_SECONDS = 2.0
# Newcomers are of no known length, short enough for a gang to wait, or not.
SHORT, LONG = "4m", "6m"
# How long after a process has taken memory the arbiter knows of it.
SEEN_SECONDS = 2.0
# A program may have made a step before the move of its return was written.
RETURN_SECONDS = 0.5
PAUSED = "paused"
# The first fill every card, and two urgent ones come upon them: no storm without pauses. They are left alone.
SURE = CARDS + 2


@dataclass
class One:
    """A job of the storm, as it was asked for and what was done to it."""

    tag: str
    gpus: int
    memory_gib: int | None
    priority: int
    steps: int
    client: "subprocess.Popen[Any]"
    reniced: bool = False
    touched: bool = False
    restartable: bool = False
    ranks: int = 1
    limit: str | None = None
    killed_ns: int | None = None


class Span(NamedTuple):
    """A job computed: from, to, in which of its runs; `let_go` only to receive the signal that ends it."""

    begin: float
    end: float
    run: int
    let_go: bool


class Paused(NamedTuple):
    """A job was paused: when, why, in which of its runs."""

    at: float
    why: str
    run: int


@dataclass
class Storm:
    stage: Stage
    dice: random.Random
    # How long jobs are, so that the cards are as full whether jobs come fast or slowly.
    length: float = 1.0
    ones: list[One] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_hand: set[int] = field(default_factory=set)

    # Raging

    def start(self) -> None:
        dice, tag = self.dice, f"j{len(self.ones):03}"
        gpus = 2 if dice.random() < 0.1 else 1
        memory = None if dice.random() < 0.65 else dice.randint(1, 30)
        priority, steps = dice.choice(PRIORITIES), int(dice.randint(30, 250) * self.length)
        if len(self.ones) < SURE:
            gpus, memory, priority, steps = 1, None, 0 if len(self.ones) < CARDS else 50, 400
        kind = dice.choices(("", "-r", "gang", "met"), (50, 25, 20, 5))[0] if len(self.ones) >= SURE else ""
        if 0 < len(self.ones) < CARDS:
            kind = "-r"  # they fill their cards: one urgent job has one of them ended
        limit = "1s" if kind == "met" else dice.choice((None, SHORT, SHORT, LONG))
        take = (memory or dice.randint(1, 35)) * GIB
        if kind == "-r" and memory is None:
            take = dice.randint(50, 78) * GIB
        under = ["-g", str(gpus), "-p", str(priority), *(["-m", f"{memory}G"] if memory else [])]
        options = [f"steps={steps}", f"take={take}", "catch=15"]
        if kind == "-r":
            under += ["-r", "--signal", "TERM:20"]
            options += [f"state={self.stage.folder}/state-{tag}"]
        elif kind == "gang":
            options += ["ranks=2"]
        if limit is not None:
            under += ["-t", limit]
        client = self.stage.world.start(
            *under, "--", *self.stage.words(tag, *options, gate=False), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.done[kind or "plain"] += 1
        one = One(tag, gpus, memory, priority, steps, client)
        one.restartable, one.ranks, one.limit, one.touched = kind == "-r", 1 + (kind == "gang"), limit, kind == "met"
        self.ones.append(one)

    def job_of(self, one: One) -> int | None:
        rows = self.stage.world.rows("SELECT id FROM job WHERE pid = ? AND state <> 'ended'", one.client.pid)
        return rows[0]["id"] if rows else None

    def disturb(self) -> None:
        alive = [one for one in self.ones[SURE:] if one.client.poll() is None]
        if not alive:
            return
        one, what = self.dice.choice(alive), self.dice.choices(
            ("renice", "kill", "kill -9", "pause", "resume"), (8, 0.5, 0.5, 1, 2)
        )[0]  # fmt: skip
        job, run = self.job_of(one), self.stage.world.run
        if job is None:
            return
        self.done[what] += 1
        if what == "renice":
            one.reniced = True
            run("renice", str(self.dice.choice(PRIORITIES)), str(job))
        elif what == "kill":
            one.touched = True
            run("kill", str(job))
        elif what == "kill -9":
            one.touched = True
            if one.client.poll() is None:
                one.killed_ns = time.monotonic_ns()
                one.client.send_signal(signal.SIGKILL)
        elif what == "pause":
            self.by_hand.add(job)
            run("pause", str(job))
        elif self.by_hand:
            run("resume", str(self.dice.choice(sorted(self.by_hand))))

    def calm_down(self, within: float) -> None:
        for job in sorted(self.by_hand):
            self.stage.world.run("resume", str(job))
        alive: list[str] = []

        def over() -> bool:
            alive[:] = [one.tag for one in self.ones if one.client.poll() is None]
            return not alive

        try:
            wait_until(over, "everybody's turn to come", within)
        except AssertionError as failure:
            raise AssertionError(f"{failure}: {alive}\n{self.stage.said()}") from None
        wait_until(lambda: not self.stage.world.live(), "the arbiter to have seen all ends", 30)

    # Judging

    def prove(self) -> dict[str, int]:
        beats, world = self.stage.beats, self.stage.world
        rows = {row["pid"]: row for row in world.rows("SELECT * FROM job")}
        jobs = {rows[one.client.pid]["id"]: one for one in self.ones if one.client.pid in rows}
        faults = Faults()
        steps: dict[str, list[tuple[int, int]]] = defaultdict(list)
        starts: dict[str, dict[int, str]] = defaultdict(dict)
        attempt: dict[str, int] = {}
        for line in beats.lines():
            if line.what == "beat":
                steps[line.tag].append((int(line.value), line.at_ns))
            elif line.what == "attempt":
                attempt[line.tag] = int(line.value)
            elif line.what == "start":
                number = attempt.get(line.tag, 1)
                if number in starts[line.tag]:
                    faults.add([f"{line.tag}: run {number} was started twice"])
                starts[line.tag][number] = line.value
        for one in self.ones:
            numbers = [number for number, _ in steps[one.tag]]
            if numbers != list(range(1, len(numbers) + 1)):
                faults.add([f"{one.tag}: its steps are not one after the other: {numbers}"])
            if not one.touched and (one.client.returncode != 0 or len(numbers) != one.steps):
                faults.add(
                    [f"{one.tag}: left alone, but status {one.client.returncode} after {len(numbers)} of {one.steps} steps"]
                )
        faults.add(self.memory())
        spans, pauses = self.spans(jobs)
        faults.add(self.alone(jobs, spans, starts))
        faults.add(self.still(jobs, spans, steps))
        faults.add(self.bounded(jobs, pauses))
        faults.add(self.gangs(jobs, pauses))
        moves = read_moves(world.directory)
        again = {row["id"]: row["attempt"] for row in rows.values()}
        faults.add(taken_once([move for move in moves if again[move.job] == 1], []))
        for job, attempts in again.items():
            taken = sum(move.job == job and move.before == "granted" and move.after == "running" for move in moves)
            faults.add([f"job {job}: became running {taken} times in {attempts} runs"] if taken > attempts else [])
        evictions, found = self.evictions(jobs)
        faults.add(found)
        faults.add(
            f"{one.tag}: job is {rows[one.client.pid]['state']}"
            for one in jobs.values()
            if rows[one.client.pid]["state"] != "ended"
        )
        faults.add(self.left())
        faults.check("the storm")
        return {"pauses": sum(len(each) for each in pauses.values()), "evictions": evictions}

    def memory(self) -> list[str]:
        """What programs held together on a card; who was killed holds nothing any more."""
        killed = {one.tag: one.killed_ns for one in self.ones if one.killed_ns}
        gpus: dict[str, list[str]] = {}
        moments: list[tuple[int, str, str, int]] = []
        for line in self.stage.beats.lines():
            if line.what == "start":
                gpus[line.tag] = line.value.split(",")
            if line.what in ("take", "free"):
                size = int(line.value) if line.what == "take" else 0
                moments += [(line.at_ns, gpu, line.tag, size) for gpu in gpus[line.tag]]
                if size and line.tag in killed:
                    moments += [(killed[line.tag] or 0, gpu, line.tag, 0) for gpu in gpus[line.tag]]
        held: dict[str, dict[str, int]] = defaultdict(dict)
        faults = []
        for at, gpu, tag, size in sorted(moments):
            held[gpu][tag] = size
            if sum(held[gpu].values()) > CARD_GIB * GIB:
                faults.append(f"GPU {gpu}: more than there is at {at}: { {t: s // GIB for t, s in held[gpu].items() if s} }")
        return faults

    def spans(self, jobs: dict[int, One]) -> tuple[dict[int, list[Span]], dict[int, list[Paused]]]:
        """When each job computed, and when and why it was paused by rule, as gpurun's events say."""
        spans: dict[int, list[Span]] = defaultdict(list)
        pauses: dict[int, list[Paused]] = defaultdict(list)
        since: dict[int, tuple[float, bool]] = {}
        runs: dict[int, int] = defaultdict(lambda: 1)
        computing = ("running", "stopping")
        for row in self.stage.world.events():
            job = row["job_id"]
            if row["to_state"] in computing and row["from_state"] not in computing:
                since[job] = row["at"], row["to_state"] == "stopping"
            elif row["from_state"] in computing and row["to_state"] not in computing:
                begin, let_go = since.pop(job)
                spans[job].append(Span(begin, row["at"], runs[job], let_go))
            if row["to_state"] == PAUSED and row["why"].startswith("for job "):
                pauses[job].append(Paused(row["at"], row["why"], runs[job]))
            if row["to_state"] == "waiting" and row["from_state"] in (*computing, PAUSED):
                runs[job] += 1
        return spans, pauses

    def evictions(self, jobs: dict[int, One]) -> tuple[int, list[str]]:
        """How many jobs were ended for others by rule, and which of them without having run for as long as they may."""
        count, faults = 0, []
        since: dict[int, float] = {}
        for row in self.stage.world.events():
            job = row["job_id"]
            if row["from_state"] == "granted" and row["to_state"] == "running":
                since[job] = row["at"]
            if row["to_state"] != "stopping" or not row["why"].startswith("gives way to job "):
                continue
            count += 1
            one, newcomer = jobs[job], jobs.get(int(row["why"].split(" ")[4]))
            if not one.restartable:
                faults.append(f"job {job}: ended for another, but it may not be restarted")
            if row["at"] - since[job] < MIN_RUN_SECONDS:
                faults.append(f"job {job}: ended after {row['at'] - since[job]:.3f} s")
            if newcomer and not newcomer.reniced and not one.reniced and newcomer.priority < one.priority + STEP:
                faults.append(f"job {job} ({one.priority}): {row['why']} ({newcomer.priority})")
        return count, faults

    def alone(self, jobs: dict[int, One], spans: dict[int, list[Span]], starts: dict[str, dict[int, str]]) -> list[str]:
        """Nobody computed on the GPU of a computing whole-GPU job.

        One that was ended while it was paused is left out: it was let go to receive its signal, whoever was there.
        """
        faults = []
        by_gpu: dict[str, list[tuple[float, float, One]]] = defaultdict(list)
        for job, one in jobs.items():
            if one.touched or job in self.by_hand:
                continue
            for span in (span for span in spans[job] if not span.let_go):
                for gpu in starts[one.tag].get(span.run, "").split(","):
                    by_gpu[gpu].append((span.begin, span.end, one))
        by_gpu.pop("", None)
        for gpu, found in by_gpu.items():
            found.sort(key=lambda span: span[0])
            for number, (_, end, one) in enumerate(found):
                for begin, _, other in found[number + 1 :]:
                    if begin < end and (one.memory_gib is None or other.memory_gib is None):
                        faults.append(f"GPU {gpu}: {one.tag} and {other.tag} computed together for {end - begin:.3f} s")
        return faults

    def still(self, jobs: dict[int, One], spans: dict[int, list[Span]], steps: dict[str, list[tuple[int, int]]]) -> list[str]:
        """No step of a paused job."""
        offset = time.time() - time.monotonic()
        faults = []
        for job, one in jobs.items():
            for before, after in zip(spans[job], spans[job][1:], strict=False):
                wrong = [
                    number for number, at in steps[one.tag] if before.end < at / 1e9 + offset < after.begin - RETURN_SECONDS
                ]
                faults += [f"{one.tag}: step {number} while it was paused" for number in wrong]
        return faults

    def bounded(self, jobs: dict[int, One], pauses: dict[int, list[Paused]]) -> list[str]:
        """By rule at most once within five minutes, and only for a job a whole step above."""
        faults = []
        numbers = {job: one for job, one in jobs.items()}
        for job, found in pauses.items():
            if len({pause.run for pause in found}) < len(found):
                faults.append(f"job {job}: paused {len(found)} times: {found}")
            for pause in found:
                why = pause.why
                newcomer = numbers.get(int(why.split(" ")[2]))
                victim = numbers[job]
                if newcomer and not newcomer.reniced and not victim.reniced and newcomer.priority < victim.priority + STEP:
                    faults.append(f"job {job} ({victim.priority}): paused {why} ({newcomer.priority})")
        return faults

    def gangs(self, jobs: dict[int, One], pauses: dict[int, list[Paused]]) -> list[str]:
        """A gang is paused only for a job that is known to be short: once it is one, and has been seen to be."""
        offset, faults = time.time() - time.monotonic(), []
        for job, one in jobs.items():
            seen = next((line.at_ns / 1e9 + offset + SEEN_SECONDS for line in self.stage.beats.lines(one.tag, "take")), 0.0)
            for pause in pauses[job] if one.ranks > 1 else ():
                newcomer = jobs.get(int(pause.why.split(" ")[2]))
                if newcomer and newcomer.limit in (None, LONG) and pause.at > seen:
                    faults.append(f"job {job}, of several processes: paused {pause.why}, with a limit of {newcomer.limit}")
        return faults

    def left(self) -> list[str]:
        world, found = self.stage.world, list[str]()
        uuids = [f"GPU-sim-{world.folder.stat().st_ino:x}-{index}" for index in range(CARDS)]

        def empty() -> bool:
            found[:] = left_over(world.directory, uuids, idle=[world.arbiter_pid(), world.keeper_pid()])
            found.extend(f"group {group} is left" for group in groups_of(world))
            found.extend(f"pid {p.pid} stands still" for p in psutil.process_iter() if self.is_mine(p) and stands(p.pid))
            return not found

        with contextlib.suppress(AssertionError):
            wait_until(empty, "the world to be empty", 20)
        return found

    def is_mine(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return str(self.stage.folder) in " ".join(process.cmdline())
        return False


@pytest.mark.parametrize(
    ("count", "seconds"),
    [
        pytest.param(40, 15, id="40 jobs"),
        pytest.param(200, 120, id="200 jobs", marks=[pytest.mark.long, pytest.mark.limit(600)]),
    ],
)
def test_a_storm_leaves_everybody_as_if_it_had_not_been(
    make_world: Callable[..., World], tmp_path: Path, record_property: Callable[[str, object], None], count: int, seconds: int
) -> None:
    seed = int(os.environ.get("STORM_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"seed {seed} (STORM_SEED)")
    length = seconds / count / 0.375
    world = make_world(f"{CARDS}x{CARD_GIB}G")
    (world.directory / "settings.toml").write_text(f'min_run = "{MIN_RUN_SECONDS:g}s"\n')
    storm = Storm(Stage(world, tmp_path, PYTHON), random.Random(seed), length)
    assert storm.stage.world.run("true").returncode == 0
    begun = time.monotonic()
    deadline, moves = begun + seconds, 0

    def rages() -> bool:
        """One start or disturbance; jobs come evenly over the time, the disturbances between them."""
        nonlocal moves
        due = min(count, 1 + int((time.monotonic() - begun) / seconds * count * 1.25))
        if len(storm.ones) < due:
            storm.start()
        elif moves < 3 * len(storm.ones):
            moves += 1
            storm.disturb()
        return time.monotonic() >= deadline and len(storm.ones) >= count

    wait_until(rages, "the storm to be over", seconds * 4)
    storm.calm_down(within=60 + seconds)
    found = storm.prove()
    done = ", ".join(f"{number} {what}" for what, number in sorted(storm.done.items()))
    told = f"{found['pauses']} pauses, {found['evictions']} evictions of {count}"
    record_property("counted", told)
    print(f"{told} in {time.monotonic() - begun:.0f} s; {done}")
    assert found["pauses"] >= count // 20, "a storm without pauses proves nothing"
    assert found["evictions"] >= 1, "a storm without evictions proves nothing"
