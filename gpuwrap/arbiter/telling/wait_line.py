"""What waiting clients are told on their terminals.

1. On each terminal one foreground waiter draws, and counts the others; the arbiter picks it, since only it sees them all.
2. Those that begin to wait in the background of a terminal get one plain line together, once no more of them come. Without
   a terminal nothing is told, unless it asked for it (-v).
3. Nothing is told in the first moment: most waits are over before anybody could read.
"""

import time
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from ...clocks import wall_at
from ...host import processes
from ...lifecycle import IN_LINE, JobState
from ...model import Job, Plan, Rule, View
from ...policy.effects import stuck
from ...policy.outlook import told_starts
from ...policy.reasons import Teller
from ...policy.story import Brief, Briefest, Compact, Lister, Numbers, Storyteller
from ...policy.words import clock_of, job_list
from ...turns import before
from ...units import format_duration, format_size
from ..kin.containers import PASSED_IN
from ..seeing.frozen import frozen_words
from ..timers import Timer
from .lined_up import lined_up

if TYPE_CHECKING:
    from ..loop import Arbiter

FIRST_SECONDS = 0.25
# One that waits alone is told of after a moment; where there are several, others may come until there is quiet for so long.
QUIET_SECONDS, MOST_SECONDS = 0.75, 10.0
COMPUTING = (JobState.GRANTED, JobState.RUNNING, JobState.STOPPING)
# "2 h so far" grows; nothing else on the line does without an event.
REFRESH_SECONDS = 30.0
# Who waits is told for how long only from then on.
TELLING_SECONDS = 60.0
# So many waiting jobs are looked at each time, whether they have come to the foreground.
FEW = 64
# The rule, where no plan is the reason.
UNWRITTEN, UNAFFECTED = "unwritten", "; running jobs are not affected"
# What no job's end changes: the line says what to do. (For the rest there is `why`.)
STRANGE = ("foreign", "claimed", "leftover", "unexplained", "drained", "unhealthy", "unknown", "compute-mode")


class _Coming:
    """Jobs that have begun to wait in the background of one terminal, until no more of them come."""

    def __init__(self) -> None:
        self.jobs: set[int] = set()
        self._begun_mono = self._last_mono = time.monotonic()

    def add(self, job_id: int) -> None:
        self.jobs.add(job_id)
        self._last_mono = time.monotonic()

    def is_over(self) -> bool:
        quiet = FIRST_SECONDS / 2 if len(self.jobs) == 1 else QUIET_SECONDS
        return time.monotonic() >= min(self._last_mono + quiet, self._begun_mono + MOST_SECONDS)


@dataclass(slots=True)
class Hearer:
    """Where a job's waiting is told."""

    tty: int
    """Device of the terminal, negative for `-v` without one."""
    background: bool = False
    """Whether it was told by one plain line, as a background process of its terminal."""
    told: str | None = None
    """The last line it was sent."""


