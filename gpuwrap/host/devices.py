"""What every kind of GPU host offers: the driver's GPUs (`gpus`) and simulated ones (`simulated`).

A look is asked for and comes back later, so that a driver that hangs cannot stop the arbiter:

    devices.begin_look()        returns at once
    devices.fileno()            becomes readable when the look is over
    devices.finish_look()       hands it over and makes fileno() unreadable again
"""

from dataclasses import dataclass
from typing import Protocol

from ..model import GpuSample


@dataclass(frozen=True, slots=True)
class Look:
    """All GPUs at one moment.

    `begun_mono`: everything in it was read after this (time.monotonic()). `fault`: no GPU can be had at all and why (no
    driver, driver newer than its library); `samples` are then those seen before, each with a fault, if there were any.
    `pending`: the driver has never answered yet, a later look may tell more (initialising takes seconds per GPU without
    persistence mode [NVIDIA, driver persistence]).
    """

    samples: tuple[GpuSample, ...]
    begun_mono: float
    fault: str | None = None
    pending: bool = False


class Devices(Protocol):
    """The GPUs of this machine. One look at a time; none blocks its caller."""

    def begin_look(self) -> None:
        """Start a look; over after at most a few seconds, whatever the driver does. Does nothing while one is under way.

        Raises RuntimeError if it cannot be begun for now.
        """

    def fileno(self) -> int:
        """Return the descriptor that is readable once a look is over."""

    def finish_look(self) -> Look:
        """Return the look that is over. Raises BlockingIOError if none is."""

    def close(self) -> None:
        """Let go of the driver."""
