"""The descriptor of a leader that has ended: it stays readable, so the loop lets go of it as soon as the end is noted."""

import os
import select
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from views import waiting
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.errors import StoreError
from gpuwrap.host import processes
from gpuwrap.host.simulated import SimulatedDevices
from gpuwrap.lifecycle import Event, JobState
from gpuwrap.model import Job
from gpuwrap.state.paths import Folder
from gpuwrap.state.settings import read_settings
from gpuwrap.state.store import Store


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


def started(arbiter: Arbiter, leader: "subprocess.Popen[bytes]") -> tuple[Job, int]:
    """A running job without GPUs, and the descriptor of its leader, which the loop watches."""
    identity = processes.identify(leader.pid)
    assert identity is not None
    with arbiter.store.batch():
        job = arbiter.store.register(replace(waiting(0, 0), identity=identity))
        job = arbiter.store.move(arbiter.store.grant(job, (), "granted"), Event.TAKE, "taken")
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

    def refuse() -> None:
        raise StoreError("write", "state.db", "the disk is full")

    with monkeypatch.context() as full:
        full.setattr(arbiter.store, "commit", refuse)
        arbiter.step([(pidfd, select.EPOLLIN)])
    assert arbiter.store.live[job.id].state is JobState.RUNNING
    assert pidfd in watched()
    arbiter.step([(pidfd, select.EPOLLIN)])
    assert arbiter.store.find(job.id).state is JobState.ENDED  # type: ignore[union-attr]
