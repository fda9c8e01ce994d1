"""Whole workloads through `plan`: at each event all promises are looked at, for everybody in line."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from gpuwrap.model import GiveWay, Order, Request
from gpuwrap.policy import replay as command
from gpuwrap.policy.replaying import CARD_BYTES, Preempt, Recorded, Replay, Rules


def workload(seed: int, gpus: int, count: int, shared: bool = False, limit_factor: float | None = None) -> list[Recorded]:
    chance = random.Random(seed)
    now, jobs = 0.0, []
    for _ in range(count):
        now += chance.expovariate(gpus / 400)
        seconds = chance.choice((5.0, 60.0, 600.0, 3000.0))
        memory = int(CARD_BYTES * chance.uniform(0.05, 0.6)) if shared and chance.random() < 0.7 else None
        wide = 1 if memory else chance.choice((1, 1, 1, 2, gpus))
        limit = seconds * limit_factor if limit_factor else None
        jobs.append(Recorded(now, seconds, Request(min(wide, gpus), memory, time_limit_seconds=limit)))
    return jobs


def strictly_in_turn(gpus: int, jobs: list[Recorded]) -> list[float]:
    """How long each waits if nobody ever passes anybody."""
    free_at, before, waits = [0.0] * gpus, 0.0, []
    for job in jobs:
        free_at.sort()
        begins = max(job.submit_seconds, before, free_at[job.request.gpus - 1])
        free_at[: job.request.gpus] = [begins + job.duration_seconds] * job.request.gpus
        before = begins
        waits.append(begins - job.submit_seconds)
    return waits


PLAIN = Rules()


def played(gpus: int, jobs: list[Recorded], rules: Rules = PLAIN) -> Replay:
    replay = Replay(gpus, jobs, rules)
    replay.run()
    return replay


def replayed(gpus: int, jobs: list[Recorded], rules: Rules = PLAIN) -> list[float]:
    courses = played(gpus, jobs, rules).courses
    return [courses[number].begun - jobs[number - 1].submit_seconds for number in range(1, len(jobs) + 1)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_where_no_end_is_known_whole_gpus_are_given_in_turn(seed: int, gpus: int) -> None:
    jobs = workload(seed, gpus, 120)
    assert replayed(gpus, jobs) == pytest.approx(strictly_in_turn(gpus, jobs))


@pytest.mark.parametrize("seed", range(8))
def test_known_ends_let_others_slip_in_and_delay_no_first_in_line(seed: int) -> None:
    known = sum(replayed(4, workload(seed, 4, 120, limit_factor=1.0)))
    assert known <= sum(replayed(4, workload(seed, 4, 120)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit_factor", [None, 1.0, 3.0])
def test_shared_gpus_are_never_promised_twice_and_everybody_runs(seed: int, limit_factor: float | None) -> None:
    assert len(replayed(4, workload(seed, 4, 120, shared=True, limit_factor=limit_factor))) == 120


def consenting(jobs: list[Recorded], part: float = 1.0) -> list[Recorded]:
    chance = random.Random(1)
    return [
        replace(
            each,
            request=replace(each.request, give_way=GiveWay.REQUEUE if chance.random() < part else GiveWay.PAUSE),
            held_bytes=None if each.request.memory_bytes else int(CARD_BYTES * chance.uniform(0.1, 1)),
        )
        for each in jobs
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("limit_factor", [None, 2.0])
@pytest.mark.parametrize("preempt", list(Preempt))
@pytest.mark.parametrize("order", [Order.SHORTEST, Order.FAIR])
def test_in_every_order_all_promises_hold_at_every_event_and_everybody_runs(
    seed: int, limit_factor: float | None, preempt: Preempt, order: Order
) -> None:
    jobs = consenting(workload(seed, 4, 70, shared=True, limit_factor=limit_factor), 0.7)
    if preempt is not Preempt.PAUSE:
        jobs = [replace(each, held_bytes=None) for each in jobs]
    replay = played(4, jobs, Rules(order, preempt, quantum_seconds=120.0))
    for course in replay.courses.values():
        assert course.ended is not None
        assert course.ran_seconds == pytest.approx(course.recorded.duration_seconds)
        assert not course.gave_way or course.recorded.request.give_way is GiveWay.REQUEUE


@pytest.mark.parametrize("seed", range(4))
def test_shortest_first_waits_less_than_in_order_of_arrival(seed: int) -> None:
    jobs = consenting(workload(seed, 4, 200, limit_factor=2.0))
    plain = [replace(each, held_bytes=None) for each in jobs]
    arrival, shortest = replayed(4, plain), replayed(4, plain, Rules(Order.SHORTEST))
    assert sum(shortest) < sum(arrival)
    took = [
        sum(course.ended - course.recorded.submit_seconds for course in played(4, plain, rules).courses.values())
        for rules in (Rules(Order.SHORTEST), Rules(Order.SHORTEST, Preempt.REQUEUE, 10.0, 60.0))
    ]
    assert took[1] < took[0]


@pytest.mark.parametrize("preempt", [Preempt.NEVER, Preempt.REQUEUE])
@pytest.mark.parametrize("wide", [1, 2])
def test_a_long_job_starts_under_endless_shorter_arrivals(preempt: Preempt, wide: int) -> None:
    short = Request(1, give_way=GiveWay.REQUEUE, time_limit_seconds=60.0)
    arrivals = [Recorded(index * 25.0, 60.0, short) for index in range(1000)]
    long = Recorded(100.0, 900.0, replace(short, gpus=wide, time_limit_seconds=900.0))
    jobs = sorted([*arrivals, long], key=lambda job: job.submit_seconds)
    replay = played(2, jobs, Rules(Order.SHORTEST, preempt, due_after_seconds=600.0))
    begun = next(each.begun for each in replay.courses.values() if each.recorded is long)
    assert replay.due
    assert begun <= 100.0 + 600.0 + 20 * 900.0 + 120.0


def test_a_guess_that_is_wrong_by_ten_changes_the_order_only() -> None:
    jobs = consenting(workload(3, 4, 120, limit_factor=1.0))
    jobs = [replace(each, held_bytes=None) for each in jobs]
    for factor in (0.1, 10.0):
        wrong = [
            replace(each, request=replace(each.request, time_limit_seconds=each.duration_seconds * factor)) for each in jobs
        ]
        replay = played(4, wrong, Rules(Order.SHORTEST, Preempt.REQUEUE, quantum_seconds=60.0))
        assert all(course.ran_seconds == pytest.approx(course.recorded.duration_seconds) for course in replay.courses.values())


def test_the_command_reads_a_trace_and_tells_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"job-{index},{index * 100},{300 + 50 * (index % 7)},{1 + index % 2},anna\n" for index in range(50))
    trace = tmp_path / "small.csv"
    trace.write_text(f"# gpus=2\njob_id,submit_s,duration_s,gpus,user\n{rows}")
    command.main([str(trace), "--limits", "rough", "--order", "shortest", "--preempt", "requeue", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["trace"] == "small"
    assert {
        "jct_mean", "jct_median", "jct_p99", "wait_mean", "wait_p99", "slowdown_mean", "makespan", "utilisation", "jain",
        "preemptions_per_job", "longest_wait", "due", "start_within_2", "start_in_range", "worst_user_slowdown",
    } <= set(told)  # fmt: skip
    command.main([str(trace)])
    assert "| small | " in capsys.readouterr().out


def test_rough_limits_are_round_and_at_most_five_times_too_long() -> None:
    for index in range(200):
        limit = command.rough(f"job-{index}", 1000.0)
        assert limit in command.ROUND
        assert 1000 <= limit <= 7200
