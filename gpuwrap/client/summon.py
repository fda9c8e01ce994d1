"""How an arbiter is started by a client that found none, and awaited until it is ready.

1. Nothing here polls: connect, the `summon` lock and the ready pipe all wait in the kernel.
2. One client at a time summons; the others wait on a lock in the kernel and then find the bell [run: 300 that all spawn
   take a minute].
3. The arbiter is no child of the program: it is forked twice, and the first child is reaped before anything else happens.
4. Nothing of the client reaches the arbiter but a few named variables: new session, cwd /, umask 077, default signals,
   descriptors closed, and of limits and priorities what it may give up (`inherited`).

Loaded by a launch that finds no arbiter: `_signal` instead of `signal`, which imports much more.
"""

import _signal
import _thread
import errno
import fcntl
import os
import sys

from ..errors import GpurunError, NoArbiter, StateFolderError, WaitLimitPassed
from ..state import paths
from ..wire import PACKET, unpack

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

KEPT_VARIABLES = ("PATH", "LANG", "GPURUN_DIR", "LD_LIBRARY_PATH")
# An arbiter that does not report within this time is given up on; NVML is not touched before it reports.
READY_SECONDS = 30
# Arbiters in a row that were ready, and had gone before they answered.
MOST_SPAWNED = 8
# Arbiters that ended before they were ready: somebody may have killed the first, but not each of them.
DEATHS_BORNE = 2

BOOT = (
    "import sys; sys.path += [path for path in sys.argv[1].split(':') if path and path not in sys.path]; "
    "from gpuwrap.arbiter.start import main; main(sys.argv[2:])"
)


class _EndedAtOnce(NoArbiter):
    """An arbiter was started, and ended without a word."""


def summon(
    folder: paths.Folder, sim: str | None, knock: "Callable[[], socket | None]", remaining: "Callable[[], float | None]"
) -> "socket":
    """Return the connection that `knock` makes once an arbiter is up, starting it if nobody else does.

    `remaining`: the seconds left of a wait limit, None for ever. Raises WaitLimitPassed, NoArbiter or GpurunError.
    """
    try:
        fd = _open_summon(folder)
    except OSError as err:
        if err.errno == errno.EIO:
            _have_paused_ones_freed(folder, sim, remaining())
        raise _unusable(folder, err) from err
    try:
        _lock(fd, remaining)
        deaths = 0
        for _ in range(MOST_SPAWNED):
            sock = knock()
            if sock is not None:
                return sock
            try:
                spawn(folder, sim, remaining())
            except _EndedAtOnce:
                deaths += 1
                if deaths > DEATHS_BORNE:
                    raise
        raise NoArbiter("it leaves as soon as it has come", hint=f"see {folder.path}/{paths.LOG}")
    except OSError as err:
        raise NoArbiter(str(err.strerror).lower()) from err
    finally:
        os.close(fd)


def _have_paused_ones_freed(folder: paths.Folder, sim: str | None, timeout: float | None) -> None:
    """The disk is dead and no arbiter lives: one that cannot begin lets those go on whom its predecessors paused."""
    try:
        spawn(folder, sim, timeout)
    except (GpurunError, WaitLimitPassed):
        return


def _lock(fd: int, remaining: "Callable[[], float | None]") -> None:
    """Take the lock on `summon`, in the kernel; with a wait limit a thread does it, since flock knows no limit.

    (A timer would: but alarm clocks belong to the program, they survive exec.)
    """
    seconds = remaining()
    if seconds is None:
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
    if not done.acquire(timeout=seconds):
        raise WaitLimitPassed
    _lock(fd, remaining)


def _open_summon(folder: paths.Folder) -> int:
    """Open the file whose lock says who summons. Raises OSError: where it cannot be, no arbiter can."""
    return os.open(paths.SUMMON, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=folder.fd)


def _unusable(folder: paths.Folder, err: OSError) -> StateFolderError:
    hint = "no arbiter is up, and only who may write there can start one; in a unit: ReadWritePaths=" + folder.path
    sealed = err.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return StateFolderError(folder.path, str(err.strerror).lower(), hint=hint if sealed else None)


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
