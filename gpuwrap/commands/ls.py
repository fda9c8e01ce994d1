"""ls: jobs in the order in which they are served, and why they wait where that is news.

1. On a terminal alike jobs share a row, and a line of totals stands on top; where all of it has no room, it stands below too.
2. In a pipe each job has one line, and nothing is folded or cut, so that grep finds it and `wc -l` counts. What a program reads
   is --json: these columns are for people, and may change.
3. Jobs named on the command line each have a row, and are explained in full.

Two thousand rows are there before anybody wonders: what only --json and --watch need is imported for them alone.
"""

import gc
import os
import sys

from ..clocks import Now
from ..errors import NoSuchJob, UsageError
from ..folding import fold, in_order
from ..listed import Listed
from ..listing import jobs_as_table, news, totals, whole_reasons
from ..tables import Screen
from ..widths import cut
from .asking import Given, World

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Protocol

    from ..listing import Elsewhere
    from ..model import Job

    class OtherQueue(Protocol):
        """Jobs of this user in another queue."""

        def rows(self) -> list[Elsewhere]:
            """Return what is shown of them in the table."""

        def as_json(self) -> list[dict[str, Any]]:
            """Return the same for programs."""


def main(given: Given, operands: list[str], other: "OtherQueue | None" = None) -> int:
    """List jobs; exit 1 if a job was named that is none. `other` is a queue that is shown with this machine's."""
    world = World(given)
    if "watch" in given:
        return _watch(world, given, operands, other)
    gc.disable()  # a third of the time with thousands of jobs, and we are gone in a moment
    world.repair()
    if "json" in given:
        missing = _print_json(world, given, operands, other)
    else:
        world.ask_line()
        jobs, missing = find(world, given, operands)
        screen = Screen.of_stdout()
        lines = table(world, jobs, bool(operands), screen, other)
        if screen.width is not None and not operands and len(lines) >= _height():
            lines += lines[1::-1] if len(jobs) > 1 else lines[:1]  # header and totals have scrolled away
        sys.stdout.write("".join(f"{line}\n" for line in lines))  # at once: a print for each is a write for each
    sys.stdout.flush()
    for err in missing:
        sys.stderr.write(f"gpurun: ls: {err.text}\n")
    return 1 if missing else 0


def find(world: World, given: Given, operands: list[str]) -> tuple[list[Listed], list[NoSuchJob]]:
    """Return the jobs asked for, and an error for each word that names none."""
    if operands:
        named, missing = world.select(operands, ended="all" in given)
        return [Listed.of(job) for job in named if _is_wanted(job.user, given)], missing
    jobs = world.reader.listed(ended="all" in given) if world.reader is not None else []
    return [job for job in jobs if _is_wanted(job.user, given)], []


def _is_wanted(user: str, given: Given) -> bool:
    return "user" not in given or user == given["user"]


def table(world: World, jobs: list[Listed], named: bool, screen: Screen, other: "OtherQueue | None" = None) -> list[str]:
    """Return the lines to show: of several jobs on a terminal totals and a header, in a pipe the header alone; then rows."""
    elsewhere = [] if other is None else other.rows()
    if not jobs and not elsewhere:
        return [] if named else [_no_jobs(world)]
    now, standing = Now.here(), world.line()
    if named:
        fetch = world.explain(jobs)
        rows = [[job] for job in jobs]
        notes = whole_reasons(rows, fetch(), how_far(world, jobs), now)
        return jobs_as_table(rows, standing, notes, now, screen, elsewhere)
    rows = [[job] for job in in_order(jobs, standing)] if screen.width is None else fold(jobs, standing)
    lines = jobs_as_table(rows, standing, news(rows, standing, how_far(world, jobs), now), now, screen, elsewhere)
    return lines if screen.width is None or len(jobs) < 2 else [cut(totals(jobs), screen.width), *lines]


def how_far(world: World, jobs: "Sequence[Listed]") -> dict[int, str]:
    """Say how far the sweeps are of which rows have not ended, by the number of their first row."""
    sweeps = {job.sweep: None for job in jobs if job.sweep is not None and not job.has_ended}
    if not sweeps or world.reader is None:
        return {}
    return {sweep: progress.words() for sweep, progress in world.reader.progress(sweeps).items()}


def _height() -> int:
    try:
        return os.get_terminal_size(1).lines or 24
    except OSError:
        return 24


def _no_jobs(world: World) -> str:
    """Say that there are none to show; where there are none at all, of simulated GPUs that it is their world."""
    is_empty = world.reader is None or not world.reader.has_live()
    return f"no jobs on simulated GPUs ({world.sim})" if world.sim is not None and is_empty else "no jobs"


def _print_json(world: World, given: Given, operands: list[str], other: "OtherQueue | None") -> list[NoSuchJob]:
    """Print whole records; returns an error for each word that names none."""
    import json

    from ..render import job_as_json

    jobs: list[Job] = []
    missing: list[NoSuchJob] = []
    if operands:
        jobs, missing = world.select(operands, ended="all" in given)
    elif world.reader is not None:
        jobs = world.reader.jobs(ended="all" in given)
    jobs = [job for job in jobs if _is_wanted(job.user, given)]
    places = world.line(bare=True).places
    why = world.explain(jobs)()
    found: dict[str, object] = {"jobs": [job_as_json(job, why.get(job.id), places.get(job.id)) for job in jobs]}
    if other is not None:
        found["slurm"] = other.as_json()
    print(json.dumps(found))
    return missing


def _watch(world: World, given: Given, operands: list[str], other: "OtherQueue | None") -> int:
    if "json" in given:
        raise UsageError("--watch goes without --json")
    from .browsing import Page
    from .watching import require_terminal, run_verb, watch

    require_terminal("--watch: ")

    def page(screen: Screen) -> Page:
        world.refresh()
        world.ask_line()
        jobs, missing = find(world, given, operands)
        lines = [cut(err.text, screen.width or 80) for err in missing]
        return Page(table(world, jobs, bool(operands), screen, other), lines)

    watch(page, "gpurun ls", run_verb(world.sim), "--watch: ")
    return 0
