"""Who follows whom: the one place that knows everybody, and in which order they come."""

import time
from collections.abc import Callable, Sequence

from ..host.devices import Devices
from ..model import Job
from ..state.paths import Folder
from ..state.settings import Settings
from ..state.store import Store
from .jobs.nested import Nested
from .loop import Arbiter


def compose(
    folder: Folder, store: Store, devices: Devices, settings: Settings, keeper_command: list[str], sim_root: str | None
) -> Arbiter:
    """Build the arbiter of a world; `keeper_command` starts its successor."""
    arbiter = Arbiter(folder, store, devices, settings, keeper_command, sim_root)
    arbiter.enforcer.at_end = at_end(arbiter)
    arbiter.seating.leader_ended = arbiter.enforcer.leader_ended
    arbiter.seating.shared, arbiter.seating.unjudged = arbiter.sweeps, arbiter.answers.unjudged
    arbiter.seating.on_leave = arbiter.survivors.let_go, arbiter.known.forget
    arbiter.ladders.resume = lambda job: ask_again(arbiter, job)
    arbiter.followers = (
        arbiter.seating,  # first: the others may ask for a seat
        arbiter.pausing,  # nobody waits for an answer longer than for being let go on
        arbiter.ladders,
        arbiter.limits,
        arbiter.enforcer,
        arbiter.ahead,
        arbiter.holding,
        arbiter.reruns,
        arbiter.lines,
        arbiter.answers.admission,
    )
    return arbiter


def at_end(arbiter: Arbiter) -> Sequence[Callable[[Job], None]]:
    """Who follows the end of a job; each is given the job as it has ended, which may still hold its GPUs."""

    def later(effect: Callable[[Job], None]) -> Callable[[Job], None]:
        return lambda job: arbiter.turn.later(lambda: effect(job))

    def told(job: Job) -> None:
        settings = arbiter.settings
        if settings["on_end"]:
            arbiter.turn.later(lambda: arbiter.ends.tell(job, settings["on_end"], settings["on_end_after"]))

    nested = Nested(arbiter.store, arbiter.enforcer.leader_ended, arbiter.answers.unjudged)
    return (
        told,  # first of what nobody waits for
        arbiter.pausing.ended,  # before survivors are looked for: nothing of it stands still
        later(arbiter.scarcity.forget),
        later(lambda job: arbiter.expectations.note(job, time.monotonic())),
        arbiter.shutdown.ended,
        arbiter.enforcer.settle,
        arbiter.memory.ended,
        arbiter.astray.forget,
        later(arbiter.reruns.clean_up),
        nested.end_first,
        arbiter.limits.ended,  # how long it stood still counts for those inside, which are still inside
        nested.move_out,
        arbiter.order.ended,
        arbiter.answers.verbs.ended,
    )


def ask_again(arbiter: Arbiter, job: Job) -> None:
    """Ask a job to end that an earlier arbiter had asked, as that did as far as can be told."""
    if job.requeue:
        arbiter.reruns.resume_eviction(job)
    elif arbiter.limits.has_passed(job):
        arbiter.limits.end(job)
    else:
        arbiter.ladders.begin(job.id, "killed")
        arbiter.killing.ask_to_end(job)
