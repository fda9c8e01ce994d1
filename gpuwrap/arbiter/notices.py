"""Notices on the terminal of a running program: that it was paused, and that it goes on.

Only on a terminal in cooked mode: what has put it into raw mode (vim, curses) draws for itself. The terminal is found by
the program's own stderr; it is never made ours, and writing never waits.
"""

import contextlib
import os
import termios

from ..model import Job


def tell(job: Job, text: str) -> None:
    """Write one line on the terminal that a running job has as stderr, if it has one and it is in cooked mode."""
    path = f"/proc/{job.identity.pid}/fd/2"
    with contextlib.suppress(OSError, termios.error):
        if not os.readlink(path).startswith(("/dev/pts/", "/dev/tty")):
            return
        fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            local_modes = termios.tcgetattr(fd)[3]
            if local_modes & termios.ICANON:
                os.write(fd, f"gpurun: {text}\n".encode())
        finally:
            os.close(fd)
