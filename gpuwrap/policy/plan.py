"""What the arbiter should do next, decided from a view alone: no clock, no I/O, no randomness.

1. Within one plan resources only shrink, so equal requests share one verdict: once one fails, all later ones fail.
2. Space is kept for one job only, the first in line that cannot start although it could with our other jobs gone.
   Others pass it on other GPUs, or with a time limit that ends before the kept GPUs can all be had.
3. A plan made again after it was applied has no actions.
4. Reasons describe the machine as it is once the plan is applied. They are worked out when asked for: a queue of
   thousands is planned at each wake, but few of its reasons are read.
"""

from collections.abc import Callable, Iterator, Mapping
from math import inf
from operator import attrgetter

from ..lifecycle import JobState
from ..model import Grant, Job, Obstacle, Plan, Reason, Request, Rule, Share, View
from .placement import Holder, Room, Shape, choose

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

# A job in line with its shape, or with the rule by which it is passed over.
InLine = tuple[Job, Rule | Shape]


def plan(view: View, now_at: float) -> Plan:
    """Say what to do now and why each job that stays in line stays there; no actions mean that the machine is settled.

    `now_at` is wall-clock time, as the times in `Job`: it is compared with the ends that time limits set.
    """
    return _Pass(view, now_at).run()


def ends_at(job: Job, now_at: float) -> float:
    """Return by when a job that holds GPUs ends at its time limit; infinite if nobody can say."""
    limit = job.request.time_limit_seconds
    if limit is None or job.state in (JobState.PAUSED, JobState.SUSPENDED, JobState.ENDED):
        return inf
    begun = job.started_at if job.started_at is not None else job.granted_at
    return max(now_at, (now_at if begun is None else begun) + limit)


