"""Which claims our grants need: bound before a grant is written, let go of once no row needs them."""

from ...model import Job, Share
from ...state.store import Store
from ..turn import Turn
from .claims import Claims


class Holding:
    """Keeps the claims as the rows say."""

    def __init__(self, turn: Turn, store: Store, claims: Claims) -> None:
        self._turn = turn
        self._store = store
        self._claims = claims
        self._for: dict[int, tuple[Share, ...]] = {}
        """What each job holds, as far as claims have followed."""
        self.keeps_for_the_line = False
        """Whether what was claimed is kept while anybody is in line: in the machine's queue, which goes before own ones."""

    def take(self, job_id: int, shares: tuple[Share, ...]) -> bool:
        """Claim all GPUs of a grant, or none; false if another world has one."""
        before = self._claims.held
        for share in shares:
            if not self._claims.take(share.uuid):
                for uuid in self._claims.held - before:
                    self._claims.release(uuid)
                return False
        self._for[job_id] = shares
        return True

    def stand(self) -> bool:
        """Claim the GPUs of all grants that stand; false if another world has one of them."""
        self._for |= {job.id: job.shares for job in self._store.holding.values()}
        return all([self._claims.take(uuid) for uuid in self._needed() - self._claims.held])

    def follow(self, job_id: int, job: Job | None) -> None:
        """Let go of what was claimed for a job and its row does not need; nobody waits for that."""
        shares = job.shares if job is not None else ()
        if job is not None and self._for.get(job_id, ()) == shares:
            if self.keeps_for_the_line and not self._store.in_line:
                self._turn.later(self.let_go)
            return
        self._for.pop(job_id, None)
        if shares:
            self._for[job_id] = shares
        self._turn.later(self.let_go)

    def let_go(self) -> None:
        """Release every claim that no grant needs, nor the line."""
        if self.keeps_for_the_line and self._store.in_line:
            return
        for uuid in self._claims.held - self._needed():
            self._claims.release(uuid)
        if not self._store.in_line:
            self._claims.forget_unwanted()

    def _needed(self) -> set[str]:
        return {share.uuid for job in self._store.holding.values() for share in job.shares}
