"""Giving way: by which means, who, within which bounds, and how they come back."""

from dataclasses import replace
from time import localtime, strftime

import pytest
from views import DATE, GIB, NOW, TOTAL, applied, foreign, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import (
    Action,
    Bounds,
    ComputeMode,
    Evict,
    GiveWay,
    Gpu,
    Grant,
    Job,
    Pause,
    Plan,
    Refusal,
    Resume,
    Rule,
    View,
    Yielding,
)
from gpuwrap.policy.effects import effect, notice
from gpuwrap.policy.plan import plan
from gpuwrap.policy.reasons import sentence
from gpuwrap.policy.words import clock_of

DAY = 14400.0
PAUSABLE = Yielding(DAY, no_evict="may not be restarted (-r)")
RESTARTABLE = Yielding(no_pause="runs in a terminal", can_evict=True)
BOTH = Yielding(DAY, can_evict=True)
STIFF = Yielding(no_pause="runs in a terminal", no_evict="may not be restarted (-r)")


def holder(number: int, index: int = 0, held: int | None = 8, **changes: object) -> Job:
    """A job with a GPU of its own; see `world` for what it holds there."""
    request = {key: changes.pop(key) for key in ("give_way", "time_limit_seconds", "priority") if key in changes}
    job = running(number, share(index), **request)
    return replace(job, peak_bytes=None if held is None else held * GIB, **changes)  # type: ignore[arg-type]


def requeued(number: int, index: int = 0, held: int | None = 8, **changes: object) -> Job:
    return holder(number, index, held, give_way=GiveWay.REQUEUE, **changes)


def sharer(number: int, size: int, index: int = 0, held: int | None = None, **changes: object) -> Job:
    request = {key: changes.pop(key) for key in ("give_way", "time_limit_seconds", "priority") if key in changes}
    job = running(number, share(index, size * GIB, whole=False), m=size, **request)
    return replace(job, peak_bytes=(size if held is None else held) * GIB, **changes)  # type: ignore[arg-type]


def paused(job: Job, yields_to: int | None = 99, **changes: object) -> Job:
    return in_state(job, JobState.PAUSED, yields_to=yields_to, paused_mono=NOW - 60, **changes)


def world(*jobs: Job, count: int = 1, ways: object = PAUSABLE, **changes: object) -> View:
    """A world in which each holder uses its `peak_bytes` (None: the driver does not say)."""
    cards: list[Gpu] = []
    for index in range(count):
        here = [job for job in jobs for each in job.shares if each.index == index]
        used = {job.id: job.peak_bytes for job in here}
        taken = sum(size if size is not None else 8 * GIB for size in used.values())
        cards.append(gpu(index, used=used, free_bytes=TOTAL - taken))
    if isinstance(ways, Yielding):
        ways = {job.id: ways for job in jobs if job.state in (JobState.RUNNING, JobState.PAUSED)}
    view = View(tuple(cards), jobs, yielding=ways)  # type: ignore[arg-type]
    return replace(view, **changes)  # type: ignore[arg-type]


def actions(view: View) -> tuple[Action, ...]:
    return plan(view, NOW).actions


def urgent(number: int = 50, count: int = 1, **request: object) -> Job:
    return waiting(number, count, priority=50, **request)


def settle(view: View, rounds: int = 5) -> list[Action]:
    """Apply plans until there is nothing to do."""
    done: list[Action] = []
    for _ in range(rounds):
        made = plan(view, NOW)
        if not made.actions:
            return done
        done += made.actions
        view = applied(view, made)
    raise AssertionError(f"never settles: {done}")


def grant(number: int, size: int, index: int = 0, whole: bool = True) -> Grant:
    return Grant(number, (share(index, size, whole),))


# Who.


@pytest.mark.parametrize(
    ("own", "other", "gives_way"), [(10, 0, True), (9, 0, False), (0, -10, True), (0, 0, False), (50, 41, False)]
)
def test_only_a_whole_step_makes_others_give_way(own: int, other: int, gives_way: bool) -> None:
    view = world(holder(1, priority=other), waiting(2, priority=own, m=4))
    assert actions(view) == ((Pause(1, 2),) if gives_way else ())
    evicting = world(requeued(1, priority=other), waiting(2, priority=own), ways=RESTARTABLE)
    assert actions(evicting) == ((Evict(1, 2),) if gives_way else ())


def test_never_means_never_even_where_it_would_be_possible() -> None:
    view = world(holder(1, give_way=GiveWay.NEVER), urgent(m=4), ways=BOTH)
    assert actions(view) == ()
    assert plan(view, NOW).reasons[50].cannot_yield == (Refusal(1, "never gives way (--give-way never)"),)


def test_what_may_only_be_paused_is_never_evicted() -> None:
    view = world(holder(1, held=22), urgent(), ways=BOTH)
    assert actions(view) == ()


