"""Asking jobs to end: the signals of a list one after the other, to the leader, and to others where `policy.asking` says so.

1. `kill`, time limits and evictions differ in the list, and in who sends it: the program behind a stub that evicts it is
   signalled by that stub. Whom the program only waits for is always asked from here, where the delay is known.
2. Who was asked by a signal is not asked by it again, also if the leader has ended meanwhile; by an arbiter that has come
   since, he may be.
3. KILL is not sent from here: it comes when its time has come, whatever was seen.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ...host import processes
from ...host.signals import standing
from ...lifecycle import JobState
from ...model import Job
from ...policy.asking import LATE_PART, Asked, Round, Standing, next_look
from ...policy.words import signal_name
from ...restarts import Steps, asks_everybody
from ...state import preempt
from ..kin.walk import identity_of
from ..log import log
from .killing import signal_all

if TYPE_CHECKING:
    from ..loop import Arbiter

# So long has what is left of a run after a program that caught the signal, and when what a trap may have asked is asked.
LEFT_SECONDS = 10.0
LEFT_LATE_PART = 0.5


@dataclass(slots=True)
class Ask:
    """The end that a job is asked for: where it stands in its list of signals."""

    job_id: int
    attempt: int
    by_stub: bool
    root: int
    """The pid of the program."""
    steps: Steps
    until_mono: float
    place: int = -1
    """Where in the list: its signal was sent last."""
    number: int = 0
    late_mono: float = 0.0
    is_last: bool = False
    asked: dict[int, Asked] = field(default_factory=dict)


class Asking:
    """Asks, and looks after those that were asked."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._folder = arbiter.folder
        self._seats = arbiter.seats
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._ladders = arbiter.ladders
        self._walk, self._known, self._members = arbiter.walk, arbiter.known, arbiter.members
        self._store = arbiter.store

    def begin(self, job: Job, steps: Steps, *, by_stub: bool = False) -> float:
        """Ask a job to end, in place of how it was asked before; returns after how many seconds KILL is due."""
        seconds = sum(delay for _number, delay in steps)
        root = next(processes.every_child(job.identity.pid), 0) if job.stub else job.identity.pid
        ask = Ask(job.id, job.attempt, by_stub, root, steps, time.monotonic() + seconds)
        self._ladders.begin(job.id).ask = ask
        self._step(ask, 0)
        return seconds

    def _step(self, ask: Ask, place: int) -> None:
        """Send one signal, and see later who else must have it; nothing if it was sent early."""
        job = self._current(ask)
        if job is None or place <= ask.place:
            return
        number, delay = ask.steps[place]
        ask.place, ask.number, ask.is_last, ask.asked = place, number, place + 1 == len(ask.steps), {}
        if not ask.is_last:
            self._timers.after(delay, partial(self._step, ask, place + 1))
        ask.late_mono = time.monotonic() + delay * LATE_PART
        program = self._read(job, ask.root)
        if program is not None:
            ask.asked[program.pid] = Asked(program, program)
        elif ask.root:
            self.leader_ended(job)
        if not ask.by_stub and (program is not None or not ask.root):
            self._arbiter.killing.send(job, number)
        if asks_everybody(job.signals):
            found = self._walk.below([ask.root], self._store.family(job))
            below = [self._read(job, stat.pid) for stat in found]
            self._ask(job, ask, [each for each in below if each is not None])
        self._look_later(ask, number, delay, 0.0)

    def _look_later(self, ask: Ask, number: int, delay: float, now: float) -> None:
        at = next_look(now, delay)
        if at is not None and ask.root:
            self._timers.after(at - now, partial(self._look, ask, number, delay, at))

    def _look(self, ask: Ask, number: int, delay: float, at: float) -> None:
        """See who else must have the signal, so long after it."""
        job = self._current(ask)
        if job is None or ask.number != number:
            return
        self._look_later(ask, number, delay, at)
        round = self._round(job, ask)
        if not round.is_there(ask.root):
            self.leader_ended(job)
            return
        self._ask(job, ask, round.below(ask.root))
        for pid, asked in ask.asked.items():
            asked.last = round.read(pid) or asked.last

    def leader_ended(self, job: Job) -> float:
        """The program has ended: ask those that it left behind; returns how many seconds they have."""
        now = time.monotonic()
        ask = self._ladders.ask(job.id)
        if ask is None:
            return 0.0
        round = self._round(job, ask)
        seconds = max(0.0, ask.until_mono - now)
        if round.caught_it(ask.root):
            seconds = min(seconds, LEFT_SECONDS)
            ask.late_mono = min(ask.late_mono, now + seconds * LEFT_LATE_PART)
        ended = job.state is JobState.ENDED or not job.stub
        left = list(self._known.of(job.id).processes) if ended else [stat.pid for stat in self._members.below(job)]
        found = round.left_behind(ask.root, left)
        if found is None and not round.caught_it(ask.root):
            self._step(ask, ask.place + 1)
        self._ask(job.changed(state=JobState.ENDED), ask, found or ())
        return seconds

    def _ask(self, job: Job, ask: Ask, found: Iterable[Standing]) -> None:
        """Send the signal to others too. A program that says that it is saving is spared, and all of it."""
        found = list(found)
        if not found or (job.stub and preempt.says_saving(self._folder.fd, preempt.file_name(job.id, job.attempt))):
            return
        ask.asked |= {each.pid: Asked(each, each) for each in found}
        asked = self._members.without_others(job, [identity_of(job, each) for each in found])
        log("ask", f"job {job.id}: {signal_name(ask.number)} to pid {', '.join(str(each.pid) for each in asked)} too")
        number = ask.number
        self._turn.do(lambda: signal_all(asked, number, job.uid))

    def _current(self, ask: Ask) -> Job | None:
        """Return the job if it is still asked in this way."""
        job, seat = self._store.live.get(ask.job_id), self._seats.get(ask.job_id)
        if job is None or seat is None or self._ladders.ask(ask.job_id) is not ask or job.attempt != ask.attempt:
            return None
        return job if job.state in (JobState.STOPPING, JobState.ENDED) else None

    def _round(self, job: Job, ask: Ask) -> Round:
        is_late = time.monotonic() >= ask.late_mono
        return Round(ask.number, ask.asked, partial(self._read, job), late=is_late, is_last=ask.is_last)

    def _read(self, job: Job, pid: int) -> Standing | None:
        """Look at a process of the job; None if it has ended, or is none."""
        other = pid != job.identity.pid and self._walk.is_other(pid, self._store.family(job))
        return None if other else standing(pid)

