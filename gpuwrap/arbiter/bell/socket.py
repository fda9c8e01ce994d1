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
from ...model import Identity
from ...state.paths import BELL, Folder
from ...wire import PACKET, pack, unpack
from ..log import log
from .room import Room, is_lack_of_room

BACKLOG = 4096
# A client that has not read this many packets is stopped or mad: lines for it are dropped, then the connection.
MOST_UNSENT = 256
# The first and the last for which epoll is asked; accept is bounded so that a crowd cannot starve the others.
ACCEPT_AT_ONCE = 128
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

    def open(self) -> None:
        """Put the bell in its place; one that a dead arbiter left behind is removed."""
        self._unlink()
        self._shut()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.bind(self._folder.inside(BELL))
        sock.listen(BACKLOG)
        self._inode = os.stat(BELL, dir_fd=self._folder.fd, follow_symlinks=False).st_ino
        self._listening = sock
        self._is_full = False
        self._watcher.watch(sock.fileno(), self._accept)

    def is_in_place(self) -> bool:
        """Whether clients can still find the bell; true if it was taken away on purpose."""
        if self._listening is None:
            return True
        try:
            return os.stat(BELL, dir_fd=self._folder.fd, follow_symlinks=False).st_ino == self._inode
        except OSError:
            return False

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
        with contextlib.suppress(OSError):
            os.unlink(BELL, dir_fd=self._folder.fd)

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
            if connection.uid != os.geteuid() or connection.identity is None:
                sock.close()
                continue
            self.connections[connection.fd] = connection
            self._watcher.watch(connection.fd, lambda mask, it=connection: self._ready(it, mask))  # type: ignore[misc]
            self._read(connection)

    def _ready(self, connection: Connection, mask: int) -> None:
        if mask & select.EPOLLOUT:
            self._send(connection)
        if mask & ~select.EPOLLOUT:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        while connection.fd in self.connections:
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
