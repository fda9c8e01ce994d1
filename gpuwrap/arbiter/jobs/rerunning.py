"""Jobs behind a stub: evicting them, judging each end of their program, and running them again.

1. The stub asks the program to end and owns its pid; here stands the deadline, as a net: if the program is still there
   `NET_SECONDS` after its last delay, all below the stub is killed, never the stub first.
2. A run is over when its stub says so (`ended`), or when the stub is dead. Before the job waits again, nothing of the run
   is left: what the program left behind is killed, and only then the grant goes back.
3. Each message names its attempt, so it may come twice, and to another arbiter than the first time.
4. A stub that dies without a word promised the whole tree: all of it that can be found is killed.
"""

import os
import signal
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...host import processes
from ...lifecycle import STARTED, Event, JobState
from ...model import Identity, Job
from ...policy.rerunning import Again, Run, judge, may_be_evicted
from ...policy.words import signal_name
from ...restarts import stored_signals
from ...state import preempt
from ...units import PRIORITY_WORDS
from ..answers.table import Values
from ..bell.socket import Connection
from ..kin.walk import by_pid, identity_of
from ..log import log

if TYPE_CHECKING:
    from ..loop import Arbiter

# How the end of a program that ended with 0 when it was to give way is told, and what its owner may not have known.
DONE = "asked to make room: taken as done"
HOW_TO_RUN_AGAIN = "to be run again it must end with another status, 75 say"
NET_SECONDS = 5.0
NET_AGAIN_SECONDS = 2.0
# So often everything below a stub was killed and the stub did not report it: then the stub is killed.
NETS_BORNE = 3
SETTLE_SECONDS = 0.05
# When what a dead stub left behind is looked for again: it may have been forking.
LOOK_AGAIN_SECONDS = (0.1, 0.5, 2.0)


