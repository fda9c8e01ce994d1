"""How far jobs are on the way to their end: why each is asked, by which signals, and when all that is left of it is killed.

1. That a job is being ended stands in its row. One whose row does not say so has no ladder (`follow`), and one that is being
   ended and has none, since the arbiter is new, is asked again.
2. KILL comes when it is due: it is never put off, only made earlier.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...lifecycle import JobState
from ...model import Job
from ..timers import Timer, Timers

if TYPE_CHECKING:
    from .asking import Ask


@dataclass(slots=True)
class Ladder:
    """One job's way to its end."""

    why: str | None = None
    ask: "Ask | None" = None
    """How it is asked."""
    timer: Timer | None = None
    """When it is killed."""


class Ladders:
    """Those of all jobs that are being ended, and of ended ones whose leftovers are."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._ladders: dict[int, Ladder] = {}
        self.resume: Callable[[Job], None] = lambda _job: None
        """Asks a job to end again that an earlier arbiter had asked."""

    def begin(self, job_id: int, why: str | None = None) -> Ladder:
        """Return a job's ladder, made if there is none; `why` it is ended, where that is news."""
        ladder = self._ladders.setdefault(job_id, Ladder())
        ladder.why = why or ladder.why
        return ladder

    def why(self, job_id: int) -> str | None:
        """Why a job is ended; None if nobody asked."""
        ladder = self._ladders.get(job_id)
        return ladder.why if ladder is not None else None

    def ask(self, job_id: int) -> "Ask | None":
        """How a job is asked to end."""
        ladder = self._ladders.get(job_id)
        return ladder.ask if ladder is not None else None

    def is_due(self, job_id: int) -> bool:
        """Whether the time is set at which a job, or what it left behind, is killed."""
        ladder = self._ladders.get(job_id)
        return ladder is not None and ladder.timer is not None

    def kill_within(self, job_id: int, seconds: float, kill: Callable[[], None]) -> None:
        """See that a job is killed after so long, unless that is due earlier already."""
        ladder = self.begin(job_id)
        if ladder.timer is None or ladder.timer.is_later_than(seconds):
            self.kill_after(job_id, seconds, kill)

    def kill_after(self, job_id: int, seconds: float, kill: Callable[[], None]) -> None:
        """See that a job is killed after so long, whatever was due before."""
        self.spare(job_id)
        self.begin(job_id).timer = self._timers.after(seconds, kill)

    def spare(self, job_id: int) -> None:
        """It is not killed at the time that was set."""
        ladder = self._ladders.get(job_id)
        if ladder is not None and ladder.timer is not None:
            ladder.timer.cancel()
            ladder.timer = None

    def follow(self, job_id: int, job: Job | None) -> None:
        """Have a ladder where the row says that the job is being ended, and none else; of an ended one it may go on."""
        is_ended = job is not None and job.state is JobState.ENDED
        if job is not None and job.state is JobState.STOPPING:
            if job_id not in self._ladders:
                self.resume(job)
        elif not is_ended and job_id in self._ladders:
            self.spare(job_id)
            del self._ladders[job_id]
