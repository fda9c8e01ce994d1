"""When jobs in line are expected to start: a range, or nothing.

The line is laid out on the GPUs in its order, once as if everybody took as little as may be expected, and once as if
everybody took as much. Whoever comes later and passes is not known yet: the range is stretched by what that was worth on
recorded work. Where nothing is known of somebody before it, nothing is said of a job.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heapreplace
from math import sqrt
from typing import NamedTuple

from ..lifecycle import JobState
from ..model import Expected, Job, View
from .ranks import GIVING_PART, Ranks

EARLIER, LATER = 0.5, 2.0
# Nothing is told more exactly than this.
LEAST_SECONDS = 60.0
_COMPUTING = (JobState.GRANTED, JobState.RUNNING, JobState.STOPPING)


class Start(NamedTuple):
    """Between how many seconds from now a job is expected to start."""

    earliest: float
    latest: float

    def middle(self) -> float:
        """Return the one number that stands for the range."""
        return sqrt(max(1.0, self.earliest) * max(1.0, self.latest))


def expected_starts(view: View, now_mono: float) -> dict[int, Start]:
    """Say of each waiting job between when it is expected to start; those of whom nothing can be said are left out."""
    ranks = Ranks(view, now_mono)
    # Who may give way has run for a while before.
    moment = LEAST_SECONDS + (view.bounds.min_run_among_equals_seconds if view.yielding and ranks.by_need else 0.0)
    line = _line(view, ranks)
    early, late = (_laid_out(view, line, seconds) for seconds in (lambda each: each.low, lambda each: each.high))
    return {
        job_id: Start(EARLIER * min(seconds, late[job_id]), moment + LATER * max(seconds, late[job_id]))
        for job_id, seconds in early.items()
        if job_id in late
    }


def _line(view: View, ranks: Ranks) -> list[tuple[Job, bool]]:
    """Return those who want GPUs, in order, and whether each waits: who computes and may give way stands in line too."""
    found = []
    for job in view.jobs:
        waits = job.state is JobState.WAITING
        bound = view.yielding.get(job.id)
        gives_way = ranks.by_need and job.state is JobState.RUNNING and bound is not None and bound.can_evict
        if waits or gives_way or job.state is JobState.PAUSED:
            rank = ranks.rank(job) * (1.0 if waits else GIVING_PART)
            found.append(((-job.priority, rank if ranks.by_need else 0.0, job.turn, job.id), job, waits))
    found.sort(key=lambda each: each[0])
    if not ranks.standing.apart:
        return [(job, waits) for _, job, waits in found]
    waits_by_id = {job.id: waits for _, job, waits in found}
    return [(job, waits_by_id[job.id]) for job in ranks.standing.line([job for _, job, _ in found])]


def _laid_out(view: View, line: Sequence[tuple[Job, bool]], seconds: Callable[[Expected], float]) -> dict[int, float]:
    """Return in how many seconds each waiting job would start if all took as long as `seconds` says."""
    free = {gpu.uuid: 0.0 for gpu in view.gpus}
    size = {gpu.uuid: gpu.total_bytes or 1 for gpu in view.gpus}
    in_line = {job.id for job, _ in line}
    for job in view.jobs:
        if job.state not in _COMPUTING or job.id in in_line:
            continue
        expected = view.expected.get(job.id)
        if expected is None:
            return {}
        for share in job.shares:
            if share.uuid in free:
                free[share.uuid] += seconds(expected) * (1.0 if share.whole else share.bytes / size[share.uuid])
    times, card = list(free.values()), max(size.values(), default=1)
    heapify(times)
    found: dict[int, float] = {}
    for job, waits in line:
        expected, count = view.expected.get(job.id), job.request.gpus
        if expected is None or count > len(times):
            continue
        part = 1.0 if not job.request.shares else min(1.0, (job.request.memory_bytes or card) / card)
        if count == 1:
            start = times[0]
            heapreplace(times, start + part * seconds(expected))
        elif count:
            times.sort()
            start = times[count - 1]
            times[:count] = [start + seconds(expected)] * count
            heapify(times)
        else:
            start = 0.0
        if waits:
            found[job.id] = start
    return found
