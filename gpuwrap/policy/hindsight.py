"""What another order would have brought: the jobs that have ended, played once more through the very `plan`.

Only what can be played again is: jobs that started and ended by themselves or by their limit. GPUs are those that these jobs
had; a share counts as the part of the largest grant that was ever made of its GPU. Who had a guess or a limit has it again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from ..model import Job, Order
from .replaying import CARD_BYTES, Preempt, Recorded, Replay, Rules

# Fewer jobs than this say nothing about an order.
LEAST_JOBS = 30


class Came(NamedTuple):
    """What came of an order, in seconds."""

    order: Order
    wait_mean: float
    took_mean: float
    wait_longest: float
    preemptions: int


def recorded(jobs: Iterable[Job]) -> tuple[int, list[Recorded]]:
    """Return how many GPUs there were, and the jobs that can be played again, in the order of their arrival."""
    found, sizes = [], dict[str, int]()
    for job in jobs:
        if job.started_mono is None or job.ended_mono is None or job.parent_id is not None or not job.shares:
            continue
        for share in job.shares:
            sizes[share.uuid] = max(sizes.get(share.uuid, 1), share.bytes)
        found.append(job)
    again = []
    for job in found:
        assert job.started_mono is not None
        assert job.ended_mono is not None
        part = max(1.0 if share.whole else share.bytes / sizes[share.uuid] for share in job.shares)
        memory = None if part >= 1.0 else int(CARD_BYTES * part)
        request = replace(job.request, gpus=len(job.shares), memory_bytes=memory, memory_percent=None, allowed=None)
        seconds = max(0.0, job.ended_mono - job.started_mono)
        again.append(Recorded(job.submitted_at, seconds, request, job.name or job.cwd.decode("utf-8", "replace")))
    return len(sizes), sorted(again, key=lambda each: each.submit_seconds)


def played(gpus: int, jobs: Sequence[Recorded], order: Order) -> Came:
    """Play jobs in an order; those who said that they may be run again give way, as they would."""
    begun = min((each.submit_seconds for each in jobs), default=0.0)
    moved = [replace(each, submit_seconds=each.submit_seconds - begun) for each in jobs]
    replay = Replay(gpus, moved, Rules(order, Preempt.REQUEUE if order is not Order.ARRIVAL else Preempt.NEVER))
    replay.run()
    waits, took = [], []
    for course in replay.courses.values():
        waits.append((course.begun or 0.0) - course.recorded.submit_seconds)
        took.append((course.ended or 0.0) - course.recorded.submit_seconds)
    count = max(1, len(waits))
    return Came(order, sum(waits) / count, sum(took) / count, max(waits, default=0.0), replay.preemptions)


def gain(arrival: Came, other: Came) -> str | None:
    """Say how much less would have been waited; None where it is hardly any."""
    if arrival.wait_mean < 60.0 or other.wait_mean * 1.3 > arrival.wait_mean:
        return None
    return f"{arrival.wait_mean / max(other.wait_mean, 1.0):.1f} times less"
