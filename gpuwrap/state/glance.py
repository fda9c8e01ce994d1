"""A glance at the live jobs, for completions: a Tab waits for it.

The full reader costs four times as much (dataclasses, enum and json); this is the one place beside the store that reads the
database, and it takes the C module bare.
"""

import _sqlite3
import os

from .paths import DATABASE, Folder

MOST = 200


def live_jobs(folder: Folder) -> list[tuple[int, str | None, str, bytes]]:
    """Return number, name, state and argv (joined by NUL) of live jobs; none if there is no database that can be read."""
    path = folder.inside(DATABASE)
    if not os.path.exists(path):
        return []
    try:
        database = _sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
        sql = "SELECT id, name, state, argv FROM job WHERE state != 'ended' ORDER BY id LIMIT ?"
        found: list[tuple[int, str | None, str, bytes]] = database.execute(sql, (MOST,)).fetchall()
        return found
    except _sqlite3.Error:
        return []
