"""Processes that outlive their job's leader: whether they hold its GPUs, remembering them across restarts, naming them.

1. A survivor holds its job's grant if the driver names it there, if it has a device file open, or while it is young: it may
   still be importing. So does any, while it is being ended, or before the GPUs were looked at. The end of each is awaited.
2. What is known of a running job's processes is written down when it changes: a successor cannot find again what was
   linked to the job by a parent that has gone, once it has wiped its marker.
3. After a restart the whole machine is read once for each job whose leader has ended.
4. A process that asks for GPUs block after block goes on with what the ended ones left: it does not stand in its own way, and
   is counted as the new one's once that has taken its grant.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from ...host import processes
from ...host.devices import Look
from ...lifecycle import JobState
from ...model import Identity, Job, Leftover, Share
from ...policy.placement import unexplained_allowance
from ...policy.words import program
from ...state.mirror import Jobs
from ...state.notes import Notes, Starts
from ...units import format_duration, format_size
from ..bell.room import Room
from ..bell.socket import Watcher
from .known import Known
from .links import Links
from .owners import Owners
from .walk import by_pid, identity_at, living

# What has lived so long is written down: of the many that come and go (compilers below make) nothing is left to be found.
STAYS_SECONDS = 2.0
# A leftover younger than this counts as holding its job's GPUs even if it does not show there.
YOUNG_SECONDS = 60.0
# Survivors of one job whose end is awaited by descriptor; the end of more is found at the next look.
MOST_WATCHED = 64
# So many are named in one line.
NAMED = 2


class Leftovers:
    """Knows what ended jobs left behind on their GPUs."""

    def __init__(
        self,
        jobs: Jobs,
        holding_on: set[int],
        known: Known,
        links: Links,
        owners: Owners,
        written: Notes[int, Starts],
        look: Callable[[], Look | None],
    ) -> None:
        """`holding_on`: the ended jobs of which something holds a GPU; `look`: the last one."""
        self._jobs = jobs
        self._holding_on = holding_on
        self._known = known
        self._links = links
        self._owners = owners
        self._written = written
        self._look = look

    # --- across restarts ----------------------------------------------------------------------------------------

    def remember(self) -> None:
        """Write down the processes of jobs that are known beside their leaders and stay, where that has changed."""
        known = [(job, self._known.seen(job.id)) for job in self._jobs.holding.values()]
        if not any([kin.processes or self._written.has(job.id) for job, kin in known]):
            return
        old_ticks = (time.clock_gettime(time.CLOCK_BOOTTIME) - STAYS_SECONDS) * processes.CLOCK_TICKS
        look = self._look()
        named = {process.pid for sample in look.samples for process in sample.processes or ()} if look else set()

        def stays(kin: Identity) -> bool:
            return kin.start_ticks < old_ticks or kin.pid in named

        for job, all_of_it in known:
            kept = [kin for kin in all_of_it.processes.values() if job.state is JobState.ENDED or stays(kin)]
            self._written.put(job.id, {kin.pid: kin.start_ticks for kin in kept})

    def forget(self, job_id: int) -> None:
        """The job has let go."""
        self._written.drop(job_id)

    def recall(self, job: Job) -> None:
        """After a restart: know again which processes belong to a job."""
        for pid, start in (self._written.get(job.id) or {}).items():
            kin = identity_at(job, pid, start)
            if processes.is_same_process(kin):
                self._known.of(job.id).processes[kin.pid] = kin

    def search(self, job: Job) -> None:
        """After a restart: find what a job whose leader has ended left behind, whoever adopted it."""
        found = (stat for stat in processes.everybody() if self._links.find(stat, (job,)) is not None)
        self._known.of(job.id).processes |= by_pid(job, found)

    # --- going on -----------------------------------------------------------------------------------------------

    def kept(self, job: Job) -> tuple[Share, ...]:
        """Return what a block's process holds of its grant, as the last look shows it; 0 bytes where that is not known."""
        look = self._look()
        assert look is not None
        used = self._owners.used_by(look).get(job.id, {})
        hidden = _hidden(look) if processes.has_device_open(job.identity.pid) else set()
        held = [(share, used.get(share.uuid, 0)) for share in job.shares]  # None: the driver does not say
        return tuple(
            replace(share, bytes=share.bytes if size is None else size, whole=False)
            for share, size in held
            if size != 0 or share.uuid in hidden
        )

    def of_processes(self) -> dict[Identity, set[int]]:
        """Return the ended jobs that left something to a leader that lives on, by that process."""
        found: dict[Identity, set[int]] = {}
        for job_id in self._holding_on:
            job = self._jobs.live.get(job_id)
            if job is not None and job.identity.pid in self._known.seen(job_id).processes:
                found.setdefault(job.identity, set()).add(job_id)
        return found

    def own(self) -> dict[int, frozenset[int]]:
        """Say of jobs in line which ended ones left something to the very process that asks."""
        blocks = self.of_processes()
        line = self._jobs.in_line.values() if blocks else ()
        return {job.id: frozenset(blocks[job.identity]) for job in line if job.identity in blocks}

    def take_over(self, job: Job) -> list[tuple[Job, tuple[Share, ...]]]:
        """A job starts: what ended ones left to its process is its own, on the GPUs that it was granted.

        Returns those, each with what is left of its grant.
        """
        uuids, found = {share.uuid for share in job.shares}, []
        for job_id in self.of_processes().get(job.identity, ()):
            left = self._known.seen(job_id).processes.items()
            self._known.of(job.id).processes |= {pid: kin for pid, kin in left if pid != job.identity.pid}
            before = self._jobs.live[job_id]
            found.append((before, tuple(share for share in before.shares if share.uuid not in uuids)))
        return found

    # --- naming ------------------------------------------------------------------------------------------------

    def of(self, job: Job) -> list[Leftover]:
        """Return what an ended job left behind, those first that hold most."""
        if job.state is not JobState.ENDED:
            return []
        held: dict[int, int | None] = {}
        for pid, size in self._holders(job):
            held[pid] = (held.get(pid) or 0) + (size or 0)
        found = [
            Leftover(job.id, kin.pid, processes.command_text(kin.pid), held.get(kin.pid), job.ended_mono)
            for kin in self._known.seen(job.id).processes.values()
            if processes.is_same_process(kin)
        ]
        return sorted(found, key=lambda each: (-(each.bytes or 0), each.pid))

    def words(self, job: Job) -> str | None:
        """Say who still holds an ended job's GPUs; None if nobody does."""
        found = self.of(job)
        if not found:
            return None
        names = [leftover_words(each) for each in found[:NAMED]]
        more = len(found) - NAMED
        gpus = ", ".join(str(share.index) for share in job.shares)
        since = format_duration(ended_ago(job))
        rest = f" and {more} more" if more > 0 else ""
        return f"left behind on GPU {gpus}, {since} ago: {', '.join(names)}{rest}"

    def is_young(self) -> bool:
        """Whether some job ended a moment ago: what it left behind is mostly just ending."""
        live = self._jobs.live
        return any(ended_ago(live[job_id]) < 10.0 for job_id in self._holding_on if job_id in live)

    def _holders(self, job: Job) -> list[tuple[int, int | None]]:
        look = self._look()
        return self._owners.holders(look, job) if look is not None else []


