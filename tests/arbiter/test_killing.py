"""`kill`: what it does to a job in each state, and in which order signals go out."""

import signal
from typing import Any

import pytest
from inprocess import Client, Clock, Jobs, act, five_good_wakes, full_disk, has_ended
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.host import processes
from gpuwrap.model import ResultKind

DEAF = ("sh", "-c", "trap '' TERM HUP INT; echo; while :; do sleep 600; done")


def deaf(jobs: Jobs) -> int:
    """A job that ignores what it is asked by."""
    job = jobs.start(*DEAF)
    jobs.until(job, lambda leader: leader.does_ignore(signal.SIGTERM))
    return job


def answer(other: Client, number: int, **values: object) -> tuple[bool, str]:
    ((job_id, well, text),) = other.answer("kill", jobs=number, **values)
    assert job_id == number
    return well, text


def test_who_waits_is_cancelled_and_told_by_whom(jobs: Jobs, other: Client) -> None:
    jobs.start()
    waiting = jobs.register()
    jobs.clients[waiting].heard()
    assert answer(other, waiting) == (True, "cancelled while waiting")
    result = jobs.job(waiting).result
    assert result is not None
    assert result.kind is ResultKind.CANCELLED
    assert result.text is not None
    assert result.text.startswith("cancelled by ")
    ((kind, values),) = jobs.clients[waiting].heard()
    assert (kind, values["kind"], values["text"]) == ("end", "cancelled", result.text)
    assert jobs.leader(waiting).poll() is None, "it is told, and ends itself"


def test_who_is_offered_a_gpu_is_cancelled_and_the_gpu_is_free(jobs: Jobs, other: Client) -> None:
    offered = jobs.register()
    assert jobs.state(offered) == "granted"
    behind = jobs.register()
    assert answer(other, offered)[0]
    five_good_wakes(jobs.arbiter)
    assert jobs.state(behind) == "granted"


def test_who_is_held_is_cancelled(jobs: Jobs, other: Client) -> None:
    jobs.start()
    held = jobs.register()
    other.answer("pause", jobs=held)
    assert jobs.state(held) == "held"
    assert answer(other, held) == (True, "cancelled while waiting")


def test_who_runs_is_asked_by_term_and_its_gpu_is_given_on(jobs: Jobs, other: Client) -> None:
    first, second = jobs.start(), jobs.register()
    assert answer(other, first) == (True, "asked to end (TERM), KILL in 10 s")
    assert jobs.state(first) == "stopping"
    job = jobs.ended(first)
    assert job.result is not None
    assert (job.result.kind, job.result.signal) == (ResultKind.SIGNAL, signal.SIGTERM)
    assert str(job.result.text).startswith("killed by ")
    five_good_wakes(jobs.arbiter)
    assert jobs.state(second) == "granted"


@pytest.mark.parametrize("number", [signal.SIGKILL, int(signal.SIGKILL)])
def test_by_kill_it_ends_at_once(jobs: Jobs, other: Client, number: int) -> None:
    job = deaf(jobs)
    assert answer(other, job, signal=number) == (True, "killed (KILL)")
    result = jobs.ended(job).result
    assert result is not None
    assert result.signal == signal.SIGKILL


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM"])
def test_another_signal_is_sent_and_nothing_more(jobs: Jobs, other: Client, name: str) -> None:
    job = jobs.start("sh", "-c", f"trap 'exit 42' {name}; while :; do sleep 0.01; done")
    jobs.until(job, lambda leader: leader.does_catch(getattr(signal, f"SIG{name}")))
    assert answer(other, job, signal=getattr(signal, f"SIG{name}"))[1] == f"sent {name}"
    assert jobs.state(job) == "running", "whether it ends is its own affair"
    assert not jobs.arbiter.ladders.is_due(job)
    result = jobs.ended(job).result
    assert result is not None
    assert result.code == 42


def test_who_is_deaf_is_killed_ten_seconds_later(jobs: Jobs, other: Client, clock: Clock) -> None:
    job = deaf(jobs)
    assert answer(other, job)[0]
    clock.go_on(9.5)
    five_good_wakes(jobs.arbiter)
    assert jobs.leader(job).poll() is None
    clock.go_on(1.0)
    five_good_wakes(jobs.arbiter)
    assert jobs.leader(job).wait(5) == -signal.SIGKILL
    assert jobs.ended(job).result is not None


def test_asked_twice_it_is_killed_when_the_first_asked_for_it(jobs: Jobs, other: Client, clock: Clock) -> None:
    job = deaf(jobs)
    answer(other, job)
    clock.go_on(8.0)
    assert answer(other, job)[0]
    clock.go_on(3.0)
    five_good_wakes(jobs.arbiter)
    assert jobs.leader(job).wait(5) == -signal.SIGKILL


