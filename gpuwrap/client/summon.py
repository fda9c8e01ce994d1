"""How a client reaches the arbiter of its world, and starts one if there is none.

1. Nothing here polls: connect, the `summon` lock and the ready pipe all wait in the kernel.
2. One client at a time summons; the others wait on a lock in the kernel and then find the bell [run: 300 that all spawn
   take a minute].
3. The arbiter is no child of the program: it is forked twice, and the first child is reaped before anything else happens.
4. Nothing of the client reaches the arbiter but a few named variables: new session, cwd /, umask 077, default signals,
   descriptors closed, and of limits and priorities what it may give up (`inherited`).

The launch path imports this module: `_socket` and `_signal` instead of `socket` and `signal`, which import much more.
"""

import _signal
import _socket
import _thread
import errno
import fcntl
import os
import sys
import time

from ..errors import GpurunError, NoArbiter, StateFolderError
from ..state import paths
from ..wire import PACKET, unpack

KEPT_VARIABLES = ("PATH", "LANG", "GPURUN_DIR", "LD_LIBRARY_PATH")
# An arbiter that does not report within this time is given up on; NVML is not touched before it reports.
READY_SECONDS = 30
# Connections in a row that ended without a word, each after a successful summons: then the arbiter dies of our request.
MUTE_CONNECTIONS = 8
# Arbiters that ended before they were ready: somebody may have killed the first, but not each of them.
DEATHS_BORNE = 2

BOOT = (
    "import sys; sys.path += [path for path in sys.argv[1].split(':') if path and path not in sys.path]; "
    "from gpuwrap.arbiter.start import main; main(sys.argv[2:])"
)


class WaitLimitPassed(Exception):
    """The wait limit (-n, -w) passed before there was an answer."""


class _EndedAtOnce(NoArbiter):
    """An arbiter was started, and ended without a word."""


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
            self.socket = knock(self.folder, self._remaining()) or self._summon()
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

    def _summon(self) -> _socket.socket:
        if not self.summons:
            raise NoArbiter("none is up")
        try:
            fd = _open_summon(self.folder)
        except OSError as err:
            if err.errno == errno.EIO:
                self._have_paused_ones_freed()
            raise _unusable(self.folder, err) from err
        try:
            self._lock(fd)
            deaths = 0
            for _ in range(MUTE_CONNECTIONS):
                sock = knock(self.folder, self._remaining())
                if sock is not None:
                    return sock
                try:
                    spawn(self.folder, self.sim, self._remaining())
                except _EndedAtOnce:
                    deaths += 1
                    if deaths > DEATHS_BORNE:
                        raise
            raise NoArbiter("it leaves as soon as it has come", hint=f"see {self.folder.path}/{paths.LOG}")
        except OSError as err:
            raise NoArbiter(str(err.strerror).lower()) from err
        finally:
            os.close(fd)

    def _have_paused_ones_freed(self) -> None:
        """The disk is dead and no arbiter lives: one that cannot begin lets those go on whom its predecessors paused."""
        try:
            spawn(self.folder, self.sim, self._remaining())
        except (GpurunError, WaitLimitPassed):
            return

    def _lock(self, fd: int) -> None:
        """Take the lock on `summon`, in the kernel; with a wait limit a thread does it, since flock knows no limit.

        (A timer would: but alarm clocks belong to the program, they survive exec.)
        """
        remaining = self._remaining()
        if remaining is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        done = _thread.allocate_lock()
        done.acquire()

        def take() -> None:
            own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)  # a lock of its own, dropped with the thread
            try:
                fcntl.flock(own, fcntl.LOCK_EX)
            finally:
                os.close(own)
                done.release()

        _thread.start_new_thread(take, ())
        if not done.acquire(timeout=remaining):
            raise WaitLimitPassed
        self._lock(fd)


def _open_summon(folder: paths.Folder) -> int:
    """Open the file whose lock says who summons. Raises OSError: where it cannot be, no arbiter can."""
    return os.open(paths.SUMMON, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder.fd)


def _unusable(folder: paths.Folder, err: OSError) -> StateFolderError:
    hint = "no arbiter is up, and only who may write there can start one; in a unit: ReadWritePaths=" + folder.path
    sealed = err.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return StateFolderError(folder.path, str(err.strerror).lower(), hint=hint if sealed else None)


