"""GPUs held against other worlds: other users, other state folders, other Slurm steps.

1. Before the first grant on a GPU its claim is bound, and kept while a grant on it lives: an abstract socket
   `@gpurun/<UUID>`, which the kernel gives to one process of the network namespace and takes back when it dies.
2. Who cannot bind treats the GPU as taken, and stays connected to the holder: one byte means released; an end without it
   means that the holder crashed, and its successor gets `CRASH_SECONDS` to come first.
3. Whoever releases while others want the GPU lets them go first.

4. The sockets are held by the keeper too (`pouch`): while either lives, the claims do.
5. Anybody can connect, so what that costs is bounded (`crowding`): once in `REST_SECONDS` those who have come are let in, a
   few of each user; the others are told to ask again later. While there is no room at all they wait in the socket's queue,
   which the release empties.

Limits: one network namespace; anybody may squat on the name; if arbiter and keeper are killed at once, a world that was not
connected at that moment does not know that it should wait.
"""

import contextlib
import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator

from ...host.processes import user_name
from ...model import Claim
from ..bell.socket import Watcher
from ..people.service import DescriptorStore
from ..timers import Timers
from .crowding import Guests, Heeded
from .kept_sockets import Pouch, empty

CRASH_SECONDS = 5.0
AFTER_YOU_SECONDS = 0.25
# How long nobody is let in after somebody was, and after how long one asks again who was not.
REST_SECONDS = 1.0
# systemd takes less to close what it was told to forget.
STORE_SECONDS = 0.02
_BACKLOG = 64
_RELEASED, _CROWDED = b"r", b"f"


