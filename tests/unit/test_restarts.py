"""What `-r`, `--signal` and `--retries` mean, and the verdict on each end of a run."""

from dataclasses import replace

import pytest

from gpuwrap.errors import UsageError
from gpuwrap.lifecycle import JobState
from gpuwrap.model import GiveWay, Identity, Job, Request
from gpuwrap.policy.rerunning import Run, judge
from gpuwrap.restarts import (
    MOST_RERUNS,
    asks_everybody,
    read_restarts,
    read_signals,
    stored_signals,
    wait_before,
    write_signals,
)

RUNNING = Job(
    1, "k", None, "u", JobState.RUNNING, 0, Request(give_way=GiveWay.REQUEUE), Identity("b", 1, 2, 3), (b"x",), b"/", 0.0,
    stub=True,
)  # fmt: skip
EVICTED = replace(RUNNING, state=JobState.STOPPING, requeue=True)
KILLED = replace(RUNNING, state=JobState.STOPPING)


def exit(code: int, **more: object) -> Run:
    return Run(1, code << 8, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("TERM:120", ((15, 120.0),)),
        ("USR1:60,TERM:30", ((10, 60.0), (15, 30.0))),
        ("SIGINT:1m", ((2, 60.0),)),
        ("15:0", ((15, 0.0),)),
        ("term:1.5s", ((15, 1.5),)),
    ],
)
def test_signal_lists_are_read(text: str, steps: object) -> None:
    assert read_signals(text) == steps
    assert stored_signals(write_signals(read_signals(text))) == steps


@pytest.mark.parametrize(
    "text",
    ["", "TERM", "TERM:", ":5", "FOO:5", "KILL:5", "STOP:5", "9:5", "TERM:5,", "TERM:-5", "TERM:x", "0:5", "65:5",
     "TERM:700000", "TERM:5,TERM:5,TERM:5,TERM:5,TERM:5,TERM:5,TERM:5,TERM:5,TERM:5", "TERM:5:5", " TERM:5"],
)  # fmt: skip
def test_signal_lists_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        read_signals(text)


def test_a_list_may_be_for_all_of_the_job() -> None:
    read = read_restarts({"signal": "all:USR1:60,TERM:30"})["signals"]
    assert read == read_restarts({"signal": str(read)})["signals"] == "all:10:60,15:30"
    assert stored_signals(str(read)) == ((10, 60.0), (15, 30.0))
    assert asks_everybody(str(read))
    assert not asks_everybody("15:30")
    assert not asks_everybody(None)
    for wrong in ("all:", "all", "TERM:5,all:TERM:5", "all:all:TERM:5", "ALL:TERM:5"):
        with pytest.raises(UsageError):
            read_restarts({"signal": wrong})


def test_the_default_is_term_and_two_minutes() -> None:
    assert stored_signals(None) == ((15, 120.0),)


def test_the_form_follows_from_the_options() -> None:
    assert "stub" not in read_restarts({"give_way": "pause"})
    assert "stub" not in read_restarts({"give_way": "never", "signal": "TERM:5"})
    assert "stub" not in read_restarts({"retries": "0"})
    assert read_restarts({"restartable": True}) == {"give_way": "requeue", "stub": True}
    assert read_restarts({"give_way": "requeue"}) == {"give_way": "requeue", "stub": True}
    assert read_restarts({"retries": "3"}) == {"give_way": None, "retries": 3, "stub": True}


def test_success_and_kills_are_final() -> None:
    for job in (RUNNING, EVICTED, KILLED, replace(RUNNING, retries=5)):
        assert judge(job, exit(0, asked=True)) is None
    assert judge(replace(KILLED, retries=5), exit(75)) is None
    assert judge(replace(EVICTED, retries=5), exit(1, asked=True, interrupted=True)) is None


def test_an_evicted_run_that_did_not_succeed_comes_back() -> None:
    for run in (exit(1, asked=True), Run(1, 15, asked=True), Run(1, 9, asked=True, seconds=0.1)):
        again = judge(EVICTED, run)
        assert again is not None
        assert again.gave_way
        assert again.after == 0


def test_a_run_that_fails_before_it_was_asked_has_failed() -> None:
    assert judge(EVICTED, exit(1)) is None
    assert judge(RUNNING, exit(1)) is None


def test_evictions_reruns_and_retries_are_bounded_apart() -> None:
    # How often it is evicted is bounded before it is asked: what it was asked to do is never a failure of its own.
    assert judge(replace(EVICTED, times_given_way=10**6, attempt=10**6), exit(1, asked=True)) is not None
    assert judge(RUNNING, exit(75, reruns=MOST_RERUNS)) is None
    job, runs, waits = replace(RUNNING, retries=3), 0, []
    run = exit(1)
    while (again := judge(job, run)) is not None:
        runs += 1
        waits.append(again.after)
        run = exit(1, failures=again.failures, reruns=again.reruns, short=again.short)
        evicted = judge(replace(job, state=JobState.STOPPING, requeue=True), replace(run, asked=True))
        assert evicted is not None
        assert evicted.failures == again.failures
    assert (runs, waits) == (3, [1, 2, 4])


@pytest.mark.parametrize("code", [75, 99])
def test_asking_to_be_run_again_waits_longer_each_time_it_comes_soon(code: int) -> None:
    waits, run = [], exit(code, seconds=0.5)
    for _ in range(8):
        again = judge(RUNNING, run)
        assert again is not None
        waits.append(again.after)
        run = exit(code, seconds=0.5, reruns=again.reruns, short=again.short)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    late = judge(RUNNING, replace(run, seconds=1000.0))
    assert late is not None
    assert (late.after, late.short) == (0, 0)


def test_waits_never_exceed_a_minute() -> None:
    assert [wait_before(tries) for tries in (0, 1, 7, 8, 10**6)] == [1, 1, 60, 60, 60]
