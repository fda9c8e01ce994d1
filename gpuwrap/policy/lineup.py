"""Who stands in line, in which order, and which of them ask for the same.

In a long line few requests differ: equal ones share a `Shape`, and with it their verdict.
"""

from operator import attrgetter

from ..lifecycle import JobState
from ..model import GiveWay, Job, Rule, View
from .explaining import InLine
from .placement import Shape
from .ranks import Ranks
from .sweeps import SweepLimits


class LineUp:
    """The line of one view."""

    def __init__(self, view: View, ranks: Ranks, sweeps: SweepLimits) -> None:
        self._view, self._ranks, self._sweeps = view, ranks, sweeps
        self.shapes: dict[object, Shape] = {}
        self._by_request: dict[tuple[int, float | None, bool], Shape] = {}
        self.comes_anybody_back = False
        self.entries = self._entries()

    def _entries(self) -> list[InLine]:
        """Return those in line in order."""
        waiting, held, paused = JobState.WAITING, JobState.HELD, JobState.PAUSED
        line = [
            job
            for job in self._view.jobs
            if job.state is waiting or job.state is held or (job.state is paused and job.yields_to is not None)
        ]
        line.sort(key=attrgetter("id"))
        line.sort(key=attrgetter("turn"))
        if self._ranks.by_need:
            line.sort(key=self._ranks.rank)
        line.sort(key=attrgetter("priority"), reverse=True)
        line = self._ranks.standing.line(line)
        view, shapes, sweeps, ranks = self._view, self._by_request, self._sweeps, self._ranks
        passed_over = dict.fromkeys(view.absent, Rule.ABSENT) | dict.fromkeys(view.stopped, Rule.STOPPED)
        passed_over |= dict.fromkeys(view.after, Rule.AFTER)
        entries: list[InLine] = []
        comes_back = False
        for job in line:
            entry: Rule | Shape | None
            if job.state is paused:
                entry, comes_back = None, True
            elif job.state is held:
                entry = Rule.HELD
            elif job.id in passed_over:
                entry = passed_over[job.id]
            elif job.shares:
                entry = Rule.LEFTOVER
            elif sweeps.has_limits and sweeps.is_full(job):
                entry = Rule.SWEEP
            else:
                request, own = job.request, view.own.get(job.id)
                limit = ranks.limit_seconds(job) if ranks.by_need else request.time_limit_seconds
                entry = None if own else shapes.get((id(request), limit, job.stub))
                entry = entry or self.shape(job, limit, own or frozenset())
                entry.waiting += 1
                if sweeps.has_limits:
                    sweeps.wait(job, entry)
            entries.append((job, entry))
        if comes_back:
            entries.sort(key=lambda each: not self._goes_on_anyway(each))
        self.comes_anybody_back = comes_back
        return entries

    def _goes_on_anyway(self, in_line: InLine) -> bool:
        """Whether a job was paused for as long as it may be: nobody need give way for what it makes room for."""
        job, entry = in_line
        bound = self._view.yielding.get(job.id)
        return entry is None and bound is not None and bound.pause_seconds <= 0 and not bound.can_evict

    def shape(self, job: Job, limit_seconds: float | None, own: frozenset[int] = frozenset()) -> Shape:
        """Return what equal requests have in common; those are mostly one object."""
        request, by_need = job.request, self._ranks.by_need
        key = (
            request.gpus,
            request.memory_bytes,
            request.memory_percent,
            request.exclusive,
            limit_seconds,
            request.allowed,
            own,
            by_need and job.stub and request.give_way is GiveWay.REQUEUE,
        )
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = Shape.of(request, own)
            shape.limit_seconds = limit_seconds
        if not own:
            self._by_request[id(request), limit_seconds, job.stub] = shape
        return shape