def test_a_job_that_cannot_take_an_offer_makes_nobody_give_way() -> None:
    job = urgent(m=4)
    assert actions(world(holder(1), job, stopped=frozenset({50}))) == ()
    assert actions(world(holder(1), job, absent=frozenset({50}))) == ()
    assert actions(world(holder(1), in_state(job, JobState.HELD))) == ()


def test_a_job_that_is_only_starting_is_left_alone() -> None:
    view = world(in_state(holder(1), JobState.GRANTED), holder(2, 1, held=22), urgent(m=8), count=2)
    assert actions(view) == ()
    assert {each.job_id: each.text for each in plan(view, NOW).reasons[50].cannot_yield}[1] == "is starting"


# What a job needs, and what pausing leaves.


def test_a_free_gpu_is_taken_before_anybody_gives_way() -> None:
    assert settle(world(holder(1), urgent(), count=2)) == [grant(50, TOTAL, 1)]


def test_a_small_training_is_paused_for_an_urgent_job_that_gets_what_is_left() -> None:
    assert settle(world(holder(1), urgent())) == [Pause(1, 50), grant(50, 16 * GIB)]


def test_a_request_with_memory_is_given_that_memory_and_shares() -> None:
    assert settle(world(holder(1), urgent(m=16))) == [Pause(1, 50), grant(50, 16 * GIB, whole=False)]
    assert actions(world(holder(1), urgent(m=17))) == ()


def test_an_exclusive_request_computes_alone_beside_the_paused() -> None:
    assert settle(world(holder(1), urgent(m=16, exclusive=True))) == [Pause(1, 50), grant(50, 16 * GIB)]
    beside = world(sharer(1, 8), sharer(2, 8), urgent(m=8, exclusive=True))
    assert settle(beside) == [Pause(1, 50), Pause(2, 50), grant(50, 8 * GIB)]
    assert settle(world(sharer(1, 8), sharer(2, 8), urgent(m=8))) == [grant(50, 8 * GIB, whole=False)]


def test_a_learned_need_is_what_must_fit() -> None:
    job = replace(waiting(5, priority=10), learned_bytes=12 * GIB)
    assert settle(world(holder(1), job)) == [Pause(1, 5), grant(5, 12 * GIB)]
    assert actions(world(holder(1, held=13), job)) == ()


def test_an_unknown_need_below_urgent_is_the_whole_gpu() -> None:
    assert actions(world(holder(1), waiting(5, priority=49))) == ()
    assert actions(world(holder(1, held=0), waiting(5, priority=49))) == (Pause(1, 5),)
    assert settle(world(holder(1), waiting(5, priority=50)))[0] == Pause(1, 5)
    assert actions(world(requeued(1), waiting(5, priority=49), ways=BOTH)) == (Evict(1, 5),)


@pytest.mark.parametrize(("held", "fits"), [(18, True), (19, False)])
def test_an_urgent_job_of_unknown_need_starts_with_a_quarter(held: int, fits: bool) -> None:
    assert bool(actions(world(holder(1, held=held), urgent()))) is fits


def test_the_quarter_is_at_least_4g() -> None:
    small = gpu(total_bytes=8 * GIB, free_bytes=5 * GIB, used={1: 3 * GIB})
    big = replace(small, free_bytes=3 * GIB, used={1: 5 * GIB})
    assert actions(world(holder(1), urgent(), gpus=(small,))) == (Pause(1, 50),)
    assert actions(world(holder(1), urgent(), gpus=(big,))) == ()


def test_headroom_and_what_others_have_yet_to_take_are_not_given() -> None:
    bounds = Bounds(keep_free_bytes=GIB)
    assert actions(world(holder(1), urgent(m=16), bounds=bounds)) == ()
    assert actions(world(holder(1), urgent(m=15), bounds=bounds)) == (Pause(1, 50),)
    stays = sharer(2, 10, held=2, priority=50)
    lower = sharer(1, 12, held=4)
    assert actions(world(lower, stays, urgent(m=10))) == (Pause(1, 50),)
    assert actions(world(lower, stays, urgent(m=11))) == ()


def test_unknown_figures_never_become_free() -> None:
    assert actions(world(holder(1, held=None), urgent(m=4))) == ()
    assert actions(world(sharer(2, 12, priority=60), replace(requeued(1, held=None), shares=(share(0, GIB, False),)),
        urgent(m=12), ways=RESTARTABLE)) == ()  # fmt: skip
    blind = gpu(used={}, foreign=None, free_bytes=16 * GIB)
    assert actions(world(holder(1), urgent(m=4), gpus=(blind,))) == ()


def test_where_nobody_is_left_all_is_free_whatever_the_figures_were() -> None:
    view = world(requeued(1, held=None), urgent(m=20), ways=RESTARTABLE)
    assert actions(view) == (Evict(1, 50),)
    strange = gpu(used={1: None}, free_bytes=15 * GIB, foreign=(foreign(size=GIB),))
    assert actions(replace(view, gpus=(strange,))) == ()


