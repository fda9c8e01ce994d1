"""kill: end jobs, waiting or running."""

import os
import signal
import sys

from ..errors import SOME_FAILED, UsageError
from ..lifecycle import IN_LINE, JobState
from ..model import Job
from ..options import nearest
from .asking import Given, World, require_jobs
from .report import report


def main(given: Given, operands: list[str]) -> int:
    """End every job named; exit 1 if one could not be ended."""
    require_jobs(operands, given, "kill [-s SIGNAL] JOB...")
    number = signal_number(str(given["signal"])) if "signal" in given else None
    if "requeue" in given and number is not None:
        raise UsageError("--requeue goes without -s: the job says by which signals (--signal)")
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    if "all" in given and "yes" not in given and not _may_end(jobs):
        sys.stderr.write("gpurun: kill: nothing was done\n")
        return SOME_FAILED
    requeue = "requeue" in given or None
    done = world.ask_about("kill", [job.id for job in jobs], signal=number, requeue=requeue) if jobs else []
    if "all" in given:  # what ended meanwhile is as it should be
        done = [each for each in done if each[1] or each[2] != "has already ended"]
    return report("kill", done, missing)


def _may_end(jobs: list[Job]) -> bool:
    """Ask, if more than one runs and somebody sits there to answer."""
    waiting = sum(job.state in IN_LINE for job in jobs)
    running = sum(job.state is not JobState.ENDED for job in jobs) - waiting
    if running <= 1 or not (os.isatty(0) and os.isatty(2)):
        return True
    also = f", {waiting} wait{'s' if waiting == 1 else ''}" if waiting else ""
    sys.stderr.write(f"gpurun: {running} jobs run{also}: end them all? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def signal_number(text: str) -> int:
    """Read a signal as kill(1) does: KILL, SIGKILL, 9. Raises UsageError."""
    word = text.upper()
    if word.isdigit() and 0 < int(word) < signal.NSIG:
        return int(word)
    try:
        return int(signal.Signals["SIG" + word.removeprefix("SIG")])
    except KeyError:
        near = nearest(word.removeprefix("SIG"), [known.name.removeprefix("SIG") for known in signal.Signals])
        meant = f": did you mean {near}?" if near else ""
        raise UsageError(f"signal {text}: no such signal{meant}") from None
