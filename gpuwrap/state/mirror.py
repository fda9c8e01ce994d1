"""The live jobs in memory: those in line or holding something, and the parts of them that are asked for all the time.

What a batch changes is remembered as it was before: a batch that cannot be committed is put back without asking the disk,
which may be what fails.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from ..lifecycle import IN_LINE, JobState
from ..model import Job, Request
from .awaiting import Awaiting


class Known(NamedTuple):
    """What memory holds: the live jobs by number, the notes, and the highest number that a job was given."""

    live: Mapping[int, Job]
    notes: Mapping[str, str]
    last_id: int


class Jobs(Protocol):
    """What may be asked of the live jobs: the mirror, and the store, which shows it."""

    @property
    def live(self) -> Mapping[int, Job]: ...
    @property
    def in_line(self) -> Mapping[int, Job]: ...
    @property
    def holding(self) -> Mapping[int, Job]: ...
    @property
    def inside(self) -> Callable[[int], list[Job]]: ...
    @property
    def family(self) -> Callable[[Job], dict[int, Job]]: ...
    @property
    def around(self) -> Callable[[Job], Iterator[Job]]: ...
    @property
    def is_inside(self) -> Callable[[int, int], bool]: ...


class Mirror:
    """What the database says of live jobs, and its notes; the store alone changes it, with what it has written.

    `in_line`, `holding` and `paused` are parts of `live` (a job without GPUs may be paused, too); `awaiting` has those in line
    with --after, and `nested` those inside a job, by that job's number, so that the end of a job costs what hangs on it and
    nothing of the line.
    """

    def __init__(self) -> None:
        self.live: dict[int, Job] = {}
        self.in_line: dict[int, Job] = {}
        self.holding: dict[int, Job] = {}
        self.paused: dict[int, Job] = {}
        self.awaiting = Awaiting()
        self.nested: dict[int, dict[int, Job]] = {}
        self.notes: dict[str, str] = {}
        self.last_id = 0
        """The highest number that a job was given, ended or not."""
        self._last_id_before = 0
        self._before: dict[int, Job | None] = {}
        self._notes_before: dict[str, str | None] = {}

    def known(self) -> Known:
        """Return all of it."""
        return Known(self.live, self.notes, self.last_id)

    def fill(self, known: Known) -> None:
        """Hold exactly this, as it was committed; the jobs by number."""
        jobs, self.notes, self.last_id = list(known.live.values()), dict(known.notes), known.last_id
        for part in (self.live, self.in_line, self.holding, self.paused, self.nested):
            part.clear()
        self.awaiting.clear()
        for job in jobs:
            self.put(job)
        self.committed()

    def touched(self) -> list[int]:
        """Return which jobs were changed since the last commit."""
        return list(self._before)

    def committed(self) -> None:
        """What was changed so far stands."""
        self._before.clear()
        self._notes_before.clear()
        self._last_id_before = self.last_id

    def undo(self) -> None:
        """Put back what was changed since the last commit."""
        if not self._before and not self._notes_before:
            return
        jobs = {**self.live, **self._before}
        notes = {**self.notes, **self._notes_before}
        self.fill(
            Known(
                {number: job for number, job in sorted(jobs.items()) if job is not None},
                {name: value for name, value in notes.items() if value is not None},
                self._last_id_before,
            )
        )

    def put_note(self, name: str, value: str | None) -> None:
        """Take in a note as it is now; None if there is none any more."""
        self._notes_before.setdefault(name, self.notes.get(name))
        if value is None:
            self.notes.pop(name, None)
        else:
            self.notes[name] = value

    def put(self, job: Job) -> None:
        """Take in a job as it is now."""
        before = self.live.get(job.id)
        self._before.setdefault(job.id, before)
        self.last_id = max(self.last_id, job.id)
        if before is None:
            job = job.changed(request=_first_equal(job.request))
        lives = job.state is not JobState.ENDED or bool(job.shares)
        if before is not None and before.parent_id is not None and before.parent_id != job.parent_id:
            self._keep_nested(before, before.parent_id, belongs=False)
        _keep(self.live, job, lives)
        _keep(self.in_line, job, job.state in IN_LINE)
        _keep(self.holding, job, bool(job.shares))
        _keep(self.paused, job, job.state in (JobState.PAUSED, JobState.SUSPENDED))
        if job.after_jobs:
            self.awaiting.keep(job, job.state in IN_LINE, self.has_ended)
        if job.state is JobState.ENDED and before is not None and before.state is not JobState.ENDED:
            self.awaiting.ended(job.id)
        if job.parent_id is not None:
            self._keep_nested(job, job.parent_id, belongs=lives)

    def has_ended(self, job_id: int) -> bool:
        """Whether a job that was registered has ended."""
        job = self.live.get(job_id)
        return job is None or job.state is JobState.ENDED

    def inside(self, job_id: int) -> list[Job]:
        """Return the live jobs directly inside a job."""
        return list(self.nested.get(job_id, {}).values())

    def family(self, job: Job) -> dict[int, Job]:
        """Return a job and the live ones inside it, however deep, by number; the outer ones first."""
        found, pending = {job.id: job}, [job.id]
        for outer_id in pending:  # which grows
            inner = self.nested.get(outer_id, {})
            found |= inner
            pending += inner
        return found

    def around(self, job: Job) -> Iterator[Job]:
        """Yield the live jobs inside which a job is, the nearest first."""
        return around(self.live, job)

    def is_inside(self, job_id: int, outer_id: int) -> bool:
        """Whether a live job is another, or inside it."""
        job = self.live.get(job_id)
        return job_id == outer_id or (job is not None and any(outer.id == outer_id for outer in self.around(job)))

    def _keep_nested(self, job: Job, parent_id: int, *, belongs: bool) -> None:
        jobs = self.nested.setdefault(parent_id, {})
        _keep(jobs, job, belongs)
        if not jobs:
            del self.nested[parent_id]


def around(live: Mapping[int, Job], job: Job) -> Iterator[Job]:
    """Yield those of some jobs inside which a job is, the nearest first."""
    outer = live.get(job.parent_id) if job.parent_id is not None else None
    while outer is not None:
        yield outer
        outer = live.get(outer.parent_id) if outer.parent_id is not None else None


@lru_cache(maxsize=1024)
def _first_equal(request: Request) -> Request:
    """Return one object for all equal requests: in a long line most are, and a plan knows them by it."""
    return request


def _keep(jobs: dict[int, Job], job: Job, belongs: bool) -> None:
    if belongs:
        jobs[job.id] = job
    else:
        jobs.pop(job.id, None)
