"""An arbiter that is told to end, by a signal: with what it lives in, or with the machine.

1. First of all everybody goes on whom it paused: who is being ended must be able to receive its TERM, and who is not would
   stand still until the next command.
2. It tells its keeper to go. Who waits elsewhere summons the next arbiter.
3. It stays for a blink, in which it decides nothing any more: what is ended together with it ends now, and how it ended
   nobody else can write down.
"""

import os
import signal
from typing import TYPE_CHECKING

from ..host import bus
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter

# A session's scope is sent HUP right after TERM [systemd.kill(5), SendSIGHUP].
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
BLINK_SECONDS = 0.2
# The answer whether the machine goes down is awaited no longer.
LONGEST_SECONDS = 0.5
AGAIN_SECONDS = 0.05


class Farewell:
    """Leaves in good order."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._timers = arbiter.timers
        self.is_told = False
        self.has_begun = False
        self._may_leave = False
        self._knows = False

    def listen(self) -> None:
        """From now on signals wake the loop."""
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._told)
        self._arbiter.watch(reading, lambda _mask: self._woken(reading))

    def _told(self, _number: int, _frame: object) -> None:
        self.is_told = True

    def _woken(self, reading: int) -> None:
        os.read(reading, 64)
        self.begin("told by a signal")

    def begin(self, why: str) -> None:
        """Let everybody go on, and leave in a moment. Called inside a batch, which may be lost: it goes on all the same."""
        if self.has_begun:
            return
        self.has_begun = True
        arbiter = self._arbiter
        log("farewell", why)
        arbiter.bell.retire()
        self._timers.clear()
        arbiter.pausing.thaw_everything("the arbiter is being ended")
        self._timers.after(BLINK_SECONDS, self._blinked)
        self._timers.after(LONGEST_SECONDS, arbiter.stop_at_once)
        if bus.is_there():
            arbiter.shutdown.ask(self._heard)
        else:
            self._knows = True

    def _heard(self, goes_down: bool | None) -> None:
        if goes_down is None:  # who was asked may have been ended together with us
            self._timers.after(AGAIN_SECONDS, lambda: self._arbiter.shutdown.ask(self._heard))
            return
        self._knows = True
        if goes_down or self._may_leave:
            self._arbiter.stop_at_once()

    def _blinked(self) -> None:
        self._may_leave = True
        if self._knows:
            self._arbiter.stop_at_once()
