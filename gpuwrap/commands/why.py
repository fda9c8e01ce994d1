"""why: what keeps jobs waiting, in sentences, and what would help."""

import os
import sys
from textwrap import fill

from ..clocks import Now
from ..errors import SOME_FAILED, GpurunError, NoSuchJob
from ..lifecycle import IN_LINE, JobState
from ..model import Job
from ..policy.words import named_command, safe
from ..render import state_words
from ..tables import terminal_width
from ..turns import before
from ..units import format_duration
from .asking import Given, World, my_name


def main(given: Given, operands: list[str]) -> int:
    """Explain jobs; without a word one's own first waiting one. Exit 1 if none waits, or a word names none."""
    world = World(given)
    world.repair()
    missing: list[NoSuchJob] = []
    if operands:
        jobs, missing = world.select(operands)
    else:
        jobs = [_own_first(world)]
    for place, job in enumerate(jobs):
        if place:
            print()
        _explain(world, job)
        _tell_progress(world, job)
    sys.stdout.flush()
    for err in missing:
        sys.stderr.write(f"gpurun: why: {err.text}\n")
    return SOME_FAILED if missing else 0


def _explain(world: World, job: Job) -> None:
    if job.state not in IN_LINE:
        print(_not_waiting(job))
        told = world.explain([job])().get(job.id)
        if told is not None:
            print("; ".join([told[1], *told[2]]) + ".")
        return
    told = world.ask("why", job=job.id)
    if told is None:
        print(f"job {job.id} ({named_command(job)}) waits: the GPUs are just being looked at")
        return
    sentences, helps = told
    width = terminal_width()
    for text in sentences:
        print(_wrapped(text + ".", width))
    if helps:
        print("what would help:")
        for text in helps:
            print(_wrapped("  " + text, width))


def _tell_progress(world: World, job: Job) -> None:
    """Of a row of a sweep, say how far the sweep is."""
    if job.row is None or world.reader is None:
        return
    for progress in world.reader.progress([job.row.sweep]).values():
        print(_wrapped(f"{safe(progress.name, 30)}: {progress.words()}.", terminal_width()))


def _wrapped(text: str, width: int | None) -> str:
    """Break a long sentence between words, for a terminal only."""
    return text if width is None else fill(text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)


def _own_first(world: World) -> Job:
    """Return one's own first in line: the one that waits before one that is held, then as the line goes."""
    user = my_name()
    mine = [job for job in world.live() if job.state in IN_LINE and job.user == user]
    if not mine:
        others = sum(job.state in IN_LINE for job in world.live())
        also = f"; {others} of others do" if others else ""
        raise GpurunError(f"no job of yours waits{also}", hint="gpurun ls lists the jobs", status=SOME_FAILED)
    inside = os.environ.get("GPURUN_JOB")
    nested = [job for job in mine if str(job.parent_id) == inside]
    return min(nested or mine, key=lambda job: (job.state is JobState.HELD, before(job)))


def _not_waiting(job: Job) -> str:
    now, boot = Now.here(), job.identity.boot_id
    name = f"job {job.id} ({named_command(job)})"
    if job.state is JobState.ENDED:
        text = f", {safe(job.result.text, 80)}" if job.result is not None and job.result.text else ""
        ago = f" {format_duration(now.since(job.ended_at, job.ended_mono, boot))} ago" if job.ended_at else ""
        return f"{name} does not wait: it ended{ago}: {state_words(job)}{text}."
    where = ", ".join(str(share.index) for share in job.shares)
    on = f" on GPU {where}" if job.shares else ""
    since = f" for {format_duration(now.since(job.started_at, job.started_mono, boot))}" if job.started_at else ""
    return f"{name} does not wait: {job.state.value}{on}{since}."
