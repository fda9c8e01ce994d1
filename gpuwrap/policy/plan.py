"""What the arbiter should do next, decided from a view alone: no clock, no I/O, no randomness.

1. Within one plan resources only shrink, so equal requests share one verdict: once one fails, all later ones fail.
2. Space is kept for one job only, the first in line that cannot start although it could with our other jobs gone.
   Others pass it on other GPUs, or with a time limit that ends before the kept GPUs can all be had.
3. A plan made again after it was applied has no actions.
4. Reasons describe the machine as it is once the plan is applied. They are worked out when asked for: a queue of
   thousands is planned at each wake, but few of its reasons are read.
5. One newcomer at a time makes others give way: after a pause or an eviction the plan is made anew, from what is then
   seen. Only then is the newcomer granted; until then the GPUs that it chose are kept for it from everybody below it.
   So 3. reads: pauses are followed by grants, and then there are no actions.
6. Paused jobs are in line too, at their own rank, and take back their place in spite of what is kept for a wide job:
   it could not have their GPUs meanwhile, and they would stand still for nothing. One that outranks by now (`renice`) those
   that compute there is a newcomer to its own GPUs.
"""

from collections.abc import Callable, Sequence
from math import inf
from operator import attrgetter

from ..lifecycle import JobState
from ..model import Action, Evict, Grant, Job, Pause, Plan, Request, Resume, Rule, Share, View
from ..units import PRIORITY_STEP
from .choosing import choose
from .explaining import InLine, Reasons
from .needs import share
from .placement import Holder, Room, Shape
from .returning import as_promised, takes_back, takes_back_above
from .sweeps import SweepLimits
from .victims import Spared, Victims, Way

# For so many kinds of jobs (request and rank) one plan looks for others to give way.
MOST_SEARCHES = 8
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)


def plan(view: View, now_mono: float) -> Plan:
    """Say what to do now and why each job that stays in line stays there; no actions mean that the machine is settled.

    `now_mono` is on the clock of the times in `Job`: it is compared with the ends that time limits set.
    """
    return _Pass(view, now_mono).run()


def ends_mono(job: Job, now_mono: float) -> float:
    """Return by when a job that holds GPUs ends at its time limit; infinite if nobody can say."""
    limit = job.request.time_limit_seconds
    if limit is None or job.state in (*_PAUSED, JobState.ENDED):
        return inf
    begun = job.started_mono if job.started_mono is not None else job.granted_mono
    return max(now_mono, (now_mono if begun is None else begun) + limit)


