"""What users, names or days come to: GPU-hours, jobs, failures, waits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ..model import Job, ResultKind
from .stretches import Stretch

_RAN_BADLY = (ResultKind.EXIT, ResultKind.SIGNAL, ResultKind.LOST, ResultKind.UNKNOWN)


@dataclass
class Sum:
    """What those of one key come to. `gpu_seconds` is time computed, times GPUs; pauses do not count.

    `jobs` have started, `failed` of these ended without success; `never_ran` left the line without a start.
    """

    key: str
    gpu_seconds: float = 0.0
    jobs: int = 0
    failed: int = 0
    never_ran: int = 0
    waits: list[float] = field(default_factory=list)

    @property
    def waited_median(self) -> float | None:
        """How long those that started waited for it, in the middle."""
        return median(self.waits) if self.waits else None

    @property
    def waited_most(self) -> float | None:
        """How long the one waited that waited longest."""
        return max(self.waits, default=None)

    def as_json(self, by: str) -> dict[str, Any]:
        """Write it for `history --json`."""
        return {
            by: self.key,
            "gpu_seconds": round(self.gpu_seconds, 3),
            "jobs": self.jobs,
            "failed": self.failed,
            "never_ran": self.never_ran,
            "waited_median_seconds": self.waited_median,
            "waited_most_seconds": self.waited_most,
        }


def has_failed(job: Job) -> bool:
    """Whether a job started, or would have, and did not succeed; one that was taken out of the line has not failed."""
    result = job.result
    if result is None or result.kind not in _RAN_BADLY or (job.started_at is None and result.kind is not ResultKind.LOST):
        return False
    return not (result.kind is ResultKind.EXIT and result.code == 0)


def sums_by(
    jobs: Sequence[Job], stretches: Mapping[int, Sequence[Stretch]], waits: Mapping[int, float],
    keys_of: Callable[[Job, Stretch | None], Iterable[tuple[str, float]]],
) -> list[Sum]:
    """Sum jobs up, the most GPU-hours first.

    `keys_of` says to which keys a stretch of a job belongs, and with which part of it; of no stretch, where the job itself
    counts. `waits` are how long jobs waited for their first start.
    """  # fmt: skip
    found: dict[str, Sum] = {}
    for job in jobs:
        for stretch in stretches.get(job.id, ()):
            if stretch.paused:
                continue
            for key, part in keys_of(job, stretch):
                found.setdefault(key, Sum(key)).gpu_seconds += stretch.seconds * part * job.request.gpus
        for key, _part in keys_of(job, None):
            its = found.setdefault(key, Sum(key))
            if job.id in waits:
                its.jobs += 1
                its.waits.append(waits[job.id])
                its.failed += has_failed(job)
            elif job.has_ended:
                its.never_ran += 1
    return sorted(found.values(), key=lambda each: (-each.gpu_seconds, -each.jobs, each.key))
