"""The order among equals: who stands before whom, who is due, who gives way to whom, and that arrival is as it was."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan_properties import views
from test_victims_properties import rounds, worlds
from views import NOW, TOTAL, gpu, gpus, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import (
    Basis,
    Bounds,
    Evict,
    Expected,
    GiveWay,
    Grant,
    Job,
    Order,
    Pause,
    Plan,
    View,
    Yielding,
)
from gpuwrap.policy.lineup import LineUp
from gpuwrap.policy.plan import plan
from gpuwrap.policy.ranks import Ranks
from gpuwrap.policy.sweeps import SweepLimits
from gpuwrap.units import PRIORITY_STEP

DAY = 86400.0
RESTARTABLE = Yielding(can_evict=True)


def expected(seconds: float, basis: Basis = Basis.OWNER) -> Expected:
    return Expected(seconds, seconds, seconds / 2, seconds * 2, basis)


def made(jobs: tuple[Job, ...], needs: dict[int, float], count: int = 1, order: Order = Order.SHORTEST, **more: object) -> Plan:
    known = {number: expected(seconds) for number, seconds in needs.items()}
    return plan(View(gpus(count), jobs, order=order, expected=known, **more), NOW)  # type: ignore[arg-type]


def restartable(job: Job) -> Job:
    return replace(job, request=replace(job.request, give_way=GiveWay.REQUEUE), stub=True)


def started(result: Plan) -> list[int]:
    return [each.job_id for each in result.actions if isinstance(each, Grant)]


def test_who_is_expected_to_need_less_goes_first_and_arrival_decides_among_alike() -> None:
    line = waiting(1), waiting(2), waiting(3)
    assert started(made(line, {1: 900, 2: 60, 3: 60})) == [2]
    assert started(made(line, {1: 900, 2: 60, 3: 60}, order=Order.ARRIVAL)) == [1]
    assert list(made(line, {1: 900, 2: 60, 3: 60}).reasons) == [3, 1]


def test_priority_comes_before_everything() -> None:
    assert started(made((waiting(1), waiting(2, priority=1)), {1: 1, 2: 9000})) == [2]


def test_of_whom_nothing_is_expected_goes_last() -> None:
    assert started(made((waiting(1), waiting(2)), {2: 9000})) == [2]


def test_more_gpus_count_by_their_root() -> None:
    assert started(made((waiting(1, 4), waiting(2)), {1: 100, 2: 150}, count=4)) == [2]
    assert started(made((waiting(1, 4), waiting(2)), {1: 100, 2: 250}, count=4)) == [1]


def test_in_the_order_fair_who_has_used_more_goes_later() -> None:
    line, needs, burden = (waiting(1), waiting(2)), {1: 100.0, 2: 150.0}, {1: 1.8, 2: 0.2}
    assert started(made(line, needs, order=Order.FAIR, burden=burden)) == [2]
    assert started(made(line, needs, order=Order.SHORTEST, burden=burden)) == [1]


def test_who_is_due_goes_first_and_nobody_later_takes_its_gpus() -> None:
    def line(waited: float) -> tuple[Job, ...]:
        return running(9, share(0), since=60), replace(waiting(1, 2), submitted_mono=NOW - waited), waiting(2)

    needs = {9: 3600.0, 1: 1000.0, 2: 10.0}
    assert started(made(line(0), needs, count=2)) == [2]
    late = made(line(3 * DAY + 20_000), needs, count=2)
    assert late.kept == {"GPU-0": 1, "GPU-1": 1}
    assert started(late) == [2], "it ends long before the other GPU can be had"
    soon = needs | {9: 60.0, 2: 100.0}
    assert started(made(line(0), soon, count=2)) == [2]
    assert started(made(line(3 * DAY + 20_000), soon, count=2)) == []
    long = made(line(3 * DAY + 20_000), needs | {2: 3000.0}, count=2)
    assert started(long) == [], "a guess is given a margin"


def test_expected_ends_set_the_time_until_which_others_slip_in() -> None:
    line = running(9, share(0), since=60), waiting(1, 2), waiting(2)
    assert started(made(line, {9: 9000, 1: 100, 2: 600}, count=2)) == [2]
    assert started(made(line, {9: 500, 1: 100, 2: 600}, count=2)) == []
    assert started(made(line, {9: 9000, 1: 100, 2: 600}, count=2, order=Order.ARRIVAL)) == []


def test_an_equal_gives_way_only_if_it_said_so_has_run_and_needs_more_than_twice_as_much() -> None:
    def asked(victim: Job, need: float, ways: Yielding = RESTARTABLE, **more: object) -> tuple[object, ...]:
        return made((victim, waiting(2)), {1: 1000, 2: need}, yielding={1: ways}, **more).actions

    victim = restartable(running(1, share(0)))
    assert asked(victim, 499) == (Evict(1, 2),)
    assert asked(victim, 500) == ()
    assert asked(victim, 499, order=Order.ARRIVAL) == ()
    assert asked(running(1, share(0)), 10) == ()
    assert asked(running(1, share(0)), 10, Yielding(9000.0)) == ()
    assert asked(replace(victim, started_mono=NOW - 119), 10) == ()
    assert asked(replace(victim, started_mono=NOW - 120), 10) == (Evict(1, 2),)
    assert asked(replace(victim, priority=1), 10) == ()
    assert asked(replace(victim, submitted_mono=NOW - 30 * DAY), 10) == (), "one that is due gives way to no equal"


def test_of_equals_those_give_way_that_lose_least_and_then_who_needs_longest() -> None:
    victims = tuple(restartable(running(number, share(number - 1))) for number in (1, 2, 3))
    ways = dict.fromkeys((1, 2, 3), RESTARTABLE)
    needs = {1: 1000.0, 2: 9000.0, 3: 2000.0, 4: 10.0}
    choice = made((*victims, waiting(4)), needs, 3, yielding=ways, lost=dict.fromkeys((1, 2, 3), 60.0))
    assert choice.actions == (Evict(2, 4),)
    choice = made((*victims, waiting(4)), needs, 3, yielding=ways, lost={1: 60.0, 2: 60.0, 3: 1.0})
    assert choice.actions == (Evict(3, 4),)


def test_who_may_be_run_again_takes_what_is_kept_for_an_equal_that_is_not_due() -> None:
    held, wide = running(9, share(0)), waiting(1, 2)
    needs = {9: 600.0, 1: 100.0, 2: 9000.0}
    assert started(made((held, wide, waiting(2)), needs, 2)) == []
    assert started(made((held, wide, restartable(waiting(2))), needs, 2)) == [2]
    due = replace(wide, submitted_mono=NOW - 30 * DAY)
    assert started(made((held, due, restartable(waiting(2))), needs, 2)) == []


def test_more_never_stands_still_for_an_equal_than_goes_on() -> None:
    gang = restartable(running(1, share(0, TOTAL // 4), share(1, TOTAL // 4)))
    cards = tuple(gpu(index, used={1: TOTAL // 4}, free_bytes=TOTAL - TOTAL // 4) for index in (0, 1))
    for count, paused in ((1, ()), (2, (Pause(1, 2),))):
        job = replace(waiting(2, count), learned_bytes=TOTAL // 4)
        view = View(cards, (gang, job), order=Order.SHORTEST, expected={1: expected(9000), 2: expected(10)})
        assert plan(replace(view, yielding={1: Yielding(9000.0)}), NOW).actions == paused


# For every view.


@st.composite
def ordered(draw: Callable, seen: st.SearchStrategy) -> View:
    view = draw(seen)
    seconds = st.sampled_from((1.0, 60.0, 1000.0, 3000.0, 90_000.0))
    jobs, known = [], {}
    for job in view.jobs:
        waited = draw(st.sampled_from((0.0, 0.0, 0.0, 40 * DAY)))
        jobs.append(replace(job, stub=job.request.give_way is GiveWay.REQUEUE, submitted_mono=NOW - waited))
        if draw(st.integers(0, 4)):
            limit = job.request.time_limit_seconds
            known[job.id] = expected(draw(seconds)) if limit is None else expected(limit, Basis.LIMIT)
    burden = {job.id: draw(st.sampled_from((0.1, 1.0, 3.0))) for job in jobs}
    order = draw(st.sampled_from((Order.SHORTEST, Order.FAIR)))
    return replace(view, jobs=tuple(jobs), order=order, expected=known, burden=burden)


SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def as_it_was(job: Job) -> tuple[int, tuple[int, int], int]:
    """What a line was sorted by before there were orders."""
    return -job.priority, job.turn, job.id


@given(st.one_of(ordered(views()), ordered(worlds())))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_in_order_of_arrival_nothing_that_is_expected_changes_a_plan(view: View) -> None:
    view = replace(view, order=Order.ARRIVAL)
    ranks = Ranks(view, NOW)
    line = [job for job, _ in LineUp(view, ranks, SweepLimits(view.jobs)).entries]
    anyway = [job for job in line if job.state is JobState.PAUSED]
    assert [job for job in line if job not in anyway] == sorted((job for job in line if job not in anyway), key=as_it_was)
    bare = plan(replace(view, expected={}, burden={}), NOW)
    told = plan(view, NOW)
    assert (told.actions, told.kept, told.stuck) == (bare.actions, bare.kept, bare.stuck)
    assert list(told.reasons.items()) == list(bare.reasons.items())


@given(ordered(worlds()))
@SLOW
def test_it_settles_in_every_order_and_nobody_is_paused_and_resumed_in_one_instant(view: View) -> None:
    moved = [(type(action), action.job_id) for _, each in rounds(view) for action in each.actions]
    assert len(moved) == len(set(moved))
    for job in view.jobs:
        assert not {"Pause", "Resume"} <= {kind.__name__ for kind, number in moved if number == job.id}


@given(ordered(worlds()))
@SLOW
def test_nobody_gives_way_to_an_equal_who_did_not_say_so(view: View) -> None:
    for before, each in rounds(view):
        jobs, ranks = {job.id: job for job in before.jobs}, Ranks(before, NOW)
        for action in each.actions:
            if isinstance(action, Evict | Pause):
                victim, newcomer = jobs[action.job_id], jobs[action.newcomer_id]
                if newcomer.priority >= victim.priority + PRIORITY_STEP:
                    continue
                assert newcomer.priority == victim.priority
                assert victim.request.give_way is GiveWay.REQUEUE
                assert NOW - (victim.started_mono or NOW) >= before.bounds.min_run_among_equals_seconds
                assert ranks.rank(newcomer) < ranks.rank(victim) / 2
                assert not ranks.is_due(victim)


@given(ordered(worlds()), st.randoms())
@SLOW
def test_the_order_of_a_view_changes_nothing(view: View, chance: object) -> None:
    jobs = list(view.jobs)
    chance.shuffle(jobs)  # type: ignore[attr-defined]
    one, other = plan(view, NOW), plan(replace(view, jobs=tuple(jobs)), NOW)
    assert (one.actions, one.kept) == (other.actions, other.kept)


def place(job: Job, ranks: Ranks) -> tuple[object, ...]:
    return -job.priority, ranks.rank(job), job.turn, job.id


@given(ordered(views()))
@SLOW
def test_a_due_job_is_passed_by_nobody_that_could_delay_it(view: View) -> None:
    view = replace(view, bounds=Bounds())
    made_, ranks = plan(view, NOW), Ranks(view, NOW)
    granted = {action.job_id: action for action in made_.actions if isinstance(action, Grant)}
    jobs = {job.id: job for job in view.jobs}
    for number, action in granted.items():
        for share_ in action.shares:
            first = jobs.get(made_.kept.get(share_.uuid, -1))
            if first is not None and ranks.is_due(first) and place(first, ranks) < place(jobs[number], ranks):
                # It ends, by its limit or by what is expected of it, before the kept GPUs can be had.
                assert ranks.limit_seconds(jobs[number]) is not None
