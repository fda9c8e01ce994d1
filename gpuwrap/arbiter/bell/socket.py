"""The arbiter's end of the bell: one SEQPACKET socket beside the database, and a connection for each client.

1. Who asks is what the kernel says (peer credentials), never what the client says.
2. What is said in a turn is sent once that is committed (`turn`); `send_now` is for what is true in any case.
3. No client can make the arbiter wait: what cannot be sent at once is kept until the socket takes it, up to a bound.
4. A client costs one descriptor. Only as many are let in as there is room for; the others wait in the kernel.
"""

import contextlib
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ...host import processes
from ...host.peers import Asker
from ...model import Identity
from ...state.paths import Folder
from ...wire import PACKET, pack, unpack
from ..log import log
from .room import Room, is_lack_of_room

BACKLOG = 4096
# A client that has not read this many packets is stopped or mad: lines for it are dropped, then the connection.
MOST_UNSENT = 256
# The first and the last for which epoll is asked; accept is bounded so that a crowd cannot starve the others.
ACCEPT_AT_ONCE = 128
# So many packets of one user are read in one wake: who sends more is read on in the next one, after everybody else.
READ_AT_ONCE = 256
_SO_PEERPIDFD = 77  # Linux 6.5 [include/uapi/asm-generic/socket.h]; Python 3.11 has no name for it


