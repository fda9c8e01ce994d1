"""Pausing and resuming jobs, by the means that nobody around them notices.

1. The means is decided at that moment, from one look at the job's processes: a cgroup v2 group of its own, frozen; SIGSTOP
   where no terminal and no parent can see it; SIGSTOP behind a stub in the terminal's foreground; else not at all. A bare
   SIGSTOP is noticed by shells, and a stopped member of an orphaned process group is hung up by the kernel [run].
2. A pause is a state to be kept: it is looked at with each sample, renewed once if others undid it, then given up.
3. Whatever was paused can be found again without memory: the group by its name, stopped processes by their state.
4. A frozen job with a signal pending that it wants to handle is thawed to receive it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from ..host import processes
from ..host.freezer import Group, group_name, may_have_group
from ..lifecycle import STARTED, Event, JobState
from ..model import GiveWay, Identity, Job, Yielding
from ..units import PRIORITY_WORDS, format_duration
from .bell import Connection
from .enforce import is_linked
from .log import log
from .notices import tell
from .observe import marker

if TYPE_CHECKING:
    from .loop import Arbiter

DAY_SECONDS = 86400.0
# How long what was found out about a job's means holds: a background job may be brought to the foreground.
FRESH_SECONDS = 1.0
_WOKEN_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)


class Means(Enum):
    """How a job can be paused."""

    FREEZE = "freeze"
    STOP = "stop"
    STOP_BEHIND_STUB = "stop behind the stub"


@dataclass(slots=True)
class Found:
    """What was found out about a job, and when."""

    yielding: Yielding
    means: Means | None
    at_mono: float


class Pausing:
    """Pauses, resumes, and keeps pauses as they are."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._found: dict[int, Found] = {}
        self._renewed: set[int] = set()
        self._refused: dict[int, str] = {}
        self._empty_groups: dict[int, Group] = {}

    # --- finding out --------------------------------------------------------------------------------------------

    def yielding(self, job: Job) -> Yielding:
        """Say what a running or paused job could be made to do now."""
        found = self._found.get(job.id)
        if found is None or found.at_mono + FRESH_SECONDS < time.monotonic() or job.state is JobState.PAUSED:
            found = self._found[job.id] = self._find_out(job)
        return found.yielding

    def forget(self, job_id: int) -> None:
        """The job has ended."""
        for memory in (self._found, self._refused):
            memory.pop(job_id, None)
        self._renewed.discard(job_id)

    def _find_out(self, job: Job) -> Found:
        no_evict = self._arbiter.reruns.why_not_evict(job)
        seconds, short_only, no_pause, means = 0.0, False, None, None
        if job.request.give_way is GiveWay.NEVER:
            no_pause = "never gives way (--give-way never)"
        elif job.id in self._refused:
            no_pause = self._refused[job.id]
        else:
            seconds, short_only = self._seconds_left(job)
            if seconds <= 0:
                no_pause = "was paused for as long as it may be within a day"
            elif job.state is not JobState.PAUSED:
                means, no_pause = self._means(job)
        if no_pause is not None:
            seconds = 0.0
        return Found(Yielding(seconds, short_only, no_pause, no_evict is None, no_evict), means, time.monotonic())

    def _seconds_left(self, job: Job) -> tuple[float, bool]:
        """Return for how long a job may be paused from now on, and whether that is only for short newcomers."""
        settings = self._arbiter.settings
        paused = self._arbiter.store.paused_seconds_since([job.id], time.time() - DAY_SECONDS)
        left = float(settings["pause_limit"]) - paused
        gang = len({pid for pid, _size in self._arbiter.holders(job)}) > 1
        if gang:
            this_time = time.time() - job.paused_at if job.paused_at is not None else 0.0
            left = min(left, float(settings["gang_pause_limit"]) - this_time)
        return max(0.0, left), gang

    def _means(self, job: Job) -> tuple[Means | None, str | None]:
        leader = job.identity.pid
        if may_have_group(leader):
            return Means.FREEZE, None
        members = self._members(job)
        if all(stat.tty == 0 for stat in members) and _all_orphaned({stat.group for stat in members}):
            return Means.STOP, None
        stat = processes.read_stat(leader)
        if job.stub and self._connection(job) is None:
            return None, "its stub is just coming back"  # it would take our stop for the terminal's
        if job.stub and stat is not None and (stat.tty == 0 or stat.group == stat.foreground):
            return Means.STOP_BEHIND_STUB, None
        if job.stub:
            return None, "runs in the background of a terminal: no pause goes unnoticed there, but in the foreground"
        if stat is not None and stat.tty == 0:
            return None, "below a shell with job control no pause goes unnoticed (-r can be, in the foreground)"
        return None, "runs in a terminal: no pause goes unnoticed there (-r can be, in the foreground)"

    def _members(self, job: Job) -> list[processes.Stat]:
        """All processes known to be the job's, the leader first; never an arbiter that one of them summoned."""
        seat = self._arbiter.seats.get(job.id)
        roots = [job.identity, *(seat.kin.values() if seat else ())]
        found: dict[int, processes.Stat] = {}
        for root in roots:
            stat = processes.read_stat(root.pid)
            if stat is not None and stat.start_ticks == root.start_ticks:
                found[stat.pid] = stat
        for stat in processes.descendants(list(found), skip=processes.is_arbiter):
            found.setdefault(stat.pid, stat)
        return [stat for stat in found.values() if stat.state not in "ZX"]

    def _all_members(self, job: Job) -> Iterator[processes.Stat]:
        """The members, and whatever else on the machine is linked to the job: what left its tree before it was looked at."""
        found = {stat.pid for stat in self._members(job)}
        yield from self._members(job)
        seat, entries = self._arbiter.seats.get(job.id), marker(job)
        parent = seat.reapers[0].pid if seat is not None and seat.reapers else 0
        for stat in processes.everybody():
            if stat.pid in found or stat.pid in self._arbiter.leaders or processes.is_arbiter(stat.pid):
                continue
            if is_linked(stat, job, stat.parent == parent, entries):
                yield stat
                if seat is not None:
                    seat.kin[stat.pid] = self._identity(job, stat)

    def _group(self, job: Job) -> Group | None:
        """Return the group that was made for a job, else the one it could have."""
        made = self._arbiter.store.setting(_group_key(job.id))
        return Group(made) if made else Group.of(job.identity.pid, group_name(self._arbiter.folder_inode, job.id))

    # --- doing --------------------------------------------------------------------------------------------------

    def pause(self, job: Job, newcomer_id: int | None, why: str, *, by_hand: bool = False) -> str | None:
        """Pause a running job now. Returns None if it stands still, else why it does not.

        Who asks by hand is believed to know better than an earlier refusal.
        """
        if by_hand:
            self._refused.pop(job.id, None)
        found = self._found[job.id] = self._find_out(job)
        if found.means is None:
            return found.yielding.no_pause
        self._mark(job)
        if not self._stop(job, found.means):
            self._unmark(job)
            return self._refuse(job, "could not be stopped")
        self._arbiter.store.move(
            job, Event.PAUSE, f"{why} ({found.means.value})", yields_to=newcomer_id, paused_at=time.time(),
            times_given_way=job.times_given_way + (newcomer_id is not None),
        )  # fmt: skip
        self._arbiter.enforcer.after_commit.append(lambda: self._unmark(job))
        self._renewed.discard(job.id)
        log("pause", f"job {job.id}: {found.means.value}, for job {newcomer_id}")
        tell(job, f"job {job.id} paused {self._for_whom(newcomer_id)}")
        self._arbiter.touch()
        return None

    def resume(self, job: Job, why: str) -> None:
        """Let a paused job go on."""
        self.let_go(job)
        self._arbiter.store.move(job, Event.RESUME, why, yields_to=None, paused_at=None, returned_at=time.time())
        self._found.pop(job.id, None)
        log("resume", f"job {job.id}: {why}")
        tell(job, f"job {job.id} goes on after {format_duration(time.time() - (job.paused_at or time.time()))}")
        self._arbiter.touch()

    def let_go(self, job: Job) -> None:
        """Let go on what we stopped of a job; what its owner had stopped (Ctrl-Z) stays stopped."""
        group = self._group(job)
        if group is not None and group.exists():
            group.thaw()
        if job.stub:
            self._arbiter.bell.queue(self._connection(job), "resuming")
        for word in self._arbiter.store.setting(_stopped_key(job.id)).split():
            pid, _, start = word.partition(":")
            stopped = Identity(job.identity.boot_id, job.identity.pid_namespace, int(pid), int(start))
            processes.send_signal(stopped, signal.SIGCONT)
        self._arbiter.store.unset(_stopped_key(job.id))

    def recover(self, job: Job) -> None:
        """After a restart: a job that was being stopped, and was not written down as paused, goes on."""
        name = _mark_name(job.id)
        try:
            os.stat(name, dir_fd=self._arbiter.folder.fd)
        except OSError:
            return
        if job.state is not JobState.PAUSED:
            self.let_go(job)
            for stat in self._members(job):
                if stat.state == "T" and not (job.stub and stat.pid == job.identity.pid):
                    processes.send_signal(self._identity(job, stat), signal.SIGCONT)
        self._unmark(job)

    def _mark(self, job: Job) -> None:
        """Leave word, outside the database, that a job is about to be stopped: the batch may never be committed."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with contextlib.suppress(OSError):
            os.close(os.open(_mark_name(job.id), flags, 0o600, dir_fd=self._arbiter.folder.fd))

    def _unmark(self, job: Job) -> None:
        with contextlib.suppress(OSError):
            os.unlink(_mark_name(job.id), dir_fd=self._arbiter.folder.fd)

    def ended(self, job: Job) -> None:
        """The leader of a job has ended: nothing of it stays stopped or frozen, whoever ended it."""
        self.forget(job.id)
        made = self._arbiter.store.setting(_group_key(job.id))
        if job.state is JobState.PAUSED:
            self.let_go(job)
        if made:
            self._empty_groups[job.id] = Group(made)
            self._empty_groups[job.id].thaw()

    def remove_groups(self) -> None:
        """Remove the groups of jobs that have ended, as soon as nothing lives in them."""
        for job_id, group in list(self._empty_groups.items()):
            if group.remove():
                del self._empty_groups[job_id]
                self._arbiter.store.unset(_group_key(job_id))

    def has_groups(self) -> bool:
        """Whether a group still waits to be removed."""
        return bool(self._empty_groups)

    def _stop(self, job: Job, means: Means) -> bool:
        if means is Means.FREEZE:
            return self._freeze(job)
        if means is Means.STOP_BEHIND_STUB:
            self._arbiter.bell.send_now(self._connection(job), "pausing")
        return self._stop_all(job)

    def _freeze(self, job: Job) -> bool:
        group = self._group(job)
        if group is None:
            return False
        self._arbiter.store.set(_group_key(job.id), group.folder)
        if not group.make():
            return False
        for pid in group.pids():
            if pid == os.getpid() or processes.is_arbiter(pid):  # summoned by the job, and no part of it
                group.eject(pid)
        return group.freeze(lambda: self._all_members(job))

    def _stop_all(self, job: Job) -> bool:
        """SIGSTOP until no running member is left: each may fork before its turn comes."""
        stopped: dict[int, int] = {}
        for word in self._arbiter.store.setting(_stopped_key(job.id)).split():  # of a pause that is renewed
            stopped[int(word.partition(":")[0])] = int(word.partition(":")[2])
        for _ in range(50):
            running = [
                stat
                for stat in self._all_members(job)
                if stat.state not in "Tt" and not (job.stub and stat.pid == job.identity.pid)
            ]
            if not running:
                self._note_stopped(job, stopped)
                return True
            for stat in running:
                if processes.send_signal(self._identity(job, stat), signal.SIGSTOP):
                    stopped[stat.pid] = stat.start_ticks
            time.sleep(0.001)  # the signal is acted on when the process next enters or leaves the kernel
        self._note_stopped(job, stopped)
        self.let_go(job)
        return False

    def _note_stopped(self, job: Job, stopped: dict[int, int]) -> None:
        text = " ".join(f"{pid}:{start}" for pid, start in sorted(stopped.items()))
        self._arbiter.store.set(_stopped_key(job.id), text)

    def _identity(self, job: Job, stat: processes.Stat) -> Identity:
        return Identity(job.identity.boot_id, job.identity.pid_namespace, stat.pid, stat.start_ticks)

    def _connection(self, job: Job) -> Connection | None:
        seat = self._arbiter.seats.get(job.id)
        return seat.connection if seat is not None else None

    def _refuse(self, job: Job, why: str) -> str:
        self._refused[job.id] = why
        self._found.pop(job.id, None)
        return why

    # --- keeping ------------------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """See that every pause is as it was left, and that nobody stays paused beyond its bound."""
        self.remove_groups()
        for job in [job for job in self._arbiter.store.holding.values() if job.state is JobState.PAUSED]:
            if self._wants_to_die(job):
                self.resume(job, "a signal waits for it")
            elif not self._stands_still(job):
                self._renew(job)

    def _stands_still(self, job: Job) -> bool:
        group = self._group(job)
        if group is not None and group.exists() and group.is_frozen():
            return True
        return all(
            stat.state in "Tt" for stat in self._members(job) if not (job.stub and stat.pid == job.identity.pid)
        )

    def _renew(self, job: Job) -> None:
        """Others undid the pause (tmux and fg send SIGCONT [run]): once is an accident, twice is a wish."""
        means, _ = self._means(job)
        if job.id not in self._renewed and means is not None and self._stop(job, means):
            self._renewed.add(job.id)
            return
        self._refuse(job, "somebody lets it go on whenever it is paused")
        self.resume(job, "somebody let it go on")

    def _wants_to_die(self, job: Job) -> bool:
        group = self._group(job)
        if group is None or not group.exists():
            return False
        return any(processes.pending_signals(stat.pid) & _mask(_WOKEN_BY) for stat in self._members(job))

    def _for_whom(self, newcomer_id: int | None) -> str:
        newcomer = self._arbiter.store.live.get(newcomer_id) if newcomer_id is not None else None
        if newcomer is None:
            return "by hand: gpurun resume lets it go on"
        word = next((word for word, value in PRIORITY_WORDS.items() if value == newcomer.priority), str(newcomer.priority))
        return f"for job {newcomer.id} ({newcomer.user}, {word}), goes on by itself"

    def thaw_everything(self) -> None:
        """Before an arbiter gives up: nobody stays stopped."""
        for job in list(self._arbiter.store.holding.values()):
            if job.state in STARTED and job.state in (JobState.PAUSED, JobState.SUSPENDED):
                self.resume(job, "the arbiter gives up")


def _mark_name(job_id: int) -> str:
    return f"pausing-{job_id}"


def _stopped_key(job_id: int) -> str:
    return f"stopped {job_id}"


def _group_key(job_id: int) -> str:
    return f"group {job_id}"


def _mask(numbers: tuple[int, ...]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    return mask


def _all_orphaned(groups: set[int]) -> bool:
    """Whether no member of these process groups has a parent in another group of its session [POSIX, orphaned process group].

    A stopped member of a group that becomes orphaned is hung up; of one that is orphaned already nothing more can happen.
    """
    everybody = {stat.pid: stat for stat in processes.everybody()}
    for stat in everybody.values():
        parent = everybody.get(stat.parent)
        if stat.group in groups and parent is not None and parent.session == stat.session and parent.group != stat.group:
            return False
    return True
