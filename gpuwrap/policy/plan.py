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

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from operator import attrgetter

from ..lifecycle import JobState
from ..model import Action, Evict, Grant, Job, Pause, Plan, Refusal, Resume, Rule, Share, View
from ..units import PRIORITY_STEP
from .choosing import choose
from .explaining import InLine, Reasons
from .lineup import LineUp
from .needs import URGENT, share
from .placement import Holder, Room, Shape
from .ranks import Ranks
from .returning import as_promised, takes_back, takes_back_above
from .sweeps import SweepLimits
from .users import Quotas
from .victims import Spared, Victims, Way

# For so many kinds of jobs (request and rank) one plan looks for others to give way.
MOST_SEARCHES = 8
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)
# What those have in common who fail alike: their shape, priority and, where several users ask, their owner.
Hopeless = tuple[int, int, int | None]


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
        self._whole_shapes: list[Shape] | None = None
        self._possible: dict[int, list[Room]] = {}
        self.kept: dict[str, int] = {}
        self.kept_for: int | None = None
        self._kept_until = inf
        self._first: Job | None = None
        self._kept_shape: Shape | None = None
        self._freed: dict[str, Job] = {}
        self.leaving: dict[int, frozenset[int]] = {}
        self.stuck: dict[int, tuple[Refusal, ...]] = {}
        self.ranks = Ranks(view, now_mono)
        self.victims = Victims(view, now_mono, self.ranks)
        self._searched: set[object] = set()
        self._is_anybody_paused = any(job.state in _PAUSED for job in view.jobs if job.shares)
        self._hopeless_beside: dict[Hopeless, float] = {}
        self._hopeless_above: dict[Hopeless, float] = {}
        self._has_newcomer = False
        self._evicted: frozenset[int] = frozenset()
        self._sweeps = SweepLimits(view.jobs)
        # Whoever stands below this outranks nobody who could give way.
        self._yield_from = self._least_yielding() + PRIORITY_STEP
        self._line = LineUp(view, self.ranks, self._sweeps)
        apart = self.ranks.standing.apart
        self._highest = max((job.priority for job, _ in self._line.entries), default=-inf) if apart else -inf
        self._hopeful = len(self._line.shapes)  # those that have not failed
        self._take_shares()
        # Those further down the line for whom others are leaving already.
        self._ahead = {job.id for job, _ in self._line.entries} & self.leaving.keys() if self.leaving else set[int]()
        self._find_open()
        self._quotas = Quotas(view, self._count_free())

    def _least_yielding(self) -> float:
        """Return the lowest priority of those who could give way, in whosever eyes it is the lower."""
        standing = self.ranks.standing
        known = (job for job in self._view.jobs if job.id in self._view.yielding) if self._view.yielding else ()
        return min((min(job.priority, standing.shield(job)) if standing.apart else job.priority for job in known), default=inf)

    def _count_free(self) -> int:
        """Count the GPUs on which nobody computes."""
        return sum(room.empty for room in self.rooms)

    def run(self) -> Plan:
        """Walk along the line once, for as long as anything can come of it."""
        actions: list[Action] = []
        staying: dict[int, InLine] = {}
        rest = iter(self._line.entries)
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
            elif self._quotas.is_full(job):
                in_line = (job, Rule.CAP)
                actions += self._in_place_of_own(job, entry)
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
                    self._quotas.start(job, self._count_free())
                    continue
                if not entry.failed:
                    if self.kept_for is None:
                        self._keep_for_first(job, entry)
                    entry.failed = True
                    self._hopeful -= 1
                    if not self._within_reach[True][0]:
                        self._fail_all()
            staying[job.id] = in_line
            if self._ahead:
                self._ahead.discard(job.id)
            if self._hopeful == 0 and self._nothing_comes_of_the_rest(job):
                break
        return Plan(tuple(actions), Reasons(self, staying, rest), self.kept, self.stuck)

    def _fail_all(self) -> None:
        """No GPU is open, so nobody can be placed who wants one and goes on with nothing of his own."""
        for shape in self._line.shapes.values():
            if shape.gpus and not shape.own and not shape.failed:
                shape.failed = True
                self._hopeful -= 1

    def _nothing_comes_of_the_rest(self, job: Job) -> bool:
        """Whether all behind a job stay in line, since every shape has failed: nobody there outranks anybody, or comes back."""
        if self._line.comes_anybody_back or self._ahead:
            return False
        if self._has_newcomer and self.ranks.by_need and not self._is_anybody_paused:
            return True  # one at a time
        if max(job.priority, self._highest) >= self._yield_from or self.leaving:
            return False
        return self.ranks.nobody_behind_precedes(job)

    def _take_shares(self) -> None:
        taken: dict[str, Room] = {}
        holding = [job for job in self._view.jobs if job.shares]
        if self.ranks.by_need:  # who is paused goes on after those who compute there, in the order of the line
            holding.sort(key=lambda job: (job.state in _PAUSED, self.ranks.rank(job) if job.state in _PAUSED else 0.0))
        for job in holding:
            is_paused, ended = job.state in _PAUSED, job.state is JobState.ENDED
            end = self._ends_mono(job)
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

    def _ends_mono(self, job: Job) -> float:
        """Return when a job is out of the way: by its limit, or as it is expected where the order goes by that."""
        end = ends_mono(job, self._now_mono)
        if not self.ranks.by_need or job.state is JobState.ENDED:
            return end
        if job.state not in _PAUSED:
            return min(end, self.ranks.ends_mono(job))
        here = (holder.ends_mono for each in job.shares if (room := self._by_uuid.get(each.uuid)) for holder in room.holders)
        return max((self._now_mono, *here)) + self.ranks.ends_mono(job) - self._now_mono

    def _place(self, job: Job, shape: Shape) -> tuple[Share, ...] | None:
        """Take GPUs for a job; None if they cannot be had now."""
        if shape.gpus == 0 or self._view.without_gpu:
            return ()
        rooms = self._fitting(job, shape)
        if len(rooms) < shape.gpus:
            return None
        chosen = choose(rooms, shape, self._wanted_whole(shape))
        return self._give(job, shape, chosen, tuple(room.share(shape) for room in chosen))

    def _fitting(self, job: Job, shape: Shape) -> list[Room]:
        """Return the GPUs that a job can have now. Who goes on with what it holds delays nobody who waits for that."""
        slips = self._first is not None and (self.slips(shape) or self.ranks.makes_way_for(self._first, job))
        if shape.own:
            kept = [room for room in self.rooms if room.gpu.uuid in self.kept]
            slips = slips or any(self._kept_shape is not None and room.bars(shape, self._kept_shape) for room in kept)
            rooms = [room for room in self.rooms if room not in kept or (slips and room.gpu.uuid not in self._freed)]
            rooms = [room for room in rooms if room.fits(shape)]
            held = [room for room in rooms if any(holder.job_id in shape.own for holder in room.holders)]
            return held if len(held) >= shape.gpus else rooms  # what it started computes there, too
        if not self._promising(shape, slips):
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
        return job.priority >= self._yield_from or job.id in self.leaving or self.ranks.precedes_somebody(job)

    def is_sweep_full(self, job: Job) -> bool:
        """Whether no row more of a job's sweep may start."""
        return self._sweeps.is_full(job)

    def is_over_cap(self, job: Job) -> bool:
        """Whether a job's owner may have no more at this moment."""
        return self._quotas.is_full(job)

    def _place_beside(self, job: Job, shape: Shape) -> tuple[Share, ...] | None:
        """Take GPUs on which nothing stands but jobs that are paused already, together with free ones."""
        if (self.ranks.by_need and not self._is_anybody_paused) or self._is_hopeless(job, shape, self._hopeless_beside):
            return None
        rooms = self.victims.beside(job, shape, self._not_kept(job, shape), shape.own)
        if len(rooms) < shape.gpus:
            self._note_hopeless(job, shape, self._hopeless_beside)
            return None
        rooms.sort(key=lambda room: (not room.fits(shape), -room.left(shape.own).bytes, room.gpu.index))
        rooms = sorted(rooms[: shape.gpus], key=lambda room: room.gpu.index)
        return self._give(job, shape, rooms, tuple(share(job, shape, room) for room in rooms))

    def _make_way(self, job: Job, shape: Shape, rooms: list[Room] | None = None) -> list[Action]:
        """Choose who gives way to a job, and keep the GPUs for it; while some are leaving for it, no others are chosen.

        `rooms`: the GPUs on which that may be, None wherever it can.

        Evictions go first, alone: a job that must be paused as well need not stand still while another takes its time
        to end.
        """
        leaving = self.leaving.get(job.id, frozenset())
        key = (id(shape), job.priority, job.learned_bytes, self.ranks.standing.owner(job), rooms is not None)
        if not leaving:
            if self._has_newcomer or key in self._searched or len(self._searched) >= MOST_SEARCHES:
                return []
            if rooms is None and self._is_hopeless(job, shape, self._hopeless_above):
                return []
            self._searched.add(key)
        is_anywhere = rooms is None
        rooms = self._not_kept(job, shape) if rooms is None else rooms
        way = self.victims.find(job, shape, rooms, self.spared(job, shape), leaving | shape.own)
        if way is None:
            if is_anywhere:
                self._note_hopeless(job, shape, self._hopeless_above)
            return []
        self._keep(way.rooms, job)
        if leaving:
            return []
        self._has_newcomer = True
        return self._asked(way, job)

    def _in_place_of_own(self, job: Job, shape: Shape) -> list[Action]:
        """Have jobs of the same owner give way to one that he may not have beside them."""
        if not self.outranks_somebody(job):
            return []
        standing = self.ranks.standing
        owns = {
            each.id
            for each in self._view.jobs
            if each.state is JobState.RUNNING and not standing.are_strangers(job, each) and self.ranks.outranks(job, each)
        }
        rooms = [room for room in self._not_kept(job, shape) if any(holder.job_id in owns for holder in room.holders)]
        given_up = sum(len(each.shares) for each in self._view.jobs if each.id in owns)
        return [] if self._quotas.is_full(job, given_up) else self._make_way(job, shape, rooms)

    def _is_hopeless(self, job: Job, shape: Shape, found: Mapping[Hopeless, float]) -> bool:
        """Whether one of the same shape failed that needs no more: among equals whoever is behind makes fewer give way."""
        least = found.get((id(shape), job.priority, self.ranks.standing.owner(job)))
        return least is not None and (inf if job.learned_bytes is None else job.learned_bytes) >= least

    def _note_hopeless(self, job: Job, shape: Shape, found: dict[Hopeless, float]) -> None:
        if self.ranks.by_need and job.priority < URGENT:
            key = id(shape), job.priority, self.ranks.standing.owner(job)
            found[key] = min(found.get(key, inf), inf if job.learned_bytes is None else job.learned_bytes)

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

    def _not_kept(self, job: Job, shape: Shape) -> list[Room]:
        """Return the GPUs that are kept for nobody, or for one that could still have them from this job."""
        barred = self._barred(job)
        return [room for room in self.possible(shape) if room.gpu.uuid not in barred]

    def _barred(self, job: Job) -> Collection[str]:
        """Return the GPUs that are kept from a job."""
        first = self._first
        return self._freed if first is not None and self.ranks.makes_way_for(first, job) else self.kept

    def spared(self, job: Job, shape: Shape) -> Spared:
        """Say who is left alone because of what is kept for others.

        A pause would delay whom a GPU is kept for; what an eviction frees would go to the first in line, if it may have
        that GPU, and not to the one for whom somebody was ended.
        """
        kept, first = self._kept_shape, frozenset[int]()
        barred = self._barred(job)
        kept_from = {uuid for uuid, whom in self.kept.items() if whom != job.id and uuid in barred}
        wholly = {holder.job_id for room in self.rooms if room.gpu.uuid in kept_from for holder in room.holders}
        waits = self._first
        if kept is not None and waits is not None and self.kept_for != job.id and not self.ranks.makes_way_for(waits, job):
            first = frozenset(each.job_id for room in self.possible(kept) for each in room.holders)
        return Spared(wholly, first)

    def _comes_back(self, job: Job) -> list[Action]:
        """Let a paused job go on: in its own place, at its bound, or over those beside it that it outranks by now."""
        rooms = [self._by_uuid[each.uuid] for each in job.shares if each.uuid in self._by_uuid]
        forced = self.victims.is_bound_used_up(job.id)
        if not forced:
            if self._quotas.is_full(job):
                return []
            newcomers = (self._freed.get(room.gpu.uuid) for room in rooms)
            if any(newcomer and self.victims.may_stay_paused(newcomer, job.id) for newcomer in newcomers):
                return []
            shape, needy = self._line.shape(job, job.request.time_limit_seconds), as_promised(job)
            if not takes_back(job, rooms) and not takes_back_above(needy, shape, rooms, self.victims):
                return self._reclaim(needy, shape, rooms)
        shares = {each.uuid: each for each in job.shares}
        for room in rooms:
            mine = shares[room.gpu.uuid]
            room.holders = [holder for holder in room.holders if holder.job_id != job.id]
            room.hold(Holder(job.id, mine.bytes, mine.whole, ends_mono=self._ends_mono(job)))
            room.settle()
        self._find_open()
        self._quotas.start(job, self._count_free())
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

    def _promising(self, shape: Shape, slips: bool) -> bool:
        """Whether it is worth looking at each GPU: most of a long line fails here."""
        count, any_empty, most = self._within_reach[slips]
        if shape.gpus > count:
            return False
        if any_empty or shape.bytes is None:
            return any_empty or not shape.whole
        return not shape.whole and shape.bytes <= most

    def _find_open(self) -> None:
        ready = [room for room in self.rooms if room.available >= 0 or room.empty]
        self._open = [room for room in ready if room.gpu.uuid not in self.kept]
        self._open_kept = [room for room in ready if room.gpu.uuid in self.kept and room.gpu.uuid not in self._freed]
        # How many GPUs are open, whether one of them is empty, and the most that is left: without what is kept, and with it.
        self._within_reach = [
            (len(rooms), any(room.empty for room in rooms), max((room.available for room in rooms), default=-1))
            for rooms in (self._open, self._open + self._open_kept)
        ]

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
                shape for shape in self._line.shapes.values() if shape.whole or shape.bytes is None or shape.bytes >= least
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
        self.kept_for, self._kept_shape, self._first = job.id, shape, job
        self._kept_until = ranked[-1][0][0]
        self._find_open()