class Watcher(Protocol):
    """Who registers descriptors with the loop."""

    def watch(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class Connection:
    """One client. `identity` is that of the process that connected."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.fd = sock.fileno()
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        self.pid, self.uid, _gid = struct.unpack("3i", credentials)
        self.identity: Identity | None = processes.identify(self.pid)
        self.job_id: int | None = None
        self.asker: Asker | None = None
        """Who asks, once that was looked at; only where several may."""
        self.unsent: deque[bytes] = deque()
        self.lacks_room = False
        """The loop watches for room in the socket: only then, or it would never sleep."""

    def open_pidfd(self) -> int | None:
        """Open a pidfd of the process that connected, None if it has gone for good. Raises OSError if no descriptor is left."""
        try:
            return self.socket.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
        except OSError as err:
            if is_lack_of_room(err):
                raise
        return processes.open_pidfd(self.identity) if self.identity is not None else None


class Bell:
    """The listening socket and all connections."""

    def __init__(
        self,
        folder: Folder,
        watcher: Watcher,
        on_request: Callable[[Connection, str, dict[str, str]], None],
        on_gone: Callable[[Connection], None],
        room: Room | None = None,
    ) -> None:
        self._folder = folder
        self._watcher = watcher
        self._on_request = on_request
        self._on_gone = on_gone
        self._room = room or Room()
        self._is_full = False
        """Nobody is let in: the listening socket is not watched."""
        self._has_told = False
        self.connections: dict[int, Connection] = {}
        self._listening: socket.socket | None = None
        self._inode = 0
        self.given: socket.socket | None = None
        """The bell, where somebody else has hung it up, and takes it away."""
        self._read_by_uid: dict[int, int] = {}
        self.by_uid: dict[int, int] = {}
        """How many connections each user has."""
        self.on_knock: Callable[[Connection], bool] | None = None
        """Asked whether to let in who has connected; None: our own user alone."""

    def open(self) -> None:
        """Put the bell in its place; one that a dead arbiter left behind is removed."""
        self._unlink()
        self._shut()
        if self.given is not None:
            sock = self.given.dup()
            sock.setblocking(False)
        else:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            # Everybody's from the first moment on: who rings in between would be told that he may not.
            mask = os.umask(0o111) if self._folder.machine_bell is not None else None
            try:
                sock.bind(self._folder.bell())
            finally:
                if mask is not None:
                    os.umask(mask)
            sock.listen(BACKLOG)
            self._inode = self._inode_at_path()
        self._listening = sock
        self._is_full = False
        self._watcher.watch(sock.fileno(), self._accept)

    def is_in_place(self) -> bool:
        """Whether clients can still find the bell; true if it was taken away on purpose."""
        if self._listening is None or self.given is not None:
            return True
        return self._inode_at_path() == self._inode

    def _inode_at_path(self) -> int:
        try:
            return os.stat(self._folder.bell(), follow_symlinks=False).st_ino
        except OSError:
            return 0

    def close(self) -> bool:
        """Take the bell away, and look once more: false, and it stays open, if somebody has just rung it."""
        if self._listening is None:
            return True
        self._unlink()
        self._accept(0)
        if self.connections:
            self._shut()
            self.open()
            return False
        self._shut()
        return True

    def retire(self) -> None:
        """Take the bell away for good; connections stay."""
        self._unlink()
        self._shut()

    def _shut(self) -> None:
        if self._listening is not None:
            self._watcher.unwatch(self._listening.fileno())
            self._listening.close()
            self._listening = None

    def _unlink(self) -> None:
        if self.given is None:
            with contextlib.suppress(OSError):
                os.unlink(self._folder.bell())

    def send_now(self, connection: Connection | None, kind: str, /, **values: object) -> None:
        """Send before the turn is committed, what is true whether it will be or not."""
        if connection is not None:
            self.send(connection, pack(kind, **values))

    def send(self, connection: Connection, packet: bytes) -> None:
        """Send one packet, to nobody if the client has gone."""
        if self.connections.get(connection.fd) is connection:
            connection.unsent.append(packet)
            self._send(connection)

    def let_in(self) -> None:
        """Let in who waits outside, if there is room now."""
        if self._is_full and self._listening is not None and self._may_let_in():
            self._is_full = False
            self._watcher.watch(self._listening.fileno(), self._accept)

    def drop(self, connection: Connection) -> None:
        """Close a connection from our side."""
        if self.connections.pop(connection.fd, None) is not None:
            self._watcher.unwatch(connection.fd)
            connection.socket.close()
            left = self.by_uid.get(connection.uid, 0) - 1
            self.by_uid[connection.uid] = left
            if left <= 0:
                del self.by_uid[connection.uid]

    def _may_let_in(self) -> bool:
        return not self.connections or self._room.is_for_more_clients()

    def _accept(self, _mask: int) -> None:
        for _ in range(ACCEPT_AT_ONCE):
            if self._listening is None:
                return  # whoever came last had the bell taken away
            if not self._may_let_in():
                self._is_full = True
                self._watcher.unwatch(self._listening.fileno())  # or it would wake us at once, and again
                if not self._has_told:
                    log("room", f"{len(self.connections)} clients are let in: the next ones wait until there is room")
                self._has_told = True
                return
            try:
                sock, _address = self._listening.accept()
            except OSError:
                self._has_told = False
                return
            sock.setblocking(False)
            connection = Connection(sock)
            if not self._is_admitted(connection) or connection.identity is None:
                sock.close()
                continue
            self.connections[connection.fd] = connection
            self.by_uid[connection.uid] = self.by_uid.get(connection.uid, 0) + 1
            self._watcher.watch(connection.fd, lambda mask, it=connection: self._ready(it, mask))  # type: ignore[misc]
            self._read(connection)

    def _is_admitted(self, connection: Connection) -> bool:
        return connection.uid == os.geteuid() if self.on_knock is None else self.on_knock(connection)

    def _ready(self, connection: Connection, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._send(connection)
        if mask & ~select.EPOLLOUT:
            self._read(connection)

    def begin_wake(self) -> None:
        """Everybody may be read from again."""
        self._read_by_uid.clear()

    def listens_at(self) -> int:
        """Return the descriptor of the bell; -1 if it is taken away."""
        return self._listening.fileno() if self._listening is not None else -1

    def _read(self, connection: Connection) -> None:
        while connection.fd in self.connections:
            count = self._read_by_uid[connection.uid] = self._read_by_uid.get(connection.uid, 0) + 1
            if count > READ_AT_ONCE:
                return  # what is left wakes us again
            try:
                packet = connection.socket.recv(PACKET + 1)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._gone(connection)
                return
            try:
                if len(packet) > PACKET:  # the kernel has cut it off somewhere
                    raise ValueError("longer than any packet")
                kind, values = unpack(packet)
            except ValueError:
                self._gone(connection)
                return
            self._on_request(connection, kind, values)

    def _gone(self, connection: Connection) -> None:
        self._on_gone(connection)
        self.drop(connection)

    def _send(self, connection: Connection) -> None:
        while connection.unsent:
            try:
                connection.socket.send(connection.unsent[0])
            except BlockingIOError:
                if len(connection.unsent) > MOST_UNSENT:
                    self._gone(connection)
                elif not connection.lacks_room:
                    self._rewatch(connection, select.EPOLLIN | select.EPOLLOUT)
                return
            except OSError:
                return  # the end of the connection shows itself when it is read
            connection.unsent.popleft()
        if connection.lacks_room:
            self._rewatch(connection, select.EPOLLIN)

    def _rewatch(self, connection: Connection, events: int) -> None:
        connection.lacks_room = bool(events & select.EPOLLOUT)
        self._watcher.unwatch(connection.fd)
        self._watcher.watch(connection.fd, lambda mask: self._ready(connection, mask), events)
