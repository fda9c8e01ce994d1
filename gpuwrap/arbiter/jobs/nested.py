"""Jobs inside a job that ends: who only seemed to outlive it ends first; the others go on as if they had never been inside."""

from collections.abc import Callable, MutableMapping

from ...host import processes
from ...lifecycle import IN_LINE, STARTED
from ...model import Job
from ...state.store import Store


class Nested:
    """Follows the ends of jobs that have others inside."""

    def __init__(
        self, store: Store, leader_ended: Callable[[int], None], unjudged: MutableMapping[int, None]
    ) -> None:
        """`unjudged`: whose requests are to be judged against the machine once more."""
        self._store = store
        self._leader_ended = leader_ended
        self._unjudged = unjudged

    def end_first(self, job: Job) -> None:
        """End those inside whose leader has gone as well: we hear of it in a moment, and they were inside to their end."""
        for inner in self._store.inside(job.id):
            if inner.state in STARTED and not processes.is_same_process(inner.identity):
                self._leader_ended(inner.id)

    def move_out(self, job: Job) -> None:
        """Who waited inside waits outside now, and who outlives it holds its share there."""
        for inner in self._store.inside(job.id):
            self._store.change(inner, parent_id=job.parent_id)
            if inner.state in IN_LINE:
                self._unjudged[inner.id] = None