class _Held:
    """A claim of ours, and the worlds that are connected to it: their sockets and uids, by descriptor."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.guests: dict[int, tuple[socket.socket, int]] = {}
        self.is_watched = False


class Claims:
    """The claims of this world, and what it knows of others'. `on_change` is called when a GPU may have become free."""

    def __init__(self, watcher: Watcher, timers: Timers, on_change: Callable[[], None]) -> None:
        self._watcher = watcher
        self._timers = timers
        self._on_change = on_change
        self.pouch = Pouch()
        self.store: Pouch | DescriptorStore = self.pouch
        """Where the claims outlive us."""
        self.says_after_you = True
        """False in the machine's queue: who has a queue beside it would get every second GPU, past the line."""
        self._guests = Guests(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self._heeded = Heeded()
        self._held: dict[str, _Held] = {}
        self._holders: dict[str, socket.socket] = {}
        self.others: dict[str, Claim] = {}
        """Claims of other worlds, by UUID; only GPUs that this world wanted are known."""

    @property
    def held(self) -> frozenset[str]:
        """UUIDs of the GPUs that this world holds."""
        return frozenset(self._held)

    def take(self, uuid: str) -> bool:
        """Bind a claim; false if another world holds the GPU, which `others` then knows."""
        if uuid in self._held:
            return True
        if uuid in self.others:
            return False
        for _ in range(2):  # the holder may let go between our bind and our connect
            if self._bind(uuid):
                return True
            if self._connect(uuid):
                return False
        self._wait_before(uuid, REST_SECONDS)
        return False

    def peek(self, uuid: str) -> Claim | None:
        """Say which other world holds a GPU that nobody here has wanted so far."""
        if uuid in self._held or uuid in self.others:
            return self.others.get(uuid)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            try:
                sock.connect(_address(uuid))
            except BlockingIOError:
                return Claim(None, None)
            except OSError:
                return None
            pid, uid = _at_the_other_end(sock)
            return Claim(pid, user_name(uid))

    def release(self, uuid: str) -> None:
        """Let go of a GPU, and tell those who want it."""
        held = self._held.pop(uuid, None)
        if held is None:
            return
        waiting = [sock for sock, _uid in held.guests.values()] + list(_queue_of(held.sock))
        for fd, (_sock, uid) in held.guests.items():
            self._watcher.unwatch(fd)
            self._guests.leave(uuid, uid)
        self._watcher.unwatch(held.sock.fileno())
        held.sock.close()
        self._fill_pouch()
        for sock in waiting:
            _dismiss(sock, _RELEASED)
        if waiting and self.says_after_you:
            self._wait_before(uuid, AFTER_YOU_SECONDS)

    def forget_unwanted(self) -> None:
        """Stop watching other worlds' claims: nobody here waits any more."""
        for uuid, sock in list(self._holders.items()):
            self._unwatch_holder(uuid, sock)
            self.others.pop(uuid, None)

    def _bind(self, uuid: str) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.bind(_address(uuid))
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            return False
        self._hold(uuid, sock)
        self._fill_pouch()
        return True

    def inherit(self, inner: socket.socket) -> None:
        """Take over the claims of a predecessor that was killed, from the pouch that its keeper kept."""
        self.take_over(empty(inner))
        inner.close()

    def take_over(self, sockets: dict[str, socket.socket]) -> None:
        """Take over the claims of a predecessor, by GPU UUID, wherever they were kept meanwhile."""
        for uuid, sock in sockets.items():
            sock.setblocking(False)
            sock.set_inheritable(False)
            sock.listen(_BACKLOG)  # from now on the kernel names us as the holder [net/unix/af_unix.c, unix_listen]
            self._hold(uuid, sock)
        self._fill_pouch()

    def _hold(self, uuid: str, sock: socket.socket) -> None:
        self._held[uuid] = _Held(sock)
        self._watch(uuid, self._held[uuid])

    def _fill_pouch(self) -> None:
        self.store.fill({uuid: held.sock for uuid, held in self._held.items()})

    # --- who wants what is ours ---------------------------------------------------------------------------------

    def _watch(self, uuid: str, held: _Held) -> None:
        """Hear of those who come, unless there is no room for them."""
        if self._held.get(uuid) is not held or held.is_watched:
            return
        if self._guests.has_room():
            self._watcher.watch(held.sock.fileno(), lambda _mask: self._let_in(uuid, held))
            held.is_watched = True
        else:
            self._timers.after(REST_SECONDS, lambda: self._watch(uuid, held))

    def _let_in(self, uuid: str, held: _Held) -> None:
        for sock in _queue_of(held.sock):
            _pid, uid = _at_the_other_end(sock)
            if self._guests.admit(uuid, uid):
                held.guests[sock.fileno()] = sock, uid
                self._watcher.watch(sock.fileno(), lambda _mask, it=sock: self._left(uuid, held, it))  # type: ignore[misc]
            else:
                _dismiss(sock, _CROWDED)
            if not self._guests.has_room():
                break
        self._watcher.unwatch(held.sock.fileno())
        held.is_watched = False
        self._timers.after(REST_SECONDS, lambda: self._watch(uuid, held))

    def _left(self, uuid: str, held: _Held, sock: socket.socket) -> None:
        """A guest has gone, or speaks, which none does."""
        with contextlib.suppress(ConnectionError):
            try:
                sock.recv(1)
            except BlockingIOError:
                return  # its descriptor was another's until a moment ago
        _sock, uid = held.guests.pop(sock.fileno())
        self._watcher.unwatch(sock.fileno())
        sock.close()
        self._guests.leave(uuid, uid)

    # --- who has what we want -----------------------------------------------------------------------------------

    def _connect(self, uuid: str) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(_address(uuid))
        except BlockingIOError:
            sock.close()  # so many want it that the holder's queue is full: taken, and looked at again soon
            self.others[uuid] = Claim(None, None)
            self._timers.after(REST_SECONDS, lambda: self._free_again(uuid))
            return True
        except OSError:
            sock.close()
            return False
        pid, uid = _at_the_other_end(sock)
        if pid == os.getpid():  # ours of a moment ago: systemd has yet to let go of it
            sock.close()
            self._wait_before(uuid, STORE_SECONDS)
            return True
        self.others[uuid] = Claim(pid, user_name(uid))
        self._holders[uuid] = sock
        self._watcher.watch(sock.fileno(), lambda _mask: self._holder_spoke(uuid, sock, uid))
        return True

    def _holder_spoke(self, uuid: str, sock: socket.socket, uid: int) -> None:
        try:
            word = sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        self._unwatch_holder(uuid, sock)
        seconds = CRASH_SECONDS
        if word == _RELEASED:
            seconds = self._heeded.seconds_until(uuid, uid, time.monotonic())
        elif word == _CROWDED:
            seconds = REST_SECONDS
        if seconds > 0:
            self._timers.after(seconds, lambda: self._free_again(uuid))
        else:
            self._free_again(uuid)

    def _unwatch_holder(self, uuid: str, sock: socket.socket) -> None:
        self._watcher.unwatch(sock.fileno())
        sock.close()
        self._holders.pop(uuid, None)

    def _free_again(self, uuid: str) -> None:
        if uuid not in self._holders:
            self.others.pop(uuid, None)
            self._on_change()

    def _wait_before(self, uuid: str, seconds: float) -> None:
        """Count the GPU as somebody's for a moment."""
        self.others[uuid] = Claim(None, None)
        self._timers.after(seconds, lambda: self._free_again(uuid))


def _address(uuid: str) -> bytes:
    return b"\0gpurun/" + uuid.encode("utf-8", "replace")[:90]


def _at_the_other_end(sock: socket.socket) -> tuple[int, int]:
    """Return the pid and the uid of who connected, or of who listens, as the kernel names them."""
    pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


def _queue_of(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield who waits to be let in; no more than fit into the queue, however quickly others come after them."""
    for _ in range(_BACKLOG + 1):
        try:
            sock, _address = listening.accept()
        except OSError:
            return  # nobody, or no descriptor is left: then they wait on
        sock.setblocking(False)
        yield sock


def _dismiss(sock: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):
        sock.send(word)
    sock.close()
