"""Time limits (`-t`): a job is asked to end when it has run for that long, by its own signals, and then killed.

1. What counts is the time since the program was started, without pauses, its own and those of the jobs inside which it
   runs: nobody's time is used up by somebody else. Each run of a job that is run again has the whole limit.
2. The limit ends a job for good: it is not run again for it.
3. Nothing is remembered but what an outer job that has ended stood still: a new arbiter works it out from `started_mono`
   and the events.
"""

import time
from typing import TYPE_CHECKING

from ...lifecycle import STARTED, Event, JobState
from ...model import Job
from ...policy.words import signal_name
from ...restarts import stored_signals
from ...units import format_limit
from ..log import log
from ..seeing.frozen import and_frozen
from ..telling.notices import tell
from ..timers import Timer

if TYPE_CHECKING:
    from ..loop import Arbiter

# How soon a paused job is looked at again; while one is paused the arbiter wakes more often anyway.
PAUSED_SECONDS = 1.0


class Limits:
    """Follows the jobs that have a time limit."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._ladders = arbiter.ladders
        self._due: dict[int, tuple[object, Timer]] = {}
        """When limits pass, and the facts that follows from."""
        self._stood = arbiter.notes.stood_still

    def follow(self, job_id: int, job: Job | None) -> None:
        """Have a job that runs end at its limit; anew if it stood still, or if the limit was changed."""
        counts = job is not None and job.state in STARTED and job.request.time_limit_seconds is not None
        wanted = (job.state, job.started_mono, job.request.time_limit_seconds) if counts and job is not None else None
        known = self._due.pop(job_id, None)
        if known is not None and known[0] != wanted:
            known[1].cancel()
            known = None
        if known is not None:
            self._due[job_id] = known
        elif job is not None and wanted is not None:
            self._due[job_id] = wanted, self._arm(job)

    def _arm(self, job: Job) -> Timer:
        left = self.seconds_left(job) or 0.0
        paused = any(each.state in (JobState.PAUSED, JobState.SUSPENDED) for each in self._around(job))
        after = max(left, PAUSED_SECONDS) if paused else left
        return self._timers.after(max(0.0, after), lambda: self._passes(job.id))

    def seconds_left(self, job: Job) -> float | None:
        """Return for how long a job may still run, None for ever."""
        limit = job.request.time_limit_seconds
        if limit is None or job.started_mono is None:
            return None
        return limit - (time.monotonic() - job.started_mono - self._stood_still(job, job.started_mono))

    def _stood_still(self, job: Job, since_mono: float) -> float:
        """Return for how long a job stood still since a moment: it, or one inside which it runs, was paused."""
        store = self._store
        before = self._stood.get(job.id) or 0.0
        return before + store.paused_seconds_since([each.id for each in self._around(job)], since_mono)

    def _around(self, job: Job) -> list[Job]:
        """Return a job and those inside which it runs."""
        return [job, *self._store.around(job)]

    def ended(self, job: Job) -> None:
        """Remember of a job that has ended how long it stood still, for those inside that outlive it."""
        store = self._store
        self._stood.drop(job.id)
        if not store.nested:
            return
        for inner in [inner for inner in store.holding.values() if inner.parent_id is not None and inner.state in STARTED]:
            around = [each.id for each in self._around(inner)]
            if job.id not in around or inner.request.time_limit_seconds is None or inner.started_mono is None:
                continue
            rest = [each for each in around if each != job.id]
            since = inner.started_mono
            stood = store.paused_seconds_since(around, since) - store.paused_seconds_since(rest, since)
            if stood > 0:
                self._stood.put(inner.id, (self._stood.get(inner.id) or 0.0) + stood)

    def has_passed(self, job: Job) -> bool:
        """Whether a job has run for as long as it may."""
        left = self.seconds_left(job)
        return left is not None and left <= 0

    def _passes(self, job_id: int) -> None:
        job, known = self._store.live.get(job_id), self._due.get(job_id)
        if job is None or known is None:
            return
        if job.state is JobState.RUNNING and self.has_passed(job):
            self.end(job)
        elif job.state is not JobState.STOPPING:
            self._due[job_id] = known[0], self._arm(job)

    def end(self, job: Job) -> None:
        """Ask a job to end by its signals, one after the other, then kill what is left; again after a restart."""
        assert job.request.time_limit_seconds is not None
        why = f"time limit of {format_limit(job.request.time_limit_seconds)}{and_frozen(job)}"
        self._ladders.begin(job.id, why)
        steps = stored_signals(job.signals)
        if job.state is not JobState.STOPPING:
            job = self._store.move(job, Event.ASK_TO_END, why)
            text = f"job {job.id}: {why}: asked to end ({signal_name(steps[0][0])})"
            self._turn.do(lambda: self._tell(job, text))
        log("limit", f"job {job.id}: {why}")
        self._arbiter.killing.kill_within(job.id, self._arbiter.asking.begin(job, steps))

    def _tell(self, job: Job, text: str) -> None:
        """Say it where the job's own messages go: the stub says it, or we on the terminal."""
        seat = self._seats.get(job.id)
        if not job.stub:
            tell(job, text)
        elif seat is not None:
            self._arbiter.bell.send_now(seat.connection, "told", text=text)
