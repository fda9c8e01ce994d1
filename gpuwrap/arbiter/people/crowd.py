"""The users of the machine's queue: who may do what, what each may have, and what each has used.

1. Who asks is a uid that the kernel gave with the connection, and its groups of that moment. A name never decides: it is only
   how the file names a uid, and until the password database has answered, what the file says of a name does not hold.
2. Root and the file's `admin_group` may do to everybody's jobs what their owners may; anybody else to his own alone. uid 0
   of another user or pid namespace is not root, and owns what came from there.
3. What a user has used is one number, that fades. It is counted at each wake, before anything changes, and written down now
   and then; what was counted since, an arbiter that is killed forgets.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ...clocks import boot_id, wall_at
from ...host import peers
from ...host.peers import Asker as Asker
from ...lifecycle import JobState
from ...model import Gpu, GpuSample, Job
from ...people import Caps, People
from ...policy.users import HALF_LIFE_SECONDS, rate
from ...state.machine import Rules
from ...state.notes import Keeps, Notes
from .names import Names

ROOT = 0
# A number that has faded to less than this is as good as none.
LEAST_SECONDS = 1.0
SPARE_CONNECTIONS = 64
# So much of what was counted a crash forgets at most.
WRITTEN_SECONDS = 2.0
# Some of everybody's descriptors are kept for the others, whatever the file says.
MOST_CONNECTIONS = 20_000
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)


class Used(NamedTuple):
    """GPU-seconds as of a moment: of this boot's clock, and by date for the next boot."""

    gpu_seconds: float
    mono: float
    boot_id: str
    at: float

    def now(self, mono: float, boot: str, at: float) -> float:
        """Return what is left of it by now."""
        passed = mono - self.mono if boot == self.boot_id else at - self.at
        return self.gpu_seconds * float(0.5 ** (max(0.0, passed) / HALF_LIFE_SECONDS))


