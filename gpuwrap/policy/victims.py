"""Who gives way to whom: which jobs to pause or to end so that one in line provably has room, or why none can.

1. Only jobs that are outranked by a whole step, and only by means that their owner allows and that are possible now.
2. Only if what is left afterwards suffices, by the same figures as for any grant: a paused job keeps what it holds.
3. The means, mildest first: nothing (a place beside jobs that are paused already) · pause, if the need, or half the GPU
   for one whose need nobody knows, is left · suspend (its place; not built yet) · evict, others paused · pause with the
   least that an urgent job starts with · evict with it. Each GPU by the mildest means by which it can be had.
4. Among equal means: fewest victims, fewest evicted, lowest priority, least work lost, least memory, lowest index.
"""

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb, inf
from typing import NamedTuple

from ..lifecycle import JobState
from ..model import GiveWay, Job, Refusal, View, Yielding
from ..restarts import stored_signals
from . import refusals
from .choosing import SETS_COMPARED
from .needs import Need, need
from .placement import Room, Shape
from .ranks import Ranks

# What may pass between a pause and the plan that grants what it was made for.
MOMENT_SECONDS = 1.0
# How much longer than its delays an eviction may take, until the newcomer has the GPU.
MARGIN_SECONDS = 10.0
# Sets of jobs on one GPU that are compared one by one, of each size.
TRIED = 32

_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)
_COMPUTING = (JobState.GRANTED, JobState.RUNNING, JobState.STOPPING)
_NOTHING = Yielding(no_pause=refusals.JUST_STARTED, no_evict=refusals.JUST_STARTED)


class Option(NamedTuple):
    """Jobs that would have to give way."""

    pause: frozenset[int] = frozenset()
    evict: frozenset[int] = frozenset()

    def plus(self, other: "Option") -> "Option":
        evict = self.evict | other.evict
        return Option((self.pause | other.pause) - evict, evict)


@dataclass(frozen=True, slots=True)
class Way:
    """GPUs that a job can have, and who gives way for them."""

    rooms: tuple[Room, ...]
    option: Option


class Spared(NamedTuple):
    """Jobs that are left alone because of what is kept for others: `wholly`, or only not evicted."""

    wholly: Set[int] = frozenset()
    not_evicted: Set[int] = frozenset()


Cost = tuple[int, int, tuple[int, ...], float, float, int, tuple[int, ...]]


