"""One question at a time that may never be answered, such as what a file is like whose server is gone: a thread asks it.

Nobody waits for the thread: who asked comes back for the answer. A question that hangs costs its thread, and no other is
asked until it is back.
"""

import signal
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Aside(Generic[Answer]):
    """Asks in a thread of its own."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []
        self._is_asked = False

    @property
    def is_asked(self) -> bool:
        """Whether a question is under way, that is until its answer is handed over."""
        return self._is_asked

    def ask(self, question: Callable[[], Answer]) -> None:
        """Begin to ask; `question` raises nothing. Does nothing while another is under way."""
        if self._is_asked:
            return
        self._is_asked = True

        def work() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            self._answers.append(question())

        # daemon: one that hangs must not keep the process from leaving
        threading.Thread(target=work, daemon=True).start()

    def answer(self) -> Answer | None:
        """Hand over the answer, once; None while there is none."""
        if not self._answers:
            return None
        self._is_asked = False
        return self._answers.pop()
