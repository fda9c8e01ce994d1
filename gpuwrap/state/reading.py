"""What those read who do not write: verbs and completions, with an arbiter or without, and the only importer of _sqlite3.

Lists of jobs wait for this module, and so does a Tab: it takes the C module bare, and loads what whole records need
(dataclasses, enum, json) only where they are asked for.
"""

import _sqlite3
import os

from ..errors import StoreError
from ..listed import FIELDS, Listed
from .paths import DATABASE, Folder
from .schema import JOB_COLUMNS, LATEST_NAMED, LIVE, ROWS_OF_SWEEP, VERSION

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from ..accounts.progress import Progress
    from ..model import Job

Connection = _sqlite3.Connection
Error = _sqlite3.Error
BUSY_SECONDS = 5.0


class Reader:
    """A verb's connection: reads only, works without an arbiter."""

    def __init__(self, folder: Folder) -> None:
        """Open read-only. Raises StoreError; FileNotFoundError if nothing was ever registered, or the first job just is."""
        path = folder.inside(DATABASE)
        try:
            os.stat(path)
        except FileNotFoundError:
            raise
        except OSError as err:
            raise StoreError("open", DATABASE, str(err.strerror).lower()) from err
        self._db = connect(path, f"file:{path}?mode=ro")
        try:
            self._version = refuse_newer(self._db)
            if self._version == 0:
                raise FileNotFoundError(path)
        except Error:
            # A full disk refuses the shared memory file that WAL needs; what was folded back can still be read.
            self._db = connect(path, f"file:{path}?immutable=1")
            try:
                self._version = refuse_newer(self._db)
            except Error as err:
                raise translate(err, "open") from err

    @property
    def version(self) -> int:
        """The database's version."""
        return self._version

    def jobs(self, *, ended: bool) -> "list[Job]":
        """Return jobs by number: the live ones and those whose grant still stands, with `ended` all."""
        where = "" if ended else f"WHERE {LIVE}"
        return self._jobs(f"SELECT {self._known(JOB_COLUMNS)} FROM job {where} ORDER BY id", ())

    def listed(self, *, ended: bool) -> list[Listed]:
        """Return the same jobs as a list shows them."""
        where = "" if ended else f"WHERE {LIVE}"
        sql = f"SELECT {self._known(', '.join(FIELDS))} FROM job {where} ORDER BY id"
        return [Listed(*row) for row in self._fetch(sql, ())]

    def history(self, since_at: float | None, user: str | None, most: int | None) -> "list[Job]":
        """Return ended jobs by number: those that ended since a wall-clock time, of one user, the latest `most`."""
        found = self._jobs(
            f"SELECT {self._known(JOB_COLUMNS)} FROM job WHERE state = 'ended' AND (? IS NULL OR ended_at >= ?)"
            " AND (? IS NULL OR user = ?) ORDER BY id DESC LIMIT ?",
            (since_at, since_at, user, user, -1 if most is None else most),
        )
        return found[::-1]

    def has_live(self) -> bool:
        """Whether any job is in line, running or holding a grant."""
        row = self._fetch("SELECT EXISTS (SELECT 1 FROM job WHERE state != 'ended') OR EXISTS (SELECT 1 FROM share)", ())
        return bool(row[0][0])

    def unended_ids(self) -> frozenset[int]:
        """Return the jobs that have not ended."""
        return frozenset(row[0] for row in self._fetch("SELECT id FROM job WHERE state != 'ended'", ()))

    def holding_ids(self) -> frozenset[int]:
        """Return the jobs whose grant stands, ended ones too."""
        return frozenset(row[0] for row in self._fetch("SELECT DISTINCT job_id FROM share", ()))

    def by_number(self, first: int, last: int) -> "list[Job]":
        """Return the jobs with numbers from `first` to `last`."""
        return self._jobs(f"SELECT {self._known(JOB_COLUMNS)} FROM job WHERE id BETWEEN ? AND ? ORDER BY id", (first, last))

    def latest_named(self, name: str, uid: int | None = None) -> "list[Job]":
        """Return the latest job of a name (of one user), if any; of a sweep all rows of that name."""
        return self._jobs(LATEST_NAMED.format("known.*", self._every_column(uid)), (name, name))

    def names(self, uid: int | None = None) -> list[str]:
        """Return the names of all jobs (of one user), each once."""
        where = "" if uid is None else f" AND uid = {int(uid)}"  # older databases have no such column
        return [row[0] for row in self._fetch(f"SELECT DISTINCT name FROM job WHERE name IS NOT NULL{where}", ())]

    def rows_named(self, sweep: int, name: str) -> "list[Job]":
        """Return the rows of a sweep that have a name, ended or not."""
        return self._jobs(f"SELECT * FROM {self._every_column()} WHERE sweep = ? AND name = ? ORDER BY id", (sweep, name))

    def progress(self, sweeps: "Iterable[int]") -> "dict[int, Progress]":
        """Return how far sweeps are, by the number of their first row."""
        from time import monotonic

        from ..accounts.progress import Progress
        from ..clocks import boot_id
        from ..sweeps import MOST_ROWS

        if self._version < VERSION:  # no arbiter has brought the database up to date yet
            return {}
        found = {}
        for sweep in sweeps:
            values = (boot_id(), monotonic(), sweep, sweep + MOST_ROWS, sweep)
            rows = self._fetch(ROWS_OF_SWEEP, values)
            if rows:
                found[sweep] = Progress(rows[0][0] or f"sweep-{sweep}", [row[1:] for row in rows])
        return found

    def _every_column(self, uid: int | None = None) -> str:
        where = "" if uid is None else f" WHERE uid = {int(uid)}"
        return f"(SELECT {self._known(JOB_COLUMNS)} FROM job{where}) AS known"

    def _jobs(self, sql: str, values: tuple[object, ...]) -> "list[Job]":
        from .rows import job_from_row, shares_from_text  # whole records cost as much as a list of a thousand

        return [job_from_row(row, shares_from_text(row[-1])) for row in self._fetch(sql, values)]

    def _known(self, columns: str) -> str:
        """Return what to read of a database that no arbiter has brought up to date yet: what it has not is NULL."""
        if self._version == VERSION:
            return columns
        present = columns_in(self._db, "job")
        return ", ".join(column if column in present else f"NULL AS {column}" for column in columns.split(", "))

    def _fetch(self, sql: str, values: "tuple[object, ...] | Mapping[str, object]") -> "list[Any]":
        try:
            return self._db.execute(sql, values).fetchall()
        except UnicodeEncodeError:
            return []  # a word with bytes that are not UTF-8: nothing here is called that
        except Error as err:
            raise translate(err, "read") from err


