"""Looks that nobody waits for: made by threads, because a driver call may never return.

1. The caller's thread only puts a request into a queue and reads a descriptor.
2. One coordinator thread makes each look, by a deadline; calls that may hang are made by walkers. One walker asks all
   GPUs in turn, since threads that fight for Python's lock at every call need twice as long [run]; where it gets stuck,
   another one goes on with the rest. So what hangs costs a thread and TURN_SECONDS, and hides nothing.
3. What is stuck is not asked again before its call is back, and what that late call brings is not used.
4. A walker that cannot be started is missed like one that is stuck; without the coordinator no look can begin.
5. Between looks every thread sleeps in the kernel. Signals go to other threads: all are blocked in these.
"""

import os
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from .devices import Look

TURN_SECONDS = 0.005

Question = Callable[[], object]
Work = deque[tuple[Hashable, Question]]


class Looker:
    """The Devices protocol for GPUs whose driver may hang; a subclass says how to `look` and how to `let_go`."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._guard = threading.Lock()  # the descriptor's number may be somebody else's after close
        self._closed = False
        self._under_way = False
        self._over = Look((), 0.0)
        self._wanted: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._coordinator: threading.Thread | None = None
        # Of the coordinator and its walkers
        self._walkers = 0
        self._walks: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Hashable, object]] = queue.SimpleQueue()
        self._asked: set[Hashable] = set()

    def begin_look(self) -> None:
        """Start a look. Does nothing while one is under way, that is until it is handed over.

        Raises RuntimeError if no thread can be had for it.
        """
        if self._under_way or self._closed:
            return
        if self._coordinator is None:
            self._coordinator = _start(self._coordinate)
        self._under_way = True
        self._wanted.put(time.monotonic())

    def fileno(self) -> int:
        """Return the descriptor that is readable once a look is over."""
        return self._descriptor

    def finish_look(self) -> Look:
        """Return the look that is over. Raises BlockingIOError if none is."""
        os.eventfd_read(self._descriptor)
        self._under_way = False
        return self._over

    def close(self) -> None:
        """Let go of the driver, in the background; a call that hangs is left behind."""
        with self._guard:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)
                self._wanted.put(None)

    # For subclasses; only in the coordinator thread

    def look(self, begun_mono: float) -> Look:
        """Make a look: returns in time, whatever the driver does."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Close the driver. May hang."""

    def ask(self, questions: Mapping[Hashable, Question], deadline_mono: float) -> dict[Hashable, Any]:
        """Call all questions; their answers, or the exceptions they raised, by key.

        Missing: what is stuck since an earlier look, and what did not answer by the deadline.
        """
        work = deque((key, question) for key, question in questions.items() if key not in self._asked)
        missing = {key for key, _ in work}
        self._asked |= missing
        answers: dict[Hashable, Any] = {}
        turn_mono = 0.0
        while missing and (now_mono := time.monotonic()) < deadline_mono:
            if work and now_mono >= turn_mono:
                self._send_walker(work)
                turn_mono = now_mono + TURN_SECONDS
            item = self._take(min(turn_mono, deadline_mono) if work else deadline_mono)
            if item and item[0] in missing:
                missing.remove(item[0])
                answers[item[0]] = item[1]
                turn_mono = time.monotonic() + TURN_SECONDS
        self._asked -= _empty(work)
        return answers

    def wait_for(self, key: Hashable, deadline_mono: float) -> bool:
        """Wait for something that was asked, by an earlier look perhaps; False if it is still stuck."""
        while key in self._asked and time.monotonic() < deadline_mono:
            self._take(deadline_mono)
        return key not in self._asked

    def _take(self, until_mono: float) -> tuple[Hashable, object] | None:
        try:
            item = self._answers.get(timeout=max(0.0, until_mono - time.monotonic()))
        except queue.Empty:
            return None
        self._asked.discard(item[0])
        return item

    def _send_walker(self, work: Work) -> None:
        if self._walkers <= len(self._asked) - len(work):  # all may be stuck
            try:
                _start(self._walk)
            except RuntimeError:
                return  # tried again in a moment, until the look is over
            self._walkers += 1
        self._walks.put(work)

    def _walk(self) -> None:
        while (work := self._walks.get()) is not None:
            while work:
                try:
                    key, question = work.popleft()
                except IndexError:  # another walker took it
                    break
                try:
                    answer = question()
                except Exception as err:
                    answer = err
                self._answers.put((key, answer))

    def _coordinate(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (begun_mono := self._wanted.get()) is not None:
            self._take_late_answers()
            try:
                self._over = self.look(begun_mono)
            except Exception as err:  # a look must be over, or the arbiter would wait for ever
                self._over = Look((), begun_mono, f"cannot look at the GPUs: {err!r}")
            with self._guard:
                if not self._closed:
                    os.eventfd_write(self._descriptor, 1)
        self._take_late_answers()
        for _ in range(self._walkers):
            self._walks.put(None)
        if not self._asked:
            self.let_go()

    def _take_late_answers(self) -> None:
        while not self._answers.empty():
            self._take(0.0)


def _start(work: Callable[[], None]) -> threading.Thread:
    # daemon: a stuck call must not keep the process from leaving
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _empty(work: Work) -> set[Hashable]:
    """Take what no walker has begun; returns its keys."""
    keys = set()
    while work:
        try:
            keys.add(work.popleft()[0])
        except IndexError:  # a walker was quicker
            break
    return keys
