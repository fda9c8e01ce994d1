"""How the arbiter has a program end that is to give way: the signals of `--signal` one after the other, then KILL.

1. KILL follows the last delay, whatever the program says; after it the arbiter sees to the rest.
2. Beside the signals stands a file (`GPURUN_PREEMPT_FILE`): made before the first of them, gone when the run is over.
   A program that writes `saving` into it is spared the signals in between.
3. The file is the program's to write: it is opened by its name in our folder, never through a link, and never waited for.
"""

import _signal
import os
import time

from ..restarts import stored_signals
from ..state.paths import Folder
from .child import Child

SAVING = b"saving"


class Ending:
    """The end that one run is asked for, if it is."""

    def __init__(self, child: Child, folder: Folder, file: str) -> None:
        self.begun = False
        self.due_mono: float | None = None
        """When the next step is due; None before the first and after KILL."""
        self.sent: set[int] = set()
        """What the program was sent: it did not come from elsewhere."""
        self._child = child
        self._folder = folder
        self._file = file
        self._steps: list[tuple[int, float]] = []

    def begin(self, signals: str) -> None:
        """Ask for the end by these signals; the first one is due at once."""
        self.begun = True
        self._steps = list(stored_signals(signals))
        if self._file:
            self._write_file()
        self.due_mono = time.monotonic()
        self._child.held = False
        self._child.go_on()

    def escalate(self) -> None:
        """Send what is due. A program that says that it is saving is spared the signals in between, not KILL."""
        while self.due_mono is not None and self.due_mono <= time.monotonic():
            if not self._steps:
                self.due_mono = None
                self._send(_signal.SIGKILL)
                return
            number, seconds = self._steps.pop(0)
            if not self.sent or not self._says_saving():
                self._send(number)
            self.due_mono += seconds

    def clean_up(self) -> None:
        """Remove the file: the run is over."""
        if self._file:
            try:
                os.unlink(self._file, dir_fd=self._folder.fd)
            except OSError:
                return

    def _send(self, number: int) -> None:
        self.sent.add(number)
        self._child.signal(number)
        if number != _signal.SIGKILL:
            self._child.go_on()  # stopped, it would keep the signal for later

    def _write_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self._file, flags, 0o600, dir_fd=self._folder.fd)
        except OSError:
            return  # a full disk: the signals come all the same
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, b"requested\n")
        except OSError:
            pass
        finally:
            os.close(fd)

    def _says_saving(self) -> bool:
        if not self._file:
            return False
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self._file, flags, dir_fd=self._folder.fd)
        except OSError:
            return False
        try:
            return os.read(fd, 64).strip().startswith(SAVING)
        except OSError:
            return False
        finally:
            os.close(fd)
