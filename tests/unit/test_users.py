"""The order between users: who is next, who interrupts whom, what caps hold back, and that one user sees none of it."""

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan_properties import views
from test_victims_properties import rounds, worlds
from views import NOW, applied, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import GiveWay, Grant, Job, Order, Pause, Plan, Request, Resume, Rule, View, Yielding
from gpuwrap.people import Between, Caps, People
from gpuwrap.policy.plan import plan
from gpuwrap.policy.ranks import Ranks
from gpuwrap.policy.reasons import Teller
from gpuwrap.policy.replaying import Recorded, Replay, Rules
from gpuwrap.policy.users import ALIKE, Standing, capped_priority, over_cap, rate

ANNA, BOB, CARLA = 1001, 1002, 1003
NAMES = {ANNA: "anna", BOB: "bob", CARLA: "carla"}
HOUR, DAY = 3600.0, 86400.0
INTERRUPTS = Caps(may_interrupt=True)
PAUSABLE = Yielding(pause_seconds=14400.0)


def people(owners: dict[int, int], **more: object) -> People:
    return People(owners=owners, names=NAMES, **more)  # type: ignore[arg-type]


def made(jobs: tuple[Job, ...], owners: dict[int, int], count: int = 1, yielding: tuple[int, ...] = (), **more: object) -> Plan:
    ways = dict.fromkeys(yielding, PAUSABLE)
    return plan(View(gpus(count), jobs, yielding=ways, people=people(owners, **more)), NOW)


def started(result: Plan) -> list[int]:
    return [each.job_id for each in result.actions if isinstance(each, Grant)]


def order(result: Plan) -> list[int]:
    return [*started(result), *result.reasons]


# Who is next


def test_who_has_used_less_goes_first_whatever_others_asked_before_or_type() -> None:
    line = tuple(waiting(number, priority=100 if number == 2 else 0) for number in range(1, 6))
    owners = dict.fromkeys(range(1, 5), ANNA) | {5: BOB}
    assert order(made(line, owners, used={ANNA: 10.0})) == [5, 2, 1, 3, 4]
    assert order(made(line, owners, used={ANNA: 10.0, BOB: 20.0})) == [2, 1, 3, 4, 5]


def test_a_weight_divides_what_somebody_has_used() -> None:
    line, owners = (waiting(1), waiting(2)), {1: ANNA, 2: BOB}
    used = {ANNA: 100.0, BOB: 150.0}
    assert order(made(line, owners, used=used)) == [1, 2]
    assert order(made(line, owners, used=used, caps={BOB: Caps(weight=2.0)})) == [2, 1]


def test_those_who_have_used_about_as_much_are_served_by_arrival() -> None:
    line, owners = (waiting(1), waiting(2), waiting(3)), {1: ANNA, 2: BOB, 3: ANNA}
    assert order(made(line, owners, used={ANNA: 104.0, BOB: 100.0})) == [1, 2, 3]
    assert order(made(line, owners, used={ANNA: 106.0, BOB: 100.0})) == [2, 1, 3]


def test_by_arrival_each_fills_his_own_places_by_his_own_order() -> None:
    line = waiting(1), waiting(2), waiting(3, priority=100), waiting(4, priority=10)
    owners = {1: ANNA, 2: BOB, 3: BOB, 4: ANNA}
    assert order(made(line, owners, between=Between.ARRIVAL)) == [4, 3, 2, 1]


def test_by_priority_all_are_as_one_user() -> None:
    line = waiting(1), waiting(2), waiting(3, priority=10)
    owners = {1: ANNA, 2: BOB, 3: BOB}
    assert order(made(line, owners, between=Between.PRIORITY, used={BOB: 1e9})) == [3, 1, 2]


# Who interrupts whom


