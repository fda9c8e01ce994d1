"""Killing: a job, what it left behind, and what lost its way.

1. Asking to end is a sequence: the polite signal, SIGCONT, a deadline, SIGKILL to all that is known of the job, SIGCONT.
   Who is asked beside the leader: see `asking`.
2. A job that runs on a terminal kept by what another left behind (its tmux server) is no part of that, and would be hung
   up: such a server is left alone, unless it holds the other's GPUs, which would never be free else.
3. Signals go out after the batch that recorded why is committed, and only through a pidfd of the recorded identity.
"""

import signal
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ...host import processes
from ...lifecycle import STARTED, Event, JobState
from ...model import Identity, Job, ResultKind
from ..kin.walk import by_pid, identity_of
from ..log import log
from ..seeing.frozen import and_frozen

if TYPE_CHECKING:
    from ..loop import Arbiter

KILL_SECONDS = 10.0
SPARED = "had ended; what it left behind has other jobs on its terminals and is left alone"


class Killing:
    """Ends jobs by signals."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._ladders = arbiter.ladders
        self._members, self._containers, self._known = arbiter.members, arbiter.containers, arbiter.known
        self._store = arbiter.store

    def kill(self, job: Job, number: int | None, by: str) -> str:
        """End a job, or send it a signal; returns what was done, for the one who asked."""
        if job.state is JobState.ENDED:
            return self._kill_leftovers(job, number)
        if job.state not in STARTED:
            self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, f"cancelled by {by}")
            return "cancelled while waiting"
        if number is not None and number not in (signal.SIGTERM, signal.SIGKILL):
            self._turn.do(lambda: signal_all([job.identity], number, job.uid))
            return f"sent {signal.Signals(number).name.removeprefix('SIG')}{self._containers.beyond(job)}"
        left = self._containers.beyond(job)
        why = f"killed by {by}{and_frozen(job)}"
        self._ladders.begin(job.id, why)
        if job.requeue:
            job = self._arbiter.reruns.forget_eviction(job)
        if job.state is JobState.PAUSED:
            self._arbiter.pausing.let_go(job)
        if job.state is not JobState.STOPPING:
            job = self._store.move(job, Event.ASK_TO_END, why)
        if number == signal.SIGKILL:
            self._turn.do(lambda: self._kill_all(job.id))
            return f"killed (KILL){left}"
        self.ask_to_end(job)
        return f"asked to end (TERM), KILL in {KILL_SECONDS:.0f} s{left}"

    def ask_to_end(self, job: Job) -> None:
        """Start the sequence that ends a running job, or start it again after a restart."""
        self.kill_within(job.id, self._arbiter.asking.begin(job, ((signal.SIGTERM, KILL_SECONDS),)))

    def send(self, job: Job, number: int) -> None:
        """Signal a job's leader once the batch is committed."""
        self._turn.do(lambda: signal_all([job.identity], number, job.uid))

    def kill_within(self, job_id: int, seconds: float) -> None:
        """See that everything of a job is killed after so long, unless that is due earlier already."""
        self._ladders.kill_within(job_id, seconds, lambda: self._kill_all(job_id))

    def _kill_leftovers(self, job: Job, number: int | None) -> str:
        identities = self._members.without_others(job, self._known.of(job.id).processes.values())
        if not identities:
            return SPARED
        if number is not None and number != signal.SIGTERM:
            self._turn.do(lambda: signal_all(identities, number, job.uid))
            return _sent(number, identities) + self._containers.beyond(job)
        self._turn.do(lambda: signal_all(identities, signal.SIGTERM, job.uid))
        if not self._ladders.is_due(job.id):
            self.kill_within(job.id, KILL_SECONDS)
        pids = ", ".join(str(identity.pid) for identity in identities if processes.may_signal(identity.pid, job.uid))
        asked = f"asked what it left behind to end (TERM to pid {pids}), KILL in {KILL_SECONDS:.0f} s" if pids else "had ended"
        return asked + self._containers.beyond(job)

    def kill_strays(self, job: Job, number: int | None) -> str | None:
        """End what a job that let go of its GPUs left running (an ssh-agent, a tmux); None if there is nothing.

        Its marker in their environment is all that still links them to it, so this reads every process once.
        """
        strays = [identity_of(job, stat) for stat in self._arbiter.links.marked(job)]
        if not strays or job.identity.boot_id != processes.boot_id():
            return None
        strays = self._members.without_others(job, strays)
        if not strays:
            return SPARED
        first = number if number is not None else signal.SIGTERM
        self._turn.do(lambda: signal_all(strays, first, job.uid))
        if number is None:
            without_others = self._members.without_others
            kill = signal.SIGKILL
            self._timers.after(KILL_SECONDS, lambda: signal_all(without_others(job, strays), kill, job.uid))
        return _sent(first, strays)

    def _kill_all(self, job_id: int) -> None:
        """SIGKILL the leader and everything known to be the job's."""
        job = self._store.live.get(job_id)
        seat = self._seats.get(job_id)
        if job is None or seat is None:
            return
        if job.stub and job.state is not JobState.ENDED:
            self._arbiter.reruns.kill_tree(job_id, 1)
            return
        found = by_pid(job, self._members.tree(job))
        leader = []
        if job.state is JobState.ENDED:
            self._known.of(job.id).processes |= found
        else:
            self._arbiter.orphans.look_below(job.id)  # who cannot be killed at once is a survivor
            leader = [found.pop(job.identity.pid, job.identity)]
        signal_all([*leader, *self._members.without_others(job, found.values())], signal.SIGKILL, job.uid)


def _sent(number: int, left: Iterable[Identity]) -> str:
    pids = ", ".join(str(identity.pid) for identity in left)
    return f"had ended; sent {signal.Signals(number).name.removeprefix('SIG')} to what it left behind (pid {pids})"


def signal_all(identities: list[Identity], number: int, owner: int | None) -> None:
    """Signal processes as their job's owner could; ask a stopped one to go on, or it would keep the signal for later."""
    for identity in identities:
        try:
            if processes.send_signal(identity, number, owner) and number != signal.SIGSTOP and number != signal.SIGTSTP:
                processes.send_signal(identity, signal.SIGCONT, owner)
        except PermissionError:
            log("signal", f"not permitted to signal pid {identity.pid}")
