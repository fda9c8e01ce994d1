"""Where a job stands in an order that goes by what jobs need, and between when it is expected to start: in sentences.

A range or nothing: of whom nothing is known, nothing is said, and one number is never told.
"""

from collections.abc import Callable

from ..model import Basis, Expected, Job, View
from ..units import format_duration
from .ranks import Ranks
from .starting import Start, expected_starts
from .words import job_list, ordinal


def outlook(view: View, job: Job, place: int, before: list[int], now_mono: float, clock: Callable[[float], str]) -> list[str]:
    """Say of a waiting job what its place rests on, and when it is expected to start.

    `before` are those before it in line; `clock` writes a moment of the clock that decides.
    """
    ranks = Ranks(view, now_mono)
    expected = view.expected.get(job.id)
    if not ranks.by_need or expected is None:
        return []
    if ranks.is_due(job):
        waited = now_mono - (job.submitted_mono or now_mono)
        return [f"nobody passes it any more: it has waited for {format_duration(waited)}", *_start(view, job, now_mono, clock)]
    told = f"it is {ordinal(place)}: {needs(expected)}"
    if before:
        told += f"; before it: {job_list(before)}{_why_before(ranks, job, view, before)}"
    return [told, *_start(view, job, now_mono, clock)]


def told_starts(view: View, now_mono: float) -> dict[int, float]:
    """Return in how many seconds jobs are expected to start, roughly: of those of whom anything is known."""
    if not view.expected:
        return {}
    known = {number for number, each in view.expected.items() if each.basis is not Basis.SO_FAR}
    return {number: start.middle() for number, start in expected_starts(view, now_mono).items() if number in known}


def needs(expected: Expected) -> str:
    """Say what a job is expected to need still, and by what."""
    seconds = f"expected to need {format_duration(expected.seconds)}"
    low, high = format_duration(expected.low), format_duration(expected.high)
    took = f"took {low} to {high}" if low != high else f"took {low}"
    match expected.basis:
        case Basis.LIMIT:
            return f"{seconds} (its time limit)"
        case Basis.GUESS:
            return f"{seconds} (--expect)"
        case Basis.SWEEP:
            return f"{seconds} ({_count(expected.runs, 'row')} of its sweep {took})"
        case Basis.COMMAND:
            return f"{seconds} ({_count(expected.runs, 'run')} of its command {took})"
        case Basis.OWNER:
            return f"{seconds} ({_count(expected.runs, 'job')} before it {took})"
        case _:
            return "nothing is known of what it needs"


def start_words(start: Start, now_mono: float, clock: Callable[[float], str]) -> str:
    """Say between when a job is expected to start."""
    early, late = clock(now_mono + start.earliest), clock(now_mono + start.latest)
    return f"expected to start by {late}" if start.earliest < 60.0 else f"expected to start between {early} and {late}"


def _start(view: View, job: Job, now_mono: float, clock: Callable[[float], str]) -> list[str]:
    expected = view.expected[job.id]
    start = expected_starts(view, now_mono).get(job.id)
    if start is None or expected.basis is Basis.SO_FAR:
        return []
    return [f"{start_words(start, now_mono, clock)}, by what these jobs and those before them took"]


def _why_before(ranks: Ranks, job: Job, view: View, before: list[int]) -> str:
    """Say why they are, where one reason holds of all."""
    jobs = {each.id: each for each in view.jobs}
    equals = [jobs[number] for number in before if number in jobs and jobs[number].priority == job.priority]
    if len(equals) < len(before):
        return ""
    if all(ranks.is_due(each) for each in equals):
        return ", which nobody passes any more"
    return ", expected to need less" if all(0 <= ranks.rank(each) < ranks.rank(job) for each in equals) else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
