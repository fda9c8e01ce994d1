"""What must hold whoever gives way: nothing over-promised, nobody forced, settled at once, everybody comes back."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from views import DATE, GIB, NOW, TOTAL, applied, foreign, gpu, running, share, waiting

from gpuwrap.lifecycle import IN_LINE, JobState
from gpuwrap.model import Bounds, Evict, GiveWay, Gpu, Grant, Job, Pause, Plan, Resume, View, Yielding
from gpuwrap.policy.effects import effect
from gpuwrap.policy.plan import plan
from gpuwrap.policy.reasons import Teller
from gpuwrap.policy.words import clock_of
from gpuwrap.units import MIB, PRIORITY_STEP

RANKS = st.sampled_from((-10, 0, 5, 10, 20, 50))
PAUSED, RUNNING, STOPPING = JobState.PAUSED, JobState.RUNNING, JobState.STOPPING


@st.composite
def ways(draw: Callable) -> Yielding:
    seconds = draw(st.sampled_from((0.0, 200.0, 14400.0)))
    return Yielding(seconds, draw(st.booleans()), None if seconds else "runs in a terminal", draw(st.booleans()))


@st.composite
def worlds(draw: Callable) -> View:
    """GPUs with jobs as an arbiter would have placed them: computing ones fit, others are paused beside them."""
    count = draw(st.integers(1, 4))
    free, used = [TOTAL] * count, [dict[int, int | None]() for _ in range(count)]
    promised = [0] * count
    closed = [False] * count
    jobs: list[Job] = []
    for number in range(1, draw(st.integers(1, 7)) + 1):
        places = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=2)))
        is_whole, state = draw(st.booleans()), draw(st.sampled_from((RUNNING, RUNNING, PAUSED, STOPPING, JobState.GRANTED)))
        size = draw(st.integers(1, 16)) * GIB
        held = draw(st.sampled_from((0, size // 2, size)))
        weight = held if state is PAUSED else size
        busy = state is not PAUSED and any(closed[i] or (is_whole and promised[i]) for i in places)
        if busy or any(free[i] - promised[i] < weight for i in places):
            continue
        known = draw(st.sampled_from((True, True, True, False)))
        for i in places:
            free[i] -= held
            used[i][number] = held if known else None
            if state is not PAUSED:
                promised[i] += size - held if known else size
                closed[i] |= is_whole
        job = running(number, *(share(i, size, is_whole) for i in places), m=size / GIB, exclusive=is_whole)
        ago = st.sampled_from((1.0, 299.0, 301.0, 9000.0))
        job = replace(
            job,
            state=state,
            priority=draw(RANKS),
            request=replace(job.request, give_way=draw(st.sampled_from(GiveWay))),
            started_mono=NOW - draw(ago),
            returned_mono=draw(st.one_of(st.none(), ago.map(lambda seconds: NOW - seconds))),
            yields_to=draw(st.sampled_from((None, 20, 21, 99))) if state in (PAUSED, STOPPING) else None,
        )
        jobs.append(job)
    for number in range(20, 20 + draw(st.integers(1, 4))):
        size = draw(st.one_of(st.none(), st.integers(1, 24)))
        job = waiting(number, draw(st.integers(1, count)), draw(RANKS), **({} if size is None else {"m": size}))
        limit = draw(st.sampled_from((None, None, 100.0, 900.0)))
        learned = draw(st.sampled_from((None, None, 6 * GIB)))
        request = replace(job.request, exclusive=draw(st.booleans()), time_limit_seconds=limit)
        jobs.append(replace(job, request=request, learned_bytes=learned))
    cards = tuple(gpu(i, free_bytes=free[i], used=used[i]) for i in range(count))
    if draw(st.integers(0, 5)) == 0:
        cards = (replace(cards[0], foreign=(foreign(size=None),)), *cards[1:])
    bounds = Bounds(draw(st.sampled_from((0, 500 * MIB))), draw(st.sampled_from((None, None, 2))))
    yielding = {job.id: draw(ways()) for job in jobs if job.state in (RUNNING, PAUSED)}
    waits = st.dictionaries(st.integers(20, 23), st.sampled_from((0.0, 60.0, 900.0)))
    return View(cards, tuple(jobs), frozenset(), frozenset(), bounds, yielding, patience=draw(waits))


def rounds(view: View, most: int = 12) -> list[tuple[View, Plan]]:
    """Plan and apply until there is nothing to do."""
    done: list[tuple[View, Plan]] = []
    for _ in range(most):
        made = plan(view, NOW)
        done.append((view, made))
        if not made.actions:
            return done
        view = applied(view, made)
    raise AssertionError("never settles")


def to_come(view: View, card: Gpu) -> int:
    """What may still be taken of a GPU's free memory by those that it was promised to."""
    sizes = []
    for job in view.jobs:
        for each in job.shares:
            held = card.used.get(job.id)
            if each.uuid == card.uuid and not (job.state is PAUSED and held is not None):
                sizes.append(max(0, each.bytes - (held or 0)))
    return sum(sizes)


