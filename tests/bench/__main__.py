"""`python -m tests.bench`: what gpurun costs, as ratios within one run, against yardsticks of the same machine and moment.

Runs are interleaved (one of each in turn), so that a noisy machine disturbs both sides alike. Medians. Peers are used
where they are installed. Nothing here is a test: figures are printed, never judged.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .benchworld import BenchWorld

Row = tuple[str, str, str, str]


def main() -> None:
    """Run all measurements and print one table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds of each timing (40)")
    parser.add_argument("--only", help="run only the measurements whose name contains this")
    rounds, only = (options := parser.parse_args()).rounds, options.only
    rows: list[Row] = []
    for measure in (start, start_cold, hand_off, throughput, footprint, idle, recovery, listing):
        if only and only not in measure.__name__:
            continue
        with tempfile.TemporaryDirectory(prefix="gpurun-bench-") as folder, BenchWorld(Path(folder)) as world:
            rows += measure(world, rounds)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def milliseconds(seconds: list[float]) -> str:
    """A median as text."""
    return f"{statistics.median(seconds) * 1000:.1f} ms"


def ratio(ours: list[float], others: list[float]) -> str:
    """Of the medians, as text."""
    return f"{statistics.median(ours) / statistics.median(others):.2f} ×"


def start(world: BenchWorld, rounds: int) -> list[Row]:
    """From the call of gpurun to the end of `true`, arbiter up, over `python -c pass` of the same interpreter."""
    true = shutil.which("true") or "/bin/true"
    world.run(true)
    ours, floor, bare = [], [], []
    for _ in range(rounds):
        floor.append(timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
        ours.append(timed(lambda: world.run(true)))
        bare.append(timed(lambda: subprocess.run([true], check=True)))
    return [("start, arbiter up, over python -c pass", milliseconds(ours), milliseconds(floor), ratio(ours, floor))]


def start_cold(world: BenchWorld, rounds: int) -> list[Row]:
    """The same when the arbiter must be summoned."""
    taken = []
    for _ in range(max(5, rounds // 5)):
        taken.append(timed(lambda: world.run("true")))
        world.end_arbiter()
    return [("start, arbiter to be summoned", milliseconds(taken), "", "")]


def hand_off(world: BenchWorld, rounds: int) -> list[Row]:
    """From the end of one job to the first instruction of the next, over flock(1) doing the same; with 1 and 1,000 waiting."""
    ours_one, flock = [], []
    for _ in range(max(5, 2 * rounds)):  # each takes 3 ms, and a moment's noise half as much again
        ours_one.append(world.hand_off(waiting=1))
        flock.append(flock_hand_off())
    beside, many = [], []
    with tempfile.TemporaryDirectory(prefix="gpurun-bench-") as folder, BenchWorld(Path(folder)) as crowd:
        crowd.block()
        crowd.wait_behind(1000)
        for _ in range(max(5, rounds // 2)):
            beside.append(world.hand_off(waiting=1))
            many += crowd.hand_offs(1)
    return [
        ("hand-off, over flock", milliseconds(ours_one), milliseconds(flock), ratio(ours_one, flock)),
        ("hand-off with 1,000 waiting, over 1", milliseconds(many), milliseconds(beside), ratio(many, beside)),
    ]


def flock_hand_off() -> float:
    """The same hand-off through flock(1): the holder ends, the waiter writes down when it began."""
    with tempfile.TemporaryDirectory() as folder:
        lock, stamp = f"{folder}/lock", f"{folder}/stamp"
        clock = BenchWorld.clock_program()
        holder = subprocess.Popen(["flock", lock, clock, "end", stamp, "0.3"])
        while not os.path.exists(stamp):
            time.sleep(0.005)
        waiter = subprocess.Popen(["flock", lock, clock, "begin", stamp])
        holder.wait()
        waiter.wait()
        return BenchWorld.read_gap(stamp)


def throughput(world: BenchWorld, _rounds: int) -> list[Row]:
    """200 no-op jobs through 4 slots, over starting 200 interpreters that exec the same."""
    begun = time.perf_counter()
    world.crowd(200, "true")
    ours = 200 / (time.perf_counter() - begun)
    begun = time.perf_counter()
    script = f"for i in $(seq 200); do {sys.executable} -I -S -c 'import os; os.execv(\"/bin/true\", [\"true\"])' & done; wait"
    subprocess.run(["bash", "-c", script], check=True)
    floor = 200 / (time.perf_counter() - begun)
    return [("200 no-op jobs, 4 slots, over python exec", f"{ours:.0f} /s", f"{floor:.0f} /s", f"{ours / floor:.2f} ×")]


def footprint(world: BenchWorld, _rounds: int) -> list[Row]:
    """PSS of a waiting gpurun, and of arbiter and keeper with 4 jobs running and 10 waiting."""
    for _ in range(14):
        world.start("sleep", "60")
    world.await_states(running=4, waiting=10)
    waiting = statistics.median(world.pss(pid) for pid in world.pids("waiting"))
    arbiter, keeper = world.pss(world.arbiter_pid()), world.pss(world.keeper_pid())
    return [
        ("PSS of a waiting gpurun", f"{waiting:.1f} MiB", "", ""),
        ("PSS of arbiter + keeper, 10 waiting", f"{arbiter:.1f} + {keeper:.1f} MiB", "", f"{arbiter + keeper:.1f} MiB"),
    ]


def idle(world: BenchWorld, _rounds: int) -> list[Row]:
    """CPU time of the arbiter and all waiting clients together, a second of 10 running and 100 waiting."""
    for _ in range(10):
        world.start("-m", "1G", "sleep", "120")
    world.await_states(running=10, waiting=0)
    for _ in range(100):
        world.start("-g", "4", "sleep", "120")
    world.await_states(running=10, waiting=100)
    time.sleep(2)
    before = world.cpu_seconds()
    time.sleep(20)
    spent = (world.cpu_seconds() - before) / 20
    return [("idle CPU, 10 running, 100 waiting", f"{spent * 1000:.2f} ms/s", "", "")]


def recovery(world: BenchWorld, _rounds: int) -> list[Row]:
    """From kill -9 of the arbiter to the start of a job asked for at that moment."""
    taken = []
    for _ in range(5):
        world.run("true")
        world.kill_arbiter()
        taken.append(timed(lambda: world.run("true")))
        time.sleep(0.2)
        world.end_arbiter()
    return [("arbiter killed → next grant", milliseconds(taken), "", "")]


def listing(world: BenchWorld, rounds: int) -> list[Row]:
    """`gpurun ls` with 2,000 jobs of which no two are alike, over `python -c pass`; 150 ms are its budget."""
    world.fill(2000)
    taken, floor = [], []
    for _ in range(max(5, rounds // 4)):
        floor.append(timed(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
        taken.append(timed(lambda: world.run("ls", stdout=subprocess.DEVNULL)))
    best = f"best {min(taken) * 1000:.0f} ms of 150"
    return [("gpurun ls, 2,000 distinct jobs", f"{milliseconds(taken)} ({best})", milliseconds(floor), ratio(taken, floor))]


if __name__ == "__main__":
    main()
