"""Notices on the terminal of a running program: that it was paused, and that it goes on.

1. Only on a terminal of the job's owner, in cooked mode: what has put it into raw mode (vim, curses) draws for itself.
2. The terminal is found by the program's own stderr; it is never made ours, and writing never waits.
3. What stderr is, is looked at before it is opened, and what was looked at is what is opened. Its name proves nothing: in a
   mount namespace of its own anything can be called /dev/pts/0. (pidfd_getfd would do as well where no security module keeps
   processes of one user apart; Yama, which many distributions switch on, does [Documentation/admin-guide/LSM/Yama.rst].)
"""

import contextlib
import os
import stat
import termios

from ...model import Job

# Of terminals and pseudo-terminals [Documentation/admin-guide/devices.txt].
_TERMINALS = (4, *range(136, 144))


def tell(job: Job, text: str) -> None:
    """Write one line on the terminal that a running job has as stderr, if it is its owner's and in cooked mode."""
    with contextlib.suppress(OSError, termios.error):
        handle = os.open(f"/proc/{job.identity.pid}/fd/2", os.O_PATH | os.O_CLOEXEC)  # reaches the file, opens nothing
        try:
            if _is_own_terminal(os.fstat(handle), os.geteuid() if job.uid is None else job.uid):
                _write(f"/proc/self/fd/{handle}", f"gpurun: {text}\n".encode())
        finally:
            os.close(handle)


def _is_own_terminal(facts: os.stat_result, owner: int) -> bool:
    """Whether a file is a terminal of a job's owner."""
    return stat.S_ISCHR(facts.st_mode) and os.major(facts.st_rdev) in _TERMINALS and facts.st_uid == owner


def _write(path: str, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if termios.tcgetattr(fd)[3] & termios.ICANON:
            os.write(fd, line)
    finally:
        os.close(fd)
