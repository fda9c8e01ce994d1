"""How many rows of a sweep may run at once (`--array 1-20%4`)."""

from collections.abc import Sequence

from ..lifecycle import STARTED, JobState
from ..model import Job
from .placement import Shape

_UNDER_WAY = (JobState.GRANTED, *STARTED)


class SweepLimits:
    """How many rows each sweep with a limit has under way, and which shapes its waiting ones have.

    Rows beyond the limit wait for nothing that a GPU could give: nothing is kept for them, and nobody makes way.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._under_way: dict[int, int] = {}
        self._waiting: dict[int, dict[int, tuple[Shape, int]]] = {}
        limited = [job for job in jobs if job.row is not None and job.row.limit is not None]
        self.has_limits = bool(limited)
        for job in limited:
            if job.row is not None and job.state in _UNDER_WAY:
                self._under_way[job.row.sweep] = self._under_way.get(job.row.sweep, 0) + 1

    def is_full(self, job: Job) -> bool:
        """Whether no row more of a job's sweep may start."""
        row = job.row
        return self.has_limits and row is not None and row.limit is not None and self._under_way.get(row.sweep, 0) >= row.limit

    def wait(self, job: Job, shape: Shape) -> None:
        """Note that a row waits."""
        if job.row is not None and job.row.limit is not None:
            self._count(job.row.sweep, shape, 1)

    def start(self, job: Job, shape: Shape) -> None:
        """Note that a job starts. Once its sweep is full, the rest of the rows no longer count as waiting for a GPU."""
        if job.row is None or job.row.limit is None:
            return
        sweep = job.row.sweep
        self._under_way[sweep] = self._under_way.get(sweep, 0) + 1
        self._count(sweep, shape, -1)
        if self.is_full(job):
            for each, count in self._waiting.pop(sweep).values():
                each.waiting -= count

    def _count(self, sweep: int, shape: Shape, more: int) -> None:
        waiting = self._waiting.setdefault(sweep, {})
        waiting[id(shape)] = shape, waiting.get(id(shape), (shape, 0))[1] + more
