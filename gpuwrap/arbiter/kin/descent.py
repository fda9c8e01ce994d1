"""Which processes came from a job: what was seen below it while its leader lived, and what that proves once it is an orphan.

1. What descends from a running job is looked at `FIRST_LOOKS` after its start and then every few seconds: its processes, and
   the sessions and groups that they created. The walk takes a hundredth of the time at most.
2. An orphan came from a job if it was seen, if it is in a session or group that was seen to be created below the job, or if
   it carries the job's marker: as a leftover anyhow; as somebody who asks, only where it was adopted by who adopts the
   job's orphans and lives in the job's control groups. The marker alone never counts: tmux servers and at(1) keep it.
3. What left its parents, its session and its environment behind between two looks stays unseen. Below a stub nothing does.
"""

import time
from typing import TYPE_CHECKING

from ...host import processes
from ...host.adopters import Adopters
from ...host.processes import Stat
from ...lifecycle import STARTED
from ...model import Identity, Job
from ..bell.seat import Seat
from .walk import by_pid, identity_of, is_alive, living

if TYPE_CHECKING:
    from ..loop import Arbiter

# What a job starts first is often what stays; a program that ends sooner has hardly left anything behind.
FIRST_LOOKS = (0.25, 1.0)
BETWEEN_LOOKS = 2.0
# Sessions and groups remembered of one job: `timeout` makes a group each time.
MOST_HEADS = 256


