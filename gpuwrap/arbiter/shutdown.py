"""What ends because the machine goes down is lost with it, and not what it looks like from here: ended by a signal, cancelled.

PID 1 is asked, when something has ended in a way that a shutdown also ends things, and only then.
"""

from collections import deque
from collections.abc import Callable, Collection

from ..host import bus
from ..model import Job, Result, ResultKind
from ..state.store import Store
from .errands import Errands
from .turn import Turn

RESTARTED = "machine restarted"
_QUESTION = ("--system", "get-property", *bus.MANAGER, "SystemState")
_STOPPING = 's "stopping"'
_SIGNALS = (1, 9, 15)
MOST_DOUBTS = 1000


class Shutdown:
    """Knows whether the machine goes down."""

    def __init__(self, turn: Turn, store: Store, errands: Errands) -> None:
        self._turn = turn
        self._store = store
        self._errands = errands
        self.has_begun = False
        self._doubts: deque[int] = deque(maxlen=MOST_DOUBTS)
        self._is_asked = False

    def judge(self, result: Result) -> Result:
        """Return how a job has ended that seems to have ended so."""
        return Result(ResultKind.LOST, text=RESTARTED) if self.has_begun and _is_doubtful(result) else result

    def ended(self, job: Job) -> None:
        """A job has ended: if that may have been the machine's end, find out."""
        if job.result is not None and _is_doubtful(job.result) and bus.is_there():
            self._doubts.append(job.id)
            self._turn.later(self._ask_once)

    def ask(self, then: Callable[[bool | None], None]) -> None:
        """Find out, and call back: whether the machine goes down, None if nobody can say. What ended so is corrected."""
        doubts = set(self._doubts)
        self._errands.ask(_QUESTION, lambda answer: then(self._heard(answer, doubts)))

    def _ask_once(self) -> None:
        if self._doubts and not self._is_asked:
            self._is_asked = True
            self.ask(self._asked)

    def _asked(self, goes_down: bool | None) -> None:
        self._is_asked = False
        if goes_down is not None:
            self._ask_once()  # what has ended meanwhile

    def _heard(self, answer: str | bus.Refused, doubts: Collection[int]) -> bool | None:
        if isinstance(answer, bus.Refused):
            return None
        self.has_begun = answer == _STOPPING
        if not self.has_begun:
            self._doubts = deque([job_id for job_id in self._doubts if job_id not in doubts], MOST_DOUBTS)
            return False
        for job in map(self._store.find, self._doubts):
            if job is not None and job.result is not None:
                self._store.change(job, result=self.judge(job.result))
        self._doubts.clear()
        return True


def _is_doubtful(result: Result) -> bool:
    if result.kind is ResultKind.SIGNAL:
        return result.signal in _SIGNALS and result.text is None
    return result.kind in (ResultKind.UNKNOWN, ResultKind.CANCELLED)
