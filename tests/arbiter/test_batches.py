"""What a batch leaves behind in the arbiter itself: where it noted the end of a job, and where it could not be committed."""

import errno
import select
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from inprocess import Client, SlowDevices, five_good_wakes, full_disk, shares, started, wake, watched
from waiting import wait_until

from gpuwrap.arbiter.bell.socket import Connection
from gpuwrap.arbiter.jobs import killing, memory
from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.arbiter.pausing.pausing import Pausing
from gpuwrap.arbiter.seeing.sampling import SAMPLE_SECONDS
from gpuwrap.errors import StoreError
from gpuwrap.host import processes
from gpuwrap.lifecycle import Event, JobState
from gpuwrap.model import GiveWay, Job, Request
from gpuwrap.units import GIB
from gpuwrap.wire import PACKET, pack, unpack


def end(leader: "subprocess.Popen[bytes]", pidfd: int) -> None:
    leader.kill()
    wait_until(lambda: bool(select.select([pidfd], [], [], 0)[0]), "the end to show")


def test_an_end_that_was_noted_wakes_the_loop_no_more(arbiter: Arbiter, leader: "subprocess.Popen[bytes]") -> None:
    """Or who takes an offer within the same batch would not be waited for: the loop would not sleep."""
    job, pidfd = started(arbiter, leader)
    end(leader, pidfd)
    with arbiter.store.batch():
        arbiter.enforcer.leader_ended(job.id)
        assert pidfd not in watched()
    assert arbiter.store.find(job.id).state is JobState.ENDED  # type: ignore[union-attr]