def test_a_stopped_one_hears_it_too(jobs: Jobs, other: Client) -> None:
    """A stopped process keeps TERM for later: CONT follows it."""
    job = jobs.start()
    jobs.leader(job).send_signal(signal.SIGSTOP)
    wait_until(lambda: jobs.stands(job), "it to stand still", 5)
    answer(other, job)
    assert jobs.leader(job).wait(5) == -signal.SIGTERM


def test_a_paused_one_goes_on_in_order_to_end(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    ((_id, well, text),) = other.answer("pause", jobs=job)
    assert well, text
    wait_until(lambda: jobs.stands(job), "it to stand still", 5)
    assert answer(other, job)[0]
    assert jobs.ended(job).result is not None


def test_who_has_ended_is_told_so_and_nothing_is_signalled(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    jobs.end(job)
    assert answer(other, job) == (False, "has already ended")


def test_a_number_that_is_no_jobs_is_said_and_the_others_are_killed(jobs: Jobs, other: Client) -> None:
    job = jobs.start()
    done = other.answer("kill", jobs=f"77 {job}")
    assert [each[:2] for each in done] == [[77, False], [job, True]]
    assert done[0][2] == "no such job"
    assert jobs.ended(job).result is not None


def test_all_of_several_are_killed_in_one_turn(jobs: Jobs, other: Client) -> None:
    numbers = [jobs.start(gpus=0) for _ in range(4)]
    done = other.answer("kill", jobs=" ".join(map(str, numbers)))
    assert [each[:2] for each in done] == [[number, True] for number in numbers]
    assert {jobs.leader(number).wait(5) for number in numbers} == {-signal.SIGTERM}


def test_nobody_is_signalled_by_a_turn_that_is_lost(
    jobs: Jobs, other: Client, arbiter: Arbiter, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.start()
    with full_disk(arbiter, monkeypatch):
        assert other.refused("kill", jobs=job) == "cannot write state database: state.db: the disk is full"
    clock.go_on(20.0)
    five_good_wakes(arbiter)
    assert (jobs.state(job), jobs.leader(job).poll()) == ("running", None)
    assert answer(other, job)[0], "asked again it is ended as ever"
    assert jobs.leader(job).wait(5) == -signal.SIGTERM


def test_it_is_not_signalled_before_that_is_written_down(
    jobs: Jobs, other: Client, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.start()
    order: list[str] = []
    commit, send = arbiter.store.commit, processes.send_signal

    def commit_and_say() -> None:
        if job in arbiter.store.live and jobs.state(job) == "stopping":
            order.append("written")
        commit()

    def send_and_say(identity: Any, number: int, owner: int | None = None) -> bool:
        order.append(signal.Signals(number).name)
        return send(identity, number, owner)

    monkeypatch.setattr(arbiter.store, "commit", commit_and_say)
    monkeypatch.setattr(processes, "send_signal", send_and_say)
    answer(other, job)
    assert order[:3] == ["written", "SIGTERM", "SIGCONT"]


# What a job leaves behind

LEAVES = ("sh", "-c", "setsid sleep 600 & exec sleep 600")


def left_behind(jobs: Jobs, job: int) -> int:
    """End the leader of a job that leaves a process behind, which holds its GPU; that one's pid."""
    child = jobs.below(job)
    root = jobs.arbiter.sim_root
    assert root is not None
    with open(f"{root}/0/{child}", "w") as file:
        file.write("1000000000")
    act(jobs.arbiter, jobs.arbiter.deciding.begin_look)
    five_good_wakes(jobs.arbiter)
    jobs.end(job)
    assert jobs.job(job).shares, "what is left holds its GPU"
    return child


def test_what_a_job_left_behind_is_asked_to_end_by_its_number(jobs: Jobs, other: Client) -> None:
    job = jobs.start(*LEAVES)
    child = left_behind(jobs, job)
    well, text = answer(other, job)
    assert (well, text) == (True, f"asked what it left behind to end (TERM to pid {child}), KILL in 10 s")
    wait_until(lambda: has_ended(child), "it to end", 5)
    wait_until(lambda: (five_good_wakes(jobs.arbiter), job not in jobs.arbiter.store.holding)[1], "the GPU to be free", 5)


def test_what_a_job_left_behind_can_be_sent_any_signal(jobs: Jobs, other: Client) -> None:
    job = jobs.start(*LEAVES)
    child = left_behind(jobs, job)
    assert answer(other, job, signal=int(signal.SIGKILL)) == (
        True, f"had ended; sent KILL to what it left behind (pid {child})",
    )  # fmt: skip
    wait_until(lambda: has_ended(child), "it to end", 5)


def test_what_holds_a_gpu_keeps_others_waiting_until_it_ends(jobs: Jobs) -> None:
    job = jobs.start(*LEAVES)
    child = left_behind(jobs, job)
    behind = jobs.register()
    assert jobs.state(behind) == "waiting"
    identity = processes.identify(child)
    assert identity is not None
    processes.send_signal(identity, signal.SIGKILL)
    wait_until(lambda: (five_good_wakes(jobs.arbiter), jobs.state(behind) == "granted")[1], "the GPU to be given on", 5)