class Victims:
    """Answers for one view, while a plan is made from it."""

    def __init__(self, view: View, now_mono: float, ranks: Ranks) -> None:
        self._ranks, self._lost = ranks, view.lost
        self._evicts = any(each.can_evict for each in view.yielding.values())
        self._now_mono, self._bounds, self._yielding, self._patience = now_mono, view.bounds, view.yielding, view.patience
        self._jobs = {job.id: job for job in view.jobs if job.shares}
        self._used = {gpu.uuid: gpu.used for gpu in view.gpus}
        self._free = {gpu.uuid: gpu.free_bytes for gpu in view.gpus}

    # What one job may be made to do for another.

    def may_stay_paused(self, job: Job, victim_id: int) -> bool:
        """Whether a job may be placed beside one that is, or would be, paused."""
        victim = self._jobs.get(victim_id)
        if victim is None or not self.outranks(job, victim) or self._refuses(victim, job):
            return False
        bound = self._yielding.get(victim_id, _NOTHING)
        return bound.pause_seconds > 0 and self._lasts(job, victim, bound)

    def _refuses(self, victim: Job, job: Job) -> bool:
        """Whether a job never gives way, and may refuse another."""
        return victim.request.give_way is GiveWay.NEVER and self._ranks.standing.may_refuse(victim, job)

    def _lasts(self, job: Job, victim: Job, bound: Yielding) -> bool:
        """Whether a pause can last for as long as the job is known to need, or for long enough to be worth it.

        For whom it was made it is measured from its beginning: who could just have been paused for a job may not go on
        because a moment of that has passed.
        """
        seconds, limit = bound.pause_seconds, job.request.time_limit_seconds
        if victim.state in _PAUSED and victim.yields_to == job.id and victim.paused_mono is not None:
            seconds += max(0.0, self._now_mono - victim.paused_mono) + MOMENT_SECONDS
        if bound.short_only:
            return limit is not None and limit <= seconds
        least = self._bounds.least_pause_seconds
        return seconds >= (least if limit is None else min(least, limit))

    def can_pause(self, job: Job, victim_id: int) -> bool:
        """Whether a computing job may be paused for another."""
        victim = self._jobs.get(victim_id)
        if victim is None or victim.state is not JobState.RUNNING or self._returned_ago(victim) is not None:
            return False
        if self._ranks.are_equals(job, victim):
            if self._ran(victim) < self._bounds.min_run_among_equals_seconds:
                return False
            if job.request.gpus < victim.request.gpus or (job.request.shares and not victim.request.shares):
                return False  # more would stand still than goes on
        return self.may_stay_paused(job, victim_id)

    def can_evict(self, job: Job, victim_id: int) -> bool:
        """Whether a job, computing or paused, may be ended for another."""
        victim = self._jobs.get(victim_id)
        if victim is None or victim.state not in (JobState.RUNNING, *_PAUSED) or not self.outranks(job, victim):
            return False
        allows = victim.request.give_way is GiveWay.REQUEUE and self._yielding.get(victim_id, _NOTHING).can_evict
        if not allows or self._ran(victim) < self._least_run(job, victim) or not self._waits_for(job, victim):
            return False
        return victim.state is JobState.RUNNING or self._may_wake(victim)

    def _may_wake(self, victim: Job) -> bool:
        """Whether a paused job may compute again while it ends: who computes beside it loses nothing of what it was promised.

        It goes on to receive its signals, and may take what it was about to take when it was stopped.
        """
        for each in victim.shares:
            used = self._used.get(each.uuid, {})
            here = [(job, share) for job in self._jobs.values() for share in job.shares if share.uuid == each.uuid]
            if not any(job.state in _COMPUTING for job, _ in here):
                continue
            free = self._free.get(each.uuid)
            owed = sum(max(0, share.bytes - (used.get(job.id) or 0)) for job, share in here if job.state in _COMPUTING)
            if free is None or each.bytes - (used.get(victim.id) or 0) > free - owed:
                return False
        return True

    def _waits_for(self, job: Job, victim: Job) -> bool:
        """Whether a job is still in line when another has had all its time to end: else that would end for nobody."""
        return self._patience.get(job.id, inf) >= ending_seconds(victim) + MARGIN_SECONDS

    def outranks_one_computing(self, job: Job, room: Room) -> bool:
        """Whether somebody computes on a GPU whom a job, paused there, outranks by a step."""
        return any(
            not holder.paused and not holder.ended and (other := self._jobs.get(holder.job_id)) and self.outranks(job, other)
            for holder in room.holders
        )

    def is_bound_used_up(self, job_id: int) -> bool:
        """Whether a paused job was paused for as long as it may be."""
        bound = self._yielding.get(job_id)
        return bound is not None and bound.pause_seconds <= 0

    def outranks(self, job: Job, victim: Job) -> bool:
        """Whether a job may make another give way: it is a whole step above, or an equal that is so much shorter."""
        return self._ranks.outranks(job, victim)

    def _least_run(self, job: Job, victim: Job) -> float:
        """Return for how long a job must have run before it is ended for another."""
        equals = self._ranks.are_equals(job, victim)
        return self._bounds.min_run_among_equals_seconds if equals else self._bounds.min_run_seconds

    def _lost_by(self, victim: Job) -> float:
        lost = self._lost.get(victim.id)
        return self._ran(victim) if lost is None else lost

    def _ran(self, victim: Job) -> float:
        return -1.0 if victim.started_mono is None else self._now_mono - victim.started_mono

    def _returned_ago(self, victim: Job) -> float | None:
        """Return how long ago it came back, if that is too short to be paused again."""
        if victim.returned_mono is None:
            return None
        ago = self._now_mono - victim.returned_mono
        return ago if ago < self._bounds.min_return_seconds else None

    # Finding a way.

    def beside(self, job: Job, shape: Shape, rooms: Iterable[Room], gone: frozenset[int] = frozenset()) -> list[Room]:
        """Return the GPUs that a job can have now, since only paused jobs that it outranks stand on them."""
        return [room for room in rooms if self._stands_beside(job, shape, room, gone)]

    def find(
        self, job: Job, shape: Shape, rooms: Sequence[Room], spared: Spared, gone: frozenset[int] = frozenset()
    ) -> Way | None:
        """Find who should give way so that a job can have all its GPUs; those `gone` are taken to have ended."""
        if len(rooms) < shape.gpus:
            return None
        nobody = Option()
        found = {room: nobody for room in rooms if self._stands_beside(job, shape, room, gone)}
        vague = any(need(job, shape, room).comfort for room in rooms)
        for comfortable in (True, False) if vague else (True,):
            for may_evict in (False, True) if self._evicts else (False,):
                for room in rooms:
                    if room not in found:
                        option = self._option(job, need(job, shape, room), room, spared, gone, comfortable, may_evict)
                        if option is not None:
                            found[room] = option
                if len(found) >= shape.gpus:
                    return self._pruned(self._cheapest(found, shape.gpus), job, shape, gone)
        return None

    def _pruned(self, way: Way, job: Job, shape: Shape, gone: frozenset[int]) -> Way:
        """Leave out who was chosen for one GPU, if those chosen for the others suffice there too."""
        needs = [(room, need(job, shape, room)) for room in way.rooms]
        comfort = [wanted.met(room.left(gone | way.option.evict, way.option.pause), True) for room, wanted in needs]

        def suffices(option: Option) -> bool:
            for (room, wanted), comfortable in zip(needs, comfort, strict=True):
                away = gone | option.evict
                if any(h.paused and h.job_id not in away and not self.may_stay_paused(job, h.job_id) for h in room.holders):
                    return False
                if not wanted.met(room.left(away, option.pause), comfortable):
                    return False
            return True

        option = way.option
        if len(way.rooms) > 1:
            for victim in sorted(option.evict, key=self._rank) + sorted(option.pause, key=self._rank):
                fewer = Option(option.pause - {victim}, option.evict - {victim})
                if suffices(fewer):
                    option = fewer
        return Way(way.rooms, option)

    def _rank(self, victim_id: int) -> tuple[int, int]:
        return -self._jobs[victim_id].priority, victim_id

    def _stands_beside(self, job: Job, shape: Shape, room: Room, gone: frozenset[int]) -> bool:
        if any(h.paused and h.job_id not in gone and not self.may_stay_paused(job, h.job_id) for h in room.holders):
            return False
        wanted = need(job, shape, room)
        if wanted.whole and any(not h.paused and h.job_id not in gone for h in room.holders):
            return False
        return wanted.met(room.left(gone))

    def _option(
        self,
        job: Job,
        wanted: Need,
        room: Room,
        spared: Spared,
        gone: frozenset[int],
        comfortable: bool,
        may_evict: bool,
    ) -> Option | None:
        """Find the fewest jobs on one GPU that must give way."""
        pausable, evictable, forced, others = set(), set(), [], []
        for holder in room.holders:
            victim = holder.job_id
            if victim in gone:
                continue
            stays = holder.paused and self.may_stay_paused(job, victim)
            if victim not in spared.wholly:
                if not holder.paused and self.can_pause(job, victim):
                    pausable.add(victim)
                if may_evict and victim not in spared.not_evicted and self.can_evict(job, victim):
                    evictable.add(victim)
            can = victim in pausable or victim in evictable
            if not stays and (holder.paused or wanted.whole or holder.whole):
                if not can:
                    return None
                forced.append(victim)
            elif can:
                others.append(victim)

        if not pausable and not evictable:
            return None  # nobody here would change anything

        def met(option: Option) -> bool:
            return wanted.met(room.left(gone | option.evict, option.pause), comfortable)

        def mildest(victims: Sequence[int]) -> Option | None:
            """Pause them, and evict as few as it takes."""
            option = Option(frozenset(v for v in victims if v in pausable), frozenset(v for v in victims if v not in pausable))
            if met(option):
                return option
            if not met(option.plus(Option(evict=frozenset(victims) & evictable))):
                return None
            either = sorted((v for v in option.pause if v in evictable), key=lambda v: (self._lost_by(self._jobs[v]), v))
            heaviest = sorted(either, key=lambda v: -self._freed(v, room, True))
            for count in range(1, len(either) + 1):
                enough = option.plus(Option(evict=frozenset(heaviest[:count])))
                if not met(enough):
                    continue  # no other set of that size frees more
                sets = (option.plus(Option(evict=frozenset(each))) for each in islice(combinations(either, count), TRIED))
                return next((each for each in sets if met(each)), enough)
            return None

        if mildest([*forced, *others]) is None:
            return None
        others.sort(key=lambda v: (self._jobs[v].priority, self._lost_by(self._jobs[v]), v))
        most = {victim: self._freed(victim, room, victim in evictable) for victim in others}
        largest = sorted(others, key=lambda v: -most[v])
        for count in range(len(others) + 1):
            best = mildest([*forced, *largest[:count]])
            if best is None:
                continue  # no other set of that size frees more
            sets = islice(combinations(others, count), TRIED)
            options = (option for each in sets if (option := mildest([*forced, *each])) is not None)
            return min((best, *options), key=lambda option: self._cost(option, (room,)))
        return None

    def _freed(self, victim_id: int, room: Room, evicted: bool) -> int:
        promised = sum(holder.bytes for holder in room.holders if holder.job_id == victim_id)
        return promised if evicted else promised - min(promised, room.held(victim_id, promised))

    def _cost(self, option: Option, rooms: Iterable[Room]) -> Cost:
        victims = [self._jobs[victim] for victim in (*option.pause, *option.evict)]
        lost = sum(self._lost_by(self._jobs[victim]) for victim in option.evict)
        soon = -sum(self._ranks.rank(victim) for victim in victims) if self._ranks.by_need else 0.0
        held = sum(self._used[each.uuid].get(v.id) or 0 for v in victims for each in v.shares if each.uuid in self._used)
        ranks = tuple(sorted((victim.priority for victim in victims), reverse=True))
        return len(victims), len(option.evict), ranks, lost, soon, held, tuple(sorted(room.gpu.index for room in rooms))

    def _cheapest(self, found: dict[Room, Option], count: int) -> Way:
        """Choose GPUs so that all their victims together cost least; a job on several of them counts once."""
        if comb(len(found), count) <= SETS_COMPARED:
            sets: Iterable[tuple[Room, ...]] = combinations(found, count)
        else:
            sets = (self._grown(seed, found, count) for seed in found)

        def way(rooms: tuple[Room, ...]) -> Way:
            option = Option()
            for room in rooms:
                option = option.plus(found[room])
            return Way(rooms, option)

        return min(map(way, sets), key=lambda each: self._cost(each.option, each.rooms))

    def _grown(self, seed: Room, found: dict[Room, Option], count: int) -> tuple[Room, ...]:
        chosen, option = [seed], found[seed]
        rest = [room for room in found if room is not seed]
        while len(chosen) < count:
            best = min(rest, key=lambda room: self._cost(option.plus(found[room]), (room,)))
            rest.remove(best)
            chosen.append(best)
            option = option.plus(found[best])
        return tuple(chosen)

    # Why not. (All of it is said in `refusals`.)

    def why_not(
        self, job: Job, shape: Shape, rooms: Iterable[Room], spared: Spared, gone: Set[int] = frozenset()
    ) -> tuple[Refusal, ...]:
        """Say of each lower job in the way why it cannot give way."""
        told: dict[int, Refusal] = {}
        for room in rooms:
            for holder in room.holders:
                victim = self._jobs.get(holder.job_id)
                if victim is None or victim.id in told or not self.outranks(job, victim) or victim.state is JobState.ENDED:
                    continue
                found = self._why_not(job, victim, room, need(job, shape, room), spared, gone)
                if found is not None:
                    told[victim.id] = found
        return tuple(told[number] for number in sorted(told))

    def _why_not(
        self, job: Job, victim: Job, room: Room, wanted: Need, spared: Spared, gone: Set[int]
    ) -> Refusal | None:
        if victim.state is JobState.GRANTED:
            return Refusal(victim.id, refusals.STARTING)
        if victim.state is JobState.STOPPING:
            return Refusal(victim.id, refusals.ENDING)
        if self._refuses(victim, job):
            return Refusal(victim.id, refusals.NEVER)
        if victim.id in spared.wholly:
            return Refusal(victim.id, refusals.KEPT)
        bound = self._yielding.get(victim.id, _NOTHING)
        evict = self._why_not_evict(job, victim, bound, spared)
        if evict is None:
            return None
        pause = self._why_not_pause(job, victim, room, wanted, bound, gone)
        return None if pause is None else refusals.both(pause, evict)

    def _why_not_evict(self, job: Job, victim: Job, bound: Yielding, spared: Spared) -> Refusal | None:
        text, at_mono = "", None
        least = self._least_run(job, victim)
        if victim.request.give_way is not GiveWay.REQUEUE or not bound.can_evict:
            text = bound.no_evict or refusals.NOT_RESTARTABLE
        elif self._ran(victim) < least:
            text = refusals.too_young(least, computes=victim.state is JobState.RUNNING)
            at_mono = None if victim.started_mono is None else victim.started_mono + least
        elif not self._waits_for(job, victim):
            text = refusals.too_slow(ending_seconds(victim), job.id)
        elif victim.state is not JobState.RUNNING and not self._may_wake(victim):
            text = refusals.NO_ROOM_TO_END
        elif victim.id in spared.not_evicted:
            text = refusals.FOR_ANOTHER
        return Refusal(victim.id, text, at_mono) if text else None

    def _why_not_pause(
        self, job: Job, victim: Job, room: Room, wanted: Need, bound: Yielding, gone: Set[int]
    ) -> Refusal | None:
        if bound.pause_seconds <= 0:
            return Refusal(victim.id, bound.no_pause or refusals.NO_PAUSE)
        if not self.may_stay_paused(job, victim.id):
            return Refusal(victim.id, refusals.too_long(bound.pause_seconds, short_only=bound.short_only))
        if self._returned_ago(victim) is not None and victim.state is JobState.RUNNING:
            assert victim.returned_mono is not None
            return Refusal(victim.id, refusals.JUST_BACK, victim.returned_mono + self._bounds.min_return_seconds)
        mine = next(each for each in victim.shares if each.uuid == room.gpu.uuid)
        held = room.held(victim.id, mine.bytes)
        suffices = not held if wanted.bytes is None else wanted.bytes <= room.left(gone, (victim.id,)).bytes
        return None if suffices else Refusal(victim.id, refusals.holds(held, room.total()))


def ending_seconds(victim: Job) -> float:
    """Return for how long a job may take to end once it is asked to (`--signal`)."""
    return sum(seconds for _number, seconds in stored_signals(victim.signals))