def test_a_gpu_for_one_process_has_no_room_beside_a_paused_job() -> None:
    card = gpu(used={1: GIB}, free_bytes=23 * GIB, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)
    assert actions(world(holder(1), urgent(m=4), gpus=(card,))) == ()
    assert actions(world(requeued(1), urgent(m=4), gpus=(card,), ways=BOTH)) == (Evict(1, 50),)


def test_nobody_gives_way_where_a_stranger_computes() -> None:
    card = gpu(used={1: GIB}, free_bytes=22 * GIB, foreign=(foreign(size=GIB),))
    assert actions(world(holder(1), urgent(), gpus=(card,), ways=BOTH)) == ()


def test_the_number_of_jobs_on_a_gpu_counts_those_that_compute() -> None:
    view = world(sharer(1, 4), sharer(2, 4), urgent(m=4), bounds=Bounds(jobs_per_gpu=2))
    assert settle(view) == [Pause(1, 50), grant(50, 4 * GIB, whole=False)]


# By which means.


def test_pausing_with_half_the_gpu_left_comes_before_evicting() -> None:
    assert actions(world(requeued(1, held=12), urgent(), ways=BOTH)) == (Pause(1, 50),)


def test_evicting_comes_before_pausing_with_less_than_half() -> None:
    assert actions(world(requeued(1, held=13), urgent(), ways=BOTH)) == (Evict(1, 50),)
    view = world(holder(1, held=13), requeued(2, 1, held=13), urgent(), count=2, ways={1: PAUSABLE, 2: RESTARTABLE})
    assert actions(view) == (Evict(2, 50),)
    assert actions(world(holder(1, held=13), urgent())) == (Pause(1, 50),)


def test_a_pause_anywhere_comes_before_an_eviction_of_lower_rank() -> None:
    view = world(requeued(1, priority=-10), holder(2, 1), urgent(), count=2, ways={1: RESTARTABLE, 2: PAUSABLE})
    assert actions(view) == (Pause(2, 50),)


def test_pausing_several_comes_before_evicting_one() -> None:
    jobs = sharer(1, 8, held=2), sharer(2, 8, held=2), sharer(3, 8, held=8, priority=-10, give_way=GiveWay.REQUEUE)
    view = world(*jobs, urgent(m=8), ways={1: PAUSABLE, 2: PAUSABLE, 3: RESTARTABLE})
    assert actions(view) == (Pause(1, 50), Pause(2, 50))
    assert actions(replace(view, yielding={1: STIFF, 2: PAUSABLE, 3: RESTARTABLE})) == (Evict(3, 50),)


def test_only_some_of_those_that_share_are_evicted_if_that_is_enough() -> None:
    jobs = [sharer(number, 8, give_way=GiveWay.REQUEUE) for number in (1, 2, 3)]
    assert actions(world(*jobs, urgent(m=8), ways=RESTARTABLE)) == (Evict(1, 50),)
    assert actions(world(*jobs, urgent(m=9), ways=RESTARTABLE)) == (Evict(1, 50), Evict(2, 50))


def test_who_need_only_be_paused_is_not_evicted_along_and_not_before_the_others_have_gone() -> None:
    job = replace(urgent(), learned_bytes=14 * GIB)
    jobs = sharer(1, 10), sharer(2, 10, give_way=GiveWay.REQUEUE)
    view = world(*jobs, job, ways={1: PAUSABLE, 2: BOTH})
    assert settle(view) == [Evict(2, 50)]
    gone = world(jobs[0], job, in_state(waiting(2), JobState.WAITING))
    assert settle(gone) == [Pause(1, 50), grant(50, 14 * GIB)]


def test_a_job_that_is_paused_already_may_be_evicted_too() -> None:
    view = world(paused(requeued(1, held=20)), urgent(m=8), ways=BOTH)
    assert actions(view) == (Evict(1, 50),)


def test_a_gpu_with_only_paused_jobs_is_granted_without_more_ado() -> None:
    assert actions(world(paused(holder(1)), urgent())) == (grant(50, 16 * GIB),)
    assert actions(world(paused(holder(1)), urgent(m=4))) == (grant(50, 4 * GIB, whole=False),)
    assert actions(world(paused(holder(1), yields_to=None), urgent(m=4))) == (grant(50, 4 * GIB, whole=False),)


def test_two_newcomers_share_the_place_beside_a_paused_job() -> None:
    done = settle(world(holder(1), urgent(50, m=6), urgent(51, m=6), urgent(52, m=6)))
    assert done == [Pause(1, 50), *(grant(number, 6 * GIB, whole=False) for number in (50, 51))]


def test_nothing_of_less_than_a_step_above_is_placed_beside_a_paused_job() -> None:
    by_hand = paused(holder(1), yields_to=None)
    assert actions(world(by_hand, waiting(5, priority=9, m=1))) == ()
    assert actions(world(by_hand, waiting(5, m=1))) == ()


# Whom among several.