def test_an_urgent_job_makes_its_owner_s_others_give_way_and_nobody_else_s() -> None:
    runs = running(1, share(0)), running(2, share(1))
    owners = {1: ANNA, 2: BOB, 3: BOB}
    newcomer = waiting(3, priority=50, memory_bytes=1)
    assert made((*runs, newcomer), owners, 2, (1, 2)).actions == (Pause(2, 3),)
    owners[3] = CARLA
    assert made((*runs, newcomer), owners, 2, (1, 2)).actions == ()


def test_who_may_interrupt_is_first_and_makes_others_give_way() -> None:
    runs, owners = running(1, share(0), priority=100), {1: ANNA, 2: ANNA, 3: CARLA}
    line = waiting(2, priority=100), waiting(3, priority=50, memory_bytes=1)
    caps = {CARLA: INTERRUPTS}
    found = made((runs, *line), owners, 1, (1,), caps=caps, used={CARLA: 1e9})
    assert found.actions == (Pause(1, 3),), "what anna typed is no shield"
    both = {CARLA: INTERRUPTS, ANNA: INTERRUPTS}
    assert made((runs, *line), owners, 1, (1,), caps=both).actions == (), "hers is as urgent as carla's, or more"
    high = waiting(3, priority=49, memory_bytes=1)
    assert made((runs, line[0], high), owners, 1, (1,), caps=caps).actions == ()


def test_never_holds_against_others_only_where_it_may() -> None:
    runs, owners = running(1, share(0), give_way=GiveWay.NEVER), {1: ANNA, 2: CARLA}
    newcomer = waiting(2, priority=50, memory_bytes=1)
    assert made((runs, newcomer), owners, 1, (1,), caps={CARLA: INTERRUPTS}).actions == ()
    bare = {CARLA: INTERRUPTS, ANNA: Caps(may_refuse=False)}
    assert made((runs, newcomer), owners, 1, (1,), caps=bare).actions == (Pause(1, 2),)
    jobs = runs, waiting(3, priority=50, memory_bytes=1), waiting(4)
    assert made(jobs, {1: ANNA, 3: ANNA, 4: BOB}, 1, (1,), caps=bare).actions == (), "against her own it holds"


# Caps


def test_max_gpus_counts_what_computes_and_keeps_nothing_for_who_is_at_it() -> None:
    jobs = running(1, share(0)), waiting(2, 2), waiting(3), waiting(4)
    owners = {1: ANNA, 2: ANNA, 3: BOB, 4: ANNA}
    found = made(jobs, owners, 3, caps={ANNA: Caps(max_gpus=2)}, used={BOB: 100.0})
    assert started(found) == [4, 3]
    assert found.reasons[2].rule is Rule.CAP
    assert not found.kept
    paused = in_state(jobs[0], JobState.PAUSED, paused_mono=NOW)
    assert started(made((paused, jobs[1], jobs[2]), owners, 4, caps={ANNA: Caps(max_gpus=2)})) == [2, 3]


def test_at_max_gpus_one_s_urgent_job_takes_the_place_of_one_s_own() -> None:
    jobs = running(1, share(0)), waiting(2, priority=50, memory_bytes=1)
    owners, caps = {1: ANNA, 2: ANNA}, {ANNA: Caps(max_gpus=1)}
    view = View(gpus(2), jobs, yielding={1: PAUSABLE}, people=people(owners, caps=caps))
    first = plan(view, NOW)
    assert first.actions == (Pause(1, 2),)
    after = applied(view, first)
    second = plan(after, NOW)
    assert started(second) == [2]
    assert plan(applied(after, second), NOW).actions == (), "the paused one does not go on beside it: that would be two"


def test_leave_free_lets_one_start_only_while_so_many_stay_free() -> None:
    jobs, owners = (waiting(1), waiting(2), waiting(3)), {1: ANNA, 2: ANNA, 3: BOB}
    found = made(jobs, owners, 3, caps={ANNA: Caps(leave_free=2)})
    assert started(found) == [1, 3]
    assert found.reasons[2].rule is Rule.CAP


