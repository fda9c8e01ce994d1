"""Who starts, who waits and why: order, reservation, what may pass it."""

from dataclasses import replace

import pytest
from views import DATE, GIB, NOW, TOTAL, applied, foreign, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, Claim, ComputeMode, Gpu, Job, Leftover, Plan, Request, Row, Rule, View
from gpuwrap.policy.plan import plan
from gpuwrap.policy.reasons import sentence


def made(cards: tuple[Gpu, ...], *jobs: Job, **view: object) -> Plan:
    return plan(View(cards, jobs, **view), NOW)  # type: ignore[arg-type]


def started(result: Plan) -> dict[int, tuple[int, ...]]:
    return {action.job_id: tuple(share.index for share in action.shares) for action in result.actions}


def test_an_empty_machine_is_settled() -> None:
    result = made(())
    assert (result.actions, dict(result.reasons), dict(result.kept)) == ((), {}, {})


def test_a_lone_job_gets_the_whole_gpu() -> None:
    (action,) = made(gpus(1), waiting(1)).actions
    assert action.shares == (share(0, TOTAL, whole=True),)


def test_higher_priority_goes_first_then_the_smaller_number() -> None:
    result = made(gpus(3), waiting(4), waiting(2, priority=-1), waiting(3), waiting(5, priority=10))
    assert list(started(result)) == [5, 3, 4]
    assert list(result.reasons) == [2]


def test_equal_priority_is_granted_in_order_of_arrival() -> None:
    assert started(made(gpus(1), waiting(9), waiting(8))) == {8: (0,)}


def left_by(number: int, *indices: int, size: int = GIB) -> Job:
    """An ended job whose process goes on, and still holds this much on some GPUs."""
    shares = tuple(share(index, size, whole=False) for index in indices)
    return in_state(running(number, *shares), JobState.ENDED)


def held_by(number: int, index: int = 0, size: int = GIB, **changes: object) -> Gpu:
    return gpu(index, used={number: size}, free_bytes=TOTAL - size, **changes)


def test_who_goes_on_with_what_it_holds_passes_only_those_who_wait_for_that() -> None:
    line = waiting(2), waiting(3, allowed=frozenset({"GPU-0"}))
    own = {3: frozenset({1})}
    assert started(made((held_by(1),), left_by(1, 0), *line)) == {}
    assert started(made((held_by(1),), left_by(1, 0), *line, own=own)) == {3: (0,)}
    assert started(made((held_by(1),), left_by(1, 0), waiting(2, m=23.8), line[1], own=own)) == {3: (0,)}
    # Who waits for another job passes on GPU 0 as well as any: what is held there would not keep it away.
    cards = replace(held_by(1), used={1: GIB, 4: 20 * GIB}, free_bytes=3 * GIB)
    beside = running(4, share(0, 20 * GIB, whole=False), m=20)
    asking = waiting(3, m=3, allowed=frozenset({"GPU-0"}))
    assert started(made((cards,), left_by(1, 0), beside, asking, own=own)) == {3: (0,)}
    assert started(made((cards,), left_by(1, 0), beside, waiting(2, m=20), asking, own=own)) == {}


def test_who_goes_on_with_what_it_holds_waits_for_all_others() -> None:
    allowed, own = frozenset({"GPU-0", "GPU-1"}), {3: frozenset({1})}
    asking = waiting(3, count=2, allowed=allowed)
    assert started(made((held_by(1), gpu(1)), left_by(1, 0), asking, own=own)) == {3: (0, 1)}
    result = made((held_by(1), gpu(1)), left_by(1, 0), running(2, share(1)), asking, own=own)
    assert (started(result), [each.gpu_index for each in result.reasons[3].obstacles]) == ({}, [1])
    stranger = held_by(1, foreign=(foreign(size=GIB),))
    assert made((stranger,), left_by(1, 0), waiting(3), own=own).reasons[3].rule is Rule.FOREIGN


