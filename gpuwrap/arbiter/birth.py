"""Whether an arbiter should leave to a better one: limits and priorities come with whoever started it, and serve everybody.

1. One that is worse off than who asks it leaves, and who asked starts the next, which is better off in turn: so this ends.
   While somebody is paused it stays, as long as it can write: nobody may be left standing if the other dies on the way.
2. One that cannot write for its own limit refuses all who wait (they are no better off, or it had left). As soon as nobody
   computes for whom it holds a GPU against other worlds, it has those go on whom it paused, and leaves.
"""

import os
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..host import processes
from ..host.inherited import WELL, hard_limits, is_better_off, standing
from ..lifecycle import IN_LINE, STARTED, JobState
from ..state.paths import DATABASE, Folder
from ..state.trial import LEAST_BYTES, database_bytes
from ..units import format_size
from .bell.socket import Connection
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter


class Birth:
    """What this arbiter was born with, if anybody could be better off."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        mine = standing(os.getpid())
        self._lacking = mine if mine < WELL else None

    def leaves_to(self, connection: Connection) -> bool:
        """Leave to the arbiter that a client would start, if that is better off; whether or not this batch can be committed."""
        if self._lacking is None or not is_better_off(connection.pid, self._lacking):
            return False
        if not self._arbiter.turn.was_lost and self._arbiter.sampling.somebody_is_paused():
            return False
        if not os.access(f"/proc/{connection.pid}/root{self._arbiter.folder.path}", os.W_OK):
            return False  # where it runs the folder can only be read (ProtectHome=read-only): it can start none
        log("birth", f"pid {connection.pid} has wider limits or a better priority: leaving to the arbiter that it starts")
        self._arbiter.stop_at_once()
        self._arbiter.bell.send_now(connection, "old")
        return True

    def refuse_all(self, err: StoreError) -> None:
        """A batch could not be committed: if that is for our own limit, nobody need wait for it to get better."""
        if self._lacking is None or not _is_cramped(self._arbiter.folder):
            return
        live = self._arbiter.store.live.values()
        waiting = {job.id for job in live if job.state in IN_LINE or job.state is JobState.GRANTED}
        for connection in {seat.connection for job_id, seat in self._arbiter.seats.items() if job_id in waiting}:
            if connection is not None:
                self._arbiter.answers.refuse(connection, err)
        computing = [job for job in live if job.shares and job.state in STARTED and job.state is not JobState.PAUSED]
        if not any(processes.is_same_process(job.identity) for job in computing):
            self._arbiter.farewell.begin("cannot write for want of a wider limit")


def explained(folder: Folder, err: StoreError) -> StoreError:
    """Say of what SQLite calls an error of the disk that it is our own limit, if it is."""
    if not _is_cramped(folder):
        return err
    cause = f"the arbiter's files may not grow over {format_size(int(_file_limit()))} (ulimit -f)"
    return StoreError("write", DATABASE, cause, hint="a gpurun from a shell where ulimit -f is unlimited brings a better one")


def _file_limit() -> float:
    return hard_limits(os.getpid())["Max file size"]


def _is_cramped(folder: Folder) -> bool:
    return database_bytes(folder) + LEAST_BYTES > _file_limit()
