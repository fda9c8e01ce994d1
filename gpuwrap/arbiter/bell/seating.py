"""Who sits where: a seat for each live job, and the descriptor that tells of the end of its leader or waiting client.

1. A job that lives has a seat, and one that has gone has none (`follow`); a client that comes back takes its job's seat.
2. While a client waits, its connection tells of its end, so a line of thousands costs a descriptor each, not two; the pidfd
   comes just before it is told to go, or when the connection has ended.
"""

import os
from collections.abc import Callable, MutableMapping, Sequence, Sized
from typing import Protocol

from ...host import processes
from ...lifecycle import STARTED, JobState
from ...model import Job
from ...state.store import Store
from ..timers import Timers
from ..turn import Turn
from .room import Room
from .seat import Seat
from .socket import Connection, Watcher

# When what there was no descriptor for is tried again.
ROOM_SECONDS = 1.0


class Shared(Protocol):
    """The seats of rows that wait in the name of their sweep's process."""

    def holds(self, job: Job) -> bool:
        """Whether a job is such a row."""

    def restore(self, job: Job) -> Seat:
        """Find the place of one again."""

    def left(self, job_id: int, seat: Seat) -> None:
        """One has left its seat."""


class Seating:
    """Gives seats, and takes them back."""

    def __init__(
        self, turn: Turn, timers: Timers, watcher: Watcher, store: Store, room: Room, connections: Callable[[], Sized]
    ) -> None:
        self._turn, self._timers, self._watcher = turn, timers, watcher
        self._store, self._room, self._connections = store, room, connections
        self.seats: dict[int, Seat] = {}
        self.away: set[int] = set()
        """Jobs whose client may be out of reach."""
        self.leaders: dict[int, int] = {}
        """Jobs by the pid of their leader or waiting client: no such process is a leftover of another job."""
        self.leftovers: set[int] = set()
        """Jobs that have ended, and hold GPUs still."""
        self.leader_ended: Callable[[int], None] = lambda _job_id: None
        self.on_leave: Sequence[Callable[[int], None]] = ()
        """Who else forgets a job that has left its seat."""
        self.shared: Shared | None = None
        self.unjudged: MutableMapping[int, None] = {}
        """Whose requests are to be judged against the machine."""

    def follow(self, job_id: int, job: Job | None) -> None:
        """Have a seat where a job lives, and hear of its leader's end where no connection tells of it."""
        if job is None:
            if job_id in self.seats:
                self._turn.later(lambda: self._leave(job_id))
            return
        if self.shared is not None and self.shared.holds(job):
            if job_id not in self.seats or self.seats[job_id].sweep is None:
                self.shared.restore(job)
            return
        seat = self.seats.get(job_id) or self.adopt(job, None)
        if job.state is JobState.ENDED:
            self.leftovers.add(job_id)
        elif job.state in STARTED or seat.connection is None:
            self.watch_leader(job_id)

    def adopt(self, job: Job, connection: Connection | None, pidfd: int | None = None) -> Seat:
        """Give a job its seat, or its new connection."""
        if job.id not in self.seats:
            self.seats[job.id] = Seat(job.identity.pid, job.id, self.away)
            self.unjudged[job.id] = None
        seat = self.seats[job.id]
        self.leaders[job.identity.pid] = job.id
        if connection is not None:
            if seat.connection is not None and seat.connection is not connection:
                seat.connection.job_id = None
            seat.connection = connection
            connection.job_id = job.id
            seat.stopped = seat.mute = False
            if job.state not in STARTED:
                seat.let_go_of_leader(self._watcher)
        if seat.pidfd is None:
            seat.pidfd = pidfd
        elif pidfd is not None:
            os.close(pidfd)
        return seat

    def _leave(self, job_id: int) -> None:
        """Forget a job that has ended and let go; its client may still read."""
        seat = self.seats.pop(job_id, None)
        if seat is not None and seat.sweep is not None:
            assert self.shared is not None
            self.shared.left(job_id, seat)
        elif seat is not None:
            if self.leaders.get(seat.pid) == job_id:
                del self.leaders[seat.pid]
                for outer in self._store.holding.values():  # a block in a program that is a job itself has its pid
                    if outer.identity.pid == seat.pid and outer.id != job_id and outer.state in STARTED:
                        self.leaders[seat.pid] = outer.id
            if seat.connection is not None:
                seat.connection.job_id = None
            seat.let_go_of_leader(self._watcher)
        self.leftovers.discard(job_id)
        for forget in self.on_leave:
            forget(job_id)

    # --- leaders ------------------------------------------------------------------------------------------------

    def hold_leader(self, seat: Seat) -> bool:
        """Have a pidfd of a client before it is told to go, since it may end before we look; false if there is no room."""
        if seat.pidfd is None and seat.connection is not None:
            if not self._room.is_for_a_job() and len(self._connections()) > 1:
                return False
            seat.pidfd = seat.connection.open_pidfd()
        return True

    def watch_leader(self, job_id: int, connection: Connection | None = None) -> None:
        """Be told when the leader of a job ends: soon if it has gone. `connection`: the one that it has just closed."""
        seat, job = self.seats.get(job_id), self._store.live.get(job_id)
        if seat is None or job is None or job.state is JobState.ENDED or seat.watched or seat.sweep is not None:
            return
        try:
            if seat.pidfd is None:
                seat.pidfd = connection.open_pidfd() if connection is not None else processes.open_pidfd(job.identity)
        except OSError:
            self._timers.after(ROOM_SECONDS, lambda: self.watch_leader(job_id))
            return
        if seat.pidfd is None:
            self._timers.after(0.0, lambda: self.leader_ended(job_id))
            return
        self._watcher.watch(seat.pidfd, lambda _mask: self.leader_ended(job_id))
        seat.watched = True

    def unwatch_leader(self, job_id: int) -> None:
        """The end of the leader has been noted."""
        seat = self.seats.get(job_id)
        if seat is not None and seat.pidfd is not None and seat.watched:
            self._watcher.unwatch(seat.pidfd)
            seat.watched = False
