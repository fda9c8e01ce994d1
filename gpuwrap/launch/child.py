"""The program of one run, as its parent sees it: signalled, stopped and continued, reaped, and died after.

1. It is signalled by its pid only while it is not reaped: until then the pid is its own.
2. A child that the arbiter holds is never continued from here.
3. Whatever ends below us is reaped: we are a subreaper, and its orphans are our children.

Nothing here speaks with the arbiter. The stub loads it before it waits: `ctypes` only when the program starts.
"""

import _signal
import os

from ..errors import GpurunError

TYPE_CHECKING = False  # as type checkers read it; a stub shall not load typing or collections, which bring re along
if TYPE_CHECKING:
    from typing import NoReturn

# From linux/prctl.h; Python has no prctl.
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


class Child:
    """The program of one run."""

    def __init__(self) -> None:
        self.pid = 0
        self.status: int | None = None
        """How it ended, as waitpid(2) tells it."""
        self.stopped = 0
        """The signal that stopped it, until it goes on or we have stopped with it."""
        self.held = False
        """The arbiter pauses the job: a stop of the child is its doing."""

    def signal(self, number: int) -> None:
        """Signal the child, which is ours and not reaped: its pid is its own."""
        if self.status is None:
            try:
                os.kill(self.pid, number)
            except (ProcessLookupError, PermissionError):
                return  # it has just become somebody else's (setuid)

    def go_on(self) -> None:
        """Continue the child if it is stopped, and not by the arbiter."""
        if not self.held and self.is_stopped():
            self.signal(_signal.SIGCONT)
            self.stopped = 0

    def go_on_with_us(self) -> None:
        """Continue the child as we were; not if it has gone on and stopped anew (Ctrl-Z right after fg) while we woke up."""
        stands_still = self.is_stopped()
        self.sweep()
        if stands_still and not self.stopped and not self.held:
            self.signal(_signal.SIGCONT)

    def is_stopped(self) -> bool:
        """Whether the child stands still now."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb", buffering=0) as file:
                line = file.read(4096)
        except OSError:
            return False
        return line[line.rindex(b")") + 2 :][:1] == b"T"

    def has(self, number: int) -> bool:
        """Whether a signal waits for the child already."""
        status = self._proc_status()
        return bool((_mask(status, b"ShdPnd") | _mask(status, b"SigPnd")) >> (number - 1) & 1)

    def would_stop(self) -> bool:
        """Whether Ctrl-Z has its default effect on the child."""
        status = self._proc_status()
        bit = 1 << (_signal.SIGTSTP - 1)
        return not (_mask(status, b"SigIgn") | _mask(status, b"SigCgt") | _mask(status, b"SigBlk")) & bit

    def is_below_us(self, pid: int) -> bool:
        """Whether a process is we or a descendant of ours: what it sent to the whole group the child has as well."""
        ours = os.getpid()
        for _ in range(100):
            if pid in (ours, self.pid):
                return True
            if pid <= 1:
                return False
            try:
                with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                    line = file.read(4096)
            except OSError:
                return False
            pid = int(line[line.rindex(b")") + 2 :].split()[1])
        return False

    def sweep(self) -> None:
        """Collect what happened to the child, and reap orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.pid or self.status is not None:
                continue
            if os.WIFSTOPPED(status):
                self.stopped = os.WSTOPSIG(status)
            elif os.WIFCONTINUED(status):
                self.stopped = 0
            else:
                self.status = status

    def _proc_status(self) -> bytes:
        try:
            with open(f"/proc/{self.pid}/status", "rb", buffering=0) as file:
                return file.read(8192)
        except OSError:
            return b""


def _mask(status: bytes, name: bytes) -> int:
    fields = status.partition(b"\n" + name + b":")[2].split(None, 1)
    return int(fields[0], 16) if fields else 0


class Prctl:
    """prctl(2). Raises GpurunError if this Python cannot reach it, OSError if the kernel refuses."""

    def __init__(self) -> None:
        try:
            import ctypes  # 3 ms, and the only way: no module of Python's own has prctl

            self._call = ctypes.CDLL(None, use_errno=True).prctl
        except (ImportError, OSError, AttributeError) as err:
            raise GpurunError("cannot be the parent of a program: this Python has no ctypes") from err
        self._errno = ctypes.get_errno
        self._long = ctypes.c_ulong

    def __call__(self, option: int, value: int) -> None:
        zero = self._long(0)
        if self._call(option, self._long(value), zero, zero, zero) != 0:
            raise OSError(self._errno(), os.strerror(self._errno()))


def end_as(status: int, prctl: Prctl) -> "NoReturn":
    """End as a program did that ended so, but leave no second core dump. For who has all signals blocked."""
    if os.WIFSIGNALED(status):
        import resource

        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        prctl(PR_SET_DUMPABLE, 0)  # a core pattern that is a pipe does not look at the limit
        if number not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
        os._exit(128 + number)  # as the first process of a pid namespace nothing kills us
    os._exit(os.WEXITSTATUS(status))
