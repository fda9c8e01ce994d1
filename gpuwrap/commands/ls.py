"""ls: jobs, and why they wait.

Jobs named on the command line each have a row; otherwise alike ones share one, and only the first of them is explained.
"""

import gc
import json
import os
import sys
import time

from ..errors import NoSuchJob, UsageError
from ..model import Job
from ..render import fold, job_as_json, jobs_as_table
from ..tables import Screen
from ..widths import cut
from .asking import Given, World


def main(given: Given, operands: list[str]) -> int:
    """List jobs; exit 1 if a job was named that is none."""
    world = World(given)
    if "watch" in given:
        return _watch(world, given, operands)
    gc.disable()  # a third of the time with thousands of jobs, and we are gone in a moment
    world.repair()
    jobs, missing = find(world, given, operands)
    if "json" in given:
        why = world.explain(jobs)()
        print(json.dumps({"jobs": [job_as_json(job, why.get(job.id)) for job in jobs]}))
    else:
        lines = table(world, jobs, bool(operands), Screen.of_stdout())
        sys.stdout.write("".join(f"{line}\n" for line in lines))  # at once: a print for each is a write for each
    sys.stdout.flush()
    for err in missing:
        sys.stderr.write(f"gpurun: ls: {err.text}\n")
    return 1 if missing else 0


def find(world: World, given: Given, operands: list[str]) -> tuple[list[Job], list[NoSuchJob]]:
    """Return the jobs asked for, and an error for each word that names none."""
    missing: list[NoSuchJob] = []
    if operands:
        jobs, missing = world.select(operands, everything=False)
    elif world.reader is not None:
        jobs = world.reader.jobs(ended="all" in given)
    else:
        jobs = []
    user = given.get("user")
    return [job for job in jobs if user is None or job.user == user], missing


def table(world: World, jobs: list[Job], named: bool, screen: Screen) -> list[str]:
    """Return the lines to show."""
    if not jobs:
        return [] if named else ["no jobs"]
    rows = [[job] for job in jobs] if named else fold(jobs)
    reasons = world.explain([row[0] for row in rows], listed=not named)
    return jobs_as_table(rows, reasons, time.time(), screen)


def _watch(world: World, given: Given, operands: list[str]) -> int:
    if "json" in given:
        raise UsageError("--watch goes without --json")
    if not os.isatty(1):
        raise UsageError("--watch: needs a terminal on standard output")
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise UsageError("--watch: needs a terminal that can move its cursor: TERM is dumb or not set")
    from .watching import watch

    def lines(screen: Screen) -> list[str]:
        world.refresh()
        jobs, missing = find(world, given, operands)
        return [*table(world, jobs, bool(operands), screen), *(cut(err.text, screen.width or 80) for err in missing)]

    watch(lines, "gpurun ls")
    return 0
