"""The keeper: one line of shell that waits on a pipe and becomes the next arbiter if this one dies.

A leaving arbiter writes a line first, and the keeper ends. A broken pipe makes it exec the arbiter's command line, so it
needs no memory of its own to speak of (0.4 MiB [run]) and nothing that could fail meanwhile. It holds the claims' pouch.
Where none can be had, the arbiter lives without one and tries again.
"""

import contextlib
import os
import select
from collections.abc import Callable

from .bell.socket import Watcher
from .log import log

SCRIPT = 'read _ && exit; exec "$@"'
SHELL = "/bin/sh"
# Where the keeper, and so the next arbiter, finds the claims' pouch.
KEPT_FD = 3


class Keeper:
    """The keeper of this arbiter; replaced if it dies."""

    def __init__(self, watcher: Watcher, command: list[str], kept_fd: int, on_lack: Callable[[], None]) -> None:
        self._watcher = watcher
        self._command = command
        self._kept_fd = kept_fd
        self._on_lack = on_lack
        self._is_told = False
        self._pipe = -1
        self._pidfd = -1
        self.pid = 0

    def start(self) -> None:
        """Start a keeper, unless there is one. Where none can be had, it is said once, and whoever is to try again is told."""
        if self._pipe >= 0 or not self._command:  # where systemd starts the next one there is none
            return
        try:
            self._spawn()
        except OSError as err:
            if not self._is_told:
                log("keeper", f"none can be started for now: {str(err.strerror).lower()}")
            self._is_told = True
            self._on_lack()
        else:
            self._is_told = False

    def _spawn(self) -> None:
        reading, writing = os.pipe()
        try:
            actions = [(os.POSIX_SPAWN_DUP2, reading, 0), (os.POSIX_SPAWN_DUP2, self._kept_fd, KEPT_FD)]
            words = ["sh", "-c", SCRIPT, "keeper", *self._command]
            self.pid = os.posix_spawn(SHELL, words, os.environ, file_actions=actions)
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.close(writing)  # if it lives, it becomes an arbiter, finds the lock held, and leaves
            raise
        finally:
            os.close(reading)
        self._pipe = writing
        self._watcher.watch(self._pidfd, self._died, select.EPOLLIN)

    def dismiss(self) -> None:
        """Tell the keeper that the arbiter leaves on purpose."""
        if self._pipe >= 0:
            with contextlib.suppress(OSError):
                os.write(self._pipe, b"\n")
            self._forget()

    def _died(self, _mask: int) -> None:
        self._forget()
        self._on_lack()

    def _forget(self) -> None:
        self._watcher.unwatch(self._pidfd)
        os.close(self._pidfd)
        os.close(self._pipe)
        self._pipe = -1
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.pid = 0
