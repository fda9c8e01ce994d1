"""Days on the calendar of here, and the last day as bars: a lane for those that had a GPU one after the other."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from .stretches import Present, Stretch

DAY_SECONDS = 86400.0


class Bar(NamedTuple):
    """A job on one GPU, from its first stretch there to its last."""

    job_id: int
    stretches: tuple[Stretch, ...]

    @property
    def begun_at(self) -> float:
        """When it begins."""
        return self.stretches[0].begun_at

    @property
    def ended_at(self) -> float:
        """When it ends."""
        return self.stretches[-1].ended_at


def lanes(stretches: Iterable[Stretch], gpus: Iterable[int]) -> dict[int, list[list[Bar]]]:
    """Put the jobs of each GPU into as few lanes as it takes to show none above another; a GPU without any has no lane.

    `gpus` are those that are told in any case.
    """
    found: dict[int, dict[int, list[Stretch]]] = {index: {} for index in gpus}
    for stretch in stretches:
        for index in stretch.gpus:
            found.setdefault(index, {}).setdefault(stretch.job_id, []).append(stretch)
    return {index: _lanes_of(by_job) for index, by_job in sorted(found.items())}


def _lanes_of(by_job: dict[int, list[Stretch]]) -> list[list[Bar]]:
    placed: list[list[Bar]] = []
    bars = [Bar(job_id, tuple(sorted(its, key=lambda each: each.begun_at))) for job_id, its in by_job.items()]
    for bar in sorted(bars, key=lambda each: (each.begun_at, each.job_id)):
        lane = next((lane for lane in placed if lane[-1].ended_at <= bar.begun_at), None)
        if lane is None:
            placed.append([bar])
        else:
            lane.append(bar)
    return placed


def busy_seconds(stretches: Sequence[Stretch]) -> float:
    """Return for how long at least one of some stretches on one GPU computed."""
    total, until = 0.0, float("-inf")
    for stretch in sorted((each for each in stretches if not each.paused), key=lambda each: each.begun_at):
        total += max(0.0, stretch.ended_at - max(stretch.begun_at, until))
        until = max(until, stretch.ended_at)
    return total


def a_day_before(now: Present) -> float:
    """Return the date a day before."""
    return now.at - DAY_SECONDS


def day_of(at: float) -> str:
    """Return the day of here in which a moment lies: `2026-11-30`."""
    return datetime.fromtimestamp(at).date().isoformat()


def parts_by_day(stretch: Stretch) -> Iterator[tuple[str, float]]:
    """Yield the days in which a stretch lies, and which part of it lies in each."""
    length = stretch.ended_at - stretch.begun_at
    if length <= 0:
        yield day_of(stretch.begun_at), 1.0
        return
    begun = stretch.begun_at
    while begun < stretch.ended_at:
        midnight = datetime.combine(datetime.fromtimestamp(begun).date() + timedelta(days=1), datetime.min.time())
        ended = min(stretch.ended_at, max(midnight.timestamp(), begun + 1))  # a clock that goes back has no day for ever
        yield day_of(begun), (ended - begun) / length
        begun = ended
