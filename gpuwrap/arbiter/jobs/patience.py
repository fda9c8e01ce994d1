"""Wait limits (`-n`, `-w`): jobs in line give up after a while, but not before a plan has seen them.

Which jobs have one is kept here, so that nobody need look at each of a long line. A client that comes back says its own again.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...lifecycle import IN_LINE, STARTED
from ...model import Job, ResultKind
from ..turn import Ledger

if TYPE_CHECKING:
    from ..loop import Arbiter


class Patience:
    """Knows which jobs in line give up, and when."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._until: Ledger[int, float] = Ledger(arbiter.turn)

    def limit(self, jobs: Sequence[Job], seconds: float | None) -> None:
        """Have jobs leave the line after so long; None: they stay in it however long it takes."""
        for job in jobs:
            if seconds is None:
                self._until.pop(job.id, None)
            else:
                self._until[job.id] = time.monotonic() + seconds
        if seconds:
            self._timers.after(seconds, self._turn.replan)

    def left(self) -> dict[int, float]:
        """Say for how long jobs still wait, where that is limited."""
        now = time.monotonic()
        return {job_id: max(0.0, until - now) for job_id, until in self._until.items()}

    def planned(self) -> None:
        """A plan was made: end those whose limit has passed."""
        now = time.monotonic()
        for job_id, until_mono in list(self._until.items()):
            job = self._store.live.get(job_id)
            if job is None or job.state in STARTED:
                del self._until[job_id]
            elif until_mono <= now and job.state in IN_LINE:
                words = self._arbiter.lines.explain(job)
                self._arbiter.enforcer.cancel(job, ResultKind.WAIT_LIMIT, words[1] if words else "no GPU was free")