@given(worlds())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_grant_beside_paused_jobs_promises_more_than_is_free(view: View) -> None:
    for before, made in rounds(view):
        after = applied(before, made)
        for action in made.actions:
            for each in action.shares if isinstance(action, Grant) else ():
                card = next(card for card in view.gpus if card.uuid == each.uuid)
                others = [job for job in after.jobs if job.id != action.job_id and any(s.uuid == each.uuid for s in job.shares)]
                if each.whole and all(job.state is PAUSED and card.used.get(job.id) == 0 for job in others):
                    continue  # all of an empty card: what it has to give
                assert to_come(after, card) + view.bounds.keep_free_bytes <= (card.free_bytes or 0)
                computing = [job for job in others if job.state is not PAUSED]
                assert not (each.whole and computing)
                assert not any(s.whole for job in computing for s in job.shares if s.uuid == each.uuid)


@given(worlds())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_victim_is_outranked_by_a_step_allows_it_and_is_within_its_bounds(view: View) -> None:
    for before, made in rounds(view):
        jobs = {job.id: job for job in before.jobs}
        for action in made.actions:
            if not isinstance(action, Pause | Evict):
                continue
            victim, newcomer = jobs[action.job_id], jobs[action.newcomer_id]
            way = view.yielding[victim.id]
            # A paused one is a newcomer to its own GPUs, once it outranks those that compute there.
            assert newcomer.state is JobState.WAITING or (newcomer.state is PAUSED and newcomer.yields_to is not None)
            assert newcomer.priority >= victim.priority + PRIORITY_STEP
            assert victim.request.give_way is not GiveWay.NEVER
            if isinstance(action, Pause):
                assert victim.state is RUNNING
                limit = newcomer.request.time_limit_seconds
                least = view.bounds.least_pause_seconds
                assert way.pause_seconds > 0
                assert way.pause_seconds >= (least if limit is None else min(limit, least))
                assert not way.short_only or (limit is not None and limit <= way.pause_seconds)
                assert victim.returned_mono is None or NOW - victim.returned_mono >= view.bounds.min_return_seconds
            else:
                assert victim.state in (RUNNING, PAUSED)
                assert way.can_evict
                assert victim.request.give_way is GiveWay.REQUEUE
                assert victim.started_mono is not None
                assert NOW - victim.started_mono >= view.bounds.min_run_seconds
                assert view.patience.get(newcomer.id, inf) >= 120


@given(worlds())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_who_stands_beside_a_paused_job_outranks_it_by_a_step(view: View) -> None:
    for before, made in rounds(view):
        for action in made.actions:
            if not isinstance(action, Grant):
                continue
            granted = next(job for job in before.jobs if job.id == action.job_id)
            uuids = {each.uuid for each in action.shares}
            resumed = {each.job_id for each in made.actions if isinstance(each, Resume)}
            for job in before.jobs:
                if job.state is PAUSED and uuids & {s.uuid for s in job.shares} and job.id not in resumed:
                    assert granted.priority >= job.priority + PRIORITY_STEP
                    assert view.yielding[job.id].pause_seconds > 0


