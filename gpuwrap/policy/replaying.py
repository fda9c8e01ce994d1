"""A machine that exists only as records: recorded jobs through the very `plan`, on a clock that jumps from event to event.

1. Nothing here decides: what `plan` says is carried out at once, and it is asked again until it says nothing more.
2. At every event it is checked that no GPU is promised twice, that nobody in line could start without delaying whom GPUs are
   kept for, that nobody gives way who did not say so, and that GPUs are kept for who is due (else `Broken`).
3. What a job is expected to need comes from limits and from jobs that have ended (`expecting`), never from its own duration.
4. Who is ended goes on later where it was, as from a checkpoint, and pays for it: `cost_seconds` of GPU time at each start.
   A pause costs nothing, and keeps the memory.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from math import inf
from operator import attrgetter

from ..lifecycle import JobState
from ..model import (
    Action,
    Bounds,
    Evict,
    Expected,
    Gpu,
    Grant,
    Identity,
    Job,
    Order,
    Pause,
    Plan,
    Request,
    Resume,
    View,
    Yielding,
)
from ..people import Between, Caps, People
from ..units import GIB
from .expecting import Asked, Experience, PastRun
from .plan import plan
from .ranks import Ranks
from .starting import Start, expected_starts
from .use import Use
from .users import HALF_LIFE_SECONDS

CARD_BYTES = 80 * GIB
# Plans in a row at one event: each newcomer takes two, one that asks others to give way and one that grants.
MOST_PLANS = 1000
Holders = dict[str, list[tuple[Job, int, bool]]]
_PAUSED, _RUNNING, _WAITING = JobState.PAUSED, JobState.RUNNING, JobState.WAITING


class Preempt(Enum):
    """How those that consented give way among equals."""

    NEVER = "never"
    PAUSE = "pause"
    REQUEUE = "requeue"


class Broken(Exception):
    """A promise that did not hold."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One job of a trace. `held_bytes`: what it holds of each of its GPUs, where pauses are replayed."""

    submit_seconds: float
    duration_seconds: float
    request: Request
    owner: str = ""
    held_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """How it is replayed."""

    order: Order = Order.ARRIVAL
    preempt: Preempt = Preempt.NEVER
    cost_seconds: float = 60.0
    quantum_seconds: float = 600.0
    due_after_seconds: float = 259200.0
    between: Between | None = None
    """What decides between owners; None: they are as one user."""
    caps: Mapping[str, Caps] = field(default_factory=dict)
    """Of owners, by name."""


@dataclass(slots=True)
class Course:
    """How one job has fared. `ran_seconds` until `since`, when what it does now began; `owed_seconds` it pays before."""

    recorded: Recorded
    ran_seconds: float = 0.0
    owed_seconds: float = 0.0
    since: float = 0.0
    begun: float | None = None
    ended: float | None = None
    gave_way: int = 0
    version: int = 0
    told: Start | None = None

    def go_on(self, now: float, computes: bool) -> None:
        """Count what it has done since."""
        if computes:
            passed = now - self.since
            paid = min(passed, self.owed_seconds)
            self.owed_seconds -= paid
            self.ran_seconds += passed - paid
        self.since = now

    def ran(self, now: float, computes: bool) -> float:
        """Return for how long it has computed."""
        return self.ran_seconds + max(0.0, now - self.since - self.owed_seconds) if computes else self.ran_seconds