class Survivors:
    """Says whether what outlived a leader holds its job's GPUs, and awaits the ends of those that do."""

    def __init__(
        self,
        known: Known,
        holders: Callable[[Job], list[tuple[int, int | None]]],
        leaders: Mapping[int, int],
        watcher: Watcher,
        room: Room,
        on_end: Callable[[int], None],
    ) -> None:
        """`on_end`: one of a job has ended."""
        self._known = known
        self._holders = holders
        self._leaders = leaders
        self._watcher = watcher
        self._room = room
        self._on_end = on_end
        self._watched: dict[int, dict[int, int]] = {}

    def hold(self, job: Job, *, undecided: bool) -> bool:
        """Whether a survivor holds a GPU of an ended job's grant; `undecided`: each that lives does for now."""
        known = self._known.seen(job.id).processes
        if not job.shares or not known:
            return False
        holding, held = {pid for pid, _size in self._holders(job)}, False
        for pid, kin in list(known.items()):
            stat = living(kin)
            if stat is None:
                self._forget(job.id, pid)
                continue
            self._watch(job.id, kin)
            young = pid != job.identity.pid and processes.age_seconds(stat) < YOUNG_SECONDS
            if undecided or pid in holding or young or processes.has_device_open(pid):
                held = True
        return held

    def is_overdue(self, job: Job, delay: float | None) -> bool:
        """Whether what an ended job left behind is to be ended, so long after it; None: never."""
        if delay is None or ended_ago(job) < delay:
            return False
        leader = job.identity.pid
        # A process that has asked again is left alone: it would be that job that is ended.
        return leader not in self._known.seen(job.id).processes or self._leaders.get(leader) == job.id

    def let_go(self, job_id: int) -> None:
        """Await no end of this job's any more."""
        for pid in list(self._watched.get(job_id, ())):
            self._unwatch(job_id, pid)
        self._watched.pop(job_id, None)

    def _watch(self, job_id: int, kin: Identity) -> None:
        watched = self._watched.setdefault(job_id, {})
        if kin.pid in watched or len(watched) >= MOST_WATCHED or not self._room.is_for_a_job():
            return
        pidfd = processes.open_pidfd(kin)
        if pidfd is not None:
            watched[kin.pid] = pidfd
            self._watcher.watch(pidfd, lambda _mask: self._ended(job_id, kin.pid))

    def _ended(self, job_id: int, pid: int) -> None:
        self._forget(job_id, pid)
        self._on_end(job_id)

    def _forget(self, job_id: int, pid: int) -> None:
        self._known.of(job_id).processes.pop(pid, None)
        self._unwatch(job_id, pid)

    def _unwatch(self, job_id: int, pid: int) -> None:
        pidfd = self._watched.get(job_id, {}).pop(pid, None)
        if pidfd is not None:
            self._watcher.unwatch(pidfd)
            os.close(pidfd)


def _hidden(look: Look) -> set[str]:
    """Return the GPUs of which so much memory is in use without a name (in a container) that who has them open may hold it."""
    found = set()
    for gpu in look.samples:
        if gpu.total_bytes is not None and gpu.free_bytes is not None:
            named = sum(process.bytes or 0 for process in gpu.processes or ())
            if gpu.total_bytes - gpu.free_bytes - named > unexplained_allowance(gpu.total_bytes):
                found.add(gpu.uuid)
    return found


def leftover_words(found: Leftover) -> str:
    """Name a leftover: `pid 4711 (python worker.py, 5G)`."""
    size = f", {format_size(found.bytes)}" if found.bytes else ""
    return f"pid {found.pid} ({program(found)}{size})"


def ended_ago(job: Job) -> float:
    """Return for how many seconds a job has been over."""
    now_mono = time.monotonic()
    return now_mono - (job.ended_mono or now_mono)
