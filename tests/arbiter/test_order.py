"""`--after`, `--once` and `--once-waiting`: who is waited for, what can never be, and what an end does down the line."""

from dataclasses import replace

import pytest
from inprocess import Client, Jobs, five_good_wakes
from views import waiting

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.lifecycle import Event
from gpuwrap.model import Result, ResultKind


class Line:
    """Rows without processes."""

    def __init__(self, arbiter: Arbiter) -> None:
        self.arbiter = arbiter

    def add(self, name: str | None = None, after: str | None = None, parent: int | None = None, once: str | None = None) -> int:
        """Register a job; its number."""
        store = self.arbiter.store
        with store.batch():
            job = waiting(1000 + store.next_id())
            made = store.register(replace(job, name=name, after_jobs=after, parent_id=parent, once=once))
        return made.id

    def start(self, number: int) -> None:
        store = self.arbiter.store
        with store.batch():
            store.move(store.grant(store.live[number], (), "granted"), Event.TAKE, "taken")

    def end(self, number: int, result: Result | None = None) -> None:
        """It ends, well if nothing else is said, and who waited for it hears of it."""
        store = self.arbiter.store
        with store.batch():
            if store.live[number].started_at is None and store.live[number].state.value == "waiting":
                store.move(store.grant(store.live[number], (), "granted"), Event.TAKE, "taken")
            job = store.move(store.live[number], Event.END, "ended", result=result or Result(ResultKind.EXIT, code=0))
            self.arbiter.order.ended(job)

    def read(self, text: str, parent: int | None = None) -> tuple[str, str | None]:
        return self.arbiter.order.read(text, self.arbiter.store.live[parent] if parent is not None else None)

    def state(self, number: int) -> str:
        job = self.arbiter.store.find(number)
        assert job is not None
        return job.state.value

    def why(self, number: int) -> str | None:
        job = self.arbiter.store.find(number)
        assert job is not None
        assert job.result is not None
        return job.result.text


@pytest.fixture
def line(arbiter: Arbiter) -> Line:
    """Five jobs: 1 to 3 are called lr-1 to lr-3, 4 is called seed, and 5 has no name."""
    made = Line(arbiter)
    for name in ("lr-1", "lr-2", "lr-3", "seed", None):
        made.add(name)
    return made


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("1", "1"), ("1,3", "1 3"), ("3,1,3", "1 3"), ("1-3", "1-3"), ("lr-2", "2"), ("lr-*", "1-3"), ("lr-?", "1-3"),
        ("lr-[12]", "1-2"), ("seed", "4"), ("ok:1", "ok:1"), ("ok:lr-*", "ok:1-3"), ("any:1", "1"), ("any:1-2", "1-2"),
        ("1,ok:2", "1 ok:2"), ("ok:2,any:1", "1 ok:2"), ("*", "1-4"), ("2-9", "2-5"),
    ],
)  # fmt: skip
def test_jobs_are_named_by_number_range_name_and_pattern(line: Line, text: str, row: str) -> None:
    assert line.read(text) == (row, None)


@pytest.mark.parametrize("text", ["99", "nobody", "x-*", "6-9", "ok:99", "ok:", "", "any:nobody", "0", "-1"])
def test_who_is_not_there_cannot_be_waited_for(line: Line, text: str) -> None:
    assert line.read(text) == ("", f"after {text}: no such job")
    assert line.read(f"1,{text}") == ("", f"after {text}: no such job")


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (Result(ResultKind.EXIT, code=3), "job 1 failed (exit 3)"),
        (Result(ResultKind.SIGNAL, signal=9), "job 1 failed (SIGKILL)"),
        (Result(ResultKind.CANCELLED, text="cancelled by anna"), "job 1 did not succeed (cancelled by anna)"),
        (Result(ResultKind.WAIT_LIMIT), "job 1 did not succeed (wait-limit)"),
        (Result(ResultKind.LOST, text="the machine was restarted"), "job 1 did not succeed (the machine was restarted)"),
        (Result(ResultKind.UNKNOWN), "job 1 did not succeed (unknown)"),
    ],
)
def test_who_waited_for_the_success_of_one_that_failed_is_cancelled_with_the_cause(
    line: Line, result: Result, told: str
) -> None:
    ok, any_ = line.add(after="ok:1"), line.add(after="1")
    line.end(1, result)
    assert (line.state(ok), line.state(any_)) == ("ended", "waiting")
    assert line.why(ok) == told
    assert line.read("ok:1") == ("", told), "and who asks for it now is refused with the same"
    assert line.read("1") == ("1", None)


def test_who_waited_for_success_waits_no_more_after_it(line: Line) -> None:
    ok = line.add(after="ok:1")
    assert line.arbiter.order.blocked() == {ok: (1,)}
    line.end(1)
    assert line.arbiter.order.blocked() == {}
    assert line.state(ok) == "waiting"


@pytest.mark.parametrize("length", [2, 3, 50, 1100])
def test_a_failure_goes_down_the_line_and_names_the_first_cause(line: Line, length: int) -> None:
    """Also down a line that is longer than functions may call one another."""
    numbers = [1]
    for _ in range(length):
        numbers.append(line.add(after=f"ok:{numbers[-1]}"))
    line.end(1, Result(ResultKind.EXIT, code=3))
    assert [line.state(number) for number in (numbers[1], numbers[-1])] == ["ended", "ended"]
    assert line.why(numbers[-1]) in (f"job {numbers[-2]} did not succeed (job 1 failed (exit 3))", "job 1 failed (exit 3)")
    assert not any(number in line.arbiter.store.in_line for number in numbers)


