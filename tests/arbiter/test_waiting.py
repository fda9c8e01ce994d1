"""Wait limits, places in the line, offers that are not taken, and clients that go."""

import signal
from typing import Any

import pytest
from inprocess import Client, Clock, Jobs, five_good_wakes, full_disk
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.model import ResultKind


def given_up(jobs: Jobs, number: int) -> bool:
    result = jobs.job(number).result
    return result is not None and result.kind is ResultKind.WAIT_LIMIT


def test_who_has_waited_for_so_long_gives_up_and_is_told_why(jobs: Jobs, clock: Clock) -> None:
    jobs.start()
    number = jobs.register(wait=60)
    clock.go_on(59)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) == "waiting"
    clock.go_on(2)
    five_good_wakes(jobs.arbiter)
    assert given_up(jobs, number)
    told = dict(jobs.clients[number].heard())
    assert told["end"]["kind"] == "wait-limit"
    assert "a GPU, 1st in line" in told["end"]["text"]


def test_who_does_not_want_to_wait_gives_up_by_the_first_plan(jobs: Jobs) -> None:
    jobs.start()
    assert given_up(jobs, jobs.register(wait=0))


def test_but_not_before_it_where_there_is_room(jobs: Jobs) -> None:
    number = jobs.register(wait=0)
    assert jobs.state(number) == "granted"
    assert jobs.take(number).state.value == "running"


def test_who_was_granted_in_time_runs_on(jobs: Jobs, clock: Clock) -> None:
    number = jobs.start(wait=5)
    clock.go_on(100)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) == "running"


@pytest.mark.parametrize("wanted", [100, "none"])
def test_a_limit_that_is_changed_counts_from_then(jobs: Jobs, other: Client, clock: Clock, wanted: Any) -> None:
    jobs.start()
    number = jobs.register(wait=60)
    clock.go_on(50)
    other.answer("set", jobs=number, wait=wanted)
    clock.go_on(90)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) == "waiting"
    clock.go_on(20)
    five_good_wakes(jobs.arbiter)
    assert given_up(jobs, number) is (wanted == 100)


def test_held_it_gives_up_too(jobs: Jobs, other: Client, clock: Clock) -> None:
    jobs.start()
    number = jobs.register(wait=60)
    other.answer("pause", jobs=number)
    clock.go_on(61)
    five_good_wakes(jobs.arbiter)
    assert given_up(jobs, number)


def test_a_limit_that_passes_in_a_lost_turn_passes_in_the_next(
    jobs: Jobs, clock: Clock, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.start()
    number = jobs.register(wait=60)
    clock.go_on(61)
    with full_disk(arbiter, monkeypatch):
        five_good_wakes(arbiter)
    assert jobs.state(number) == "waiting"
    five_good_wakes(arbiter)
    assert given_up(jobs, number)


# The line


def line(jobs: Jobs) -> list[int]:
    """Those that wait, in the order in which they are served."""
    served = []
    while jobs.arbiter.store.in_line:
        running = [job.id for job in jobs.arbiter.store.holding.values() if job.state.value in ("running", "granted")]
        for number in running:
            jobs.end(number)
        five_good_wakes(jobs.arbiter)
        (next_,) = [job.id for job in jobs.arbiter.store.holding.values() if job.state.value == "granted"]
        served.append(next_)
    return served


@pytest.mark.parametrize(
    ("priorities", "order"),
    [((0, 0, 0), (0, 1, 2)), ((0, 5, 0), (1, 0, 2)), ((-1, 0, 1), (2, 1, 0)), ((3, 3, 5), (2, 0, 1))],
)
def test_the_line_is_served_by_priority_and_then_by_arrival(
    jobs: Jobs, priorities: tuple[int, ...], order: tuple[int, ...]
) -> None:
    jobs.start(priority=50)
    numbers = [jobs.register(priority=priority) for priority in priorities]
    assert line(jobs) == [numbers[place] for place in order]


def test_who_is_held_is_passed_and_keeps_its_place(jobs: Jobs, other: Client) -> None:
    first = jobs.start()
    held, behind = jobs.register(), jobs.register()
    other.answer("pause", jobs=held)
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(held), jobs.state(behind)) == ("held", "granted")
    last = jobs.register()
    other.answer("resume", jobs=held)
    jobs.take(behind)
    jobs.end(behind)
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(held), jobs.state(last)) == ("granted", "waiting")


def test_two_share_a_gpu_as_far_as_their_memory_goes(jobs: Jobs) -> None:
    numbers = [jobs.register(memory=10 * 2**30) for _ in range(3)]
    assert [jobs.state(number) for number in numbers] == ["granted", "granted", "waiting"]


