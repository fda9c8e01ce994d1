"""Waiting for something to become true: the only place in all tests that sleeps."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

# Short enough not to be felt, long enough that 2 cores do not spend themselves on looking.
PAUSE_SECONDS = 0.02


def wait_until(condition: Callable[[], Found], what: str, within: float = 30) -> Found:
    """Look until `condition()` is truthy and return what it gave; AssertionError naming `what` after `within` seconds.

    It always looks once more after the deadline: on a busy machine the sleep itself may be what took so long.
    """
    deadline = time.monotonic() + within
    while True:
        late = time.monotonic() >= deadline
        found = condition()
        if found:
            return found
        if late:
            raise AssertionError(f"waited {within:g} s in vain for {what}; last seen: {found!r}")
        time.sleep(PAUSE_SECONDS)


def let_pass(seconds: float, why: str) -> None:
    """Wait for nothing but time, where time is what the test is about or a thing that must not happen would need it."""
    over = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= over, why, seconds + 1)
