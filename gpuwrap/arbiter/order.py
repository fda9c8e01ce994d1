"""Jobs that start after others (`--after`), and jobs of which there is one at a time (`--once`).

1. A job waits only for jobs that were registered before it, for none inside which it runs and for none that waits for
   one of those: there are no cycles.
2. `ok:JOB` that did not succeed cancels the job at once, also if nobody saw how it ended; this goes on down the line.
3. What is awaited stands in the row by number; whether it has ended is looked up, so a new arbiter knows it too.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ..errors import FAILED
from ..lifecycle import JobState
from ..model import Job, ResultKind
from ..units import parse_integer
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter

OK = "ok:"
ANY = "any:"
MOST_AWAITED = 10_000
_CANCELLED = " did not succeed ("


class Order:
    """Knows who waits for whom."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._cancels = False

    def read(self, text: str, parent: Job | None) -> tuple[str, str | None]:
        """Read `7,ok:lr-*,any:3-5`: the jobs as the row has them, and why they can never be waited for, if so."""
        words: list[str] = []
        for part in text.split(","):
            prefix = next((each for each in (OK, ANY) if part.startswith(each)), "")
            found = self._named(part.removeprefix(prefix))
            if not found:
                return "", f"after {part}: no such job"
            words += [(OK if prefix == OK else "") + str(job.id) for job in found]
        if len(words) > MOST_AWAITED:
            return "", f"after {text}: more than {MOST_AWAITED} jobs"
        after = " ".join(dict.fromkeys(words))
        inside = {job.id for job in self._around(parent)}
        for job_id, must_succeed in awaited(after):
            if job_id in inside:
                return "", f"after {job_id}: it runs inside job {job_id}, which would wait for it"
            outer = next((each for each in self._awaited_along(job_id) if each in inside), None)
            if outer is not None:
                return "", f"after {job_id}: job {job_id} waits for job {outer}, inside which it runs"
            fault = self._fault(job_id) if must_succeed else None
            if fault is not None:
                return "", fault
        return after, None

    def _awaited_along(self, job_id: int) -> Iterator[int]:
        """Yield what a job waits for, and what that waits for, and so on."""
        pending, seen = [job_id], {job_id}
        while pending:
            job = self._arbiter.store.ordered.get(pending.pop())
            for each, _ in awaited(job.after_jobs or "") if job is not None else ():
                if each not in seen:
                    seen.add(each)
                    pending.append(each)
                    yield each

    def blocked(self) -> dict[int, tuple[int, ...]]:
        """Return the jobs in line that must not start yet, with those they wait for."""
        found: dict[int, tuple[int, ...]] = {}
        for job in self._arbiter.store.ordered.values():
            found |= self.awaited_by(job)
        return found

    def awaited_by(self, job: Job) -> dict[int, tuple[int, ...]]:
        """Return the same of one job: nothing if it may start."""
        missing = tuple(job_id for job_id, _ in awaited(job.after_jobs or "") if not self._has_ended(job_id))
        return {job.id: missing} if missing else {}

    def awaited_by_anybody(self) -> set[int]:
        """Return the jobs that some job in line names: how they ended is still asked for."""
        return {
            job_id for job in self._arbiter.store.ordered.values() for job_id, _ in awaited(job.after_jobs or "")
        }

    def cancel_failed(self) -> None:
        """Cancel the jobs in line that wait for the success of one that did not succeed, and those that wait for them.

        One walk in the order of their numbers does, since a job waits only for earlier ones. The end of each asks for it
        again; a walk within the walk would go as deep as the line is long.
        """
        if self._cancels:
            return
        self._cancels = True
        try:
            for _, job in sorted(self._arbiter.store.ordered.items()):
                fault = self._first_fault(job)
                if fault is not None and job.id in self._arbiter.store.ordered:
                    log("after", f"job {job.id}: {fault}")
                    self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, fault, FAILED)
        finally:
            self._cancels = False

    def _first_fault(self, job: Job) -> str | None:
        words = awaited(job.after_jobs or "")
        return next((fault for job_id, must_succeed in words if must_succeed and (fault := self._fault(job_id))), None)

    def holder(self, key: str) -> Job | None:
        """Return the job that holds a `--once` key."""
        live = self._arbiter.store.live.values()
        return next((job for job in live if job.once == key and job.state is not JobState.ENDED), None)

    def _has_ended(self, job_id: int) -> bool:
        job = self._arbiter.store.live.get(job_id)
        return job is None or job.state is JobState.ENDED

    def _fault(self, job_id: int) -> str | None:
        """Say why a job that has ended did not succeed; None if it did, or has not ended."""
        if not self._has_ended(job_id):
            return None
        job = self._arbiter.store.find(job_id)
        result = job.result if job is not None else None
        if result is None:
            return f"job {job_id} is no longer known"
        if result.kind is ResultKind.EXIT:
            return None if result.code == 0 else f"job {job_id} failed (exit {result.code})"
        if result.kind is ResultKind.SIGNAL:
            return f"job {job_id} failed (signal {result.signal})"
        cause = result.text or result.kind.value
        first = cause.partition(_CANCELLED)[2].removesuffix(")")
        if first.startswith("job "):  # it was itself cancelled for another's sake: the first cause is told, not all between
            cause = first
        return f"job {job_id}{_CANCELLED}{cause})"

    def _around(self, parent: Job | None) -> list[Job]:
        found = []
        while parent is not None:
            found.append(parent)
            parent = self._arbiter.store.find(parent.parent_id) if parent.parent_id is not None else None
        return found

    def _named(self, word: str) -> list[Job]:
        """Find jobs as verbs do: number, range, name or glob."""
        store = self._arbiter.store
        number = parse_integer(word)
        if number is not None:
            job = store.find(number) if number > 0 else None
            return [job] if job is not None else []
        first, dash, last = word.partition("-")
        if dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit() and len(word) < 30:
            low, high = int(first), min(int(last), store.next_id() - 1)
            ranged = [store.find(job_id) for job_id in range(low, min(high, low + MOST_AWAITED) + 1)]
            jobs = [job for job in ranged if job is not None]
            return [job for job in jobs if job.state is not JobState.ENDED] or jobs
        live = [job for job in store.live.values() if job.state is not JobState.ENDED and job.name is not None]
        if any(letter in word for letter in "*?["):
            return [job for job in live if fnmatchcase(job.name or "", word)]
        return [job for job in live if job.name == word] or store.latest_named(word)


def awaited(after: str) -> list[tuple[int, bool]]:
    """Read what a row says: each job, and whether it must have succeeded."""
    return [(int(word.removeprefix(OK)), word.startswith(OK)) for word in after.split()]
