"""wait: wait for jobs and return their status.

One job: its own status, 128 + N for death by signal N, as a shell says it; of one that never ran what its gpurun ended with
(124 at the wait limit, 125 where a job it needed failed, 143 where it was taken out of the line). Several: the first that is
not 0, in the order named, of a range and of a sweep whichever have ended before too. One that nobody knows counts as 1.
"""

import signal
import sys

from ..accounts.sums import has_failed
from ..errors import SOME_FAILED, WAIT_LIMIT
from ..lifecycle import JobState
from ..model import Job, ResultKind
from ..policy.words import cause_of_end, command, signal_name
from ..render import state_words
from .asking import Given, World, require_jobs
from .ringing import ring


def main(given: Given, operands: list[str]) -> int:
    """Wait until every job named has ended."""
    require_jobs(operands, given, "wait [--bell] JOB...")
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given, ended=True)
    waited = [job.id for job in jobs if job.state is not JobState.ENDED]
    if waited:
        world.ask_about("watch", waited)
    status = 0
    ends = [world.reader.by_number(job.id, job.id)[0] if world.reader is not None else job for job in jobs]
    for ended in ends:
        status = status or status_of(ended)
    for err in missing:
        sys.stderr.write(f"gpurun: wait: {err.text}\n")
        status = status or SOME_FAILED
    if "bell" in given and ends:
        ring(_in_words(ends))
    return status


def _in_words(ends: list[Job]) -> str:
    """Say what has ended, for a notification."""
    if len(ends) == 1:
        job = ends[0]
        return f"job {job.id} {job.name or command(job.argv)}: {state_words(job)}"
    failed = sum(has_failed(job) for job in ends)
    return f"{len(ends)} jobs have ended" + (f", {failed} failed" if failed else "")


def status_of(job: Job) -> int:
    """Return what a shell would have said of a job's end; says on stderr what a number cannot."""
    result = job.result
    if result is None:
        return SOME_FAILED
    cause = cause_of_end(result.text)
    if result.kind is ResultKind.EXIT and result.code is not None:
        if cause:
            sys.stderr.write(f"gpurun: job {job.id}: exit {result.code} ({cause})\n")
        return result.code
    if result.kind is ResultKind.SIGNAL and result.signal is not None:
        if cause:
            sys.stderr.write(f"gpurun: job {job.id}: signal SIG{signal_name(result.signal)} ({cause})\n")
        return 128 + result.signal
    if result.kind is ResultKind.WAIT_LIMIT:
        sys.stderr.write(f"gpurun: wait: job {job.id}: not started within the wait limit: {result.text}\n")
        return WAIT_LIMIT
    sys.stderr.write(f"gpurun: wait: job {job.id}: {result.text or result.kind.value}\n")
    if result.kind is ResultKind.CANCELLED:
        return 128 + (result.signal or signal.SIGTERM) if result.code is None else result.code
    return SOME_FAILED
