"""Giving way: who is paused for whom, by what way, and when it goes on; and runs that are run again."""

import signal
from typing import Any

import pytest
from inprocess import Client, Clock, Jobs, five_good_wakes, full_disk
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.lifecycle import JobState
from gpuwrap.model import ResultKind

URGENT = 50


def urgent(jobs: Jobs, **values: Any) -> int:
    """Somebody urgent comes; its number, once what follows has been done."""
    number = jobs.register(priority=URGENT, **values)
    wait_until(lambda: (five_good_wakes(jobs.arbiter), jobs.state(number) != "waiting")[1], "room for it", 5)
    return number


def test_who_may_be_paused_stands_still_for_who_is_urgent_and_goes_on_after_it(jobs: Jobs) -> None:
    victim = jobs.start(give_way="suspend", memory=4 * 2**30)
    newcomer = urgent(jobs, memory=21 * 2**30)
    assert jobs.job(victim).state in (JobState.PAUSED, JobState.SUSPENDED)
    assert jobs.job(victim).yields_to == newcomer
    assert jobs.stands(victim)
    jobs.take(newcomer)
    jobs.end(newcomer)
    wait_until(lambda: (five_good_wakes(jobs.arbiter), jobs.state(victim) == "running")[1], "the victim to go on", 5)
    wait_until(lambda: not jobs.stands(victim), "it to compute", 5)
    assert jobs.job(victim).yields_to is None


def test_who_never_gives_way_is_never_paused(jobs: Jobs, other: Client) -> None:
    victim = jobs.start(give_way="never", memory=4 * 2**30)
    newcomer = jobs.register(priority=URGENT, memory=21 * 2**30)
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(victim), jobs.state(newcomer)) == ("running", "waiting")
    assert "job 1 never gives way (--give-way never)" in str(other.answer("why", job=newcomer))
    ((_id, well, text),) = other.answer("pause", jobs=victim)
    assert (well, "never gives way" in text) == (False, True), "by hand neither"
    assert not jobs.stands(victim)


@pytest.mark.parametrize(("priority", "states"), [(0, "running waiting"), (9, "running waiting"), (10, "paused granted")])
def test_less_than_a_step_does_not_interrupt(jobs: Jobs, priority: int, states: str) -> None:
    victim = jobs.start(memory=4 * 2**30)
    newcomer = jobs.register(priority=priority, memory=20 * 2**30 + 1)
    five_good_wakes(jobs.arbiter)
    assert f"{jobs.state(victim)} {jobs.state(newcomer)}" == states


def test_a_pause_that_could_not_be_written_down_is_none(jobs: Jobs, arbiter: Arbiter, other: Client, monkeypatch: Any) -> None:
    job = jobs.start()
    with full_disk(arbiter, monkeypatch):
        other.refused("pause", jobs=job)
    five_good_wakes(arbiter)
    wait_until(lambda: not jobs.stands(job), "it to go on", 5)
    assert jobs.state(job) == "running"


