"""From what the hosts show to what the policy sees: which GPU process belongs to which job, and who is a stranger.

1. A process is a job's if a chain of living parents leads to the job's leader or to a process known to be the job's, or
   if it, or who started it, was started with the job's marker in its environment; once known it stays known while it lives.
2. What cannot be attributed is foreign, and foreign counts as taken (`strangers` says who does not compute).
3. A nested job's processes count for the outer job in the outer view.
4. A process that leads one job after another (blocks of a program) is on each GPU the latest's that has a share of it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from ...host import processes
from ...host.devices import Look
from ...lifecycle import STARTED, JobState
from ...model import (
    Bounds,
    Claim,
    ComputeMode,
    ForeignProcess,
    Gpu,
    GpuProcess,
    GpuSample,
    Job,
    Leftover,
    Share,
    View,
)
from ...policy.placement import unexplained_allowance, unexplained_bytes
from ...state.mirror import around
from ..bell.seat import Seat
from ..kin.marker import marker_of_grant
from ..kin.walk import identity_of
from .strangers import Ignored, Strangers, means_nothing_here


class Observer:
    """Attributes GPU processes, and keeps what it found out while the processes live."""

    def __init__(
        self,
        live: Mapping[int, Job],
        holding: Mapping[int, Job],
        seats: Mapping[int, Seat],
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
        self._owners: dict[tuple[int, int], int | None] = {}
        self.strangers = Strangers(ignored)

    def outer_view(
        self, look: Look, others: Mapping[str, Claim], drained: frozenset[str], bounds: Bounds, **rest: Any
    ) -> View:
        """Build the view of the outer queue; `rest` are the fields that do not come from a look."""
        jobs = tuple(self._jobs.values())
        if self._nested is None or self._nested:  # or else not one of a long line need be touched
            jobs = tuple([job for job in jobs if job.parent_id is None])
        stopped, absent = self._passed_over()
        owners = self._owners_of(look)
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
        owners = self._owners_of(look)
        samples = {sample.uuid: sample for sample in look.samples}
        lineage = self._lineage(parent)
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

    def used_by(self, look: Look) -> dict[int, dict[str, int | None]]:
        """Return the bytes that each job's processes hold, by job and GPU; None where the driver does not say."""
        owners = self._owners_of(look)
        used: dict[int, dict[str, int | None]] = {}
        for sample in look.samples:
            for process in sample.processes or ():
                owner = self._owner_on(sample.uuid, owners.get(process.pid))
                for job_id in self._around(owner) if owner is not None else ():
                    per_gpu = used.setdefault(job_id, {})
                    per_gpu[sample.uuid] = _sum(per_gpu.get(sample.uuid, 0), process.bytes)
        return used

    def processes_on(self, look: Look, uuid: str, job_id: int) -> list[GpuProcess]:
        """Return the processes on a GPU that are a job's or of one inside it, the largest first."""
        owners, found = self._owners_of(look), []
        for process in next((sample.processes or () for sample in look.samples if sample.uuid == uuid), ()):
            owner = owners.get(process.pid)
            if owner is not None and job_id in self._lineage(self._jobs[owner]):
                found.append(process)
        return sorted(found, key=lambda each: -(each.bytes or 0))

    def holders(self, look: Look, job: Job) -> list[tuple[int, int | None]]:
        """Return the pids (with bytes) of a job's processes that the driver names on GPUs of its grant."""
        owners = self._owners_of(look)
        uuids = {share.uuid for share in job.shares}
        return [
            (process.pid, process.bytes)
            for sample in look.samples
            if sample.uuid in uuids
            for process in sample.processes or ()
            if self._owner_on(sample.uuid, owners.get(process.pid)) == job.id
        ]

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

    def _owner_on(self, uuid: str, owner: int | None) -> int | None:
        """Tell to which of its leader's jobs a process of a job belongs on one GPU."""
        job = self._jobs.get(owner) if owner is not None else None
        if job is None or any([share.uuid == uuid for share in job.shares]):
            return owner
        alike = [each for each in self._holding.values() if each.identity == job.identity]
        return max([each.id for each in alike if any(share.uuid == uuid for share in each.shares)], default=owner)

    def _leaders(self) -> dict[int, tuple[int, int]]:
        """Map the pids of all processes known to be a job's to their start and the job; inner jobs win over outer ones."""
        leaders: dict[int, tuple[int, int]] = {}
        without_gpus = [job for job in self._jobs.values() if not job.shares and job.state in STARTED]
        for job in sorted([*self._holding.values(), *without_gpus], key=lambda job: job.id):
            if job.state in STARTED or job.state is JobState.GRANTED:
                leaders[job.identity.pid] = (job.identity.start_ticks, job.id)
            seat = self._seats.get(job.id)
            for kin in seat.kin.values() if seat else ():
                leaders[kin.pid] = (kin.start_ticks, job.id)
        return leaders

    def _find_owner(self, stat: processes.Stat, leaders: Mapping[int, tuple[int, int]]) -> int | None:
        line = []
        for ancestor in processes.ancestors(stat.pid):
            start, job_id = leaders.get(ancestor.pid, (None, 0))
            if start == ancestor.start_ticks:
                self._remember(stat, job_id)
                return job_id
            line.append(ancestor)
        job = self._marked(line)
        if job is None:
            return None
        self._remember(stat, job.id)
        return job.id

    def _marked(self, line: list[processes.Stat]) -> Job | None:
        """Return the job whose marker a process carries, or the nearest of its ancestors that has one (a container's first)."""
        oldest = min([job.identity.start_ticks for job in self._holding.values()], default=None)
        for stat in line:
            if oldest is None or stat.start_ticks < oldest:
                return None  # and who is further up is older
            environment = processes.environment(stat.pid)
            for job in self._holding.values():
                if stat.start_ticks >= job.identity.start_ticks and marker_of_grant(job).is_on(stat.pid, environment):
                    return job
        return None

    def _remember(self, stat: processes.Stat, job_id: int) -> None:
        seat, job = self._seats.get(job_id), self._jobs[job_id]
        if seat is not None and stat.pid != job.identity.pid:
            seat.kin[stat.pid] = identity_of(job, stat)

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
            owner = self._outermost(self._owner_on(sample.uuid, owners.get(process.pid)))
            if owner is not None:
                used[owner.id] = _sum(used.get(owner.id, 0), process.bytes)
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
            seat = self._seats.get(job.id)
            if job.state is not JobState.ENDED or job.id in named or seat is None:
                continue
            kin = next(iter(seat.kin.values()), None)
            if kin is not None and any(share.uuid == uuid for share in job.shares):
                found.append(Leftover(job.id, kin.pid, processes.command_text(kin.pid), None, job.ended_mono))
        return found

    def _lineage(self, job: Job) -> set[int]:
        """The numbers of a job and of those inside which it runs."""
        return {job.id, *(outer.id for outer in around(self._jobs, job))}

    def _inside(self, sample: GpuSample, owners: Mapping[int, int | None], inner: set[int], lineage: set[int]) -> "_Inside":
        """Tell apart what the nested jobs hold, what those around them do, and what other jobs do."""
        used: dict[int, int | None] = {}
        own: list[int | None] = []
        others = 0
        for process in sample.processes or ():
            owner = self._owner_on(sample.uuid, owners.get(process.pid))
            if owner is None:
                continue
            branch = next((job_id for job_id in self._around(owner) if job_id in inner), None)
            if branch is not None:
                used[branch] = _sum(used.get(branch, 0), process.bytes)
            elif owner in lineage:
                own.append(process.bytes)
            else:
                others += process.bytes or 0
        return _Inside(used, tuple(own), others)

    def _outermost(self, job_id: int | None) -> Job | None:
        job = self._jobs.get(job_id) if job_id is not None else None
        return [job, *around(self._jobs, job)][-1] if job is not None else None

    def _around(self, job_id: int) -> list[int]:
        """The number of a job, and those of the jobs inside which it runs, the nearest first."""
        job = self._jobs.get(job_id)
        return [job_id, *(outer.id for outer in around(self._jobs, job))] if job is not None else [job_id]


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


def _sum(known: int | None, more: int | None) -> int | None:
    return None if known is None or more is None else known + more
