"""Databases as earlier versions have left them."""

import os
import sqlite3
from contextlib import closing

# The columns of jobs that versions had first; those of version 1 came while it was that.
SINCE = {
    1: ("stub", "signals", "retries", "yields_to", "requeue", "paused_at", "returned_at", "fingerprint", "learned_bytes",
        "output", "after_jobs", "once", "detached"),
    2: ("sweep", "sweep_index", "sweep_limit"),
    3: ("output_asked",),
    5: ("submitted_mono", "granted_mono", "started_mono", "ended_mono", "paused_mono", "returned_mono"),
    6: ("expect_seconds",),
}  # fmt: skip


def make_version_5(path: str | os.PathLike[str]) -> None:
    """Turn a database into one that an arbiter of version 5 has left: nobody said how long a job may take."""
    with closing(sqlite3.connect(path)) as database, database:
        drop(database, SINCE[6], 5)


def make_version_4(path: str | os.PathLike[str]) -> None:
    """Turn a database into one that an arbiter of version 4 has left: it knew no clock but the wall's."""
    with closing(sqlite3.connect(path)) as database, database:
        drop(database, (*SINCE[5], *SINCE[6]), 4)
        for column in ("granted_at", "paused_at", "returned_at"):
            database.execute(f"ALTER TABLE job ADD COLUMN {column} REAL")
        for table in ("event", "arbiter"):
            database.execute(f"ALTER TABLE {table} DROP COLUMN mono")


def make_version_1(path: str | os.PathLike[str]) -> None:
    """Turn a database into one of the first version, on its first day: it could register, grant and follow jobs."""
    make_version_4(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE peak")
        database.execute("DROP INDEX event_job")
        drop(database, (*SINCE[1], *SINCE[2], *SINCE[3]), 1)


def drop(database: sqlite3.Connection, columns: tuple[str, ...], version: int) -> None:
    for column in columns:
        database.execute(f"ALTER TABLE job DROP COLUMN {column}")
    database.execute(f"PRAGMA user_version = {version}")
