"""What running jobs use, against what they asked for.

1. Peaks are kept of every job, per GPU the most that its processes hold together.
2. Who uses more than its share is told on its terminal, once in each attempt, and stands so in `ls` while it does. With the
   setting `over_memory = "evict"` one that may be restarted is ended, and asks for what it was seen to need; nobody else
   is ever ended for it.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ...lifecycle import JobState
from ...model import Job, Result, ResultKind, Share
from ...policy.learning import is_success, learned_from, needed_bytes
from ...policy.rerunning import may_be_evicted
from ...units import format_size
from ..log import log
from ..telling.notices import tell
from ..turn import Ledger

if TYPE_CHECKING:
    from ..loop import Arbiter


class Memory:
    """Watches what jobs use."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._store = arbiter.store
        self._told, self._before = arbiter.notes.told_over, arbiter.notes.peak_before
        self._over: Ledger[int, str] = Ledger(arbiter.turn)

    def note(self, used: dict[int, dict[str, int | None]]) -> None:
        """Take in what a look has shown: bytes by job and GPU."""
        over: dict[int, str] = {}
        for job_id, per_gpu in used.items():
            job = self._store.live[job_id]
            most = max((size for size in per_gpu.values() if size is not None), default=0)
            if most > (job.peak_bytes or 0):
                job = self._store.change(job, peak_bytes=most)
            share = _exceeded(job, per_gpu)
            if share is not None:
                over[job_id] = _words(share, per_gpu[share.uuid] or 0)
                if job_id not in self._over:
                    self._warn(job, over[job_id], most)
        for job_id in self._over.keys() - over.keys():
            del self._over[job_id]
        self._over.update(over)

    def judge_again(self) -> None:
        """Who uses too much already is judged anew: the setting `over_memory` has changed."""
        for job_id in list(self._over):
            self._over.forget(job_id)

    def words(self, job: Job) -> str | None:
        """Say that a job uses more than it asked for; None if it does not."""
        return self._over.get(job.id)

    def retried(self, job: Job) -> None:
        """A run has failed and there is another: what it died of for want of memory it is given next time (`-m auto`)."""
        known = self._store.learned_peak(job.fingerprint or "")
        learned = self.learn(replace(job, result=Result(ResultKind.EXIT, code=1), ended_mono=time.monotonic()))
        if learned is None or learned <= (known or 0):
            return
        if job.request.memory_bytes is not None and job.request.memory_bytes == job.learned_bytes:
            self._store.change(job, request=self._raised(job, learned), learned_bytes=needed_bytes(learned))

    def ended(self, job: Job) -> None:
        """A job has ended: what it was seen to need is remembered."""
        self.learn(job)

    def learn(self, job: Job) -> int | None:
        """Remember what a run has taught of its command; returns the peak that is remembered now, None if it taught nothing."""
        self._told.drop(job.id)
        if not job.peak_bytes and job.learned_bytes is None:
            return None
        store, known_as = self._store, job.fingerprint or ""
        known, before = store.learned_peak(known_as), self._before.get(known_as)
        if is_success(job) and before is not None:
            known = before
        learned = learned_from(job, known)
        if learned is None:
            return None
        if is_success(job):
            self._before.drop(known_as)
        elif before is None and known is not None and learned > known:
            self._before.put(known_as, known)
        store.learn_peak(known_as, learned)
        return learned

    def _warn(self, job: Job, text: str, most: int) -> None:
        log("memory", f"job {job.id} {text}")
        if self._told.get(job.id) != job.attempt:
            self._told.put(job.id, job.attempt)
            self._arbiter.turn.do(lambda: tell(job, f"job {job.id} {text}"))
        if self._arbiter.settings["over_memory"] == "evict" and job.state is JobState.RUNNING and may_be_evicted(job):
            self._store.change(job, request=self._raised(job, most))
            self._arbiter.reruns.evict(self._store.live[job.id], None, f"{text} (over_memory)")

    def _raised(self, job: Job, most: int) -> object:
        """Return its request with what it was seen to need; whole GPUs if none has that much."""
        totals = [self._arbiter.total_bytes(share.uuid) or 0 for share in job.shares]
        need = needed_bytes(most)
        return replace(job.request, memory_bytes=need if need < min(totals) else None, memory_percent=None)


def _exceeded(job: Job, per_gpu: dict[str, int | None]) -> Share | None:
    """Return the share that a job uses more than all of; a whole GPU cannot be exceeded."""
    if job.state not in (JobState.RUNNING, JobState.PAUSED) or not job.request.shares:
        return None
    return next((share for share in job.shares if not share.whole and (per_gpu.get(share.uuid) or 0) > share.bytes), None)


def _words(share: Share, size: int) -> str:
    return f"uses {format_size(size)} on GPU {share.index}, more than its -m {format_size(share.bytes)}"