class Crowd:
    """Knows the users of one queue."""

    def __init__(self, rules: Rules, names: Names, store: Keeps) -> None:
        self.rules, self.names = rules, names
        self._used: Notes[int, Used] = Notes(store, "used", _read_used, _write_used)
        self._groups: dict[int, frozenset[int]] = {}
        """As of each user's last connection."""
        self._counted_mono: float | None = None
        self._more: dict[int, float] = {}
        """What was counted and not written down yet."""
        self._written_mono = 0.0
        self._caps: dict[int, Caps] = {}
        self._look_up()

    def answered(self) -> None:
        """The password database has answered: what hangs on names may be otherwise."""
        self._caps.clear()

    def take(self, rules: Rules) -> None:
        """Go on by what the file says now; it binds what is asked for from now on."""
        self.rules = rules
        self._caps.clear()
        self._look_up()

    def has_room(self, uid: int, connections: int) -> bool:
        """Whether one more connection of a user is let in, who has so many: one for each job that he may have, and a few."""
        most = self.caps_of(uid).max_jobs
        return uid == ROOT or connections < min(
            MOST_CONNECTIONS, (MOST_CONNECTIONS if most is None else most) + SPARE_CONNECTIONS
        )

    def met(self, asker: Asker) -> None:
        """Somebody has connected."""
        if self._groups.get(asker.uid) != asker.groups:
            self._groups[asker.uid] = asker.groups
            self._caps.pop(asker.uid, None)

    # Who may do what.

    def is_admin(self, asker: Asker) -> bool:
        """Whether somebody may do to everybody's jobs what their owners may."""
        if not asker.is_at_home:
            return False
        gid = self.names.gid(self.rules.admin_group) if self.rules.admin_group is not None else None
        return asker.uid == ROOT or (gid is not None and gid in asker.groups)

    def owns(self, asker: Asker, job: Job) -> bool:
        """Whether a job is the asker's own."""
        return job.uid == asker.uid and (asker.is_at_home or _lives_with(asker, job))

    def may(self, asker: Asker, job: Job) -> bool:
        """Whether somebody may change what becomes of a job."""
        return self.owns(asker, job) or self.is_admin(asker)

    # What each may have, and has had.

    def caps_of(self, uid: int) -> Caps:
        """Return what a user may have."""
        found = self._caps.get(uid)
        if found is None:
            found = self._caps[uid] = self.rules.caps_of(self._called(uid), self._group_names(uid))
        return found

    def says_who(self, cap: str, uid: int) -> str:
        """Say which table of the file sets a cap for a user."""
        return self.rules.says_who(cap, self._called(uid), self._group_names(uid))

    def _called(self, uid: int) -> str | None:
        """Return the name by which the file knows a user, if it does."""
        return next((name for name in self.rules.users if self.names.uid(name) == uid), None)

    def _look_up(self) -> None:
        """Ask for the names that the file has, before anybody comes whom they mean."""
        for name in self.rules.users:
            self.names.uid(name)
        for group in (*self.rules.groups, self.rules.admin_group):
            if group is not None:
                self.names.gid(group)

    def _group_names(self, uid: int) -> frozenset[str]:
        mine = self._groups.get(uid, frozenset())
        return frozenset(name for name in self.rules.groups if (gid := self.names.gid(name)) is not None and gid in mine)

    def count(self, holding: Iterable[Job], gpus: Sequence[Gpu | GpuSample]) -> None:
        """Count what was used since the last time by those who hold GPUs now, before anything changes."""
        now, since = time.monotonic(), self._counted_mono
        self._counted_mono = now
        jobs = [job for job in holding if job.uid is not None and job.parent_id is None and not job.has_ended]
        computing: dict[str, int] = {}
        for job in jobs:
            for share in job.shares if job.state not in _PAUSED else ():
                computing[share.uuid] = computing.get(share.uuid, 0) + 1
        for job in jobs:
            begun = job.granted_mono if job.granted_mono is not None else now
            passed = now - begun if since is None else now - max(since, begun)
            if passed > 0 and job.uid is not None:
                self._more[job.uid] = self._more.get(job.uid, 0.0) + passed * rate(job, gpus, computing)

    def write_down(self, once_committed: Callable[[Callable[[], None]], None]) -> None:
        """Write down what was counted, now and then. Called at the end of a turn; what is lost with it is counted still."""
        now = time.monotonic()
        if not self._more or now < self._written_mono + WRITTEN_SECONDS:
            return
        more = dict(self._more)
        for uid, gpu_seconds in more.items():
            self._used.put(uid, Used(self._kept(uid) + gpu_seconds, now, boot_id(), wall_at()))

        def forget() -> None:
            self._written_mono = now
            for uid, gpu_seconds in more.items():
                self._more[uid] -= gpu_seconds
                if self._more[uid] <= 0:
                    del self._more[uid]

        once_committed(forget)

    def used(self, uid: int) -> float:
        """Return what a user has used that has not faded yet."""
        return self._kept(uid) + self._more.get(uid, 0.0)

    def _kept(self, uid: int) -> float:
        found = self._used.get(uid)
        left = found.now(time.monotonic(), boot_id(), wall_at()) if found is not None else 0.0
        return left if left >= LEAST_SECONDS else 0.0

    def people(self, jobs: Iterable[Job]) -> People:
        """Return the users as a plan sees them."""
        owners = {job.id: job.uid for job in jobs if job.uid is not None}
        uids = set(owners.values())
        caps: Mapping[int, Caps] = {uid: self.caps_of(uid) for uid in uids}
        used = {uid: self.used(uid) for uid in uids}
        return People(self.rules.between, owners, caps, used, {uid: self.names.shown(uid) for uid in uids})


def _lives_with(asker: Asker, job: Job) -> bool:
    """Whether a job came from a namespace that is not ours, as the asker does: what came from there is his there."""
    return not asker.is_at_home and not all(peers.is_of_our_namespaces(job.identity.pid))


def _read_used(text: str) -> Used:
    gpu_seconds, mono, boot, at = text.split()
    return Used(float(gpu_seconds), float(mono), boot, float(at))


def _write_used(used: Used) -> str:
    return f"{used.gpu_seconds:.3f} {used.mono:.3f} {used.boot_id} {used.at:.3f}"
