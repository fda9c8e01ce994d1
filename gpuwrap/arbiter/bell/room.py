"""How many descriptors there are, and who may have those that are left: clients first, jobs until next to none is.

A new descriptor has the lowest number that is free [open(2)]: so many are in use at least. What is kept from clients is for
jobs that start (for a moment each has its connection and a pidfd), for claims, survivors, /proc and the database.
"""

import errno
import math
import os
import resource

MOST_KEPT, LEAST_KEPT = 1024, 32
KEPT_FOR_OURSELVES = 16


class Room:
    """The room that there is under a limit on descriptors; None: our own."""

    def __init__(self, limit: int | None = None) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
        self._for_clients = limit - min(max(limit // 4, LEAST_KEPT), MOST_KEPT)
        self._for_jobs = limit - KEPT_FOR_OURSELVES

    def is_for_more_clients(self) -> bool:
        """Whether another client may come in."""
        return _lowest_free() < self._for_clients

    def is_for_a_job(self) -> bool:
        """Whether one of our jobs may have another descriptor."""
        return _lowest_free() < self._for_jobs


def _lowest_free() -> float:
    try:
        fd = os.dup(0)
    except OSError:
        return math.inf
    os.close(fd)
    return fd


def is_lack_of_room(err: BaseException) -> bool:
    """Whether an error says that no descriptor is left."""
    return isinstance(err, OSError) and err.errno in (errno.EMFILE, errno.ENFILE)
