"""Whether a state folder can be written, whoever holds its database: tried with a file of one's own, gone again at once."""

import os

from .paths import DATABASE, Folder

# More than what a filesystem keeps in the entry of a small file.
TRIED_BYTES = 1 << 16
# What the database grows by at least: a page with its header in the log.
LEAST_BYTES = 1 << 13


def why_unwritable(folder: Folder) -> str | None:
    """Return what the system says when a file is written in a state folder, None if it can be."""
    name = f"trial.{os.getpid()}"
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder.fd)
        try:
            os.unlink(name, dir_fd=folder.fd)
            os.write(fd, bytes(TRIED_BYTES))
            os.fsync(fd)  # what is only promised may be refused when it is written
        finally:
            os.close(fd)
    except OSError as err:
        return str(err.strerror).lower()
    return None


def database_bytes(folder: Folder) -> int:
    """Return the size of the larger file of the database, 0 if there is none."""
    sizes = [0]
    for name in (DATABASE, f"{DATABASE}-wal"):
        try:
            sizes.append(os.stat(name, dir_fd=folder.fd).st_size)
        except OSError:
            continue
    return max(sizes)