def test_fewest_victims_then_lowest_rank_then_least_lost_then_least_memory() -> None:
    many = [sharer(number, 8, give_way=GiveWay.REQUEUE, priority=-20) for number in (1, 2, 3)]
    alone = requeued(4, 1, priority=0)
    assert actions(world(*many, alone, urgent(), count=2, ways=RESTARTABLE)) == (Evict(4, 50),)
    two = sharer(1, 4, priority=-20), sharer(2, 4, priority=-20)
    assert actions(world(*two, holder(3, 1, held=9), urgent(), count=2)) == (Pause(3, 50),)
    view = world(requeued(1, 0), requeued(2, 1, priority=-1), urgent(), count=2, ways=RESTARTABLE)
    assert actions(view) == (Evict(2, 50),)
    young = requeued(2, 1, started_mono=NOW - 400)
    assert actions(world(requeued(1, 0), young, urgent(), count=2, ways=RESTARTABLE)) == (Evict(2, 50),)
    assert actions(world(holder(1, 0, held=9), holder(2, 1, held=7), urgent(), count=2)) == (Pause(2, 50),)
    assert actions(world(holder(2, 0), holder(1, 1), urgent(), count=2)) == (Pause(2, 50),)


def test_a_wide_newcomer_takes_several_victims_or_none() -> None:
    three = [holder(number, number - 1) for number in (1, 2, 3)]
    assert settle(world(*three, urgent(50, 3), count=3)) == [
        *(Pause(number, 50) for number in (1, 2, 3)),
        Grant(50, tuple(share(index, 16 * GIB) for index in range(3))),
    ]
    assert actions(world(*three[:2], replace(three[2], priority=45), urgent(50, 3), count=3)) == ()


def test_a_wide_newcomer_takes_free_gpus_and_victims_together() -> None:
    assert settle(world(holder(1), urgent(50, 2), count=2)) == [
        Pause(1, 50),
        Grant(50, (share(0, 16 * GIB), share(1))),
    ]


def test_a_victim_on_several_gpus_counts_once() -> None:
    gang = replace(running(3, share(2), share(3)), peak_bytes=8 * GIB)
    assert actions(world(holder(1, 0), holder(2, 1), gang, urgent(50, 2), count=4)) == (Pause(3, 50),)
    assert actions(world(holder(1, 0), holder(2, 1), gang, urgent(50, 3), count=4)) == (Pause(1, 50), Pause(3, 50))


def test_who_was_chosen_for_one_gpu_only_is_left_out_if_a_gang_gives_way_anyhow() -> None:
    gang = replace(running(6, share(0, 6 * GIB, False), share(1, 6 * GIB, False), m=6), peak_bytes=0)
    cards = gpu(0, used={1: 0, 6: 0}, free_bytes=18 * GIB), gpu(1, used={6: 0}, free_bytes=16 * GIB)
    view = world(sharer(1, 6), gang, urgent(50, 2, m=12), count=2, gpus=cards)
    assert actions(view) == (Pause(6, 50),)


def test_a_gang_is_never_paused_on_a_gpu_that_is_kept_for_somebody_higher() -> None:
    gang = replace(running(1, share(0), share(1)), peak_bytes=8 * GIB)
    first = waiting(40, priority=60, allowed=frozenset({"GPU-0"}), m=23)
    view = world(gang, first, urgent(m=4, allowed=frozenset({"GPU-1"})), count=2)
    assert actions(view) == ()
    assert plan(view, NOW).kept == {"GPU-0": 40}


# Bounds.


def test_a_job_that_came_back_from_a_pause_runs_for_a_while_before_the_next() -> None:
    assert actions(world(holder(1, returned_mono=NOW - 299), urgent())) == ()
    assert actions(world(holder(1, returned_mono=NOW - 300), urgent())) == (Pause(1, 50),)
    view = world(holder(1, returned_mono=NOW - 120), urgent())
    at = strftime("%H:%M", localtime(DATE + 180))
    assert told(view) == f"GPU 0: job 1 was paused a moment ago and may be paused again at {at} (min_return)"


def test_a_young_job_is_paused_but_not_evicted() -> None:
    assert actions(world(holder(1, started_mono=NOW - 1), urgent())) == (Pause(1, 50),)
    assert actions(world(requeued(1, started_mono=NOW - 299), urgent(), ways=RESTARTABLE)) == ()
    assert actions(world(requeued(1, started_mono=NOW - 300), urgent(), ways=RESTARTABLE)) == (Evict(1, 50),)


def test_several_cuda_processes_are_paused_only_for_newcomers_known_to_be_short() -> None:
    short = Yielding(300.0, short_only=True)
    assert actions(world(holder(1), urgent(), ways=short)) == ()
    assert actions(world(holder(1), urgent(time_limit_seconds=301.0), ways=short)) == ()
    assert actions(world(holder(1), urgent(time_limit_seconds=300.0), ways=short)) == (Pause(1, 50),)
    assert actions(world(paused(holder(1)), urgent(), ways=short)) == (Resume(1),)