class _Pass:
    """One walk along the line. Afterwards it is never changed and explains what it decided."""

    def __init__(self, view: View, now_at: float) -> None:
        self._view, self._now_at = view, now_at
        self.rooms = [Room(gpu, view.bounds) for gpu in sorted(view.gpus, key=attrgetter("index"))]
        self._by_uuid = {room.gpu.uuid: room for room in self.rooms}
        self._shapes: dict[object, Shape] = {}
        self._whole_shapes: list[Shape] | None = None
        self._possible: dict[int, list[Room]] = {}
        self.kept: dict[str, int] = {}
        self.kept_for: int | None = None
        self._kept_until = inf
        self._take_shares()
        self._find_open()

    def run(self) -> Plan:
        """Walk along the line once."""
        grants: list[Grant] = []
        staying: dict[int, InLine] = {}
        for in_line in self._line():
            job, entry = in_line
            if not isinstance(entry, Rule) and not entry.failed:
                shares = self._place(job, entry)
                if shares is not None:
                    grants.append(Grant(job.id, shares))
                    entry.waiting -= 1
                    continue
                self._cannot_start(job, entry)
            staying[job.id] = in_line
        return Plan(tuple(grants), _Reasons(self, staying), self.kept)

    def _take_shares(self) -> None:
        paused = (JobState.PAUSED, JobState.SUSPENDED)
        for job in self._view.jobs:
            if not job.shares:
                continue
            is_paused, ended = job.state in paused, job.state is JobState.ENDED
            end = ends_at(job, self._now_at)
            for share in job.shares:
                room = self._by_uuid.get(share.uuid)
                if room is not None:
                    room.hold(Holder(job.id, share.bytes, share.whole, is_paused, ended, end))
        for room in self.rooms:
            room.settle()

    def _line(self) -> list[InLine]:
        """Return those in line in order."""
        waiting, held = JobState.WAITING, JobState.HELD
        line = [job for job in self._view.jobs if job.state is waiting or job.state is held]
        line.sort(key=attrgetter("id"))
        line.sort(key=attrgetter("priority"), reverse=True)
        stopped, absent = self._view.stopped, self._view.absent
        entries: list[InLine] = []
        for job in line:
            entry: Rule | Shape
            if job.state is held:
                entry = Rule.HELD
            elif job.id in stopped:
                entry = Rule.STOPPED
            elif job.id in absent:
                entry = Rule.ABSENT
            elif job.shares:
                entry = Rule.LEFTOVER
            else:
                entry = self._shape(job.request)
                entry.waiting += 1
            entries.append((job, entry))
        return entries

    def _shape(self, request: Request) -> Shape:
        # A tuple of plain values: hashing a Request hashes its enum, which is Python code.
        key = (
            request.gpus,
            request.memory_bytes,
            request.memory_percent,
            request.exclusive,
            request.time_limit_seconds,
            request.allowed,
        )
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape.of(request)
        return shape

    def _place(self, job: Job, shape: Shape) -> tuple[Share, ...] | None:
        """Take GPUs for a job; None if they cannot be had now."""
        if shape.gpus == 0:
            return ()
        slips = self._slips(shape)
        if not slips and not self._promising(shape):
            return None
        rooms = [room for room in self._open if room.fits(shape)]
        if slips and len(rooms) < shape.gpus:
            rooms += [room for room in self._open_kept if room.fits(shape)]
        if len(rooms) < shape.gpus:
            return None
        chosen = choose(rooms, shape, self._wanted_whole(shape))
        shares = tuple(room.share(shape) for room in chosen)
        end = inf if shape.limit_seconds is None else self._now_at + shape.limit_seconds
        for room, share in zip(chosen, shares, strict=True):
            room.hold(Holder(job.id, share.bytes, share.whole, ends_at=end))
            room.settle()
        self._find_open()
        return shares

    def _promising(self, shape: Shape) -> bool:
        """Whether it is worth looking at each GPU: most of a long line fails here."""
        if shape.gpus > len(self._open):
            return False
        if self._any_empty or shape.bytes is None:
            return self._any_empty or not shape.whole
        return not shape.whole and shape.bytes <= self._most

    def _find_open(self) -> None:
        ready = [room for room in self.rooms if room.available >= 0 or room.empty]
        self._open = [room for room in ready if room.gpu.uuid not in self.kept]
        self._open_kept = [room for room in ready if room.gpu.uuid in self.kept]
        self._most = max((room.available for room in self._open), default=-1)
        self._any_empty = any(room.empty for room in self._open)

    def _slips(self, shape: Shape) -> bool:
        """Whether jobs of this shape end before the kept GPUs can all be had: then they delay nobody."""
        limit, until = shape.limit_seconds, self._kept_until
        return limit is not None and until < inf and self._now_at + limit < until

    def _wanted_whole(self, asking: Shape) -> Callable[[Room], bool]:
        """Return the test whether a whole-GPU job (other than those asking) waits for a GPU."""

        def test(room: Room) -> bool:
            return any(
                shape is not asking and shape.waiting and room.need(shape)[1] and self._could_use(shape, room)
                for shape in self._maybe_whole()
            )

        return test

    def _maybe_whole(self) -> list[Shape]:
        """Return the shapes that may mean all of some GPU: those without memory or with about as much as there is."""
        if self._whole_shapes is None:
            least = min((room.usable for room in self.rooms if room.closed is None), default=0)
            self._whole_shapes = [
                shape for shape in self._shapes.values() if shape.whole or shape.bytes is None or shape.bytes >= least
            ]
        return self._whole_shapes

    def _could_use(self, shape: Shape, room: Room) -> bool:
        possible = self.possible(shape)
        return room in possible and len(possible) >= shape.gpus > 0

    def possible(self, shape: Shape) -> list[Room]:
        """Return the GPUs that it could have with all our jobs gone."""
        found = self._possible.get(id(shape))
        if found is None:
            found = [room for room in self.rooms if shape.allows(room.gpu) and room.lasting(shape) is None]
            self._possible[id(shape)] = found
        return found

    def _cannot_start(self, job: Job, shape: Shape) -> None:
        """Give up on a shape, and keep space for the job if it is the first that only has to wait for ours.

        The place to ask which lower jobs should give way, before anything is kept: everything of higher rank has had
        its turn, nothing of lower rank has.
        """
        shape.failed = True
        if self.kept_for is not None:
            return
        possible = self.possible(shape)
        if len(possible) < shape.gpus:
            return
        ranked = sorted((room.frees_at(shape), room.gpu.uuid) for room in possible)[: shape.gpus]
        self.kept = {uuid: job.id for _, uuid in ranked}
        self.kept_for = job.id
        self._kept_until = ranked[-1][0][0]
        self._find_open()

    def obstacles(self, shape: Shape) -> tuple[Obstacle, ...]:
        """Say what stands on each GPU that a shape allows; one that it could have, were it not kept, is BEHIND."""
        found = []
        slips = self._slips(shape)
        for room in self.rooms:
            if not shape.allows(room.gpu):
                continue
            obstacle = room.obstacle(shape)
            if obstacle is None and not slips and self.kept_for is not None and room.gpu.uuid in self.kept:
                obstacle = Obstacle(room.gpu.index, Rule.BEHIND, (self.kept_for,))
            if obstacle is not None:
                found.append(obstacle)
        return tuple(found)

    def rule(self, shape: Shape, obstacles: tuple[Obstacle, ...]) -> Rule:
        """Return the rule that matters most to a shape that cannot start."""
        if sum(room.fits(shape) for room in self.rooms) >= shape.gpus:
            return Rule.BEHIND
        rules = {obstacle.gpu_index: obstacle.rule for obstacle in obstacles}
        possible = self.possible(shape)
        if len(possible) < shape.gpus:
            lasting = {found.rule for room in self.rooms if shape.allows(room.gpu) and (found := room.lasting(shape))}
            # None of them: it may use fewer GPUs than it wants.
            return next((rule for rule in _NOT_OURS if rule in lasting), Rule.UNHEALTHY)
        awaited = sorted(room.frees_at(shape) for room in possible if not room.fits(shape))
        return rules[awaited[0][2]]