def connect(path: str, uri: str, busy_seconds: float = BUSY_SECONDS) -> _sqlite3.Connection:
    """Open a database by its URI; `path` is shown. Raises StoreError."""
    try:
        return _sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
    except Error as err:
        raise translate(err, "open") from err


def columns_in(db: _sqlite3.Connection, table: str) -> set[str]:
    """Return the names of a table's columns. Raises Error."""
    return {row[1] for row in db.execute(f"PRAGMA table_info({table})")}


def refuse_newer(db: _sqlite3.Connection) -> int:
    """Return the version of a database, 0 of a new one. Raises StoreError."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise StoreError("open", DATABASE, f"made by a newer gpurun (version {version})", hint="update gpuwrap here")
    return version


_CAUSES = {
    "SQLITE_FULL": ("no space left on device", "running jobs are not affected; free some space, or run it without gpurun"),
    "SQLITE_CORRUPT": ("not a sound database", "move it away; the next gpurun makes a new one"),
    "SQLITE_NOTADB": ("not a database", "move it away; the next gpurun makes a new one"),
    "SQLITE_READONLY": ("read-only", None),
    "SQLITE_CANTOPEN": ("cannot be opened", None),
    "SQLITE_BUSY": ("locked by another program", None),
}


# What may be otherwise in a moment: no space, somebody's lock, a disk that takes no writes.
_PASSING = ("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_NOMEM")
_PASSING_WRITES = ("SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_LOCK")


def translate(err: Error, doing: str) -> StoreError:
    """Say in our words what SQLite refused."""
    name = getattr(err, "sqlite_errorname", "")
    is_unsound = not name.startswith(_PASSING if doing == "read" else _PASSING + _PASSING_WRITES)
    for known, (cause, hint) in _CAUSES.items():
        if name.startswith(known):
            return StoreError(doing, DATABASE, cause, hint=hint, is_unsound=is_unsound)
    return StoreError(doing, DATABASE, str(err), is_unsound=is_unsound)


class Translated:
    """Says in our words what SQLite refuses; no generator either."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, Error):
            raise translate(error, self._doing) from error
