"""From what the hosts show to what the policy sees: which GPU process belongs to which job, and who is a stranger.

1. A process is a job's if a chain of living parents leads to the job's leader or to a process known to be the job's, or
   if it was started with the job's marker in its environment; once known it stays known while it lives.
2. What cannot be attributed is foreign, and foreign counts as taken (`strangers` says who does not compute).
3. A nested job's processes count for the outer job in the outer view.
"""

from collections.abc import Iterable, Mapping

from ..host import processes
from ..host.devices import Look
from ..lifecycle import STARTED, JobState
from ..model import Bounds, Claim, ForeignProcess, Gpu, GpuSample, Identity, Job, Leftover, Share, View
from .seats import Seat
from .strangers import Ignored, Strangers, means_nothing_here


class Observer:
    """Attributes GPU processes, and keeps what it found out while the processes live."""

    def __init__(
        self, live: Mapping[int, Job], holding: Mapping[int, Job], seats: Mapping[int, Seat], ignored: Ignored = ()
    ) -> None:
        self._jobs = live
        self._holding = holding
        self._seats = seats
        self._owners: dict[tuple[int, int], int | None] = {}
        self.strangers = Strangers(ignored)

    def outer_view(
        self, look: Look, others: Mapping[str, Claim], drained: frozenset[str], bounds: Bounds
    ) -> View:
        """Build the view of the outer queue."""
        jobs = tuple(job for job in self._jobs.values() if job.parent_id is None)
        stopped, absent = self._passed_over(jobs)
        owners = self._owners_of(look)
        gpus = tuple(self._gpu(sample, owners, others, drained) for sample in look.samples)
        return View(gpus, jobs, stopped, absent, bounds)

    def inner_view(self, parent: Job, look: Look, bounds: Bounds) -> View:
        """Build the view inside a job's grant: its shares are the GPUs, its nested jobs the queue.

        Ancestors' own use is not counted, only siblings': what counts is what was granted to the outer job.
        """
        jobs = tuple(job for job in self._jobs.values() if job.parent_id == parent.id)
        stopped, absent = self._passed_over(jobs)
        owners = self._owners_of(look)
        samples = {sample.uuid: sample for sample in look.samples}
        gpus = tuple(_inner_gpu(share, samples.get(share.uuid), owners, jobs) for share in parent.shares)
        return View(gpus, jobs, stopped, absent, bounds)

    def used_by(self, look: Look) -> dict[int, dict[str, int | None]]:
        """Return the bytes that each job's processes hold, by job and GPU; None where the driver does not say."""
        owners = self._owners_of(look)
        used: dict[int, dict[str, int | None]] = {}
        for sample in look.samples:
            for process in sample.processes or ():
                job_id = owners.get(process.pid)
                while job_id is not None:
                    per_gpu = used.setdefault(job_id, {})
                    per_gpu[sample.uuid] = _sum(per_gpu.get(sample.uuid, 0), process.bytes)
                    job = self._jobs.get(job_id)
                    job_id = job.parent_id if job else None
        return used

    def holders(self, look: Look, job: Job) -> list[tuple[int, int | None]]:
        """Return the pids (with bytes) of a job's processes that the driver names on GPUs of its grant."""
        owners = self._owners_of(look)
        uuids = {share.uuid for share in job.shares}
        return [
            (process.pid, process.bytes)
            for sample in look.samples
            if sample.uuid in uuids
            for process in sample.processes or ()
            if owners.get(process.pid) == job.id
        ]

    def _passed_over(self, jobs: Iterable[Job]) -> tuple[frozenset[int], frozenset[int]]:
        stopped, absent = set(), set()
        waiting, seats = JobState.WAITING, self._seats
        for job, seat in [(job, seats.get(job.id)) for job in jobs if job.state is waiting]:
            if seat is None or seat.connection is None or seat.mute:
                absent.add(job.id)
            elif seat.stopped:
                stopped.add(job.id)
        return frozenset(stopped), frozenset(absent)

    def _owners_of(self, look: Look) -> dict[int, int | None]:
        """Map the pid of each GPU process to the innermost job it belongs to, None for a foreign one."""
        pids = {process.pid for sample in look.samples for process in sample.processes or ()}
        if not pids:
            return {}
        leaders = self._leaders()
        found: dict[int, int | None] = {}
        seen: set[tuple[int, int]] = set()
        for pid in pids:
            stat = processes.read_stat(pid)
            if stat is None:
                found[pid] = None
                continue
            key = (pid, stat.start_ticks)
            seen.add(key)
            if self._owners.get(key) not in self._jobs:
                self._owners[key] = self._find_owner(stat, leaders)
            found[pid] = self._owners[key]
        self._owners = {key: owner for key, owner in self._owners.items() if key in seen}
        return found

    def _leaders(self) -> dict[int, tuple[int, int]]:
        """Map the pids of all processes known to be a job's to their start and the job; inner jobs win over outer ones."""
        leaders: dict[int, tuple[int, int]] = {}
        for job in sorted(self._holding.values(), key=lambda job: job.id):
            if job.state in STARTED or job.state is JobState.GRANTED:
                leaders[job.identity.pid] = (job.identity.start_ticks, job.id)
            seat = self._seats.get(job.id)
            for kin in seat.kin.values() if seat else ():
                leaders[kin.pid] = (kin.start_ticks, job.id)
        return leaders

    def _find_owner(self, stat: processes.Stat, leaders: Mapping[int, tuple[int, int]]) -> int | None:
        for ancestor in processes.ancestors(stat.pid):
            start, job_id = leaders.get(ancestor.pid, (None, 0))
            if start == ancestor.start_ticks:
                self._remember(stat, job_id)
                return job_id
        for job in self._holding.values():
            if job.shares and stat.start_ticks >= job.identity.start_ticks and processes.has_marker(stat.pid, marker(job)):
                self._remember(stat, job.id)
                return job.id
        return None

    def _remember(self, stat: processes.Stat, job_id: int) -> None:
        seat, job = self._seats.get(job_id), self._jobs[job_id]
        if seat is not None and stat.pid != job.identity.pid:
            boot, namespace = job.identity.boot_id, job.identity.pid_namespace
            seat.kin[stat.pid] = Identity(boot, namespace, stat.pid, stat.start_ticks)

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
            owner = self._outermost(owners.get(process.pid))
            if owner is not None:
                used[owner.id] = _sum(used.get(owner.id, 0), process.bytes)
                if owner.state is JobState.ENDED:
                    command = processes.command_text(process.pid)
                    leftovers.append(Leftover(owner.id, process.pid, command, process.bytes, owner.ended_at or 0.0))
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
            seat = self._seats.get(job.id)
            if job.state is not JobState.ENDED or job.id in named or seat is None:
                continue
            kin = next(iter(seat.kin.values()), None)
            if kin is not None and any(share.uuid == uuid for share in job.shares):
                found.append(Leftover(job.id, kin.pid, processes.command_text(kin.pid), None, job.ended_at or 0.0))
        return found

    def _outermost(self, job_id: int | None) -> Job | None:
        job = self._jobs.get(job_id) if job_id is not None else None
        while job is not None and job.parent_id is not None:
            job = self._jobs.get(job.parent_id)
        return job


