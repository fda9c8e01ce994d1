"""From a job's moves to the stretches of time in which it had GPUs: computing, or standing still and keeping them.

1. How long a stretch was is reckoned on the clock that does not jump; where it lies on the calendar, by dates, is for showing.
2. On which GPUs it was says the move that granted them: a job that was run again may have had others before.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

COMPUTING, STILL = ("running", "stopping"), ("paused", "suspended")
# Dates and the clock that decides may differ by so much before the dates are taken to have jumped.
SLACK_SECONDS = 5.0


class Move(NamedTuple):
    """A job's change of state; `mono` is of the boot in which the job was registered, None if that is not known."""

    job_id: int
    at: float
    mono: float | None
    state: str
    why: str


class Stretch(NamedTuple):
    """A time in which a job had GPUs: it computed, or stood still (`paused`). `is_open`: it has not ended.

    `seconds` is how long it was; `begun_at` and `ended_at` are where it lies on the calendar.
    """

    job_id: int
    begun_at: float
    ended_at: float
    seconds: float
    gpus: tuple[int, ...]
    paused: bool = False
    is_open: bool = False

    def within(self, since_at: float, until_at: float) -> "Stretch | None":
        """Return the part that lies between two dates, None if none does."""
        begun, ended = max(self.begun_at, since_at), min(self.ended_at, until_at)
        if ended <= begun and not (self.begun_at == self.ended_at and since_at <= self.begun_at < until_at):
            return None
        length = self.ended_at - self.begun_at
        seconds = self.seconds * (ended - begun) / length if length > 0 else self.seconds
        is_open = self.is_open and ended == self.ended_at
        return self._replace(begun_at=begun, ended_at=ended, seconds=seconds, is_open=is_open)


class Present(NamedTuple):
    """This moment on both clocks, and for how long the machine was suspended since its boot."""

    at: float
    mono: float
    suspended_seconds: float


def stretches_of(moves: Iterable[Move], now: Present, *, of_this_boot: bool = True) -> Iterator[Stretch]:
    """Yield the stretches of one job from its moves in order.

    What has not ended lasts until now; of a job of an earlier boot nobody knows, and it is left out.
    """
    gpus: tuple[int, ...] = ()
    before: Move | None = None
    for move in moves:
        if before is not None and (stretch := _between(before, move, gpus, now)) is not None:
            yield stretch
        if move.state == "granted":
            gpus = granted_by(move.why)
        before = move
    if before is not None and of_this_boot and before.state in COMPUTING + STILL:
        here = Move(before.job_id, now.at, now.mono, "", "")
        stretch = _between(before, here, gpus, now)
        if stretch is not None:
            yield stretch._replace(is_open=True)


def _between(begun: Move, ended: Move, gpus: tuple[int, ...], now: Present) -> Stretch | None:
    if begun.state not in COMPUTING + STILL:
        return None
    by_dates = ended.at - begun.at
    seconds = by_dates if begun.mono is None or ended.mono is None else ended.mono - begun.mono
    seconds = max(0.0, seconds)
    begun_at, ended_at = begun.at, min(ended.at, now.at)
    if not -SLACK_SECONDS <= by_dates - seconds <= SLACK_SECONDS + now.suspended_seconds or begun_at > ended_at:
        begun_at = ended_at - seconds  # the wall clock was set meanwhile
    return Stretch(begun.job_id, begun_at, ended_at, seconds, gpus, begun.state in STILL)


def granted_by(why: str) -> tuple[int, ...]:
    """Read which GPUs a move granted: `granted GPU 0`, `granted GPUs 0, 1`; none of another text."""
    _word, _, numbers = why.partition(" GPU")
    parts = numbers.removeprefix("s").replace(",", " ").split()
    return tuple(int(part) for part in parts if part.isdecimal()) if why.startswith("granted GPU") else ()
