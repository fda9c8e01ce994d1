"""Why a job cannot give way, in words that follow `job 12` or `each of jobs 3 and 4`.

1. A setting or an option that would change it is named in brackets.
2. `{at}` stands for a moment that the refusal carries: who tells it knows the clock.
"""

from collections.abc import Callable, Iterable

from ..model import Refusal
from ..units import format_duration, format_of
from .words import joined, safe

# What keeps a job from giving way may be the driver's or the kernel's words.
LENGTH = 160

STARTING = "is starting"
JUST_STARTED = "has only just started"
ENDING = "is being asked to end"
NEVER = "never gives way (--give-way never)"
KEPT = "is left alone: its GPU is kept for a job that is before this one"
NOT_RESTARTABLE = "may not be restarted (-r)"
NO_ROOM_TO_END = "is paused, and would need for its end the memory that the job beside it uses"
FOR_ANOTHER = "would make room for a job that is before this one"
NO_PAUSE = "cannot be paused"
JUST_BACK = "was paused a moment ago and may be paused again {at} (min_return)"


def too_young(least_seconds: float, *, computes: bool) -> str:
    """It has not run for long enough to be ended."""
    if computes:
        return f"may be ended {{at}}, when it has run for {format_duration(least_seconds)} (min_run)"
    return f"ran for less than {format_duration(least_seconds)} before it was paused, and is not ended so soon (min_run)"


def too_slow(seconds: float, job_id: int) -> str:
    """It takes longer to end than the other waits."""
    return f"may take {format_duration(seconds)} to end (--signal), and job {job_id} gives up before (-w)"


def too_long(left_seconds: float, *, short_only: bool) -> str:
    """It may not be paused for as long as the other may run."""
    left = format_duration(left_seconds)
    if short_only:
        return f"has several CUDA processes: it may only be paused for a job with a time limit of {left} or less (-t)"
    return f"may be paused for only {left} more within a day (pause_limit)"


def holds(held: int, total: int) -> str:
    """It leaves no room beside it."""
    return f"holds {format_of(held, total)}"


def both(pause: Refusal, evict: Refusal) -> Refusal:
    """It can neither be paused nor ended; where that will pass, only when is told."""
    if pause.text == evict.text or pause.at_mono is not None:
        return pause
    return Refusal(pause.job_id, f"{pause.text} and {evict.text}", evict.at_mono)


def grouped(refusals: Iterable[Refusal], clock: Callable[[float], str]) -> list[tuple[list[int], str]]:
    """Return the sentences, each with all the jobs that it is true of."""
    found: dict[str, list[int]] = {}
    for job_id, text, at_mono in refusals:
        when = "later" if at_mono is None else clock(at_mono)
        found.setdefault(safe(text.replace("{at}", when), LENGTH), []).append(job_id)
    return [(job_ids, text) for text, job_ids in found.items()]


def sentence(job_ids: list[int], text: str) -> str:
    """Write `job 12 holds …`, `each of jobs 3 and 4 holds …`."""
    if len(job_ids) == 1:
        return f"job {job_ids[0]} {text}"
    named = [str(number) for number in job_ids]
    if len(named) > 4:
        named = [*named[:3], f"{len(named) - 3} more"]
    return f"each of jobs {joined(named)} {text}"
