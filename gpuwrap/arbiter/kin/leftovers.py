"""Processes that outlive their job's leader: remembering them across restarts, naming them, ending them by the setting.

1. What is known of a running job's processes is written down when it changes: a successor cannot find again what was
   linked to the job by a parent that has gone, once it has wiped its marker.
2. After a restart the whole machine is read once for each job whose leader has ended: by marker, session and group.
3. Nothing is ended unless the setting `end_leftovers` says so, and then as `kill` would end it.
4. A process that asks for GPUs block after block goes on with what the ended ones left: it does not stand in its own way, and
   is counted as the new one's once that has taken its grant.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ...host import processes
from ...host.devices import Look
from ...lifecycle import JobState
from ...model import Identity, Job, Leftover, Share
from ...policy.placement import unexplained_allowance
from ...policy.words import program
from ...units import format_duration, format_size
from ..log import log
from .walk import by_pid, identity_at

if TYPE_CHECKING:
    from ..loop import Arbiter

# What has lived so long is written down: of the many that come and go (compilers below make) nothing is left to be found.
STAYS_SECONDS = 2.0
# So many are named in one line.
NAMED = 2


class Leftovers:
    """Knows what ended jobs left behind on their GPUs."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._written = arbiter.notes.kin
        self._known = arbiter.known

    # --- across restarts ----------------------------------------------------------------------------------------

    def remember(self) -> None:
        """Write down the processes of jobs that are known beside their leaders and stay, where that has changed."""
        known = [(job, self._known.seen(job.id)) for job in self._arbiter.store.holding.values()]
        if not any([kin.processes or self._written.has(job.id) for job, kin in known]):
            return
        old_ticks = (time.clock_gettime(time.CLOCK_BOOTTIME) - STAYS_SECONDS) * processes.CLOCK_TICKS
        look = self._arbiter.deciding.look
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
        found = (stat for stat in processes.everybody() if self._arbiter.links.find(stat, (job,)) is not None)
        self._known.of(job.id).processes |= by_pid(job, found)

    # --- going on -----------------------------------------------------------------------------------------------

    def kept(self, job: Job) -> tuple[Share, ...]:
        """Return what a block's process holds of its grant, as the last look shows it; 0 bytes where that is not known."""
        look = self._arbiter.deciding.look
        assert look is not None
        used = self._arbiter.owners.used_by(look).get(job.id, {})
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
        for job_id in self._arbiter.leftovers:
            job = self._arbiter.store.live.get(job_id)
            if job is not None and job.identity.pid in self._known.seen(job_id).processes:
                found.setdefault(job.identity, set()).add(job_id)
        return found

    def own(self) -> dict[int, frozenset[int]]:
        """Say of jobs in line which ended ones left something to the very process that asks."""
        blocks = self.of_processes()
        line = self._arbiter.store.in_line.values() if blocks else ()
        return {job.id: frozenset(blocks[job.identity]) for job in line if job.identity in blocks}

    def take_over(self, job: Job) -> None:
        """A job starts: what ended ones left to its process is its own, on the GPUs that it was granted."""
        store, uuids = self._arbiter.store, {share.uuid for share in job.shares}
        for job_id in self.of_processes().get(job.identity, ()):
            left = self._known.of(job_id).processes.items()
            self._known.of(job.id).processes |= {pid: kin for pid, kin in left if pid != job.identity.pid}
            rest = tuple(share for share in store.live[job_id].shares if share.uuid not in uuids)
            before = store.shrink(store.live[job_id], rest)
            if not rest:
                self._arbiter.enforcer.release_if_let_go(before)

    # --- naming and ending --------------------------------------------------------------------------------------

    def of(self, job: Job) -> list[Leftover]:
        """Return what an ended job left behind, those first that hold most."""
        if job.state is not JobState.ENDED:
            return []
        held: dict[int, int | None] = {}
        for pid, size in self._arbiter.holders(job):
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
        since = format_duration(_ended_ago(job))
        rest = f" and {more} more" if more > 0 else ""
        return f"left behind on GPU {gpus}, {since} ago: {', '.join(names)}{rest}"

    def is_young(self) -> bool:
        """Whether some job ended a moment ago: what it left behind is mostly just ending."""
        live = self._arbiter.store.live
        return any(_ended_ago(live[job_id]) < 10.0 for job_id in self._arbiter.leftovers if job_id in live)

    def end_overdue(self, job: Job) -> None:
        """End what a job left behind, if the setting says so and its time has come."""
        delay, seat = self._arbiter.settings["end_leftovers"], self._arbiter.seats[job.id]
        if delay is None or seat.kill_timer is not None or _ended_ago(job) < delay:
            return
        if job.identity.pid in self._known.of(job.id).processes and self._arbiter.leaders.get(job.identity.pid) != job.id:
            return  # its process has asked again: it would be that job that is ended
        log("leftovers", f"job {job.id}: ended by the setting end_leftovers")
        self._arbiter.killing.kill(job, None, "the setting end_leftovers")


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


def _ended_ago(job: Job) -> float:
    now_mono = time.monotonic()
    return now_mono - (job.ended_mono or now_mono)
