"""Making it so: grants, offers, ends, and giving GPUs back.

1. A claim is bound before the grant is written and offered; `take` is answered by the guarded move to running, the point of no
   return, and the answer is sent when all this is committed. (An offer may be sent before: of one that never was, nothing
   is left, and who takes it is told to wait on.)
2. A grant ends when the leader has ended and nothing of the job holds its GPUs.
3. What cannot be undone (signals, letting go of claims and descriptors) is done after the batch that recorded it is
   committed.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...clocks import wall_at
from ...host import processes
from ...lifecycle import STARTED, Event, JobState
from ...model import Action, Evict, Grant, Job, Pause, Result, ResultKind, Resume, Share
from ...policy.effects import notice
from ...units import format_of, format_size
from ..bell.seat import Seat
from ..log import log
from ..timers import Timer
from ..turn import Ledger
from .killing import signal_all

if TYPE_CHECKING:
    from ..loop import Arbiter

OFFER_SECONDS = 5.0
STALE_SECONDS = 1.0


class Enforcer:
    """Applies what was decided, and follows jobs from the grant until nothing of them holds a GPU."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._known = arbiter.known
        self._ladders = arbiter.ladders
        self._offered: Ledger[int, tuple[float, Timer]] = Ledger(self._turn)
        """Grants that are on offer, since when, and when that runs out."""
        self._to_tell: dict[int, str | None] = {}
        """What jobs are told on stderr when they start."""
        self.at_end: Sequence[Callable[[Job], None]] = ()
        """Who follows the end of a job, in order."""

    # --- granting -----------------------------------------------------------------------------------------------

    def apply_all(self, actions: Sequence[Action]) -> bool:
        """Carry out actions, pauses for one newcomer all or none; false if the plan must be made anew."""
        pauses: dict[int, list[int]] = {}
        went_well = True
        for action in actions:
            if isinstance(action, Pause):
                pauses.setdefault(action.newcomer_id, []).append(action.job_id)
            elif not self._apply(action):
                went_well = False
        if not went_well:
            return False
        for newcomer_id in sorted(pauses):
            jobs = [self._store.live[job_id] for job_id in pauses[newcomer_id]]
            if self._arbiter.pausing.pause(jobs, newcomer_id, f"for job {newcomer_id}") is not None:
                return False
        return True

    def _apply(self, action: Action) -> bool:
        """Carry out one action; false if the plan must be made anew, since it met with a surprise."""
        if isinstance(action, Grant):
            return self.grant(action)
        job = self._store.live[action.job_id]
        if isinstance(action, Evict):
            return self._arbiter.reruns.evict(job, action.newcomer_id, f"gives way to job {action.newcomer_id}")
        if isinstance(action, Resume):
            why = "paused for as long as it may be" if action.forced else "there is room again"
            self._arbiter.pausing.resume(job, why)
        return True

    def grant(self, grant: Grant) -> bool:
        """Grant and offer; false if the plan must be made anew, since the client stopped or a GPU was claimed meanwhile."""
        arbiter = self._arbiter
        job = self._store.live[grant.job_id]
        seat = self._seats[job.id]
        stat = processes.read_stat(job.identity.pid)
        if stat is not None and stat.state in "Tt":
            for each in arbiter.sweeps.seats_like(seat):
                each.stopped = True
            return False
        if job.parent_id is None and not arbiter.holding.take(job.id, grant.shares):
            return False
        view = arbiter.deciding.views.get(job.parent_id) if arbiter.sampling.somebody_is_paused() else None
        self._to_tell[job.id] = notice(grant, view) if view is not None else None
        if job.request.gpus and not grant.shares and arbiter.deciding.look is not None:
            self._to_tell[job.id] = f"runs without a GPU: {arbiter.deciding.look.fault}"
        job = self._store.grant(job, grant.shares, "granted " + gpu_words(grant.shares))
        self.offer(job)
        return True

    def offer(self, job: Job) -> None:
        """Offer a grant to its client, which has `OFFER_SECONDS` to take it."""
        seat = self._seats[job.id]
        self._take_off_offer(job.id)
        if seat.sweep is not None and not self._arbiter.sweeps.may_offer(job.id, seat.sweep):
            return
        if seat.sweep is not None or not (
            self._arbiter.ahead.was_asked(seat) or self._arbiter.ahead.offer(seat.connection)
        ):
            self._say(job.id, seat, "offer")
        now_mono = time.monotonic()
        timer = self._timers.after(OFFER_SECONDS, lambda: self._runs_out(job.id, now_mono))
        self._offered[job.id] = now_mono, timer

    def _runs_out(self, job_id: int, offered_mono: float) -> None:
        offered = self._offered.get(job_id)
        if offered is not None and offered[0] == offered_mono:
            self.withdraw(job_id)

    def _take_off_offer(self, job_id: int) -> None:
        offered = self._offered.get(job_id)
        if offered is not None:
            offered[1].cancel()
            self._offered.forget(job_id)

    def follow(self, job_id: int, job: Job | None) -> None:
        """Have a grant be on offer until it is taken; one that was not offered yet, or in a turn that was lost, is now."""
        if job is None:
            self._to_tell.pop(job_id, None)
        if job is None or job.state is not JobState.GRANTED:
            self._take_off_offer(job_id)
        elif job_id not in self._offered and job_id in self._seats:
            self.offer(job)

    def is_stale(self, job_id: int) -> bool:
        """Whether an offer lay for so long that a stranger may have come to its GPUs."""
        offered = self._offered.get(job_id)
        return offered is None or offered[0] + STALE_SECONDS < time.monotonic()

    def _say(self, job_id: int, seat: Seat, kind: str, /, **values: object) -> None:
        """Tell a client something about its job; the process of a sweep, about which row."""
        if seat.sweep is not None:
            self._turn.say_of_row(seat.connection, kind, job_id, **values)
        else:
            self._turn.say(seat.connection, kind, **values)

    def withdraw(self, job_id: int) -> None:
        """Take an offer back that was not taken, and pass its client over until that says a word."""
        job = self._store.live.get(job_id)
        if job is None or job.state is not JobState.GRANTED:
            return
        seat = self._seats[job_id]
        stat = processes.read_stat(job.identity.pid)
        for each in self._arbiter.sweeps.seats_like(seat):
            each.stopped = stat is not None and stat.state in "Tt"
            each.mute = not each.stopped  # frozen, or stuck in a disk that hangs: passed over until it answers
        self.take_back(job)
        if seat.sweep is not None:
            self._arbiter.sweeps.not_taken(job_id, seat.sweep)

    def take_back(self, job: Job) -> None:
        """Take an offer back; the job keeps its place."""
        seat = self._seats[job.id]
        self._take_off_offer(job.id)
        self.release(job)
        self._store.move(self._store.live[job.id], Event.WITHDRAW, "the offer was not taken", shares=())
        self._say(job.id, seat, "again")

    def take(self, job: Job) -> None:
        """The client takes its offer: from now on it is the program.

        An offer that lay for a while is made anew instead: a stranger may have come to the GPU meanwhile.
        """
        arbiter = self._arbiter
        seat = self._seats[job.id]
        if self.is_stale(job.id):
            self.withdraw(job.id)
            return
        if not arbiter.seating.hold_leader(seat):
            self.take_back(job)  # it asks again at once; those that start give their connections back meanwhile
            return
        self._take_off_offer(job.id)
        job = self._store.move(job, Event.TAKE, "taken", started_at=wall_at(), started_mono=time.monotonic())
        for ended, rest in arbiter.left_behind.take_over(job):
            before = self._store.shrink(ended, rest)
            if not rest:
                self.release_if_let_go(before)
        if not self._known.of(job.id).ancestors:
            arbiter.orphans.remember_ancestors(job)
        self._turn.later(lambda: arbiter.orphans.started(job.id, self._timers, self._turn.later))
        self._turn.later(lambda: arbiter.scarcity.watch(job))
        self.send_off(job)

    def send_off(self, job: Job) -> None:
        """Tell a client that has taken its grant what the program shall see."""
        arbiter = self._arbiter
        variables = {
            "CUDA_VISIBLE_DEVICES": ",".join(
                [share.uuid if share.uuid.startswith("MIG") else str(share.index) for share in job.shares]
            ),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "GPURUN_GPU_UUIDS": ",".join([share.uuid for share in job.shares]),
            "GPURUN_JOB": str(job.id),
            "GPURUN_GRANTED": ",".join([str(share.bytes) for share in job.shares]),
            "GPURUN_ATTEMPT": str(job.attempt),
        }
        if job.row is not None:
            variables["GPURUN_INDEX"] = str(job.row.index)
        if arbiter.sim_root is not None:
            variables["GPURUN_SIM_DIR"] = arbiter.sim_root
        told = f"job {job.id} {to_tell}" if (to_tell := self._to_tell.get(job.id)) else None
        preempt = arbiter.reruns.preempt_file(job)
        if preempt is not None:
            variables["GPURUN_PREEMPT_FILE"] = preempt
        note = f"job {job.id} on {gpu_words(job.shares)}" if job.shares else f"job {job.id}, no GPU"
        if not job.request.gpus:
            note += " asked for"
        if job.request.shares and job.shares:
            note += f", shared: {self._portion(job)}"
        self._turn.say(self._seats[job.id].connection, "go", note=note, told=told, **variables)

    def _portion(self, job: Job) -> str:
        share = job.shares[0]
        total = self._arbiter.total_bytes(share.uuid)
        return format_of(share.bytes, total) if total else format_size(share.bytes)

    def not_runnable(self, job: Job, status: int, cause: str) -> None:
        """The exec failed: the program never ran, and the grant goes back."""
        result = Result(ResultKind.EXIT, code=status, text=f"cannot run: {cause}")
        self._end(job, result, f"exec failed: {cause}")

    # --- ending -------------------------------------------------------------------------------------------------

    def leader_ended(self, job_id: int, told: int | None = None) -> None:
        """The leader's pidfd says that it has ended, or its parent, with the wait(2) status."""
        job = self._store.live.get(job_id)
        seat = self._seats.get(job_id)
        if job is None or seat is None or job.state is JobState.ENDED:
            self._arbiter.seating.unwatch_leader(job_id)  # a stub goes when its job has ended, and what that left may stay
            return
        if told is None and seat.pidfd is not None:
            told = processes.exit_status(seat.pidfd, job.identity)
        status = told
        for inner in self._store.inside(job_id):
            if inner.identity == job.identity:  # a gpurun that a gpurun exec'd: they end together, the inner one first
                self.leader_ended(inner.id, status)
        if job.state in STARTED:
            result = _result(status, self._ladders.why(job_id))
            if job.stub:
                self._arbiter.reruns.stub_died(job, status)
            self._end(job, result, "ended")
        else:
            self.waiting_ended(job_id, status)

    def waiting_ended(self, job_id: int, status: int | None) -> None:
        """The process in whose name a job waits has ended."""
        job = self._store.live.get(job_id)
        if job is not None and job.state not in STARTED and job.state is not JobState.ENDED:
            result = Result(ResultKind.CANCELLED, signal=_signal_of(status), text="its gpurun ended while it waited")
            self._end(job, result, "ended")

    def ended_with(self, job: Job, status: int) -> None:
        """The program of a stub ended, with a wait(2) status, for good."""
        self._end(job, _result(status, self._ladders.why(job.id)), "ended")

    def block_ended(self, job: Job, status: int) -> int:
        """End a job whose process lives on (a block of a Python program); returns what that still holds, in bytes.

        The grant shrinks to that: a CUDA context stays until its process ends.
        """
        arbiter = self._arbiter
        kept = arbiter.left_behind.kept(job)
        arbiter.known.of(job.id).processes[job.identity.pid] = job.identity
        job = self._store.shrink(job, kept)
        self._end(job, Result(ResultKind.EXIT, code=status, text="block of a program"), "block ended")
        return sum(share.bytes for share in kept)

    def cancel(self, job: Job, kind: ResultKind, text: str, status: int | None = None) -> None:
        """Take a job out of the line, and tell its client, with the status it shall end with if that is not by a signal."""
        seat = self._seats.get(job.id)
        if seat is not None:
            self._say(job.id, seat, "end", kind=kind.value, text=text, status=status)
        self._end(job, Result(kind, code=status, text=text), text)

    def lose(self, job: Job, text: str) -> None:
        """A job of another boot: nobody knows how it ended, only that it cannot be running."""
        self._end(job, Result(ResultKind.LOST, text=text), text, ended_mono=None)

    def _end(self, job: Job, result: Result, why: str, **changes: object) -> None:
        result = self._arbiter.scarcity.judge(job, self._arbiter.shutdown.judge(result))
        changes = {"ended_at": wall_at(), "ended_mono": time.monotonic(), **changes}
        job = self._store.move(job, Event.END, why, result=result, **changes)
        self._turn.later(lambda: _log_end(job, result))
        for follows in self.at_end:
            follows(job)
        self._turn.replan()
        self.release_if_let_go(job)

    def settle(self, job: Job) -> None:
        """The leader has ended: hear no more of it, and find what it left behind."""
        seat = self._seats.get(job.id)
        if seat is None:
            return
        self._arbiter.seating.unwatch_leader(job.id)  # now: it stays readable, and would cut short the wait for an answer
        if job.started_at is None:
            return
        kin = self._known.of(job.id)
        kin.processes = self._arbiter.orphans.survivors(job)
        if self._ladders.is_due(job.id) and kin.processes:
            if not job.stub:
                self._arbiter.asking.leader_ended(job)
                return
            identities = self._arbiter.members.without_others(job, kin.processes.values())
            self._turn.do(lambda: signal_all(identities, signal.SIGKILL, job.uid))  # a stub promises the whole tree

    # --- leftovers ----------------------------------------------------------------------------------------------

    def release_if_let_go(self, job: Job) -> None:
        """End the grant of an ended job unless something of it still holds its GPUs."""
        arbiter = self._arbiter
        seat = self._seats.get(job.id)
        is_ending = self._ladders.is_due(job.id)
        undecided = is_ending or arbiter.deciding.look is None
        if seat is not None and arbiter.survivors.hold(job, undecided=undecided):
            arbiter.leftovers.add(job.id)
            if not is_ending and arbiter.survivors.is_overdue(job, arbiter.settings["end_leftovers"]):
                log("leftovers", f"job {job.id}: ended by the setting end_leftovers")
                arbiter.killing.kill(job, None, "the setting end_leftovers")
            return
        arbiter.leftovers.discard(job.id)
        arbiter.left_behind.forget(job.id)
        self.release(job)

    def survivor_ended(self, job_id: int) -> None:
        """One that outlived the leader of a job has ended."""
        job = self._store.live.get(job_id)
        if job is not None and job.state is JobState.ENDED:
            self.release_if_let_go(job)

    def release(self, job: Job) -> None:
        """Give a job's GPUs back, and let go of claims that no grant needs any more."""
        self._arbiter.ahead.freed(job)
        self._store.release(job)
        self._turn.replan()

    def look_for_leftovers(self, job: Job) -> None:
        """After a restart: find again what an ended job left behind."""
        self._arbiter.left_behind.search(job)
        self._known.of(job.id).processes = self._arbiter.orphans.survivors(job)
        self.release_if_let_go(job)


def _log_end(job: Job, result: Result) -> None:
    log("ended", f"job {job.id}: {result.kind.value} {result.code if result.signal is None else result.signal}")


def _result(status: int | None, ended_by: str | None) -> Result:
    if status is None:
        return Result(ResultKind.UNKNOWN, text=ended_by or "nobody saw how it ended")
    number = _signal_of(status)
    if number is not None:
        return Result(ResultKind.SIGNAL, signal=number, text=ended_by)
    return Result(ResultKind.EXIT, code=os.WEXITSTATUS(status), text=ended_by)


def _signal_of(status: int | None) -> int | None:
    return os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None


def gpu_words(shares: tuple[Share, ...]) -> str:
    """Name the GPUs of a grant."""
    if not shares:
        return "no GPU"
    return ("GPU " if len(shares) == 1 else "GPUs ") + ", ".join([str(share.index) for share in shares])
