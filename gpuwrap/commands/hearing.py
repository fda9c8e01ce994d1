"""What a stub hears of the arbiter while its program runs, and how it finds the arbiter again.

1. The kernel tells by SIGIO that the bell has something for us: the stub has one wait, and nothing here waits in it.
2. A connection that broke is made anew, to a new arbiter perhaps, with longer and longer pauses between the attempts, and
   none keeps the child waiting for more than `RECONNECT_SECONDS`.
3. `alone` is for good: a world that does not know us has begun anew, and the program runs on without it.
"""

import _signal
import fcntl
import os
import time

from ..arbiter.summon import Call, WaitLimitPassed
from ..errors import GpurunError
from ..wire import PACKET, pack, unpack

TYPE_CHECKING = False  # as type checkers read it; a stub shall not load typing or collections, which bring re along
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECONNECT_SECONDS = 5.0
RECONNECT_LONGEST = 60.0


class Hearing:
    """The connection to the arbiter during one run."""

    def __init__(self, call: Call, register: "Callable[[], bytes]") -> None:
        self.alone = False
        """The arbiter does not know us (its database has gone): the program runs on, and its status is ours."""
        self.arbiter_pid = 0
        self.reconnect_mono = 0.0
        self._reconnect_wait = 0.0
        self._call = call
        self._register = register

    def attend(self) -> None:
        """Have the kernel tell us by SIGIO when the bell has something for us: one wait for everything."""
        self.arbiter_pid = 0
        sock = self._call.socket
        if sock is None:
            return
        self.arbiter_pid = int.from_bytes(sock.getsockopt(1, 17, 12)[:4], "little")  # SOL_SOCKET, SO_PEERCRED
        sock.setblocking(False)
        fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags | fcntl.FASYNC)
        os.kill(os.getpid(), _signal.SIGIO)  # what lies there already told nobody

    def leave(self) -> None:
        """Make the connection an ordinary one again."""
        if self._call.socket is not None:
            fd = self._call.socket.fileno()
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~fcntl.FASYNC)
            self._call.socket.setblocking(True)

    def messages(self) -> "Iterator[tuple[str, dict[str, str]]]":
        """Give what the arbiter has said. If the connection broke, it is dropped."""
        while self._call.socket is not None:
            try:
                packet = self._call.socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._call.drop()
                return
            self._reconnect_wait = 0.0
            yield unpack(packet)

    def is_missed(self) -> bool:
        """Whether an arbiter is to be found, now or at `reconnect_mono`."""
        return self._call.socket is None and not self.alone

    def reconnect(self) -> None:
        """Reach the arbiter, a new one perhaps, and tell it what runs. Summoning may take a SIGCHLD away."""
        self._call.limit_mono = time.monotonic() + RECONNECT_SECONDS
        try:
            self._call.send(self._register())
        except (WaitLimitPassed, GpurunError, OSError):
            self._call.drop()
        self._call.limit_mono = None
        self.reconnect_mono = time.monotonic() + self._reconnect_wait
        self._reconnect_wait = min(RECONNECT_LONGEST, self._reconnect_wait * 2 or 0.1)
        self.attend()

    def say(self, kind: str, **values: object) -> None:
        """Tell the arbiter something that is of no use to a later one."""
        if self._call.socket is not None:
            try:
                self._call.socket.send(pack(kind, **values))
            except OSError:
                return  # its end is seen when it is read
