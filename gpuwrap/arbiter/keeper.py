"""The keeper: one line of shell that waits on a pipe and becomes the next arbiter if this one dies.

A leaving arbiter writes a line first, and the keeper ends. A broken pipe makes it exec the arbiter's command line, so it
needs no memory of its own to speak of (0.4 MiB [run]) and nothing that could fail meanwhile. It holds the claims' pouch.
"""

import contextlib
import os
import select
from collections.abc import Callable

from .bell import Watcher

SCRIPT = 'read _ && exit; exec "$@"'
SHELL = "/bin/sh"
# Where the keeper, and so the next arbiter, finds the claims' pouch.
KEPT_FD = 3


class Keeper:
    """The keeper of this arbiter; replaced if it dies."""

    def __init__(self, watcher: Watcher, command: list[str], kept_fd: int, on_death: Callable[[], None]) -> None:
        self._watcher = watcher
        self._command = command
        self._kept_fd = kept_fd
        self._on_death = on_death
        self._pipe = -1
        self._pidfd = -1
        self.pid = 0

    def start(self) -> None:
        """Start a keeper, unless there is one."""
        if self._pipe >= 0:
            return
        reading, self._pipe = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, self._kept_fd, KEPT_FD)]
        self.pid = os.posix_spawn(SHELL, ["sh", "-c", SCRIPT, "keeper", *self._command], os.environ, file_actions=actions)
        os.close(reading)
        self._pidfd = os.pidfd_open(self.pid)
        self._watcher.watch(self._pidfd, self._died, select.EPOLLIN)

    def dismiss(self) -> None:
        """Tell the keeper that the arbiter leaves on purpose."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                os.write(self._pipe, b"\n")
            self._forget()

    def _died(self, _mask: int) -> None:
        self._forget()
        self._on_death()

    def _forget(self) -> None:
        self._watcher.unwatch(self._pidfd)
        os.close(self._pidfd)
        os.close(self._pipe)
        self._pipe = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