class Replay:
    """One run over one trace."""

    def __init__(self, gpus: int, jobs: list[Recorded], rules: Rules = Rules()) -> None:
        self._gpus, self._rules = gpus, rules
        self._cards = tuple(Gpu(f"GPU-{index}", index, "card", CARD_BYTES, CARD_BYTES) for index in range(gpus))
        self.courses = {number: Course(each) for number, each in enumerate(jobs, 1)}
        self._recorded = jobs
        self._live: dict[int, Job] = {}
        self._ends: list[tuple[float, int, int]] = []
        self._experience = Experience()
        self._expected: dict[int, Expected] = {}
        self._bounds = Bounds(
            min_run_seconds=rules.quantum_seconds,
            min_return_seconds=rules.quantum_seconds,
            min_run_among_equals_seconds=rules.quantum_seconds,
            due_after_seconds=rules.due_after_seconds,
        )
        pauses = rules.preempt is Preempt.PAUSE
        self._way = Yielding(inf if pauses else 0.0, can_evict=rules.preempt is Preempt.REQUEUE)
        self._use = Use() if rules.between is None else Use(HALF_LIFE_SECONDS)
        self._uids = {owner: uid for uid, owner in enumerate(sorted({each.owner for each in jobs}), 1000)}
        self._counted = 0.0
        self.due: set[int] = set()
        """Who was ever due while it waited."""
        self.busy_seconds = 0.0
        self.makespan_seconds = 0.0
        self.plans = 0
        self.preemptions = 0

    def run(self) -> None:
        """Play the trace to its end. Raises Broken."""
        for now in self._events():
            self._settle(now)
            self.makespan_seconds = now

    def _events(self) -> Iterator[float]:
        """Yield each moment at which jobs arrive, have ended, or may have run for long enough to give way."""
        coming, tick = 0, inf
        while coming < len(self._recorded) or self._live:
            arrives = self._recorded[coming].submit_seconds if coming < len(self._recorded) else inf
            while self._ends and self._ends[0][2] != self.courses[self._ends[0][1]].version:
                heapq.heappop(self._ends)
            now = min(arrives, self._ends[0][0] if self._ends else inf, tick)
            if now == inf:
                raise Broken(f"nobody ever starts: {[(each.id, each.state.value) for each in self._live.values()]}")
            if now >= tick:
                tick = inf
            self._count_use(now)
            while self._ends and self._ends[0][0] <= now:
                _, number, version = heapq.heappop(self._ends)
                if version == self.courses[number].version:
                    self._end(number, now)
            while coming < len(self._recorded) and self._recorded[coming].submit_seconds <= now:
                coming += 1
                self._arrive(coming)
            yield now
            waits = any(job.state is not _RUNNING for job in self._live.values())
            if waits and self._rules.preempt is not Preempt.NEVER and tick == inf:
                tick = now + self._rules.quantum_seconds

    def _count_use(self, now: float) -> None:
        passed, self._counted = now - self._counted, now
        for job in self._live.values():
            if job.state is _RUNNING:
                used = passed * job.request.gpus * ((job.request.memory_bytes or CARD_BYTES) / CARD_BYTES)
                self.busy_seconds += used
                if self._rules.order is Order.FAIR or self._rules.between is not None:
                    self._use.add(job.user, used, now)

    def _arrive(self, number: int) -> None:
        recorded = self._recorded[number - 1]
        who, at = Identity("boot", 1, number, number), recorded.submit_seconds
        self._live[number] = Job(
            number, str(number), None, recorded.owner, _WAITING, 0, recorded.request, who, (b"python",), b"/", at,
            submitted_mono=at, learned_bytes=recorded.held_bytes, stub=self._way.can_evict,
        )  # fmt: skip

    def _end(self, number: int, now: float) -> None:
        self._live.pop(number)
        course = self.courses[number]
        course.go_on(now, True)
        course.ended = now
        self._expected.pop(number, None)
        recorded = course.recorded
        if self._rules.order is not Order.ARRIVAL:
            self._experience.add(PastRun(recorded.owner, None, recorded.request.gpus, course.ran_seconds))
            self._expected.clear()

    # Planning.

    def _view(self, now: float) -> View:
        jobs = tuple(self._live.values())
        ways = {}
        if self._rules.preempt is not Preempt.NEVER:
            ways = {job.id: self._way for job in jobs if job.shares}
        expected: dict[int, Expected] = {}
        if self._rules.order is not Order.ARRIVAL:
            expected = {job.id: self._expect(job, now) for job in jobs}
        burden: dict[int, float] = {}
        if self._rules.order is Order.FAIR:
            by_owner = self._use.burdens({job.user for job in jobs}, now)
            burden = {job.id: by_owner[job.user] for job in jobs}
        return View(
            self._seen(jobs), jobs, bounds=self._bounds, yielding=ways, order=self._rules.order, expected=expected,
            burden=burden, lost=dict.fromkeys(ways, self._rules.cost_seconds), people=self._people(jobs, now),
        )  # fmt: skip

    def _people(self, jobs: tuple[Job, ...], now: float) -> People | None:
        if self._rules.between is None:
            return None
        return People(
            self._rules.between,
            {job.id: self._uids[job.user] for job in jobs},
            {self._uids[owner]: caps for owner, caps in self._rules.caps.items()},
            {uid: self._use.of(owner, now) for owner, uid in self._uids.items()},
        )

    def _seen(self, jobs: tuple[Job, ...]) -> tuple[Gpu, ...]:
        """Return the GPUs: where pauses are replayed, with what each job holds."""
        if self._rules.preempt is not Preempt.PAUSE:
            return self._cards
        used: list[dict[int, int | None]] = [{} for _ in self._cards]
        for job in jobs:
            for share in job.shares:
                used[share.index][job.id] = self._held(job)
        return tuple(
            Gpu(card.uuid, card.index, card.name, CARD_BYTES, CARD_BYTES - sum(size or 0 for size in here.values()), used=here)
            for card, here in zip(self._cards, used, strict=True)
        )

    def _held(self, job: Job) -> int:
        return job.request.memory_bytes or job.learned_bytes or CARD_BYTES

    def _expect(self, job: Job, now: float) -> Expected:
        computes = job.state is _RUNNING
        found = None if computes else self._expected.get(job.id)
        if found is None:
            ran, request = self.courses[job.id].ran(now, computes), job.request
            asked = Asked(job.user, None, request.gpus, ran, request.time_limit_seconds)
            found = self._experience.expect(asked)
            if not computes:
                self._expected[job.id] = found
        return found

    def _settle(self, now: float) -> None:
        """Plan and carry out until there is nothing more to do."""
        for _ in range(MOST_PLANS):
            view = self._view(now)
            made = plan(view, now)
            self.plans += 1
            if not made.actions:
                self._check(view, made, now)
                self._tell(view, now)
                return
            for action in made.actions:
                self._carry_out(action, now)
        raise Broken(f"at {now}: the plan of an applied plan is never empty")

    def _tell(self, view: View, now: float) -> None:
        """Note what those are told who have just come and must wait."""
        new = [job.id for job in view.jobs if job.submitted_mono == now and job.state is _WAITING]
        if new and view.expected:
            told = expected_starts(view, now)
            for number in new:
                self.courses[number].told = told.get(number)

    def _carry_out(self, action: Action, now: float) -> None:
        job, course = self._live[action.job_id], self.courses[action.job_id]
        course.go_on(now, job.state is _RUNNING)
        course.version += 1
        match action:
            case Grant():
                if job.state is not _WAITING or len(action.shares) != job.request.gpus:
                    raise Broken(f"at {now}: job {job.id} is {job.state.value} and is granted {len(action.shares)} GPUs")
                job = job.changed(state=_RUNNING, shares=action.shares, granted_mono=now, started_mono=now)
                if course.begun is None:
                    course.begun = now
                else:
                    course.owed_seconds = self._rules.cost_seconds
            case Evict():
                job = job.changed(state=_WAITING, shares=(), started_mono=None, granted_mono=None, attempt=job.attempt + 1)
            case Pause():
                job = job.changed(state=_PAUSED, yields_to=action.newcomer_id, paused_mono=now)
            case Resume():
                job = job.changed(state=_RUNNING, yields_to=None, paused_mono=None, returned_mono=now)
        if isinstance(action, Evict | Pause):
            course.gave_way += 1
            self.preemptions += 1
            if job.request.give_way.value != "requeue":
                raise Broken(f"at {now}: job {job.id} gives way to an equal, and did not say that it may")
        self._live[job.id] = job
        self._expected.pop(job.id, None)
        if job.state is _RUNNING:
            left = max(0.0, course.recorded.duration_seconds - course.ran_seconds)
            heapq.heappush(self._ends, (now + course.owed_seconds + left, job.id, course.version))

    # Promises.

    def _check(self, view: View, made: Plan, now: float) -> None:
        """Look whether all promises hold. Raises Broken."""
        holders: dict[str, list[tuple[Job, int, bool]]] = {card.uuid: [] for card in self._cards}
        for job in view.jobs:
            for share in job.shares:
                size = self._held(job) if self._rules.preempt is Preempt.PAUSE else share.bytes
                holders[share.uuid].append((job, size, share.whole))
        for uuid, here in holders.items():
            computing = [whole for job, _, whole in here if job.state is _RUNNING]
            if sum(size for _, size, _ in here) > CARD_BYTES or (any(computing) and len(computing) > 1):
                raise Broken(f"at {now}: {uuid} is promised twice")
        self._check_line(view, made, holders, now)

    def _check_line(self, view: View, made: Plan, holders: Holders, now: float) -> None:
        room = {
            uuid: CARD_BYTES - sum(size for _, size, _ in here)
            for uuid, here in holders.items()
            if not any(whole or job.state is _PAUSED for job, _, whole in here)
        }
        waiting, kept_for = [job for job in view.jobs if job.state is _WAITING], set(made.kept.values())
        asked = {(job.request.gpus, job.request.memory_bytes, job.id in kept_for): job for job in waiting}
        for job in asked.values():
            size = job.request.memory_bytes or CARD_BYTES
            free = [uuid for uuid, left in room.items() if left >= size and made.kept.get(uuid, job.id) == job.id]
            if len(free) >= job.request.gpus:
                raise Broken(f"at {now}: job {job.id} waits, and could start on {free}")
        ranks = Ranks(view, now)
        due = [job for job in waiting if ranks.is_due(job)]
        self.due |= {job.id for job in due}
        if due and min(due, key=attrgetter("id")).id not in made.kept.values():
            raise Broken(f"at {now}: job {min(job.id for job in due)} is due, and no GPU is kept for it")
