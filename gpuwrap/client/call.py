"""A client's connection to the arbiter of its world: connect, send, receive, ask again.

Nothing here polls: connect and receive wait in the kernel. Who starts an arbiter, if none answers, is `summon`.

The launch path imports this module: `_socket` instead of `socket`, which imports much more.
"""

import _socket
import errno
import sys
import time

from ..errors import GpurunError, NoArbiter, WaitLimitPassed
from ..state import paths
from ..wire import PACKET, unpack

# Connections in a row that ended without a word, each after a successful summons: then the arbiter dies of our request.
MUTE_CONNECTIONS = 8


def open_queue(sim: str | None, *, create: bool = True) -> paths.Folder | None:
    """Open the folder of the queue to ask (see `queue`); None if it has none yet and `create` is false.

    Raises StateFolderError.
    """
    if sim or not paths.machine_is_on():
        return paths.open_folder(sim, create=create)
    from .queue import open_where_machine_is_on

    return open_where_machine_is_on(create=create)


class Call:
    """A client's connection to the arbiter; made anew, with the arbiter summoned, whenever it breaks."""

    def __init__(self, folder: paths.Folder, sim: str | None, limit_mono: float | None = None) -> None:
        self.folder = folder
        self.sim = sim
        self.limit_mono = limit_mono
        self.socket: _socket.socket | None = None
        self.summons = True
        """False while we are being ended ourselves: nobody is started in what is ended with us."""
        self._mute = 0

    def connect(self) -> _socket.socket:
        """Return the connection, reaching the arbiter first if there is none. Raises WaitLimitPassed or NoArbiter."""
        if self.socket is None:
            self.socket = self._knock() or self._summon()
        return self.socket

    def send(self, packet: bytes) -> bool:
        """Send one packet; false if the connection broke."""
        try:
            self.connect().send(packet)
        except (BrokenPipeError, ConnectionError):
            self.drop()
            return False
        return True

    def receive(self) -> tuple[str, dict[str, str]] | None:
        """Wait for one message; None if the connection broke, or had broken before: a new arbiter must be told who we are.

        Raises WaitLimitPassed.
        """
        if self.socket is None:
            return None
        try:
            self.socket.settimeout(self._remaining())
            packet = self.socket.recv(PACKET)
        except (TimeoutError, BlockingIOError):
            raise WaitLimitPassed from None
        except ConnectionError:
            packet = b""
        if not packet:
            self.drop()
            return None
        self._mute = 0
        return unpack(packet)

    def ask(self, *packets: bytes) -> tuple[str, dict[str, str]]:
        """Send a request, in so many packets, and return the first answer, however many arbiters it takes.

        Only for requests that may be repeated. Raises WaitLimitPassed or NoArbiter.
        """
        while True:
            if all(self.send(packet) for packet in packets):
                _be_ready_to_summon()
                answer = self.receive()
                if answer is not None and answer[0] != "old":
                    return answer
                self.drop()
            self._mute += 1
            if self._mute >= MUTE_CONNECTIONS:
                hint = f"its last words are in {self.folder.path}/{paths.LOG}"
                raise NoArbiter(f"it ended {self._mute} times without an answer", hint=hint)

    def drop(self) -> None:
        """Forget the connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def _remaining(self) -> float | None:
        """Seconds left of the wait limit (at least a blink, so that an arbiter at hand is always asked), None for ever."""
        if self.limit_mono is None:
            return None
        return max(self.limit_mono - time.monotonic(), 0.001)

    def _knock(self) -> _socket.socket | None:
        return knock(self.folder, self._remaining())

    def _summon(self) -> _socket.socket:
        if self.folder.machine_bell is not None:  # the machine's is nobody's to start
            from .awaiting_bell import await_bell

            return await_bell(self.folder.machine_bell, self._knock, self.limit_mono, WaitLimitPassed)
        if not self.summons:
            raise NoArbiter("none is up")
        from .summon import summon  # most find an arbiter

        return summon(self.folder, self.sim, self._knock, self._remaining)


def _be_ready_to_summon() -> None:
    """Load, while the arbiter thinks, what another one would be started with: gpurun may be updated while we wait."""
    from . import summon as _  # noqa: F401


def knock(folder: paths.Folder, timeout: float | None) -> _socket.socket | None:
    """Connect to the bell; None if nobody listens. Waits in the kernel while the queue of the bell is full."""
    sock = None
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        if timeout is not None:  # connect() on a Unix socket honours SO_SNDTIMEO [unix(7), net/unix/af_unix.c]
            seconds, part = divmod(timeout, 1)
            limit = int(seconds).to_bytes(8, sys.byteorder) + int(part * 1e6).to_bytes(8, sys.byteorder)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        sock.connect(folder.bell())
    except OSError as err:
        if sock is not None:
            sock.close()
        if err.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET):
            return None
        if err.errno in (errno.EAGAIN, errno.EINPROGRESS, errno.ETIMEDOUT):
            raise WaitLimitPassed from err
        raise GpurunError(f"cannot ask the arbiter: {paths.BELL}: {str(err.strerror).lower()}") from err
    return sock