class Reruns:
    """Follows the jobs that have a stub."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._folder = arbiter.folder
        self._seats = arbiter.seats
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._ladders = arbiter.ladders
        self._walk, self._known, self._members = arbiter.walk, arbiter.known, arbiter.members
        self._store = arbiter.store

        self._begun: dict[int, int] = {}
        """The run that each stub has said to have started."""
        self._rests: dict[int, float] = {}
        """When jobs that failed are tried again; passed over until then."""

    def follow(self, job_id: int, job: Job | None) -> None:
        """Of one that has gone nothing is kept."""
        if job is None:
            self._begun.pop(job_id, None)
            self._rests.pop(job_id, None)

    def has_begun(self, job: Job) -> bool:
        """Whether the stub of a job has said that the present run is started."""
        return self._begun.get(job.id, 0) == job.attempt

    def rest(self, job_id: int, seconds: float | None) -> None:
        """A job is tried again after so long; None: it waits as others do."""
        self._rests.pop(job_id, None)
        if seconds is not None:
            self._rests[job_id] = time.monotonic() + seconds

    def rests(self, job_id: int) -> int | None:
        """In how many seconds a job is tried again; None if it does not rest."""
        until = self._rests.get(job_id)
        return None if until is None else max(1, round(until - time.monotonic()))

    # --- evicting -----------------------------------------------------------------------------------------------

    def evict(self, job: Job, newcomer_id: int | None, why: str) -> bool:
        """Ask a running or paused job to end so that it can be run again; false if it cannot be evicted.

        The batch must commit before anything is sent; a connection that is away is told when it comes back.
        """
        if not may_be_evicted(job) or job.state not in (JobState.RUNNING, JobState.PAUSED, JobState.SUSPENDED):
            return False
        if job.state is not JobState.RUNNING:
            self._arbiter.pausing.let_go(job)
        job = self._store.move(
            job, Event.ASK_TO_END, why, yields_to=newcomer_id, requeue=True, paused_mono=None
        )
        log("evict", f"job {job.id}: {why}")
        self._ask(job)
        self._turn.replan()
        return True

    def why_not_evict(self, job: Job) -> str | None:
        """Say why a job is never evicted by rule; None if it may be."""
        if not may_be_evicted(job):
            return "may not be restarted (-r)"
        most = self._arbiter.settings["eviction_limit"]
        if job.attempt > most > 0 and self._store.evictions(job.id) >= most:
            times = "once" if most == 1 else f"{most} times"
            return f"was restarted {times} for others (setting eviction_limit)"
        return None

    def evict_by_hand(self, job: Job, by: str) -> tuple[bool, str]:
        """`gpurun kill --requeue`: whether it was done, and what to say."""
        if job.state is JobState.ENDED:
            return False, "has already ended"
        if not may_be_evicted(job):
            return False, "cannot be run again: it was not started with -r"
        if job.state is JobState.STOPPING:
            return job.requeue, "is being asked to end already"
        if job.state not in STARTED:
            return False, "is not running: it waits already"
        self.evict(job, None, f"made to give way by {by}")
        steps = stored_signals(job.signals)
        names = ", ".join(f"{signal_name(number)}, {seconds:g} s" for number, seconds in steps)
        return True, f"asked to end ({names}, KILL), waits to run again"

    def resume_eviction(self, job: Job) -> None:
        """After a restart of the arbiter: the net hangs again; the stub is told when it comes back."""
        self._hang_net(job)

    def forget_eviction(self, job: Job) -> Job:
        """It is to end for good instead: somebody killed it while it gave way."""
        self._ladders.spare(job.id)
        return self._store.change(job, requeue=False, yields_to=None)

    def ask_again(self, job: Job) -> None:
        """Its stub lost the connection before the program was started: it hears both again."""
        self._ask(job)

    def _ask(self, job: Job) -> None:
        seat = self._seats[job.id]
        signals = ",".join(f"{number}:{seconds:g}" for number, seconds in stored_signals(job.signals))
        self._turn.say(seat.connection, "give-way", attempt=job.attempt, signals=signals)
        self._turn.do(lambda: self._wake(job))
        self._arbiter.asking.begin(job, stored_signals(job.signals), by_stub=True)
        self._hang_net(job)

    def _wake(self, job: Job) -> None:
        """A stub stopped at its terminal could not ask."""
        stat = processes.read_stat(job.identity.pid)
        if stat is not None and stat.state == "T":
            processes.send_signal(job.identity, signal.SIGCONT)

    def _hang_net(self, job: Job) -> None:
        if not self._ladders.is_due(job.id):
            seconds = sum(delay for _number, delay in stored_signals(job.signals)) + NET_SECONDS
            self._ladders.kill_after(job.id, seconds, lambda: self.kill_tree(job.id, 1))

    def kill_tree(self, job_id: int, nets: int) -> None:
        """Kill all below a stub; later the stub too, if it does not report that."""
        job, seat = self._store.live.get(job_id), self._seats.get(job_id)
        if job is None or seat is None or job.state is not JobState.STOPPING:
            return
        log("net", f"job {job_id}: killing all below its stub")
        self._kill(identity_of(job, stat) for stat in self._members.below(job))
        processes.send_signal(job.identity, signal.SIGCONT)
        if nets > NETS_BORNE:
            self._kill([job.identity])
        self._ladders.kill_after(job_id, NET_AGAIN_SECONDS, lambda: self.kill_tree(job_id, nets + 1))

    # --- the tree -----------------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """With each sample: remember what is below the stubs, in case one is killed."""
        for job in self._store.holding.values():
            if job.stub and job.state in STARTED:
                self._known.of(job.id).processes = by_pid(job, self._walk.below([job.identity.pid]))

    def _kill(self, identities: Iterable[Identity]) -> None:
        for identity in identities:
            try:
                processes.send_signal(identity, signal.SIGKILL)
            except PermissionError:
                log("signal", f"not permitted to kill pid {identity.pid}")

    # --- what stubs say -----------------------------------------------------------------------------------------

    def connected(self, connection: Connection, job: Job | None, values: Values) -> None:
        """A stub whose program runs, or has just ended, reached us."""
        if job is None or job.state is JobState.ENDED:
            self._turn.say(connection, "unknown" if job is None else "job", id=job.id if job else None)
            return
        self._arbiter.seating.adopt(job, connection)
        self._turn.say(connection, "job", id=job.id)
        if job.state not in STARTED:
            return
        self._begun[job.id] = values.get("attempt", 0)
        self._arbiter.seating.watch_leader(job.id)
        self._turn.say(connection, "on")
        if job.requeue:
            self._ask(job)
        if values.get("held") and job.state is not JobState.PAUSED:
            self._arbiter.pausing.let_go(job)  # stopped by an arbiter that died before it had written so
        self._arbiter.pausing.look_again(job.id)

    def started(self, job: Job, values: Values) -> None:
        """The program runs."""
        log("started", f"job {job.id}: attempt {values['attempt']}, pid {values.get('child')}")
        self._begun[job.id] = values["attempt"]
        self._arbiter.pausing.look_again(job.id)

    def ended(self, connection: Connection, job: Job | None, values: Values) -> None:
        """A run is over: say whether there is another."""
        if job is None or job.state is JobState.ENDED:
            self._turn.say(connection, "exit")
            return
        run = Run(
            values["attempt"], values["status"], values.get("seconds", 60.0), values.get("asked", False),
            values.get("interrupted", False), values.get("failures", 0), values.get("reruns", 0), values.get("short", 0),
        )  # fmt: skip
        if job.state not in STARTED or run.attempt < job.attempt:
            # Judged already; the answer was lost.
            self._turn.say(connection, "rerun")
            if job.state is JobState.GRANTED:
                self._arbiter.enforcer.offer(job)
            return
        self._settle(job.id, run)

    def _end(self, job: Job, run: Run) -> None:
        self._known.of(job.id).processes = by_pid(job, self._walk.below([job.identity.pid]))
        self._arbiter.enforcer.ended_with(job, run.status)

    def _settle(self, job_id: int, run: Run, until_mono: float | None = None) -> None:
        """End what the run left behind, then let the job wait again, or end. Who was asked to end has time for it."""
        job, seat = self._store.live.get(job_id), self._seats.get(job_id)
        if job is None or seat is None or job.state not in STARTED or job.attempt != run.attempt:
            return
        again, is_asked = judge(job, run), job.state is JobState.STOPPING
        left = [identity_of(job, stat) for stat in self._members.below(job)] if again is not None or is_asked else []
        if again is None:
            left = self._members.without_others(job.changed(state=JobState.ENDED), left)
        if left:
            if until_mono is None:
                self._turn.say(seat.connection, "settling")
                until_mono = time.monotonic() + (self._arbiter.asking.leader_ended(job) if is_asked else 0.0)
            if time.monotonic() >= until_mono:
                self._turn.do(lambda: self._kill(left))
            self._timers.after(SETTLE_SECONDS, lambda: self._settle(job_id, run, until_mono))
        elif again is None:
            is_done = job.requeue and run.asked and run.status == 0
            self._ladders.begin(job.id, DONE if is_done else None)
            self._end(job, run)
            text = f"job {job.id}: exit 0, {DONE}\n{HOW_TO_RUN_AGAIN}" if is_done else None
            self._turn.say(seat.connection, "exit", text=text)
        else:
            self._requeue(job, run, again)

    def _requeue(self, job: Job, run: Run, again: Again) -> None:
        arbiter = self._arbiter
        if again.failures > run.failures:
            arbiter.memory.retried(job)
            job = self._store.live[job.id]  # it may ask for more now
        seat = self._seats[job.id]
        text = self._told(job, again)
        over = job
        self._turn.do(lambda: self.clean_up(over))
        arbiter.pausing.run_over(job)
        if job.state in (JobState.PAUSED, JobState.SUSPENDED):
            job = self._store.move(job, Event.RESUME, "its program ended", paused_mono=None)
        arbiter.enforcer.release(job)
        job = self._store.move(
            self._store.live[job.id], Event.REQUEUE, again.why, shares=(), attempt=job.attempt + 1, started_at=None,
            started_mono=None, times_given_way=job.times_given_way + again.gave_way, yields_to=None, requeue=False,
        )  # fmt: skip
        log("requeue", f"job {job.id}: {again.why}, attempt {job.attempt}")
        self._known.of(job.id).processes = {}
        arbiter.lines.begin_again(job.id)
        arbiter.patience.limit([job], None)
        seat.mute = again.after > 0  # passed over until the stub says that it has waited
        self.rest(job.id, again.after or None)
        self._turn.say(
            seat.connection, "rerun", text=text, after=f"{again.after:g}", failures=again.failures, reruns=again.reruns,
            short=again.short,
        )  # fmt: skip
        self._turn.replan()

    def _told(self, job: Job, again: Again) -> str:
        if not again.gave_way:
            wait = f" in {again.after:g} s" if again.after else ""
            return f"job {job.id}: {again.why}, runs again{wait}"
        newcomer = self._store.find(job.yields_to) if job.yields_to is not None else None
        if newcomer is None:
            return f"job {job.id} gave way, waits to run again"
        words = {number: word for word, number in PRIORITY_WORDS.items()}
        rank = words.get(newcomer.priority, f"priority {newcomer.priority}")
        return f"job {job.id} gave way to job {newcomer.id} ({newcomer.user}, {rank}), waits to run again"

    # --- the end of a stub --------------------------------------------------------------------------------------

    def stub_died(self, job: Job, status: int | None) -> None:
        """A stub ended without a word while its program may run: by a signal, so kill all that it promised."""
        if status is not None and os.WIFEXITED(status):
            return  # it could not reach us, and its program ended first
        family = self._store.family(job)  # as long as it has not ended
        known = [each for inner in family.values() for each in self._members.roots(inner) if each.pid != job.identity.pid]
        inside = set(family)
        self._turn.do(lambda: self._kill_strays(job, known, inside, LOOK_AGAIN_SECONDS))

    def _kill_strays(self, job: Job, known: list[Identity], inside: set[int], again: tuple[float, ...]) -> None:
        alive = [identity for identity in known if processes.is_same_process(identity)]
        found = {identity.pid: identity for identity in alive if not self._walk.is_other(identity.pid, inside)}
        found = by_pid(job, self._arbiter.links.marked(job)) | found
        found |= by_pid(job, self._walk.below(list(found), inside))
        self._kill(found.values())
        if again:
            seconds, *rest = again
            left = list(found.values())
            self._timers.after(seconds, lambda: self._kill_strays(job, left, inside, tuple(rest)))

    # --- the file that the program is told ------------------------------------------------------------------------

    def preempt_file(self, job: Job) -> str | None:
        """Return the path of the file by which a run is told that it shall give way, None if it never will."""
        if not may_be_evicted(job):
            return None
        return os.path.join(self._folder.path, preempt.file_name(job.id, job.attempt))

    def clean_up(self, job: Job) -> None:
        """Remove the file of a run whose stub could not."""
        if may_be_evicted(job):
            preempt.remove(self._folder.fd, preempt.file_name(job.id, job.attempt))
