"""`python -m tests.bench.replay TRACE.csv…`: recorded workloads through `plan`, with no clock but the trace's.

A trace has the columns job_id, submit_s, duration_s, gpus and, if GPUs were shared, gpu_milli (thousandths of one GPU);
`# gpus=N` in a comment is the machine. What is replayed is the default: order, reservation and placement; nobody gives
way. At every event it is checked that no GPU is promised twice and that a machine with a free GPU leaves nobody waiting
whom it could serve without delaying the first in line. Printed are mean completion time, mean bounded slowdown (10 s), the
longest wait, the share of GPU time used, and what planning cost.
"""

import argparse
import csv
import heapq
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Gpu, Grant, Identity, Job, Request, View
from gpuwrap.policy.plan import plan
from gpuwrap.units import GIB

CARD_BYTES = 80 * GIB
SLOWDOWN_FLOOR_SECONDS = 10.0
SAMPLED_EVENTS = 50  # how often a plan is made again to see that it has nothing left to do


@dataclass(frozen=True, slots=True)
class Recorded:
    """One job of a trace."""

    submit_seconds: float
    duration_seconds: float
    request: Request


def read(path: Path, limit_factor: float | None = None) -> tuple[int, list[Recorded]]:
    """Return the number of GPUs and the jobs, in the order of their arrival."""
    lines = path.read_text().splitlines()
    gpus = next(int(line.partition("=")[2]) for line in lines if line.startswith("# gpus="))
    jobs = []
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        milli = int(row.get("gpu_milli") or 1000)
        memory = CARD_BYTES * milli // 1000 if row["gpus"] == "1" and milli < 1000 else None
        seconds = float(row["duration_s"])
        limit = seconds * limit_factor if limit_factor else None
        request = Request(int(row["gpus"]), memory, time_limit_seconds=limit)
        jobs.append(Recorded(float(row["submit_s"]), seconds, request))
    return gpus, sorted(jobs, key=lambda job: job.submit_seconds)


class Replay:
    """One run over one trace."""

    def __init__(self, gpus: int, jobs: list[Recorded]) -> None:
        self._cards = tuple(Gpu(f"GPU-{index}", index, "card", CARD_BYTES, CARD_BYTES) for index in range(gpus))
        self._recorded = jobs
        self._live: dict[int, Job] = {}
        self._ends: list[tuple[float, int]] = []
        self.waited: dict[int, float] = {}
        self.planning_seconds: list[float] = []
        self.longest_line = 0
        self.busy_seconds = 0.0
        self.makespan_seconds = 0.0

    def run(self) -> None:
        """Play the trace to its end. Raises AssertionError where a promise is broken."""
        for number, (now, arrived) in enumerate(self._events()):
            for job in arrived:
                self._live[job.id] = job
            self._plan(now)
            if number % SAMPLED_EVENTS == 0:
                self._check(now)
            self.makespan_seconds = now

    def _events(self) -> Iterator[tuple[float, list[Job]]]:
        """Yield each moment at which jobs arrive or have ended."""
        coming = 0
        while coming < len(self._recorded) or self._ends:
            arrives = self._recorded[coming].submit_seconds if coming < len(self._recorded) else float("inf")
            now = min(arrives, self._ends[0][0] if self._ends else float("inf"))
            while self._ends and self._ends[0][0] <= now:
                del self._live[heapq.heappop(self._ends)[1]]
            arrived = []
            while coming < len(self._recorded) and self._recorded[coming].submit_seconds <= now:
                coming += 1
                arrived.append(self._job(coming, self._recorded[coming - 1]))
            yield now, arrived

    def _job(self, number: int, recorded: Recorded) -> Job:
        who = Identity("boot", 1, number, number)
        return Job(
            number, str(number), None, "anna", JobState.WAITING, 0, recorded.request, who, (b"python",), b"/",
            recorded.submit_seconds,
        )  # fmt: skip

    def _view(self) -> View:
        return View(self._cards, tuple(self._live.values()))

    def _plan(self, now: float) -> None:
        view = self._view()
        self.longest_line = max(self.longest_line, sum(job.state is JobState.WAITING for job in view.jobs))
        begun = time.perf_counter()
        made = plan(view, now)
        self.planning_seconds.append(time.perf_counter() - begun)
        for action in made.actions:
            assert isinstance(action, Grant), action
            job, recorded = self._live[action.job_id], self._recorded[action.job_id - 1]
            assert len(action.shares) == recorded.request.gpus
            self._live[job.id] = replace(
                job, state=JobState.RUNNING, shares=action.shares, granted_mono=now, started_mono=now
            )
            heapq.heappush(self._ends, (now + recorded.duration_seconds, job.id))
            self.waited[job.id] = now - recorded.submit_seconds
            part = action.shares[0].bytes / CARD_BYTES if recorded.request.shares else 1.0
            self.busy_seconds += part * recorded.request.gpus * recorded.duration_seconds
        if made.actions:
            self._promised_once()

    def _promised_once(self) -> None:
        promised: dict[str, list[tuple[int, bool]]] = {}
        for job in self._live.values():
            for share in job.shares:
                promised.setdefault(share.uuid, []).append((share.bytes, share.whole))
        for uuid, shares in promised.items():
            assert sum(size for size, _ in shares) <= CARD_BYTES, uuid
            assert len(shares) == 1 or not any(whole for _, whole in shares), uuid

    def _check(self, now: float) -> None:
        again = plan(self._view(), now)
        assert not again.actions, "a plan made again after it was applied has actions"
        waiting = [job for job in self._live.values() if job.state is JobState.WAITING]
        if waiting:
            used = {share.uuid for job in self._live.values() for share in job.shares}
            free = len(self._cards) - len(used)
            first = min(waiting, key=lambda job: job.id)
            assert first.request.gpus > free, f"{first.id} could start: {free} GPUs are free"


def main() -> None:
    """Replay each trace and print a line for it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.replay")
    parser.add_argument("traces", nargs="+", type=Path)
    parser.add_argument("--limits", type=float, metavar="FACTOR", help="give each job a time limit of so often its duration")
    options = parser.parse_args()
    heads = ("jobs", "mean completion, h", "mean slowdown", "longest wait, h", "used", "longest line", "plan, ms (most)")
    print("| trace | " + " | ".join(heads) + " |\n|---|" + "---:|" * len(heads))
    for path in options.traces:
        gpus, jobs = read(path, options.limits)
        replay = Replay(gpus, jobs)
        replay.run()
        print("| " + " | ".join((path.stem, *figures(gpus, jobs, replay))) + " |")
        sys.stdout.flush()


def figures(gpus: int, jobs: list[Recorded], replay: Replay) -> Iterator[str]:
    """The columns of one line."""
    waits = [replay.waited[number] for number in range(1, len(jobs) + 1)]
    took = [wait + job.duration_seconds for wait, job in zip(waits, jobs, strict=True)]
    slower = [max(1.0, each / max(job.duration_seconds, SLOWDOWN_FLOOR_SECONDS)) for each, job in zip(took, jobs, strict=True)]
    yield str(len(jobs))
    yield f"{statistics.mean(took) / 3600:.2f}"
    yield f"{statistics.mean(slower):.1f}"
    yield f"{max(waits) / 3600:.1f}"
    yield f"{replay.busy_seconds / gpus / replay.makespan_seconds:.0%}"
    yield str(replay.longest_line)
    yield f"{statistics.median(replay.planning_seconds) * 1000:.2f} ({max(replay.planning_seconds) * 1000:.1f})"


if __name__ == "__main__":
    main()