def test_who_was_paused_for_a_newcomer_stays_so_although_a_moment_of_the_limit_has_passed() -> None:
    """Else it would go on at once, be paused again five minutes later, and the newcomer would never start."""
    five = urgent(time_limit_seconds=300.0)
    limited = Yielding(299.7, short_only=True)
    gang = replace(holder(1), state=JobState.PAUSED, yields_to=50, paused_mono=NOW - 0.3)
    assert actions(world(gang, five, ways=limited)) == (grant(50, 16 * GIB),)
    assert actions(world(gang, urgent(time_limit_seconds=310.0), ways=limited)) == (Resume(1),)
    assert actions(world(replace(gang, yields_to=49), five, ways=limited)) == (Resume(1),)
    spent = replace(limited, pause_seconds=0.0)
    assert actions(world(gang, five, ways=spent)) == (Resume(1, forced=True),)


def test_who_may_hardly_be_paused_any_more_is_paused_only_for_what_is_known_to_be_over_by_then() -> None:
    little = Yielding(299.0, no_evict="may not be restarted (-r)")
    view = world(holder(1), urgent(), ways=little)
    assert actions(view) == ()
    (told,) = plan(view, NOW).reasons[50].cannot_yield
    assert told == Refusal(1, "may be paused for only 4 min more within a day (pause_limit) and may not be restarted (-r)")
    assert actions(replace(view, bounds=Bounds(least_pause_seconds=299.0))) == (Pause(1, 50),)
    assert actions(world(holder(1), urgent(time_limit_seconds=299.0), ways=little)) == (Pause(1, 50),)
    assert actions(world(holder(1), urgent(time_limit_seconds=299.5), ways=little)) == ()
    # Nor is anybody placed beside it then, but the one for whom it was paused.
    assert actions(world(paused(holder(1)), urgent(), ways=little)) == (Resume(1),)
    assert actions(world(paused(holder(1), yields_to=50), urgent(), ways=little)) == (grant(50, 16 * GIB),)


def test_nobody_is_evicted_for_a_job_that_may_have_given_up_by_then() -> None:
    view = world(requeued(1), urgent(), ways=RESTARTABLE)
    for waits, enough in ((0.0, False), (129.0, False), (130.0, True)):
        assert bool(actions(replace(view, patience={50: waits}))) is enough
    (told,) = plan(replace(view, patience={50: 60.0}), NOW).reasons[50].cannot_yield
    assert told.text == "runs in a terminal and may take 2 min to end (--signal), and job 50 gives up before (-w)"
    quick = world(requeued(1, signals="15:1"), urgent(), ways=RESTARTABLE, patience={50: 12.0})
    assert actions(quick) == (Evict(1, 50),)
    # A pause takes no time.
    assert actions(world(holder(1), urgent(), patience={50: 0.0})) == (Pause(1, 50),)


# Reservation, and waiting for those asked to end.


def test_while_one_ends_for_it_no_more_are_chosen_and_the_gpu_is_kept() -> None:
    jobs = requeued(1, 0), requeued(2, 1)
    view = world(*jobs, urgent(), waiting(60), waiting(61, m=1, time_limit_seconds=1.0), count=2, ways=RESTARTABLE)
    first = plan(view, NOW)
    assert (first.actions, first.kept) == ((Evict(1, 50),), {"GPU-0": 50})
    again = plan(applied(view, first), NOW)
    assert (again.actions, again.kept) == ((), {"GPU-0": 50})
    assert (again.reasons[50].yielding, again.reasons[50].kept) == ((1,), (0,))
    assert again.reasons[50] == first.reasons[50]


def test_what_is_freed_goes_to_the_newcomer_also_before_all_of_it_is_free() -> None:
    ending = in_state(sharer(1, 20), JobState.STOPPING, yields_to=50)
    view = world(ending, urgent(50, 2, m=20), waiting(60, m=2), waiting(61), count=2)
    assert actions(view) == ()
    assert plan(view, NOW).kept == {"GPU-0": 50, "GPU-1": 50}
    ended = world(in_state(waiting(1), JobState.WAITING, yields_to=50), urgent(50, 2, m=20), waiting(60), count=2)
    assert [action.job_id for action in actions(ended)] == [50]


def test_no_short_job_slips_in_where_somebody_ends_for_a_newcomer() -> None:
    ending = in_state(sharer(1, 8), JobState.STOPPING, yields_to=50)
    limited = holder(2, 1, priority=60, time_limit_seconds=9000.0)
    first = waiting(40, priority=60, allowed=frozenset({"GPU-1"}))
    short = waiting(61, m=1, time_limit_seconds=1.0, allowed=frozenset({"GPU-0"}))
    view = world(ending, limited, first, urgent(m=20, allowed=frozenset({"GPU-0"})), short, count=2)
    assert actions(view) == ()
    assert plan(view, NOW).kept == {"GPU-0": 50, "GPU-1": 40}


