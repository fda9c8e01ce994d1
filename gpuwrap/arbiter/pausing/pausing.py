"""Pausing and resuming jobs: whether a job may be paused, for whom, and keeping the pause.

1. How it is done, so that nobody around the job notices, stands in `stopping`; who belongs to it in `members`; what a
   successor finds of it in `traces`.
2. A pause is a state to be kept: it is looked at with each sample, renewed once if others undid it, then given up.
3. Jobs that give way together stand still together, or none of them does.
4. A paused job with a signal pending that it would act on goes on to receive it. If it survives that, it is paused again
   for the same newcomer after the time that any job runs after a pause.
5. A batch that is not committed leaves nobody standing who is not written down as paused, and lets nobody go on who is.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...host import processes
from ...host.census import Census
from ...host.freezer import Group
from ...lifecycle import STARTED, Event, JobState
from ...model import GiveWay, Job, Yielding
from ...units import PRIORITY_STEP, PRIORITY_WORDS, format_duration
from ..kin.walk import identity_of
from ..log import log
from ..telling.notices import tell
from . import forgotten
from .marks import Traces
from .stopping import Means, Stopping

if TYPE_CHECKING:
    from ..loop import Arbiter

DAY_SECONDS = 86400.0
# How long what was found out about a job's means holds: a background job may be brought to the foreground.
FRESH_SECONDS = 1.0
# How long a job that could not be stopped is left alone: a disk that hangs comes back.
REFUSED_SECONDS = 30.0


@dataclass(slots=True)
class Found:
    """What was found out about a job, and when."""

    yielding: Yielding
    means: Means | None
    at_mono: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a job is not paused by rule, and until when."""

    text: str
    until_mono: float = float("inf")


