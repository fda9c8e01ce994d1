"""GPUs held against other worlds: other users, other state folders, other Slurm steps.

1. Before the first grant on a GPU its claim is bound, and kept while a grant on it lives: an abstract socket
   `@gpurun/<UUID>`, which the kernel gives to one process of the network namespace and takes back when it dies.
2. Who cannot bind treats the GPU as taken, and stays connected to the holder: one byte means released; an end without it
   means that the holder crashed, and its successor gets `CRASH_SECONDS` to come first.
3. Whoever releases while others want the GPU lets them go first.

4. The sockets are held by the keeper too (`pouch`): while either lives, the claims do.

Limits: one network namespace; anybody may squat on the name; if arbiter and keeper are killed at once, a world that was not
connected at that moment does not know that it should wait.
"""

import contextlib
import select
import socket
import struct
from collections.abc import Callable

from ..host.processes import user_name
from ..model import Claim
from .bell import Watcher
from .pouch import Pouch, empty
from .timers import Timers

CRASH_SECONDS = 5.0
AFTER_YOU_SECONDS = 0.25
_RELEASED = b"r"


class Claims:
    """The claims of this world, and what it knows of others'. `on_change` is called when a GPU may have become free."""

    def __init__(self, watcher: Watcher, timers: Timers, on_change: Callable[[], None]) -> None:
        self._watcher = watcher
        self._timers = timers
        self._on_change = on_change
        self.pouch = Pouch()
        self._held: dict[str, socket.socket] = {}
        self._peers: dict[str, list[socket.socket]] = {}
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
        self._wait_before(uuid, AFTER_YOU_SECONDS)
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
            pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return Claim(pid, user_name(uid))

    def release(self, uuid: str) -> None:
        """Let go of a GPU, and tell those who want it."""
        sock = self._held.pop(uuid, None)
        if sock is None:
            return
        self._accept(uuid, sock)
        self._watcher.unwatch(sock.fileno())
        sock.close()
        self.pouch.fill(self._held)
        peers = self._peers.pop(uuid, [])
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.send(_RELEASED)
            peer.close()
        if peers:
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
            sock.listen(64)
        except OSError:
            sock.close()
            return False
        self._hold(uuid, sock)
        self.pouch.fill(self._held)
        return True

    def _hold(self, uuid: str, sock: socket.socket) -> None:
        self._held[uuid] = sock
        self._peers[uuid] = []
        self._watcher.watch(sock.fileno(), lambda _mask: self._accept(uuid, sock))

    def inherit(self, inner: socket.socket) -> None:
        """Take over the claims of a predecessor that was killed, from the pouch that its keeper kept."""
        for uuid, sock in empty(inner).items():
            sock.setblocking(False)
            sock.set_inheritable(False)
            self._hold(uuid, sock)
        inner.close()
        self.pouch.fill(self._held)

    def _accept(self, uuid: str, sock: socket.socket) -> None:
        while True:
            try:
                peer, _ = sock.accept()
            except OSError:
                return
            peer.setblocking(False)
            self._peers[uuid] = [known for known in self._peers[uuid] if _is_open(known)]
            self._peers[uuid].append(peer)

    def _connect(self, uuid: str) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(_address(uuid))
        except BlockingIOError:
            sock.close()  # so many want it that the holder's queue is full: taken, and looked at again soon
            self.others[uuid] = Claim(None, None)
            self._timers.after(1.0, lambda: self._free_again(uuid))
            return True
        except OSError:
            sock.close()
            return False
        pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.others[uuid] = Claim(pid, user_name(uid))
        self._holders[uuid] = sock
        self._watcher.watch(sock.fileno(), lambda _mask: self._holder_spoke(uuid, sock))
        return True

    def _holder_spoke(self, uuid: str, sock: socket.socket) -> None:
        try:
            word = sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        self._unwatch_holder(uuid, sock)
        if word == _RELEASED:
            self._free_again(uuid)
        else:
            self._timers.after(CRASH_SECONDS, lambda: self._free_again(uuid))

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


def _is_open(sock: socket.socket) -> bool:
    """Whether a peer that never speaks is still there."""
    poll = select.poll()
    poll.register(sock, 0)
    if poll.poll(0):
        sock.close()
        return False
    return True
