"""What another order would have brought, as `history --replay` and `doctor` tell it."""

import pytest
from views import DATE, TOTAL, running, share, waiting

from gpuwrap.commands.replayed import advice, orders_of, replayed
from gpuwrap.errors import UsageError
from gpuwrap.lifecycle import JobState
from gpuwrap.model import GiveWay, Job, Order, Request
from gpuwrap.policy.hindsight import played, recorded
from gpuwrap.tables import Screen

HOUR = 3600.0


def ended(number: int, came: float, began: float, ran: float, *, gpu: int = 0, **changes: object) -> Job:
    """A job that has ended; hours since the first came."""
    at = DATE + came * HOUR, DATE + began * HOUR, DATE + (began + ran) * HOUR
    job = running(number, share(gpu)).changed(state=JobState.ENDED, submitted_at=at[0], started_at=at[1], ended_at=at[2])
    job = job.changed(started_mono=at[1], ended_mono=at[2])
    return job.changed(**changes)


def behind_a_long_one(count: int) -> list[Job]:
    """One of ten hours first, then short ones, each with its limit."""
    long = ended(1, 0.0, 0.1, 10.0, request=Request(time_limit_seconds=10 * HOUR))
    other = ended(2, 0.0, 0.0, 0.1, request=Request(time_limit_seconds=HOUR))
    short = [
        ended(number, 0.05, 10.1 + number / 10, 0.1, request=Request(time_limit_seconds=HOUR)) for number in range(3, 3 + count)
    ]
    return [long, other, *short]


def test_short_ones_would_have_gone_before_a_long_one() -> None:
    gpus, jobs = recorded(behind_a_long_one(40))
    assert (gpus, len(jobs)) == (1, 42)
    arrival, shortest = (played(gpus, jobs, order) for order in (Order.ARRIVAL, Order.SHORTEST))
    assert arrival.wait_mean > 5 * shortest.wait_mean
    assert arrival.preemptions == 0


def test_a_job_that_may_be_run_again_gives_way_in_another_order_only() -> None:
    long = ended(1, 0.0, 0.0, 10.0, request=Request(give_way=GiveWay.REQUEUE, time_limit_seconds=10 * HOUR))
    short = ended(2, 1.0, 10.0, 0.5, request=Request(time_limit_seconds=0.5 * HOUR))
    gpus, jobs = recorded([long, short])
    arrival, shortest = (played(gpus, jobs, order) for order in (Order.ARRIVAL, Order.SHORTEST))
    assert (arrival.preemptions, round(arrival.wait_longest / HOUR)) == (0, 9)
    assert (shortest.preemptions, round(shortest.wait_longest)) == (1, 0)


def test_shares_of_one_gpu_are_shares_again_and_who_never_started_is_left_out() -> None:
    halves = [ended(number, 0.0, 0.0, 1.0, shares=(share(0, TOTAL // 2, whole=False),)) for number in (1, 2)]
    never = waiting(3).changed(state=JobState.ENDED, ended_at=DATE)
    gpus, jobs = recorded([ended(4, 0.0, 1.0, 1.0), *halves, never])
    assert (gpus, len(jobs)) == (1, 3)
    came = played(gpus, [each for each in jobs if each.request.memory_bytes], Order.ARRIVAL)
    assert came.wait_longest == 0


def test_it_is_told_as_a_table_and_what_there_is_to_gain() -> None:
    long = ended(1, 0.0, 0.0, 10.0, request=Request(give_way=GiveWay.REQUEUE, time_limit_seconds=10 * HOUR))
    short = [ended(n, 1.0, 10.0 + n, 0.1, request=Request(time_limit_seconds=HOUR)) for n in range(2, 41)]
    lines = replayed([long, *short], orders_of("shortest"), Screen())
    assert lines[0] == "40 jobs on 1 GPU, played again:"
    assert lines[1].split("  ")[0] == "ORDER"
    assert [line.split()[0] for line in lines[2:4]] == ["arrival", "shortest"]
    assert lines[4].startswith('with order = "shortest" they would have waited ')
    said = advice([long, *short])
    assert said is not None
    assert said.startswith("your last 40 jobs would have waited ")
    assert advice(short[:5]) is None


def test_nothing_to_gain_is_not_told() -> None:
    alone = [ended(number, number, number, 0.5) for number in range(1, 41)]
    assert advice(alone) is None
    assert len(replayed(alone, orders_of(None), Screen())) == 5
    assert replayed([], orders_of(None), Screen()) == ["no jobs"]


def test_an_order_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="order x: arrival, shortest or fair"):
        orders_of("x")
