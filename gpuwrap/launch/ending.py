"""How the arbiter has a program end that is to give way: the signals of `--signal` one after the other, then KILL.

1. KILL follows the last delay, whatever the program says; after it the arbiter sees to the rest.
2. Beside the signals stands a file (`GPURUN_PREEMPT_FILE`): made before the first of them, gone when the run is over.
   A program that writes `saving` into it is spared the signals in between.
3. Whom the program only waits for is asked by the arbiter (`arbiter.asking`).
"""

import _signal
import time

from ..restarts import stored_signals
from ..state import preempt
from ..state.paths import Folder
from .child import Child


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
            preempt.write(self._folder.fd, self._file)
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
            if not self.sent or not (self._file and preempt.says_saving(self._folder.fd, self._file)):
                self._send(number)
            self.due_mono += seconds

    def clean_up(self) -> None:
        """Remove the file: the run is over."""
        if self._file:
            preempt.remove(self._folder.fd, self._file)

    def _send(self, number: int) -> None:
        self.sent.add(number)
        self._child.signal(number)
        if number != _signal.SIGKILL:
            self._child.go_on()  # stopped, it would keep the signal for later