def knock(folder: paths.Folder, timeout: float | None) -> _socket.socket | None:
    """Connect to the bell; None if nobody listens. Waits in the kernel while the queue of the bell is full."""
    sock = None
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        if timeout is not None:  # connect() on a Unix socket honours SO_SNDTIMEO [unix(7), net/unix/af_unix.c]
            seconds, part = divmod(timeout, 1)
            limit = int(seconds).to_bytes(8, sys.byteorder) + int(part * 1e6).to_bytes(8, sys.byteorder)
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, limit)
        sock.connect(folder.inside(paths.BELL))
    except OSError as err:
        if sock is not None:
            sock.close()
        if err.errno in (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET):
            return None
        if err.errno in (errno.EAGAIN, errno.EINPROGRESS, errno.ETIMEDOUT):
            raise WaitLimitPassed from err
        raise GpurunError(f"cannot ask the arbiter: {paths.BELL}: {str(err.strerror).lower()}") from err
    return sock


def spawn(folder: paths.Folder, sim: str | None, timeout: float | None) -> None:
    """Start an arbiter and wait until it reports ready.

    Raises GpurunError with what it reported, OSError if it cannot even be started, or WaitLimitPassed.
    """
    reading, writing = os.pipe()  # both close on exec
    try:
        child = os.fork()
        if child == 0:
            _become_arbiter(folder, sim, writing)
        os.close(writing)
        writing = -1
        reap(child)
        report = _read_report(reading, timeout)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if not report:
        raise _EndedAtOnce("it ended at once", hint=f"its last words are in {folder.path}/{paths.LOG}")
    kind, values = unpack(report)
    if kind != "ready":
        raise GpurunError(values["text"], hint=values.get("hint"))


def _read_report(fd: int, timeout: float | None) -> bytes:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    limit = READY_SECONDS if timeout is None else min(timeout, READY_SECONDS)
    if not poll.poll(limit * 1000):
        if timeout is not None and timeout < READY_SECONDS:
            raise WaitLimitPassed
        raise NoArbiter(f"it is not ready after {READY_SECONDS} s")
    return os.read(fd, PACKET)


def reap(child: int) -> None:
    """Wait for a child that is about to end, and leave no trace of it."""
    try:
        os.waitpid(child, 0)
    except ChildProcessError:
        return  # our parent ignores SIGCHLD, and so do we: the kernel has reaped it, and told nobody
    if _signal.SIGCHLD in _signal.pthread_sigmask(_signal.SIG_BLOCK, ()):
        # Blocked by our parent: left pending it would reach the program, which has no child.
        _signal.sigtimedwait((_signal.SIGCHLD,), 0)


def arbiter_command(folder_path: str, sim: str | None) -> list[str]:
    """Return the command line that becomes an arbiter; the keeper is given the same one."""
    return [sys.executable, "-P", "-c", BOOT, ":".join(sys.path), folder_path, sim or ""]


def arbiter_environment() -> dict[str, str]:
    """Build the arbiter's environment anew, with the password entry's home."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    kept.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    kept["HOME"] = paths.home_of_user() or "/"
    return kept


def _become_arbiter(folder: paths.Folder, sim: str | None, report: int) -> None:
    """In the first child: fork the arbiter and leave. Never returns."""
    summoner = os.getppid()
    try:
        if os.fork():
            os._exit(0)
        from ..host.inherited import give_up

        give_up()
        command, environment = arbiter_command(folder.path, sim), arbiter_environment()
        os.setsid()
        os.umask(0o077)
        null = os.open("/dev/null", os.O_RDWR)
        log = _open_log(folder, null)
        # The three may stand at 0, 1 or 2 themselves if the caller had closed those: lift them out of the way first.
        lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (null, report, log)]
        for target, fd in enumerate(lifted):
            os.dup2(fd, target)
        os.chdir("/")
        os.closerange(3, 1 << 20)
        for number in _signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP}:
            try:
                _signal.signal(number, _signal.SIG_DFL)
            except (OSError, ValueError):
                continue  # the C library keeps two of the real-time signals for itself
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.execve(command[0], [*command, str(summoner)], environment)
    finally:
        os._exit(127)


def _open_log(folder: paths.Folder, otherwise: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(paths.LOG, flags, 0o600, dir_fd=folder.fd)
    except OSError:
        return otherwise
