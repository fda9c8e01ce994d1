"""Jobs that start after others (`--after`), and jobs of which there is one at a time (`--once`, `--once-waiting`).

1. A job waits only for jobs that were registered before it, for none inside which it runs and for none that waits for
   one of those: there are no cycles.
2. `ok:JOB` that did not succeed cancels the job at once, also if nobody saw how it ended; this goes on down the line.
3. What is awaited stands in the row by number; whether it has ended is looked up, so a new arbiter knows it too.
4. An end costs what hangs on that one job, and a view the jobs that wait: never those times the jobs they wait for.
"""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from ...errors import FAILED
from ...lifecycle import STARTED, JobState
from ...model import Job, ResultKind
from ...policy.words import signal_name
from ...state.awaiting import OK, Awaited, from_row, in_row
from ...units import parse_integer
from ..log import log

if TYPE_CHECKING:
    from ..loop import Arbiter

ANY = "any:"
MOST_AWAITED = 10_000
_CANCELLED = " did not succeed ("


class Order:
    """Knows who waits for whom."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._store = arbiter.store
        self._ended: list[int] = []

    def read(self, text: str, parent: Job | None, uid: int | None = None) -> tuple[str, str | None]:
        """Read `7,ok:lr-*,any:3-5`: the jobs as the row has them, and why they can never be waited for, if so.

        `uid`: names are those of one user's jobs; None: there is one user.
        """
        store = self._store
        found: dict[bool, dict[int, None]] = {False: {}, True: {}}
        for part in text.split(","):
            prefix = next((each for each in (OK, ANY) if part.startswith(each)), "")
            numbers = self._named(part.removeprefix(prefix), uid)
            if not numbers:
                return "", f"after {part}: no such job"
            found[prefix == OK] |= dict.fromkeys(numbers)
        if len([number for number in found[False] | found[True] if not store.has_ended(number)]) > MOST_AWAITED:
            return "", f"after {text}: more than {MOST_AWAITED} jobs"
        after = in_row(found[False], found[True])
        fault = self._goes_in_circles(after, parent)
        if fault is None:
            failed = self._first_failed(word.removeprefix(OK) for word in after.split() if word.startswith(OK))
            fault = self._fault(failed) if failed is not None else None
        return ("", fault) if fault is not None else (after, None)

    def _goes_in_circles(self, after: str, parent: Job | None) -> str | None:
        """Say which of some jobs is one around `parent`, or waits for such a one, however far along."""
        inside = {parent.id, *(outer.id for outer in self._store.around(parent))} if parent is not None else set()
        seen: set[Awaited] = set()
        for job_id, _ in from_row(after) if inside else ():
            if job_id in inside:
                return f"after {job_id}: it runs inside job {job_id}, which would wait for it"
            outer = next((each for each in self._awaited_along(job_id, seen) if each in inside), None)
            if outer is not None:
                return f"after {job_id}: job {job_id} waits for job {outer}, inside which it runs"
        return None

    def _awaited_along(self, job_id: int, seen: set[Awaited]) -> Iterator[int]:
        """Yield what a job waits for, and what that waits for, and so on, but for what was seen."""
        pending = [job_id]
        while pending:
            job = self._store.in_line.get(pending.pop())
            record = self._store.awaiting.by(job) if job is not None else None
            if record is not None and record not in seen:
                seen.add(record)
                pending += record.missing
                yield from record.missing

    def blocked(self) -> dict[int, tuple[int, ...]]:
        """Return the jobs in line that must not start yet, with those they wait for."""
        found: dict[int, tuple[int, ...]] = {}
        for record in self._store.awaiting.records():
            if record.missing:
                found |= dict.fromkeys(record.waiting, record.missing)
        return found

    def awaited_by(self, job: Job) -> dict[int, tuple[int, ...]]:
        """Return the same of one job that is in no line: nothing if it may start."""
        missing = Awaited(job.after_jobs or "", self._store.has_ended).missing
        return {job.id: missing} if missing else {}

    def awaited_by_anybody(self) -> set[int]:
        """Return the jobs that some job in line names: how they ended is still asked for."""
        return {number for record in self._store.awaiting.records() for number in record.everything}

    def ended(self, job: Job) -> None:
        """Cancel the jobs in line that wait for the success of one that did not succeed, and those that wait for them.

        Each of these ends too and comes here again, where it is noted only: a walk within the walk would go as deep as the
        line is long.
        """
        self._ended.append(job.id)
        if len(self._ended) > 1:
            return
        try:
            for job_id in self._ended:
                records = [each for each in self._store.awaiting.of(job_id) if job_id in each.must_succeed]
                fault = self._fault(job_id) if records else None
                if fault is not None:
                    self._cancel({each for record in records for each in record.waiting}, fault)
        finally:
            self._ended.clear()

    def cancel_failed(self) -> None:
        """After a restart: cancel those that wait for the success of one that has ended without."""
        for record in self._store.awaiting.records():
            text = in_row((), record.must_succeed)
            failed = self._first_failed(word.removeprefix(OK) for word in text.split())
            fault = self._fault(failed) if failed is not None else None
            if fault is not None:
                self._cancel(set(record.waiting), fault)

    def _cancel(self, job_ids: set[int], fault: str) -> None:
        for job_id in sorted(job_ids):
            job = self._store.in_line.get(job_id)
            if job is not None:
                log("after", f"job {job.id}: {fault}")
                self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, fault, FAILED)

    def _first_failed(self, runs: Iterable[str]) -> int | None:
        """Return the first of some jobs that has ended without success."""
        for run in runs:
            first, _dash, last = run.partition("-")
            failed = self._store.failed(int(first), int(last or first))
            if failed is not None:
                return failed
        return None

    def holder(self, key: str | None, *, waiting: bool, uid: int | None = None) -> Job | None:
        """Return the job (of one user) that holds a `--once` key; with `waiting` only one that has not been started does."""
        return next((job for job in self._of_key(key, uid) if not (waiting and job.state in STARTED)), None)

    def running(self, key: str | None, uid: int | None = None) -> str:
        """Return those of a key that run, as `--after` names them."""
        return ",".join(f"{ANY}{job.id}" for job in self._of_key(key, uid) if job.state in STARTED)

    def _of_key(self, key: str | None, uid: int | None) -> list[Job]:
        live = self._store.live.values() if key is not None else ()
        mine = (job for job in live if uid is None or job.uid == uid)
        return [job for job in mine if job.once == key and job.state is not JobState.ENDED]

    def _fault(self, job_id: int) -> str | None:
        """Say why a job that has ended did not succeed; None if it did, or has not ended."""
        if not self._store.has_ended(job_id):
            return None
        job = self._store.find(job_id)
        result = job.result if job is not None else None
        if result is None:
            return f"job {job_id} is no longer known"
        if result.kind is ResultKind.EXIT:
            return None if result.code == 0 else f"job {job_id} failed (exit {result.code})"
        if result.kind is ResultKind.SIGNAL:
            return f"job {job_id} failed (SIG{signal_name(result.signal or 0)})"
        cause = result.text or result.kind.value
        first = cause.partition(_CANCELLED)[2].removesuffix(")")
        if first.startswith("job "):  # it was itself cancelled for another's sake: the first cause is told, not all between
            cause = first
        return f"job {job_id}{_CANCELLED}{cause})"

    def _named(self, word: str, uid: int | None) -> list[int]:
        """Find jobs as `wait` does: number, range, name or glob. What it is does not depend on who has ended by now."""
        store = self._store
        number = parse_integer(word)
        if number is not None:
            return store.numbers(number, number)
        first, dash, last = word.partition("-")
        low, high = parse_integer(first), parse_integer(last)
        if dash and low is not None and high is not None and first.isdigit() and last.isdigit():
            return store.numbers(low, high)
        return self._called(word, uid)

    def _called(self, word: str, uid: int | None) -> list[int]:
        store = self._store
        mine = [job for job in store.live.values() if uid is None or job.uid == uid]
        live = [job for job in mine if job.state is not JobState.ENDED and job.name is not None]
        is_glob = any(letter in word for letter in "*?[")
        names = [name for name in store.names(uid) if fnmatchcase(name, word)] if is_glob else [word]
        numbers: list[int] = []
        for name in names:
            found = [job for job in live if job.name == name]
            sweeps = {job.row.sweep: None for job in found if job.row is not None}
            numbers += [job.id for job in found] + [row for sweep in sweeps for row in store.rows_named(sweep, name)]
            numbers += [] if found else store.latest_named(name, uid)
        return numbers
