"""Crowds: many gpuruns at once on four GPUs, some stopped, some killed; all is proven from the programs' own log.

The short forms run by default, the full counts behind the marker `long`.
"""

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from crowd import Crowd
from proof import GIB, MAYBE, NEVER, Asked, build_work
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]

UNIFIED = next(
    (path for path in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")) if (path / "cgroup.procs").exists()), None
)


@pytest.fixture
def crowd(make_world: MakeWorld, tmp_path: Path) -> Crowd:
    return Crowd(make_world("4x24G"), build_work(tmp_path), tmp_path)


def seeded(seed: int | None = None) -> random.Random:
    """A generator whose seed stands in the output of a failed test."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}")
    return random.Random(seed)


def block_all_gpus(crowd: Crowd, gate: Path, gpus: int = 4) -> None:
    """Have one job hold every GPU until the file `gate` exists."""
    crowd.start(Asked("gate", gpus=gpus, priority=50), f"until={gate}")
    crowd.until_started(1)


COUNTS = [
    pytest.param(60, id="60"),
    pytest.param(300, id="300", marks=[pytest.mark.long, pytest.mark.limit(600)]),
]


@pytest.mark.parametrize("count", COUNTS)
def test_a_crowd_runs_each_program_exactly_once_though_some_are_stopped_and_killed(crowd: Crowd, count: int) -> None:
    """Nothing is held back here: registration, grants, ends, stops and kills all happen at the same time."""
    dice = seeded()
    crowd.start_mixed(count, dice)
    for progress in sorted(dice.sample(range(1, count * 2 // 3), count // 6)):
        crowd.until_started(progress, within=300)
        waiting = crowd.waiting()
        if not waiting:
            continue
        tag = dice.choice(waiting)
        match dice.choice(["stop", "ctrl-z", "kill", "term", "int", "continue"]):
            case "stop":
                crowd.stop(tag)
            case "ctrl-z":
                crowd.stop(tag, signal.SIGTSTP)
            case "kill":
                crowd.kill(tag)
            case "term":
                crowd.kill(tag, signal.SIGTERM)
            case "int":
                crowd.kill(tag, signal.SIGINT)
            case "continue":
                crowd.cont()
    wait_until(lambda: set(crowd.alive()) <= set(crowd.stopped), "all but the stopped ones to end", 400)
    crowd.cont()
    crowd.finish()
    crowd.prove(f"a crowd of {count}")
    print(f"{crowd.started()} programs ran, {len(crowd.touched)} were stopped or killed")
    if count == 300:
        crowd.leaves_by_itself()


@pytest.mark.parametrize("count", COUNTS)
def test_jobs_killed_while_waiting_never_run_and_stopped_ones_keep_their_place(
    crowd: Crowd, tmp_path: Path, count: int
) -> None:
    """All stand in line first, so that it is certain who waits: killed programs never run, all others exactly once."""
    dice = seeded()
    gate = tmp_path / "open"
    block_all_gpus(crowd, gate)
    crowd.start_mixed(count, dice)
    tags = [tag for tag in crowd.asked if tag != "gate"]
    crowd.until_in_line(tags, within=120)
    chosen = dice.sample(tags, count // 3)
    killed, stopped = chosen[::2], chosen[1::2]
    for tag, number in zip(killed, itertools.cycle([signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])):
        crowd.kill(tag, number, NEVER)
    for tag, number in zip(stopped, itertools.cycle([signal.SIGSTOP, signal.SIGTSTP])):
        crowd.stop(tag, number)
    gate.touch()
    running = [tag for tag in crowd.asked if tag not in stopped]
    wait_until(lambda: not set(crowd.alive()) & set(running), "all but the stopped ones to end", 400)
    assert not [tag for tag in stopped if crowd.has_started(tag)], "a stopped client was given a GPU"
    crowd.cont()
    crowd.finish()
    crowd.prove(f"{len(killed)} killed and {len(stopped)} stopped of {count} in line")
    assert not any("Traceback" in line for line in crowd.complaints()), crowd.complaints()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP], ids=["stop", "ctrl-z"])
def test_a_stopped_job_is_first_again_when_it_goes_on(make_world: MakeWorld, tmp_path: Path, number: int) -> None:
    crowd = Crowd(make_world("1x24G"), build_work(tmp_path), tmp_path)
    gates = [tmp_path / f"open{i}" for i in range(2)]
    block_all_gpus(crowd, gates[0], gpus=1)
    for tag in ("first", "second", "third"):
        crowd.start(Asked(tag), *([f"until={gates[1]}"] if tag == "second" else []))
        crowd.until_in_line([tag])
    crowd.stop("first", number)
    stopped = psutil.Process(crowd.clients["first"].pid)
    wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, "the first to be stopped")
    gates[0].touch()
    crowd.until_started(2)
    assert crowd.has_started("second"), "the stopped first one was not passed over"
    assert crowd.world.job(2)["why"]["rule"] == "stopped"
    crowd.cont()
    wait_until(lambda: crowd.world.job(2)["why"]["rule"] != "stopped", "the first to say that it goes on")
    gates[1].touch()
    crowd.finish()
    crowd.prove("a stopped job")
    assert [life.tag for life in crowd.lives()] == ["gate", "second", "first", "third"]
    withdrawn = [event for event in crowd.world.events() if event["from_state"] == "granted" != event["to_state"]]
    assert {event["to_state"] for event in withdrawn} == {"running"}, "a GPU was offered to one that was stopped"


# Between offer and exec


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup whose processes can be frozen: unlike a stopped client a frozen one looks as if it waited."""
    if UNIFIED is None or not os.access(UNIFIED, os.W_OK):
        pytest.skip("no cgroup v2 tree that we may write to")
    group = UNIFIED / f"gpurun-test-{os.getpid()}"
    group.mkdir()
    yield group
    (group / "cgroup.kill").write_text("1")

    def gone() -> bool:
        with contextlib.suppress(OSError):
            group.rmdir()
        return not group.exists()

    wait_until(gone, "the test's cgroup to be empty")


def freeze(group: Path, frozen: bool) -> None:
    (group / "cgroup.freeze").write_text(str(int(frozen)))
    wait_until(lambda: f"frozen {int(frozen)}" in (group / "cgroup.events").read_text(), "the cgroup to freeze or thaw")


def test_a_client_killed_between_offer_and_exec_gives_its_gpu_back(crowd: Crowd, tmp_path: Path, freezer: Path) -> None:
    gate = tmp_path / "open"
    block_all_gpus(crowd, gate)
    killed = [f"killed{i}" for i in range(4)]
    for tag in killed:
        crowd.start(Asked(tag, priority=5))
    late = [f"late{i}" for i in range(8)]
    for tag in late:
        crowd.start(Asked(tag), "for=20")
    crowd.until_in_line(killed + late)
    for tag in killed:
        (freezer / "cgroup.procs").write_text(str(crowd.clients[tag].pid))
    freeze(freezer, True)
    gate.touch()
    pids = {crowd.clients[tag].pid for tag in killed}
    wait_until(lambda: {pid for pid, state in crowd.states().items() if state == "granted"} == pids, "four offers")
    begun = time.monotonic()
    for tag in killed:
        crowd.kill(tag, signal.SIGKILL, NEVER)
    crowd.finish()
    # An offer that is not taken is withdrawn after 5 s; a client that ended must not be waited for.
    assert time.monotonic() - begun < 4.5
    crowd.prove("four killed between offer and exec")


def test_an_offer_that_is_not_taken_is_withdrawn_and_the_job_keeps_its_place(
    crowd: Crowd, tmp_path: Path, freezer: Path
) -> None:
    gate = tmp_path / "open"
    block_all_gpus(crowd, gate)
    frozen = [f"frozen{i}" for i in range(2)]
    for tag in frozen:
        crowd.start(Asked(tag, gpus=2, priority=5))
    crowd.start(Asked("late", gpus=4), "for=20")
    crowd.until_in_line([*frozen, "late"])
    for tag in frozen:
        (freezer / "cgroup.procs").write_text(str(crowd.clients[tag].pid))
    freeze(freezer, True)
    crowd.touched |= set(frozen)
    gate.touch()
    wait_until(lambda: crowd.clients["late"].poll() is not None, "the late one to run on all four", 30)
    assert crowd.started() == 2
    freeze(freezer, False)
    crowd.finish()
    crowd.prove("two that could not take their offers")


@pytest.mark.parametrize("count", [12, pytest.param(100, marks=[pytest.mark.long, pytest.mark.limit(300)])])
def test_kills_at_the_very_moment_of_the_offer_lose_nothing(crowd: Crowd, count: int) -> None:
    """kill -9 as soon as the database says granted: some die before they take, some after, some as the program."""
    for number in range(count * 3):
        crowd.start(Asked(f"j{number:03}", memory=None if number % 2 else 6 * GIB), "for=30")
    tags = {client.pid: tag for tag, client in crowd.clients.items()}
    wait_until(crowd.world.database.exists, "the first client to make the database")
    hits = 0
    with contextlib.closing(sqlite3.connect(f"file:{crowd.world.database}?mode=ro", uri=True, timeout=10)) as database:
        # Without any pause between looks: an offer stands for a millisecond.
        for look in itertools.count():
            if hits == count or (look % 500 == 0 and not crowd.waiting()):
                break
            for (pid,) in database.execute("SELECT pid FROM job WHERE state = 'granted'").fetchall():
                if tags[pid] not in crowd.touched:
                    crowd.kill(tags[pid], signal.SIGKILL, MAYBE)
                    hits += 1
    crowd.finish()
    crowd.prove(f"{hits} killed at the moment of the offer")
    print(f"{hits} of {count * 3} killed at the moment of the offer, {crowd.started()} started")


# Killed by gpurun itself


def test_gpurun_kill_of_a_range_ends_waiting_and_running_ones(crowd: Crowd, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    block_all_gpus(crowd, gate)
    for number in range(20):
        crowd.start(Asked(f"j{number:02}"), f"until={gate}")
    tags = [f"j{number:02}" for number in range(20)]
    crowd.until_in_line(tags)
    by_tag = {asked.tag: job for job, asked in crowd.asked_by_job().items()}
    numbers = sorted(by_tag[tag] for tag in tags)
    assert numbers == list(range(numbers[0], numbers[0] + 20))
    done = crowd.world.run("kill", f"{numbers[0]}-{numbers[9]}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines() + done.stderr.splitlines()) == 10
    ended = [tag for tag in tags if by_tag[tag] <= numbers[9]]
    for tag in ended:
        crowd.touched.add(tag)
        crowd.asked[tag] = Asked(tag, starts=NEVER)
        crowd.expected_status[tag] = -signal.SIGTERM
    wait_until(lambda: not set(crowd.alive()) & set(ended), "ten cancelled clients to end")
    gate.touch()
    crowd.finish()
    crowd.prove("ten of twenty cancelled")


def run_bash(crowd: Crowd, script: str, **popen: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", "-c", script], env=crowd.world.env, capture_output=True, text=True, timeout=60, **popen)


def test_a_loop_of_background_jobs_in_a_shell_runs_each_once(crowd: Crowd) -> None:
    tags = [f"loop{number}" for number in range(10)]
    for tag in tags:
        crowd.asked[tag] = Asked(tag, memory=8 * GIB)
        crowd.expected_status[tag] = 0
    loop = f"for t in {' '.join(tags)}; do {crowd.world.command} -m 8G {crowd.work} {crowd.log} $t for=20 & done; wait"
    done = run_bash(crowd, loop)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    crowd.prove("a loop of ten in bash")
