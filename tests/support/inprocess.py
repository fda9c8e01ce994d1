"""An arbiter in the test's own process, woken by hand: without its loop, its bell, its keeper, and any process but a test's.

What is asked of it goes through real connections, and what it does is done to a real store and to real children. A test
turns its clock on instead of waiting.
"""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from pauses import stands
from views import waiting
from waiting import wait_until

from gpuwrap.arbiter.bell.socket import Connection
from gpuwrap.arbiter.compose import compose
from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.errors import StoreError
from gpuwrap.host import processes
from gpuwrap.host.devices import Look
from gpuwrap.host.signals import standing
from gpuwrap.host.simulated import SimulatedDevices
from gpuwrap.lifecycle import STARTED, Event
from gpuwrap.model import Job, Share
from gpuwrap.policy.asking import Standing
from gpuwrap.state.paths import Folder
from gpuwrap.state.settings import read_settings
from gpuwrap.state.store import Store
from gpuwrap.units import GIB
from gpuwrap.wire import PACKET, pack, unpack


class SlowDevices(SimulatedDevices):
    """GPUs whose looks are over in a later wake, as a real driver's are; `takes_long`: only when the test says so."""

    takes_long = False
    opening = False

    def finish_look(self) -> Look:
        if self.takes_long:
            raise BlockingIOError
        look = super().finish_look()
        return Look((), look.begun_mono, pending=True) if self.opening else look


@contextmanager
def made_arbiter(path: Path, spec: str = "24G") -> Iterator[Arbiter]:
    """Make an arbiter of a folder, which GPURUN_DIR must name. Its GPUs are nobody else's: their names have its inode."""
    fd = os.open(path, os.O_RDONLY)
    folder = Folder(str(path), fd)
    store = Store(folder)
    devices = SlowDevices(spec, str(path), os.fstat(fd).st_ino)
    arbiter = compose(folder, store, devices, read_settings(), ["true"], devices.root)
    try:
        yield arbiter
    finally:
        for uuid in list(arbiter.claims.held):
            arbiter.claims.release(uuid)
        store.close()
        devices.close()
        os.close(fd)


def shares(arbiter: Arbiter, *indices: int, size: int | None = None) -> tuple[Share, ...]:
    """Shares of GPUs of 24 GB, whole if no size is named."""
    assert isinstance(arbiter.devices, SlowDevices)
    names = arbiter.devices._names
    return tuple(Share(names[index][0], index, size or 24 * GIB, size is None) for index in indices)


# Waking it


def wake(arbiter: Arbiter, *also: int) -> None:
    """One wake, with all that is there by now (`also`: descriptors that are ready without it), and what nobody waits for."""
    ready = arbiter._epoll.poll(0)
    arbiter.step([*ready, *((fd, select.EPOLLIN) for fd in also if fd not in dict(ready))])
    arbiter.catch_up()


def five_good_wakes(arbiter: Arbiter) -> None:
    """So many as it takes to look, to plan, and to do what follows from it."""
    for _ in range(5):
        wake(arbiter, arbiter.devices.fileno())


def act(arbiter: Arbiter, action: Callable[[], object]) -> None:
    """Do something within a turn of its own."""
    arbiter.timers.after(0.0, lambda: (action(), None)[1])
    arbiter.step([])
    arbiter.catch_up()


@contextmanager
def full_disk(arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch, cause: str = "the disk is full") -> Iterator[None]:
    """What is written is written, as far as it goes, but not committed."""

    def refuse() -> None:
        arbiter.store.write_down()
        raise StoreError("write", "state.db", cause)

    with monkeypatch.context() as full:
        full.setattr(arbiter.store, "commit", refuse)
        yield


