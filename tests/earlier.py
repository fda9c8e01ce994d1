"""Databases as earlier versions have left them."""

import os
import sqlite3
from contextlib import closing

from gpuwrap.state.schema import ADDED


def make_version_4(path: str | os.PathLike[str]) -> None:
    """Turn a database into one that an arbiter of version 4 has left: it knew no clock but the wall's."""
    with closing(sqlite3.connect(path)) as database, database:
        drop_since(4, database)
        for column in ("granted_at", "paused_at", "returned_at"):
            database.execute(f"ALTER TABLE job ADD COLUMN {column} REAL")
        for table in ("event", "arbiter"):
            database.execute(f"ALTER TABLE {table} DROP COLUMN mono")


def make_version_1(path: str | os.PathLike[str]) -> None:
    """Turn a database into one from before there were sweeps."""
    make_version_4(path)
    with closing(sqlite3.connect(path)) as database, database:
        drop_since(1, database)


def drop_since(version: int, database: sqlite3.Connection) -> None:
    present = {row[1] for row in database.execute("PRAGMA table_info(job)")}
    for column in [column.split()[0] for made, added in ADDED.items() if made > version for column in added]:
        if column in present:
            database.execute(f"ALTER TABLE job DROP COLUMN {column}")
    database.execute(f"PRAGMA user_version = {version}")
