"""The one walk below processes of a job, who is never met on it, and what makes an identity of what was seen.

1. Never part of a job, wherever it hangs, is an arbiter with all that is below it (its keeper): one summoned inside a job may
   hang below a subreaper of it. Nor is the leader of another job, or who waits to become one, with all that is below it.
2. Which jobs are others depends on what is asked. What counts as a job's own leaves out those nested in it too, which have
   processes of their own; what stops or ends with it are they as well: `jobs` are those whose leaders are walked past.
3. A process that leads several jobs (a gpurun that a gpurun exec'd, blocks of a program) is known by the latest. Where a walk
   begins is not asked.
"""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping

from ...host import processes
from ...host.processes import Stat
from ...model import Identity, Job
from ...policy.asking import Standing


class Walk:
    """Walks below processes, past who is no part of some jobs."""

    def __init__(self, leaders: Mapping[int, int]) -> None:
        """`leaders`: jobs by the pid of their leader or waiting client."""
        self._leaders = leaders

    def is_other(self, pid: int, jobs: Container[int] = ()) -> bool:
        """Whether a process is an arbiter, or leads a job that is none of `jobs`."""
        job_id = self._leaders.get(pid)
        return (job_id is not None and job_id not in jobs) or processes.is_arbiter(pid)

    def below(self, pids: Iterable[int], jobs: Container[int] = (), spared: Collection[int] = ()) -> Iterator[Stat]:
        """Yield the living processes below some: parents before children, the children of every thread included.

        `spared` are left out too, with all that is below them.
        """
        pending = [pid for pid in pids if not processes.is_arbiter(pid)]
        seen = {*pending, *spared}
        while pending:
            for child in processes.every_child(pending.pop()):
                stat = processes.read_stat(child) if child not in seen else None
                if stat is None or self.is_other(child, jobs):
                    continue
                seen.add(child)
                pending.append(child)  # of a zombie, too: other threads of it may live and have children
                if is_alive(stat):
                    yield stat


def is_alive(stat: Stat) -> bool:
    """Whether a process has not ended yet."""
    return stat.state not in "ZX"


def living(identity: Identity) -> Stat | None:
    """Read a process that was seen before; None if it has ended."""
    stat = processes.read_stat(identity.pid)
    return stat if stat is not None and stat.start_ticks == identity.start_ticks and is_alive(stat) else None


def identity_of(job: Job, seen: Stat | Standing) -> Identity:
    """Return the identity of a process of a job."""
    return identity_at(job, seen.pid, seen.start_ticks)


def identity_at(job: Job, pid: int, start_ticks: int) -> Identity:
    """Return the identity of a process of a job that was written down."""
    return Identity(job.identity.boot_id, job.identity.pid_namespace, pid, start_ticks)


def by_pid(job: Job, found: Iterable[Stat]) -> dict[int, Identity]:
    """Return the identities of processes of a job."""
    return {stat.pid: identity_of(job, stat) for stat in found}