class Clock:
    """The clock that decides, for all of gpurun in this process and for all who wait here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = 0.0
        for name in ("monotonic", "clock_gettime"):
            real = getattr(time, name)
            turned = self._turned(real)
            monkeypatch.setattr(time, name, turned)
            for module in [each for of, each in sys.modules.items() if of.startswith("gpuwrap")]:
                if getattr(module, name, None) is real:
                    monkeypatch.setattr(module, name, turned)

    def _turned(self, real: Callable[..., float]) -> Callable[..., float]:
        return lambda *which: real(*which) + self._ahead

    def go_on(self, seconds: float) -> None:
        """So many seconds are over."""
        self._ahead += seconds


# Who asks


class OfChild(Connection):
    """The connection of a child, which itself knows nothing of gpurun."""

    def __init__(self, sock: socket.socket, child: "subprocess.Popen[bytes]") -> None:
        super().__init__(sock)
        self.pid, self.identity = child.pid, processes.identify(child.pid)

    def open_pidfd(self) -> int | None:
        assert self.identity is not None
        return processes.open_pidfd(self.identity)


class Client:
    """Somebody who asks, and what was heard; without a child this process itself."""

    def __init__(self, arbiter: Arbiter, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.arbiter, self.child = arbiter, child
        ours, self.socket = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.socket.setblocking(False)
        self.connection = Connection(ours) if child is None else OfChild(ours, child)
        arbiter.bell.connections[self.connection.fd] = self.connection
        arbiter.watch(self.connection.fd, lambda mask: arbiter.bell._ready(self.connection, mask))

    def ask(self, kind: str, **values: object) -> None:
        """Say something, and wake the arbiter once."""
        self.socket.send(pack(kind, **values))
        wake(self.arbiter, self.connection.fd)

    def heard(self) -> list[tuple[str, dict[str, str]]]:
        """What has come since this was called last."""
        found = []
        with contextlib.suppress(BlockingIOError, ConnectionResetError):
            while packet := self.socket.recv(PACKET):
                found.append(unpack(packet))
        return found

    def kinds(self) -> list[str]:
        return [kind for kind, _values in self.heard()]

    def answer(self, kind: str, **values: object) -> Any:
        """Ask as a verb does: what it is answered, read as JSON; AssertionError if that does not come soon."""
        self.heard()
        self.ask(kind, **values)
        said = self.heard()
        for _ in range(5):
            if said:
                break
            wake(self.arbiter, self.arbiter.devices.fileno())
            said = self.heard()
        assert [each for each, _values in said] == ["done"], said
        return json.loads(said[0][1]["text"]) if said[0][1]["text"] else None

    def refused(self, kind: str, **values: object) -> str:
        """Ask for what is refused: why."""
        self.heard()
        self.ask(kind, **values)
        ((said, told),) = self.heard()
        assert said == "refused", (said, told)
        return told["text"]

    def hang_up(self) -> None:
        """Close the connection, and wake the arbiter once."""
        self.socket.close()
        wake(self.arbiter, self.connection.fd)

    def close(self) -> None:
        self.arbiter.bell.drop(self.connection)
        self.socket.close()


class Jobs:
    """Jobs of an arbiter whose leaders are children of the test, asleep, each with its connection."""

    def __init__(self, arbiter: Arbiter) -> None:
        self.arbiter = arbiter
        self.clients: dict[int, Client] = {}
        self.children: list[subprocess.Popen[bytes]] = []
        self.asking: list[Client] = []
        self._below: list[psutil.Process] = []
        five_good_wakes(arbiter)

    def below(self, number: int) -> int:
        """The one process that the leader of a job has started in a session of its own, once it has; it ends with the test."""

        def find() -> psutil.Process | None:
            there = psutil.Process(self.leader(number).pid).children()
            return next((each for each in there if os.getsid(each.pid) == each.pid), None)

        self._below.append(wait_until(find, "the leader to start another", 5))
        return self._below[-1].pid

    def ask_as(self, kind: str, *command: str, **values: object) -> Client:
        """Have a child of its own ask for something; the key is its pid, if there is no other."""
        child = subprocess.Popen(command or ("sleep", "600"), stdin=subprocess.DEVNULL, start_new_session=True)
        self.children.append(child)
        # exec closes the pipe by which it is awaited before there is a command line to be seen.
        wait_until(lambda: processes.command_line(child.pid), "the child to have a command line", 5)
        client = Client(self.arbiter, child)
        self.asking.append(client)
        client.ask(kind, **{"key": str(child.pid), **values})
        return client

    def register(self, *command: str, **values: object) -> int:
        """Have a child ask for GPUs; its number."""
        client = self.ask_as("register", *command, **values)
        said = client.heard()
        assert said[0][0] == "job", said
        number = int(said[0][1]["id"])
        self.clients[number] = client
        five_good_wakes(self.arbiter)
        return number

    def take(self, number: int) -> Job:
        """It takes what it was granted, and is a program from now on."""
        client = self.clients[number]
        client.heard()
        client.ask("take")
        assert "go" in client.kinds()
        five_good_wakes(self.arbiter)
        return self.job(number)

    def start(self, *command: str, **values: object) -> int:
        """Both; AssertionError if there is no room."""
        number = self.register(*command, **values)
        self.take(number)
        return number

    def job(self, number: int) -> Job:
        """A job as its row is now."""
        found = self.arbiter.store.find(number)
        assert found is not None
        return found

    def state(self, number: int) -> str:
        return self.job(number).state.value

    def leader(self, number: int) -> "subprocess.Popen[bytes]":
        child = self.clients[number].child
        assert child is not None
        return child

    def until(self, number: int, does: Callable[[Standing], bool]) -> None:
        """Wait until something is to be seen of a leader, as that it has set its traps."""
        wait_until(lambda: (seen := standing(self.leader(number).pid)) is not None and does(seen), "the leader to begin", 5)

    def stands(self, number: int) -> bool:
        """Whether its program stands still."""
        return stands(self.leader(number).pid)

    def end(self, number: int) -> Job:
        """Its program ends by itself, by KILL, or the gpurun that waits does; the job as it is afterwards."""
        self.leader(number).kill()
        if self.job(number).state not in STARTED:
            self.leader(number).wait()
            self.clients[number].hang_up()
        return self.ended(number)

    def ended(self, number: int) -> Job:
        """Wait until its leader has ended, and its end is noted."""
        self.leader(number).wait(10)
        wait_until(lambda: (five_good_wakes(self.arbiter), self.state(number) == "ended")[1], "the end to be noted", 5)
        return self.job(number)

    def close(self) -> None:
        for client in self.asking:
            client.close()
        for process in self._below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for child in self.children:
            child.kill()
            child.wait()
        five_good_wakes(self.arbiter)  # groups of the freezer go with their jobs


def has_ended(pid: int) -> bool:
    """Whether a process has ended, also if nobody has waited for it."""
    stat = processes.read_stat(pid)
    return stat is None or stat.state in "ZX"


# Jobs without a client


def started(arbiter: Arbiter, leader: "subprocess.Popen[bytes]", **changes: Any) -> tuple[Job, int]:
    """A running job on the GPU, and the descriptor of its leader, which the loop watches."""
    identity = processes.identify(leader.pid)
    assert identity is not None
    with arbiter.store.batch():
        job = arbiter.store.register(replace(waiting(0), identity=identity, **changes))
        granted = arbiter.store.grant(job, shares(arbiter, 0), "granted")
        job = arbiter.store.move(granted, Event.TAKE, "taken", started_at=time.time(), started_mono=time.monotonic())
        pidfd = processes.open_pidfd(identity)
        assert pidfd is not None
        arbiter.seating.adopt(job, None, pidfd)
        arbiter.seating.watch_leader(job.id)
    assert pidfd in watched()
    return job, pidfd


def watched() -> set[int]:
    """Every descriptor that an epoll of this process watches."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/self/fdinfo/{name}").read_text().splitlines()
            found |= {int(line.split()[1]) for line in lines if line.startswith("tfd:")}
    return found
