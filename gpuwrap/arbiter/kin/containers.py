"""Containers, which a daemon starts in somebody's name: what links them to a job, and what of a job is out of reach.

1. Of a container's process neither parents nor session nor group lead to the job whose client asked for it. What it is given
   by that client does: GPURUN_JOB and GPURUN_GPU_UUIDS, passed in with -e (see `marker`), on it or above it, if it runs as
   the same user.
2. Else it is a stranger. Then nobody can stop the job whole, and nobody says so.
3. What runs as another user may not be signalled: it is named, not passed over.
"""

from ...host import processes
from ...model import Job
from ...policy.words import safe
from .links import Links
from .members import Members

# Clients that have a daemon start what they run. (Others, as podman and apptainer, start it themselves.)
CLIENTS = (b"docker", b"nerdctl", b"ctr", b"podman-remote")
# What a client is told that runs something in one; it pulls and builds, too.
RUNS = {b"run", b"exec", b"start", b"up", b"attach"}
PASSED_IN = "-u $(id -u) -e GPURUN_JOB -e GPURUN_GPU_UUIDS"
# So many are named.
NAMED = 2


class Containers:
    """Knows what of jobs is out of reach."""

    def __init__(self, members: Members, links: Links) -> None:
        self._members = members
        self._links = links

    def unlinked(self, job: Job) -> str | None:
        """Name the client in a job that runs a container of which no process is known as the job's; None if there is none."""
        client = next((stat for stat in self._members.tree(job) if _runs_one(stat.pid)), None)
        if client is None:
            return None
        below = {job.identity.pid, *(stat.pid for stat in self._members.below(job))}
        if any(pid not in below for pid, _size in self._members.holders(job)) or self._is_marked_elsewhere(job, below):
            return None
        return f"{processes.name(client.pid).decode()}, pid {client.pid}"

    def _is_marked_elsewhere(self, job: Job, below: set[int]) -> bool:
        """Whether a process that lives in other control groups than the job carries its marker."""
        mine = processes.groups_of(job.identity.pid)
        found = (stat.pid for stat in self._links.marked(job, self._members.jobs.family(job)) if stat.pid not in below)
        return any(processes.groups_of(pid) != mine for pid in found)

    def why_not_whole(self, job: Job) -> str | None:
        """Say why not all of a job can be made to stand still, since some of it is not known; None if nothing says so."""
        client = self.unlinked(job)
        if client is None:
            return None
        return f"runs a container ({client}) that would go on: only {PASSED_IN} makes it its own"

    def beyond(self, job: Job) -> str:
        """Say what of a job no signal of ours reaches, to be put behind what is said of one; empty if all of it can be."""
        named = [_name(stat.pid) for stat in self._members.tree(job) if not processes.may_signal(stat.pid, job.uid)]
        if len(named) > NAMED:
            named = [*named[:NAMED], f"{len(named) - NAMED} more"]
        client = self.unlinked(job)
        texts = [f"may not signal {', '.join(named)}"] if named else []
        texts += [f"a container ({client}) may go on"] if client is not None else []
        return "".join(f"; {text}" for text in texts)


def _runs_one(pid: int) -> bool:
    return processes.name(pid) in CLIENTS and not RUNS.isdisjoint(processes.command_line(pid))


def _name(pid: int) -> str:
    return f"pid {pid} ({safe(processes.owner_name(pid))}'s {safe(processes.name(pid).decode(errors='replace'))})"