class Pausing:
    """Pauses, resumes, and keeps pauses as they are."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._folder = arbiter.folder
        self._store = arbiter.store
        self._turn = arbiter.turn
        self._traces = Traces(arbiter)
        self._stopping = Stopping(arbiter, self._traces)
        self._census: Census | None = None
        self._found: dict[int, Found] = {}
        self._renewed: set[int] = set()
        self._refused: dict[int, Refusal] = {}
        self._marked: dict[int, Job] = {}
        """Those that were stopped, or were about to be, until they go on."""
        self._freed: set[int] = set()
        """Paused ones that go on already, which cannot be written down."""
        self._heeding: dict[int, tuple[int, float]] = {}
        """Jobs that go on because of a signal: for whom they were paused, and when they are again."""

    # --- finding out --------------------------------------------------------------------------------------------

    def yielding(self, job: Job) -> Yielding:
        """Say what a running or paused job could be made to do now."""
        found = self._found.get(job.id)
        if found is None or found.at_mono + FRESH_SECONDS < time.monotonic() or job.state is JobState.PAUSED:
            found = self._found[job.id] = self._find_out(job)
        return found.yielding

    def look_again(self, job_id: int) -> None:
        """A job can give way that could not a moment ago."""
        self._found.pop(job_id, None)
        self._turn.replan()

    def forget(self, job_id: int) -> None:
        """The job has ended."""
        for memory in (self._found, self._refused, self._heeding):
            memory.pop(job_id, None)
        self._renewed.discard(job_id)
        self._freed.discard(job_id)
        self._stopping.forget(job_id)

    def _find_out(self, job: Job) -> Found:
        no_evict = self._arbiter.reruns.why_not_evict(job)
        seconds, short_only, no_pause, means = 0.0, False, None, None
        refusal = self._refused.get(job.id)
        if refusal is not None and refusal.until_mono < time.monotonic():
            del self._refused[job.id]
            refusal = None
        if job.request.give_way is GiveWay.NEVER and self._may_refuse(job):
            no_pause = "never gives way (--give-way never)"
        elif refusal is not None:
            no_pause = refusal.text
        else:
            seconds, short_only = self._seconds_left(job)
            if seconds <= 0:
                no_pause = "was paused for as long as it may be within a day"
            elif job.state is not JobState.PAUSED:
                means, no_pause = self._stopping.means(job, self._fresh_census)
        if no_pause is not None:
            seconds = 0.0
        return Found(Yielding(seconds, short_only, no_pause, no_evict is None, no_evict), means, time.monotonic())

    def _may_refuse(self, job: Job) -> bool:
        """Whether a job that never gives way refuses everybody: against which others it holds the plan decides."""
        crowd = self._arbiter.crowd
        return crowd is None or job.uid is None or crowd.caps_of(job.uid).may_refuse

    def _seconds_left(self, job: Job) -> tuple[float, bool]:
        """Return for how long a job may be paused from now on, and whether that is only for short newcomers."""
        settings = self._arbiter.settings
        paused = self._store.paused_seconds_since([job.id], time.monotonic() - DAY_SECONDS)
        left = float(settings["pause_limit"]) - paused
        gang = len({pid for pid, _size in self._arbiter.holders(job)}) > 1
        if gang:
            this_time = time.monotonic() - job.paused_mono if job.paused_mono is not None else 0.0
            left = min(left, float(settings["gang_pause_limit"]) - this_time)
        return max(0.0, left), gang

    def _fresh_census(self) -> Census:
        """Return a census of this moment; one serves all jobs that are asked about at once."""
        if self._census is None or self._census.taken_mono + FRESH_SECONDS < time.monotonic():
            self._census = Census()
        return self._census

    # --- doing --------------------------------------------------------------------------------------------------

    def pause(self, jobs: Sequence[Job], newcomer_id: int | None, why: str, *, by_hand: bool = False) -> str | None:
        """Pause running jobs now, all or none. Returns None if they stand still, else why one of them does not.

        Who asks by hand is believed to know better than an earlier refusal.
        """
        if self._arbiter.farewell.has_begun:
            return "cannot be paused now: the arbiter is being ended"
        for job in jobs:
            if by_hand:
                self._refused.pop(job.id, None)
            self._found.pop(job.id, None)
        self._census = None
        wanted: list[tuple[Job, Means]] = []
        for job in jobs:
            found = self._find_out(job)
            if found.means is Means.FREEZE and not self._stopping.scopes.prepare(job):
                found = self._find_out(job)  # there may be another way
            self._found[job.id] = found
            if found.means is None:
                return found.yielding.no_pause
            wanted.append((job, found.means))
        failed = self._stop(wanted)
        if failed is not None:
            return failed
        for job, means in wanted:
            self._note_pause(job, means, newcomer_id, why)
        self._turn.replan()
        return None

    def _stop(self, wanted: Sequence[tuple[Job, Means]]) -> str | None:
        census = self._census or Census()
        self._census = None  # what it shows is no longer so
        unmarked = [job for job, means in wanted if not self._traces.mark(job, means.value)]
        self._marked |= {job.id: job for job, _means in wanted}
        failed = self._stopping.stop(wanted, census) if not unmarked else (unmarked[0], "cannot be marked: no space is left")
        if failed is not None:
            for job, _means in wanted:
                self._traces.unmark(job.id)
                del self._marked[job.id]
            return self._refuse(*failed, REFUSED_SECONDS)
        for job, means in wanted:
            self._stopping.note(job, means)
        return None

    def _note_pause(self, job: Job, means: Means, newcomer_id: int | None, why: str) -> None:
        self._store.move(
            job, Event.PAUSE, f"{why} ({means.value})", yields_to=newcomer_id, paused_mono=time.monotonic(),
            times_given_way=job.times_given_way + (newcomer_id is not None),
        )  # fmt: skip
        self._renewed.discard(job.id)
        self._heeding.pop(job.id, None)
        log("pause", f"job {job.id}: {means.value}, for job {newcomer_id}")
        text = f"job {job.id} paused {self._for_whom(newcomer_id)}"
        self._turn.do(lambda: tell(job, text))

    def resume(self, job: Job, why: str) -> None:
        """Let a paused job go on."""
        now = time.monotonic()
        self.let_go(job)
        self._store.move(job, Event.RESUME, why, yields_to=None, paused_mono=None, returned_mono=now)
        self._found.pop(job.id, None)
        self._arbiter.scarcity.watch(job)  # it may live elsewhere since
        log("resume", f"job {job.id}: {why}")
        text = f"job {job.id} goes on after {format_duration(now - (job.paused_mono or now))}"
        self._turn.do(lambda: tell(job, text))
        self._turn.replan()

    def resume_by_hand(self, job: Job, by: str) -> tuple[bool, str]:
        """Let a paused job go on, at once only if that breaks no promise. Returns whether it does, and what to say."""
        for outer in self._store.around(job):
            if outer.state is JobState.PAUSED:
                return False, f"cannot go on: job {outer.id}, inside which it runs, is paused"
        ahead = self._in_the_way(job)
        if ahead is None:
            self.resume(job, f"resumed by {by}")
            return True, "goes on"
        when = f"as soon as there is room: job {ahead.id} ({ahead.user}) has its GPU"
        if job.yields_to is not None:
            return False, f"cannot go on yet, goes on by itself {when}"
        self._store.change(job, yields_to=ahead.id)
        return True, f"goes on by itself {when}"

    def _in_the_way(self, job: Job) -> Job | None:
        """Return a job that was given, while this one stands still, what it would need again."""
        for share in job.shares:
            total, promised = self._arbiter.total_bytes(share.uuid), share.bytes
            for other in self._store.holding.values():
                if other.id == job.id or other.parent_id != job.parent_id or other.state in (JobState.PAUSED, JobState.ENDED):
                    continue
                for each in other.shares:
                    promised += each.bytes if each.uuid == share.uuid else 0
                    if each.uuid == share.uuid and (each.whole or share.whole or (total is not None and promised > total)):
                        return other
        return None

    def let_go(self, job: Job) -> None:
        """Let go on what we stopped of a job, once it is written down that it is not paused any more.

        What its owner had stopped (Ctrl-Z) stays stopped. Until then a mark tells a successor to do it.
        """
        self._traces.mark(job, (Means.STOP if self._traces.stopped(job.id) else Means.FREEZE).value)
        self._marked[job.id] = job

    def follow(self, job_id: int, job: Job | None) -> None:
        """Let go on who was stopped, or was about to be, and is not paused as its row says."""
        marked = self._marked.get(job_id)
        if marked is None or (job is not None and job.state is JobState.PAUSED):
            return
        del self._marked[job_id]
        self._freed.discard(job_id)
        self._stopping.let_go(job or marked)

    def free_unwritten(self) -> None:
        """The disk takes nothing: who stands still for a job that has ended goes on before that is written down."""
        for job in list(self._store.paused.values()):
            newcomer = self._store.live.get(job.yields_to or 0)
            if newcomer is not None and job.id not in self._freed and not processes.is_same_process(newcomer.identity):
                log("resume", f"job {job.id}: job {newcomer.id} has ended, which cannot be written down")
                self._freed.add(job.id)
                self._stopping.let_go(job)

    def asked_to_end(self, job: Job) -> None:
        """A signal waits for a paused job: it goes on to receive it."""
        newcomer_id = job.yields_to
        self.resume(job, "a signal waits for it")
        if newcomer_id is not None:
            seconds = float(self._arbiter.settings["min_return"])
            self._heeding[job.id] = newcomer_id, time.monotonic() + seconds

    def _refuse(self, job: Job, why: str, seconds: float = float("inf")) -> str:
        self._refused[job.id] = Refusal(why, time.monotonic() + seconds)
        self._found.pop(job.id, None)
        return why

    # --- ends, restarts, batches that were undone -----------------------------------------------------------------

    def ended(self, job: Job) -> None:
        """The leader of a job has ended: nothing of it stays stopped or frozen, whoever ended it."""
        self.run_over(job)
        self._traces.abandon_group(job.id)

    def run_over(self, job: Job) -> None:
        """One run of a job has ended; its stub lives on, in the group that the job may have."""
        self.forget(job.id)

    def recover(self, job: Job) -> None:
        """A job that was being stopped, and is not written down as paused, goes on."""
        means = self._traces.marked(job)
        if job.state is JobState.PAUSED:
            self._marked[job.id] = job
        if means is None:
            return
        self._traces.find_group(job)
        if job.state is not JobState.PAUSED:
            self._let_all_go(job, means)

    def _let_all_go(self, job: Job, means: str) -> None:
        known = self._traces.stopped(job.id)
        self._stopping.let_go(job)
        if not known and means != Means.FREEZE.value:
            for stat in reversed(self._arbiter.members.tree(job)):  # children first: a nested stub follows its own
                if stat.state == "T" and not (job.stub and stat.pid == job.identity.pid):
                    self._stopping.go_on(identity_of(job, stat))

    def recover_ended(self) -> None:
        """After a restart: nothing is left stopped of jobs that have ended, and their groups go."""
        for job_id in self._traces.known():
            job = self._store.find(job_id)
            if job is not None and job.state is not JobState.ENDED:
                continue
            if job is not None:
                self._stopping.let_go(job)
            self._traces.forget_stopped(job_id)
            self._traces.abandon_group(job_id)
            self._traces.unmark(job_id)

    def free_forgotten(self) -> None:
        """Let those go on who stand still though no row says so: memory of them was lost."""
        arbiter = self._arbiter

        def is_paused(job_id: int, group: str) -> bool:
            job = self._store.live.get(job_id)
            known = self._traces.group(job) if job is not None and job.state in (JobState.PAUSED, JobState.SUSPENDED) else None
            return known is not None and known.folder == group

        def is_known(job_id: int, stat: processes.Stat) -> bool:
            job = self._store.find(job_id)
            boot = processes.boot_id()
            return job is not None and job.identity.boot_id == boot and job.identity.start_ticks <= stat.start_ticks

        for each in forgotten.find(self._folder, arbiter.sim_root, is_paused, is_known):
            each.let_go()
        for path, job_id in forgotten.groups_of_world(self._folder).items():
            job, group = self._store.live.get(job_id), Group(path)
            if job is None or not (self._traces.has_group(job_id) or group.holds(job.identity.pid)):
                self._traces.adopt_group(group)

    # --- keeping ------------------------------------------------------------------------------------------------

    def look_after(self) -> None:
        """See that every pause is as it was left, and that nobody stays paused beyond its bound."""
        self._traces.remove_groups()
        for job in list(self._store.paused.values()):
            if job.id in self._freed:
                continue
            if self._stopping.is_asked_to_end(job):
                self.asked_to_end(job)
            elif not self._stopping.stands_still(job):
                self._renew(job)
        for job_id, (newcomer_id, due_mono) in list(self._heeding.items()):
            if due_mono <= time.monotonic():
                del self._heeding[job_id]
                self._pause_again(job_id, newcomer_id)

    def _renew(self, job: Job) -> None:
        """Others undid the pause (tmux and fg send SIGCONT [run]): once is an accident, twice is a wish."""
        if job.id not in self._renewed:
            self._census = None
            means, _ = self._stopping.means(job, self._fresh_census)
            if means is not None and self._stop([(job, means)]) is None:
                self._renewed.add(job.id)
                return
        self._refuse(job, "somebody lets it go on whenever it is paused")
        self.resume(job, "somebody let it go on")

    def _pause_again(self, job_id: int, newcomer_id: int) -> None:
        """A job has survived the signal for which it went on, and its newcomer still computes."""
        job, newcomer = self._store.live.get(job_id), self._store.live.get(newcomer_id)
        if job is None or newcomer is None or job.state is not JobState.RUNNING or newcomer.state not in STARTED:
            return
        shared = {share.uuid for share in job.shares} & {share.uuid for share in newcomer.shares}
        if shared and newcomer.priority >= job.priority + PRIORITY_STEP:
            self.pause([job], newcomer_id, f"again for job {newcomer_id}")

    def _for_whom(self, newcomer_id: int | None) -> str:
        newcomer = self._store.live.get(newcomer_id) if newcomer_id is not None else None
        if newcomer is None:
            return "by hand: gpurun resume lets it go on"
        word = next((word for word, value in PRIORITY_WORDS.items() if value == newcomer.priority), str(newcomer.priority))
        return f"for job {newcomer.id} ({newcomer.user}, {word}), goes on by itself"

    def thaw_everything(self, why: str) -> None:
        """Before an arbiter gives up: nobody stays stopped."""
        for job in list(self._store.paused.values()):
            self._stopping.let_go(job)  # now: we leave, whether this can be written down or not
            self.resume(job, why)
