"""Who belongs to a job that is to be paused, and who does not although it hangs below one of its processes.

1. A job's are its leader, what is known of its processes, the jobs nested in it, all that descends from these, and what
   is linked to it by session, group or marker: found in one census for all jobs that are paused together.
2. A job that is not nested in it is never part of it, nor is an arbiter. A daemon of the job that such a job hangs below
   (a tmux server) is left alone with all that is below it; where that is no daemon the job cannot be paused.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from ...host import processes
from ...host.census import Census
from ...model import Identity, Job
from .marker import Marker
from .walk import identity_of, is_alive, living

if TYPE_CHECKING:
    from ..loop import Arbiter

NOBODY, OTHERS = 0, -1
"""Owners that are no job: unknown, and known to be no part of any."""


class Kinship:
    """Says which processes of a census belong to which of some jobs."""

    def __init__(self, arbiter: "Arbiter", jobs: Iterable[Job], census: Census) -> None:
        self.census = census
        self._arbiter = arbiter
        self._jobs = {job.id: job for job in jobs}
        self._owners: dict[int, int] = {}
        self._linkable: list[tuple[Job, int, Marker]] = []
        for job in self._jobs.values():
            for each in arbiter.store.family(job).values():
                for identity in roots(arbiter, each):
                    stat = census.stats.get(identity.pid)
                    if stat is not None and stat.start_ticks == identity.start_ticks:
                        self._owners[identity.pid] = job.id
                seat = arbiter.seats.get(each.id)
                parent = seat.reapers[0].pid if seat is not None and seat.reapers else 0
                self._linkable.append((job, parent, arbiter.markers.of(each)))
        for pid, other_id in arbiter.leaders.items():
            if not arbiter.store.is_inside(other_id, self._owners.get(pid, NOBODY)):
                self._owners[pid] = OTHERS
        self._oldest = min(job.identity.start_ticks for job in self._jobs.values())
        self.spared: dict[int, set[int]] = {}
        """Daemons of each job that are left alone, since other jobs hang below them."""
        self._refusals: dict[int, str] = {}
        for stat in census.stats.values():
            self._owner(stat)
        self._spare()

    def refusal(self, job: Job) -> str | None:
        """Say why a job cannot be paused although all of it could be stopped; None if it can."""
        return self._refusals.get(job.id)

    def owner(self, pid: int) -> int:
        """Return the job that a process belongs to, NOBODY or OTHERS."""
        return self._owners.get(pid, NOBODY)

    def members(self, stats: Iterable[processes.Stat]) -> dict[int, list[processes.Stat]]:
        """Return which of these belong to each job; parents before children, so that who forks is stopped first."""
        found: dict[int, list[processes.Stat]] = {}
        for stat in sorted(stats, key=lambda stat: (stat.start_ticks, stat.pid)):
            owner = self._owner(stat)
            if owner in self._jobs and is_alive(stat):
                found.setdefault(owner, []).append(stat)
        return found

    def _owner(self, stat: processes.Stat) -> int:
        line: list[processes.Stat] = []
        at: processes.Stat | None = stat
        while at is not None and at.pid not in self._owners and len(line) < len(self.census.stats):
            line.append(at)
            at = self.census.stats.get(at.parent)
        owner = self._owners[at.pid] if at is not None and at.pid in self._owners else NOBODY
        if at is None:  # a parent that has gone meanwhile may still be known
            owner = self._owners.get(line[-1].parent, NOBODY)
        for each in reversed(line):
            owner = owner or self._linked(each)
            if owner in self._jobs and processes.is_arbiter(each.pid):
                owner = OTHERS
            self._owners[each.pid] = owner
        return owner

    def _linked(self, stat: processes.Stat) -> int:
        """Return the job that a process without known parents came from."""
        if stat.start_ticks < self._oldest or not is_alive(stat):
            return NOBODY
        environment: bytes | None = None
        for job, parent, marker in self._linkable:
            if stat.start_ticks < job.identity.start_ticks:
                continue
            leader = job.identity.pid
            # Below the leader's own parent its group proves nothing: the rest of a shell's pipeline is in it.
            if stat.session == leader or (stat.group == leader and stat.parent != parent):
                return self._found(job, stat)
            if environment is None:
                environment = processes.environment(stat.pid)
            if marker.is_on(stat.pid, environment):
                return self._found(job, stat)
        return NOBODY

    def _found(self, job: Job, stat: processes.Stat) -> int:
        seat = self._arbiter.seats.get(job.id)
        if seat is not None:
            seat.kin[stat.pid] = identity_of(job, stat)
        return job.id

    # --- those of others --------------------------------------------------------------------------------------------

    def _spare(self) -> None:
        seen: set[int] = set()
        for pid, other_id in self._arbiter.leaders.items():
            # What is above those that are no part of any job here need be seen only once.
            for above in self._above(pid, seen if self._owners[pid] == OTHERS else set()):
                job = self._jobs.get(self._owners.get(above, NOBODY))
                if job is None or self._arbiter.store.is_inside(other_id, job.id):
                    continue
                if self._is_leader(above, job):
                    self._refusals[job.id] = f"has job {other_id} below it, which is no part of it"
                elif self._owners.get(self.census.stats[above].parent) != job.id:
                    self.spared.setdefault(job.id, set()).add(above)
        for job_id, daemons in self.spared.items():
            self._leave_alone(self._jobs[job_id], daemons)

    def _above(self, pid: int, seen: set[int]) -> Iterator[int]:
        at = self.census.stats.get(pid)
        at = self.census.stats.get(at.parent) if at is not None else None
        while at is not None and at.pid not in seen:
            seen.add(at.pid)
            yield at.pid
            at = self.census.stats.get(at.parent)

    def _is_leader(self, pid: int, job: Job) -> bool:
        return any(each.identity.pid == pid for each in self._arbiter.store.family(job).values())

    def _leave_alone(self, job: Job, daemons: set[int]) -> None:
        computing = {pid for pid, _size in self._arbiter.holders(job)}
        for pid in [pid for pid, owner in self._owners.items() if owner == job.id]:
            at = self.census.stats.get(pid)
            while at is not None and at.pid not in daemons and not self._is_leader(at.pid, job):
                at = self.census.stats.get(at.parent)
            if at is None or at.pid not in daemons:
                continue
            if pid in computing:
                self._refusals[job.id] = f"computes in a process (pid {pid}) beside which another job runs"
            self._owners[pid] = OTHERS


def roots(arbiter: "Arbiter", job: Job) -> list[Identity]:
    """Return the leader of a job and what else is known of its processes."""
    seat = arbiter.seats.get(job.id)
    return [job.identity, *(seat.kin.values() if seat is not None else ())]


def tree(arbiter: "Arbiter", job: Job, spared: Collection[int] = ()) -> list[processes.Stat]:
    """Return the processes known to be a job's without looking at the whole machine, the leader first."""
    family = arbiter.store.family(job)
    leaders = [each.identity for each in family.values() if each.identity.pid not in spared]
    kin = [kin for each in family.values() for kin in roots(arbiter, each)[1:]]
    kin = [each for each in kin if each.pid not in spared and not arbiter.walk.is_other(each.pid, family)]
    found = {stat.pid: stat for each in (*leaders, *kin) if (stat := living(each)) is not None}
    for stat in arbiter.walk.below(list(found), family, spared):
        found.setdefault(stat.pid, stat)
    return list(found.values())
