"""What the database tells of the past: moves, sums and totals, for those who look back (history, the page, metrics)."""

import os
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple

from ..accounts.stretches import COMPUTING, Move, Present, Stretch, stretches_of
from ..accounts.totals import Totals
from ..clocks import boot_id, span, suspended_seconds, wall_at
from ..model import Job
from .notes import TOTALS
from .paths import DATABASE, Folder
from .reading import Reader, columns_in
from .schema import JOB_COLUMNS
from .totals import totals_of

# Numbers in one statement [SQLite, SQLITE_MAX_VARIABLE_NUMBER: 999 before 3.32].
AT_ONCE = 900


class Past(NamedTuple):
    """Jobs, by number, with the stretches in which they had GPUs, and for how long they waited for their first start."""

    jobs: list[Job]
    stretches: dict[int, list[Stretch]]
    waits: dict[int, float]


def present() -> Present:
    """Return this moment."""
    return Present(wall_at(), monotonic(), suspended_seconds())


class Chronicle(Reader):
    """A reader that also looks back. It may be kept open: `mark` tells cheaply whether anything was written."""

    def __init__(self, folder: Folder) -> None:
        """Open read-only, as Reader does."""
        self._path = folder.inside(DATABASE)
        super().__init__(folder)
        self._inode = self._inode_now()

    def is_in_place(self) -> bool:
        """Whether the path still leads to the database that is open: one that was mended is another file."""
        return self._inode_now() == self._inode

    def _inode_now(self) -> tuple[int, int] | None:
        try:
            facts = os.stat(self._path)
        except OSError:
            return None
        return facts.st_dev, facts.st_ino

    def close(self) -> None:
        """Let the database go."""
        self._db.close()

    def mark(self) -> int:
        """Return a number that is another once anybody else has committed [SQLite, PRAGMA data_version]; some µs."""
        return int(self._fetch("PRAGMA data_version", ())[0][0])

    def moves(self, job_ids: Sequence[int]) -> dict[int, list[Move]]:
        """Return the moves of jobs, each in order."""
        found: dict[int, list[Move]] = {job_id: [] for job_id in job_ids}
        mono = "mono" if "mono" in columns_in(self._db, "event") else "NULL"
        for at in range(0, len(job_ids), AT_ONCE):
            some = tuple(job_ids[at : at + AT_ONCE])
            marks = ", ".join("?" * len(some))
            sql = f"SELECT job_id, at, {mono}, to_state, why FROM event WHERE job_id IN ({marks}) ORDER BY id"
            for row in self._fetch(sql, some):
                found[row[0]].append(Move(*row))
        return found

    def since(self, since_at: float | None, user: str | None = None) -> list[Job]:
        """Return by number the jobs that have not ended, or ended since a date."""
        return self._jobs(
            f"SELECT {self._known(JOB_COLUMNS)} FROM job WHERE (? IS NULL OR ended_at IS NULL OR ended_at >= ?)"
            " AND (? IS NULL OR user = ?) ORDER BY id",
            (since_at, since_at, user, user),
        )

    def past(self, jobs: list[Job], now: Present, since_at: float | None = None) -> Past:
        """Return what jobs had, as far as it lies between a date and now."""
        here, moves = boot_id(), self.moves([job.id for job in jobs])
        stretches: dict[int, list[Stretch]] = {}
        waits: dict[int, float] = {}
        for job in jobs:
            its = moves[job.id]
            found = stretches_of(its, now, of_this_boot=job.identity.boot_id == here)
            clipped = found if since_at is None else (each.within(since_at, now.at + 1) for each in found)
            stretches[job.id] = [each for each in clipped if each is not None]
            first = next((move for move in its if move.state in COMPUTING), None)
            if first is not None:
                waits[job.id] = span((job.submitted_at, job.submitted_mono), (first.at, first.mono))
        return Past(jobs, stretches, waits)

    def latest_ended(self, most: int) -> list[Job]:
        """Return the jobs that ended last, the latest first."""
        return self._jobs(
            f"SELECT {self._known(JOB_COLUMNS)} FROM job WHERE state = 'ended' ORDER BY ended_at DESC, id DESC LIMIT ?", (most,)
        )

    def totals(self) -> Totals:
        """Return what all jobs come to, those that were forgotten, too."""
        try:
            forgotten = Totals.remembered(self.setting(TOTALS))
        except ValueError:
            forgotten = Totals()
        return forgotten.plus(totals_of(self._fetch, None, monotonic(), boot_id()))

    def states(self) -> dict[str, int]:
        """Count the jobs that have not ended, by state."""
        return dict(self._fetch("SELECT state, count(*) FROM job WHERE state != 'ended' GROUP BY state", ()))

    def granted(self) -> dict[str, int]:
        """Return how many bytes of each GPU, by UUID, are granted."""
        return dict(self._fetch("SELECT uuid, sum(bytes) FROM share GROUP BY uuid", ()))

    def arbiter_starts(self) -> int:
        """Count the arbiters that have started so far: their rows are numbered, and only old ones are forgotten."""
        return int(self._fetch("SELECT coalesce(max(id), 0) FROM arbiter", ())[0][0])

    def setting(self, name: str) -> str:
        """Return what the arbiter wrote down under a name; empty if nothing."""
        rows: list[Any] = self._fetch("SELECT value FROM setting WHERE name = ?", (name,))
        return rows[0][0] if rows else ""