def test_it_waits_also_while_processes_of_the_evicted_linger() -> None:
    lingers = in_state(requeued(1), JobState.WAITING, yields_to=50)
    view = world(lingers, requeued(2, 1), urgent(), count=2, ways={2: RESTARTABLE})
    assert actions(view) == ()
    assert plan(view, NOW).reasons[50].yielding == (1,)


def test_a_free_gpu_is_taken_although_another_is_being_freed() -> None:
    view = world(in_state(requeued(1), JobState.STOPPING, yields_to=50), urgent(), count=2)
    assert actions(view) == (grant(50, TOTAL, 1),)


def test_one_newcomer_at_a_time_and_the_next_after_it() -> None:
    view = world(holder(1, 0), holder(2, 1), urgent(50), urgent(51, m=16), count=2)
    assert actions(view) == (Pause(1, 50),)
    view = world(holder(1, 0), holder(2, 1), urgent(50), urgent(51), count=2)
    assert settle(view) == [Pause(1, 50), grant(50, 16 * GIB, 0), Pause(2, 51), grant(51, 16 * GIB, 1)]


def test_an_equal_of_the_newcomer_does_not_make_it_give_way_in_turn() -> None:
    assert settle(world(holder(1), urgent(50), urgent(51))) == [Pause(1, 50), grant(50, 16 * GIB)]


def test_nobody_is_evicted_where_another_is_first_in_line_for_what_comes_free() -> None:
    fixed = [holder(1, 0, priority=60), holder(2, 1, priority=60)]
    wide = waiting(40, 3, priority=60)
    low = requeued(3, 2), requeued(4, 3)
    view = world(*fixed, *low, wide, urgent(), count=4, ways={3: RESTARTABLE, 4: RESTARTABLE})
    assert actions(view) == ()
    refused = {each.job_id: each.text for each in plan(view, NOW).reasons[50].cannot_yield}
    assert "would make room for a job that is before this one" in refused[4]


# Coming back.


def newcomer(number: int = 50, size: int = 16, held: int = 4, **changes: object) -> Job:
    job = running(number, share(0, size * GIB), priority=50)
    return replace(job, peak_bytes=held * GIB, **changes)  # type: ignore[arg-type]


def test_a_paused_job_goes_on_once_nobody_else_computes_there() -> None:
    assert actions(world(paused(holder(1)), newcomer())) == ()
    assert actions(world(paused(holder(1)))) == (Resume(1),)
    assert actions(world(paused(holder(1)), in_state(newcomer(), JobState.ENDED))) == ()


def test_one_paused_by_hand_is_never_resumed() -> None:
    assert actions(world(paused(holder(1), yields_to=None))) == ()


def test_a_paused_gang_waits_for_all_its_gpus() -> None:
    gang = paused(replace(running(1, share(0), share(1)), peak_bytes=8 * GIB))
    assert actions(world(gang, newcomer(), count=2)) == ()
    assert actions(world(gang, count=2)) == (Resume(1),)


def test_a_paused_sharing_job_comes_back_when_all_it_was_promised_fits() -> None:
    back = paused(sharer(1, 12, held=4))
    assert actions(world(back, sharer(2, 14, priority=50, held=2))) == ()
    assert actions(world(back, sharer(2, 12, priority=50, held=2))) == (Resume(1),)
    assert actions(world(back, newcomer(size=4, held=4))) == ()


def test_memory_held_by_another_paused_job_is_not_promised_twice() -> None:
    upper = paused(replace(newcomer(size=20), request=replace(waiting(1).request, memory_bytes=20 * GIB)), 99)
    assert actions(world(upper, paused(holder(1, held=6), yields_to=None))) == ()
    assert actions(world(upper, paused(holder(1, held=4), yields_to=None))) == (Resume(50),)


def test_those_paused_come_back_by_rank() -> None:
    low, middle = paused(holder(1)), paused(newcomer(30, held=6), 99)
    assert actions(world(low, replace(middle, priority=20))) == (Resume(30),)


def test_strangers_are_not_waited_for_by_a_paused_job() -> None:
    card = gpu(used={1: 8 * GIB}, free_bytes=GIB, foreign=(foreign(size=15 * GIB),))
    assert actions(world(paused(holder(1)), gpus=(card,))) == (Resume(1),)


def test_a_job_that_outranks_it_may_have_the_gpu_first_but_no_other() -> None:
    assert actions(world(paused(holder(1)), waiting(5, priority=10, m=4))) == (grant(5, 4 * GIB, whole=False),)
    assert actions(world(paused(holder(1)), waiting(5, priority=9, m=4))) == (Resume(1),)


def test_a_paused_job_goes_on_in_spite_of_what_is_kept_for_a_wide_one() -> None:
    view = world(paused(holder(1)), newcomer(49, held=2, shares=(share(1),)), urgent(50, 2), count=2, ways={1: PAUSABLE})
    result = plan(view, NOW)
    assert result.actions == (Resume(1),)
    assert set(result.kept) == {"GPU-0", "GPU-1"}


