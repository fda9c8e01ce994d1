"""Questions of the arbiter to systemd, which answers when it likes: asked by a subprocess, and nobody waits."""

from collections.abc import Callable, Sequence

from ..host import bus
from .bell.socket import Watcher
from .timers import Timers

ANSWER_SECONDS = 10.0


class Errands:
    """Sends for answers; what is to be done with one is called back inside a wake, with what was answered or who refused."""

    def __init__(self, watcher: Watcher, timers: Timers) -> None:
        self._watcher = watcher
        self._timers = timers

    def ask(self, words: Sequence[str], then: Callable[[str | bus.Refused], None]) -> None:
        """Ask, and call back; at once if it cannot be asked."""
        try:
            question = bus.Question(*words)
        except bus.Refused as refused:
            then(refused)
            return
        fd = question.fileno()

        def over() -> None:
            timer.cancel()
            self._watcher.unwatch(fd)
            try:
                answer = question.answer()
            except bus.Refused as refused:
                then(refused)
            else:
                then(answer)

        def late() -> None:
            question.give_up()
            over()

        timer = self._timers.after(ANSWER_SECONDS, late)
        self._watcher.watch(fd, lambda _mask: over())
