"""What a stub or a sweep hears of the arbiter and tells it, and how it finds the arbiter again.

1. The kernel tells by SIGIO that the bell has something for us: the stub has one wait, and nothing here waits in it.
2. A connection that broke is made anew, to a new arbiter perhaps, with longer and longer pauses between the attempts, and
   none keeps the child waiting for more than `RECONNECT_SECONDS`.
3. What the arbiter does not take at once is kept and said later, in order. What is said over a connection that breaks may be
   lost: whoever finds the arbiter again repeats what it must know.
4. Who was asked to end summons no arbiter for a while, and finds one that is there.
5. `alone` is for good: a world that does not know us has begun anew, and the program runs on without it.
"""

import _signal
import fcntl
import os
import time

from ..client.call import Call
from ..errors import GpurunError, WaitLimitPassed
from ..wire import PACKET, pack, unpack

TYPE_CHECKING = False  # as type checkers read it; a stub shall not load typing or collections, which bring re along
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RECONNECT_SECONDS = 5.0
RECONNECT_LONGEST = 60.0
# The kernel tells when there is room again [unix_write_space, net/unix/af_unix.c]; this is for one that does not.
ROOM_SECONDS = 1.0
# How long who was asked to end summons nobody: by then an arbiter that lives where something is being stopped knows it.
ASKED_SECONDS = 10.0


class Hearing:
    """The connection to the arbiter during one run."""

    def __init__(self, call: Call, register: "Callable[[], bytes]") -> None:
        self.alone = False
        """The arbiter does not know us (its database has gone): the program runs on, and its status is ours."""
        self.arbiter_pid = 0
        self.reconnect_mono = 0.0
        self._reconnect_wait = 0.0
        self._asked_mono = -ASKED_SECONDS
        self._kept: dict[bytes, None] = {}
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
        """Say what was kept, and give what the arbiter has said. If the connection broke, it is dropped."""
        self._say_kept()
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

    def moments(self) -> list[float]:
        """Say when to look here again though nothing was heard, if ever."""
        if self.is_missed():
            return [self.reconnect_mono]
        return [time.monotonic() + ROOM_SECONDS] if self._kept else []

    def reconnect(self) -> None:
        """Reach the arbiter, a new one perhaps, and tell it what runs. Summoning may take a SIGCHLD away."""
        self._kept.clear()
        self._call.summons = self._asked_mono + ASKED_SECONDS < time.monotonic()
        self._call.limit_mono = time.monotonic() + RECONNECT_SECONDS
        try:
            self._call.send(self._register())
        except (WaitLimitPassed, GpurunError, OSError):
            self._call.drop()
        self._call.limit_mono = None
        self.reconnect_mono = time.monotonic() + self._reconnect_wait
        self._reconnect_wait = min(RECONNECT_LONGEST, self._reconnect_wait * 2 or 0.1)
        self.attend()

    def asked_to_end(self, number: int) -> None:
        """Somebody asks us to end, perhaps with all that lives where we do, a unit or a session: nobody is started in that."""
        if number in (_signal.SIGTERM, _signal.SIGHUP):
            self._asked_mono = time.monotonic()
            self._call.summons = False

    def say(self, kind: str, **values: object) -> None:
        """Tell the arbiter something; nobody, if it is missed just now.

        The same is kept only once: what can be said bounds what is kept.
        """
        if self._call.socket is not None:
            self._kept[pack(kind, **values)] = None
            if len(self._kept) == 1:
                self._say_kept()

    def _say_kept(self) -> None:
        sock = self._call.socket
        if sock is None:
            return
        for packet in list(self._kept):
            try:
                sock.send(packet)
            except OSError:
                return  # there is no room; or it is the end, which is seen when it is read
            del self._kept[packet]
