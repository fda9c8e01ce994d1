"""A glance at the jobs, for completions: a Tab waits for it.

The full reader costs four times as much (dataclasses, enum and json); this is the one place beside the store that reads the
database, and it takes the C module bare.
"""

import _sqlite3
import os

from .paths import DATABASE, Folder

MOST, MOST_ENDED = 200, 50
_COLUMNS = "id, name, state, argv"
_LIVE = f"SELECT {_COLUMNS} FROM job WHERE state != 'ended' ORDER BY id LIMIT {MOST}"
_ENDED = f"SELECT {_COLUMNS} FROM job WHERE state = 'ended' ORDER BY id DESC LIMIT {MOST_ENDED}"


def glance(folder: Folder, *, live: bool, ended: bool) -> list[tuple[int, str | None, str, bytes]]:
    """Return number, name, state and argv (joined by NUL) of jobs: live ones in order, the latest that ended first.

    None if there is no database that can be read.
    """
    path = folder.inside(DATABASE)
    if not os.path.exists(path):
        return []
    try:
        database = _sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.2)
        found: list[tuple[int, str | None, str, bytes]] = []
        for sql in [_LIVE] * live + [_ENDED] * ended:
            found += database.execute(sql).fetchall()
        return found
    except _sqlite3.Error:
        return []
