"""Why each job that stays in line stays there: worked out from a finished plan, and only for those that are asked about."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from ..model import Job, Obstacle, Reason, Rule
from .placement import Room, Shape
from .victims import Spared, Victims

# Which rule is told first when a job could not start even with all our jobs gone.
_NOT_OURS = (
    Rule.FOREIGN,
    Rule.CLAIMED,
    Rule.UNEXPLAINED,
    Rule.UNHEALTHY,
    Rule.UNKNOWN,
    Rule.DRAINED,
    Rule.COMPUTE_MODE,
    Rule.JOBS_PER_GPU,
    Rule.MEMORY,
)

# A job in line with its shape, or with the rule by which it is passed over; a paused one waits for its own place: None.
InLine = tuple[Job, Rule | Shape | None]


class Decided(Protocol):
    """What is looked at of a plan: what it kept for whom, who leaves for whom, and what it could have done."""

    rooms: list[Room]
    kept: dict[str, int]
    kept_for: int | None
    leaving: dict[int, frozenset[int]]
    victims: Victims

    def outranks_somebody(self, job: Job) -> bool:
        """Whether somebody who could give way, or does, stands a step below."""

    def is_sweep_full(self, job: Job) -> bool:
        """Whether no row more of a job's sweep may start."""

    def is_over_cap(self, job: Job) -> bool:
        """Whether a job's owner may have no more at this moment."""

    def possible(self, shape: Shape) -> list[Room]:
        """Return the GPUs that a shape could have with all our jobs gone."""

    def spared(self, job: Job, shape: Shape) -> Spared:
        """Say who is left alone because of what is kept for others."""

    def slips(self, shape: Shape) -> bool:
        """Whether jobs of a shape end before the kept GPUs can all be had."""


class Reasons(Mapping[int, Reason]):
    """The reasons of those that stay in line, in order, each made when it is asked for."""

    def __init__(self, made: Decided, staying: dict[int, InLine], rest: Iterable[InLine] = ()) -> None:
        """`staying` are those that the walk came by, `rest` those at which it need not look."""
        self._pass, self._staying, self._rest = made, staying, rest
        self._places: dict[int, int] = {}
        self._verdicts: dict[tuple[object, ...], tuple[Rule, tuple[Obstacle, ...]]] = {}
        self._steps: list[int] = []
        self._kept: dict[int, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._all()

    def __getitem__(self, job_id: int) -> Reason:
        job, entry = self._all()[job_id]
        if not self._places:
            self._look_once()
        request, place = job.request, self._places[job_id]
        if isinstance(entry, Rule):
            own = tuple(Obstacle(share.index, entry, (job_id,)) for share in job.shares)
            return Reason(entry, place, request.gpus, request.memory_bytes, own)
        assert entry is not None, "paused jobs are not told why"
        rule, obstacles = self._verdict(entry)
        made = self._pass
        leaving = tuple(sorted(made.leaving.get(job_id, ())))
        ask = not leaving and made.outranks_somebody(job)
        why_not = made.victims.why_not(job, entry, made.possible(entry), made.spared(job, entry), entry.own) if ask else ()
        kept = self._kept.get(job_id, ())
        behind = None
        if kept:
            obstacles = tuple(each for each in obstacles if each.gpu_index not in kept or each.rule is not Rule.BEHIND)
        elif rule is Rule.BEHIND:
            behind = next((each.job_ids[0] for each in obstacles if each.rule is Rule.BEHIND), made.kept_for)
        return Reason(rule, place, request.gpus, request.memory_bytes, obstacles, behind, kept, leaving, why_not)

    def _all(self) -> dict[int, InLine]:
        """Return everybody who stays, with why."""
        for job, entry in self._rest:
            if isinstance(entry, Shape) and self._pass.is_sweep_full(job):
                entry = Rule.SWEEP
            elif isinstance(entry, Shape) and self._pass.is_over_cap(job):
                entry = Rule.CAP
            self._staying[job.id] = job, entry
        self._rest = ()
        return self._staying

    def _look_once(self) -> None:
        """Look at what the reasons of all have in common."""
        self._places = {each: place for place, each in enumerate(self._all(), 1)}
        self._steps = sorted({step for room in self._pass.rooms for step in room.steps()})
        for room in self._pass.rooms:
            if room.gpu.uuid in self._pass.kept:
                job_id = self._pass.kept[room.gpu.uuid]
                self._kept[job_id] = (*self._kept.get(job_id, ()), room.gpu.index)

    def _verdict(self, shape: Shape) -> tuple[Rule, tuple[Obstacle, ...]]:
        """Return the rule and the obstacles: the same ones for all sizes between two steps of the rooms.

        So of a thousand sizes a few are looked at. What a process goes on with moves them for it alone.
        """
        size = shape.bytes if shape.bytes is None or shape.own else bisect_left(self._steps, shape.bytes)
        key = (size, shape.gpus, shape.percent, shape.whole, shape.allowed, shape.own, self._pass.slips(shape))
        verdict = self._verdicts.get(key)
        if verdict is None:
            obstacles = self._obstacles(shape)
            verdict = self._verdicts[key] = self._rule(shape, obstacles), obstacles
        return verdict

    def _obstacles(self, shape: Shape) -> tuple[Obstacle, ...]:
        """Say what stands on each GPU that a shape allows; one that it could have, were it not kept, is BEHIND."""
        found = []
        slips = self._pass.slips(shape)
        for room in self._pass.rooms:
            if not shape.allows(room.gpu):
                continue
            obstacle = room.obstacle(shape)
            if obstacle is None and not slips and room.gpu.uuid in self._pass.kept:
                obstacle = Obstacle(room.gpu.index, Rule.BEHIND, (self._pass.kept[room.gpu.uuid],))
            if obstacle is not None:
                found.append(obstacle)
        return tuple(found)

    def _rule(self, shape: Shape, obstacles: tuple[Obstacle, ...]) -> Rule:
        """Return the rule that matters most to a shape that cannot start."""
        blocked = [room for room in self._pass.rooms if not room.fits(shape)]
        if len(self._pass.rooms) - len(blocked) >= shape.gpus:
            return Rule.BEHIND
        rules = {obstacle.gpu_index: obstacle.rule for obstacle in obstacles}
        possible = self._pass.possible(shape)
        if len(possible) < shape.gpus:
            lasting = {found.rule for room in self._pass.rooms if shape.allows(room.gpu) and (found := room.lasting(shape))}
            # None of them: it may use fewer GPUs than it wants.
            return next((rule for rule in _NOT_OURS if rule in lasting), Rule.UNHEALTHY)
        awaited = [room for room in possible if room in blocked]
        alike = {rules[room.gpu.index] for room in awaited}
        if len(alike) == 1:  # whichever can be had first
            return alike.pop()
        return rules[min(room.frees_mono(shape) for room in awaited)[2]]
