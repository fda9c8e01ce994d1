"""The view of one queue, as a plan is made from it."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...host.devices import Look
from ...lifecycle import STARTED, JobState
from ...model import Bounds, Claim, Job, Order, View, Yielding
from ...policy.needs import URGENT
from ...policy.rerunning import may_be_evicted
from ...state.settings import Settings
from ...units import PRIORITY_HIGHEST, PRIORITY_STEP

if TYPE_CHECKING:
    from ..loop import Arbiter

DRIVER_OPENING = "the NVIDIA driver is being opened"
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)


def view_of(arbiter: "Arbiter", parent_id: int | None, look: Look, asking: Job | None = None) -> View | None:
    """Build the view of one queue: the outer one (None), or the one inside a job; None if nothing may start there.

    `asking` is a job of a rehearsal: it is not in line, but what others could be made to do for it is found out too.
    """
    order = Order(arbiter.settings["order"])
    view = _view_of(arbiter, parent_id, look, asking, by_need=order is not Order.ARRIVAL)
    return None if view is None else arbiter.expectations.ordered(view, order, time.monotonic())


def _view_of(arbiter: "Arbiter", parent_id: int | None, look: Look, asking: Job | None, *, by_need: bool) -> View | None:
    after, own = arbiter.order.blocked(), arbiter.left_behind.own()
    if parent_id is None:
        view = arbiter.observer.outer_view(
            look,
            arbiter.claims.others,
            arbiter.notes.drained.get(),
            arbiter.bounds,
            fault=DRIVER_OPENING if look.pending else look.fault,
            without_gpu=runs_without(arbiter.settings, look),
            yielding=_yielding(arbiter, asking, by_need=by_need),
            after=after,
            own=own,
            patience=arbiter.patience.left(),
        )
        view = replace(view, neighbours=_neighbours(arbiter.claims.peek, view))
        return view if arbiter.crowd is None else replace(view, people=arbiter.crowd.people(view.jobs))
    parent = arbiter.store.live.get(parent_id)
    if parent is None or parent.state not in STARTED or parent.state in _PAUSED:
        return None  # requests inside a paused job are passed over
    return replace(arbiter.observer.inner_view(parent, look, arbiter.bounds), after=after, own=own)


def _neighbours(peek: Callable[[str], Claim | None], view: View) -> dict[str, Claim]:
    """Return who has claimed the GPUs on which strangers compute, as far as no job of ours came across the claim."""
    unknown = [gpu.uuid for gpu in view.gpus if gpu.foreign and gpu.claim is None]
    return {uuid: claim for uuid in unknown if (claim := peek(uuid)) is not None}


def runs_without(settings: Settings, look: Look | None) -> bool:
    """Whether there is no driver, and the setting `without_gpu` has what asks for GPUs run all the same."""
    lacks = look is not None and look.fault is not None and not look.pending and not look.samples
    return lacks and settings["without_gpu"] == "run"


def bounds_of(settings: Settings) -> Bounds:
    """Return the limits that the policy keeps."""
    return Bounds(
        keep_free_bytes=settings["keep_free"],
        jobs_per_gpu=settings["jobs_per_gpu"] or None,
        min_run_seconds=settings["min_run"],
        min_return_seconds=settings["min_return"],
        # For less than it must run afterwards a pause is not worth it, unless so little is allowed anyway.
        least_pause_seconds=min(settings["min_return"], settings["pause_limit"] / 2),
        min_run_among_equals_seconds=settings["min_run_among_equals"],
        due_after_seconds=settings["due_after"],
    )


def _yielding(arbiter: "Arbiter", asking: Job | None, *, by_need: bool) -> dict[int, Yielding]:
    """Find out what jobs could be made to do, where one that waits outranks them by a step, and for the paused ones.

    `by_need`: one of equal priority may do so, too, to those that may be run again.
    """
    holding = [job for job in arbiter.store.holding.values() if job.parent_id is None]
    if not holding:
        return {}
    waiting = [
        job.priority for job in arbiter.store.in_line.values() if job.parent_id is None and job.state is JobState.WAITING
    ]
    equals = {*waiting, *([asking.priority] if asking else [])}
    highest = max(equals, default=None)
    if arbiter.crowd is not None and highest is not None and highest >= URGENT:
        highest = PRIORITY_HIGHEST + PRIORITY_STEP  # it may pass others whatever they typed: the plan says whom
    back = [job for job in holding if job.state in _PAUSED and job.yields_to is not None]

    def is_outranked(job: Job) -> bool:
        if highest is not None and highest >= job.priority + PRIORITY_STEP:
            return True
        if by_need and may_be_evicted(job) and job.priority in equals:
            return True
        mine = {share.uuid for share in job.shares}
        above = (each for each in back if each.priority >= job.priority + PRIORITY_STEP)
        return any(share.uuid in mine for each in above for share in each.shares)

    return {
        job.id: arbiter.pausing.yielding(job)
        for job in holding
        if job.state in _PAUSED or (job.state is JobState.RUNNING and is_outranked(job))
    }
