"""renice, set, pause, resume, watch, explain: what they do to a job in each state, and what they answer."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from inprocess import Client, Clock, Jobs, five_good_wakes, full_disk
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter


def waiting(jobs: Jobs) -> int:
    jobs.start()
    return jobs.register()


def held(jobs: Jobs) -> int:
    number = waiting(jobs)
    with Once(jobs) as client:
        client.answer("pause", jobs=number)
    return number


def granted(jobs: Jobs) -> int:
    return jobs.register()


def running(jobs: Jobs) -> int:
    return jobs.start()


def paused(jobs: Jobs) -> int:
    number = jobs.start()
    with Once(jobs) as client:
        client.answer("pause", jobs=number)
    return number


def stopping(jobs: Jobs) -> int:
    number = jobs.start("sh", "-c", "trap '' TERM; while :; do sleep 600; done")
    jobs.until(number, lambda leader: leader.does_ignore(15))
    with Once(jobs) as client:
        client.answer("kill", jobs=number)
    return number


def ended(jobs: Jobs) -> int:
    number = jobs.start()
    jobs.end(number)
    return number


STATES = {each.__name__: each for each in (waiting, held, granted, running, paused, stopping, ended)}


class Once:
    """A client that asks and goes."""

    def __init__(self, jobs: Jobs) -> None:
        self.client = Client(jobs.arbiter)

    def __enter__(self) -> Client:
        return self.client

    def __exit__(self, *_: object) -> None:
        self.client.close()


@pytest.fixture
def job(request: pytest.FixtureRequest, jobs: Jobs) -> int:
    """A job in the state that the test names."""
    make: Callable[[Jobs], int] = STATES[request.param]
    number = make(jobs)
    assert jobs.state(number) == request.param
    return number


def one(client: Client, verb: str, number: int, **values: Any) -> tuple[bool, str]:
    ((job_id, well, text),) = client.answer(verb, jobs=number, **values)
    assert job_id == number
    return well, text


@pytest.mark.parametrize(
    ("job", "well", "text", "after"),
    [
        ("waiting", True, "held in line: gpurun resume {} lets it go", "held"),
        ("held", False, "cannot be paused: it is held", "held"),
        ("granted", False, "cannot be paused: it is granted", "granted"),
        ("running", True, "paused", "paused"),
        ("paused", False, "cannot be paused: it is paused", "paused"),
        ("stopping", False, "cannot be paused: it is stopping", "stopping"),
        ("ended", False, "cannot be paused: it has already ended", "ended"),
    ],
    indirect=["job"],
)
def test_pause(jobs: Jobs, other: Client, job: int, well: bool, text: str, after: str) -> None:
    assert one(other, "pause", job) == (well, text.format(job))
    assert jobs.state(job) == after
    if after == "paused":
        assert jobs.stands(job)


@pytest.mark.parametrize(
    ("job", "well", "text", "after"),
    [
        ("waiting", False, "cannot be resumed: it is waiting", "waiting"),
        ("held", True, "waits again, 1st of 1", "waiting"),
        ("granted", False, "cannot be resumed: it is granted", "granted"),
        ("running", False, "cannot be resumed: it is running", "running"),
        ("paused", True, "goes on", "running"),
        ("stopping", False, "cannot be resumed: it is stopping", "stopping"),
        ("ended", False, "cannot be resumed: it has already ended", "ended"),
    ],
    indirect=["job"],
)
def test_resume(jobs: Jobs, other: Client, job: int, well: bool, text: str, after: str) -> None:
    said = one(other, "resume", job)
    assert said[0] is well
    assert said[1].startswith(text)
    assert jobs.state(job) == after
    if after == "running":
        wait_until(lambda: not jobs.stands(job), "it to go on", 5)


@pytest.mark.parametrize("job", [name for name in STATES if name != "ended"], indirect=True)
@pytest.mark.parametrize(("asked", "priority"), [({"priority": 7}, 7), ({"by": -3}, -3), ({"by": 1000}, 100)])
def test_renice_changes_a_job_in_any_state(jobs: Jobs, other: Client, job: int, asked: dict[str, int], priority: int) -> None:
    well, text = one(other, "renice", job, **asked)
    assert (well, text.split(",")[0]) == (True, f"priority 0 → {priority}")
    assert jobs.job(job).priority == priority


@pytest.mark.parametrize("job", ["ended"], indirect=True)
@pytest.mark.parametrize(("verb", "asked"), [("renice", {"priority": 7}), ("set", {"name": "b"})])
def test_who_has_ended_is_left_as_he_was(jobs: Jobs, other: Client, job: int, verb: str, asked: dict[str, Any]) -> None:
    before = jobs.job(job)
    assert one(other, verb, job, **asked) == (False, "has already ended")
    assert jobs.job(job) == before


@pytest.mark.parametrize("verb", ["kill", "pause", "resume", "renice", "set"])
def test_a_number_of_nobody_is_said_and_the_others_are_served(jobs: Jobs, other: Client, verb: str) -> None:
    number = held(jobs) if verb == "resume" else waiting(jobs)
    asked: dict[str, Any] = {"renice": {"priority": 1}, "set": {"name": "b"}}.get(verb, {})
    done = other.answer(verb, jobs=f"99 {number} 0", **asked)
    assert [each[:2] for each in done] == [[99, False], [number, True], [0, False]]
    assert (done[0][2], done[2][2]) == ("no such job", "no such job")


@pytest.mark.parametrize(
    ("asked", "text", "field", "value"),
    [
        ({"name": "b"}, "name none → b", "name", "b"),
        ({"priority": 5}, "priority 0 → 5", "priority", 5),
        ({"time": 60}, "time limit none → 1m", None, None),
        ({"gpus": 0}, "GPUs 1 → 0", None, None),
        ({"memory": 2**31}, "memory whole → 2G", None, None),
        ({"percent": 50}, "memory whole → 50%", None, None),
        ({"wait": 60}, "gives up after 1m from now", None, None),
        ({"wait": "none"}, "waits without a limit", None, None),
        ({}, "as it was", None, None),
    ],
)
def test_set_changes_who_waits(
    jobs: Jobs, other: Client, asked: dict[str, Any], text: str, field: str | None, value: object
) -> None:
    number = waiting(jobs)
    assert one(other, "set", number, **asked) == (True, text)
    if field is not None:
        assert getattr(jobs.job(number), field) == value


@pytest.mark.parametrize("job", ["running", "paused", "stopping", "granted"], indirect=True)
@pytest.mark.parametrize(
    ("asked", "well"),
    [({"name": "b"}, True), ({"time": 3600}, True), ({"gpus": 0}, False), ({"priority": 5}, False), ({"wait": 5}, False)],
)
def test_of_who_has_a_gpu_set_changes_the_name_and_the_time_limit_alone(
    jobs: Jobs, other: Client, job: int, asked: dict[str, Any], well: bool
) -> None:
    state, before = jobs.state(job), jobs.job(job)
    said = one(other, "set", job, **asked)
    assert said[0] is well
    if not well:
        assert said[1] == f"is {state}: only its time limit and its name can be changed"
        assert jobs.job(job) == before


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"gpus": 2}, "needs 2 GPUs: this machine has 1"),
        ({"memory": 2**40}, "no GPU has 1024G: the largest has 24G (GPU 0)"),
        ({"exclusive": 1}, "it has no -m: GPUs are never shared without"),
        ({"not": "0"}, "no GPU is left to choose from (-i, --not, CUDA_VISIBLE_DEVICES)"),
    ],
)
def test_what_can_never_be_is_refused_and_the_job_stays_as_it_was(
    jobs: Jobs, other: Client, asked: dict[str, Any], text: str
) -> None:
    number = waiting(jobs)
    before = jobs.job(number)
    assert one(other, "set", number, **asked) == (False, text)
    assert jobs.job(number) == before


@pytest.mark.parametrize(
    ("verb", "asked"), [("pause", {}), ("renice", {"priority": 5}), ("set", {"name": "b"}), ("kill", {})]
)
def test_a_verb_whose_turn_is_lost_is_refused_and_done_when_it_is_asked_again(
    jobs: Jobs, other: Client, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch, verb: str, asked: dict[str, Any]
) -> None:
    number = waiting(jobs)
    before = jobs.job(number)
    with full_disk(arbiter, monkeypatch):
        assert other.refused(verb, jobs=number, **asked) == "cannot write state database: state.db: the disk is full"
    five_good_wakes(arbiter)
    assert (jobs.job(number), jobs.state(number)) == (before, "waiting")
    assert one(other, verb, number, **asked)[0]
    assert jobs.job(number) != before


# Who waits for a job's end, and why one waits


def test_who_waits_for_an_end_hears_of_it_once(jobs: Jobs, other: Client) -> None:
    number = jobs.start()
    other.ask("watch", jobs=number)
    five_good_wakes(jobs.arbiter)
    assert other.kinds() == []
    jobs.end(number)
    assert other.kinds() == ["done"]
    five_good_wakes(jobs.arbiter)
    assert other.kinds() == []


def test_who_waits_for_several_hears_when_the_last_has_ended(jobs: Jobs, other: Client) -> None:
    numbers = [jobs.start(gpus=0) for _ in range(3)]
    other.ask("watch", jobs=" ".join(map(str, numbers)))
    for number in numbers[:2]:
        jobs.end(number)
    assert other.kinds() == []
    jobs.end(numbers[2])
    assert other.kinds() == ["done"]


@pytest.mark.parametrize("job", ["ended"], indirect=True)
def test_who_waits_for_what_has_ended_hears_at_once(other: Client, job: int) -> None:
    assert other.answer("watch", jobs=f"{job} 99") is None


@pytest.mark.parametrize("job", ["waiting", "held"], indirect=True)
def test_why_one_waits_is_told_in_lines_and_in_json(other: Client, job: int) -> None:
    other.ask("explain", jobs=job, plain=True)
    ((kind, values),) = other.heard()
    number, rule, line = values["text"].split("\t")[:3]
    assert (kind, number) == ("done", str(job))
    told = other.answer("explain", jobs=job)
    assert told[str(job)][:2] == [rule, line]


def test_who_holds_a_gpu_is_named_to_who_waits_for_it(jobs: Jobs, other: Client) -> None:
    number = waiting(jobs)
    (rule, line, _helps) = other.answer("explain", jobs=number)[str(number)]
    assert (rule, re.sub(r"\d+ s", "N s", line)) == ("busy", "a GPU, 1st in line: job 1 (sleep 600, N s so far) has GPU 0")


def test_gpus_are_told_with_who_has_them(jobs: Jobs, other: Client, clock: Clock) -> None:
    number = jobs.start()
    clock.go_on(10)  # the last look is stale
    ((gpu,),) = [other.answer("gpus")]
    assert (gpu["index"], gpu["jobs"]) == (0, [number])
