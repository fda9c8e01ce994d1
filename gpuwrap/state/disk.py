"""The database's files on the disk: opening them, seeing that they are still there, and writing them anew from memory.

1. Of the live jobs and the notes memory is right: it holds exactly what was committed. Of what only the disk knew (jobs
   that have ended, moves, peaks) as much is taken over as can still be read, table by table.
2. The new file is written aside, whole, and then renamed: there is a database at the path all the time. A write-ahead log
   must never lie beside a database that it was not written for: SQLite would put it in.
"""

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..clocks import Now
from ..errors import StoreError
from ..model import Share
from .mirror import Known
from .paths import DATABASE, Folder
from .reading import Connection, Error, Translated, columns_in, connect, refuse_newer
from .rows import job_from_row, row_from_job, text_from_shares
from .schema import JOB_COLUMNS, LIVE, RECKON_EVENTS, RECKON_JOBS, TABLES, TIMES, VERSION

_NEW = "state.db.new"
_BESIDE = (f"{DATABASE}-wal", f"{DATABASE}-shm")
_SALVAGED = {"job": f"WHERE NOT {LIVE}", "event": "", "peak": "", "arbiter": ""}


class _File(NamedTuple):
    """One of the database's files, as it was seen."""

    inode: int
    size: int

    def follows(self, before: "_File") -> bool:
        """Whether it is the same, and nothing was cut off: SQLite makes none of them smaller while they are open."""
        return self.inode == before.inode and self.size >= before.size


class _Found(NamedTuple):
    """What could be read of one table."""

    columns: str
    rows: list[tuple[Any, ...]]


