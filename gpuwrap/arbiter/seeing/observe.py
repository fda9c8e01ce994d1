"""From what the hosts show to what the policy sees: what jobs hold, and who is a stranger.

1. Whose a process is says `owners`. What is nobody's is foreign, and foreign counts as taken (`strangers` says who does not
   compute).
2. A nested job's processes count for the outer job in the outer view.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ...host import processes
from ...host.devices import Look
from ...lifecycle import JobState
from ...model import (
    Bounds,
    Claim,
    ComputeMode,
    ForeignProcess,
    Gpu,
    GpuSample,
    Job,
    Leftover,
    Share,
    View,
)
from ...policy.placement import unexplained_allowance, unexplained_bytes
from ..bell.seat import Seat
from ..kin.known import Known
from ..kin.owners import Owners, added
from .strangers import Ignored, Strangers, means_nothing_here


class Observer:
    """Builds views from looks."""

    def __init__(
        self,
        live: Mapping[int, Job],
        holding: Mapping[int, Job],
        seats: Mapping[int, Seat],
        known: Known,
        owners: Owners,
        ignored: Ignored = (),
        *,
        nested: Mapping[int, Mapping[int, Job]] | None = None,
        away: set[int] | None = None,
    ) -> None:
        """`nested`: those live jobs that are inside others, by the outer one; `away`: those whose client may be out of reach.

        Both are looked for among all where they are not given.
        """
        self._jobs = live
        self._holding = holding
        self._nested = nested
        self._away = away
        self._seats = seats
        self._known = known
        self._owners = owners
        self.strangers = Strangers(ignored)

    def outer_view(
        self, look: Look, others: Mapping[str, Claim], drained: frozenset[str], bounds: Bounds, **rest: Any
    ) -> View:
        """Build the view of the outer queue; `rest` are the fields that do not come from a look."""
        jobs = tuple(self._jobs.values())
        if self._nested is None or self._nested:  # or else not one of a long line need be touched
            jobs = tuple([job for job in jobs if job.parent_id is None])
        stopped, absent = self._passed_over()
        owners = self._owners.of(look)
        gpus = tuple([self._gpu(sample, owners, others, drained) for sample in look.samples])
        return View(gpus, jobs, stopped, absent, bounds, **rest)

    def inner_view(self, parent: Job, look: Look, bounds: Bounds) -> View:
        """Build the view inside a job's grant: its shares are the GPUs, its nested jobs the queue.

        Ancestors' own use is not counted, only siblings', with what runs inside these. What happens to the GPU itself counts as
        outside; but whoever was let onto a drained one goes on there, with what it starts inside. The headroom is kept once, on
        the GPU.
        """
        jobs = tuple(job for job in self._jobs.values() if job.parent_id == parent.id)
        stopped, absent = self._passed_over()
        owners = self._owners.of(look)
        samples = {sample.uuid: sample for sample in look.samples}
        lineage = set(self._owners.lineage(parent.id))
        gpus = []
        for share in parent.shares:
            sample = samples.get(share.uuid)
            if sample is None:
                gpus.append(_gone(share, look.fault))
                continue
            inside = self._inside(sample, owners, {job.id for job in jobs}, lineage)
            real = self._gpu(sample, owners, {}, frozenset())
            gpus.append(_inner_gpu(share, real, inside, bounds.keep_free_bytes))
        return View(tuple(gpus), jobs, stopped, absent, replace(bounds, keep_free_bytes=0))

    def _passed_over(self) -> tuple[frozenset[int], frozenset[int]]:
        """Return which waiting jobs, of all queues, are stopped, and whose client cannot be reached."""
        seats = self._seats
        suspects = list(seats if self._away is None else self._away)
        if len(seats) < len(self._jobs):
            suspects += self._jobs.keys() - seats.keys()
        stopped: set[int] = set()
        absent: set[int] = set()
        for job_id in suspects:
            job, seat = self._jobs.get(job_id), seats.get(job_id)
            if self._away is not None and (seat is None or not seat.is_away()):
                self._away.discard(job_id)
            if job is None or job.state is not JobState.WAITING:
                continue
            if seat is None or seat.connection is None or seat.mute:
                absent.add(job_id)
            elif seat.stopped:
                stopped.add(job_id)
        return frozenset(stopped), frozenset(absent)

    def _gpu(
        self,
        sample: GpuSample,
        owners: Mapping[int, int | None],
        others: Mapping[str, Claim],
        drained: frozenset[str],
    ) -> Gpu:
        used: dict[int, int | None] = {}
        foreign: list[ForeignProcess] = []
        leftovers: list[Leftover] = []
        bystanders, is_blind = 0, sample.processes is None
        for process in sample.processes or ():
            found_on = self._owners.on(sample.uuid, owners.get(process.pid))
            owner = self._jobs.get(self._owners.lineage(found_on)[-1]) if found_on is not None else None
            if owner is not None:
                used[owner.id] = added(used.get(owner.id, 0), process.bytes)
                if owner.state is JobState.ENDED:
                    command = processes.command_text(process.pid)
                    leftovers.append(Leftover(owner.id, process.pid, command, process.bytes, owner.ended_mono))
                continue
            if means_nothing_here(process):
                is_blind = True
                continue
            found = self.strangers.describe(sample.uuid, process) if not process.graphics else None
            if found is None or self.strangers.is_bystander(process, found):
                bystanders += process.bytes or 0
            else:
                foreign.append(found)
        leftovers += self._unnamed_leftovers(sample.uuid, {each.job_id for each in leftovers})
        used = dict.fromkeys([each.job_id for each in leftovers]) | used  # of who is not named it is not known
        return Gpu(
            uuid=sample.uuid,
            index=sample.index,
            name=sample.name,
            total_bytes=sample.total_bytes,
            free_bytes=sample.free_bytes,
            foreign=None if is_blind else tuple(foreign),
            used=used,
            leftovers=tuple(leftovers),
            claim=others.get(sample.uuid),
            fault=sample.fault,
            drained=sample.uuid in drained,
            compute_mode=sample.compute_mode,
            utilization_percent=sample.utilization_percent,
            foreign_peak_bytes=self.strangers.peak_bytes(sample.uuid, [each.pid for each in foreign]),
            bystander_bytes=bystanders,
            is_mig=sample.is_mig,
            numa_node=sample.numa_node,
            links=sample.links,
        )

    def _unnamed_leftovers(self, uuid: str, named: set[int]) -> list[Leftover]:
        """One survivor of each ended job that keeps a GPU although the driver names none of its processes there."""
        found = []
        for job in self._holding.values():
            if job.state is not JobState.ENDED or job.id in named:
                continue
            kin = next(iter(self._known.seen(job.id).processes.values()), None)
            if kin is not None and any(share.uuid == uuid for share in job.shares):
                found.append(Leftover(job.id, kin.pid, processes.command_text(kin.pid), None, job.ended_mono))
        return found

    def _inside(self, sample: GpuSample, owners: Mapping[int, int | None], inner: set[int], lineage: set[int]) -> "_Inside":
        """Tell apart what the nested jobs hold, what those around them do, and what other jobs do."""
        used: dict[int, int | None] = {}
        own: list[int | None] = []
        others = 0
        for process in sample.processes or ():
            owner = self._owners.on(sample.uuid, owners.get(process.pid))
            if owner is None:
                continue
            branch = next((job_id for job_id in self._owners.lineage(owner) if job_id in inner), None)
            if branch is not None:
                used[branch] = added(used.get(branch, 0), process.bytes)
            elif owner in lineage:
                own.append(process.bytes)
            else:
                others += process.bytes or 0
        return _Inside(used, tuple(own), others)


class _Inside(NamedTuple):
    """What is held on one GPU: by each nested job, by the processes of those around them, by all other jobs."""

    used: dict[int, int | None]
    own: tuple[int | None, ...]
    others: int


def _gone(share: Share, fault: str | None) -> Gpu:
    return Gpu(share.uuid, share.index, "", share.bytes, None, fault=fault or "it has gone")


def _inner_gpu(share: Share, real: Gpu, inside: _Inside, keep_free: int) -> Gpu:
    """One GPU of a grant, as large as what was granted; taken are the nested jobs' promises and use, and whatever leaves less.

    A grant of a whole GPU is waited in for strangers as outside; one of a share was made beside them: they count by what
    they leave.
    """
    taken = sum(size or 0 for size in inside.used.values())
    nobody = unexplained_bytes(real) or 0
    allowance = unexplained_allowance(real.total_bytes or 0)
    room = _room_inside(real, inside, taken, min(nobody, allowance))
    kept = keep_free if share.whole else 0
    free = None if room is None else max(0, min(share.bytes - taken, room - kept))
    sees_strangers = share.whole or real.compute_mode is ComputeMode.EXCLUSIVE_PROCESS
    if share.whole:
        explained = real.bystander_bytes + kept
    else:
        squeezed = max(0, share.bytes - taken - (free or 0))
        explained = squeezed - (min(squeezed, nobody) if nobody > allowance and not inside.own else 0)
    return Gpu(
        uuid=share.uuid,
        index=share.index,
        name=real.name,
        total_bytes=share.bytes,
        free_bytes=free,
        foreign=() if real.foreign is None or not sees_strangers else real.foreign,
        used=inside.used,
        fault=real.fault,
        compute_mode=real.compute_mode,
        utilization_percent=real.utilization_percent,
        foreign_peak_bytes=real.foreign_peak_bytes if sees_strangers else None,
        bystander_bytes=explained,
        is_mig=real.is_mig,
        numa_node=real.numa_node,
        links=real.links,
    )


def _room_inside(real: Gpu, inside: _Inside, taken: int, reserve: int) -> int | None:
    """What there is for nested jobs on the GPU itself; None if that is not known.

    As outside, memory that nobody is named for is taken to be ours where a process of ours is: here that of a job around
    them, whose use does not count. Where the driver never names processes nothing tells it from a stranger's.
    """
    if real.free_bytes is None or real.total_bytes is None:
        return None
    if real.foreign is None:
        return real.total_bytes - taken
    if not inside.own:
        return real.free_bytes
    strangers = [each.bytes for each in real.foreign]
    if None in strangers:
        return real.free_bytes + sum(size or 0 for size in inside.own)
    return real.total_bytes - sum(size or 0 for size in strangers) - real.bystander_bytes - reserve - inside.others - taken
