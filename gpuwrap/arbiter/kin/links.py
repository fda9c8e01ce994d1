"""What links a process that has lost its parents to a job: the leader's session or group, those created below it, its marker.

1. Only processes of the job's owner are linked: who may enter a session, a group or a control group, or set variables, can
   forge them. What crosses users is parentage alone, as the walk sees it and `known` keeps it.
2. A session is entered by being born in it. A group is not: the rest of a shell's pipeline is in the leader's, so that it
   counts only for those adopted by one that adopts the job's orphans, and is not the leader's own parent, the shell.
3. A number may name another session or group by now, if all that was in the first has gone: then who leads it is new.
4. A marker proves where something came from, not that it belongs there: tmux servers and at(1) keep it.
5. Nobody is linked who is never met on a walk (`walk`).
"""

from collections.abc import Container, Iterable

from ...host import processes
from ...host.processes import Stat
from ...model import Job
from .known import Known
from .marker import Markers
from .walk import Walk, is_alive


def is_owners(pid: int, job: Job) -> bool:
    """Whether a process runs for the owner of a job: by its real uid, which a set-user-ID program keeps."""
    if job.uid is None:
        return processes.is_ours(pid)
    who = processes.uids_of(pid)
    return who is not None and who.real == job.uid


class Links:
    """Tells which job a process is linked to."""

    def __init__(self, known: Known, walk: Walk, markers: Markers) -> None:
        self._known = known
        self._walk = walk
        self._markers = markers

    def find(self, stat: Stat, jobs: Iterable[Job]) -> Job | None:
        """Return the first of some jobs to which a living process is linked, None if it is to none."""
        job = self.trace(stat, jobs)
        return None if job is None or self._walk.is_other(stat.pid, (job.id,)) else job

    def trace(self, stat: Stat, jobs: Iterable[Job]) -> Job | None:
        """Return the first of some jobs to which a living process would be linked, also if it is never part of one."""
        if not is_alive(stat):
            return None
        environment: bytes | None = None
        for job in jobs:
            if stat.start_ticks < job.identity.start_ticks or stat.pid == job.identity.pid:
                continue
            if self.is_grouped(stat, job) or self.is_below_head(stat, job):
                return job
            if environment is None:
                environment = processes.environment(stat.pid)
            if self.is_marked(stat, job, environment):
                return job
        return None

    def marked(self, job: Job, inside: Container[int] = ()) -> list[Stat]:
        """Return who on the whole machine carries a job's marker: each process is read once. `inside`: jobs that are no others.

        Nothing else links anybody to a job that ended long ago: its numbers may be others' by now.
        """
        found = []
        for stat in processes.everybody():
            if stat.start_ticks < job.identity.start_ticks or not is_alive(stat):
                continue
            if self.is_marked(stat, job, processes.environment(stat.pid)) and not self._walk.is_other(stat.pid, inside):
                found.append(stat)
        return found

    def is_grouped(self, stat: Stat, job: Job) -> bool:
        """Whether a process is in the session of a job's leader, or an orphan in its group."""
        leader = job.identity
        linked = stat.session == leader.pid or (stat.group == leader.pid and self._may_be_orphan(stat, job))
        return linked and _is_same_head(leader.pid, leader.start_ticks) and is_owners(stat.pid, job)

    def is_below_head(self, stat: Stat, job: Job) -> bool:
        """Whether a process is in a session or group that was seen to be created below a job."""
        heads = self._known.seen(job.id).heads
        found = {stat.session, stat.group} & heads.keys() if heads else ()
        return any(_is_same_head(head, heads[head]) for head in found) and is_owners(stat.pid, job)

    def is_marked(self, stat: Stat, job: Job, environment: bytes) -> bool:
        """Whether a process was started with a job's marker in its environment."""
        return self._markers.of(job).is_in(environment) and is_owners(stat.pid, job)

    def _may_be_orphan(self, stat: Stat, job: Job) -> bool:
        ancestors = [each.pid for each in self._known.seen(job.id).ancestors]
        return not ancestors or (stat.parent != ancestors[0] and (stat.parent == 1 or stat.parent in ancestors))


def _is_same_head(head: int, start_ticks: int) -> bool:
    """Whether the session or group that a process led is the same still: its number is not taken again before it is empty."""
    there = processes.read_stat(head)
    return there is None or there.start_ticks == start_ticks
