"""When the GPUs are looked at although nothing was reported: the more often, the more may come of it.

A look that shows what the last plan was made from is followed by no plan where that plan had settled everything, and
neither time (bounds on giving way pass) nor what is found out about strangers and leftovers could change what it says. After
`REPLAN_SECONDS` a plan is made in any case.
"""

import time
from typing import TYPE_CHECKING

from ...host.devices import Look
from ..timers import Timer

if TYPE_CHECKING:
    from ..loop import Arbiter

SAMPLE_SECONDS = 2.0
# How often the GPUs are looked at while a job waits for what no descriptor reports: strangers, memory, the driver.
WATCH_SECONDS = 1.0
LEFTOVER_SECONDS = 0.25
# How often pauses are looked after: what Ctrl-C sends to a frozen job waits as long.
PAUSED_SECONDS = 0.5
REPLAN_SECONDS = 10.0


class Sampling:
    """Sets the timer for the next look, and says what a look is followed by."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._timer: Timer | None = None
        self._planned_mono = 0.0
        self._planned_from: Look | None = None
        self._compares = False

    def arm(self) -> None:
        """Set the timer as things are now."""
        wanted = self._seconds_to_next_look()
        if self._timer is None and wanted is not None:
            self._timer = self._arbiter.timers.after(wanted, self._sample)
        elif self._timer is not None and wanted is not None and self._timer.is_later_than(wanted):
            self._timer.cancel()
            self._timer = self._arbiter.timers.after(wanted, self._sample)

    def planned(self) -> None:
        """A plan was made, and carried out."""
        self._planned_mono = time.monotonic()
        self._planned_from = self._arbiter.deciding.look

    def looked(self, now: Look) -> None:
        """A look is over: if it shows something new, a plan must follow."""
        if self._compares:
            self._compares, before = False, self._planned_from
            facts = (now.samples, now.fault, now.pending)
            if before is None or facts != (before.samples, before.fault, before.pending):
                self._arbiter.deciding.plan_from(now)

    def somebody_is_paused(self) -> bool:
        """Whether any job is paused."""
        return bool(self._arbiter.store.paused)

    def _seconds_to_next_look(self) -> float | None:
        arbiter = self._arbiter
        if arbiter.leftovers and arbiter.left_behind.is_young():
            return LEFTOVER_SECONDS
        if self.somebody_is_paused():
            return PAUSED_SECONDS
        if arbiter.store.in_line:
            return WATCH_SECONDS
        if arbiter.store.holding:
            return SAMPLE_SECONDS
        return None

    def _sample(self) -> None:
        arbiter = self._arbiter
        if self._timer is not None:
            self._timer.cancel()  # another is hung up after each step, whatever becomes of it
            self._timer = None
        arbiter.pausing.look_after()
        arbiter.reruns.look_after()
        if not arbiter.store.in_line and not self.somebody_is_paused():
            arbiter.deciding.begin_look()
        elif self._is_settled():
            self._compares = True
            arbiter.deciding.begin_look()
        else:
            self._turn.replan()

    def _is_settled(self) -> bool:
        arbiter = self._arbiter
        fresh = time.monotonic() < self._planned_mono + REPLAN_SECONDS
        views, plans = arbiter.deciding.views.values(), arbiter.deciding.plans.values()
        quiet = not arbiter.leftovers and not any(made.actions for made in plans)
        return fresh and quiet and not any(view.yielding or any(gpu.foreign != () for gpu in view.gpus) for view in views)
