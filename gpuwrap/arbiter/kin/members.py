"""All of a job: what is known of it, what one census of the machine shows, and who beside it is left alone.

1. A job's are its leader, what is known of its processes, the jobs nested in it, all that descends from these, and what
   is linked to it: found in one census for all jobs that are paused together.
2. A job that is not nested in it is never part of it, nor is an arbiter. A daemon of the job that such a job hangs below
   (a tmux server) is left alone with all that is below it; where that is no daemon the job cannot be paused.
3. What is ended with a job leaves such a server alone too, and the terminals that it keeps, unless it holds the job's GPUs,
   which would never be free else.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ...host import processes
from ...host.census import Census
from ...host.processes import Lineages, Stat
from ...lifecycle import JobState
from ...model import Identity, Job
from ...state.mirror import Jobs
from .known import Known
from .links import Links
from .walk import Walk, identity_of, is_alive, living

NOBODY, OTHERS = 0, -1
"""Owners that are no job: unknown, and known to be no part of any."""

Holders = Callable[[Job], list[tuple[int, int | None]]]
"""A job's processes that the driver named at the last look, with their bytes."""


class Members:
    """Says which processes are a job's."""

    def __init__(
        self,
        jobs: Jobs,
        known: Known,
        walk: Walk,
        links: Links,
        leaders: Mapping[int, int],
        lineages: Lineages,
        holders: Holders,
    ) -> None:
        self.jobs = jobs
        self.known = known
        self.links = links
        self.leaders = leaders
        self.holders = holders
        self._walk = walk
        self._lineages = lineages

    def in_census(self, jobs: Iterable[Job], census: Census) -> "Kinship":
        """Tell apart all processes of the machine, as of one moment, by some jobs."""
        return Kinship(self, jobs, census)

    def roots(self, job: Job) -> list[Identity]:
        """Return the leader of a job and what else is known of its processes."""
        return [job.identity, *self.known.seen(job.id).processes.values()]

    def tree(self, job: Job, spared: Collection[int] = ()) -> list[Stat]:
        """Return the processes known to be a job's without looking at the whole machine, the leader first."""
        family = self.jobs.family(job)
        leaders = [each.identity for each in family.values()]
        kin = [kin for each in family.values() for kin in self.roots(each)[1:] if not self._walk.is_other(kin.pid, family)]
        roots = [each for each in (*leaders, *kin) if each.pid not in spared]
        found = {stat.pid: stat for each in roots if (stat := living(each)) is not None}
        for stat in self._walk.below(list(found), family, spared):
            found.setdefault(stat.pid, stat)
        return list(found.values())

    def below(self, job: Job) -> list[Stat]:
        """Return what lives below a job's leader, with the jobs inside it: of one that adopts all orphans there, all it has."""
        return list(self._walk.below([job.identity.pid], self.jobs.family(job)))

    def without_others(self, job: Job, found: Iterable[Identity]) -> list[Identity]:
        """Leave out, of what was found of a job, what keeps the terminals of other jobs, and who has become an arbiter.

        The first is what lives above the leader of another job's session, or is it, and all between that and the other job.
        """
        kin = {identity.pid: identity for identity in found if not processes.is_arbiter(identity.pid)}
        computing = {pid for pid, _size in self.holders(job)} if kin else set()
        for pid, other_id in list(self.leaders.items()) if kin else ():
            line = self._lineages.of(pid)
            pids = [stat.pid for stat in line]
            if self.jobs.is_inside(other_id, job.id) or not line or line[0].session not in pids:
                continue
            if kin.keys().isdisjoint(pids[max(1, pids.index(line[0].session)) :]):
                continue
            if job.state is not JobState.ENDED and job.identity.pid in pids:
                continue
            for each in [*pids, *(stat.pid for stat in self._walk.below([pid], (other_id,)))]:
                if each not in computing:
                    kin.pop(each, None)
        return list(kin.values())


