"""Asking ahead: who is probably next is offered its grant while the plan is still made.

1. An offer is a question and binds nobody. A client that slept needs as long to hear it as a plan takes to be made.
2. One client is asked after GPUs came free: the first in line by the last plan, if it wants no more of them. The guess may be
   wrong: who takes what it was not granted is told to stay, and nothing has changed for it.
3. What was asked counts as the offer of a grant made in the same wake, and of no later one.
"""

from typing import TYPE_CHECKING

from ...lifecycle import JobState
from ...model import Job
from ...units import PRIORITY_STEP
from .seat import Seat
from .socket import Connection

if TYPE_CHECKING:
    from ..loop import Arbiter


class Ahead:
    """Guesses who is next."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._turn = arbiter.turn
        self._freed: set[str] = set()
        self._unanswered: set[int] = set()
        """Jobs whose clients were asked, and have not answered."""
        self._has_offered = False
        self._asked: Connection | None = None

    def freed(self, job: Job) -> None:
        """The grant of a job is over."""
        self._freed.update(share.uuid for share in job.shares)

    def ask(self) -> None:
        """Ask the first in line, if enough came free since this was called last that it may be its turn."""
        freed, self._freed = self._freed, set()
        job = self._first() if freed else None
        if job is None or job.state is not JobState.WAITING or job.request.gpus > len(freed):
            return
        seat = self._seats[job.id]
        if seat.sweep is None and not seat.is_away() and self.offer(seat.connection):
            self._unanswered.add(job.id)
            self._asked = seat.connection

    def offer(self, connection: Connection | None) -> bool:
        """Offer at once, which binds nobody, whether the turn will be committed or not; false if it must be said with the turn.

        That is so after one that was lost, and never does it overtake what is said to the same client.
        """
        if connection is None or self._turn.was_lost or self._turn.has_said_to(connection):
            return False
        self._arbiter.bell.send_now(connection, "offer")
        self._has_offered = True
        return True

    def has_offered(self) -> bool:
        """Whether anything was offered at once since this was asked last."""
        offered, self._has_offered = self._has_offered, False
        return offered

    def may_ask_to_give_way(self, job: Job) -> bool:
        """Whether a job that runs by now stands in the way of the first in line: before, it could not be asked for room."""
        first = self._first()
        return first is not None and first.priority >= job.priority + PRIORITY_STEP

    def _first(self) -> Job | None:
        """Return the first in line by the last plan, for whom it kept GPUs."""
        made = self._arbiter.deciding.plans.get(None)
        first = next(iter(made.kept.values()), None) if made is not None else None
        return self._store.in_line.get(first) if first is not None else None

    def was_asked(self, seat: Seat) -> bool:
        """Whether a client was asked in this wake: its grant needs no other offer."""
        return self._asked is not None and seat.connection is self._asked

    def follow(self, job_id: int, job: Job | None) -> None:
        """From one that has gone no answer comes."""
        if job is None:
            self._unanswered.discard(job_id)

    def over(self) -> None:
        """The plan is made: whoever was asked, later grants are offered."""
        self._asked = None

    def answered(self, seat: Seat) -> bool:
        """Whether the answer of a client that has no grant is one to our question; it is, once."""
        asked = seat.job_id in self._unanswered
        self._unanswered.discard(seat.job_id)
        if seat.connection is self._asked:
            self._asked = None
        return asked