class Disk:
    """The files of one world's database."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._seen: tuple[_File, ...] = ()

    def open(self) -> Connection:
        """Open the database, made on first use and brought up to date. Raises StoreError."""
        path = self._folder.inside(DATABASE)
        db = connect(path, f"file:{path}?mode=rwc")
        with Translated("open"):
            refuse_newer(db)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version < VERSION:
                _bring_up_to_date(db, version)
        return db

    def note(self) -> None:
        """The files are now as they should be."""
        self._seen = self._look()

    def is_in_place(self) -> bool:
        """Whether the path still leads to the files that were noted, and nothing was taken from them."""
        seen = self._look()
        if not seen or len(seen) != len(self._seen) or not all(map(_File.follows, seen, self._seen)):
            return False
        self._seen = seen
        return True

    def mended(self, known: Known) -> tuple[Connection, bool]:
        """Open a database that holds what is known, and say whether it had to be written anew. Raises StoreError.

        Nobody has it open here.
        """
        db = None
        try:
            db = self.open()
            if _is_sound(db) and _reads(db, known):
                self.note()
                return db, False
        except StoreError as err:
            if not err.is_unsound:
                raise
        salvaged = _salvage(db)
        if db is not None:
            db.close()
        with Translated("write"):
            try:
                _write_aside(self._folder, known, salvaged)
                _put_in_place(self._folder)
            except OSError as err:
                is_full = err.errno in (errno.ENOSPC, errno.EDQUOT)
                raise StoreError("write", DATABASE, str(err.strerror).lower(), is_unsound=not is_full) from err
        db = self.open()
        self.note()
        return db, True

    def _look(self) -> tuple[_File, ...]:
        try:
            found = [os.stat(name, dir_fd=self._folder.fd) for name in (DATABASE, *_BESIDE)]
        except OSError:
            return ()
        return tuple([_File(each.st_ino, each.st_size) for each in found])


def read_known(db: Connection) -> Known:
    """Read what memory is to hold. Raises Error."""
    rows = db.execute(f"SELECT {JOB_COLUMNS} FROM job WHERE {LIVE} ORDER BY id").fetchall()
    shares: dict[int, list[Share]] = {}
    for job_id, uuid, index, size, whole in db.execute(
        "SELECT job_id, uuid, gpu_index, bytes, whole FROM share ORDER BY job_id, gpu_index"
    ):
        shares.setdefault(job_id, []).append(Share(uuid, index, size, bool(whole)))
    notes = dict(db.execute("SELECT name, value FROM setting").fetchall())
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchall()
    live = {row[0]: job_from_row(row, tuple(shares.get(row[0], ()))) for row in rows}
    return Known(live, notes, int(last[0][0]) if last else 0)


def in_memory(known: Known) -> Connection:
    """Return a database that lies nowhere, with what is known."""
    db = connect(":memory:", "file::memory:")
    _fill(db, known, {})
    return db


def _reads(db: Connection, known: Known) -> bool:
    try:
        return _written(read_known(db)) == _written(known)
    except Error:
        return False


def _written(known: Known) -> tuple[object, ...]:
    """Return what of it stands in rows."""
    rows = {number: (row_from_job(job), job.shares) for number, job in known.live.items()}
    return rows, known.notes, known.last_id


def _is_sound(db: Connection) -> bool:
    """Whether SQLite finds nothing wrong with a database."""
    try:
        return bool(db.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])
    except Error:
        return False


def _salvage(db: Connection | None) -> dict[str, _Found]:
    """Read of a database, which may be broken, what memory does not hold."""
    found: dict[str, _Found] = {}
    for table, where in _SALVAGED.items() if db is not None else ():
        with contextlib.suppress(Error):
            assert db is not None
            # An earlier version's table of jobs has columns that are no longer used.
            cursor = db.execute(f"SELECT {JOB_COLUMNS if table == 'job' else '*'} FROM {table} {where}")
            columns = ", ".join(column[0] for column in cursor.description)
            found[table] = _Found(columns, cursor.fetchall())
    return found


def _write_aside(folder: Folder, known: Known, salvaged: Mapping[str, _Found]) -> None:
    """Write a whole database beside the one at the path. Raises Error or OSError."""
    for name in (_NEW, f"{_NEW}-journal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder.fd)
    path = folder.inside(_NEW)
    db = connect(path, f"file:{path}?mode=rwc")
    try:
        _fill(db, known, salvaged)
    finally:
        db.close()


def _put_in_place(folder: Folder) -> None:
    """Let the new file be the database; nobody has the old one open here. Raises OSError."""
    for name in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder.fd)
    os.rename(_NEW, DATABASE, src_dir_fd=folder.fd, dst_dir_fd=folder.fd)


def _fill(db: Connection, known: Known, salvaged: Mapping[str, _Found]) -> None:
    """Make the tables and write all that is known into them. Raises Error."""
    db.executescript(f"BEGIN IMMEDIATE; {TABLES} PRAGMA user_version={VERSION};")
    for table, found in salvaged.items():
        _insert(db, table, found.columns, found.rows)
    jobs = known.live.values()
    rows = [(job.id, *row_from_job(job), text_from_shares(job.shares) if job.shares else None) for job in jobs]
    _insert(db, "job", JOB_COLUMNS, rows)
    shares = [(job.id, each.uuid, each.index, each.bytes, int(each.whole)) for job in jobs for each in job.shares]
    _insert(db, "share", "job_id, uuid, gpu_index, bytes, whole", shares)
    _insert(db, "setting", "name, value", known.notes.items())
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'job'")
    db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('job', ?)", (known.last_id,))
    db.execute("COMMIT")


def _insert(db: Connection, table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
    marks = ", ".join("?" * len(columns.split(", ")))
    db.executemany(f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({marks})", rows)


def _bring_up_to_date(db: Connection, version: int) -> None:
    """Add what a database of an earlier version lacks; version 0 is a new one."""
    db.executescript(f"BEGIN IMMEDIATE; {TABLES}")
    _add_columns(db)
    if 0 < version < 5:
        now = Now.here()
        known = {"ahead": now.ahead, "now": now.mono, "boot": now.boot_id}
        dates = columns_in(db, "job")
        for change in [*[RECKON_JOBS.format(time) for time in TIMES if f"{time}_at" in dates], RECKON_EVENTS]:
            db.execute(change, known)
    db.execute(f"PRAGMA user_version={VERSION}")
    db.execute("COMMIT")


def _add_columns(db: Connection) -> None:
    """Give each table the columns that it would have if it were new: not every one had a version of its own."""
    with contextlib.closing(connect(":memory:", "file::memory:")) as new:
        new.executescript(TABLES)
        for (table,) in new.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            present = columns_in(db, table)
            for _, name, kind, is_required, default, _ in new.execute(f"PRAGMA table_info({table})").fetchall():
                if name not in present:
                    rest = f" NOT NULL DEFAULT {default}" if is_required else ""
                    db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}{rest}")
