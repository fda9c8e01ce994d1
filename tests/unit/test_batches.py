"""What a batch leaves behind in the arbiter itself: where it noted the end of a job, and where it could not be committed."""

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from views import waiting
from waiting import wait_until

from gpuwrap.arbiter import killing
from gpuwrap.arbiter.bell import Connection
from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.arbiter.sampling import SAMPLE_SECONDS
from gpuwrap.errors import StoreError
from gpuwrap.host import processes
from gpuwrap.host.simulated import SimulatedDevices
from gpuwrap.lifecycle import Event, JobState
from gpuwrap.model import Job, Request, Share
from gpuwrap.state.paths import Folder
from gpuwrap.state.settings import read_settings
from gpuwrap.state.store import Store
from gpuwrap.units import GIB
from gpuwrap.wire import PACKET, unpack


@pytest.fixture
def arbiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arbiter]:
    """An arbiter that nobody can ring for: no bell, no keeper."""
    monkeypatch.setenv("GPURUN_DIR", str(tmp_path))
    fd = os.open(tmp_path, os.O_RDONLY)
    store = Store(Folder(str(tmp_path), fd))
    devices = SimulatedDevices("24G", str(tmp_path), 1)
    made = Arbiter(Folder(str(tmp_path), fd), store, devices, read_settings(), ["true"], devices.root)
    yield made
    store.close()
    devices.close()
    os.close(fd)


@pytest.fixture
def leader() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


def started(arbiter: Arbiter, leader: "subprocess.Popen[bytes]", **changes: Any) -> tuple[Job, int]:
    """A running job on the GPU, and the descriptor of its leader, which the loop watches."""
    identity = processes.identify(leader.pid)
    assert identity is not None
    with arbiter.store.batch():
        job = arbiter.store.register(replace(waiting(0), identity=identity, **changes))
        granted = arbiter.store.grant(job, (Share("GPU-sim-1-0", 0, 24 * GIB, True),), "granted")
        job = arbiter.store.move(granted, Event.TAKE, "taken", started_at=time.time(), started_mono=time.monotonic())
        pidfd = processes.open_pidfd(identity)
        assert pidfd is not None
        arbiter.adopt(job, None, pidfd)
        arbiter.watch_leader(job.id)
    assert pidfd in watched()
    return job, pidfd


def watched() -> set[int]:
    """Every descriptor that an epoll of this process watches."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            lines = Path(f"/proc/self/fdinfo/{name}").read_text().splitlines()
            found |= {int(line.split()[1]) for line in lines if line.startswith("tfd:")}
    return found


@contextmanager
def full_disk(arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is written is written, as far as it goes, but not committed."""

    def refuse() -> None:
        arbiter.store.write_down()
        raise StoreError("write", "state.db", "the disk is full")

    with monkeypatch.context() as full:
        full.setattr(arbiter.store, "commit", refuse)
        yield


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
    arbiter.seats[job.id].kin = {1: long_there}

    def look() -> None:
        arbiter.deciding.begin_look()
        arbiter.step([])

    with full_disk(arbiter, monkeypatch):
        look()
    assert arbiter.store.setting(f"kin {job.id}") == ""
    look()
    assert arbiter.store.setting(f"kin {job.id}") == f"1:{long_there.start_ticks}"


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
    monkeypatch.setattr(killing, "signal_all", lambda _identities, number: asked.append(number))
    arbiter.limits.watch(job)
    wait_until(lambda: arbiter.timers.timeout() == 0, "the limit to pass")
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert arbiter.store.live[job.id].state is JobState.RUNNING
    assert (arbiter.seats[job.id].kill_timer, arbiter.seats[job.id].ended_by) == (None, None)
    arbiter.step([])
    arbiter.step([])
    assert arbiter.store.live[job.id].state is JobState.STOPPING
    assert asked == [signal.SIGTERM]


def test_who_was_to_be_killed_in_a_lost_batch_is_not(
    arbiter: Arbiter, leader: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked was refused: nobody may kill it ten seconds later."""
    job, _pidfd = started(arbiter, leader)
    monkeypatch.setattr(arbiter.tuning, "check", lambda: arbiter.killing.kill_within(job.id, 10.0))  # within the batch
    with full_disk(arbiter, monkeypatch):
        arbiter.step([])
    assert arbiter.seats[job.id].kill_timer is None


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
    connection.close()
