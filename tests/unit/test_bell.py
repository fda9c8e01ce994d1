"""Both ends of the bell keep what the other does not take at once, and say it later, in order; and who is let in."""

import _socket
import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from waiting import wait_until

from gpuwrap.arbiter.bell.room import Room
from gpuwrap.arbiter.bell.socket import MOST_UNSENT, Bell, Connection
from gpuwrap.client.call import Call
from gpuwrap.launch.hearing import Hearing
from gpuwrap.state.paths import Folder
from gpuwrap.wire import PACKET, pack, unpack

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
        self.bell.send(self.connection, pack("end", n=n))


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


# Who is let in


class Place:
    """A room with a number of seats."""

    def __init__(self, bell: Callable[[], Bell], seats: int) -> None:
        self.bell, self.seats = bell, seats

    def is_for_more_clients(self) -> bool:
        return len(self.bell().connections) < self.seats


def test_who_finds_no_room_waits_in_the_kernel_and_is_let_in_as_room_comes(tmp_path: Path) -> None:
    loop, heard = Loop(), list[str]()
    folder = Folder(str(tmp_path), os.open(tmp_path, os.O_RDONLY))
    place = Place(lambda: bell, 2)
    bell = Bell(folder, loop, lambda _it, _kind, values: heard.append(values["n"]), lambda _it: None, cast(Any, place))
    bell.open()
    clients = []
    for number in range(4):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(folder.inside("bell"))
        client.send(pack("ping", n=number))
        clients.append(client)
    while loop.wakes():
        bell.let_in()
    assert heard == ["0", "1"], "and the loop sleeps although others wait"
    for number in (0, 1):
        clients[number].close()
        while loop.wakes():
            bell.let_in()
        assert heard == [str(n) for n in range(number + 3)]
    place.seats = 0
    for client in clients[2:]:
        client.close()
    while loop.wakes():
        bell.let_in()
    late = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    late.connect(folder.inside("bell"))
    late.send(pack("ping", n="late"))
    while loop.wakes():
        bell.let_in()
    assert heard[-1] == "late", "one is always let in"
    late.close()
    bell.retire()
    os.close(folder.fd)


def test_the_room_is_known_by_the_number_of_the_next_descriptor() -> None:
    next_one = os.dup(0)
    assert not Room(next_one + 32).is_for_more_clients()
    os.close(next_one)
    assert Room(next_one + 33).is_for_more_clients()
    assert not Room(next_one + 32).is_for_more_clients()
    assert Room(next_one + 17).is_for_a_job()
    assert not Room(next_one + 16).is_for_a_job()


def test_there_is_no_room_where_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_fd: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", none_left)
    assert not Room(1 << 20).is_for_more_clients()
    assert not Room(1 << 20).is_for_a_job()
