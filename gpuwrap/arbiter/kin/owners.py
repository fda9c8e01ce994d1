"""Whose a GPU process is: which job's, of those that the driver names.

1. A process is a job's if a chain of living parents leads to the job's leader or to a process known to be the job's, or
   if it, or who started it, is linked to the job (`links`); once known it stays known while it lives.
2. What cannot be attributed is foreign. A nested job's processes are those of the jobs around it too.
3. A process that leads one job after another (blocks of a program) is on each GPU the latest's that has a share of it.
"""

from collections.abc import Mapping

from ...host import processes
from ...host.devices import Look
from ...host.processes import Stat
from ...lifecycle import STARTED, JobState
from ...model import GpuProcess, Job
from ...state.mirror import around
from .known import Known
from .links import Links
from .walk import identity_of


class Owners:
    """Attributes GPU processes, and keeps what it found out while the processes live."""

    def __init__(self, live: Mapping[int, Job], holding: Mapping[int, Job], known: Known, links: Links) -> None:
        self._jobs = live
        self._holding = holding
        self._known = known
        self._links = links
        self._owners: dict[tuple[int, int], int | None] = {}

    def of(self, look: Look) -> dict[int, int | None]:
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

    def on(self, uuid: str, owner: int | None) -> int | None:
        """Tell to which of its leader's jobs a process of a job belongs on one GPU."""
        job = self._jobs.get(owner) if owner is not None else None
        if job is None or any([share.uuid == uuid for share in job.shares]):
            return owner
        alike = [each for each in self._holding.values() if each.identity == job.identity]
        return max([each.id for each in alike if any(share.uuid == uuid for share in each.shares)], default=owner)

    def lineage(self, job_id: int) -> list[int]:
        """Return the number of a job, and those of the jobs inside which it runs, the nearest first."""
        job = self._jobs.get(job_id)
        return [job_id, *(outer.id for outer in around(self._jobs, job))] if job is not None else [job_id]

    def used_by(self, look: Look) -> dict[int, dict[str, int | None]]:
        """Return the bytes that each job's processes hold, by job and GPU; None where the driver does not say."""
        owners = self.of(look)
        used: dict[int, dict[str, int | None]] = {}
        for sample in look.samples:
            for process in sample.processes or ():
                owner = self.on(sample.uuid, owners.get(process.pid))
                for job_id in self.lineage(owner) if owner is not None else ():
                    per_gpu = used.setdefault(job_id, {})
                    per_gpu[sample.uuid] = added(per_gpu.get(sample.uuid, 0), process.bytes)
        return used

    def processes_on(self, look: Look, uuid: str, job_id: int) -> list[GpuProcess]:
        """Return the processes on a GPU that are a job's or of one inside it, the largest first."""
        owners, found = self.of(look), []
        for process in next((sample.processes or () for sample in look.samples if sample.uuid == uuid), ()):
            owner = owners.get(process.pid)
            if owner is not None and job_id in self.lineage(owner):
                found.append(process)
        return sorted(found, key=lambda each: -(each.bytes or 0))

    def holders(self, look: Look, job: Job) -> list[tuple[int, int | None]]:
        """Return the pids (with bytes) of a job's processes that the driver names on GPUs of its grant."""
        owners = self.of(look)
        uuids = {share.uuid for share in job.shares}
        return [
            (process.pid, process.bytes)
            for sample in look.samples
            if sample.uuid in uuids
            for process in sample.processes or ()
            if self.on(sample.uuid, owners.get(process.pid)) == job.id
        ]

    def _leaders(self) -> dict[int, tuple[int, int]]:
        """Map the pids of all processes known to be a job's to their start and the job; inner jobs win over outer ones."""
        leaders: dict[int, tuple[int, int]] = {}
        without_gpus = [job for job in self._jobs.values() if not job.shares and job.state in STARTED]
        for job in sorted([*self._holding.values(), *without_gpus], key=lambda job: job.id):
            if job.state in STARTED or job.state is JobState.GRANTED:
                leaders[job.identity.pid] = (job.identity.start_ticks, job.id)
            for kin in self._known.seen(job.id).processes.values():
                leaders[kin.pid] = (kin.start_ticks, job.id)
        return leaders

    def _find_owner(self, stat: Stat, leaders: Mapping[int, tuple[int, int]]) -> int | None:
        line = []
        for ancestor in processes.ancestors(stat.pid):
            start, job_id = leaders.get(ancestor.pid, (None, 0))
            if start == ancestor.start_ticks:
                self._remember(stat, job_id)
                return job_id
            line.append(ancestor)
        job = self._linked(line)
        if job is None:
            return None
        self._remember(stat, job.id)
        return job.id

    def _linked(self, line: list[Stat]) -> Job | None:
        """Return the job to which a process is linked, or the nearest of its ancestors that is (a container's first)."""
        oldest = min([job.identity.start_ticks for job in self._holding.values()], default=None)
        latest_first = sorted(self._holding.values(), key=lambda job: -job.id)
        for stat in line:
            if oldest is None or stat.start_ticks < oldest:
                return None  # and who is further up is older
            job = self._links.find(stat, latest_first)
            if job is not None:
                return job
        return None

    def _remember(self, stat: Stat, job_id: int) -> None:
        job = self._jobs[job_id]
        if stat.pid != job.identity.pid:
            self._known.of(job_id).processes[stat.pid] = identity_of(job, stat)


def added(known: int | None, more: int | None) -> int | None:
    """Add sizes, of which each may be unknown."""
    return None if known is None or more is None else known + more
