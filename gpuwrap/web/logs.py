"""A job's output in pieces: its end first, more on demand, and what is added as it is added.

1. However long the file is, at most `PIECE` bytes are read at once, and as many kept.
2. Who writes faster than is read misses the middle, and is told how much.
3. The file may be cut, replaced or gone at any moment; what it holds may be anything.
"""

import os
import stat
from typing import Any, NamedTuple

PIECE = 65536


class Chunk(NamedTuple):
    """Bytes of a file from `begin` to `end`, its size, and which file it is; why there is none, if so."""

    begin: int
    end: int
    size: int
    text: str
    inode: int = 0
    fault: str = ""

    def as_json(self) -> dict[str, Any]:
        """Write it for the page."""
        return self._asdict()


def read_end(path: bytes) -> Chunk:
    """Read the end of a file."""
    return _read(path, None, None)


def read_before(path: bytes, end: int) -> Chunk:
    """Read what stands before a place."""
    return _read(path, None, end)


def read_on(path: bytes, begin: int, inode: int) -> Chunk:
    """Read what was added since a place; the end alone if that is more than a piece, or if it is another file now."""
    return _read(path, begin, None, inode)


def _read(path: bytes, begin: int | None, end: int | None, inode: int = 0) -> Chunk:
    try:
        # A pipe of that name would keep us waiting for somebody who writes.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as err:
        return Chunk(0, 0, 0, "", fault=f"cannot read: {str(err.strerror).lower()}")
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return Chunk(0, 0, 0, "", fault="cannot read: not a regular file")
        size = facts.st_size
        if begin is not None and (begin > size or (inode and inode != facts.st_ino)):
            begin = 0  # cut, or another file
        end = size if end is None else max(0, min(end, size))
        begin = max(0, end - PIECE) if begin is None else max(begin, end - PIECE)
        content = os.pread(fd, end - begin, begin)
    except OSError as err:
        return Chunk(0, 0, 0, "", fault=f"cannot read: {str(err.strerror).lower()}")
    finally:
        os.close(fd)
    skipped = _torn(content) if begin else 0
    content = content[skipped:]
    kept = len(content) - _unfinished(content)
    if kept:
        content = content[:kept]  # the rest of the letter may come yet
    begin += skipped
    return Chunk(begin, begin + len(content), size, content.decode("utf-8", "replace"), facts.st_ino)


def _torn(content: bytes) -> int:
    """How many bytes at the beginning belong to a letter that began before."""
    for at, byte in enumerate(content[:4]):
        if byte & 0xC0 != 0x80:
            return at
    return 0  # no letter is so long: it is no text


def _unfinished(content: bytes) -> int:
    """How many bytes at the end belong to a letter that goes on behind it."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 2 if byte >> 5 == 6 else 3 if byte >> 4 == 14 else 4 if byte >> 3 == 30 else 1
        return back if needed > back else 0
    return 0