class _Reasons(Mapping[int, Reason]):
    """The reasons of those that stay in line, in order, each made when it is asked for."""

    def __init__(self, made: _Pass, staying: dict[int, InLine]) -> None:
        self._pass, self._staying = made, staying
        self._places: dict[int, int] = {}
        self._verdicts: dict[int, tuple[Rule, tuple[Obstacle, ...]]] = {}

    def __len__(self) -> int:
        return len(self._staying)

    def __iter__(self) -> Iterator[int]:
        return iter(self._staying)

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._staying

    def __getitem__(self, job_id: int) -> Reason:
        job, entry = self._staying[job_id]
        if not self._places:
            self._places = {each: place for place, each in enumerate(self._staying, 1)}
        request, place = job.request, self._places[job_id]
        if isinstance(entry, Rule):
            own = tuple(Obstacle(share.index, entry, (job_id,)) for share in job.shares)
            return Reason(entry, place, request.gpus, request.memory_bytes, own)
        rule, obstacles = self._verdict(entry)
        made = self._pass
        if job_id == made.kept_for:
            kept = tuple(room.gpu.index for room in made.rooms if room.gpu.uuid in made.kept)
            obstacles = tuple(each for each in obstacles if each.rule is not Rule.BEHIND)
            return Reason(rule, place, request.gpus, request.memory_bytes, obstacles, kept=kept)
        behind = made.kept_for if rule is Rule.BEHIND else None
        return Reason(rule, place, request.gpus, request.memory_bytes, obstacles, behind)

    def _verdict(self, shape: Shape) -> tuple[Rule, tuple[Obstacle, ...]]:
        verdict = self._verdicts.get(id(shape))
        if verdict is None:
            obstacles = self._pass.obstacles(shape)
            verdict = self._verdicts[id(shape)] = self._pass.rule(shape, obstacles), obstacles
        return verdict
