"""Wait limits (`-n`, `-w`): jobs in line give up after a while, but not before a plan has seen them.

The limit stands at the job's seat. Which jobs have one is kept here, so that nobody need look at each of a long line.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...lifecycle import IN_LINE, STARTED
from ...model import Job, ResultKind

if TYPE_CHECKING:
    from ..loop import Arbiter


class Patience:
    """Knows which jobs in line give up, and when."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._limited: set[int] = set()

    def limit(self, jobs: Sequence[Job], seconds: float | None) -> None:
        """Have jobs leave the line after so long; None: they stay in it however long it takes."""
        seats = {job.id: self._arbiter.seats[job.id] for job in jobs if job.id in self._arbiter.seats}
        before = {job_id: seat.limit_mono for job_id, seat in seats.items()}
        self._set(dict.fromkeys(seats, None if seconds is None else time.monotonic() + seconds))
        self._arbiter.if_lost(lambda: self._set(before))
        if seconds:
            self._arbiter.timers.after(seconds, self._arbiter.deciding.touch)

    def _set(self, limits: dict[int, float | None]) -> None:
        for job_id, limit_mono in limits.items():
            if job_id in self._arbiter.seats:
                self._arbiter.seats[job_id].limit_mono = limit_mono
                (self._limited.discard if limit_mono is None else self._limited.add)(job_id)

    def left(self) -> dict[int, float]:
        """Say for how long jobs still wait, where that is limited."""
        now = time.monotonic()
        seats = ((job_id, self._arbiter.seats.get(job_id)) for job_id in self._limited)
        return {
            job_id: max(0.0, seat.limit_mono - now)
            for job_id, seat in seats
            if seat is not None and seat.limit_mono is not None
        }

    def planned(self) -> None:
        """A plan was made: end those whose limit has passed."""
        now = time.monotonic()
        for job_id in list(self._limited):
            seat, job = self._arbiter.seats.get(job_id), self._arbiter.store.live.get(job_id)
            if seat is None or job is None or job.state in STARTED:
                self._limited.discard(job_id)
                self._arbiter.if_lost(lambda job_id=job_id: self._limited.add(job_id))  # type: ignore[misc]
            elif seat.limit_mono is not None and seat.limit_mono <= now and job.state in IN_LINE:
                words = self._arbiter.lines.explain(job)
                self._arbiter.enforcer.cancel(job, ResultKind.WAIT_LIMIT, words[1] if words else "no GPU was free")
