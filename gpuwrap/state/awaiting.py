"""What jobs in line wait for (`--after`), and who waits for a job.

1. What is awaited stands in the row in few words, runs of numbers (`1-2000 ok:2005`): thousands of rows may hold it.
2. All that wait for the same, the rows of a sweep above all, share one record, found by each job awaited: the end of one
   costs a look-up, however many wait for however many.
"""

from collections.abc import Callable, Collection

from ..model import Job
from ..sweeps import from_words, in_words

OK = "ok:"


def in_row(ended: Collection[int], succeeded: Collection[int]) -> str:
    """Write for a row which jobs must have ended, and which must have succeeded; what means the same is written the same."""
    return " ".join([*_runs(set(ended) - set(succeeded)), *(OK + run for run in _runs(set(succeeded)))])


def _runs(numbers: set[int]) -> list[str]:
    return in_words(sorted(numbers)).split(",") if numbers else []


def from_row(text: str) -> list[tuple[int, bool]]:
    """Read what `in_row` wrote: each job, and whether it must have succeeded."""
    return [(number, word.startswith(OK)) for word in text.split() for number in from_words(word.removeprefix(OK))]


class Awaited:
    """What some jobs in line wait for: all of it, the part that must succeed, and what has not ended yet."""

    __slots__ = ("_missing", "_told", "everything", "must_succeed", "waiting")

    def __init__(self, text: str, has_ended: Callable[[int], bool]) -> None:
        numbers = from_row(text)
        self.everything = tuple(number for number, _ in numbers)
        self.must_succeed = frozenset(number for number, must in numbers if must)
        self.waiting: dict[int, None] = {}
        """The jobs in line that wait for it."""
        self._missing = {number for number in self.everything if not has_ended(number)}
        self._told: tuple[int, ...] | None = None

    @property
    def missing(self) -> tuple[int, ...]:
        """Those that have not ended, by number; the same tuple until another ends."""
        if self._told is None:
            self._told = tuple(sorted(self._missing))
        return self._told

    def ended(self, job_id: int) -> None:
        """Note the end of a job."""
        self._missing.discard(job_id)
        self._told = None


class Awaiting:
    """Who waits for whom, kept by the mirror. Jobs come in the order of their numbers, since they wait for earlier ones."""

    def __init__(self) -> None:
        self._records: dict[str, Awaited] = {}
        self._by_job: dict[int, dict[Awaited, None]] = {}

    def clear(self) -> None:
        """Forget everything."""
        self._records.clear()
        self._by_job.clear()

    def records(self) -> list[Awaited]:
        """Return all that is awaited."""
        return list(self._records.values())

    def by(self, job: Job) -> Awaited | None:
        """Return what a job waits for; None if it is not in line, or for nothing."""
        found = self._records.get(job.after_jobs) if job.after_jobs else None
        return found if found is not None and job.id in found.waiting else None

    def of(self, job_id: int) -> list[Awaited]:
        """Return the records that name a job which had not ended when they were made."""
        return list(self._by_job.get(job_id, ()))

    def keep(self, job: Job, waits: bool, has_ended: Callable[[int], bool]) -> None:
        """Note that a job waits, or no longer does."""
        assert job.after_jobs is not None
        record = self._records.get(job.after_jobs)
        if waits:
            if record is None:
                record = self._records[job.after_jobs] = Awaited(job.after_jobs, has_ended)
                for number in record.missing:
                    self._by_job.setdefault(number, {})[record] = None
            record.waiting[job.id] = None
        elif record is not None:
            record.waiting.pop(job.id, None)
            if not record.waiting:
                self._forget(job.after_jobs, record)

    def ended(self, job_id: int) -> None:
        """Note the end of a job; who waited for it is still found by it."""
        for record in self._by_job.get(job_id, ()):
            record.ended(job_id)

    def _forget(self, text: str, record: Awaited) -> None:
        del self._records[text]
        for number in record.everything:
            records = self._by_job.get(number)
            if records is not None:
                records.pop(record, None)
                if not records:
                    del self._by_job[number]
