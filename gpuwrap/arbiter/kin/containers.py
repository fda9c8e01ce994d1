"""Containers, which a daemon starts in somebody's name: what links them to a job, and what of a job is out of reach.

1. Of a container's process neither parents nor session nor group lead to the job whose client asked for it. What it is given
   by that client does: GPURUN_JOB and GPURUN_GPU_UUIDS, passed in with -e (see `marker`), on it or above it, if it runs as
   the same user.
2. Else it is a stranger. Then nobody can stop the job whole, and nobody says so.
3. What runs as another user may not be signalled: it is named, not passed over.
"""

from typing import TYPE_CHECKING

from ...host import processes
from ...model import Job
from ...policy.words import safe
from .kinship import tree

if TYPE_CHECKING:
    from ..loop import Arbiter

# Clients that have a daemon start what they run. (Others, as podman and apptainer, start it themselves.)
CLIENTS = (b"docker", b"nerdctl", b"ctr", b"podman-remote")
# What a client is told that runs something in one; it pulls and builds, too.
RUNS = {b"run", b"exec", b"start", b"up", b"attach"}
PASSED_IN = "-u $(id -u) -e GPURUN_JOB -e GPURUN_GPU_UUIDS"
# So many are named.
NAMED = 2


def unlinked(arbiter: "Arbiter", job: Job) -> str | None:
    """Name the client in a job that runs a container of which no process is known as the job's; None if there is none."""
    client = next((stat for stat in tree(arbiter, job) if _runs_one(stat.pid)), None)
    if client is None:
        return None
    below = {job.identity.pid, *(stat.pid for stat in arbiter.walk.below([job.identity.pid], arbiter.store.family(job)))}
    if any(pid not in below for pid, _size in arbiter.holders(job)) or _is_marked_elsewhere(arbiter, job, below):
        return None
    return f"{processes.name(client.pid).decode()}, pid {client.pid}"


def _runs_one(pid: int) -> bool:
    return processes.name(pid) in CLIENTS and not RUNS.isdisjoint(processes.command_line(pid))


def _is_marked_elsewhere(arbiter: "Arbiter", job: Job, below: set[int]) -> bool:
    """Whether a process that lives in other control groups than the job carries its marker."""
    marker, mine = arbiter.markers.of(job), processes.groups_of(job.identity.pid)
    return any(
        stat.start_ticks >= job.identity.start_ticks
        and stat.pid not in below
        and marker.is_on(stat.pid)
        and processes.groups_of(stat.pid) != mine
        for stat in processes.everybody()
    )


def why_not_whole(arbiter: "Arbiter", job: Job) -> str | None:
    """Say why not all of a job can be made to stand still, since some of it is not known; None if nothing says so."""
    client = unlinked(arbiter, job)
    if client is None:
        return None
    return f"runs a container ({client}) that would go on: only {PASSED_IN} makes it its own"


def beyond(arbiter: "Arbiter", job: Job) -> str:
    """Say what of a job no signal of ours reaches, to be put behind what is said of one; empty if all of it can be."""
    named = [_name(stat.pid) for stat in tree(arbiter, job) if not processes.may_signal(stat.pid)]
    if len(named) > NAMED:
        named = [*named[:NAMED], f"{len(named) - NAMED} more"]
    client = unlinked(arbiter, job)
    texts = [f"may not signal {', '.join(named)}"] if named else []
    texts += [f"a container ({client}) may go on"] if client is not None else []
    return "".join(f"; {text}" for text in texts)


def _name(pid: int) -> str:
    return f"pid {pid} ({safe(processes.owner_name(pid))}'s {safe(processes.name(pid).decode(errors='replace'))})"