@given(worlds())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_settles_and_nobody_is_paused_and_resumed_in_one_instant(view: View) -> None:
    done = rounds(view)
    moved = [(type(action), action.job_id) for _, made in done for action in made.actions]
    assert len(moved) == len(set(moved))
    for job in view.jobs:
        assert not {(Pause, job.id), (Resume, job.id)} <= set(moved)
    # Every pause was for a grant: its newcomer's, or that of one before it in line, who then need not wait for an eviction;
    # or for the return of a paused job.
    grants = [action for _, made in done for action in made.actions if isinstance(action, Grant)]
    granted = {action.job_id for _, made in done for action in made.actions if isinstance(action, Grant | Resume)}
    freed = {each.uuid for grant in grants for each in grant.shares}
    for before, made in done:
        places = {job.id: {each.uuid for each in job.shares} for job in before.jobs}
        for action in made.actions:
            if isinstance(action, Pause):
                assert action.newcomer_id in granted or places[action.job_id] & freed


@given(worlds())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_evicted_makes_room_for_the_newcomer_if_everybody_goes_as_asked(view: View) -> None:
    for before, made in rounds(view):
        newcomers = {action.newcomer_id for action in made.actions if isinstance(action, Evict)}
        if not newcomers:
            continue
        gone = {action.job_id for action in made.actions if isinstance(action, Evict)}
        after = applied(before, made)
        cards = []
        for card in after.gpus:
            freed = sum(card.used.get(number) or 0 for number in gone)
            left = {number: size for number, size in card.used.items() if number not in gone}
            # What the driver does not give a figure for is given up nevertheless.
            unknown = card.free_bytes if None in left.values() else TOTAL - sum(size or 0 for size in left.values())
            cards.append(replace(card, used=left, free_bytes=max(unknown or 0, (card.free_bytes or 0) + freed)))
        jobs = tuple(replace(job, state=JobState.HELD, shares=()) if job.id in gone else job for job in after.jobs)
        later = rounds(replace(after, gpus=tuple(cards), jobs=jobs))
        started = {action.job_id for _, each in later for action in each.actions if isinstance(action, Grant | Resume)}
        assert newcomers <= started


@given(worlds())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_sentence_is_one_printable_line(view: View) -> None:
    for before, made in rounds(view):
        teller = Teller(before, NOW, DATE)
        for job in before.jobs:
            lines = [effect(made, job.id, before, clock_of(NOW, DATE))] if job.state in IN_LINE else []
            if job.id in made.reasons:
                reason = made.reasons[job.id]
                lines += [teller.sentence(reason, job), *teller.help_lines(reason, job)]
                assert lines[1]
            assert all(line.isprintable() and not line.endswith((" ", ":", ",")) for line in lines)


