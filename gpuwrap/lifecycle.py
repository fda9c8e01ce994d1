"""The states of a job and every move between them.

A move that is not in the table is an error, not a shrug: `after` raises, and the store guards the same move in
SQL by naming the state it expects.
"""

from enum import Enum


class JobState(Enum):
    """Where a job stands; the values are the words of `ls`, of the JSON and of the database."""

    __hash__ = object.__hash__  # each is one object; Enum's own is Python code, called at each look into a set

    WAITING = "waiting"
    HELD = "held"
    GRANTED = "granted"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    ENDED = "ended"


class Event(Enum):
    """What happens to a job."""

    __hash__ = object.__hash__

    GRANT = "grant"
    HOLD = "hold"
    RELEASE = "release"
    WITHDRAW = "withdraw"
    TAKE = "take"
    PAUSE = "pause"
    RESUME = "resume"
    SUSPEND = "suspend"
    ASK_TO_END = "ask to end"
    REQUEUE = "requeue"
    END = "end"


_S, _E = JobState, Event

MOVES: dict[tuple[JobState, Event], JobState] = {
    (_S.WAITING, _E.GRANT): _S.GRANTED,
    (_S.WAITING, _E.HOLD): _S.HELD,
    (_S.WAITING, _E.END): _S.ENDED,
    (_S.HELD, _E.RELEASE): _S.WAITING,
    (_S.HELD, _E.END): _S.ENDED,
    (_S.GRANTED, _E.TAKE): _S.RUNNING,
    (_S.GRANTED, _E.WITHDRAW): _S.WAITING,
    (_S.GRANTED, _E.END): _S.ENDED,
    (_S.RUNNING, _E.PAUSE): _S.PAUSED,
    (_S.RUNNING, _E.SUSPEND): _S.SUSPENDED,
    (_S.RUNNING, _E.ASK_TO_END): _S.STOPPING,
    (_S.RUNNING, _E.REQUEUE): _S.WAITING,
    (_S.RUNNING, _E.END): _S.ENDED,
    (_S.PAUSED, _E.RESUME): _S.RUNNING,
    (_S.PAUSED, _E.ASK_TO_END): _S.STOPPING,
    (_S.PAUSED, _E.END): _S.ENDED,
    (_S.SUSPENDED, _E.RESUME): _S.RUNNING,
    (_S.SUSPENDED, _E.ASK_TO_END): _S.STOPPING,
    (_S.SUSPENDED, _E.END): _S.ENDED,
    (_S.STOPPING, _E.REQUEUE): _S.WAITING,
    (_S.STOPPING, _E.END): _S.ENDED,
}

# In line, nothing granted.
IN_LINE = frozenset({JobState.WAITING, JobState.HELD})
# The program has been started and has not ended.
STARTED = frozenset({JobState.RUNNING, JobState.PAUSED, JobState.SUSPENDED, JobState.STOPPING})


class IllegalMove(Exception):
    """A move that the table does not have: a bug in the arbiter, never a user's mistake."""

    def __init__(self, state: JobState, event: Event) -> None:
        self.state, self.event = state, event
        super().__init__(f"a {state.value} job has no move for {event.value!r}")


def after(state: JobState, event: Event) -> JobState:
    """Say which state a job is in after an event. Raises IllegalMove."""
    try:
        return MOVES[state, event]
    except KeyError:
        raise IllegalMove(state, event) from None