class _Pass:
    """One walk along the line. Afterwards it is never changed and explains what it decided."""

    def __init__(self, view: View, now_mono: float) -> None:
        self._view, self._now_mono = view, now_mono
        self.rooms = [Room(gpu, view.bounds) for gpu in sorted(view.gpus, key=attrgetter("index"))]
        self._by_uuid = {room.gpu.uuid: room for room in self.rooms}
        self._shapes: dict[object, Shape] = {}
        self._by_request: dict[int, Shape] = {}
        self._hopeful = 0  # shapes that have not failed
        self._comes_anybody_back = False
        self._whole_shapes: list[Shape] | None = None
        self._possible: dict[int, list[Room]] = {}
        self.kept: dict[str, int] = {}
        self.kept_for: int | None = None
        self._kept_until = inf
        self._kept_shape: Shape | None = None
        self._freed: dict[str, Job] = {}
        self.leaving: dict[int, frozenset[int]] = {}
        self.stuck: dict[int, tuple[tuple[int, str], ...]] = {}
        self.victims = Victims(view, now_mono)
        self._searched: set[object] = set()
        self._has_newcomer = False
        self._evicted: frozenset[int] = frozenset()
        self._sweeps = SweepLimits(view.jobs)
        # Whoever stands below this outranks nobody who could give way.
        known = [job.priority for job in view.jobs if job.id in view.yielding] if view.yielding else []
        self._yield_from = min(known) + PRIORITY_STEP if known else inf
        self._take_shares()
        self._find_open()

    def run(self) -> Plan:
        """Walk along the line once, for as long as anything can come of it."""
        actions: list[Action] = []
        staying: dict[int, InLine] = {}
        line = self._line()
        rest = iter(line)
        for in_line in rest:
            job, entry = in_line
            if entry is None:
                if job.id not in self._evicted:
                    actions += self._comes_back(job)
                continue
            if isinstance(entry, Rule):
                pass
            elif self._sweeps.is_full(job):
                in_line = (job, Rule.SWEEP)
            else:
                shares = None if entry.failed else self._place(job, entry)
                if shares is None and self.outranks_somebody(job):
                    shares = self._place_beside(job, entry)
                    if shares is None:
                        actions += self._make_way(job, entry)
                if shares is not None:
                    actions.append(Grant(job.id, shares))
                    entry.waiting -= 1
                    self._sweeps.start(job, entry)
                    continue
                if not entry.failed:
                    if self.kept_for is None:
                        self._keep_for_first(job, entry)
                    entry.failed = True
                    self._hopeful -= 1
            staying[job.id] = in_line
            if self._hopeful == 0 and self._nothing_comes_of_the_rest(job):
                break
        return Plan(tuple(actions), Reasons(self, staying, rest), self.kept, self.stuck)

    def _nothing_comes_of_the_rest(self, job: Job) -> bool:
        """Whether all behind a job stay in line, since every shape has failed: nobody there outranks anybody, or comes back."""
        return not self._comes_anybody_back and job.priority < self._yield_from and not self.leaving

    def _take_shares(self) -> None:
        taken: dict[str, Room] = {}
        for job in self._view.jobs:
            if not job.shares:
                continue
            is_paused, ended = job.state in _PAUSED, job.state is JobState.ENDED
            end = ends_mono(job, self._now_mono)
            for each in job.shares:
                room = self._by_uuid.get(each.uuid)
                if room is not None:
                    # A paused job promises what it holds now: it cannot take more.
                    size = room.held(job.id, each.bytes) if is_paused else each.bytes
                    room.hold(Holder(job.id, size, each.whole, is_paused, ended, end))
                    taken[each.uuid] = room
            # Until all that it holds is gone: its processes may outlive the move back into the line.
            if job.yields_to is not None and job.state in (JobState.STOPPING, JobState.WAITING):
                self.leaving[job.yields_to] = self.leaving.get(job.yields_to, frozenset()) | {job.id}
        for room in taken.values():
            room.settle()

    def _line(self) -> list[InLine]:
        """Return those in line in order."""
        waiting, held, paused = JobState.WAITING, JobState.HELD, JobState.PAUSED
        line = [
            job
            for job in self._view.jobs
            if job.state is waiting or job.state is held or (job.state is paused and job.yields_to is not None)
        ]
        line.sort(key=attrgetter("id"))
        line.sort(key=attrgetter("turn"))
        line.sort(key=attrgetter("priority"), reverse=True)
        view, shapes, sweeps = self._view, self._by_request, self._sweeps
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
                own = view.own.get(job.id)
                entry = self._shape(job.request, own) if own else shapes.get(id(job.request)) or self._shape(job.request)
                entry.waiting += 1
                if sweeps.has_limits:
                    sweeps.wait(job, entry)
            entries.append((job, entry))
        if comes_back:
            entries.sort(key=lambda each: not self._goes_on_anyway(each))
        self._comes_anybody_back = comes_back
        self._hopeful = len(self._shapes)
        return entries

    def _goes_on_anyway(self, in_line: InLine) -> bool:
        """Whether a job was paused for as long as it may be: nobody need give way for what it makes room for."""
        job, entry = in_line
        if entry is not None or not self.victims.is_bound_used_up(job.id):
            return False
        may_be_evicted = self._view.yielding.get(job.id)
        return may_be_evicted is None or not may_be_evicted.can_evict

    def _shape(self, request: Request, own: frozenset[int] = frozenset()) -> Shape:
        # In a long line few requests differ, and equal ones are mostly one object.
        key = (
            request.gpus,
            request.memory_bytes,
            request.memory_percent,
            request.exclusive,
            request.time_limit_seconds,
            request.allowed,
            own,
        )
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = Shape.of(request, own)
        if not own:
            self._by_request[id(request)] = shape
        return shape

    def _place(self, job: Job, shape: Shape) -> tuple[Share, ...] | None:
        """Take GPUs for a job; None if they cannot be had now."""
        if shape.gpus == 0 or self._view.without_gpu:
            return ()
        rooms = self._fitting(shape)
        if len(rooms) < shape.gpus:
            return None
        chosen = choose(rooms, shape, self._wanted_whole(shape))
        return self._give(job, shape, chosen, tuple(room.share(shape) for room in chosen))

    def _fitting(self, shape: Shape) -> list[Room]:
        """Return the GPUs that a job can have now. Who goes on with what it holds delays nobody who waits for that."""
        slips = shape.limit_seconds is not None and self.slips(shape)
        if shape.own:
            kept = [room for room in self.rooms if room.gpu.uuid in self.kept]
            slips = slips or any(self._kept_shape is not None and room.bars(shape, self._kept_shape) for room in kept)
            rooms = [room for room in self.rooms if room not in kept or (slips and room.gpu.uuid not in self._freed)]
            rooms = [room for room in rooms if room.fits(shape)]
            held = [room for room in rooms if any(holder.job_id in shape.own for holder in room.holders)]
            return held if len(held) >= shape.gpus else rooms  # what it started computes there, too
        if not slips and not self._promising(shape):
            return []
        rooms = [room for room in self._open if room.fits(shape)]
        if slips and len(rooms) < shape.gpus:
            rooms += [room for room in self._open_kept if room.fits(shape)]
        return rooms

    def _give(self, job: Job, shape: Shape, rooms: list[Room], shares: tuple[Share, ...]) -> tuple[Share, ...]:
        end = inf if shape.limit_seconds is None else self._now_mono + shape.limit_seconds
        for room, each in zip(rooms, shares, strict=True):
            room.holders = [holder for holder in room.holders if holder.job_id not in shape.own]
            room.hold(Holder(job.id, each.bytes, each.whole, ends_mono=end))
            room.settle()
        self._find_open()
        return shares

    # Giving way.

    def outranks_somebody(self, job: Job) -> bool:
        """Whether somebody who could give way, or does, stands a step below."""
        return job.priority >= self._yield_from or job.id in self.leaving

    def is_sweep_full(self, job: Job) -> bool:
        """Whether no row more of a job's sweep may start."""
        return self._sweeps.is_full(job)

    def _place_beside(self, job: Job, shape: Shape) -> tuple[Share, ...] | None:
        """Take GPUs on which nothing stands but jobs that are paused already, together with free ones."""
        rooms = self.victims.beside(job, shape, self._not_kept(shape), shape.own)
        if len(rooms) < shape.gpus:
            return None
        rooms.sort(key=lambda room: (not room.fits(shape), -room.left(shape.own).bytes, room.gpu.index))
        rooms = sorted(rooms[: shape.gpus], key=lambda room: room.gpu.index)
        return self._give(job, shape, rooms, tuple(share(job, shape, room) for room in rooms))

    def _make_way(self, job: Job, shape: Shape) -> list[Action]:
        """Choose who gives way to a job, and keep the GPUs for it; while some are leaving for it, no others are chosen.

        Evictions go first, alone: a job that must be paused as well need not stand still while another takes its time
        to end.
        """
        leaving = self.leaving.get(job.id, frozenset())
        key = (id(shape), job.priority, job.learned_bytes)
        if not leaving:
            if self._has_newcomer or key in self._searched or len(self._searched) >= MOST_SEARCHES:
                return []
            self._searched.add(key)
        rooms = self._not_kept(shape)
        way = self.victims.find(job, shape, rooms, self.spared(job, shape), leaving | shape.own)
        if way is None:
            return []
        self._keep(way.rooms, job)
        if leaving:
            return []
        self._has_newcomer = True
        return self._asked(way, job)

    def _asked(self, way: Way, job: Job) -> list[Action]:
        pause, evict = sorted(way.option.pause), sorted(way.option.evict)
        if evict:
            self.leaving[job.id] = self._evicted = frozenset(evict)
            return [Evict(victim, job.id) for victim in evict]
        return [Pause(victim, job.id) for victim in pause]

    def _keep(self, rooms: Sequence[Room], job: Job) -> None:
        """Keep GPUs that are being freed for a job."""
        if not rooms:
            return
        for room in rooms:
            self.kept[room.gpu.uuid] = job.id
            self._freed[room.gpu.uuid] = job
        if self.kept_for is None:
            self.kept_for = job.id
        self._find_open()

    def _not_kept(self, shape: Shape) -> list[Room]:
        return [room for room in self.possible(shape) if room.gpu.uuid not in self.kept]

    def spared(self, job: Job, shape: Shape) -> Spared:
        """Say who is left alone because of what is kept for others.

        A pause would delay whom a GPU is kept for; what an eviction frees would go to the first in line, if it may have
        that GPU, and not to the one for whom somebody was ended.
        """
        kept, first = self._kept_shape, frozenset[int]()
        wholly = {h.job_id for room in self.rooms if self.kept.get(room.gpu.uuid, job.id) != job.id for h in room.holders}
        if kept is not None and self.kept_for != job.id:
            first = frozenset(each.job_id for room in self.possible(kept) for each in room.holders)
        return Spared(wholly, first)

    def _comes_back(self, job: Job) -> list[Action]:
        """Let a paused job go on: in its own place, at its bound, or over those beside it that it outranks by now."""
        rooms = [self._by_uuid[each.uuid] for each in job.shares if each.uuid in self._by_uuid]
        forced = self.victims.is_bound_used_up(job.id)
        if not forced:
            newcomers = (self._freed.get(room.gpu.uuid) for room in rooms)
            if any(newcomer and self.victims.may_stay_paused(newcomer, job.id) for newcomer in newcomers):
                return []
            shape, needy = self._shape(job.request), as_promised(job)
            if not takes_back(job, rooms) and not takes_back_above(needy, shape, rooms, self.victims):
                return self._reclaim(needy, shape, rooms)
        shares = {each.uuid: each for each in job.shares}
        for room in rooms:
            mine = shares[room.gpu.uuid]
            room.holders = [holder for holder in room.holders if holder.job_id != job.id]
            room.hold(Holder(job.id, mine.bytes, mine.whole, ends_mono=ends_mono(job, self._now_mono)))
            room.settle()
        self._find_open()
        return [Resume(job.id, forced)]

    def _reclaim(self, job: Job, shape: Shape, rooms: list[Room]) -> list[Action]:
        """Make those give way that compute on a paused job's GPUs although it outranks them by now (`renice`)."""
        if not any(self.victims.outranks_one_computing(job, room) for room in rooms):
            return []
        leaving = self.leaving.get(job.id, frozenset())
        if not leaving and (self._has_newcomer or len(self._searched) >= MOST_SEARCHES):
            return []
        self._searched.add(job.id)
        way = self.victims.find(job, shape, rooms, Spared(), leaving | {job.id})
        if way is None:
            self.stuck[job.id] = self.victims.why_not(job, shape, rooms, Spared(), {job.id})
            return []
        self._keep(way.rooms, job)
        if leaving:
            return []
        self._has_newcomer = True
        return self._asked(way, job)

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
        self._open_kept = [room for room in ready if room.gpu.uuid in self.kept and room.gpu.uuid not in self._freed]
        self._most = max((room.available for room in self._open), default=-1)
        self._any_empty = any(room.empty for room in self._open)

    def slips(self, shape: Shape) -> bool:
        """Whether jobs of this shape end before the kept GPUs can all be had: then they delay nobody."""
        limit, until = shape.limit_seconds, self._kept_until
        return limit is not None and until < inf and self._now_mono + limit < until

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

    def _keep_for_first(self, job: Job, shape: Shape) -> None:
        """Keep space for a job that cannot start, if it is the first that only has to wait for ours."""
        possible = self.possible(shape)
        if len(possible) < shape.gpus:
            return
        ranked = sorted((room.frees_mono(shape), room.gpu.uuid) for room in possible)[: shape.gpus]
        self.kept = {uuid: job.id for _, uuid in ranked}
        self.kept_for, self._kept_shape = job.id, shape
        self._kept_until = ranked[-1][0][0]
        self._find_open()
