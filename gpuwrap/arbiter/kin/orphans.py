"""What came from a job and lost its parents, and inside which job a client asks.

1. What descends from a running job is looked at `FIRST_LOOKS` after its start and then every few seconds: its processes, and
   the sessions and groups that they created. The walk takes a hundredth of the time at most.
2. An orphan came from a job if it was seen, or if it is linked to it (`links`). As somebody who asks it must not only carry the
   marker, but be adopted by who adopts the job's orphans, and live in the job's control groups.
3. What left its parents, its session and its environment behind between two looks stays unseen. Below a stub nothing does.
"""

import time
from collections.abc import Callable, Mapping

from ...host import processes
from ...host.adopters import Adopters
from ...host.processes import Lineages, Stat
from ...lifecycle import STARTED
from ...model import Identity, Job
from ...state.mirror import Jobs
from ..timers import Timers
from .known import Kin, Known
from .links import Links
from .walk import Walk, by_pid, identity_of, living

# What a job starts first is often what stays; a program that ends sooner has hardly left anything behind.
FIRST_LOOKS = (0.25, 1.0)
BETWEEN_LOOKS = 2.0
# Sessions and groups remembered of one job: `timeout` makes a group each time.
MOST_HEADS = 256


class Orphans:
    """Remembers what hangs below jobs, and tells to which job an orphan belongs."""

    def __init__(
        self, jobs: Jobs, known: Known, walk: Walk, links: Links, leaders: Mapping[int, int], lineages: Lineages
    ) -> None:
        self._jobs = jobs
        self._known = known
        self._walk = walk
        self._links = links
        self._leaders = leaders
        self._lineages = lineages
        self._rests_until_mono = 0.0
        self.adopters = Adopters()

    # --- looking ------------------------------------------------------------------------------------------------

    def started(self, job_id: int, timers: Timers, afterwards: Callable[[Callable[[], None]], None]) -> None:
        """A job runs: look below it soon, once nobody waits for an answer."""
        for seconds in FIRST_LOOKS:
            timers.after(seconds, lambda: afterwards(lambda: self.look_below(job_id)))

    def look(self) -> None:
        """Look below all running jobs, unless that was done a moment ago."""
        begun = time.monotonic()
        if begun < self._rests_until_mono:
            return
        for job_id in list(self._jobs.holding):
            self.look_below(job_id)
        ended = time.monotonic()
        self._rests_until_mono = ended + max(BETWEEN_LOOKS * 0.75, 100 * (ended - begun))

    def look_below(self, job_id: int) -> None:
        """Remember what hangs below a job; below a stub all of it is what it runs."""
        job = self._jobs.live.get(job_id)
        if job is None or job.stub or job.state not in STARTED:
            return  # `rerunning` looks below stubs
        leader, kin = living(job.identity), self._known.of(job_id)
        if leader is None:
            return  # its end is on its way to us: what was seen last is what there is
        seen = self._living_kin(job)
        seen |= {stat.pid: stat for stat in self._walk.below([leader.pid, *seen])}
        kin.processes = by_pid(job, seen.values())
        for stat in seen.values():
            if stat.session not in (0, leader.session):
                _note_head(kin, stat.session, stat)
            if stat.group == stat.pid:
                _note_head(kin, stat.group, stat)
        for old in list(kin.heads)[:-MOST_HEADS]:
            del kin.heads[old]

    def _living_kin(self, job: Job) -> dict[int, Stat]:
        found = {}
        for kin in self._known.seen(job.id).processes.values():
            stat = living(kin)
            # A gpurun that was seen before it registered is a job of its own now, and one that was becoming an arbiter is one.
            if stat is not None and (kin.pid == job.identity.pid or not self._walk.is_other(kin.pid)):
                found[kin.pid] = stat
        return found

    def remember_ancestors(self, job: Job) -> None:
        """Note who may adopt what a job leaves behind. Once is enough: who loses a parent goes to one further up."""
        if job.id in self._jobs.live:
            self._known.of(job.id).ancestors = tuple(
                identity_of(job, stat) for stat in self._lineages.of(job.identity.pid)[1:]
            )

    # --- telling ------------------------------------------------------------------------------------------------

    def survivors(self, job: Job) -> dict[int, Identity]:
        """Find what outlived the leader, by pid: known kin, and what its ancestors adopted that is linked to the job.

        Orphans become children of the nearest ancestor that is a subreaper, or of init: so the few processes that can
        have them are known, and the rest of the machine need not be read.
        """
        found = self._living_kin(job)
        for reaper in self.adopters.among(self._known.seen(job.id).ancestors):
            for stat in self.adopters.young(reaper, job.identity.start_ticks, self._leaders):
                if stat.pid not in found and self._links.find(stat, (job,)) is not None:
                    found[stat.pid] = stat
        if found:
            found = {stat.pid: stat for stat in self._walk.below(list(found))} | found
        return by_pid(job, found.values())

    def job_of_client(self, pid: int) -> Job | None:
        """Find the running job inside which a client runs: a chain of living parents leads to its leader.

        Where its parent has gone, it counts what is known of the orphan, the chain of its session's leader, or the job's
        marker together with the leader's own session. Jobs without GPUs have none to give: what is asked for inside them
        is asked of the queue that they are in.
        """
        if not self._leaders:
            return None
        found = self.job_around(pid)
        stat = processes.read_stat(pid) if found is None else None
        if stat is None:
            return found
        if stat.session not in (0, pid):
            found = self.job_around(stat.session)
        return found or self._job_of_session(stat)

    def _job_of_session(self, stat: Stat) -> Job | None:
        """Find the job of an orphan by its marker, among those whose leaders are in its session."""
        environment = processes.environment(stat.pid)
        for job in self._that_give():
            if self._links.is_marked(stat, job, environment):
                leader = processes.read_stat(job.identity.pid)
                if leader is not None and leader.start_ticks == job.identity.start_ticks and leader.session == stat.session:
                    return job
        return None

    def job_around(self, pid: int) -> Job | None:
        """Find the innermost running job from which a process came: by its parents, or the nearest that is an orphan.

        A session created below a job may be that of a job inside it: whom its parents lead to is then in the inner one.
        """
        jobs: list[Job] | None = None
        found: Job | None = None
        for stat in self._lineages.of(pid):
            # Where a gpurun exec'd a gpurun several jobs have one leader: the latest is known by it, the innermost.
            job = self._led_by(stat.pid)
            if job is not None and job.identity.start_ticks == stat.start_ticks:
                return job if found is None or self._jobs.is_inside(job.id, found.id) else found
            if found is None:
                jobs = self._that_give() if jobs is None else jobs
                found = self._job_of(stat, jobs)
        return found

    def _that_give(self) -> list[Job]:
        """Return the jobs that may be asked from inside, the latest first."""
        return [job for _, job in sorted(self._jobs.holding.items(), reverse=True) if can_give(job)]

    def _led_by(self, pid: int) -> Job | None:
        """Find the innermost job of a process that has GPUs to give: with a block of its own it is in line for more, or was."""
        job_id = self._leaders.get(pid)
        if job_id is None:
            return None
        latest = self._jobs.live.get(job_id)
        if latest is not None and can_give(latest):
            return latest
        led = [job for job in self._jobs.holding.values() if job.identity.pid == pid and can_give(job)]
        return max(led, key=lambda job: job.id, default=None)

    def _job_of(self, stat: Stat, jobs: list[Job]) -> Job | None:
        """Find the job that a process itself is known to come from."""
        environment: bytes | None = None
        for job in jobs:
            if stat.start_ticks < job.identity.start_ticks or stat.pid == job.identity.pid:
                continue
            kin = self._known.seen(job.id)
            if kin.has(stat) or self._links.is_below_head(stat, job):
                return job
            if any(stat.parent == each.pid for each in kin.ancestors):
                if environment is None:
                    environment = processes.environment(stat.pid)
                if self._links.is_marked(stat, job, environment) and _was_adopted(stat, job, kin):
                    return job
        return None


def _note_head(kin: Kin, head: int, stat: Stat) -> None:
    if stat.pid == head:
        kin.heads[head] = stat.start_ticks
    else:
        kin.heads.setdefault(head, 0)


def _was_adopted(stat: Stat, job: Job, kin: Kin) -> bool:
    """Whether a child of an ancestor of the leader came there as an orphan of the job.

    The leader's own parent may have started it too, with the job's marker kept from somewhere: only init, and who puts
    what it starts into control groups of their own, as a service manager does, is known not to have done so.
    """
    groups = processes.groups_of(stat.pid)
    if groups != processes.groups_of(job.identity.pid):
        return False
    return stat.parent == 1 or stat.parent != kin.ancestors[0].pid or processes.groups_of(stat.parent) != groups


def can_give(job: Job) -> bool:
    """Whether requests inside a job ask it: jobs without GPUs have none to give."""
    return job.state in STARTED and job.request.gpus > 0 and bool(job.shares)
