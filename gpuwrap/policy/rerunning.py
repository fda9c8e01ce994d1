"""Whether a job may be ended and run again, and the verdict on each run that is over: is there another, and when."""

import os
from dataclasses import dataclass

from ..lifecycle import JobState
from ..model import GiveWay, Job
from ..restarts import GAVE_WAY, MOST_RERUNS, RERUN_CODES, SHORT_RUN_SECONDS, wait_before


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is over, as its stub tells of it; the counts are of runs before this one."""

    attempt: int
    status: int
    seconds: float = 60.0
    asked: bool = False
    """The stub had sent a signal of the eviction before the end."""
    interrupted: bool = False
    """Somebody else wanted it to end for good: Ctrl-C, a hang-up, a kill."""
    failures: int = 0
    reruns: int = 0
    short: int = 0
    """How many runs in a row ended too soon."""

    @property
    def code(self) -> int | None:
        """The exit status, None if a signal ended it."""
        return os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None


@dataclass(frozen=True, slots=True)
class Again:
    """The verdict that it is to be run again: why, after how many seconds, and the counts from now on."""

    why: str
    after: float = 0.0
    failures: int = 0
    reruns: int = 0
    short: int = 0
    gave_way: bool = False


def judge(job: Job, run: Run) -> Again | None:
    """Say whether a job is to be run again. Pure.

    After a request to give way anything but 0 means that it is not done. What fails by itself before it was asked is
    a failure, also if it was about to be evicted: else one that fails early would be run for ever. How often it may be
    evicted by rule is a bound on asking (`Reruns.why_not_evict`): what was asked of it is never held against it.
    """
    if run.status == 0 or run.interrupted or (job.state is JobState.STOPPING and not job.requeue):
        return None
    if job.requeue and run.asked:
        return Again(GAVE_WAY, 0.0, run.failures, run.reruns, 0, True)
    short = run.short + 1 if run.seconds < SHORT_RUN_SECONDS else 0
    after = wait_before(short) if short else 0.0
    if run.code in RERUN_CODES and run.reruns < MOST_RERUNS:
        return Again(f"exit {run.code}: asks to be run again", after, run.failures, run.reruns + 1, short)
    if run.failures < job.retries:
        tried = run.failures + 1
        why = f"failed, {tried} of {job.retries} retries"
        return Again(why, wait_before(tried), tried, run.reruns, short)
    return None


def may_be_evicted(job: Job) -> bool:
    """Whether its owner said that it may be ended and run again."""
    return job.stub and job.request.give_way is GiveWay.REQUEUE
