"""`--dry-run`: what would be if a job were asked for now. Nothing is changed, and nobody gives way.

It is answered after the next plan; if that could not be committed, all the same.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ...clocks import wall_at
from ...model import Evict, Grant, Job, Pause
from ...policy.effects import effect
from ...policy.plan import plan
from ...policy.reasons import Teller
from ...policy.words import clock_of
from ..bell.socket import Connection
from ..jobs.enforce import gpu_words
from ..seeing.views import view_of
from ..turn import Ledger
from .table import Values

if TYPE_CHECKING:
    from ..loop import Arbiter
    from .answers import Answers



class Rehearsals:
    """Remembers who asks what would be."""

    def __init__(self, arbiter: "Arbiter", answers: "Answers") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._answers = answers
        self.asked: Ledger[Connection, tuple[Job, float | None]] = Ledger(arbiter.turn)
        """For which job, and for how long it would wait."""

    def rehearse(self, connection: Connection, values: Values) -> None:
        """Somebody asks. Raises Refused."""
        if (held := self._answers.key_held(connection, values)) is not None:
            self._turn.say(connection, "done", text=f"would not start: {held}")
            return
        if self._answers.machine_unknown(connection, "rehearse", values):
            return
        job = self._answers.admission.read_job(connection, values, "rehearsal")
        self.asked[connection] = job, values.get("wait")
        self._turn.replan()

    def gone(self, connection: Connection) -> None:
        """Who asked has gone."""
        self.asked.forget(connection)

    def planned(self) -> None:
        """A plan was made, or lost: answer from the look that there is."""
        for connection, (job, patience) in self.asked.take():
            self._turn.say(connection, "done", text=rehearsed(self._arbiter, job, patience))


def rehearsed(arbiter: "Arbiter", job: Job, patience: float | None) -> str:
    """Say what the next plan would do for a job that waits no longer than `patience`."""
    assert arbiter.deciding.look is not None
    job = replace(job, id=arbiter.store.next_id())
    view = view_of(arbiter, job.parent_id, arbiter.deciding.look, job)
    if view is None:
        return f"would wait for job {job.parent_id}, inside which it runs"
    waits = dict(view.patience) if patience is None else {**view.patience, job.id: patience}
    view = replace(view, jobs=(*view.jobs, job), after={**view.after, **arbiter.order.awaited_by(job)}, patience=waits)
    now_mono = time.monotonic()
    view = arbiter.expectations.ordered(view, view.order, now_mono)
    made = plan(view, now_mono)
    for action in made.actions:
        if isinstance(action, Grant) and action.job_id == job.id:
            return f"would start now on {gpu_words(action.shares)}"
    if any(isinstance(action, Evict) and action.newcomer_id == job.id for action in made.actions):
        return f"would start as soon as others have ended: it {effect(made, job.id, view, clock_of(now_mono, wall_at()))}"
    if any(isinstance(action, Pause) and action.newcomer_id == job.id for action in made.actions):
        return f"would start now: it {effect(made, job.id, view, clock_of(now_mono, wall_at()))}"
    waits_for = Teller(view, now_mono, wall_at()).sentence(made.reasons[job.id], job)
    return f"would not start: it waits for {waits_for}" if patience == 0 else f"would wait for {waits_for}"
