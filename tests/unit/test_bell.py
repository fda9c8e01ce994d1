"""Both ends of the bell keep what the other does not take at once, and say it later, in order."""

import _socket
import contextlib
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from waiting import wait_until

from gpuwrap.arbiter.bell import MOST_UNSENT, Bell, Connection
from gpuwrap.arbiter.summon import Call
from gpuwrap.commands.hearing import Hearing
from gpuwrap.wire import PACKET, unpack

# More small packets than a socket's send buffer takes, whatever the machine's default.
MANY = int(Path("/proc/sys/net/core/wmem_default").read_text()) // 256


def read_all(end: socket.socket) -> list[str]:
    """The `n` of each message that lies there."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while packet := end.recv(PACKET):
            found.append(unpack(packet)[1]["n"])
    return found


# The client's end


@pytest.fixture
def told() -> Iterator[list[int]]:
    """Each SIGIO that came. (Blocked as in a stub or a sweep, another thread of the tests would get it.)"""
    told: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _frame: told.append(number))
    yield told
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def ends(told: list[int]) -> Iterator[tuple[Hearing, socket.socket]]:
    """What a stub or a sweep speaks through, and the arbiter's end."""
    ours, arbiter = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with socket.socket(fileno=arbiter.detach()) as other:
        other.setblocking(False)
        hearing = Hearing(cast(Call, SimpleNamespace(socket=ours, drop=ours.close)), bytes)
        hearing.attend()
        yield hearing, other
        ours.close()


def test_what_the_arbiter_cannot_take_now_is_said_later_in_order(ends: tuple[Hearing, socket.socket]) -> None:
    hearing, arbiter = ends
    said = [str(number) for number in range(MANY)]
    for n in said:
        hearing.say("row", n=n)
    heard = read_all(arbiter)
    assert len(heard) < MANY, "all of it found room: nothing was tried"

    def is_heard() -> bool:
        assert hearing.moments(), "it has something to say, and would sleep"
        assert list(hearing.messages()) == []
        heard.extend(read_all(arbiter))
        return heard == said

    wait_until(is_heard, "the rest to be said", 10)
    assert not hearing.moments()


def test_the_kernel_tells_when_there_is_room_again(ends: tuple[Hearing, socket.socket], told: list[int]) -> None:
    hearing, arbiter = ends
    for number in range(MANY):
        hearing.say("row", n=number)
    told.clear()
    read_all(arbiter)
    wait_until(lambda: told, "the kernel to tell", 10)


def test_the_same_is_kept_only_once(ends: tuple[Hearing, socket.socket]) -> None:
    hearing, arbiter = ends
    for _ in range(MANY):
        hearing.say("continued", n="same")
    first = len(read_all(arbiter))
    list(hearing.messages())
    assert read_all(arbiter) == ["same"]
    assert first < MANY - 1


# The arbiter's end


class Loop:
    """Who watches descriptors for the bell, as the arbiter's loop does."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.callbacks: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        self.callbacks[fd] = callback
        self.epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        if self.callbacks.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def wakes(self) -> int:
        """Handle what is ready; how much it was."""
        ready = self.epoll.poll(0)
        for fd, mask in ready:
            self.callbacks[fd](mask)
        return len(ready)


class Rung:
    """A bell with one client that does not read."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.gone: list[Connection] = []
        self.bell = Bell(cast(Any, None), self.loop, lambda *_: None, self.gone.append)
        ours, self.client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.client.setblocking(False)
        self.connection = Connection(ours)
        self.bell.connections[self.connection.fd] = self.connection
        self.loop.watch(self.connection.fd, lambda mask: self.bell._ready(self.connection, mask))

    def say(self, n: int) -> None:
        self.bell.queue(self.connection, "end", n=n)
        self.bell.flush()


@pytest.fixture
def rung() -> Iterator[Rung]:
    rung = Rung()
    yield rung
    rung.bell.drop(rung.connection)
    rung.client.close()
    rung.loop.epoll.close()


@pytest.mark.parametrize("kept", [1, 2, MOST_UNSENT])
def test_what_a_client_does_not_read_is_kept_for_it_and_then_it_is_quiet(rung: Rung, kept: int) -> None:
    said = 0
    while len(rung.connection.unsent) < kept:
        rung.say(said)
        said += 1
    assert rung.loop.wakes() == 0, "it asks for room, and there is none"
    heard: list[str] = []
    while len(heard) < said:
        heard += read_all(rung.client)
        rung.loop.wakes()
    assert heard == [str(number) for number in range(said)]
    assert rung.loop.wakes() == 0, "it still asks for room, and would never sleep"
    rung.say(said)
    assert read_all(rung.client) == [str(said)]
    assert not rung.gone


def test_a_client_that_never_reads_loses_its_connection(rung: Rung) -> None:
    for number in range(MANY + MOST_UNSENT + 1):
        rung.say(number)
    assert rung.gone == [rung.connection]