class Descent:
    """Remembers what hangs below jobs, and tells to which job an orphan belongs."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._walk = arbiter.walk
        self._store = arbiter.store
        self._rests_until_mono = 0.0
        self.adopters = Adopters()

    # --- looking ------------------------------------------------------------------------------------------------

    def started(self, job_id: int) -> None:
        """A job runs: look below it soon."""
        for seconds in FIRST_LOOKS:
            self._arbiter.timers.after(seconds, lambda: self._turn.later(lambda: self._look_below(job_id)))

    def look(self) -> None:
        """Look below all running jobs, unless that was done a moment ago."""
        begun = time.monotonic()
        if begun < self._rests_until_mono:
            return
        for job_id in list(self._store.holding):
            self._look_below(job_id)
        ended = time.monotonic()
        self._rests_until_mono = ended + max(BETWEEN_LOOKS * 0.75, 100 * (ended - begun))

    def _look_below(self, job_id: int) -> None:
        job, seat = self._store.live.get(job_id), self._arbiter.seats.get(job_id)
        if job is None or seat is None or job.stub or job.state not in STARTED:
            return  # `rerun` looks below stubs
        leader = processes.read_stat(job.identity.pid)
        if leader is None or leader.start_ticks != job.identity.start_ticks or not is_alive(leader):
            return  # its end is on its way to us: what was seen last is what there is
        seen = self._living_kin(job, seat)
        for stat in self._walk.below([leader.pid, *seen]):
            seen[stat.pid] = stat
        seat.kin = by_pid(job, seen.values())
        for stat in seen.values():
            if stat.session not in (0, leader.session):
                self._note_head(seat, stat.session, stat)
            if stat.group == stat.pid:
                self._note_head(seat, stat.group, stat)
        for old in list(seat.heads)[:-MOST_HEADS]:
            del seat.heads[old]

    def _note_head(self, seat: Seat, head: int, stat: Stat) -> None:
        if stat.pid == head:
            seat.heads[head] = stat.start_ticks
        else:
            seat.heads.setdefault(head, 0)

    def _living_kin(self, job: Job, seat: Seat) -> dict[int, Stat]:
        found = {}
        for kin in seat.kin.values():
            stat = living(kin)
            # A gpurun that was seen before it registered is a job of its own now, and one that was becoming an arbiter is one.
            if stat is not None and (kin.pid == job.identity.pid or not self._walk.is_other(kin.pid)):
                found[kin.pid] = stat
        return found

    def remember_ancestors(self, job: Job) -> None:
        """Note who may adopt what a job leaves behind. Once is enough: who loses a parent goes to one further up."""
        seat = self._arbiter.seats.get(job.id)
        if seat is not None:
            seat.reapers = tuple(identity_of(job, stat) for stat in self._arbiter.lineages.of(job.identity.pid)[1:])

    # --- telling ------------------------------------------------------------------------------------------------

    def survivors(self, job: Job) -> list[Identity]:
        """Find what outlived the leader: known kin, and what its ancestors adopted that is linked to the job.

        Orphans become children of the nearest ancestor that is a subreaper, or of init: so the few processes that can
        have them are known, and the rest of the machine need not be read.
        """
        seat = self._arbiter.seats[job.id]
        linked = self._living_kin(job, seat)
        others = self._arbiter.leaders
        parent = seat.reapers[0].pid if seat.reapers else 0
        for reaper in self.adopters.among(seat.reapers):
            for stat in self.adopters.young(reaper, job.identity.start_ticks, others):
                if stat.pid in linked or stat.pid == job.identity.pid:
                    continue
                if self._is_linked(stat, job, seat, reaper == parent) and not self._walk.is_other(stat.pid):
                    linked[stat.pid] = stat
        if linked:
            for stat in self._walk.below(list(linked)):
                linked.setdefault(stat.pid, stat)
        return [identity_of(job, stat) for stat in linked.values()]

    def job_around(self, pid: int) -> Job | None:
        """Find the innermost running job from which a process came: by its parents, or the nearest that is an orphan.

        A session created below a job may be that of a job inside it: whom its parents lead to is then in the inner one.
        """
        jobs: list[Job] | None = None
        found: Job | None = None
        for stat in self._arbiter.lineages.of(pid):
            # Where a gpurun exec'd a gpurun several jobs have one leader: the latest is known by it, the innermost.
            job = self._led_by(stat.pid)
            if job is not None and job.identity.start_ticks == stat.start_ticks:
                return job if found is None or self._is_inside(job, found) else found
            if found is None:
                if jobs is None:
                    jobs = [job for _, job in sorted(self._store.holding.items(), reverse=True) if can_give(job)]
                found = self._job_of(stat, jobs)
        return found

    def _led_by(self, pid: int) -> Job | None:
        """Find the innermost job of a process that has GPUs to give: with a block of its own it is in line for more, or was."""
        job_id = self._arbiter.leaders.get(pid)
        if job_id is None:
            return None
        latest = self._store.live.get(job_id)
        if latest is not None and can_give(latest):
            return latest
        led = [job for job in self._store.holding.values() if job.identity.pid == pid and can_give(job)]
        return max(led, key=lambda job: job.id, default=None)

    def _is_inside(self, job: Job, outer: Job) -> bool:
        """Whether one running job is inside another, however deep."""
        while job.parent_id is not None and job.parent_id != outer.id:
            around = self._store.live.get(job.parent_id)
            if around is None:
                return False
            job = around
        return job.parent_id == outer.id

    def _job_of(self, stat: Stat, jobs: list[Job]) -> Job | None:
        """Find the job that a process itself is known to come from."""
        environment: bytes | None = None
        for job in jobs:
            seat = self._arbiter.seats.get(job.id)
            if seat is None or stat.start_ticks < job.identity.start_ticks or stat.pid == job.identity.pid:
                continue
            kin = seat.kin.get(stat.pid)
            if (kin is not None and kin.start_ticks == stat.start_ticks) or _is_below_head(seat, stat):
                return job
            if any(stat.parent == reaper.pid for reaper in seat.reapers):
                if environment is None:
                    environment = processes.environment(stat.pid)
                if self._arbiter.markers.of(job).is_on(stat.pid, environment) and _was_adopted(stat, job, seat):
                    return job
        return None

    def _is_linked(self, stat: Stat, job: Job, seat: Seat, of_parent: bool) -> bool:
        """Whether a process that an ancestor of the leader has as a child came from the job.

        Its group proves nothing below the leader's own parent: the rest of a shell's pipeline is in the same group.
        """
        if not is_alive(stat):
            return False
        leader = job.identity.pid
        if stat.session == leader or (stat.group == leader and not of_parent) or _is_below_head(seat, stat):
            return True
        return self._arbiter.markers.of(job).is_on(stat.pid)


def _was_adopted(stat: Stat, job: Job, seat: Seat) -> bool:
    """Whether a child of an ancestor of the leader came there as an orphan of the job.

    The leader's own parent may have started it too, with the job's marker kept from somewhere: only init, and who puts
    what it starts into control groups of their own, as a service manager does, is known not to have done so.
    """
    groups = processes.groups_of(stat.pid)
    if groups != processes.groups_of(job.identity.pid):
        return False
    return stat.parent == 1 or stat.parent != seat.reapers[0].pid or processes.groups_of(stat.parent) != groups


def _is_below_head(seat: Seat, stat: Stat) -> bool:
    """Whether a process is in a session or group that was created below the job; pids are reused only once both are empty."""
    for head in {stat.session, stat.group} & seat.heads.keys():
        there = processes.read_stat(head)
        if there is None or there.start_ticks == seat.heads[head]:
            return True
    return False


def can_give(job: Job) -> bool:
    """Whether requests inside a job ask it: jobs without GPUs have none to give."""
    return job.state in STARTED and job.request.gpus > 0 and bool(job.shares)