class Storm:
    """Simulated time: jobs come, take memory, end, are paused, evicted, renewed. Every rule is checked at every step."""

    STEP = 30.0

    def __init__(self, seed: int, count: int) -> None:
        self.random, self.count, self.now = Random(seed), count, NOW
        self.jobs: dict[int, Job] = {}
        self.work: dict[int, float] = {}
        self.needs: dict[int, int] = {}
        self.held: dict[int, int] = {}
        self.forced: set[int] = set()
        self.paused_for: dict[int, float] = {}
        self.moved: dict[int, list[tuple[type, float]]] = {}
        self.number = 0

    def arrive(self) -> None:
        self.number += 1
        random, number = self.random, self.number
        size = random.choice((None, None, 2, 6, 12))
        give_way = random.choice((GiveWay.PAUSE, GiveWay.PAUSE, GiveWay.REQUEUE, GiveWay.NEVER))
        job = waiting(number, random.choice((1, 1, 1, min(2, self.count))), random.choice((-10, 0, 0, 10, 50)),
            give_way=give_way, **({} if size is None else {"m": size}))  # fmt: skip
        learned = (size or 8) * GIB if random.random() < 0.4 else None
        self.jobs[number] = replace(job, learned_bytes=learned)
        self.needs[number] = (size or 8) * GIB - GIB // 4
        self.work[number] = random.choice((60.0, 300.0, 1200.0))

    def may_pause(self, job: Job) -> float:
        return max(0.0, 3600.0 - self.paused_for.get(job.id, 0.0))

    def view(self) -> View:
        used = [dict[int, int | None]() for _ in range(self.count)]
        for job in self.jobs.values():
            for each in job.shares:
                used[each.index][job.id] = min(self.held.get(job.id, 0), each.bytes)
        free = [TOTAL - sum(size or 0 for size in each.values()) for each in used]
        # One paused for as long as it may goes on beside whoever is there: who takes more than is left runs out.
        assert min(free) >= 0 or self.forced & set(self.jobs), "more memory is used than there is"
        free = [max(0, size) for size in free]
        cards = tuple(gpu(i, used=used[i], free_bytes=free[i]) for i in range(self.count))
        ways = {
            job.id: Yielding(self.may_pause(job), can_evict=job.request.give_way is GiveWay.REQUEUE)
            for job in self.jobs.values()
            if job.state in (RUNNING, PAUSED)
        }  # fmt: skip
        return View(cards, tuple(self.jobs.values()), bounds=Bounds(GIB // 4), yielding=ways)

    def apply(self, made: Plan, view: View) -> None:
        for job in applied(view, made, self.now).jobs:
            if job.state is JobState.GRANTED:
                job = replace(job, state=RUNNING, started_mono=self.now)
            self.jobs[job.id] = job
        for action in made.actions:
            before = self.moved.setdefault(action.job_id, [])
            assert (type(action), self.now) not in before
            if isinstance(action, Pause):
                returns = [at for kind, at in before if kind is Resume]
                assert not returns or self.now - returns[-1] >= 300, "paused again too soon"
            if isinstance(action, Resume):
                if action.forced:
                    self.forced.add(action.job_id)
                assert (Pause, self.now) not in before, "paused and resumed in one instant"
            before.append((type(action), self.now))

    def step(self) -> None:
        self.now += self.STEP
        for job in list(self.jobs.values()):
            if job.state is PAUSED:
                self.paused_for[job.id] = self.paused_for.get(job.id, 0.0) + self.STEP
            elif job.state is STOPPING:
                self.jobs[job.id] = replace(job, state=JobState.WAITING, shares=(), yields_to=None, started_mono=None)
                self.held[job.id] = 0
            elif job.state is RUNNING:
                ran = self.now - (job.started_mono or 0)
                self.held[job.id] = max(self.held.get(job.id, 0), self.needs[job.id] // (1 if ran > 60 else 4))
                self.work[job.id] -= self.STEP
                if self.work[job.id] <= 0:
                    del self.jobs[job.id]
        for _ in range(20):
            view = self.view()
            made = plan(view, self.now)
            if not made.actions:
                return
            self.apply(made, view)
        raise AssertionError("never settles")


@pytest.mark.parametrize("count", [1, 2, 4])
@given(st.integers(0, 10**6))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_a_storm_all_bounds_hold_and_in_the_end_everybody_has_run(count: int, seed: int) -> None:
    storm = Storm(seed, count)
    for _ in range(120):
        if storm.random.random() < 0.3:
            storm.arrive()
        if storm.random.random() < 0.1:
            waits = [job for job in storm.jobs.values() if job.state in (JobState.WAITING, RUNNING, PAUSED)]
            for job in storm.random.sample(waits, min(1, len(waits))):
                storm.jobs[job.id] = replace(job, priority=storm.random.choice((-10, 0, 10, 50)))
        storm.step()
    for _ in range(3000):
        if not storm.jobs:
            return
        storm.step()
    raise AssertionError(f"never ended: {[(job.id, job.state.value, job.priority) for job in storm.jobs.values()]}")