# Offers


def test_an_offer_that_is_not_taken_is_withdrawn_and_the_next_is_asked(jobs: Jobs, clock: Clock) -> None:
    slow, next_ = jobs.register(), jobs.register()
    assert [jobs.state(slow), jobs.state(next_)] == ["granted", "waiting"]
    clock.go_on(5.5)
    five_good_wakes(jobs.arbiter)
    assert [jobs.state(slow), jobs.state(next_)] == ["waiting", "granted"]
    assert "again" in jobs.clients[slow].kinds()


def test_who_did_not_take_it_is_asked_again_once_it_says_a_word(jobs: Jobs, clock: Clock) -> None:
    slow = jobs.register()
    clock.go_on(5.5)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(slow) == "waiting"
    jobs.clients[slow].ask("continued")
    five_good_wakes(jobs.arbiter)
    assert jobs.state(slow) == "granted"
    assert jobs.take(slow).state.value == "running"


def test_an_offer_that_lay_for_a_while_is_made_anew(jobs: Jobs, clock: Clock) -> None:
    """A stranger may have come to the GPU meanwhile."""
    number = jobs.register()
    jobs.clients[number].heard()
    clock.go_on(2)
    jobs.clients[number].ask("take")
    assert "go" not in jobs.clients[number].kinds()
    assert jobs.state(number) in ("waiting", "granted")


def test_taking_what_was_never_offered_changes_nothing(jobs: Jobs) -> None:
    jobs.start()
    number = jobs.register()
    jobs.clients[number].heard()
    jobs.clients[number].ask("take")
    assert "go" not in jobs.clients[number].kinds()
    assert jobs.state(number) == "waiting"


def test_who_is_stopped_at_its_terminal_is_passed_over(jobs: Jobs) -> None:
    first = jobs.start()
    stopped, behind = jobs.register(), jobs.register()
    jobs.leader(stopped).send_signal(signal.SIGSTOP)
    wait_until(lambda: jobs.stands(stopped), "it to stand still", 5)
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    assert (jobs.state(stopped), jobs.state(behind)) == ("waiting", "granted")
    jobs.leader(stopped).send_signal(signal.SIGCONT)
    jobs.clients[stopped].ask("continued")
    jobs.end(behind)
    five_good_wakes(jobs.arbiter)
    assert jobs.state(stopped) == "granted"


# Clients that go


@pytest.mark.parametrize("is_granted", [True, False])
def test_who_dies_while_it_waits_is_cancelled_and_the_gpu_goes_on(jobs: Jobs, is_granted: bool) -> None:
    if not is_granted:
        jobs.start()
    number, behind = jobs.register(), jobs.register()
    jobs.leader(number).kill()
    jobs.leader(number).wait()
    jobs.clients[number].hang_up()
    five_good_wakes(jobs.arbiter)
    result = jobs.job(number).result
    assert result is not None
    assert (result.kind, result.text) == (ResultKind.CANCELLED, "its gpurun ended while it waited")
    assert jobs.state(behind) == ("granted" if is_granted else "waiting")


def test_who_lost_the_connection_only_waits_on_and_comes_back_to_its_place(jobs: Jobs) -> None:
    first = jobs.start()
    number = jobs.register()
    jobs.clients[number].hang_up()
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) == "waiting"
    child = jobs.leader(number)
    again = Client(jobs.arbiter, child)
    again.ask("register", key=str(child.pid))
    ((kind, values),) = again.heard()
    assert (kind, values["id"]) == ("job", str(number))
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    assert "offer" in again.kinds()
    again.close()


def test_a_program_goes_on_without_a_connection(jobs: Jobs) -> None:
    """exec closes it."""
    number = jobs.start()
    jobs.clients[number].hang_up()
    five_good_wakes(jobs.arbiter)
    assert jobs.state(number) == "running"
    assert jobs.end(number).state.value == "ended"


@pytest.mark.parametrize(("status", "cause"), [(127, "not found"), (126, "permission denied")])
def test_a_program_that_cannot_be_run_gives_its_gpu_back(jobs: Jobs, status: int, cause: str) -> None:
    number, behind = jobs.start(), jobs.register()
    jobs.clients[number].ask("failed", status=status, cause=cause)
    five_good_wakes(jobs.arbiter)
    result = jobs.job(number).result
    assert result is not None
    assert (result.code, result.text) == (status, f"cannot run: {cause}")
    assert jobs.state(behind) == "granted"