def _inner_gpu(
    share: Share, sample: GpuSample | None, owners: Mapping[int, int | None], jobs: tuple[Job, ...]
) -> Gpu:
    """One GPU of a grant, as large as what was granted; taken are only the nested jobs' promises and use."""
    used: dict[int, int | None] = {}
    ids = {job.id for job in jobs}
    for process in (sample.processes if sample else None) or ():
        owner = owners.get(process.pid)
        if owner in ids:
            used[owner] = _sum(used.get(owner, 0), process.bytes)
    taken = sum(size or 0 for size in used.values())
    return Gpu(
        uuid=share.uuid,
        index=share.index,
        name=sample.name if sample else "",
        total_bytes=share.bytes,
        free_bytes=max(0, share.bytes - taken),
        used=used,
        fault=sample.fault if sample else "it has gone",
        links=sample.links if sample else {},
    )


def marker(job: Job) -> tuple[bytes, ...]:
    """Return the environment entries that a job's processes inherit. Numbers are per world, GPUs' UUIDs are not."""
    uuids = ",".join(share.uuid for share in job.shares)
    return (f"GPURUN_JOB={job.id}".encode(), f"GPURUN_GPU_UUIDS={uuids}".encode())


def _sum(known: int | None, more: int | None) -> int | None:
    return None if known is None or more is None else known + more
