"""A glance at the jobs, for completions: a Tab waits for it.

A few columns of a few rows: less than a list of all shows, and whatever goes wrong shows nothing.
"""

import os

from ..errors import StoreError
from .paths import DATABASE, Folder
from .reading import Error, connect

MOST, MOST_ENDED = 200, 50
BUSY_SECONDS = 0.2
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
        database = connect(path, f"file:{path}?mode=ro", BUSY_SECONDS)
        found: list[tuple[int, str | None, str, bytes]] = []
        for sql in [_LIVE] * live + [_ENDED] * ended:
            found += database.execute(sql).fetchall()
        return found
    except (StoreError, Error):
        return []
