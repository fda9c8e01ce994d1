"""Deciding: when a plan is due, the look at the GPUs that it is made from, and how it is carried out.

1. A plan is only made from a look that began after the last thing that changed.
2. One that met with a surprise is made once more, from the same look.
3. After a restart clients known to wait are let come back first, for a moment.
"""

import time
from typing import TYPE_CHECKING

from ...host.devices import Look
from ...lifecycle import IN_LINE
from ...model import Plan, View
from ...policy.plan import plan
from ..log import log
from ..timers import Timer
from .views import view_of

if TYPE_CHECKING:
    from ..loop import Arbiter

# How long a successor waits for clients to come back before it plans without them: they take milliseconds.
RETURN_SECONDS = 1.0
# When a look that could not be begun is tried again.
AGAIN_SECONDS = 1.0
# Plans in a row for one wake: each repeats because a client turned out to be stopped or a GPU to be claimed.
MOST_PLANS = 200


class Deciding:
    """Looks and plans when something has changed; knows what was seen and decided last."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._figures = arbiter.figures
        self.look: Look | None = None
        self.views: dict[int | None, View] = {}
        self.plans: dict[int | None, Plan] = {}
        """What the last plan was made from and what it says, of the outer queue (None) and of those inside jobs."""
        self._is_looking = False
        self._again: Timer | None = None
        self._look_is_noted = True
        self._awaited_until: float | None = None

    def plan_from(self, look: Look) -> None:
        """The look that is just over shows something new: plan from it."""
        if self._turn.changed_mono is None:
            self._turn.changed_mono = look.begun_mono

    def begin_look(self) -> None:
        """Ask for a look, unless one is under way. One that cannot be begun counts as one that the driver did not answer."""
        if self._is_looking:
            return
        try:
            self._arbiter.devices.begin_look()
        except RuntimeError as err:
            if self.look is None or self.look.fault != str(err):
                log("look", f"cannot look at the GPUs for now: {err}")
            self.look = Look((), time.monotonic(), str(err), pending=True)
            if self._again is None or self._again.callback is None:
                self._again = self._arbiter.timers.after(AGAIN_SECONDS, self._look_again)
            return
        self._is_looking = True
        self.look_over()  # simulated GPUs have answered already

    def _look_again(self) -> None:
        self._again = None
        self._arbiter.answers.machine_known()  # what does not depend on which GPUs there are need not wait for them
        self.begin_look()

    def look_over(self) -> None:
        """Take in the look that is over, if one is."""
        arbiter = self._arbiter
        try:
            self.look = arbiter.devices.finish_look()
        except BlockingIOError:
            return
        self._is_looking = False
        arbiter.sampling.looked(self.look)
        arbiter.observer.strangers.note(self.look)
        self._look_is_noted = False
        arbiter.answers.machine_known()
        used = arbiter.owners.used_by(self.look)
        arbiter.memory.note(used)
        arbiter.astray.note(self.look, used)
        self._turn.later(arbiter.orphans.look)
        for job_id in list(arbiter.leftovers):
            job = arbiter.store.live.get(job_id)
            if job is not None:
                arbiter.enforcer.release_if_let_go(job)

    def note_look(self) -> None:
        """Write down what a successor could not find out."""
        if not self._look_is_noted:
            self._look_is_noted = True
            self._arbiter.notes.idle_strangers.put(self._arbiter.observer.strangers.idle())
            self._arbiter.left_behind.remember()

    def decide(self) -> None:
        """Plan, if anything has changed since that was done last and the machine has been seen since; carry the plan out."""
        arbiter = self._arbiter
        if self._turn.changed_mono is None or self._awaits_clients() or arbiter.farewell.has_begun:
            return
        if not self._somebody_waits():
            self._turn.changed_mono = None
            self.views.clear()
            self.plans.clear()
            self._turn.later(arbiter.lines.refresh_soon)
            return
        for _ in range(MOST_PLANS):
            if self.look is None or self.look.begun_mono < self._turn.changed_mono:
                self.begin_look()
            if self.look is None or self.look.begun_mono < self._turn.changed_mono:
                return
            self._turn.changed_mono = None
            arbiter.ahead.ask()
            begun_mono = time.monotonic()
            if not self._plan_once():
                self._turn.changed_mono = self.look.begun_mono  # once more, from the same look
            self._figures.planned(time.monotonic() - begun_mono)
            if self._turn.changed_mono is None:
                break
        arbiter.ahead.over()
        arbiter.sampling.planned()
        arbiter.patience.planned()
        arbiter.answers.planned()
        self._turn.later(arbiter.lines.refresh_soon)

    def await_clients(self) -> None:
        """After a restart: let the clients known to wait come back first, or a later one might be served before them."""
        self._awaited_until = time.monotonic() + RETURN_SECONDS
        self._arbiter.timers.after(RETURN_SECONDS, self._turn.replan)

    def _awaits_clients(self) -> bool:
        arbiter = self._arbiter
        if self._awaited_until is None:
            return False
        if time.monotonic() < self._awaited_until and any(
            seat.connection is None and not seat.stopped
            for seat in (arbiter.seats.get(job_id) for job_id in arbiter.store.in_line)
            if seat is not None
        ):
            return True
        self._awaited_until = None
        return False

    def _somebody_waits(self) -> bool:
        arbiter = self._arbiter
        asked = arbiter.answers.rehearsals.asked or arbiter.answers.verbs.renicings
        return bool(asked or arbiter.store.in_line or arbiter.sampling.somebody_is_paused())

    def _plan_once(self) -> bool:
        """Plan the outer queue and the queue inside each job; false if it must be done again."""
        assert self.look is not None
        arbiter, now_mono = self._arbiter, time.monotonic()
        nested = arbiter.store.nested.items()
        parents = {outer for outer, jobs in nested if any(job.state in IN_LINE for job in jobs.values())}
        self.views.clear()
        self.plans.clear()
        for parent_id in sorted(parents | {None}, key=lambda it: it or 0):
            view = view_of(arbiter, parent_id, self.look)
            if view is None:
                continue
            self.views[parent_id] = view
            self.plans[parent_id] = made = plan(view, now_mono)
            arbiter.answers.verbs.note_effects(made, view)
            if not arbiter.enforcer.apply_all(made.actions):
                return False
        return True
