"""How jobs are made to stand still, and how they go on.

1. The means is decided at that moment, from one look at the job's processes: a cgroup v2 group of its own, frozen; SIGSTOP
   where no terminal and no parent can see it; SIGSTOP behind a stub in the terminal's foreground; else not at all. A bare
   SIGSTOP is noticed by shells, and a stopped member of an orphaned process group is hung up by the kernel [run].
   Where the user manager has to make way for the group, it is asked first (`scopes`).
2. A stub is told before anything below it is stopped, whatever the reason why SIGSTOP may be used: it follows its child,
   and would take our stop for its owner's.
3. Several jobs are stopped together, all or none, from one census of the machine, and within `STOP_SECONDS`: who cannot
   be stopped by then, or may not be, goes on, and so do the others.
4. What their owner had stopped (Ctrl-Z) stays stopped when they go on, also if he did so meanwhile.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from ...host import processes
from ...host.census import Census
from ...host.freezer import Group, folder_of, may_have_group
from ...host.signals import pending_signals, resume
from ...lifecycle import JobState
from ...model import Identity, Job
from ..kin.members import OTHERS, Kinship
from ..kin.walk import identity_at, identity_of
from ..log import log
from .marks import Traces
from .user_scopes import Scopes, have_moved

if TYPE_CHECKING:
    from ..loop import Arbiter

# It is waited for inside a wake of the arbiter: nobody else is served meanwhile.
STOP_SECONDS = 0.5
# Between looks whether all stand still: a freeze takes 0.3 to 0.7 ms [tested], a stop as long as its next system call.
LOOK_SECONDS = 0.0003
_ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Means(Enum):
    """How a job can be paused."""

    FREEZE = "freeze"
    STOP = "stop"
    STOP_BEHIND_STUB = "stop behind the stub"


class Failed(Exception):
    """A job cannot be made to stand still; the text follows its name."""

    def __init__(self, job: Job, text: str) -> None:
        self.job, self.text = job, text
        super().__init__(f"job {job.id} {text}")


class Halt(Protocol):
    """One job that is being stopped."""

    job: Job

    def take(self, stats: Iterable[processes.Stat]) -> None:
        """Stop these. Raises Failed."""

    def is_still(self) -> bool:
        """Whether all that was taken stands still."""


class Stopping:
    """Stops jobs, lets them go on, and says whether they stand still."""

    def __init__(self, arbiter: "Arbiter", traces: Traces) -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._members = arbiter.members
        self._store = arbiter.store
        self._traces = traces
        self._spared: dict[int, set[int]] = {}
        self._stuck: dict[int, dict[int, int]] = {}
        self.scopes = Scopes(traces)

    def forget(self, job_id: int) -> None:
        """The job has ended, or goes on."""
        self._spared.pop(job_id, None)
        self._stuck.pop(job_id, None)

    # --- how ------------------------------------------------------------------------------------------------------

    def means(self, job: Job, census: Callable[[], Census]) -> tuple[Means | None, str | None]:
        """Say how a job can be paused now; else why it cannot. A census is only taken where one is needed."""
        missing = self._arbiter.containers.why_not_whole(job)
        if missing is not None:
            return None, missing
        if may_have_group(job.identity.pid) or self.scopes.may_help(job):
            return Means.FREEZE, None
        means, why_not = self._means_without_group(job, census)
        return means, None if why_not is None else why_not + self.scopes.words(job)

    def _means_without_group(self, job: Job, census: Callable[[], Census]) -> tuple[Means | None, str | None]:
        leader = job.identity.pid
        seat = self._seats.get(job.id)
        if job.stub and (seat is None or seat.connection is None):
            return None, "its stub is just coming back"
        if job.stub and seat is not None and not self._arbiter.reruns.has_begun(job):
            return None, "is just starting"  # what its stub forks next nobody would stop
        members = self._members.tree(job)
        for stat in members:
            if not processes.may_signal(stat.pid, job.uid):
                return None, _others_process(stat.pid)
        if all(stat.tty == 0 for stat in members) and census().all_orphaned({stat.group for stat in members}):
            return Means.STOP, None
        leading = processes.read_stat(leader)
        if leading is not None and leading.tty == 0:
            in_front = "" if job.stub else " (-r can be, in the foreground of a terminal)"
            return None, f"below a shell with job control no pause goes unnoticed{in_front}"
        if job.stub and leading is not None and leading.group == leading.foreground:
            return Means.STOP_BEHIND_STUB, None
        if job.stub:
            return None, "runs in the background of a terminal: no pause goes unnoticed there, but in the foreground"
        return None, "runs in a terminal: no pause goes unnoticed there (-r can be, in the foreground)"

    # --- doing ----------------------------------------------------------------------------------------------------

    def stop(self, wanted: Sequence[tuple[Job, Means]], census: Census) -> tuple[Job, str] | None:
        """Make jobs stand still, all or none. Returns None, else who could not be stopped and why."""
        begun = time.monotonic()
        kinship = self._members.in_census([job for job, _means in wanted], census)
        until = begun + STOP_SECONDS
        halts: list[Halt] = []
        try:
            for job, _means in wanted:
                refusal = kinship.refusal(job)
                if refusal is not None:
                    return job, refusal
            for job, means in wanted:
                halts.append(self._halt(job, means, kinship, until))
            self._stop_all(halts, kinship, until)
        except Failed as failed:
            for halt in halts:
                self.let_go(halt.job)
            log("stop", f"job {failed.job.id} {failed.text}, {(time.monotonic() - begun) * 1000:.1f} ms")
            return failed.job, failed.text
        for halt in halts:
            self._spared[halt.job.id] = kinship.spared.get(halt.job.id, set())
            self._note_stuck(halt.job)
        log("stop", f"{len(wanted)} together, {(time.monotonic() - begun) * 1000:.1f} ms")
        return None

    def _halt(self, job: Job, means: Means, kinship: Kinship, until: float) -> Halt:
        if means is Means.FREEZE:
            return _Freezing(job, self._made_group(job, kinship), self._quiet_groups(job), until)
        seat = self._seats.get(job.id)
        if job.stub and seat is not None:
            self._arbiter.bell.send_now(seat.connection, "pausing")
        return _Signalling(job, self._traces)

    def _stop_all(self, halts: Sequence[Halt], kinship: Kinship, until: float) -> None:
        new = kinship.members(kinship.census.stats.values())
        while True:
            moving = None
            for halt in halts:
                halt.take(new.get(halt.job.id, ()))
                if not halt.is_still():
                    moving = halt.job
            # Looked for only now: who stands still forks no more.
            new = kinship.members(kinship.census.news())
            if moving is None and not new:
                return
            if time.monotonic() > until:
                raise Failed(moving or next(iter(halts)).job, "could not be stopped")
            if not new:
                time.sleep(LOOK_SECONDS)

    def _made_group(self, job: Job, kinship: Kinship) -> Group:
        group = self._traces.group(job)
        try:
            if group is None:
                raise OSError("no cgroup")
            if not group.make() and not self._traces.has_group(job.id):
                for pid in group.pids():
                    if kinship.owner(pid) != job.id:
                        raise Failed(job, f"cannot be frozen: pid {pid} lives in its cgroup and is no part of it")
            self._traces.note_group(job, group)
            for pid in group.pids():  # born in it, and no part of the job
                if pid == os.getpid() or kinship.owner(pid) == OTHERS:
                    group.eject(pid)
            group.freeze()
        except OSError as err:
            log("freeze", f"job {job.id}: {err}")
            raise Failed(job, "could not be stopped") from err
        return group

    def _quiet_groups(self, job: Job) -> set[str]:
        """Return the groups of nested jobs that are paused by themselves: they shall stay so when this one goes on."""
        inner = [each for each in self._store.family(job).values() if each.id != job.id]
        groups = (self._traces.group(each) for each in inner if each.state is JobState.PAUSED)
        return {group.folder for group in groups if group is not None and group.is_frozen()}

    def note(self, job: Job, means: Means) -> None:
        """Write down what a successor needs to let a job go on."""
        if means is not Means.FREEZE:
            self._traces.note_stopped(job.id)

    def let_go(self, job: Job) -> None:
        """Let go on what we stopped of a job, now."""
        group = self._traces.group(job)
        if group is not None and group.exists():
            group.thaw()
        # Nested stubs last: one that woke before its child would take our stop for its owner's, and stop too.
        stubs = {each.identity.pid for each in self._store.family(job).values() if each.stub}
        stopped = sorted(self._traces.stopped(job.id).items(), key=lambda each: (each[0] in stubs, -each[1], -each[0]))
        for pid, start in stopped:
            self.go_on(identity_at(job, pid, start))
        self._traces.forget_stopped(job.id)
        seat = self._seats.get(job.id)
        if job.stub and seat is not None:
            self._arbiter.bell.send_now(seat.connection, "resuming")
        self._traces.unmark(job.id)
        self.forget(job.id)

    def go_on(self, identity: Identity) -> None:
        """Continue one process."""
        try:
            resume(identity)
        except PermissionError:
            log("signal", f"not permitted to continue pid {identity.pid}")

    # --- standing still -------------------------------------------------------------------------------------------

    def _standing(self, job: Job) -> list[processes.Stat]:
        """Return what has to stand still of a job: not its stub, if that is not frozen with it."""
        members = self._members.tree(job, self._spared.get(job.id, ()))
        if job.stub and not self._is_frozen(job):
            return [stat for stat in members if stat.pid != job.identity.pid]
        return members

    def _is_frozen(self, job: Job) -> bool:
        group = self._traces.group(job)
        return group is not None and group.is_frozen()

    def stands_still(self, job: Job) -> bool:
        """Whether a paused job is as it was left. In a frozen group stands only who has not been moved elsewhere."""
        frozen: dict[str, bool] = {}
        for stat in self._standing(job):
            if stat.state in "Tt":
                continue
            folder = folder_of(stat.pid)
            if folder is None:
                if processes.read_stat(stat.pid) is not None:
                    return False
                continue
            if folder not in frozen:
                frozen[folder] = Group(folder).is_frozen()
            if not frozen[folder]:
                return False
        return True

    def is_asked_to_end(self, job: Job) -> bool:
        """Whether a signal waits for a paused job that it would have acted on."""
        stopped, stuck = self._traces.stopped(job.id), self._stuck.get(job.id)
        if stuck is None:
            stuck = self._note_stuck(job)
        for stat in self._standing(job):
            if stat.state not in "Tt":
                wanted = _mask((*_ASK_TO_END, signal.SIGTSTP))
            elif stat.pid in stopped:
                wanted = _mask(_ASK_TO_END)
            else:
                continue  # its owner stopped it: it would not act on anything
            pending, _blocked = pending_signals(stat.pid)
            if pending & wanted & ~stuck.get(stat.pid, 0):
                return True
        return False

    def _note_stuck(self, job: Job) -> dict[int, int]:
        """Remember what waited for a job, blocked, before it was paused: that is no reason to let it go on."""
        found = {}
        for stat in self._standing(job):
            pending, blocked = pending_signals(stat.pid)
            if pending & blocked:
                found[stat.pid] = pending & blocked
        self._stuck[job.id] = found
        return found


class _Freezing:
    """A job whose processes are moved into a frozen group."""

    def __init__(self, job: Job, group: Group, quiet: set[str], until: float) -> None:
        self.job = job
        self._group, self._quiet, self._until = group, quiet, until

    def take(self, stats: Iterable[processes.Stat]) -> None:
        elsewhere = []
        for stat in stats:
            if self._quiet and folder_of(stat.pid) in self._quiet:
                continue
            try:
                self._group.take(stat)
            except PermissionError:
                elsewhere.append(stat)
            except OSError as err:
                raise Failed(self.job, "could not be stopped") from err
        why = have_moved(self._group, elsewhere, self._until) if elsewhere else None
        if why is not None:
            raise Failed(self.job, f"could not be frozen whole: {why}")

    def is_still(self) -> bool:
        return self._group.is_frozen()


class _Signalling:
    """A job whose processes are stopped by SIGSTOP, but for its stub."""

    def __init__(self, job: Job, traces: Traces) -> None:
        self.job = job
        self._traces = traces
        self._moving: dict[int, int] = {}

    def take(self, stats: Iterable[processes.Stat]) -> None:
        for stat in stats:
            if stat.state in "Tt" or (self.job.stub and stat.pid == self.job.identity.pid):
                continue
            try:
                if processes.send_signal(identity_of(self.job, stat), signal.SIGSTOP, self.job.uid):
                    self._traces.remember_stopped(self.job.id, {stat.pid: stat.start_ticks})
                    self._moving[stat.pid] = stat.start_ticks
            except PermissionError as err:
                raise Failed(self.job, _others_process(stat.pid)) from err

    def is_still(self) -> bool:
        for pid, start in list(self._moving.items()):
            now = processes.read_stat(pid)
            if now is None or now.start_ticks != start or now.state in "TtZX":
                del self._moving[pid]
        return not self._moving


def _others_process(pid: int) -> str:
    return f"has a process of another user ({processes.owner_name(pid)}, pid {pid}), which cannot be stopped"


def _mask(numbers: Iterable[int]) -> int:
    mask = 0
    for number in numbers:
        mask |= 1 << (number - 1)
    return mask