def test_who_holds_as_many_gpus_as_it_asks_for_is_granted_those() -> None:
    cards = gpu(0), held_by(1, 1), gpu(2)
    own = {3: frozenset({1})}
    assert started(made(cards, left_by(1, 1), waiting(3), own=own)) == {3: (1,)}
    assert started(made(cards, left_by(1, 1), waiting(3, m=4), own=own)) == {3: (1,)}
    beside = running(2, share(1, 20 * GIB, whole=False), m=20)
    assert started(made(cards, left_by(1, 1), beside, waiting(3), own=own)) == {3: (0,)}


def test_one_job_on_a_gpu_are_the_own_process_and_its_next_block() -> None:
    own = {3: frozenset({1})}
    assert started(made((held_by(1),), left_by(1, 0), waiting(3, m=4), own=own, bounds=Bounds(jobs_per_gpu=1))) == {3: (0,)}
    exclusive = held_by(1, compute_mode=ComputeMode.EXCLUSIVE_PROCESS)
    assert started(made((exclusive,), left_by(1, 0), waiting(3), own=own)) == {3: (0,)}


def test_places_count_those_that_stay_in_line() -> None:
    result = made(gpus(1), waiting(1), in_state(waiting(2), JobState.HELD), waiting(3), waiting(4), absent=frozenset({3}))
    assert {number: reason.place for number, reason in result.reasons.items()} == {2: 1, 3: 2, 4: 3}
    assert [reason.rule for reason in result.reasons.values()] == [Rule.HELD, Rule.ABSENT, Rule.BUSY]


def test_jobs_without_gpus_start_at_once_whatever_waits() -> None:
    result = made((gpu(fault="lost"),), running(1, share(0)), waiting(2), waiting(3, count=0))
    assert started(result) == {3: ()}


@pytest.mark.parametrize("what", ["held", "stopped", "absent"])
def test_those_passed_over_keep_nothing_from_others(what: str) -> None:
    wide = waiting(2, count=2)
    view = {} if what == "held" else {what: frozenset({2})}
    if what == "held":
        wide = in_state(wide, JobState.HELD)
    result = made(gpus(2), running(1, share(0)), wide, waiting(3), **view)
    assert started(result) == {3: (1,)}
    assert result.reasons[2].rule.value == what
    assert not result.kept


def test_a_job_that_still_holds_its_earlier_run_is_not_started_beside_itself() -> None:
    result = made(gpus(2), in_state(waiting(1), JobState.WAITING, shares=(share(0),)), waiting(2))
    assert started(result) == {2: (1,)}
    assert result.reasons[1].rule is Rule.LEFTOVER


def test_all_gpus_of_a_job_at_once_or_none() -> None:
    result = made(gpus(2), running(1, share(0)), waiting(2, count=2))
    assert not result.actions
    assert result.kept == {"GPU-0": 2, "GPU-1": 2}
    assert result.reasons[2].kept == (0, 1)
    assert [(each.gpu_index, each.rule, each.job_ids) for each in result.reasons[2].obstacles] == [(0, Rule.BUSY, (1,))]


def test_small_jobs_do_not_pass_onto_a_gpu_kept_for_a_wide_one() -> None:
    result = made(gpus(2), running(1, share(0)), waiting(2, count=2), waiting(3), waiting(4, m=2))
    assert not result.actions
    assert [(result.reasons[each].rule, result.reasons[each].behind) for each in (3, 4)] == [(Rule.BEHIND, 2)] * 2


def test_others_pass_on_gpus_that_the_first_does_not_need() -> None:
    result = made(gpus(4), running(1, share(0)), running(2, share(1)), running(3, share(2)), waiting(4, count=2), waiting(5))
    assert not result.actions
    allowed = frozenset({"GPU-0", "GPU-1"})
    result = made(gpus(3), running(1, share(0)), waiting(4, count=2, allowed=allowed), waiting(5))
    assert started(result) == {5: (2,)}


def test_a_sweep_of_whole_gpu_jobs_fills_every_gpu_as_it_comes_free() -> None:
    sweep = [waiting(number) for number in range(10, 50)]
    assert started(made(gpus(4), *sweep)) == {10: (0,), 11: (1,), 12: (2,), 13: (3,)}
    result = made(gpus(4), *(running(number, share(number)) for number in (0, 1, 3)), *sweep)
    assert started(result) == {10: (2,)}
    assert result.reasons[12].rule is Rule.BUSY