def test_an_end_that_could_not_be_written_down_is_noted_again(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    job, pidfd = started(arbiter, leader)
    end(leader, pidfd)

    with full_disk(arbiter, monkeypatch):
        arbiter.step([(pidfd, select.EPOLLIN)])
    assert arbiter.store.live[job.id].state is JobState.RUNNING
    assert pidfd in watched()
    arbiter.step([(pidfd, select.EPOLLIN)])
    assert arbiter.store.find(job.id).state is JobState.ENDED  # type: ignore[union-attr]


def test_processes_that_could_not_be_written_down_are_written_down_later(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor could not find them again: they may have wiped their marker, and left their session."""
    job, _pidfd = started(arbiter, leader)
    long_there = processes.identify(1)
    assert long_there is not None
    arbiter.known.of(job.id).processes = {1: long_there}

    def look() -> None:
        arbiter.deciding.begin_look()
        arbiter.step([])

    with full_disk(arbiter, monkeypatch):
        look()
    assert arbiter.notes.kin.get(job.id) is None
    look()
    assert arbiter.notes.kin.get(job.id) == {1: long_there.start_ticks}


def test_who_uses_too_much_is_told_once_that_is_written_down(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a terminal would hear it again and again while the disk is full, or a successor's word a second time."""
    job, _pidfd = started(arbiter, leader, request=Request(memory_bytes=GIB))
    with arbiter.store.batch():
        job = arbiter.store.shrink(job, shares(arbiter, 0, size=GIB))
    told: list[str] = []
    monkeypatch.setattr(memory, "tell", lambda _job, text: told.append(text))
    monkeypatch.setattr(arbiter.tuning, "check", lambda: arbiter.memory.note({job.id: {shares(arbiter, 0)[0].uuid: 2 * GIB}}))
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
        arbiter.step([])
    assert (told, arbiter.notes.told_over.get(job.id)) == ([], None)
    arbiter.step([])
    arbiter.step([])
    assert told == [f"job {job.id} uses 2G on GPU 0, more than its -m 1G"]
    assert arbiter.notes.told_over.get(job.id) == job.attempt


def test_after_a_wake_that_was_lost_the_gpus_are_looked_at_again(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wake was that of the next look: nobody may ring for hours, and a stranger leaves unseen."""
    started(arbiter, leader)
    arbiter.step([])
    wait_until(lambda: arbiter.timers.timeout() == 0, "the history to be pruned")
    arbiter.step([])
    wait_until(lambda: arbiter.timers.timeout() == 0, "the next look to be due")
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert 0 <= arbiter.timers.timeout() <= SAMPLE_SECONDS


def test_a_time_limit_that_passed_in_a_lost_batch_holds_and_asks_as_ever(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had neither a timer any more, nor been ended; then its last net killed it without a word."""
    job, _pidfd = started(arbiter, leader, request=Request(time_limit_seconds=0.1))
    asked: list[int] = []
    monkeypatch.setattr(killing, "signal_all", lambda _identities, number, _owner: asked.append(number))
    arbiter.limits.follow(job.id, job)
    wait_until(lambda: arbiter.timers.timeout() == 0, "the limit to pass")
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert arbiter.store.live[job.id].state is JobState.RUNNING
    assert (arbiter.ladders.is_due(job.id), arbiter.ladders.why(job.id)) == (False, None)
    arbiter.step([])
    arbiter.step([])
    assert arbiter.store.live[job.id].state is JobState.STOPPING
    assert asked == [signal.SIGTERM]


@pytest.mark.parametrize("gpus", [1, 0])
def test_who_was_to_be_killed_in_a_lost_batch_is_not(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    """Whoever asked was refused: nobody may kill it ten seconds later."""
    job, _pidfd = started(arbiter, leader)
    if not gpus:
        with arbiter.store.batch():
            arbiter.store.release(job)
    monkeypatch.setattr(arbiter.tuning, "check", lambda: arbiter.killing.kill_within(job.id, 10.0))  # within the batch
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert not arbiter.ladders.is_due(job.id)


def test_what_was_called_back_in_a_lost_batch_is_called_back_again(
    arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what was cancelled in it; and what it had hung up itself is hung up once."""
    called: list[str] = []

    def first() -> None:
        called.append("first")
        cancelled.cancel()
        arbiter.timers.after(0.0, lambda: called.append("hung up"))

    arbiter.timers.after(0.0, first)
    cancelled = arbiter.timers.after(0.0, lambda: called.append("cancelled"))
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert called == ["first"]
    arbiter.step([])
    arbiter.step([])
    arbiter.step([])
    assert called == ["first", "first", "hung up"]


def test_a_callback_of_a_batch_that_was_committed_is_not_called_back_again(
    arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a later one fails before any is called back, and what that had hung up stays."""
    called: list[str] = []

    def first() -> None:
        called.append("first")
        arbiter.timers.after(0.0, lambda: called.append("hung up"))

    def broken() -> None:
        raise StoreError("read", "state.db", "the disk is broken")

    arbiter.timers.after(0.0, first)
    arbiter.step([])
    with monkeypatch.context() as disk:
        disk.setattr(arbiter.tuning, "check", broken)
        arbiter.step([])
    arbiter.step([])
    arbiter.step([])
    assert called == ["first", "hung up"]


def test_who_only_asks_is_answered_although_a_batch_fails(arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(ours)
    arbiter.bell.connections[connection.fd] = connection
    with theirs, full_disk(arbiter, monkeypatch):
        monkeypatch.setattr(arbiter.tuning, "check", lambda: arbiter.answers.answer(connection, "ping", {}))
        arbiter.step([])
        assert unpack(theirs.recv(PACKET))[0] == "done"
    connection.socket.close()


# Who asked is answered, whichever of the batches was lost: that of the question, or a later one


@pytest.fixture
def driver(arbiter: Arbiter) -> SlowDevices:
    assert isinstance(arbiter.devices, SlowDevices)
    return arbiter.devices


@pytest.fixture
def in_line(arbiter: Arbiter, leader: "subprocess.Popen[bytes]", client: Client) -> int:
    """A job that waits for one that runs; the GPUs have been seen."""
    started(arbiter, leader)
    five_good_wakes(arbiter)
    client.ask("register", key="w")
    (number,) = arbiter.store.in_line
    five_good_wakes(arbiter)
    client.heard()
    return number


def test_the_echo_of_a_new_priority_comes_although_the_plan_was_lost(
    arbiter: Arbiter, driver: SlowDevices, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.takes_long = True
    other.ask("renice", jobs=in_line, priority=5)
    assert other.heard() == []
    driver.takes_long = False
    with full_disk(arbiter, monkeypatch):
        wake(arbiter)
    five_good_wakes(arbiter)
    ((kind, values),) = other.heard()
    assert (kind, arbiter.store.live[in_line].priority) == ("done", 5)
    assert "priority 0 \\u2192 5, 1st of 1" in values["text"]


def test_a_priority_that_was_not_changed_is_not_echoed_later(
    arbiter: Arbiter, driver: SlowDevices, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.takes_long = True
    with full_disk(arbiter, monkeypatch):
        other.ask("renice", jobs=in_line, priority=5)
    driver.takes_long = False
    five_good_wakes(arbiter)
    assert (other.kinds(), arbiter.store.live[in_line].priority) == (["refused"], 0)


def test_a_request_that_can_never_be_granted_is_refused_although_the_batch_that_found_out_was_lost(
    arbiter: Arbiter, driver: SlowDevices, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.opening = True
    five_good_wakes(arbiter)
    client.ask("register", key="a", gpus=5)
    five_good_wakes(arbiter)
    assert client.kinds() == ["job"]
    driver.opening = False
    with full_disk(arbiter, monkeypatch):
        arbiter.turn.replan()
        wake(arbiter)
    five_good_wakes(arbiter)
    assert [values["text"] for kind, values in client.heard() if kind == "refused"] == ["needs 5 GPUs: this machine has 1"]
    assert not arbiter.store.in_line


def test_a_waiters_line_is_told_although_the_batch_in_which_it_was_due_was_lost(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(arbiter, leader)
    five_good_wakes(arbiter)
    client.ask("register", key="a", tty=-1)
    five_good_wakes(arbiter)
    assert client.kinds() == ["job"]
    wait_until(lambda: arbiter.timers.timeout() == 0, "the line to be due")
    with full_disk(arbiter, monkeypatch):
        wake(arbiter)
    wait_until(lambda: (wake(arbiter), "note" in client.kinds())[1], "the line", within=5)


@pytest.mark.parametrize("lost", ["the question", "the plan"])
def test_a_rehearsal_is_answered_although_a_batch_was_lost(
    arbiter: Arbiter, driver: SlowDevices, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """It writes nothing: it need not even wait for room on the disk."""
    if lost == "the plan":
        driver.takes_long = True
        other.ask("rehearse", key="a", gpus=0)
        assert other.heard() == []
        driver.takes_long = False
    with full_disk(arbiter, monkeypatch):
        other.ask("ping") if lost == "the plan" else other.ask("rehearse", key="a", gpus=0)
        assert ("done", {"text": "would start now on no GPU"}) in other.heard()
    five_good_wakes(arbiter)
    assert other.heard() == []


def test_who_asks_and_goes_in_a_lost_batch_leaves_nothing_behind(
    arbiter: Arbiter, in_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = Client(arbiter)
    hasty.socket.send(pack("rehearse", key="a", gpus=0))
    hasty.socket.send(pack("renice", jobs=in_line, priority=5))
    hasty.socket.close()
    with full_disk(arbiter, monkeypatch):
        wake(arbiter, hasty)
    assert not arbiter.answers.busy()
    five_good_wakes(arbiter)


@pytest.mark.parametrize("lost", ["the question", "the look"])
def test_the_gpus_are_told_although_the_batch_was_lost(
    arbiter: Arbiter, driver: SlowDevices, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost == "the look":
        driver.takes_long = True
        with monkeypatch.context() as later:
            later.setattr(arbiter.inventory, "is_fresh", lambda: False)
            other.ask("gpus")
        assert other.heard() == []
        driver.takes_long = False
    with full_disk(arbiter, monkeypatch):
        wake(arbiter) if lost == "the look" else other.ask("gpus")
        ((kind, values),) = other.heard()
    assert (kind, '"index": 0' in values["text"]) == ("done", True)


def test_a_wait_limit_holds_that_was_taken_back_in_a_lost_batch(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    started(arbiter, leader)
    five_good_wakes(arbiter)
    client.ask("register", key="a", wait=0.5)
    (number,) = arbiter.store.in_line
    client.heard()
    with full_disk(arbiter, monkeypatch):
        other.ask("set", jobs=number, wait="none", priority=3)
    assert other.kinds() == ["refused"]
    wait_until(lambda: (wake(arbiter), "end" in client.kinds())[1], "the wait limit to pass", within=5)


WHY = "the queue cannot be written: no space left on device"


def test_while_the_queue_cannot_be_written_that_is_why_a_job_waits(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the waiter's own line too, without anybody asking; and no longer than that."""
    _job, pidfd = started(arbiter, leader)
    five_good_wakes(arbiter)
    client.ask("register", key="a", tty=-1)
    (number,) = arbiter.store.in_line
    five_good_wakes(arbiter)
    client.heard()
    whole = f"job {number} waits: {WHY}; running jobs are not affected"
    with full_disk(arbiter, monkeypatch, "no space left on device"):
        said: list[tuple[str, dict[str, str]]] = []

        def has_said(words: str) -> bool:
            arbiter.step([(pidfd, select.EPOLLIN)])
            said.extend(client.heard())
            return ("note", {"text": words}) in said

        wait_until(lambda: has_said(whole), "the line", within=5)
        assert has_said(whole)
        assert [kind for kind, _values in said].count("note") == 1
        other.ask("why", job=number)
        assert other.heard() == [("done", {"text": f'[["{whole}"], []]'})]
        other.ask("explain", jobs=number, plain=True)
        assert other.heard() == [("done", {"text": f"{number}\tunwritten\t{WHY}"})]
        five_good_wakes(arbiter)
        other.ask("explain", jobs=number, plain=True)
        assert other.heard() == [("done", {"text": f"{number}\tunwritten\t{WHY}"})], "though those had nothing to write"
    arbiter.step([(pidfd, select.EPOLLIN)])
    assert arbiter.unwritten is None
    assert arbiter.store.live[number].state is JobState.GRANTED


def test_so_it_is_of_a_job_whose_grant_was_written_and_whose_start_cannot_be(
    arbiter: Arbiter, client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    five_good_wakes(arbiter)
    client.ask("register", key="a", tty=-1, gpus=0)
    five_good_wakes(arbiter)
    (number,) = arbiter.store.live
    assert "offer" in client.kinds()
    with full_disk(arbiter, monkeypatch, "no space left on device"):
        client.ask("take")
        said = client.heard()
        wait_until(lambda: (client.ask("take"), said.extend(client.heard()), "note" in dict(said))[2], "the line", within=5)
        assert dict(said)["note"] == {"text": f"job {number} waits: {WHY}; running jobs are not affected"}
        other.ask("explain", jobs=number, plain=True)
        assert other.heard() == [("done", {"text": f"{number}\tunwritten\t{WHY}"})]
    assert arbiter.store.live[number].state is JobState.GRANTED
    client.ask("take")
    assert (client.kinds()[-1], arbiter.store.live[number].state) == ("go", JobState.RUNNING)


def test_what_did_not_fail_for_a_while_is_taken_to_have_room_again(
    arbiter: Arbiter, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a new job was refused; there may be nothing more to write for hours."""
    with full_disk(arbiter, monkeypatch, "no space left on device"):
        other.ask("renice", jobs=in_line, priority=5)
    monkeypatch.setattr("gpuwrap.arbiter.loop.FORGET_SECONDS", 0.0)
    five_good_wakes(arbiter)
    other.heard()
    other.ask("explain", jobs=in_line, plain=True)
    assert f"{in_line}\tbusy\ta GPU, 1st in line: job 1" in other.heard()[0][1]["text"]


def test_a_priority_that_was_changed_is_echoed_although_no_plan_can_be_written_down(
    arbiter: Arbiter, driver: SlowDevices, other: Client, in_line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk may stay full for hours; what a plan would have done is left out."""
    driver.takes_long = True
    other.ask("renice", jobs=in_line, priority=5)
    driver.takes_long = False
    with full_disk(arbiter, monkeypatch):
        wake(arbiter)
        ((kind, values),) = other.heard()
    assert (kind, "priority 0 \\u2192 5, 1st of 1" in values["text"]) == ("done", True)
    five_good_wakes(arbiter)
    assert other.heard() == []


def no_descriptor(*_given: object) -> Job:
    raise OSError(errno.EMFILE, "Too many open files")


def a_mistake(*_given: object) -> Job:
    raise AssertionError("a mistake of ours")


@pytest.mark.parametrize("fails", [no_descriptor, a_mistake])
def test_who_waited_for_the_same_look_is_answered_although_the_request_before_failed(
    arbiter: Arbiter, driver: SlowDevices, client: Client, other: Client, monkeypatch: pytest.MonkeyPatch,
    fails: Callable[..., Job],
) -> None:
    driver.takes_long = True
    client.ask("register", key="a")
    other.ask("register", key="b")
    driver.takes_long = False
    with monkeypatch.context() as once:
        once.setattr(arbiter.answers.admission, "read_job", fails)
        wake(arbiter)
    assert client.kinds() == ["refused"]
    five_good_wakes(arbiter)
    assert other.kinds()[0] == "job"


def test_who_uses_too_much_is_ended_although_the_batch_in_which_that_was_seen_was_lost(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(arbiter.settings.values, "over_memory", "evict")
    request = Request(memory_bytes=GIB, give_way=GiveWay.REQUEUE)
    job, _pidfd = started(arbiter, leader, request=request, stub=True)
    with arbiter.store.batch():
        arbiter.store.change(job, shares=shares(arbiter, 0, size=GIB))

    def look() -> None:
        arbiter.memory.note({job.id: {shares(arbiter, 0)[0].uuid: 2 * GIB}})

    with monkeypatch.context() as twice:
        twice.setattr(arbiter.tuning, "check", look)
        with full_disk(arbiter, monkeypatch):
            arbiter.step([])
        assert arbiter.store.live[job.id].state is JobState.RUNNING
        arbiter.step([])
    assert (arbiter.store.live[job.id].state, arbiter.store.live[job.id].requeue) == (JobState.STOPPING, True)


def test_that_the_disk_is_full_is_logged_once(
    arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again five times a second, and the log may lie on a disk that has room."""
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
        arbiter.step([])
    arbiter.step([])
    with full_disk(arbiter, monkeypatch, "input/output error"):
        arbiter.step([])
    causes = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert causes == ["the disk is full", "input/output error"]


@pytest.mark.parametrize("begun", [True, False])
def test_a_block_that_ends_while_the_disk_is_full_gives_its_gpu_back_once_it_is_not(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", client: Client, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Its program lives on, perhaps for days, and does not say so again."""
    if not begun:
        started(arbiter, leader)
    five_good_wakes(arbiter)
    client.ask("register", key="a", offset=0, gpus=0 if begun else 1)
    number = max(arbiter.store.live)
    if begun:
        client.ask("take")
        assert arbiter.store.live[number].state is JobState.RUNNING
    client.heard()
    with full_disk(arbiter, monkeypatch):
        client.ask("release", key="a", failed=0)
        wake(arbiter)
        assert set(client.kinds()) == {"refused"}
    client.socket.close()
    wake(arbiter, client)
    five_good_wakes(arbiter)
    ended = arbiter.store.find(number)
    assert ended is not None
    assert ended.state is JobState.ENDED


# A pause is over once that is written down


def paused(arbiter: Arbiter, leader: "subprocess.Popen[bytes]") -> Job:
    """A job that was stopped, and is written down as paused."""
    job, _pidfd = started(arbiter, leader)
    leader.send_signal(signal.SIGSTOP)
    with arbiter.store.batch():
        arbiter.pausing._traces.remember_stopped(job.id, {leader.pid: job.identity.start_ticks})
        arbiter.pausing._traces.note_stopped(job.id)
        job = arbiter.store.move(job, Event.PAUSE, "paused")
    wait_until(lambda: is_stopped(leader), "the job to stand still")
    return job


def is_stopped(leader: "subprocess.Popen[bytes]") -> bool:
    stat = processes.read_stat(leader.pid)
    return stat is not None and stat.state == "T"


LET_GO: dict[str, Callable[[Arbiter, Job], object]] = {
    "resumed": lambda arbiter, job: arbiter.pausing.resume(job, "there is room again"),
    "asked to end": lambda arbiter, job: arbiter.killing.kill(job, None, "anna"),
}


@pytest.mark.parametrize("how", LET_GO)
def test_a_job_goes_on_once_that_is_written_down_and_not_before(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """It would compute beside the one for whom it stands still."""
    job = paused(arbiter, leader)
    with full_disk(arbiter, monkeypatch), monkeypatch.context() as once:
        once.setattr(arbiter.tuning, "check", lambda: LET_GO[how](arbiter, job))
        arbiter.step([])
    assert (arbiter.store.live[job.id].state, is_stopped(leader)) == (JobState.PAUSED, True)
    arbiter.pausing.recover(arbiter.store.live[job.id])
    assert is_stopped(leader), "a successor would let it go"
    with monkeypatch.context() as once:
        once.setattr(arbiter.tuning, "check", lambda: LET_GO[how](arbiter, arbiter.store.live[job.id]))
        arbiter.step([])
    wait_until(lambda: not is_stopped(leader), "the job to go on")
    arbiter.step([])
    assert not list(Path(arbiter.folder.path).glob("pausing-*"))
    assert arbiter.notes.stopped.get(job.id) is None


def test_a_job_that_is_paused_again_in_the_same_batch_does_not_go_on(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    job = paused(arbiter, leader)

    def for_a_moment() -> None:
        arbiter.pausing.resume(job, "there is room again")
        arbiter.store.move(arbiter.store.live[job.id], Event.PAUSE, "paused")

    with monkeypatch.context() as once:
        once.setattr(arbiter.tuning, "check", for_a_moment)
        arbiter.step([])
    assert (arbiter.store.live[job.id].state, is_stopped(leader)) == (JobState.PAUSED, True)


def test_an_arbiter_that_dies_between_the_two_is_followed_by_one_that_lets_the_job_go(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]"
) -> None:
    job = paused(arbiter, leader)
    with arbiter.store.batch():
        arbiter.pausing.resume(job, "there is room again")
    assert is_stopped(leader)
    with arbiter.store.batch():
        Pausing(arbiter).recover(arbiter.store.live[job.id])
    wait_until(lambda: not is_stopped(leader), "the job to go on")
