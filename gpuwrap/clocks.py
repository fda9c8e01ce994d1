"""The two clocks, and the only place that asks what time it is on the wall.

1. What is decided or measured (limits, pauses, ages, rests) is reckoned on CLOCK_MONOTONIC, the clock of `time.monotonic`.
   Nobody can set it, and it stands still while the machine is suspended: what computes nothing uses up nobody's time. It
   counts from the boot, so what is written down of it (`_mono`) means something only to the boot whose id stands beside it.
2. Wall time (`_at`) is for dates. It may jump by years (the first step of NTP, a battery that is empty), so two such times are
   neither compared nor subtracted, but to show what an earlier boot has left.

Lists of jobs read this module: it imports nothing but the clocks.
"""

from time import CLOCK_BOOTTIME, clock_gettime, monotonic
from time import time as wall_at

__all__ = ["Now", "boot_id", "file_age", "span", "suspended_seconds", "wall_at"]

# A date, and the same moment on the clock that decides, if that is known.
Moment = tuple[float, float | None]

_boot_ids: list[str] = []


def boot_id() -> str:
    """Return the kernel's id of this boot."""
    if not _boot_ids:
        with open("/proc/sys/kernel/random/boot_id") as file:
            _boot_ids.append(file.read().strip())
    return _boot_ids[0]


class Now:
    """This moment on both clocks: a list is drawn as of one."""

    __slots__ = ("at", "boot_id", "mono")

    def __init__(self, at: float, mono: float, boot: str) -> None:
        self.at, self.mono, self.boot_id = at, mono, boot

    @classmethod
    def here(cls) -> "Now":
        """Look at both."""
        return cls(wall_at(), monotonic(), boot_id())

    @property
    def ahead(self) -> float:
        """How many seconds the clock that decides is ahead of the wall's: many fewer than none."""
        return self.mono - self.at

    def since(self, at: float, mono: float | None, boot: str) -> float:
        """Return the seconds since a moment of some boot; by the dates if that was another."""
        return self.at - at if mono is None or boot != self.boot_id else self.mono - mono

    def at_before(self, seconds: float) -> float:
        """Return the date so many seconds ago, as the wall's clock goes now."""
        return self.at - seconds


def span(begun: Moment, ended: Moment) -> float:
    """Return the seconds between two moments of one job; by their dates where one of them was in another boot."""
    (begun_at, begun_mono), (ended_at, ended_mono) = begun, ended
    return max(0.0, ended_at - begun_at if begun_mono is None or ended_mono is None else ended_mono - begun_mono)


def suspended_seconds() -> float:
    """Return for how long the machine was suspended since its boot: by so much the kernel's clock of starts is ahead."""
    return clock_gettime(CLOCK_BOOTTIME) - monotonic()


def file_age(changed_at: float) -> float:
    """Return the seconds since a file was changed, as its date has it: a file knows no other clock."""
    return wall_at() - changed_at
