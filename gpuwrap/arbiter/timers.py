"""What is to be done later: callbacks by monotonic time, in one heap."""

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

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once, `seconds` from now."""
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._heap, (timer.at_mono, next(self._count), timer))
        return timer

    def timeout(self) -> float:
        """Seconds until the next one is due, −1 (for ever, to epoll) if there is none."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return min(max(0.0, self._heap[0][0] - time.monotonic()), LONGEST_SECONDS) if self._heap else -1

    def run(self) -> None:
        """Call back all that are due."""
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            callback = heapq.heappop(self._heap)[2].callback
            if callback is not None:
                callback()
