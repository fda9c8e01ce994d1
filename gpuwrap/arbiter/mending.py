"""A database that is not what was written there: gone, emptied, overwritten, or on a disk that is dying.

1. Memory is right. While we are the arbiter of the folder the database is written anew from it, and nobody notices.
2. Where somebody else may be the arbiter by now, since the lock is gone from the folder too, or where the disk takes nothing
   any more, we retire: we keep what we hold until our jobs have ended, and nobody waits for us. First of all everybody goes
   on whom we paused: whoever comes after us would not know of them.
3. A disk that is full, or busy, is only tried again; but who stands still for a job that has ended meanwhile does not wait
   for it.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..lifecycle import IN_LINE, JobState
from ..model import ResultKind
from .bell.socket import Connection
from .log import log
from .turn import Ledger

if TYPE_CHECKING:
    from .loop import Arbiter


# So long the end of a job may wait to be written down before those go on who stand still for it.
PATIENCE_SECONDS = 2.0


class Mending:
    """Sees that the database is there, at each wake."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self.is_alone: Callable[[], bool] = lambda: True
        self.on_retire: Callable[[], None] = lambda: None
        self.has_retired = False
        self._is_in_doubt = False
        self._asked: Ledger[Connection, None] = Ledger(arbiter.turn)
        self._failing_since: float | None = None

    def doubt(self, err: StoreError) -> None:
        """A batch was lost: the database may not be what it was, or take nothing for long."""
        self._is_in_doubt |= err.is_unsound
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        elif self._failing_since + PATIENCE_SECONDS < time.monotonic():
            self._arbiter.pausing.free_unwritten()

    def committed(self) -> None:
        """A batch was committed."""
        self._failing_since = None

    def asked(self, connection: Connection, _values: object) -> None:
        """Somebody cannot read the database: look at it closely, at the next wake, which is now."""
        self._is_in_doubt = True
        self._asked[connection] = None
        self._timers.after(0.0, lambda: None)

    def look(self) -> None:
        """Mend what needs it. Called in a batch, before anything is written; raises StoreError if it must be tried again."""
        if self.has_retired:
            self._is_in_doubt = False
        elif self._is_in_doubt or not self._store.is_in_place():
            self._is_in_doubt = True  # until it is done
            self._mend()
            self._is_in_doubt = False
        asked = self._asked.take()
        if asked:
            self._arbiter.pausing.free_forgotten()
        for connection, _ in asked:
            self._turn.say(connection, "done", text="")

    def _mend(self) -> None:
        if not self.is_alone():
            self._retire("the database was removed")
            return
        try:
            if self._store.mend():
                log("mended", "the database was not what had been written there: it is written anew, from memory")
        except StoreError as err:
            if not err.is_unsound:
                raise
            log("store", err.text)
            self._store.give_disk_up()
            self._retire(f"the database is lost: {err.cause}")

    def _retire(self, why: str) -> None:
        """Another arbiter may come: we keep what we hold until our jobs have ended."""
        self.has_retired = True
        arbiter = self._arbiter
        log("retire", why)
        arbiter.pausing.thaw_everything(why)
        arbiter.bell.retire()
        self.on_retire()
        for job in list(self._store.live.values()):
            if job.state in IN_LINE or job.state is JobState.GRANTED:
                seat = self._seats.get(job.id)
                if seat is not None and seat.connection is not None:
                    arbiter.bell.drop(seat.connection)  # it summons another arbiter
                arbiter.enforcer.cancel(job, ResultKind.LOST, why)
