"""Time limits (`-t`): when a job is asked to end, by which signals, and what does not count."""

import signal
from typing import Any

import pytest
from inprocess import Client, Clock, Jobs, five_good_wakes, full_disk

from gpuwrap.arbiter.loop import Arbiter


def left(jobs: Jobs, number: int) -> float | None:
    return jobs.arbiter.limits.seconds_left(jobs.job(number))


def until_asked(jobs: Jobs, clock: Clock, number: int, seconds: float) -> None:
    """Nothing happens a moment before, and then it does."""
    clock.go_on(seconds - 1)
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(number), jobs.leader(number).poll()) == ("running", None)
    clock.go_on(1.5)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) in ("stopping", "ended")


def test_it_is_asked_by_term_when_it_has_run_for_so_long(jobs: Jobs, clock: Clock) -> None:
    job = jobs.start(time=60)
    until_asked(jobs, clock, job, 60)
    result = jobs.ended(job).result
    assert result is not None
    assert (result.signal, result.text) == (signal.SIGTERM, "time limit of 1m")


def test_who_has_none_runs_on(jobs: Jobs, clock: Clock) -> None:
    job = jobs.start()
    assert left(jobs, job) is None
    clock.go_on(30 * 86400)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(job) == "running"


def test_waiting_does_not_count(jobs: Jobs, clock: Clock) -> None:
    first, second = jobs.start(), jobs.register(time=60)
    clock.go_on(100)
    five_good_wakes(jobs.arbiter)
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    jobs.take(second)
    until_asked(jobs, clock, second, 60)


@pytest.mark.parametrize(
    ("signals", "delays"), [("10:30,15:10", [(0, "USR1"), (30, "TERM"), (40, "KILL")]), ("15:5", [(0, "TERM"), (5, "KILL")])]
)
def test_its_own_signals_follow_one_another(
    jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch, signals: str, delays: list[tuple[int, str]]
) -> None:
    sent: list[tuple[int, str]] = []
    monkeypatch.setattr(
        "gpuwrap.host.processes.send_signal",
        lambda _identity, number, _owner=None: number != signal.SIGCONT and sent.append((at, signal.Signals(number).name[3:])),
    )
    job, at = jobs.start(time=60, signals=signals), 0
    clock.go_on(60.5)
    while at < 45:
        at += 1
        five_good_wakes(jobs.arbiter)
        clock.go_on(1)
    firsts = {name: when for when, name in reversed(sent)}
    assert list(firsts)[::-1] == [name for _when, name in delays]
    assert all(abs(firsts[name] - firsts[delays[0][1]] - when) <= 1 for when, name in delays), sent
    assert jobs.state(job) == "stopping"


def test_a_pause_does_not_count(jobs: Jobs, other: Client, clock: Clock) -> None:
    job = jobs.start(time=60)
    clock.go_on(30)
    five_good_wakes(jobs.arbiter)
    assert other.answer("pause", jobs=job)[0][1]
    clock.go_on(1000)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(job) == "paused"
    assert left(jobs, job) == pytest.approx(30, abs=3)
    assert other.answer("resume", jobs=job)[0][1]
    five_good_wakes(jobs.arbiter)
    assert jobs.state(job) == "running"
    until_asked(jobs, clock, job, left(jobs, job) or 0)


@pytest.mark.parametrize(("wanted", "before", "after"), [(120, 60, 110), (20, 60, 10), ("none", 60, None), (60, None, 50)])
def test_a_limit_that_is_changed_counts_from_the_start(
    jobs: Jobs, other: Client, clock: Clock, wanted: Any, before: int | None, after: float | None
) -> None:
    job = jobs.start(**({} if before is None else {"time": before}))
    clock.go_on(10)
    five_good_wakes(jobs.arbiter)
    assert other.answer("set", jobs=job, time=wanted)[0][1]
    assert left(jobs, job) == (None if after is None else pytest.approx(after, abs=3))
    if after is None:
        clock.go_on(1000)
        five_good_wakes(jobs.arbiter)
        assert jobs.state(job) == "running"
    else:
        until_asked(jobs, clock, job, left(jobs, job) or 0)


def test_one_that_has_passed_already_ends_it_at_once(jobs: Jobs, other: Client, clock: Clock) -> None:
    job = jobs.start()
    clock.go_on(100)
    five_good_wakes(jobs.arbiter)
    other.answer("set", jobs=job, time=50)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(job) in ("stopping", "ended")


def test_a_limit_that_was_changed_in_a_lost_turn_is_the_old_one(
    jobs: Jobs, other: Client, clock: Clock, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.start(time=60)
    with full_disk(arbiter, monkeypatch):
        other.refused("set", jobs=job, time=5)
    assert jobs.job(job).request.time_limit_seconds == 60
    clock.go_on(20)
    five_good_wakes(arbiter)
    assert jobs.state(job) == "running"
    until_asked(jobs, clock, job, left(jobs, job) or 0)


def test_who_runs_inside_another_stands_still_with_it(jobs: Jobs, arbiter: Arbiter) -> None:
    """Nobody's time is used up by somebody else: the outer one's pause counts for the inner one."""
    outer, inner = jobs.start(gpus=0), jobs.start(gpus=0, time=60)
    with arbiter.store.batch():
        arbiter.store.change(jobs.job(inner), parent_id=outer)
    assert [job.id for job in arbiter.limits._around(jobs.job(inner))] == [inner, outer]


def test_the_limit_of_one_ends_nobody_else(jobs: Jobs, clock: Clock) -> None:
    limited, unlimited = jobs.start(gpus=0, time=60), jobs.start(gpus=0)
    until_asked(jobs, clock, limited, 60)
    assert jobs.state(unlimited) == "running"
