"""What is to be done later: callbacks by monotonic time, in one heap.

What was called back in a batch that could not be committed has not been done: it is called back again, and what it had hung up
for later is not.
"""

import heapq
import itertools
import time
from collections.abc import Callable

# epoll takes no more than 24 days at once [epoll_wait(2): milliseconds in an int].
LONGEST_SECONDS = 86400.0


class Timer:
    """One callback to come; `cancel` is cheap and may be called at any time."""

    __slots__ = ("at_mono", "callback")

    def __init__(self, at_mono: float, callback: Callable[[], None]) -> None:
        self.at_mono = at_mono
        self.callback: Callable[[], None] | None = callback

    def is_later_than(self, seconds: float) -> bool:
        """Whether it is due later than `seconds` from now."""
        return self.at_mono > time.monotonic() + seconds + 0.001

    def cancel(self) -> None:
        """Forget it."""
        self.callback = None


class Timers:
    """All callbacks to come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        self._called: list[Timer] = []
        self._made: list[Timer] = []
        self._is_calling = False

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, `seconds` from now."""
        timer = Timer(time.monotonic() + seconds, callback)
        if self._is_calling:
            self._made.append(timer)
        self._hang(timer)
        return timer

    def timeout(self) -> float:
        """Seconds until the next one is due, −1 (for ever, to epoll) if there is none."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return min(max(0.0, self._heap[0][0] - time.monotonic()), LONGEST_SECONDS) if self._heap else -1

    def run(self) -> None:
        """Call back all that are due."""
        now = time.monotonic()
        self._is_calling = True
        try:
            while self._heap and self._heap[0][0] <= now:
                timer = heapq.heappop(self._heap)[2]
                if timer.callback is not None:
                    self._called.append(timer)
                    timer.callback()
        finally:
            self._is_calling = False

    def clear(self) -> None:
        """Forget everything that is to come."""
        self._heap.clear()

    def committed(self) -> None:
        """What was called back is done."""
        self._called.clear()
        self._made.clear()

    def undone(self) -> None:
        """Call back again, at once, all that was called back in this batch, but for what was cancelled meanwhile."""
        for timer in self._made:
            timer.cancel()
        for timer in self._called:
            if timer.callback is not None:
                self._hang(timer)
        self.committed()

    def _hang(self, timer: Timer) -> None:
        heapq.heappush(self._heap, (timer.at_mono, next(self._count), timer))
