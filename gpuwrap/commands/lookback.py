"""history --by, --day and --plot: what has been, summed up or drawn.

Jobs that have not ended count with what they had so far.
"""

import json
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from ..accounts.days import a_day_before, day_of, parts_by_day
from ..accounts.stretches import Present, Stretch
from ..accounts.sums import sums_by
from ..charts import HEADS, WIDTH, day_as_lines, sums_as_table
from ..errors import GpurunError, UsageError
from ..folding import head_of
from ..listed import Listed
from ..listing import command_of
from ..model import Job
from ..options import nearest
from ..state.chronicle import Chronicle, Past, present
from ..tables import Screen, terminal_width
from ..units import parse_run, split_jobs
from .asking import Given, World

PICTURES = (".svg", ".png")
# What is asked for by which option.
ASKED = {"sums": "--by", "day": "--day", "plot": "--plot"}


def looks_back(given: Given) -> bool:
    """Whether `history` is asked for a sum or a picture."""
    return any(key in given for key in ASKED)


def look_back(given: Given, operands: list[str], since_at: float | None) -> int:
    """Print the sum or the picture; exit 1 if a picture was asked for that cannot be made."""
    chosen = [word for key, word in ASKED.items() if key in given]
    if len(chosen) > 1 or "lines" in given:
        raise UsageError(f"{chosen[0]} goes without {chosen[1] if len(chosen) > 1 else '--lines'}")
    now = present()
    if "sums" in given:
        return _print_sums(given, operands, since_at, now)
    if "plot" in given:
        return _plot(given, operands, since_at, now)
    if since_at is not None:
        raise UsageError("--day goes without --since: it is the last day")
    return _print_day(given, operands, now)


def _read(given: Given, operands: list[str], since_at: float | None, now: Present) -> tuple[World, Past]:
    world = World(given)
    if world.folder is None or world.reader is None:
        return world, Past([], {}, {})
    user = given.get("user")
    chronicle = Chronicle(world.folder)
    try:
        jobs = chronicle.since(since_at, user if isinstance(user, str) else None)
        jobs = [job for job in jobs if not operands or any(_is_named(job, word) for word in operands)]
        return world, chronicle.past(jobs, now, since_at)
    finally:
        chronicle.close()


def _is_named(job: Job, words: str) -> bool:
    for word in split_jobs(words):
        run = parse_run(word)
        if run is None:
            if job.name is not None and fnmatchcase(job.name, word):
                return True
        elif run[0] <= job.id <= run[1]:
            return True
    return False


# --- sums -------------------------------------------------------------------------------------------------------


def _keys(by: str) -> Callable[[Job, Stretch | None], Iterable[tuple[str, float]]]:
    if by == "user":
        return lambda job, _stretch: [(job.user, 1.0)]
    if by == "name":
        return lambda job, _stretch: [(job.name or " ".join(head_of(Listed.of(job).words)), 1.0)]
    return lambda job, stretch: (
        [(day_of(job.ended_at or job.started_at or job.submitted_at), 1.0)] if stretch is None else parts_by_day(stretch)
    )


def _print_sums(given: Given, operands: list[str], since_at: float | None, now: Present) -> int:
    by = str(given["sums"])
    if by not in HEADS:
        near = nearest(by, list(HEADS))
        raise UsageError(f"--by {by}: " + (f"did you mean {near}?" if near else "user, name or day"))
    _world, past = _read(given, operands, since_at, now)
    sums = sums_by(past.jobs, past.stretches, past.waits, _keys(by))
    if by == "day":
        sums.sort(key=lambda each: each.key)
    if "json" in given:
        print(json.dumps({"by": by, "sums": [each.as_json(by) for each in sums]}))
    else:
        print("\n".join(sums_as_table(sums, by, Screen.of_stdout())) if sums else "no jobs")
    return 0


# --- pictures ---------------------------------------------------------------------------------------------------


def _gpus_here(world: World) -> list[int]:
    """The GPUs that there are, as far as an arbiter that is up tells; without one, those that jobs had are all we know."""
    try:
        return [gpu["index"] for gpu in world.ask("gpus")] if world.has_arbiter() else []
    except GpurunError:
        return []


def _names(past: Past) -> dict[int, str]:
    return {job.id: command_of(Listed.of(job)) for job in past.jobs}


def _print_day(given: Given, operands: list[str], now: Present) -> int:
    begun_at = a_day_before(now)
    world, past = _read(given, operands, begun_at, now)
    stretches = [each for its in past.stretches.values() for each in its if each.gpus]
    gpus = _gpus_here(world)
    if "json" in given:
        print(json.dumps({"begun_at": begun_at, "ended_at": now.at, "gpus": gpus, "bars": [
            {"job": each.job_id, "gpus": each.gpus, "begun_at": each.begun_at, "ended_at": each.ended_at,
             "paused": each.paused, "runs": each.is_open} for each in stretches
        ]}))  # fmt: skip
        return 0
    if not stretches and not gpus:
        print("no jobs had a GPU on the last day")
        return 0
    width = terminal_width() or WIDTH
    sys.stdout.write("".join(
        f"{line}\n" for line in day_as_lines(stretches, gpus, _names(past), begun_at, now.at, min(width, 200))
    ))  # fmt: skip
    return 0


def _plot(given: Given, operands: list[str], since_at: float | None, now: Present) -> int:
    path = str(given["plot"])
    if not path.endswith(PICTURES):
        raise UsageError(f"--plot {path}: FILE.svg or FILE.png")
    begun_at = a_day_before(now) if since_at is None else since_at
    world, past = _read(given, operands, begun_at, now)
    from ..exports.picture import draw_picture

    draw_picture(path, past, _gpus_here(world), _names(past), begun_at, now.at)
    return 0