class Lines:
    """Tells waiting clients why they wait, at most a few times a second."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._timer: Timer | None = None
        self._hearers: dict[int, Hearer] = {}
        self._coming: dict[int, _Coming] = {}
        """Terminals in whose background jobs have begun to wait that nobody was told of."""
        self._tellers: dict[tuple[int | None, type[Teller]], tuple[View, Teller]] = {}

    def hear(self, job_id: int, tty: int | None) -> None:
        """A client says where it is told that it waits; None: nowhere."""
        known = self._hearers.pop(job_id, None)
        if tty is not None:
            self._hearers[job_id] = known or Hearer(tty)
            self._hearers[job_id].tty = tty

    def has_terminal(self, job_id: int) -> bool:
        """Whether a client waits at a terminal, or said that it wants to be told."""
        return job_id in self._hearers and self._hearers[job_id].tty != 0

    def say_again(self, job_id: int) -> None:
        """The client has gone: what it was told is told to the one that comes back."""
        if job_id in self._hearers:
            self._hearers[job_id].told = None

    def begin_again(self, job_id: int) -> None:
        """It waits anew, in the foreground or not."""
        if job_id in self._hearers:
            self._hearers[job_id] = Hearer(self._hearers[job_id].tty)

    def follow(self, job_id: int, job: Job | None) -> None:
        """Nobody is told of one that has gone."""
        if job is None:
            self._hearers.pop(job_id, None)

    def refresh_soon(self) -> None:
        """Tell what has changed, in a moment."""
        if self._timer is not None and self._timer.at_mono <= time.monotonic() + FIRST_SECONDS:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._hearers:
            self._hang(FIRST_SECONDS)

    def batch_lost(self, *, news: bool) -> None:
        """Tell at once that nothing can be written; after that what is due, which waits for batches as a rule."""
        if news or (self._timer is not None and self._timer.at_mono <= time.monotonic()):
            self.refresh()

    def _hang(self, seconds: float) -> None:
        self._timer = self._timers.after(seconds, lambda: self._turn.later(self.refresh))

    def refresh(self) -> None:
        """Tell what has changed, now; outside a batch, since what was told stays told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        drawers: dict[int, list[Job]] = {}
        # A shell's fg tells nobody that it is in the foreground now: a few are looked at again.
        few = len(self._store.in_line) <= FEW
        for job in self._waiting():
            seat, hearer = self._seats.get(job.id), self._hearers.get(job.id)
            if seat is None or hearer is None or seat.connection is None or (hearer.background and not few):
                continue
            stat = processes.read_stat(job.identity.pid)
            if stat is None or stat.state in "Tt":
                continue
            if hearer.tty > 0 and stat.foreground == stat.group:
                if hearer.background:
                    hearer.background, hearer.told = False, None
                drawers.setdefault(hearer.tty, []).append(job)
            elif not hearer.background:
                hearer.background, hearer.told = True, None
                self._coming.setdefault(hearer.tty, _Coming()).add(job.id)
        for jobs in drawers.values():
            self._draw(sorted(jobs, key=before))
        self._note()
        if self._coming or drawers:
            self._hang(FIRST_SECONDS if self._coming else REFRESH_SECONDS)

    def _note(self) -> None:
        """Tell of those in the background, one line for each terminal."""
        for tty, coming in list(self._coming.items()):
            if not coming.is_over():
                continue
            del self._coming[tty]
            waiting = [job for job in self._waiting() if self._waits_at(job, tty)]
            told = sorted((job for job in waiting if job.id in coming.jobs), key=before)
            if len(told) == 1:
                self._tell(told[0], "note", self.text(told[0]))
            elif told:
                self._tell(told[0], "note", self._counted(waiting))

    def _waiting(self) -> list[Job]:
        """Return those in line, and those that are out of it but could not be told to go, as far as their clients know."""
        stuck = self._store.live.values() if self._arbiter.unwritten is not None else ()
        return [*self._store.in_line.values(), *(job for job in stuck if job.state is JobState.GRANTED)]

    def _waits_at(self, job: Job, tty: int) -> bool:
        hearer = self._hearers.get(job.id)
        return hearer is not None and hearer.tty == tty and hearer.background

    def _counted(self, jobs: list[Job]) -> str:
        lost = self._unwritten()
        return _count(jobs) if lost is None else f"{len(jobs)} jobs wait: {lost}{UNAFFECTED}"

    def _draw(self, jobs: list[Job]) -> None:
        first, *others = jobs
        for job in others:
            self._tell(job, "hush", "another draws")
        if others:
            self._tell(first, "wait", self._counted(jobs))
        else:
            short = [self.text(first, kind) for kind in (Teller, Compact, Brief, Briefest)]
            self._tell(first, "wait", self._with_own_time(first, short[0]), *short)

    def _with_own_time(self, job: Job, text: str) -> str:
        """Add for how long a job has waited, once that says something; before what would help."""
        waited = time.monotonic() - (job.submitted_mono or time.monotonic())
        if waited < TELLING_SECONDS or job.state is not JobState.WAITING:
            return text
        first, newline, second = text.partition("\n")
        return f"{first}; it has waited for {format_duration(waited)}{newline}{second}"

    def _tell(self, job: Job, kind: str, text: str, *shorter: str) -> None:
        """Tell a client something new; of a line the shorter versions too, since only it knows how much room there is."""
        seat, hearer = self._seats[job.id], self._hearers[job.id]
        if hearer.told != text:
            hearer.told = text or None
            short = {f"short{number}": each for number, each in enumerate(shorter) if each != text}
            self._arbiter.bell.send_now(seat.connection, kind, text=text, **short)

    def text(self, job: Job, kind: type[Teller] = Teller) -> str:
        """Say in one line what a job waits for, its number first, and in a second what would help."""
        words = self.explain(job, kind, helps=False)
        if words is not None and words[0] in STRANGE:
            words = self.explain(job, kind)
        if words is None:
            return f"job {job.id} waits for a GPU"
        rule, text, helps = words
        if rule in ("held", "stopped", "frozen"):
            return f"job {job.id}: {text}"
        if rule == UNWRITTEN:
            return f"job {job.id} waits: {text}{UNAFFECTED}"
        return f"job {job.id} waits for {text}" + (f"\n{helps[0]}" if helps else "")

    def explain_all(self, job_ids: list[int], *, listed: bool = False) -> dict[int, tuple[str, str, list[str]]]:
        """Explain many jobs: one Teller for each queue; briefly if they stand in a list of all jobs."""
        found = {}
        for job_id in job_ids:
            job = self._store.live.get(job_id)
            words = self.explain(job, Numbers if listed else Teller, helps=False) if job is not None else None
            if words is not None:
                found[job_id] = words
        return found

    def lined_up(self, *, bare: bool) -> str:
        """Tell who is served when, and unless `bare` why each waits, for a list of all."""
        store, starts = self._store, dict[int, float]()
        for view in () if bare else self._arbiter.deciding.views.values():
            starts |= told_starts(view, time.monotonic())
        explain = None if bare else lambda job: self.explain(job, Lister, helps=False)
        return lined_up(self._arbiter.deciding.plans, store.in_line, list(store.live.values()), explain, starts)

    def _decided(self, job: Job) -> tuple[Plan | None, View | None]:
        """Return the last plan of a job's queue, and what it was made from."""
        deciding = self._arbiter.deciding
        return deciding.plans.get(job.parent_id), deciding.views.get(job.parent_id)

    def tell(self, job: Job) -> tuple[list[str], list[str]] | None:
        """Tell why a job waits in whole sentences, and what would help; None before the first plan."""
        plan, view = self._decided(job)
        words = self.explain(job)
        if words is not None and words[0] in (UNWRITTEN, "frozen"):
            return [self.text(job)], words[2]
        if (seconds := self._arbiter.reruns.rests(job.id)) is not None:
            return [f"job {job.id} waits for its next try, in {seconds} s"], []
        reason = plan.reasons.get(job.id) if plan is not None else None
        if reason is None or view is None:
            return None
        teller = Storyteller(view, time.monotonic(), wall_at())
        told = teller.sentences(reason, job)
        if view.expected and plan is not None:
            told += teller.outlook(reason, job, list(takewhile(lambda each: each != job.id, plan.reasons)))
        if job.learned_bytes is not None:
            told.append(f"by earlier runs of this command it needs {format_size(job.learned_bytes)} on a GPU")
        return told, teller.help_lines(reason, job)

    def _unwritten(self) -> str | None:
        """Say that nobody can start, or be noted to have ended, since nothing can be written."""
        lost = self._arbiter.unwritten
        return None if lost is None else f"the queue cannot be written: {lost.cause}"

    def _explain_started(self, job: Job) -> tuple[str, str, list[str]] | None:
        """Say what is unusual about a job that has started; None if it just runs."""
        if job.state is JobState.ENDED:
            left = self._arbiter.left_behind.words(job)
            return None if left is None else ("leftover", left, [f"gpurun kill {job.id} ends it"])
        if job.state is JobState.PAUSED:
            return "paused", self._paused(job), []
        lost = self._unwritten() if job.state is JobState.GRANTED else None
        if lost is not None:
            return UNWRITTEN, lost, []
        frozen, thaw = frozen_words(job) or ("", [])
        if job.state is JobState.STOPPING:
            newcomer = f" for job {job.yields_to}" if job.yields_to is not None else ""
            again = ", runs again later" if job.requeue else ""
            return "stopping", f"asked to end{newcomer}{again}" + (f", but {frozen}" if frozen else ""), thaw
        stat = processes.read_stat(job.identity.pid) if job.state is JobState.RUNNING else None
        if stat is not None and stat.state == "T":
            return "stopped", "stopped at its terminal, keeps its GPUs", ["fg in its terminal lets it go on"]
        if frozen:
            return "frozen", f"{frozen}, keeps its GPUs", thaw
        astray = self._arbiter.astray.words(job)
        if astray is not None:
            return "astray", *astray
        over = self._arbiter.memory.words(job)
        if over is not None:
            return "memory", over, []
        client = self._arbiter.containers.unlinked(job) if job.shares and not self._arbiter.holders(job) else None
        if client is None:
            return None
        return "container", f"runs a container ({client}) that counts as a stranger's", [f"{PASSED_IN} makes it its own"]

    def _paused(self, job: Job) -> str:
        """Say for whom a job is paused, since when, and why it is although it should not be."""
        now = time.monotonic()
        since = format_duration(now - (job.paused_mono or now))
        times = f", {job.times_given_way} times so far" if job.times_given_way > 1 else ""
        if job.yields_to is None:
            return f"paused by hand, {since}{times}: gpurun resume {job.id} lets it go on"
        plan, _ = self._decided(job)
        why = f": {stuck(plan, job.id, clock_of(now, wall_at()))}" if plan is not None and job.id in plan.stuck else ""
        return f"paused for {job_list(self._stand_beside(job))}, {since}{times}{why}"

    def _stand_beside(self, job: Job) -> list[int]:
        """Return for whom a job stands still: whom it was paused for, or those that took that one's place."""
        assert job.yields_to is not None
        holding = self._store.holding
        mine = {share.uuid for share in job.shares}
        beside = [
            each.id
            for each in holding.values()
            if each.id != job.id and each.state in COMPUTING and any(share.uuid in mine for share in each.shares)
        ]
        return [job.yields_to] if job.yields_to in beside or not beside else beside

    def explain(self, job: Job, kind: type[Teller] = Teller, *, helps: bool = True) -> tuple[str, str, list[str]] | None:
        """Return the rule, the sentence and what would help, as of the last plan; None before the first."""
        if job.state not in IN_LINE:
            return self._explain_started(job)
        plan, view = self._decided(job)
        if job.state is JobState.HELD and (plan is None or view is None):
            return "held", f"held: gpurun resume {job.id} lets it go", []
        seat = self._seats.get(job.id)
        if seat is not None and seat.stopped and job.state is JobState.WAITING:  # seen just now, perhaps, and not planned with
            return "stopped", "stopped at its terminal, keeps its place", ["fg in its terminal lets it go on"]
        lost = self._unwritten() if job.state is JobState.WAITING else None
        if lost is not None:
            return UNWRITTEN, lost, []
        if (seconds := self._arbiter.reruns.rests(job.id)) is not None:
            return "absent", f"its next try, in {seconds} s", []
        reason = plan.reasons.get(job.id) if plan is not None else None
        if reason is None or view is None:
            return None
        frozen = frozen_words(job) if reason.rule is Rule.ABSENT else None
        if frozen is not None:
            return "frozen", f"{frozen[0]}, keeps its place", frozen[1]
        teller = self._tellers.get((job.parent_id, kind))
        if teller is None or teller[0] is not view:
            teller = self._tellers[job.parent_id, kind] = (view, kind(view, time.monotonic(), wall_at()))
        return reason.rule.value, teller[1].sentence(reason, job), teller[1].help_lines(reason, job) if helps else []


def _count(jobs: list[Job]) -> str:
    """Say how many wait, and from which number on: those of a shell's loop follow each other."""
    return f"{len(jobs)} jobs wait for a GPU, first is {min(job.id for job in jobs)}"