def test_a_priority_over_the_cap_is_lowered_and_a_request_over_one_is_refused() -> None:
    assert capped_priority(50, Caps(max_priority=10)) == 10
    assert capped_priority(5, Caps(max_priority=10)) == 5
    assert over_cap(2, None, 0, Caps(max_gpus=1)) == "max_gpus"
    assert over_cap(1, 7200.0, 0, Caps(max_time_seconds=3600.0)) == "max_time"
    assert over_cap(1, None, 0, Caps(max_time_seconds=3600.0)) is None, "who says none is given it by default_time alone"
    assert over_cap(0, None, 5000, Caps()) == "max_jobs"
    assert over_cap(1, None, 4999, Caps()) is None


def test_a_shared_gpu_counts_by_memory_or_by_who_computes_there_and_a_paused_job_by_memory() -> None:
    cards, sixth = gpus(2), share(0, gpus(1)[0].total_bytes // 6, False)
    assert rate(running(1, share(0), share(1)), cards, {"GPU-0": 1, "GPU-1": 1}) == 2.0
    assert rate(running(1, sixth), cards, {"GPU-0": 2}) == 0.5
    assert rate(running(1, sixth), cards, {"GPU-0": 10}) == pytest.approx(1 / 6)
    assert rate(in_state(running(1, sixth), JobState.PAUSED), cards, {"GPU-0": 2}) == pytest.approx(1 / 6)


# Sentences


def test_why_says_who_has_used_less_and_how_much() -> None:
    jobs = running(1, share(0)), waiting(2), waiting(3), waiting(4)
    view = View(gpus(1), jobs, people=people({1: BOB, 2: BOB, 3: CARLA, 4: ANNA},
                used={ANNA: 2 * HOUR, CARLA: 5 * HOUR, BOB: 61 * HOUR}))  # fmt: skip
    reason = plan(view, NOW).reasons[2]
    told = "a GPU, 3rd in line: anna and carla have used less this week (2 h and 5 h; you 61 h)"
    assert Teller(view, NOW, 0.0, BOB).sentence(reason, jobs[1]) == told
    told = "a GPU, 3rd in line: anna and carla have used less this week (2 h and 5 h; bob 61 h)"
    assert Teller(view, NOW, 0.0).sentence(reason, jobs[1]) == told
    told = "a GPU, 3rd in line: you and carla have used less this week (2 h and 5 h; bob 61 h)"
    assert Teller(view, NOW, 0.0, ANNA).sentence(reason, jobs[1]) == told


def test_why_says_which_cap_it_is() -> None:
    jobs = running(1, share(0)), waiting(2)
    owners = {1: ANNA, 2: ANNA}
    view = View(gpus(3), jobs, people=people(owners, caps={ANNA: Caps(max_gpus=1)}))
    told = Teller(view, NOW, 0.0).sentence(plan(view, NOW).reasons[2], jobs[1])
    assert told == "its turn: anna may have a GPU at once, and has 1 (max_gpus)"
    view = replace(view, people=people(owners, caps={ANNA: Caps(leave_free=2)}))
    told = Teller(view, NOW, 0.0).sentence(plan(view, NOW).reasons[2], jobs[1])
    assert told == "its turn: anna leaves 2 GPUs free (leave_free)"


# Properties


@st.composite
def crowds(draw: Callable, made_of: st.SearchStrategy[View]) -> View:
    """A view whose jobs are three users', who have used and may what they may."""
    view = draw(made_of)
    owners = {job.id: draw(st.sampled_from((ANNA, BOB, CARLA))) for job in view.jobs}
    used = {uid: draw(st.sampled_from((0.0, 1.0, 100.0, 103.0, 107.0, 1e6))) for uid in NAMES}
    caps = {
        uid: Caps(
            weight=draw(st.sampled_from((1.0, 1.0, 2.0))),
            may_interrupt=draw(st.booleans()),
            may_refuse=draw(st.booleans()),
            max_gpus=draw(st.sampled_from((None, None, 1, 2))),
            leave_free=draw(st.sampled_from((0, 0, 1))),
        )
        for uid in NAMES
    }
    jobs = tuple(
        replace(job, priority=draw(st.sampled_from((job.priority, 50, 60)))) if not job.shares else job for job in view.jobs
    )
    between = draw(st.sampled_from(list(Between)))
    return replace(view, jobs=jobs, people=People(between, owners, caps, used, NAMES))


# By hand: GPURUN_TEST_EXAMPLES=3000.
EXAMPLES = int(os.environ.get("GPURUN_TEST_EXAMPLES", "60"))
MANY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@given(views(), st.sampled_from(list(Between)), st.booleans())
@MANY
def test_one_user_alone_is_planned_for_as_without_all_this(view: View, between: Between, interrupts: bool) -> None:
    alone = People(between, {job.id: ANNA for job in view.jobs}, {ANNA: Caps(3.0, may_interrupt=interrupts)}, {ANNA: 1e6})
    before, after = plan(view, NOW), plan(replace(view, people=alone), NOW)
    assert (after.actions, after.kept, dict(after.reasons)) == (before.actions, before.kept, dict(before.reasons))


@given(crowds(views()))
@MANY
def test_nobody_who_has_used_less_waits_behind_one_who_used_more(view: View) -> None:
    assert view.people is not None
    even = replace(view.people, between=Between.FAIR, caps={uid: Caps() for uid in NAMES})
    view = replace(view, people=even)
    standing, jobs = Standing(view), {job.id: job for job in view.jobs}
    line = [jobs[number] for number in plan(view, NOW).reasons]
    places = {job.id: place for place, job in enumerate(line)}
    for ahead in line:
        for behind in line:
            if places[ahead.id] < places[behind.id] and ahead.state is behind.state is JobState.WAITING:
                more, less = standing.burden(standing.owner(ahead)), standing.burden(standing.owner(behind))
                assert not less * ALIKE < more
    # Nor is anybody granted what one before him could have had, who may have it as well.
    for number in started(plan(view, NOW)):
        for job in line:
            if job.state is JobState.WAITING and job.request == jobs[number].request and not view.stopped | view.absent:
                assert standing.burden(standing.owner(jobs[number])) <= standing.burden(standing.owner(job)) * ALIKE


@given(crowds(views()))
@MANY
def test_nobody_has_more_than_his_cap_and_nothing_is_kept_beyond_it(view: View) -> None:
    assert view.people is not None
    found = plan(view, NOW)
    jobs, owners = {job.id: job for job in view.jobs}, view.people.owners
    computing = (JobState.GRANTED, JobState.RUNNING, JobState.STOPPING)
    have = {uid: sum(len(j.shares) for j in jobs.values() if owners[j.id] == uid and j.state in computing) for uid in NAMES}
    for action in found.actions:
        if isinstance(action, Grant):
            have[owners[action.job_id]] += len(action.shares)
            most = view.people.caps_of(owners[action.job_id]).max_gpus
            assert not action.shares or most is None or have[owners[action.job_id]] <= most
    for job_id in set(found.kept.values()):
        most = view.people.caps_of(owners[job_id]).max_gpus
        assert most is None or sum(whom == job_id for whom in found.kept.values()) <= most


@given(crowds(views()))
@MANY
def test_within_one_user_the_order_is_that_of_a_queue_of_his_own(view: View) -> None:
    alone, owners = plan(replace(view, people=None), NOW), view.people.owners  # type: ignore[union-attr]
    # In line, granted or not: the walk goes through all of them.
    standing = Ranks(view, NOW).standing
    line = [job for job in sorted(view.jobs, key=lambda each: (-each.priority, each.turn, each.id)) if not job.shares]
    served = [job.id for job in standing.line(line)]
    for uid in NAMES:
        assert [each for each in served if owners[each] == uid] == [job.id for job in line if owners[job.id] == uid]
    assert sorted(served) == sorted(job.id for job in line)
    assert alone is not None


@given(crowds(worlds()))
@MANY
def test_nobody_makes_another_s_job_give_way_but_who_may(view: View) -> None:
    people_, jobs = view.people, {job.id: job for job in view.jobs}
    assert people_ is not None
    for action in plan(view, NOW).actions:
        if isinstance(action, Grant | Resume):
            continue
        newcomer, victim = jobs[action.newcomer_id], jobs[action.job_id]
        mine, theirs = people_.owners[newcomer.id], people_.owners[victim.id]
        if mine == theirs or people_.between is Between.PRIORITY:
            continue
        assert people_.caps_of(mine).may_interrupt
        assert newcomer.priority >= 50
        assert victim.request.give_way is not GiveWay.NEVER or not people_.caps_of(theirs).may_refuse


@given(crowds(worlds()))
@MANY
def test_a_plan_carried_out_settles(view: View) -> None:
    assert rounds(view)


@given(crowds(views()), st.randoms())
@MANY
def test_in_whatever_order_the_jobs_are_named_the_plan_is_the_same(view: View, chance: random.Random) -> None:
    mixed = list(view.jobs)
    chance.shuffle(mixed)
    one, other = plan(view, NOW), plan(replace(view, jobs=tuple(mixed)), NOW)
    assert one.actions == other.actions
    assert one.kept == other.kept


# A week


def a_week(weights: dict[str, float], gpus_: int = 4, between: Between = Between.FAIR) -> dict[str, float]:
    """What part of a week's GPU time each of three got who always want something: anna has 400 jobs in line from the start."""
    chance, jobs = random.Random(7), []
    for owner in weights:
        at = 0.0
        for _ in range(400 if owner == "anna" else 170):
            jobs.append(Recorded(at, chance.choice((1800.0, 7200.0, 20000.0)), Request(), owner))
            at += 0.0 if owner == "anna" else 3500.0  # they want more than they get, at any time
    jobs.sort(key=lambda each: each.submit_seconds)
    caps = {owner: Caps(weight=weight) for owner, weight in weights.items()}
    replay = Replay(gpus_, jobs, Rules(between=between, caps=caps))
    got = dict.fromkeys(weights, 0.0)
    replay.run()
    for course in replay.courses.values():
        assert course.begun is not None
        assert course.ended is not None
        got[course.recorded.owner] += max(0.0, min(course.ended, 7 * DAY) - min(course.begun, 7 * DAY))
    return {owner: seconds / sum(got.values()) for owner, seconds in got.items()}


@pytest.mark.parametrize("weights", [{"anna": 1.0, "bob": 1.0, "carla": 1.0}, {"anna": 1.0, "bob": 2.0, "carla": 1.0}])
def test_over_a_week_each_who_always_wants_something_gets_his_weight_s_share(weights: dict[str, float]) -> None:
    shares = a_week(weights)
    for owner, weight in weights.items():
        assert shares[owner] == pytest.approx(weight / sum(weights.values()), rel=0.1), shares


def test_a_newcomer_s_first_job_starts_as_the_next_gpu_comes_free() -> None:
    jobs = [Recorded(0.0, 1000.0 + number, Request(), "anna") for number in range(400)]
    jobs.append(Recorded(50_000.0, 60.0, Request(), "bob"))
    replay = Replay(4, jobs, Rules(between=Between.FAIR))
    replay.run()
    bob = next(each for each in replay.courses.values() if each.recorded.owner == "bob")
    ends = sorted(each.ended for each in replay.courses.values() if each.ended is not None)
    assert bob.begun == next(end for end in ends if end >= 50_000.0)
    assert Order.ARRIVAL is Rules().order
