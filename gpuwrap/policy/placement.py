"""What is left on each GPU, and what stands in a request's way there.

1. Unknown is never free: a figure that is None closes the GPU, a process without figures counts as computing.
2. `Room.fits` and `Room.obstacle` always agree: it fits where nothing stands in the way.
3. What would stand with all our jobs gone (`Room.lasting`) is decided by the view alone, never by the grants of this
   plan: otherwise the job for which GPUs are kept would change when the plan is made again.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from ..model import Bounds, ComputeMode, ForeignProcess, Gpu, Leftover, Obstacle, Request, Rule, Share
from ..units import GIB, MIB

# A foreign process may grow by this much beyond all it was ever seen to hold.
FOREIGN_GROWTH_BYTES = 256 * MIB
# More memory than this that nobody is named for is somebody; less is what the driver keeps for itself, or a display.
UNEXPLAINED_BYTES, UNEXPLAINED_PART = GIB, 0.03
# A percentage may fall short by so much, and by no more than this part of itself: what the driver keeps for itself wavers.
WAVER_BYTES, WAVER_PART = 64 * MIB, 1 / 16


@dataclass(slots=True)
class Shape:
    """What equal requests have in common. `waiting` counts those not passed over, `failed` is their shared verdict.

    `own`: ended jobs whose shares the asking process itself still holds, and which it goes on with: they are not in its way.
    """

    gpus: int
    bytes: int | None
    percent: float | None
    whole: bool
    allowed: frozenset[str] | None
    limit_seconds: float | None
    own: frozenset[int] = frozenset()
    waiting: int = 0
    failed: bool = False

    @classmethod
    def of(cls, request: Request, own: frozenset[int] = frozenset()) -> "Shape":
        """Return the shape of a request."""
        size, percent = request.memory_bytes, request.memory_percent
        return cls(request.gpus, size, percent, not request.shares, request.allowed, request.time_limit_seconds, own)

    def allows(self, gpu: Gpu) -> bool:
        """Whether it may be placed there: its owner lets it be, and the program will see it.

        A program sees one MIG instance, and no other GPU beside it [CUDA programming guide, MIG].
        """
        return (self.gpus <= 1 or not gpu.is_mig) and (self.allowed is None or gpu.uuid in self.allowed)


class Holder(NamedTuple):
    """A job that holds a share of a GPU: what it was promised, or holds if `paused`. `ends_mono` infinite: nobody knows."""

    job_id: int
    bytes: int
    whole: bool = False
    paused: bool = False
    ended: bool = False
    ends_mono: float = inf


class Left(NamedTuple):
    """What a GPU would have left. `bytes` for one more job, -1 for none; `alone`: nobody of ours computes there; `clear`: nor
    holds memory; `crowded`: no job may be added, whatever it needs.
    """

    bytes: int
    alone: bool
    clear: bool
    crowded: bool


class Room:
    """One GPU during one plan: who holds it, and what is left.

    `available` is what a sharing job may have, -1 when no job may be added. `empty`: nobody computes there, as far as
    anyone can see. `closed` is what keeps every job away even with all of ours gone.
    """

    __slots__ = (
        "_ceiling", "_free", "_in_the_way", "_lefts", "_limit", "_margin", "_potential", "_taken", "_total", "available",
        "closed", "empty", "gpu", "holders", "strays", "unexplained", "usable",
    )  # fmt: skip

    def __init__(self, gpu: Gpu, bounds: Bounds) -> None:
        self.gpu = gpu
        self.holders: list[Holder] = []
        self.strays: tuple[int, ...] = ()
        self._in_the_way: dict[tuple[bool, bool, frozenset[int]], Obstacle | None] = {}
        self._lefts: dict[tuple[frozenset[int], frozenset[int]], Left] = {}
        self._limit = bounds.jobs_per_gpu
        self._total = gpu.total_bytes or 0
        self._free = min(gpu.free_bytes or 0, self._total)
        self._ceiling = -(-self._total // GIB) * GIB
        left_over = unexplained_bytes(gpu)
        # What the driver keeps for itself, and a display, never come free.
        reserve = (left_over or 0) + gpu.bystander_bytes
        self.usable = self._total - bounds.keep_free_bytes
        if reserve <= unexplained_allowance(self._total):
            self.usable -= reserve
        self.unexplained = left_over is not None and left_over > unexplained_allowance(self._total)
        self._margin = bounds.keep_free_bytes + _foreign_growth(gpu, self.unexplained)
        # With a process of ours on it, memory that nobody is named for is taken to be ours: the driver leaves
        # managed memory out of the figures per process.
        self._taken = any(size != 0 for size in gpu.used.values())
        self._potential = self._free
        if self._taken:
            strangers = sum(each.bytes or 0 for each in gpu.foreign or ()) + gpu.bystander_bytes
            self._potential = max(self._free, self._total - strangers)
        self.closed = _closed(gpu, bounds)
        self.settle()

    def hold(self, holder: Holder) -> None:
        """Count a share; `settle` must follow before anything is asked."""
        self.holders.append(holder)

    def settle(self) -> None:
        """Work out anew what is left."""
        self._in_the_way.clear()
        self._lefts.clear()
        if self._taken:
            ids = {holder.job_id for holder in self.holders}
            self.strays = tuple(sorted(job for job, size in self.gpu.used.items() if size != 0 and job not in ids))
        if self.closed is not None:
            self.available, self.empty = -1, False
            return
        self.available = self._available(self.holders, 0)
        nobody = not self.holders and not self.strays and not self.gpu.foreign
        self.empty = nobody and not self.unexplained

    def need(self, shape: Shape) -> tuple[int, bool]:
        """Return the memory that must be there, and whether the GPU is wanted whole.

        A request between what the card can give and the next whole GiB (`-m 24G` on a "24 GB" card) means all of it.
        """
        size = self.asked(shape)
        if size is None or self.usable <= size <= self._ceiling:
            return 0, True
        if shape.percent is not None:
            size -= min(WAVER_BYTES, int(size * WAVER_PART))
        return size, shape.whole

    def asked(self, shape: Shape) -> int | None:
        """Return the memory that is asked for here, None for all of it.

        A percentage is of what the card can give, rounded down: two jobs of 50% fit on it, four of 25%.
        """
        if shape.percent is not None:
            return max(1, int(max(0, self.usable) * shape.percent / 100))
        return None if shape.bytes is None else max(1, shape.bytes)

    def fits(self, shape: Shape) -> bool:
        """Whether the request can be placed here now."""
        if not shape.allows(self.gpu):
            return False
        size, whole = self.need(shape)
        if shape.own:
            return self.lasting(shape) is None and self._own(shape) is None
        if whole:
            return self.empty and (size == 0 or size <= self.available)
        return size <= self.available

    def bars(self, shape: Shape, other: Shape) -> bool:
        """Whether what the process that asks for `shape` holds here would keep another job away with all others gone."""
        holders = {holder.job_id for holder in self.holders}
        size, whole = self.need(other)
        return not holders.isdisjoint(shape.own) and (whole or size > self.left(holders - shape.own).bytes)

    def share(self, shape: Shape) -> Share:
        """Return the share that the request would be given here."""
        least, whole = self.need(shape)
        size = max(least, min(self.asked(shape) or 0, self.available))
        return Share(self.gpu.uuid, self.gpu.index, self._total if whole else size, whole)

    def obstacle(self, shape: Shape) -> Obstacle | None:
        """Say what stands in the way now."""
        return self.lasting(shape) or self._own(shape)

    def lasting(self, shape: Shape) -> Obstacle | None:
        """Say what would stand in the way with all our jobs gone."""
        if self.closed is not None:
            return self.closed
        size, whole = self.need(shape)
        if size > self._ceiling:
            return self._obstacle(Rule.MEMORY)
        if whole and self.gpu.foreign:
            return self._obstacle(Rule.FOREIGN, process=largest(self.gpu.foreign))
        if whole and self.unexplained and not self._taken:
            return self._obstacle(Rule.UNEXPLAINED)
        if size == 0 or size <= self._potential - self._margin:
            return None
        if self.gpu.foreign:
            return self._obstacle(Rule.FOREIGN, process=largest(self.gpu.foreign))
        return self._obstacle(Rule.UNEXPLAINED if self.unexplained else Rule.MEMORY)

    def left(self, gone: Collection[int] = (), paused: Collection[int] = ()) -> Left:
        """Return what would be left beside those paused already, with some jobs gone and others paused.

        A paused job computes nothing and is promised what it holds. Only figures that are known come free: what a job that
        goes holds is unknown unless the driver says so, or unless nobody at all is left.
        """
        asked = frozenset(gone), frozenset(paused)
        found = self._lefts.get(asked)
        if found is None:
            found = self._lefts[asked] = self._left(*asked)
        return found

    def _left(self, gone: frozenset[int], paused: frozenset[int]) -> Left:
        used, mode = self.gpu.used, self.gpu.compute_mode
        if self.closed is not None:
            return Left(-1, False, False, True)
        staying = [holder for holder in self.holders if holder.job_id not in gone]
        strays = [job_id for job_id in self.strays if job_id not in gone]
        frozen = [holder for holder in staying if holder.paused or holder.job_id in paused]
        computing = [holder for holder in staying if not holder.paused and holder.job_id not in paused]
        holding = {holder.job_id: self.held(holder.job_id, holder.bytes) for holder in frozen}
        promised = sum(max(0, size - (used.get(job_id) or 0)) for job_id, size in holding.items())
        promised += sum(max(0, holder.bytes - (used.get(holder.job_id) or 0)) for holder in computing)
        nobody = not staying and not strays
        left_some = len(staying) + len(strays) < len(self.holders) + len(self.strays)
        free = min(self._total, self._free + sum(used.get(job_id) or 0 for job_id in gone))
        if nobody and left_some and self.gpu.foreign == ():
            free = self._total - self.gpu.bystander_bytes
        alone = not computing and not strays
        ours = self._taken and nobody and left_some
        return Left(
            bytes=max(-1, free - promised - self._margin),
            alone=alone,
            clear=alone and not any(holding.values()) and (ours or not self.unexplained),
            crowded=any(holder.whole for holder in computing)
            or (self._limit is not None and len(computing) >= self._limit)
            or (not nobody and mode is ComputeMode.EXCLUSIVE_PROCESS),
        )

    def held(self, job_id: int, promised: int) -> int:
        """Return what a job holds here now; all that it was promised if that is not known."""
        if job_id not in self.gpu.used and self.gpu.foreign is not None:
            return 0  # the driver names the processes here, and none is of this job
        size = self.gpu.used.get(job_id)
        return promised if size is None else size

    def takes_back(self, job_id: int, share: Share, sized: bool) -> bool:
        """Whether a paused job may compute here again beside the others; `sized`: its promise is a need, not what was left.

        Strangers that came meanwhile are not waited for: they would have come as well had it not been paused. Beside
        computing jobs the same headroom is left as for a grant: else who was paused for the sake of that headroom would go
        on at once. Beside none of them it is there for what the figures waver by.
        """
        others = [holder for holder in self.holders if holder.job_id != job_id]
        computing = [holder for holder in others if not holder.paused]
        strays = [stray for stray in self.strays if stray != job_id]
        if not computing and not strays and not any(holder.bytes for holder in others):
            return True
        if any(holder.whole for holder in computing) or (share.whole and (computing or strays)):
            return False
        if self.closed is not None or (self._limit is not None and len(computing) >= self._limit):
            return False
        used = self.gpu.used
        promised = sum(max(0, holder.bytes - (used.get(holder.job_id) or 0)) for holder in others)
        to_come = max(0, share.bytes - (used.get(job_id) or 0))
        return not sized or to_come <= self._free - promised - (self._margin if computing else 0)

    def total(self) -> int:
        """Return the memory of the GPU, 0 if it is not known."""
        return self._total

    def frees_mono(self, shape: Shape) -> tuple[float, int, int]:
        """Rank by when it could be had: the time if known, else by how many hold it.

        The rank of a GPU never gets worse while it is kept, so a job for which GPUs are kept waits for ever fewer
        holders even when the choice moves to other GPUs. Holders count only where the time is unknown: a job that
        slips in before a known time adds a holder, but not time.
        """
        if self.fits(shape):
            return -inf, 0, self.gpu.index
        time = self._time(shape)
        if time < inf:
            return time, 0, self.gpu.index
        # What an ended job left behind has no reason to end at all.
        weight = sum(1000 if holder.ended else 1 for holder in self.holders) + len(self.strays)
        return time, weight, self.gpu.index

    def _time(self, shape: Shape) -> float:
        size, whole = self.need(shape)
        if self.strays and (whole or self.gpu.compute_mode is ComputeMode.EXCLUSIVE_PROCESS):
            return inf
        if not whole:
            for ends_mono, available in self._to_come():
                if size <= available:
                    return ends_mono
        return max((holder.ends_mono for holder in self.holders), default=inf)

    def _to_come(self) -> Iterator[tuple[float, int]]:
        """What a sharing job may have after the end of each holder, in order of their ends."""
        leaving, freed = sorted(self.holders, key=lambda holder: holder.ends_mono), 0
        for gone, holder in enumerate(leaving, 1):
            freed += self.gpu.used.get(holder.job_id) or 0
            yield holder.ends_mono, self._available(leaving[gone:], freed)

    def steps(self) -> Iterator[int]:
        """Tell all figures that a size is compared with: whatever is said of a size here holds up to the next of them."""
        yield from (self.usable - 1, self._ceiling, self.available, self._potential - self._margin)
        yield from (available for _, available in self._to_come())

    def _available(self, holders: Sequence[Holder], freed: int) -> int:
        """Return what a sharing job may have beside these holders, once those that leave have freed that much."""
        for holder in holders:
            if holder.whole or holder.paused:
                return -1
        if self._limit is not None and len(holders) >= self._limit:
            return -1
        if (holders or self.strays) and self.gpu.compute_mode is ComputeMode.EXCLUSIVE_PROCESS:
            return -1
        used = self.gpu.used
        promised = sum(max(0, holder.bytes - (used.get(holder.job_id) or 0)) for holder in holders)
        return max(-1, min(self._total, self._free + freed) - promised - self._margin)

    def _own(self, shape: Shape) -> Obstacle | None:
        """Say which of our jobs stand in the way: the same ones for all that want it whole or not, and fit or not."""
        size, whole = self.need(shape)
        left = self.left(shape.own).bytes if shape.own else self.available
        asked = whole, short, _ = whole, size > 0 and size > left, shape.own
        if asked not in self._in_the_way:
            self._in_the_way[asked] = self._jobs_in_the_way(whole, short, shape.own)
        return self._in_the_way[asked]

    def _jobs_in_the_way(self, whole: bool, short: bool, own: frozenset[int]) -> Obstacle | None:
        holders = [holder for holder in self.holders if holder.job_id not in own]
        strays = tuple(stray for stray in self.strays if stray not in own)
        barring = [holder for holder in holders if whole or holder.whole or holder.paused]
        if barring or (whole and strays):
            return self._by_jobs(Rule.BUSY, barring, strays if whole else ())
        if (holders or strays) and self.gpu.compute_mode is ComputeMode.EXCLUSIVE_PROCESS:
            return self._by_jobs(Rule.COMPUTE_MODE, holders, strays)
        if self._limit is not None and len(holders) >= self._limit:
            return self._by_jobs(Rule.JOBS_PER_GPU, holders)
        if short:
            return self._by_jobs(Rule.MEMORY, holders, strays)
        return None

    def _by_jobs(self, rule: Rule, holders: Sequence[Holder], strays: tuple[int, ...] = ()) -> Obstacle:
        living = tuple(sorted({holder.job_id for holder in holders if not holder.ended} | set(strays)))
        if living or not holders:
            return self._obstacle(rule, job_ids=living)
        ids = tuple(sorted({holder.job_id for holder in holders}))
        found = next((each for each in self.gpu.leftovers if each.job_id in ids), None)
        return self._obstacle(Rule.LEFTOVER, job_ids=ids, leftover=found)

    def _obstacle(
        self,
        rule: Rule,
        *,
        job_ids: tuple[int, ...] = (),
        process: ForeignProcess | None = None,
        leftover: Leftover | None = None,
    ) -> Obstacle:
        free = max(0, self.available) if rule in (Rule.MEMORY, Rule.LEFTOVER) else None
        return Obstacle(self.gpu.index, rule, job_ids, process, leftover, free_bytes=free, total_bytes=self._total)


def unexplained_bytes(gpu: Gpu) -> int | None:
    """Return the memory that nobody is named for; None if it cannot be told."""
    named = [*gpu.used.values(), *(each.bytes for each in gpu.foreign or ())]
    if gpu.total_bytes is None or gpu.free_bytes is None:
        return None
    known = [size for size in named if size is not None]
    if len(known) < len(named):
        return None
    return max(0, gpu.total_bytes - gpu.free_bytes - gpu.bystander_bytes - sum(known))


def unexplained_allowance(total_bytes: int) -> int:
    """Return how much memory may be held by nobody before it counts as somebody's."""
    return max(UNEXPLAINED_BYTES, int(total_bytes * UNEXPLAINED_PART))