def test_a_job_with_a_limit_slips_in_before_the_kept_gpus_can_be_had() -> None:
    limited = running(1, share(0), since=600, time_limit_seconds=1200.0)
    wide, short, long = waiting(2, count=2), waiting(3, time_limit_seconds=500.0), waiting(4, time_limit_seconds=700.0)
    assert started(made(gpus(2), limited, wide, long, short)) == {3: (1,)}
    assert made(gpus(2), limited, wide, long).reasons[4].rule is Rule.BEHIND
    assert started(made(gpus(2), running(1, share(0)), wide, short)) == {}


def test_a_job_that_slips_in_prefers_gpus_that_are_not_kept() -> None:
    limited = running(1, share(0), since=600, time_limit_seconds=1200.0)
    wide = waiting(2, count=2, allowed=frozenset({"GPU-0", "GPU-1"}))
    assert started(made(gpus(3), limited, wide, waiting(3, time_limit_seconds=60.0))) == {3: (2,)}


def test_what_slips_in_does_not_move_the_reservation_to_another_gpu() -> None:
    holders = [running(i + 1, share(i, 8 * GIB, whole=False), since=0, m=8, time_limit_seconds=1000.0) for i in range(2)]
    slips = waiting(9, m=1, time_limit_seconds=10.0, allowed=frozenset({"GPU-0"}))
    view = View(gpus(2), (*holders, waiting(5), slips))
    first = plan(view, NOW)
    assert (started(first), first.kept) == ({9: (0,)}, {"GPU-0": 5})
    assert plan(applied(view, first), NOW).kept == {"GPU-0": 5}


def test_a_holder_past_its_limit_lets_nobody_slip_in() -> None:
    late = running(1, share(0), since=600, time_limit_seconds=60.0)
    assert not made(gpus(2), late, waiting(2, count=2), waiting(3, time_limit_seconds=1.0)).actions


def test_a_paused_holder_has_no_known_end() -> None:
    held = in_state(running(1, share(0), since=600, time_limit_seconds=1200.0), JobState.PAUSED)
    assert not made(gpus(2), held, waiting(2, count=2), waiting(3, time_limit_seconds=1.0)).actions


def test_the_gpus_that_come_free_soonest_are_kept() -> None:
    first = running(1, share(0))
    second = running(2, share(1), since=0, time_limit_seconds=9000.0)
    third = running(3, share(2), since=0, time_limit_seconds=100.0)
    assert made(gpus(3), first, second, third, waiting(4)).kept == {"GPU-2": 4}


def test_where_no_end_is_known_the_gpu_with_fewest_holders_is_kept() -> None:
    small = [running(number, share(0, GIB, whole=False), m=1) for number in (1, 2)]
    other = running(3, share(1, GIB, whole=False), m=1)
    assert made(gpus(2), *small, other, waiting(4)).kept == {"GPU-1": 4}


def test_a_sharing_job_that_cannot_start_is_not_starved_by_smaller_ones() -> None:
    holder = running(1, share(0, 20 * GIB, whole=False), m=20)
    result = made(gpus(1), holder, waiting(2, m=10), waiting(3, m=1))
    assert not result.actions
    assert (result.reasons[2].rule, result.reasons[3].rule) == (Rule.MEMORY, Rule.BEHIND)


def test_time_until_a_sharing_job_fits_counts_only_those_that_must_leave() -> None:
    endless = running(1, share(0, 10 * GIB, whole=False), m=10)
    ending = running(2, share(0, 10 * GIB, whole=False), since=0, m=10, time_limit_seconds=1000.0)
    result = made(gpus(1), endless, ending, waiting(3, m=12), waiting(4, m=1, time_limit_seconds=500.0))
    assert started(result) == {4: (0,)}


