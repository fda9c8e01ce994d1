"""Whether the GPUs of a paused job can bear it again."""

from collections.abc import Sequence
from dataclasses import replace

from ..model import Job
from .placement import Room, Shape
from .victims import Victims


def is_vague(job: Job) -> bool:
    """Whether nobody knows what a job needs."""
    return job.request.memory_bytes is None and job.request.memory_percent is None and job.learned_bytes is None


def as_promised(job: Job) -> Job:
    """Return a paused job as one that needs all it was promised: it was told so, and may take it as soon as it goes on."""
    return replace(job, learned_bytes=max((each.bytes for each in job.shares), default=0)) if is_vague(job) else job


def takes_back(job: Job, rooms: Sequence[Room]) -> bool:
    """Whether all that it was promised is there again, beside those that compute now.

    What it was promised is a need if its owner said it or earlier runs showed it, or if it is all of the GPU; else it is
    only what was left beside others, and the most that can be asked is what it holds.
    """
    vague = is_vague(job)
    shares = {each.uuid: each for each in job.shares}
    return all(
        room.takes_back(job.id, share, sized=not vague or share.bytes >= room.total())
        for room in rooms
        for share in (shares[room.gpu.uuid],)
    )


def takes_back_above(job: Job, shape: Shape, rooms: Sequence[Room], victims: Victims) -> bool:
    """Whether it may go on as a newcomer would start: what it needs is left beside paused jobs that it outranks."""
    return len(victims.beside(job, shape, rooms, frozenset({job.id}))) == len(rooms) == shape.gpus
