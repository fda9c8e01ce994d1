"""Every SQL statement of the arbiter, the only writer, and the only importer of sqlite3; what verbs read is in `reading`.

1. A job's state changes only through `move`, which names the state it expects and checks the row count.
   What is written stands in the mirror at once; SQLite is told at the end of the batch, in order, and before it is asked.
2. The arbiter is the only writer while it lives; no transaction spans a wait, but for the millisecond in which an offer may
   be answered; every write is BEGIN IMMEDIATE, since a deferred one that turns into a write fails at once whatever the
   timeout [SQLite, BUSY_SNAPSHOT].
3. The mirror of the live rows (`mirror`) is put back as it was after a failed commit, so that memory never runs ahead of what
   was written. It is right even where the disk is not: a database that is gone or broken is written anew from it (`disk`).
4. synchronous=NORMAL: consistent after power loss, though the last commits may be missing; every job is dead by then,
   since the boot id has changed.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain
from time import monotonic
from typing import Any

from ..accounts.totals import Totals
from ..clocks import boot_id, wall_at
from ..errors import StoreError
from ..lifecycle import Event, IllegalMove, JobState, after
from ..model import Job, Share
from ..restarts import GAVE_WAY
from .disk import Disk, in_memory, read_known
from .mirror import Mirror
from .paths import DATABASE, Folder
from .reading import Translated
from .rows import PastRow, columns_of, job_from_row, row_from_job, shares_from_text
from .schema import JOB_COLUMNS, LATEST_NAMED
from .totals import totals_of

_ARBITER_ROWS_KEPT = 20


class Store:
    """The arbiter's connection: reads and writes."""

    def __init__(self, folder: Folder) -> None:
        """Open the database of a state folder, made on first use. Raises StoreError."""
        self._folder = folder
        self._mirror = Mirror()
        self._untold: list[tuple[str, tuple[Any, ...], bool]] = []
        self.live, self.in_line = self._mirror.live, self._mirror.in_line
        self.holding, self.paused, self.awaiting = self._mirror.holding, self._mirror.paused, self._mirror.awaiting
        self.has_ended = self._mirror.has_ended
        self.has_written = False
        """Whether there was anything to write in the batch that was committed last."""
        self.nested, self.inside = self._mirror.nested, self._mirror.inside
        self.touched: list[int] = []
        """Which jobs the last batch has written, committed or not."""
        self.family, self.around, self.is_inside = self._mirror.family, self._mirror.around, self._mirror.is_inside
        self._disk = Disk(folder)
        self._db = self._disk.open()
        self.is_adrift = False
        """The disk has been given up: what is written stays in memory."""
        with Translated("open"):
            self._mirror.fill(read_known(self._db))
        self._disk.note()

    def close(self) -> None:
        """Close; the last connection folds the WAL back into the database."""
        self._db.close()

    def is_in_place(self) -> bool:
        """Whether the path still leads to the open files, with all that was written: writes to a deleted one succeed [run]."""
        return self.is_adrift or self._disk.is_in_place()

    def mend(self) -> bool:
        """Have on the disk again what memory holds; false if nothing lacked there. Called while nothing is being written.

        Raises StoreError if the disk refuses: then nothing more can be written until this succeeds.
        """
        self._db.close()  # what it alone still has is folded back, where that can be
        self._db, is_anew = self._disk.mended(self._mirror.known())
        return is_anew

    def give_disk_up(self) -> None:
        """Go on in memory: nothing of what follows outlives us."""
        self._db = in_memory(self._mirror.known())
        self.is_adrift = True

    def batch(self) -> "Batch":
        """Make everything inside one transaction, begun by its first write; the mirror follows what was committed.

        Raises StoreError, with nothing written, if the disk or the database refuses.
        """
        return Batch(self)

    def commit(self) -> None:
        """Commit what this batch has written. Raises StoreError."""
        self.write_down()
        self.has_written = self._db.in_transaction
        if self.has_written:
            with Translated("write"):
                self._db.execute("COMMIT")
        self.touched = self._mirror.touched()
        self._mirror.committed()

    def undo(self) -> None:
        """Forget what this batch has written."""
        self._untold.clear()
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        self.touched = self._mirror.touched()
        self._mirror.undo()

    def register(self, job: Job) -> Job:
        """Write a new job (its id is ignored) and return it with its number."""
        self.write_down()
        sql = f"INSERT INTO job ({JOB_COLUMNS}) VALUES (NULL{', ?' * (JOB_COLUMNS.count(',') - 1)}, NULL)"
        with Translated("write"):
            self._begin()
            number = self._db.execute(sql, row_from_job(job)).lastrowid
        assert number is not None
        job = job.changed(id=number)
        self._record(job.id, None, job.state, "registered")
        self._mirror.put(job)
        return job

    def find_key(self, key: str) -> Job | None:
        """Return the job registered under a key, ended or not."""
        rows = self._read("SELECT id FROM job WHERE key = ?", (key,))
        return self.find(rows[0][0]) if rows else None

    def find(self, job_id: int) -> Job | None:
        """Return a job by number, ended or not; one whose grant is over with the GPUs it had."""
        job = self.live.get(job_id)
        if job is not None:
            return job
        rows = self._read(f"SELECT {JOB_COLUMNS} FROM job WHERE id = ?", (job_id,))
        return job_from_row(rows[0], shares_from_text(rows[0][-1])) if rows else None

    def numbers(self, first: int, last: int) -> list[int]:
        """Return which numbers from `first` to `last` are those of jobs, ended or not."""
        return [row[0] for row in self._read("SELECT id FROM job WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))]

    def failed(self, first: int, last: int) -> int | None:
        """Return the first job from `first` to `last` that has ended without success."""
        rows = self._read(
            "SELECT id FROM job WHERE id BETWEEN ? AND ? AND state = 'ended'"
            " AND (result_kind IS NOT 'exit' OR result_code IS NOT 0) ORDER BY id LIMIT 1",
            (first, last),
        )
        return int(rows[0][0]) if rows else None

    def latest_named(self, name: str, uid: int | None = None) -> list[int]:
        """Return the latest job of a name (of one user), ended or not, if any; of a sweep all rows of that name."""
        table = "job" if uid is None else f"(SELECT * FROM job WHERE uid = {int(uid)})"
        return [row[0] for row in self._read(LATEST_NAMED.format("id", table), (name, name))]

    def names(self, uid: int | None = None) -> list[str]:
        """Return the names of all jobs (of one user), ended or not, each once."""
        sql = "SELECT DISTINCT name FROM job WHERE name IS NOT NULL AND (? IS NULL OR uid = ?)"
        return [row[0] for row in self._read(sql, (uid, uid))]

    def rows_named(self, sweep: int, name: str) -> list[int]:
        """Return the rows of a sweep that have a name, ended or not."""
        rows = self._read("SELECT id FROM job WHERE sweep = ? AND name = ? ORDER BY id", (sweep, name))
        return [row[0] for row in rows]

    def move(self, job: Job, event: Event, why: str, **changes: Any) -> Job:
        """Move a job, guarded by the state it is in, and write the event. Raises IllegalMove."""
        state = after(job.state, event)
        moved = job.changed(state=state, **changes)
        columns = {"state": state.value} | columns_of(changes)
        known = self.live.get(job.id)
        if known is None or known.state is not job.state:
            raise IllegalMove(job.state, event)
        sql = f"UPDATE job SET {' = ?, '.join(columns)} = ? WHERE id = ? AND state = ?"
        self._write(sql, (*columns.values(), job.id, job.state.value), guarded=True)
        self._record(job.id, job.state, state, why)
        self._mirror.put(moved)
        return moved

    def grant(self, job: Job, shares: tuple[Share, ...], why: str) -> Job:
        """Move a waiting job to granted, with its grant."""
        granted = self.move(job, Event.GRANT, why, shares=shares, granted_mono=monotonic())
        self._write_shares(job.id, shares)
        return granted

    def shrink(self, job: Job, shares: tuple[Share, ...]) -> Job:
        """Let a job keep less of its grant."""
        smaller = self.release(job)
        self._write_shares(job.id, shares)
        smaller = smaller.changed(shares=shares)
        self._mirror.put(smaller)
        return smaller

    def release(self, job: Job) -> Job:
        """End a job's grant: nothing of it holds a GPU any more."""
        if job.shares:
            self._write("DELETE FROM share WHERE job_id = ?", (job.id,))
        freed = job.changed(shares=())
        self._mirror.put(freed)
        return freed

    def change(self, job: Job, **changes: Any) -> Job:
        """Change what is not the state: priority, peak and the like."""
        columns = columns_of(changes)
        self._write(f"UPDATE job SET {' = ?, '.join(columns)} = ? WHERE id = ?", (*columns.values(), job.id))
        changed = job.changed(**changes)
        self._mirror.put(changed)
        return changed

    def record_arbiter(self, pid: int, by_keeper: bool) -> None:
        """Write down that an arbiter started."""
        self._write(
            "INSERT INTO arbiter (started_at, mono, boot_id, pid, by_keeper) VALUES (?, ?, ?, ?, ?)",
            (wall_at(), monotonic(), boot_id(), pid, int(by_keeper)),
        )
        self._write(
            "DELETE FROM arbiter WHERE id <= (SELECT max(id) FROM arbiter) - ?", (_ARBITER_ROWS_KEPT,)
        )

    def keeper_starts_within(self, seconds: float) -> int:
        """Count the arbiters that keepers started so short a time ago."""
        since = boot_id(), monotonic() - seconds
        rows = self._read("SELECT count(*) FROM arbiter WHERE by_keeper AND boot_id = ? AND mono >= ?", since)
        return int(rows[0][0])

    def ended_within(self, seconds: float) -> set[int]:
        """Return the jobs that ended so short a time ago, in this boot."""
        return {row[0] for row in self._read(
            "SELECT id FROM job WHERE boot_id = ? AND ended_mono > ?", (boot_id(), monotonic() - seconds)
        )}  # fmt: skip

    def learned_peak(self, fingerprint: str) -> int | None:
        """Return the peak use on one GPU that was seen of a command, None if it was never seen."""
        rows = self._read("SELECT bytes FROM peak WHERE fingerprint = ?", (fingerprint,))
        return int(rows[0][0]) if rows else None

    def learn_peak(self, fingerprint: str, size: int) -> None:
        """Remember a command's peak use on one GPU."""
        self._write(
            "INSERT INTO peak (fingerprint, bytes, at) VALUES (?, ?, ?)"
            " ON CONFLICT (fingerprint) DO UPDATE SET bytes = excluded.bytes, at = excluded.at",
            (fingerprint, size, wall_at()),
        )

    def paused_seconds_since(self, job_ids: Sequence[int], since_mono: float) -> float:
        """Return for how long one of some jobs of this boot was paused since a moment, the present pause included."""
        marks = ", ".join("?" * len(job_ids))
        rows = self._read(f"SELECT job_id, mono, to_state FROM event WHERE job_id IN ({marks}) ORDER BY id", job_ids)
        paused: set[int] = set()
        total, begun = 0.0, since_mono
        for job_id, moment, state in rows:
            if paused:
                total += max(0.0, moment - max(begun, since_mono))
            begun = moment
            (paused.add if state in ("paused", "suspended") else paused.discard)(job_id)
        return total + (max(0.0, monotonic() - max(begun, since_mono)) if paused else 0.0)

    def past_runs(self, most: int) -> list[PastRow]:
        """Return how long the jobs ran that ended last, the first of them first."""
        rows = self._read(
            "SELECT user, name, cwd, fingerprint, gpus, sweep,"
            " max(0, coalesce(ended_mono - started_mono, ended_at - started_at)), max(0, ? - ended_at),"
            " result_kind IN ('exit', 'signal') AND result_text IS NULL"
            " FROM job WHERE state = 'ended' AND started_at IS NOT NULL AND ended_at IS NOT NULL ORDER BY id DESC LIMIT ?",
            (wall_at(), most),
        )
        return [PastRow(*row) for row in reversed(rows)]

    def evictions(self, job_id: int) -> int:
        """Count how often a job gave way by being ended and run again."""
        rows = self._read("SELECT count(*) FROM event WHERE job_id = ? AND why = ?", (job_id, GAVE_WAY))
        return int(rows[0][0])

    def note(self, name: str) -> str:
        """Return the text of a note (`notes`); empty if there is none."""
        return self._mirror.notes.get(name, "")

    def notes_of(self, word: str) -> dict[int, str]:
        """Return the notes called `word N`, by N."""
        found = ((name.rpartition(" "), text) for name, text in self._mirror.notes.items())
        return {int(number): text for (first, _, number), text in found if first == word and number.isdigit()}

    def put_note(self, name: str, text: str) -> None:
        """Write a note; without text it goes."""
        if text:
            self._write("INSERT OR REPLACE INTO setting (name, value) VALUES (?, ?)", (name, text))
        else:
            self._write("DELETE FROM setting WHERE name = ?", (name,))
        self._mirror.put_note(name, text or None)

    def prune(self, kept: int, most: int, awaited: Collection[int], keep: Callable[[Totals], None]) -> int:
        """Forget ended jobs beyond the latest `kept` but for those `awaited`, at most so many; returns how many.

        `keep` is called with what they came to.
        Numbers are never reused.
        """
        old = self._read(
            "SELECT id FROM job WHERE state = 'ended' AND id NOT IN (SELECT job_id FROM share)"
            " AND id <= (SELECT id FROM job WHERE state = 'ended' ORDER BY id DESC LIMIT 1 OFFSET ?) LIMIT ?",
            (kept, most + len(awaited)),
        )
        gone = [job_id for (job_id,) in old if job_id not in awaited][:most]
        if gone:  # what they came to stays
            keep(totals_of(self._fetch, gone, monotonic(), boot_id()))
        for job_id in gone:
            self._write("DELETE FROM job WHERE id = ?", (job_id,))
            self._write("DELETE FROM event WHERE job_id = ?", (job_id,))
        return len(gone)

    def next_id(self) -> int:
        """Return the number that the next job will get."""
        return self._mirror.last_id + 1

    def _write_shares(self, job_id: int, shares: tuple[Share, ...]) -> None:
        if shares:
            values = [(job_id, share.uuid, share.index, share.bytes, int(share.whole)) for share in shares]
            marks = ", ".join(["(?, ?, ?, ?, ?)"] * len(values))
            sql = f"INSERT INTO share (job_id, uuid, gpu_index, bytes, whole) VALUES {marks}"
            self._write(sql, chain.from_iterable(values))

    def _record(self, job_id: int, before: JobState | None, now: JobState, why: str) -> None:
        self._write(
            "INSERT INTO event (job_id, at, mono, from_state, to_state, why) VALUES (?, ?, ?, ?, ?, ?)",
            (job_id, wall_at(), monotonic(), before.value if before else None, now.value, why),
        )

    def _write(self, sql: str, values: Iterable[Any], *, guarded: bool = False) -> None:
        """Write by the end of the batch. If `guarded`, one row at least must change."""
        self._untold.append((sql, tuple(values), guarded))

    def write_down(self) -> None:
        """Tell SQLite what this batch has written so far; it is committed with the rest. Raises StoreError."""
        if not self._untold:
            return
        untold, self._untold = self._untold, []
        with Translated("write"):
            self._begin()
            for sql, values, guarded in untold:
                if not self._db.execute(sql, values).rowcount and guarded:
                    raise StoreError("write", DATABASE, "somebody else has changed a job", is_unsound=True)

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _read(self, sql: str, values: Iterable[Any]) -> list[Any]:
        return self._fetch(sql, tuple(values))

    def _fetch(self, sql: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        self.write_down()
        with Translated("read"):
            return self._db.execute(sql, values).fetchall()


class Batch:
    """One transaction of a store; no generator, since there is one for each wake."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._store.undo()
            return
        try:
            self._store.commit()
        except BaseException:
            self._store.undo()
            raise
