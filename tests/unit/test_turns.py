"""Whose turn is first: who was started first, if it came soon; else who came first."""

import random
from dataclasses import replace

from views import NOW, gpus, running, share, waiting

from gpuwrap.model import Identity, Job, View
from gpuwrap.policy.plan import plan
from gpuwrap.turns import PID_BITS, SOON_TICKS, TICKS, before, turn


def started(number: int, tick: int, pid: int, came_seconds: float, priority: int = 0) -> Job:
    """A job whose process was started at a tick, registered so much later."""
    job = waiting(number, priority=priority)
    identity = Identity("boot", 1, pid, tick)
    submitted = tick / TICKS + came_seconds
    return replace(job, identity=identity, submitted_mono=submitted, turn=turn(identity, submitted, 0.0))


def places(*jobs: Job) -> list[int]:
    """The numbers in the order of the plan, which is that of `before`."""
    holder = running(900, share(0), since=10)
    reasons = plan(View(gpus(1), (holder, *jobs)), NOW).reasons
    in_order = sorted(jobs, key=lambda job: reasons[job.id].place)
    assert in_order == sorted(jobs, key=before)
    return [job.id for job in in_order]


def test_what_was_started_first_is_first_in_whatever_order_it_came() -> None:
    assert places(started(1, 105, 51, 0.2), started(2, 103, 50, 1.9), started(3, 120, 60, 0.0)) == [2, 1, 3]
    numbers = list(range(1, 41))
    random.Random(7).shuffle(numbers)
    forty = [started(number, 500 + at // 8, 2000 + at, 0.1) for at, number in enumerate(numbers)]
    assert places(*sorted(forty, key=lambda job: job.id)) == numbers


def test_the_pid_decides_between_what_was_started_in_one_tick_and_the_number_where_nothing_does() -> None:
    assert places(started(1, 100, 62, 0.1), started(2, 100, 61, 0.2)) == [2, 1]
    assert places(started(2, 100, 61, 0.1), started(1, 100, 61, 0.2)) == [1, 2]  # rows of a sweep


def test_priority_comes_first() -> None:
    assert places(started(1, 100, 61, 0.1), started(2, 300, 62, 0.1, priority=1)) == [2, 1]


def test_who_did_something_else_before_counts_from_its_registration() -> None:
    """A notebook that has run for days, or a shell that slept before it exec'd gpurun, is before nobody who waits."""
    late = started(3, 100, 61, SOON_TICKS / TICKS + 5)
    assert places(started(1, 1500, 70, 0.1), started(2, 1700, 71, 0.1), late) == [1, late.id, 2]
    assert late.turn == (100 + SOON_TICKS + 500) << PID_BITS


def test_a_machine_that_was_suspended_tells_starts_on_a_clock_that_went_on() -> None:
    identity = Identity("boot", 1, 61, 90_000)
    assert turn(identity, 100.2, 800.0) == 90_000 << PID_BITS | 61
    assert turn(identity, 100.2, 0.0) == 10_020 << PID_BITS
    assert turn(identity, None, 0.0) == 0
