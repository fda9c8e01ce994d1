"""What the arbiter remembers of a job only while both live: its connection, its pidfd, its processes.

Nothing here is needed to recover: a new arbiter builds it again from the database and from the processes.
"""

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .socket import Connection, Watcher

if TYPE_CHECKING:
    from ..jobs.sweeps import Sweep


@dataclass(slots=True)
class Seat:
    """One job's place at the arbiter."""

    pid: int
    """Of the leader, or of the client that will become it."""
    job_id: int = 0
    away: set[int] = field(default_factory=set, repr=False)
    """The arbiter's: jobs whose client may be out of reach. A job is put there by its seat; who finds it back takes it out."""
    connection: Connection | None = None
    sweep: "Sweep | None" = None
    """The process in whose name a row of a sweep waits: `pid` and `connection` are its, and there is no pidfd here."""
    pidfd: int | None = None
    """Of the leader, from just before it is told to go; while a client waits, its connection tells of its end."""
    watched: bool = False
    """Whether the pidfd is registered with the loop."""
    stopped: bool = False
    """Stopped at its terminal (Ctrl-Z) while it waits: passed over until it reports its SIGCONT."""
    mute: bool = False
    """Did not take its last offer, and has not said a word since: passed over until it does."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set anything; what may put the client out of reach is noted, so that nobody need look at each of a long line."""
        object.__setattr__(self, name, value)
        if (value is None and name == "connection") or (value is True and name in ("stopped", "mute")):
            self.away.add(self.job_id)

    def is_away(self) -> bool:
        """Whether the client cannot take an offer: gone, stopped, or silent since the last one."""
        return self.connection is None or self.stopped or self.mute

    def let_go_of_leader(self, watcher: Watcher) -> None:
        """Hear no more of the leader's end."""
        if self.pidfd is not None:
            if self.watched:
                watcher.unwatch(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = None
            self.watched = False