def largest(foreign: Sequence[ForeignProcess]) -> ForeignProcess:
    """Return the foreign process that holds most; one whose bytes are unknown may hold anything."""
    return max(foreign, key=lambda each: inf if each.bytes is None else each.bytes)


def _foreign_growth(gpu: Gpu, unexplained: bool) -> int:
    """Return the room left to strangers: up to the most they ever held, and a little more."""
    if gpu.foreign is None:
        return FOREIGN_GROWTH_BYTES if unexplained else 0
    if not gpu.foreign:
        return 0
    known = [each.bytes for each in gpu.foreign if each.bytes is not None]
    if len(known) < len(gpu.foreign):
        return FOREIGN_GROWTH_BYTES
    return max(0, (gpu.foreign_peak_bytes or 0) - sum(known)) + FOREIGN_GROWTH_BYTES


def _closed(gpu: Gpu, bounds: Bounds) -> Obstacle | None:
    if gpu.fault is not None:
        return Obstacle(gpu.index, Rule.UNHEALTHY, fault=gpu.fault)
    if gpu.drained:
        return Obstacle(gpu.index, Rule.DRAINED)
    if gpu.claim is not None:
        return Obstacle(gpu.index, Rule.CLAIMED, claim=gpu.claim)
    if gpu.total_bytes is None or gpu.free_bytes is None:
        return Obstacle(gpu.index, Rule.UNKNOWN)
    if gpu.compute_mode is ComputeMode.PROHIBITED:
        return Obstacle(gpu.index, Rule.COMPUTE_MODE)
    if gpu.compute_mode is ComputeMode.EXCLUSIVE_PROCESS and gpu.foreign:
        return Obstacle(gpu.index, Rule.COMPUTE_MODE, process=largest(gpu.foreign))
    if bounds.jobs_per_gpu is not None and bounds.jobs_per_gpu < 1:
        return Obstacle(gpu.index, Rule.JOBS_PER_GPU)
    return None
