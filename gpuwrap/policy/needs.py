"""What a job needs on a GPU that is not simply free: known, learned, or the least that an urgent one starts with."""

from typing import NamedTuple

from ..model import Job, Share
from ..units import GIB, PRIORITY_WORDS
from .placement import Left, Room, Shape

URGENT = PRIORITY_WORDS["urgent"]
# What an urgent job whose need nobody knows starts with at least.
LEAST_BYTES, LEAST_PART = 4 * GIB, 0.25


class Need(NamedTuple):
    """What a job needs on one GPU: `bytes` None is all of it. `comfort` is what it is given by mild means, if more."""

    bytes: int | None
    whole: bool
    comfort: int = 0

    def met(self, left: Left, comfortable: bool = False) -> bool:
        """Whether that much is left."""
        if left.crowded or (self.whole and not left.alone):
            return False
        if self.bytes is None:
            return left.clear
        return max(self.bytes, self.comfort if comfortable else 0) <= left.bytes


def need(job: Job, shape: Shape, room: Room) -> Need:
    """Say what a job needs on a GPU that is not simply free."""
    size, whole = room.need(shape)
    if size or not whole:
        return Need(size, whole)
    if job.request.memory_bytes is not None or job.request.memory_percent is not None:
        return Need(None, True)
    if job.learned_bytes is not None:
        return Need(job.learned_bytes if job.learned_bytes < room.usable else None, True)
    if job.priority < URGENT:
        return Need(None, True)
    least = max(LEAST_BYTES, int(room.total() * LEAST_PART))
    return Need(least, True, max(least, room.total() // 2))


def share(job: Job, shape: Shape, room: Room) -> Share:
    """Return the share that a job is given beside paused ones: its need, or all that is left if nobody knows it."""
    if room.fits(shape):
        return room.share(shape)
    wanted = need(job, shape, room)
    if wanted.bytes is None:
        return room.share(shape)
    size = room.left(shape.own).bytes if wanted.comfort else wanted.bytes
    return Share(room.gpu.uuid, room.gpu.index, size, wanted.whole)
