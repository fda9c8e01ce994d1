"""Who stands before whom among jobs of equal priority, and who of them gives way to whom.

1. In order of arrival everything here is silent: the line is sorted by arrival, and equals never give way.
2. Else who is due goes first, by arrival: it has waited for `due_after`, and for 20 times what it is expected to need.
   Nobody passes it, so everybody starts once those before it have ended, whoever comes meanwhile.
3. Then what is expected to be left of a job, times the root of its GPUs: half-way between what its owner waits for and
   what the machine gives for it. In the order `fair` times its owner's part of the recent use, too.
4. Among equals only who said that it may be run again (`-r`) gives way, to one of less than half its rank, and not before
   it has run for a while: so two of them never make each other give way.
5. A rank rests on what is expected, never on what a job will turn out to need. A wrong guess costs time, and nothing else.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from math import inf, sqrt

from ..model import Basis, GiveWay, Job, Order, View
from ..turns import before
from ..units import PRIORITY_STEP
from .users import Standing

DUE_FACTOR = 20
# Who makes an equal give way needs less than this part of what that one does.
GIVING_PART = 0.5
# Expected ends are told apart by steps of this ratio; the next step up is also the margin that a guess is given.
STEP_RATIO = 1.25
# What is expected to take `UP_TO` one of these is given the step beside it, of seconds to centuries.
STEPS = [STEP_RATIO**step for step in range(1, 120)]
UP_TO = [STEP_RATIO ** (step - 0.5) for step in range(1, 119)]


def by_place(view: View | None, now_mono: float) -> Callable[[Job], tuple[float, ...]]:
    """Return what a line is sorted by, as a view has it; by arrival where there is none (yet)."""
    if view is None or view.order is Order.ARRIVAL:
        return before
    ranks = Ranks(view, now_mono)
    return lambda job: (-job.priority, ranks.rank(job), job.turn, job.id)


class Ranks:
    """Answers for one view, while a plan is made from it."""

    def __init__(self, view: View, now_mono: float) -> None:
        self.by_need = view.order is not Order.ARRIVAL
        self.standing = Standing(view)
        self._expected, self._burden, self._now_mono = view.expected, view.burden, now_mono
        self._due_after = view.bounds.due_after_seconds
        self._is_fair = view.order is Order.FAIR
        self._known: dict[int, float] = {}
        # The largest rank of those that may give way to an equal, by priority.
        self._most: dict[int, float] = {}
        if self.by_need and view.yielding:
            self._note_equals(job for job in view.jobs if job.id in view.yielding)

    def _note_equals(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job.request.give_way is GiveWay.REQUEUE and job.shares:
                self._most[job.priority] = max(self._most.get(job.priority, 0.0), self.rank(job))

    def rank(self, job: Job) -> float:
        """Return what a job is ranked by, smaller first: negative if it is due, infinite if nothing is expected of it."""
        found = self._known.get(job.id)
        if found is not None:
            return found
        expected, since = self._expected.get(job.id), job.submitted_mono
        patience = self._due_after if expected is None else self._due_after + DUE_FACTOR * expected.seconds
        if since is not None and self._now_mono - since >= patience:
            rank = -1.0
        elif expected is None:
            rank = inf
        else:
            gpus = job.request.gpus
            rank = expected.index * sqrt(gpus) if gpus > 1 else expected.index
            if self._is_fair:
                rank *= self._burden.get(job.id, 1.0)
        self._known[job.id] = rank
        return rank

    def is_due(self, job: Job) -> bool:
        """Whether nobody passes it any more."""
        return self.by_need and self.rank(job) < 0

    def precedes(self, job: Job, victim: Job) -> bool:
        """Whether a job is so much shorter than one of equal priority that that gives way, which said that it may."""
        if not self.by_need or not self.are_equals(job, victim) or victim.request.give_way is not GiveWay.REQUEUE:
            return False
        return self.rank(job) < GIVING_PART * self.rank(victim)

    def are_equals(self, job: Job, other: Job) -> bool:
        """Whether two jobs have the same priority and one owner: other users' are told apart by other means."""
        return job.priority == other.priority and not self.standing.are_strangers(job, other)

    def outranks(self, job: Job, victim: Job) -> bool:
        """Whether a job may make another give way: it is a whole step above, or an equal that is so much shorter."""
        if self.standing.are_strangers(job, victim):
            return self.standing.may_interrupt(job, victim)
        return job.priority >= victim.priority + PRIORITY_STEP or self.precedes(job, victim)

    def makes_way_for(self, first: Job, job: Job) -> bool:
        """Whether a job that takes what is kept for the first in line delays that one for no more than its least run."""
        if not self.by_need or not job.stub or job.request.give_way is not GiveWay.REQUEUE or self.is_due(first):
            return False
        if self.standing.are_strangers(first, job):
            return self.standing.may_interrupt(first, job)
        return job.priority == first.priority or job.priority + PRIORITY_STEP <= first.priority

    def precedes_somebody(self, job: Job) -> bool:
        """Whether one of equal priority may have to give way to a job."""
        return bool(self._most) and self.rank(job) < GIVING_PART * self._most.get(job.priority, -inf)

    def nobody_behind_precedes(self, job: Job) -> bool:
        """Whether no job behind this one in line makes an equal give way."""
        if not self._most or self.standing.apart:
            return not self._most
        return max(self._most) < job.priority or (
            min(self._most) >= job.priority and not self.is_due(job) and not self.precedes_somebody(job)
        )

    def limit_seconds(self, job: Job) -> float | None:
        """Return for how long a job runs at most from its start: by its limit, or by what is expected with a margin."""
        expected = self._expected.get(job.id) if self.by_need else None
        if expected is None:
            return job.request.time_limit_seconds
        if expected.basis is Basis.LIMIT:
            return expected.seconds
        return STEPS[bisect_left(UP_TO, expected.seconds)]

    def ends_mono(self, job: Job) -> float:
        """Return when a job that computes is expected to end; infinite if nothing is expected."""
        expected = self._expected.get(job.id) if self.by_need else None
        return inf if expected is None else self._now_mono + expected.seconds