def test_several_are_waited_for_until_the_last(line: Line) -> None:
    number = line.add(after="1-3")
    for each, left in ((2, (1, 3)), (3, (1,)), (1, None)):
        line.end(each)
        assert line.arbiter.order.blocked().get(number) == left


def test_who_is_awaited_by_anybody_is_known(line: Line) -> None:
    assert line.arbiter.order.awaited_by_anybody() == set()
    line.add(after="1 ok:3")
    assert line.arbiter.order.awaited_by_anybody() == {1, 3}


def test_of_one_that_is_in_no_line_the_same_is_known(line: Line) -> None:
    assert line.arbiter.order.awaited_by(replace(waiting(9), after_jobs="1 ok:2")) == {9: (1, 2)}
    line.end(1)
    line.end(2)
    assert line.arbiter.order.awaited_by(replace(waiting(9), after_jobs="1 ok:2")) == {}
    assert line.arbiter.order.awaited_by(waiting(9)) == {}


def test_after_a_restart_those_are_cancelled_whose_failure_nobody_saw(line: Line) -> None:
    store, ok = line.arbiter.store, line.add(after="ok:1")
    with store.batch():  # the end is written down, and the arbiter dies
        job = store.move(store.grant(store.live[1], (), "granted"), Event.TAKE, "taken")
        store.move(job, Event.END, "ended", result=Result(ResultKind.EXIT, code=1))
    assert line.state(ok) == "waiting"
    with store.batch():
        line.arbiter.order.cancel_failed()
    assert (line.state(ok), line.why(ok)) == ("ended", "job 1 failed (exit 1)")


# Circles


@pytest.mark.parametrize("text", ["5", "ok:5", "1,5", "4-5"])
def test_nobody_waits_for_the_job_inside_which_he_runs(line: Line, text: str) -> None:
    line.start(5)
    assert line.read(text, parent=5) == ("", "after 5: it runs inside job 5, which would wait for it")


def test_nor_for_one_further_out(line: Line) -> None:
    line.start(5)
    inner = line.add(parent=5)
    line.start(inner)
    assert line.read("5", parent=inner) == ("", "after 5: it runs inside job 5, which would wait for it")
    assert line.read(f"{inner}", parent=inner)[1] == f"after {inner}: it runs inside job {inner}, which would wait for it"


@pytest.mark.parametrize("between", [0, 1, 2, 40])
def test_nor_for_one_that_waits_for_it_however_far_along(line: Line, between: int) -> None:
    line.start(5)
    last = line.add(after="5")
    for _ in range(between):
        last = line.add(after=f"ok:{last}")
    assert line.read(f"{last}", parent=5) == ("", f"after {last}: job {last} waits for job 5, inside which it runs")


def test_but_for_others_he_does(line: Line) -> None:
    line.start(5)
    assert line.read("1", parent=5) == ("1", None)
    behind = line.add(after="1")
    assert line.read(f"{behind}", parent=5) == (f"{behind}", None)


def test_who_ended_closes_no_circle(line: Line) -> None:
    line.start(5)
    behind = line.add(after="5 1")
    line.end(behind)
    assert line.read(f"{behind}", parent=5)[1] is None


# --once


def test_a_key_is_held_by_who_waits_or_runs(line: Line) -> None:
    order = line.arbiter.order
    assert order.holder("nightly", waiting=False) is None
    number = line.add(once="nightly")
    assert [held.id for held in (order.holder("nightly", waiting=False), order.holder("nightly", waiting=True)) if held] == [
        number, number,
    ]  # fmt: skip
    line.start(number)
    assert order.holder("nightly", waiting=True) is None, "another may wait for it"
    assert (order.holder("nightly", waiting=False), order.running("nightly")) == (
        line.arbiter.store.live[number], f"any:{number}",
    )  # fmt: skip
    line.end(number)
    assert (order.holder("nightly", waiting=False), order.running("nightly")) == (None, "")


@pytest.mark.parametrize("key", [None, "weekly"])
def test_other_keys_are_no_concern_of_it(line: Line, key: str | None) -> None:
    line.add(once="nightly")
    assert line.arbiter.order.holder(key, waiting=False) is None
    assert line.arbiter.order.running(key) == ""


@pytest.mark.parametrize("waiting_", [False, True])
def test_the_second_of_a_key_is_told_so_and_not_registered(jobs: Jobs, other: Client, waiting_: bool) -> None:
    first = jobs.start(once="nightly")
    wanted = {"once": "nightly", "waiting": True} if waiting_ else {"once": "nightly"}
    if waiting_:
        behind = jobs.register(**wanted)
        assert jobs.state(behind) == "waiting", "one may wait while another runs"
    other.ask("register", key="again", **wanted)
    ((kind, values),) = other.heard()
    assert (kind, values["kind"]) == ("end", "once")
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    if waiting_:
        assert jobs.state(behind) == "granted"
    else:
        again = jobs.register(**wanted)
        assert jobs.state(again) == "granted"


def test_who_waits_for_another_is_granted_after_its_end_though_a_gpu_is_free(jobs: Jobs) -> None:
    first = jobs.start(gpus=0)
    second = jobs.register(after=str(first))
    assert jobs.state(second) == "waiting"
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(second) == "granted"


def test_who_waits_for_the_success_of_one_that_is_killed_is_told(jobs: Jobs) -> None:
    first = jobs.start(gpus=0)
    second = jobs.register(after=f"ok:{first}")
    jobs.clients[second].heard()
    jobs.end(first)
    told = dict(jobs.clients[second].heard())
    assert told["end"]["text"] == f"job {first} failed (SIGKILL)"
