"""why: what keeps a job waiting, in sentences, and what would help."""

import os
from textwrap import fill

from ..clocks import Now
from ..errors import SOME_FAILED, GpurunError, UsageError
from ..lifecycle import IN_LINE, JobState
from ..model import Job
from ..policy.words import command, safe
from ..render import state_words
from ..tables import terminal_width
from ..turns import before
from ..units import format_duration
from .asking import Given, World, my_name


def main(given: Given, operands: list[str]) -> int:
    """Explain one job; without a number one's own first waiting one. Exit 1 if none waits."""
    if len(operands) > 1:
        raise UsageError(f"{operands[1]}: one JOB at a time", hint="usage: gpurun why [JOB]")
    world = World(given)
    world.repair()
    job = _chosen(world, operands)
    if job.state not in IN_LINE:
        print(_not_waiting(job))
        told = world.explain([job])().get(job.id)
        if told is not None:
            print("; ".join([told[1], *told[2]]) + ".")
        return 0
    told = world.ask("why", job=job.id)
    if told is None:
        print(f"job {job.id} ({command(job.argv)}) waits: the GPUs are just being looked at")
        return 0
    sentences, helps = told
    width = terminal_width()
    for text in sentences:
        print(_wrapped(text + ".", width))
    if helps:
        print("What would help:")
        for text in helps:
            print(_wrapped("  " + text, width))
    return 0


def _wrapped(text: str, width: int | None) -> str:
    """Break a long sentence between words, for a terminal only."""
    return text if width is None else fill(text, max(width, 20), subsequent_indent="  ", break_on_hyphens=False)


def _chosen(world: World, operands: list[str]) -> Job:
    if operands:
        jobs, missing = world.select(operands)
        if missing:
            raise missing[0]
        if len(jobs) > 1:
            waiting = [job for job in jobs if job.state in IN_LINE]
            return _first(waiting or jobs)
        return jobs[0]
    user = my_name()
    mine = [job for job in world.live() if job.state in IN_LINE and job.user == user]
    if not mine:
        others = sum(job.state in IN_LINE for job in world.live())
        also = f"; {others} of others do" if others else ""
        raise GpurunError(f"no job of yours waits{also}", hint="gpurun ls lists the jobs", status=SOME_FAILED)
    inside = os.environ.get("GPURUN_JOB")
    return _first([job for job in mine if str(job.parent_id) == inside] or mine)


def _first(jobs: list[Job]) -> Job:
    """The first in line: the one that waits before one that is held, then as the line goes."""
    return min(jobs, key=lambda job: (job.state is JobState.HELD, before(job)))


def _not_waiting(job: Job) -> str:
    now, boot = Now.here(), job.identity.boot_id
    name = f"job {job.id} ({command(job.argv)})"
    if job.state is JobState.ENDED:
        text = f", {safe(job.result.text, 80)}" if job.result is not None and job.result.text else ""
        ago = f" {format_duration(now.since(job.ended_at, job.ended_mono, boot))} ago" if job.ended_at else ""
        return f"{name} does not wait: it ended{ago}: {state_words(job)}{text}."
    where = ", ".join(str(share.index) for share in job.shares)
    on = f" on GPU {where}" if job.shares else ""
    since = f" since {format_duration(now.since(job.started_at, job.started_mono, boot))}" if job.started_at else ""
    return f"{name} does not wait: {job.state.value}{on}{since}."