def test_who_dies_while_it_is_paused_has_ended(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    other.answer("pause", jobs=job)
    behind = jobs.register()
    jobs.end(job)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(behind) == "granted"


def test_what_is_paused_by_hand_keeps_its_gpu(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    other.answer("pause", jobs=job)
    behind = jobs.register()
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(job), jobs.state(behind)) == ("paused", "waiting")


@pytest.mark.parametrize("times", [1, 3])
def test_it_is_paused_and_goes_on_as_often_as_it_is_asked(jobs: Jobs, other: Client, times: int) -> None:
    job = jobs.start()
    for _ in range(times):
        assert other.answer("pause", jobs=job)[0][1]
        assert jobs.stands(job)
        assert other.answer("resume", jobs=job)[0][1]
        wait_until(lambda: not jobs.stands(job), "it to go on", 5)
    assert jobs.state(job) == "running"


# Runs that are run again: here the child is the stub


def stub(jobs: Jobs, **values: Any) -> int:
    """A job behind a stub, which hears what the arbiter says and lives on."""
    job = jobs.start("sh", "-c", "trap '' TERM; exec sleep 600", stub=True, **values)
    jobs.until(job, lambda leader: leader.does_ignore(signal.SIGTERM))
    return job


def over(jobs: Jobs, number: int, status: int, **values: Any) -> list[tuple[str, dict[str, str]]]:
    """The stub says that its run is over, and hears whether there is another."""
    client = jobs.clients[number]
    client.heard()
    client.ask("ended", attempt=jobs.job(number).attempt, status=status, **values)
    five_good_wakes(jobs.arbiter)
    return client.heard()


@pytest.mark.parametrize(
    ("status", "asked", "kind"),
    [
        (0, {}, "exit"),
        (1 << 8, {"retries": 2}, "rerun"),
        (1 << 8, {}, "exit"),
        (9, {"retries": 1}, "rerun"),
        (75 << 8, {}, "rerun"),
        (99 << 8, {}, "rerun"),
        (0, {"retries": 2}, "exit"),
    ],
)
def test_after_a_run_there_is_another_or_none(jobs: Jobs, status: int, asked: dict[str, int], kind: str) -> None:
    job = stub(jobs, give_way="requeue", **asked)
    heard = [each for each in over(jobs, job, status) if each[0] in ("exit", "rerun")]
    assert [each for each, _values in heard] == [kind]
    assert (jobs.state(job) == "ended") is (kind == "exit")
    assert jobs.job(job).attempt == (1 if kind == "exit" else 2)


def test_who_was_interrupted_is_not_run_again(jobs: Jobs) -> None:
    job = stub(jobs, retries=5)
    assert "exit" in dict(over(jobs, job, 1 << 8, interrupted=True))
    assert jobs.state(job) == "ended"


def test_who_failed_as_often_as_it_may_has_ended(jobs: Jobs) -> None:
    job = stub(jobs, retries=2)
    assert "exit" in dict(over(jobs, job, 1 << 8, failures=2))
    result = jobs.job(job).result
    assert result is not None
    assert (result.kind, result.code) == (ResultKind.EXIT, 1)


@pytest.mark.parametrize(("failures", "seconds"), [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (9, 60)])
def test_it_rests_before_it_is_tried_again_each_time_longer(jobs: Jobs, failures: int, seconds: int) -> None:
    job = stub(jobs, retries=50)
    told = dict(over(jobs, job, 1 << 8, failures=failures))["rerun"]
    assert (told["after"], told["failures"]) == (str(seconds), str(failures + 1))
    behind = jobs.register()
    assert (jobs.state(job), jobs.state(behind)) == ("waiting", "granted"), "others have its GPU meanwhile"


def test_a_run_that_was_judged_already_is_not_judged_again(jobs: Jobs) -> None:
    job = stub(jobs, retries=5)
    over(jobs, job, 1 << 8)
    client = jobs.clients[job]
    client.ask("ended", attempt=1, status=1 << 8)
    assert "rerun" in client.kinds()
    assert jobs.job(job).attempt == 2


def test_who_is_killed_is_not_run_again(jobs: Jobs, other: Client) -> None:
    job = stub(jobs, give_way="requeue", retries=5)
    other.answer("kill", jobs=job)
    assert jobs.state(job) == "stopping"
    assert "exit" in dict(over(jobs, job, 15, asked=True))
    assert jobs.state(job) == "ended"


@pytest.mark.parametrize(("status", "kind"), [(15, "rerun"), (1 << 8, "rerun"), (0, "exit")])
def test_who_was_evicted_by_hand_is_run_again_unless_it_was_done(jobs: Jobs, other: Client, status: int, kind: str) -> None:
    job = stub(jobs, give_way="requeue")
    ((_id, well, text),) = other.answer("kill", jobs=job, requeue=True)
    assert well, text
    assert jobs.state(job) == "stopping"
    assert kind in dict(over(jobs, job, status, asked=True))
    assert (jobs.state(job) == "ended") is (kind == "exit")


def test_who_never_said_that_it_may_be_is_not_evicted(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    ((_id, well, _text),) = other.answer("kill", jobs=job, requeue=True)
    assert (well, jobs.state(job)) == (False, "running")


def test_a_time_limit_ends_it_for_good(jobs: Jobs, clock: Clock) -> None:
    job = stub(jobs, give_way="requeue", retries=5, time=60)
    clock.go_on(61)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(job) == "stopping"
    assert "exit" in dict(over(jobs, job, 15, asked=True))


def test_each_run_has_the_whole_limit(jobs: Jobs, clock: Clock) -> None:
    job = stub(jobs, give_way="requeue", time=60)
    clock.go_on(50)
    over(jobs, job, 75 << 8)
    clock.go_on(1)
    assert jobs.job(job).started_mono is None
    assert jobs.arbiter.limits.seconds_left(jobs.job(job)) is None
