"""The order between users: who of them is next, whom an urgent job may interrupt, and what each may have at once.

1. Where one user has all jobs everything here is silent: the line is what it is without it.
2. Within one user nothing changes: between two of his jobs priority, the order setting and arrival decide, as in a queue
   of his own.
3. In the order `fair` nobody who has used more stands before one who has used less. Uses within 5 % are alike: then
   arrival decides, so that nothing flaps between two who take turns. A weight divides what somebody has used.
4. Among users who are alike, and in the order `arrival`, each place by arrival belongs to a user, who fills his places by his
   own order: nobody loses a place because he changed the order of his own.
5. A priority is its owner's word, so between users it counts only for urgent jobs of those whom the caps allow to
   interrupt: these stand before everybody, and make others give way. In the order `priority` all are as one user.
6. Who is at a cap of the moment (`max_gpus`, `leave_free`) is passed over: nothing is kept for him, and nobody makes way.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ..lifecycle import JobState
from ..model import Gpu, GpuSample, Job, View
from ..people import Between, Caps, People
from ..units import PRIORITY_STEP
from .needs import URGENT

# Who has used at most this much more than another has used as much.
ALIKE = 1.05
HALF_LIFE_SECONDS = 7 * 86400.0
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)
_COMPUTING = (JobState.GRANTED, JobState.RUNNING, JobState.STOPPING)


class Standing:
    """How the owners of one view's jobs stand to each other."""

    def __init__(self, view: View) -> None:
        people = view.people
        owners = {people.owners.get(job.id) for job in view.jobs} if people is not None else set()
        self.apart = people is not None and people.between is not Between.PRIORITY and len(owners) > 1
        """Whether jobs of several users are there, and stand in line as such."""
        self._people = people if people is not None else People()
        self._burdens: dict[int | None, float] = {}

    def owner(self, job: Job) -> int | None:
        """Return the uid of a job's owner; None where all are one user's."""
        return self._people.owners.get(job.id) if self.apart else None

    def are_strangers(self, job: Job, other: Job) -> bool:
        """Whether two jobs are different users'."""
        return self.apart and self.owner(job) != self.owner(other)

    def interrupts(self, job: Job) -> bool:
        """Whether a job passes those of other users."""
        return self.apart and job.priority >= URGENT and self._people.caps_of(self.owner(job)).may_interrupt

    def may_interrupt(self, job: Job, victim: Job) -> bool:
        """Whether a job makes that of another user give way."""
        return self.interrupts(job) and job.priority >= self.shield(victim) + PRIORITY_STEP

    def shield(self, victim: Job) -> int:
        """Return the priority that a job has in the eyes of other users, where that is not its owner's word alone."""
        return victim.priority if self.interrupts(victim) else 0

    def may_refuse(self, victim: Job, job: Job) -> bool:
        """Whether `--give-way never` of a job holds against another."""
        return not self.are_strangers(job, victim) or self._people.caps_of(self.owner(victim)).may_refuse

    def burden(self, uid: int | None) -> float:
        """Return what a user has used, by his weight."""
        found = self._burdens.get(uid)
        if found is None:
            used = self._people.used.get(uid, 0.0) if uid is not None else 0.0
            found = self._burdens[uid] = used / self._people.caps_of(uid).weight
        return found

    def line(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those in line in the order in which they are served; `jobs` are in the order of one user's queue."""
        if not self.apart:
            return list(jobs)
        first = [job for job in jobs if self.interrupts(job)]
        line: list[Job] = []
        for priority in dict.fromkeys(job.priority for job in first):
            line += self._by_turns([job for job in first if job.priority == priority])
        return line + self._by_turns([job for job in jobs if not self.interrupts(job)] if first else jobs)

    def _by_turns(self, jobs: Sequence[Job]) -> list[Job]:
        if self._people.between is Between.ARRIVAL:
            return _by_places(jobs, self.owner)
        line: list[Job] = []
        for group in self.groups({self.owner(job) for job in jobs}):
            line += _by_places([job for job in jobs if self.owner(job) in group], self.owner)
        return line

    def groups(self, uids: Iterable[int | None]) -> list[frozenset[int | None]]:
        """Return users by what they have used, the least first; those who have used alike together."""
        groups: list[set[int | None]] = []
        least = 0.0
        for uid in sorted(uids, key=lambda each: (self.burden(each), each is None, each or 0)):
            if groups and self.burden(uid) <= least * ALIKE:
                groups[-1].add(uid)
            else:
                groups.append({uid})
                least = self.burden(uid)
        return [frozenset(group) for group in groups]


class Quotas:
    """Who may have no more at this moment, counted on as jobs are granted GPUs in one plan."""

    def __init__(self, view: View, free: int) -> None:
        """`free`: how many GPUs nobody computes on, that could be had."""
        people = view.people
        limited = people is not None and any(caps.max_gpus is not None or caps.leave_free for caps in people.caps.values())
        self.has_limits = limited
        self._people = people if limited and people is not None else People()
        self._free = free
        self._have: dict[int | None, int] = {}
        if limited:
            for job in view.jobs:
                if job.state in _COMPUTING:
                    self._take(job)

    def is_full(self, job: Job, given_up: int = 0) -> bool:
        """Whether a job's owner may not have it started now, not even if others of his give up so many GPUs for it."""
        if not self.has_limits:
            return False
        have = self._have.get(self._owner(job), 0) - given_up
        return cap_of(job, self._people, have, self._free + given_up) is not None

    def start(self, job: Job, free: int) -> None:
        """Note that a job starts; `free` GPUs are left on which nobody computes."""
        self._free = free
        if self.has_limits:
            self._take(job)

    def _owner(self, job: Job) -> int | None:
        return self._people.owners.get(job.id)

    def _take(self, job: Job) -> None:
        uid = self._owner(job)
        self._have[uid] = self._have.get(uid, 0) + (len(job.shares) or job.request.gpus)


def cap_of(job: Job, people: People, have: int, free: int) -> str | None:
    """Return the cap of the moment that keeps a job from starting; None if none does.

    `have`: GPUs that its owner's jobs compute on; `free`: GPUs on which nobody does. A job that could share one is counted as
    one that takes all its GPUs anew: what it will be given is not known before.
    """
    caps = people.caps_of(people.owners.get(job.id))
    if job.request.gpus and caps.max_gpus is not None and have + job.request.gpus > caps.max_gpus:
        return "max_gpus"
    if job.request.gpus and caps.leave_free and free - job.request.gpus < caps.leave_free:
        return "leave_free"
    return None


def rate(job: Job, gpus: Sequence[Gpu | GpuSample], computing: dict[str, int]) -> float:
    """Return at how many GPUs a job's use counts at this moment.

    A shared GPU counts by the larger of its share of the memory and one over the jobs that compute there (`computing`, by
    UUID); a paused job by the memory that it keeps others from.
    """
    total = {gpu.uuid: gpu.total_bytes for gpu in gpus}
    paused, sum_ = job.state in _PAUSED, 0.0
    for share in job.shares:
        size = total.get(share.uuid)
        memory = min(1.0, share.bytes / size) if size else 1.0
        if paused:
            sum_ += memory
        else:
            sum_ += 1.0 if share.whole else max(memory, 1 / max(1, computing.get(share.uuid, 1)))
    return sum_


def capped_priority(priority: int, caps: Caps) -> int:
    """Return the priority that a user is given who asks for one: as nice(1) does, it is lowered, and not refused."""
    return min(priority, caps.max_priority)


def over_cap(gpus: int, time_limit_seconds: float | None, in_line: int, caps: Caps) -> str | None:
    """Return the cap that a request is over for good, or that its owner's line is; None if none is."""
    if caps.max_gpus is not None and gpus > caps.max_gpus:
        return "max_gpus"
    if caps.max_time_seconds is not None and time_limit_seconds is not None and time_limit_seconds > caps.max_time_seconds:
        return "max_time"
    return "max_jobs" if caps.max_jobs is not None and in_line >= caps.max_jobs else None


def _by_places(jobs: Sequence[Job], owner: Callable[[Job], int | None]) -> list[Job]:
    """Give each user the places that he has by arrival, and fill them by his own order, which is that of `jobs`."""
    own: dict[int | None, deque[Job]] = {}
    for job in jobs:
        own.setdefault(owner(job), deque()).append(job)
    if len(own) == 1:
        return list(jobs)
    return [own[owner(job)].popleft() for job in sorted(jobs, key=lambda each: (each.turn, each.id))]