def test_a_paused_job_stays_so_while_another_ends_beside_it_for_a_newcomer() -> None:
    ending = in_state(sharer(2, 8, priority=10), JobState.STOPPING, yields_to=50)
    back = paused(sharer(1, 10, held=8))
    assert actions(world(back, ending, urgent(m=16))) == ()
    assert actions(world(back, ending)) == (Resume(1),)


def test_a_job_paused_for_as_long_as_it_may_goes_on_beside_the_newcomer() -> None:
    spent = Yielding(0.0, no_pause="was paused for 4 h today")
    assert actions(world(paused(holder(1)), newcomer(), ways={1: spent})) == (Resume(1, forced=True),)
    assert actions(world(paused(holder(1)), urgent(m=1), ways=spent)) == (Resume(1, forced=True),)
    assert actions(world(paused(holder(1), yields_to=None), newcomer(), ways={1: spent})) == ()


def test_a_paused_job_is_not_evicted_where_it_could_take_what_others_were_promised_while_it_ends() -> None:
    beside = sharer(2, 14, held=2, priority=60)

    def with_promise(size: int) -> View:
        victim = paused(replace(requeued(1, held=6), shares=sharer(1, size).shares))
        return world(replace(victim, yields_to=None), beside, urgent(m=8), ways=BOTH)

    assert actions(with_promise(8)) == (Evict(1, 50),)
    assert actions(with_promise(20)) == ()
    assert "is paused, and would need for its end the memory that the job beside it uses" in told(with_promise(20))


def test_one_that_is_being_evicted_does_not_go_on_too() -> None:
    spent = Yielding(0.0, can_evict=True)
    assert actions(world(paused(requeued(1)), urgent(m=4), ways=spent)) == (Evict(1, 50),)


def test_a_paused_job_that_outranks_by_now_who_computes_beside_it_takes_its_gpu_back() -> None:
    """As after `gpurun renice`, of the one or the other."""
    raised = world(paused(sharer(1, 18, held=8, priority=100), yields_to=50), newcomer())
    assert settle(raised) == [Pause(50, 1), Resume(1)]
    all_of_it = world(paused(holder(1, priority=100), yields_to=50), newcomer())
    assert settle(all_of_it) == []  # nobody knows what it needs, and it was told that it has the whole card
    lowered = world(paused(sharer(1, 18, held=8), yields_to=50), newcomer(priority=-20))
    assert settle(lowered) == [Pause(50, 1), Resume(1)]
    evicting = world(paused(holder(1, priority=20), yields_to=50), newcomer(priority=0, request=requeued(9).request), ways=BOTH)
    assert settle(evicting) == [Evict(50, 1)]
    gone = world(paused(holder(1, priority=20), yields_to=50), in_state(waiting(50), JobState.WAITING, yields_to=1))
    assert settle(gone) == [Resume(1)]


def test_equal_rank_or_less_than_a_step_leaves_a_paused_job_where_it_is() -> None:
    for rank in (50, 59):
        assert actions(world(paused(sharer(1, 18, held=8, priority=rank), yields_to=50), newcomer())) == ()
    assert actions(world(paused(sharer(1, 18, held=8, priority=60), yields_to=50), newcomer())) == (Pause(50, 1),)


def test_a_paused_job_takes_back_only_what_those_beside_it_can_give() -> None:
    view = world(paused(holder(1, priority=20), yields_to=50), newcomer(priority=0))
    assert actions(view) == ()
    assert plan(view, NOW).stuck == {1: (Refusal(50, "holds 4 of 24G and may not be restarted (-r)"),)}
    never = newcomer(request=holder(9, give_way=GiveWay.NEVER).request)
    view = world(paused(holder(1, priority=100), yields_to=50), never)
    assert (actions(view), plan(view, NOW).stuck) == ((), {1: (Refusal(50, "never gives way (--give-way never)"),)})
    just_back = world(paused(holder(1, priority=100), yields_to=50), newcomer(returned_mono=NOW - 10))
    assert actions(just_back) == ()


def test_while_one_ends_for_a_paused_job_it_keeps_its_gpu() -> None:
    ending = in_state(newcomer(), JobState.STOPPING, yields_to=1)
    back = paused(holder(1, priority=100), yields_to=50)
    view = world(back, ending, waiting(60, m=1))
    assert (actions(view), plan(view, NOW).kept) == ((), {"GPU-0": 1})


def test_an_evicted_job_waits_in_line_at_its_own_rank() -> None:
    evicted = in_state(waiting(1), JobState.WAITING, yields_to=50, times_given_way=1)
    assert settle(world(evicted, waiting(2))) == [grant(1, TOTAL)]
    assert settle(world(evicted, waiting(2, priority=1))) == [grant(2, TOTAL)]


# Words.


def told(view: View, number: int = 50) -> str:
    job = next(job for job in view.jobs if job.id == number)
    return sentence(plan(view, NOW).reasons[number], job, view, NOW, DATE)


