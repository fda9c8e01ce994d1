"""`python -m gpuwrap.policy.replay TRACE.csv…`: recorded workloads through `plan`, and what came of it.

A trace has the columns job_id, submit_s, duration_s, gpus, perhaps user, and, if GPUs were shared, gpu_milli (thousandths of
one GPU); `# gpus=N` in a comment is the machine. Rough limits, who may give way and how much memory is held where pauses are
replayed hang on the job's name alone. `jain` is Jain's index of the owners' mean slowdowns; `start_in_range` is of those who
had to wait, of whom something was said when they came.
"""

import argparse
import csv
import json
import statistics
import zlib
from collections.abc import Sequence
from pathlib import Path

from ..model import GiveWay, Order, Request
from .replaying import CARD_BYTES, Preempt, Recorded, Replay, Rules

SLOWDOWN_FLOOR_SECONDS = 10.0
# A start is told right within a factor of two, give or take this.
FEW_SECONDS = 60.0
COLUMNS = [
    ("mean completion, h", "jct_mean", 3600),
    ("mean slowdown", "slowdown_mean", 1),
    ("longest wait, h", "longest_wait", 3600),
    ("used", "utilisation", 1),
    ("gave way, per job", "preemptions_per_job", 1),
    ("due", "due", 1),
    ("starts in range", "start_in_range", 1),
]
MINUTE, HOUR, DAY = 60, 3600, 86400
# People round their limits up to these.
ROUND = [5 * MINUTE, 15 * MINUTE, 30 * MINUTE, *(n * HOUR for n in (1, 2, 4, 8, 12, 24)), *(n * DAY for n in (2, 4, 7, 14, 30))]


def part(text: str) -> float:
    """Return a number from 0 to 1 that hangs on a text alone."""
    return (zlib.crc32(text.encode()) % 10007) / 10007


def rough(name: str, seconds: float) -> float:
    """Return the limit that somebody might give a job: up to five times too long, and round."""
    least = seconds * 5 ** part(name)
    return next((each for each in ROUND if each >= least), least)


def read(path: Path, limits: str, consent: float, preempt: Preempt) -> tuple[int, list[Recorded]]:
    """Return the number of GPUs and the jobs, in the order of their arrival."""
    lines = path.read_text().splitlines()
    gpus = next(int(line.partition("=")[2]) for line in lines if line.startswith("# gpus="))
    jobs = []
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        milli, name, seconds = int(row.get("gpu_milli") or 1000), row["job_id"], float(row["duration_s"])
        memory = CARD_BYTES * milli // 1000 if row["gpus"] == "1" and milli < 1000 else None
        limit = {"none": None, "exact": seconds, "rough": rough(name, seconds)}[limits]
        way = GiveWay.REQUEUE if preempt is not Preempt.NEVER and part(f"{name} consent") < consent else GiveWay.PAUSE
        request = Request(int(row["gpus"]), memory, give_way=way, time_limit_seconds=limit)
        held = int(CARD_BYTES * (0.1 + 0.9 * part(f"{name} memory"))) if preempt is Preempt.PAUSE and memory is None else None
        jobs.append(Recorded(float(row["submit_s"]), seconds, request, row.get("user") or "", held))
    return gpus, sorted(jobs, key=lambda job: job.submit_seconds)


def figures(gpus: int, replay: Replay) -> dict[str, float | int | None]:
    """Work out what came of it; times in seconds, None where there is nothing to tell."""
    courses = list(replay.courses.values())
    took, waits, slow = [], [], []
    by_owner: dict[str, list[float]] = {}
    for each in courses:
        seconds = (each.ended or 0.0) - each.recorded.submit_seconds
        took.append(seconds)
        waits.append((each.begun or 0.0) - each.recorded.submit_seconds)
        slow.append(max(1.0, seconds / max(each.recorded.duration_seconds, SLOWDOWN_FLOOR_SECONDS)))
        by_owner.setdefault(each.recorded.owner, []).append(slow[-1])
    owners = [statistics.mean(each) for each in by_owner.values()]
    told = [(each.told, wait) for each, wait in zip(courses, waits, strict=True) if each.told is not None]
    within = [wait for start, wait in told if 0.5 <= (wait + FEW_SECONDS) / (start.middle() + FEW_SECONDS) <= 2]
    held = [wait for start, wait in told if start.earliest <= wait <= start.latest]
    return {
        "jct_mean": statistics.mean(took),
        "jct_median": statistics.median(took),
        "jct_p99": _percentile(took),
        "wait_mean": statistics.mean(waits),
        "wait_p99": _percentile(waits),
        "slowdown_mean": statistics.mean(slow),
        "makespan": replay.makespan_seconds,
        "utilisation": replay.busy_seconds / gpus / replay.makespan_seconds if replay.makespan_seconds else 0.0,
        "jain": sum(owners) ** 2 / len(owners) / sum(each * each for each in owners),
        "preemptions_per_job": replay.preemptions / len(courses),
        "longest_wait": max(waits),
        "due": len(replay.due),
        "start_within_2": len(within) / len(told) if told else None,
        "start_in_range": len(held) / len(told) if told else None,
        "worst_user_slowdown": max(owners),
    }


def _percentile(seconds: Sequence[float]) -> float:
    return sorted(seconds)[int(0.99 * (len(seconds) - 1))]


def main(argv: Sequence[str] | None = None) -> None:
    """Replay each trace and print what came of it."""
    options = _parser().parse_args(argv)
    rules = Rules(options.order, options.preempt, options.cost, options.quantum)
    if not options.json:
        print(f"| trace | {' | '.join(head for head, _, _ in COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    for path in options.traces:
        gpus, jobs = read(path, options.limits, options.consent, options.preempt)
        gpus = options.gpus or gpus
        jobs = [each for each in jobs if each.request.gpus <= gpus]
        replay = Replay(gpus, jobs, rules)
        replay.run()
        found = figures(gpus, replay)
        if options.json:
            print(json.dumps({"trace": path.stem, "jobs": len(jobs), "gpus": gpus, **found}), flush=True)
        else:
            texts = ("-" if (value := found[key]) is None else f"{value / unit:.3g}" for _, key, unit in COLUMNS)
            print(f"| {path.stem} | {' | '.join(texts)} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpuwrap.policy.replay", description="Replay recorded jobs.")
    add = parser.add_argument
    add("traces", nargs="+", type=Path, metavar="TRACE.csv")
    add("--gpus", type=int, metavar="N", help="GPUs of the machine (default: what the trace says)")
    add("--limits", choices=["exact", "rough", "none"], default="none", help="the time limits that are given")
    add("--order", type=Order, choices=list(Order), default=Order.ARRIVAL, metavar="O", help="arrival, shortest or fair")
    add("--consent", type=float, default=1.0, metavar="SHARE", help="the part of the jobs that may give way to equals")
    add("--cost", type=float, default=60.0, metavar="S", help="what a restart costs")
    add("--quantum", type=float, default=600.0, metavar="S", help="how long a job runs at least before it gives way")
    add("--preempt", type=Preempt, choices=list(Preempt), default=Preempt.NEVER, metavar="HOW", help="requeue, pause or never")
    add("--json", action="store_true", help="an object for each trace, one a line")
    return parser


if __name__ == "__main__":
    main()