NOT_OURS = {
    "foreign": (gpu(1, foreign=(foreign(size=GIB),), free_bytes=TOTAL - GIB), Rule.FOREIGN),
    "claimed": (gpu(1, claim=Claim(7001, "carla")), Rule.CLAIMED),
    "unhealthy": (gpu(1, fault="lost"), Rule.UNHEALTHY),
    "drained": (gpu(1, drained=True), Rule.DRAINED),
    "no free figure": (gpu(1, free_bytes=None), Rule.UNKNOWN),
    "no total figure": (gpu(1, total_bytes=None), Rule.UNKNOWN),
    "prohibited": (gpu(1, compute_mode=ComputeMode.PROHIBITED), Rule.COMPUTE_MODE),
    "unexplained": (gpu(1, free_bytes=TOTAL - 2 * GIB), Rule.UNEXPLAINED),
    "unexplained, processes not told": (gpu(1, free_bytes=TOTAL - 2 * GIB, foreign=None), Rule.UNEXPLAINED),
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_nothing_is_kept_for_a_job_blocked_by_what_is_not_ours(name: str) -> None:
    card, rule = NOT_OURS[name]
    result = made((gpu(0), card), waiting(1, count=2), waiting(2))
    assert started(result) == {2: (0,)}
    assert result.reasons[1].rule is rule
    assert not result.kept


def test_after_a_job_that_is_blocked_for_good_space_is_kept_for_the_next() -> None:
    outside = gpu(2, claim=Claim(None, None))
    result = made((gpu(0), gpu(1), outside), running(1, share(0)), waiting(2, count=3), waiting(3, count=2), waiting(4))
    assert not result.actions
    assert set(result.kept.values()) == {3}


def test_a_request_for_more_gpus_than_there_are_waits_without_harm() -> None:
    result = made(gpus(1), waiting(1, count=3), waiting(2))
    assert started(result) == {2: (0,)}
    assert result.reasons[1].rule is Rule.UNHEALTHY


def test_a_request_for_more_memory_than_any_gpu_has_waits_without_harm() -> None:
    result = made(gpus(1), waiting(1, m=200), waiting(2))
    assert started(result) == {2: (0,)}
    assert (result.reasons[1].rule, result.reasons[1].need_bytes) == (Rule.MEMORY, 200 * GIB)


def test_ended_jobs_whose_share_still_stands_hold_it() -> None:
    left = Leftover(1, 4711, "python", 20 * GIB, NOW - 180)
    ended = in_state(running(1, share(0)), JobState.ENDED, ended_mono=NOW - 180)
    card = gpu(0, free_bytes=4 * GIB, used={1: 20 * GIB}, leftovers=(left,))
    result = made((card,), ended, waiting(2))
    (obstacle,) = result.reasons[2].obstacles
    assert (obstacle.rule, obstacle.job_ids, obstacle.leftover) == (Rule.LEFTOVER, (1,), left)


def test_only_the_gpus_that_a_job_allows_are_looked_at() -> None:
    result = made(gpus(3), running(1, share(1)), waiting(2, allowed=frozenset({"GPU-1"})), waiting(3))
    assert started(result) == {3: (0,)}
    assert [each.gpu_index for each in result.reasons[2].obstacles] == [1]


def test_a_job_that_computes_outside_its_grant_blocks_whole_requests_there() -> None:
    cards = (gpu(0), gpu(1, used={1: None}))
    result = made(cards, running(1, share(0)), waiting(2))
    assert not result.actions
    assert [each.job_ids for each in result.reasons[2].obstacles] == [(1,), (1,)]


def test_reasons_are_a_mapping_and_describe_the_machine_after_the_plan() -> None:
    result = made(gpus(1), waiting(1), waiting(2), waiting(3))
    assert list(result.reasons) == [2, 3]
    assert len(result.reasons) == 2
    assert 1 not in result.reasons
    assert result.reasons.get(1) is None
    assert [each.job_ids for each in result.reasons[3].obstacles] == [(1,)]
    assert result.reasons[2].obstacles is result.reasons[3].obstacles or result.kept
    with pytest.raises(KeyError):
        result.reasons[1]


def test_a_job_behind_a_kept_gpu_that_it_could_not_use_alone_is_not_called_behind() -> None:
    result = made(gpus(2), running(1, share(0)), waiting(2, count=2), waiting(3, count=2))
    assert [result.reasons[each].rule for each in (2, 3)] == [Rule.BUSY, Rule.BUSY]
    assert [each.rule for each in result.reasons[3].obstacles] == [Rule.BUSY, Rule.BEHIND]


def test_a_plan_made_again_is_empty_when_the_first_keeps_and_grants() -> None:
    view = View(gpus(2), (running(1, share(0)), waiting(2, count=2), waiting(3, m=1), waiting(4, count=0)))
    again = plan(applied(view, plan(view, NOW)), NOW)
    assert not again.actions


def test_jobs_per_gpu_limits_how_many_share() -> None:
    jobs = [waiting(number, m=1) for number in range(1, 4)]
    result = made(gpus(1), *jobs, bounds=Bounds(jobs_per_gpu=2))
    assert list(started(result)) == [1, 2]
    assert result.reasons[3].rule is Rule.JOBS_PER_GPU


# Sweeps


def rows(sweep: int, numbers: range, limit: int | None, **request: object) -> list[Job]:
    return [replace(waiting(number, **request), row=Row(sweep, number - sweep, limit)) for number in numbers]  # type: ignore[arg-type]


def test_a_sweep_runs_so_many_rows_at_once_and_keeps_nothing_for_the_others() -> None:
    result = made(gpus(4), *rows(1, range(1, 6), 2), waiting(6), waiting(7))
    assert started(result) == {1: (0,), 2: (1,), 6: (2,), 7: (3,)}
    assert {number: reason.rule for number, reason in result.reasons.items()} == dict.fromkeys((3, 4, 5), Rule.SWEEP)
    assert not result.kept


@pytest.mark.parametrize("state", ["granted", "running", "paused", "suspended", "stopping"])
def test_rows_under_way_count_whatever_they_do(state: str) -> None:
    first, *rest = rows(1, range(1, 4), 1)
    first = in_state(first, JobState(state), shares=(share(0),), started_mono=NOW)
    assert started(made(gpus(2), first, *rest)) == {}


@pytest.mark.parametrize("state", ["waiting", "held", "ended"])
def test_rows_that_do_not_run_do_not_count(state: str) -> None:
    first, *rest = rows(1, range(1, 3), 1)
    stopped = frozenset({1}) if state == "waiting" else frozenset[int]()
    assert started(made(gpus(2), in_state(first, JobState(state)), *rest, stopped=stopped)) == {2: (0,)}


def test_sweeps_do_not_count_for_each_other_and_one_without_a_limit_has_none() -> None:
    result = made(gpus(4), *rows(1, range(1, 4), 1), *rows(4, range(4, 7), None))
    assert started(result) == {1: (0,), 4: (1,), 5: (2,), 6: (3,)}


def test_a_row_that_cannot_start_leaves_its_turn_to_the_next() -> None:
    wide = replace(waiting(1, count=4), row=Row(1, 1, 1))
    result = made(gpus(4), running(9, share(0)), wide, *rows(1, range(2, 4), 1))
    assert started(result) == {}
    assert {number: reason.rule for number, reason in result.reasons.items()} == {1: Rule.BUSY, 2: Rule.BEHIND, 3: Rule.BEHIND}
    assert made(gpus(1), running(9, share(0)), *rows(1, range(1, 3), 1)).reasons[2].rule is Rule.BUSY


def test_rows_beyond_the_limit_do_not_count_as_waiting_for_a_whole_gpu() -> None:
    shared = replace(running(9, share(0, 4 * GIB, whole=False)), request=Request(memory_bytes=4 * GIB))
    one = waiting(8, m=4)
    assert started(made(gpus(3), shared, *rows(1, range(1, 4), 1), one)) == {1: (1,), 8: (2,)}
    assert started(made(gpus(3), shared, *rows(1, range(1, 4), 1)[:1], one)) == {1: (1,), 8: (2,)}


def test_a_plan_of_sweeps_that_was_applied_is_settled() -> None:
    view = View(gpus(3), (*rows(1, range(1, 9), 2), waiting(9)))
    result = plan(view, NOW)
    assert len(result.actions) == 3
    assert plan(applied(view, result), NOW).actions == ()


def test_the_sentence_names_the_sweep() -> None:
    jobs = rows(14, range(14, 20), 4)
    view = View(gpus(6), tuple(jobs))
    told = sentence(plan(view, NOW).reasons[18], jobs[4], view, NOW, DATE)
    assert told == "its turn: sweep 14 runs 4 at once"