def said(view: View, number: int = 50) -> str:
    return effect(plan(view, NOW), number, view, clock_of(NOW, DATE))


def test_the_one_in_the_way_is_told_with_what_it_holds() -> None:
    view = world(holder(12, held=22), urgent(14))
    assert told(view, 14) == "GPU 0: job 12 holds 22 of 24G and may not be restarted (-r)"
    assert said(view, 14) == "cannot interrupt job 12: it holds 22 of 24G and may not be restarted (-r)"


def test_several_in_the_way_are_told_and_many_are_counted() -> None:
    view = world(holder(1, held=22), holder(2, 1, priority=45), urgent(), count=2, ways={1: STIFF, 2: STIFF})
    assert told(view) == (
        "a GPU, 1st in line: job 1 runs in a terminal and may not be restarted (-r), "
        "job 2 (python train.py, 2 h so far) has GPU 1"
    )
    view = world(*(holder(number, number - 1) for number in range(1, 5)), urgent(), count=4, ways=STIFF)
    assert told(view) == "a GPU, 1st in line: each of jobs 1, 2, 3 and 4 runs in a terminal and may not be restarted (-r)"
    assert said(view) == "cannot interrupt jobs 1, 2, 3 and 4: each runs in a terminal and may not be restarted (-r)"
    ways = {1: STIFF, 2: STIFF, 3: Yielding(no_pause="is asleep"), 4: Yielding(no_pause="is away")}
    view = world(*(holder(number, number - 1) for number in range(1, 5)), urgent(), count=4, ways=ways)
    assert told(view).endswith("(-r), job 3 is asleep and may not be restarted (-r), 1 other cannot give way either")
    assert said(view).endswith("each runs in a terminal and may not be restarted (-r); 2 others cannot give way either")


def test_who_ends_for_it_is_told() -> None:
    view = world(in_state(requeued(12), JobState.STOPPING, yields_to=50), urgent())
    assert told(view) == "a GPU: job 12 is being asked to end for it"
    assert said(view) == "job 12 is being asked to end for it"


EFFECTS = {
    "pauses job 12 (8G beside its 16G on GPU 0)": world(holder(12, held=16), urgent(m=8)),
    "pauses job 12 (beside its 8G on GPU 0)": world(holder(12), urgent()),
    "pauses job 12": world(holder(12, held=0), urgent()),
    "pauses jobs 12 and 13": world(sharer(12, 4), sharer(13, 4), urgent()),
    "evicts job 12": world(requeued(12), urgent(), ways=RESTARTABLE),
    "starts on GPU 1": world(holder(12), urgent(), count=2),
    "starts on GPU 0 beside paused job 12": world(paused(holder(12)), urgent()),
    "starts": world(holder(12), urgent(50, 0)),
    "": world(holder(12, priority=50), urgent()),
}


@pytest.mark.parametrize("text", EFFECTS)
def test_what_a_plan_does_for_a_job_is_told(text: str) -> None:
    assert said(EFFECTS[text]) == text


def test_what_a_plan_does_to_a_running_job_is_told() -> None:
    view = world(holder(12), urgent())
    assert said(view, 12) == "gives way to job 50"
    assert said(world(paused(holder(12))), 12) == "goes on"
    assert said(world(holder(12)), 12) == ""


def test_what_a_changed_rank_does_for_a_paused_job_is_told() -> None:
    def back(rank: int) -> Job:
        return paused(sharer(1, 18, held=8, priority=rank), yields_to=50)

    assert said(world(back(100), newcomer()), 1) == "pauses job 50 (18G beside its 4G on GPU 0)"
    assert said(world(back(50), newcomer()), 1) == "stays paused"
    whole, beside = paused(holder(1, priority=100), yields_to=50), newcomer(priority=0)
    assert said(world(whole, beside), 1) == "stays paused: job 50 holds 4 of 24G and may not be restarted (-r)"


def test_only_an_urgent_job_of_unknown_need_is_told_what_is_free() -> None:
    view = world(paused(holder(12)), urgent(14), urgent(15, m=1))
    (granted,) = actions(view)
    assert isinstance(granted, Grant)
    assert notice(granted, view) == "runs on GPU 0 beside paused job 12: 16 of 24G are free"
    view = world(paused(holder(12)), urgent(15, m=1))
    (granted,) = actions(view)
    assert isinstance(granted, Grant)
    assert notice(granted, view) is None
    free = Plan((grant(14, TOTAL),))
    assert notice(free.actions[0], View(gpus(1), (urgent(14),))) is None  # type: ignore[arg-type]


def test_no_rank_makes_up_for_figures_that_the_driver_does_not_give() -> None:
    view = world(requeued(1), urgent(), gpus=(gpu(free_bytes=None, used={1: GIB}),), ways=BOTH)
    assert actions(view) == ()
    assert plan(view, NOW).reasons[50].rule is Rule.UNKNOWN