class Kinship:
    """Says which processes of a census belong to which of some jobs."""

    def __init__(self, members: Members, jobs: Iterable[Job], census: Census) -> None:
        self.census = census
        self._members = members
        self._jobs = {job.id: job for job in jobs}
        self._families = {job.id: members.jobs.family(job) for job in self._jobs.values()}
        self._outer = {each.id: job_id for job_id, family in self._families.items() for each in family.values()}
        self._linkable = [each for family in self._families.values() for each in reversed(family.values())]
        self._owners: dict[int, int] = {}
        for each in self._linkable:
            for identity in members.roots(each):
                stat = census.stats.get(identity.pid)
                if stat is not None and stat.start_ticks == identity.start_ticks:
                    self._owners[identity.pid] = self._outer[each.id]
        self.spared: dict[int, set[int]] = {}
        """Daemons of each job that are left alone, since other jobs hang below them."""
        self._refusals: dict[int, str] = {}
        for pid, other_id in members.leaders.items():
            job = self._jobs.get(self._owners.get(pid, NOBODY))
            if job is not None and self._is_leader(pid, job) and not members.jobs.is_inside(other_id, job.id):
                self._refuse(job, other_id)  # a block of the program that leads it, but is asked of the queue around it
            elif job is None or not members.jobs.is_inside(other_id, job.id):
                self._owners[pid] = OTHERS
        self._oldest = min(job.identity.start_ticks for job in self._jobs.values())
        for stat in census.stats.values():
            self._owner(stat)
        self._spare()

    def refusal(self, job: Job) -> str | None:
        """Say why a job cannot be paused although all of it could be stopped; None if it can."""
        return self._refusals.get(job.id)

    def owner(self, pid: int) -> int:
        """Return the job that a process belongs to, NOBODY or OTHERS."""
        return self._owners.get(pid) or (OTHERS if processes.is_arbiter(pid) else NOBODY)

    def members(self, stats: Iterable[Stat]) -> dict[int, list[Stat]]:
        """Return which of these belong to each job; parents before children, so that who forks is stopped first."""
        found: dict[int, list[Stat]] = {}
        for stat in sorted(stats, key=lambda stat: (stat.start_ticks, stat.pid)):
            owner = self._owner(stat)
            if owner in self._jobs and is_alive(stat):
                found.setdefault(owner, []).append(stat)
        return found

    def _owner(self, stat: Stat) -> int:
        line: list[Stat] = []
        at: Stat | None = stat
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

    def _linked(self, stat: Stat) -> int:
        """Return the job that a process without known parents came from."""
        job = self._members.links.trace(stat, self._linkable) if stat.start_ticks >= self._oldest else None
        if job is None:
            return NOBODY
        if processes.is_arbiter(stat.pid):
            return OTHERS
        self._members.known.of(job.id).processes[stat.pid] = identity_of(job, stat)
        return self._outer[job.id]

    # --- those of others --------------------------------------------------------------------------------------------

    def _spare(self) -> None:
        seen: set[int] = set()
        for pid, other_id in self._members.leaders.items():
            # What is above those that are no part of any job here need be seen only once.
            for above in self._above(pid, seen if self._owners[pid] == OTHERS else set()):
                job = self._jobs.get(self._owners.get(above, NOBODY))
                if job is None or self._members.jobs.is_inside(other_id, job.id):
                    continue
                if self._is_leader(above, job):
                    self._refuse(job, other_id)
                elif self._owners.get(self.census.stats[above].parent) != job.id:
                    self.spared.setdefault(job.id, set()).add(above)
        for job_id, daemons in self.spared.items():
            self._leave_alone(self._jobs[job_id], daemons)

    def _refuse(self, job: Job, other_id: int) -> None:
        self._refusals[job.id] = f"has job {other_id} below it, which is no part of it"

    def _above(self, pid: int, seen: set[int]) -> Iterator[int]:
        at = self.census.stats.get(pid)
        at = self.census.stats.get(at.parent) if at is not None else None
        while at is not None and at.pid not in seen:
            seen.add(at.pid)
            yield at.pid
            at = self.census.stats.get(at.parent)

    def _is_leader(self, pid: int, job: Job) -> bool:
        return any(each.identity.pid == pid for each in self._families[job.id].values())

    def _leave_alone(self, job: Job, daemons: set[int]) -> None:
        computing = {pid for pid, _size in self._members.holders(job)}
        for pid in [pid for pid, owner in self._owners.items() if owner == job.id]:
            at = self.census.stats.get(pid)
            while at is not None and at.pid not in daemons and not self._is_leader(at.pid, job):
                at = self.census.stats.get(at.parent)
            if at is None or at.pid not in daemons:
                continue
            if pid in computing:
                self._refusals[job.id] = f"computes in a process (pid {pid}) beside which another job runs"
            self._owners[pid] = OTHERS
