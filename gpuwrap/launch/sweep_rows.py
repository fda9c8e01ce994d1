"""The rows of a sweep, as the process knows them in whose name they wait: where they come from, and how they are told.

Loaded only for sweeps.
"""

import os

from ..errors import GpurunError, UsageError
from ..sweeps import MOST_BYTES, argv_of, in_words, parse_limit, read_commands
from ..wire import CHUNK
from .program import find_program, script_bytes

# Indices in one packet: each takes eleven bytes at most.
INDICES_AT_ONCE = 5000
# A child that ends so often before it has become its row never will.
DEATHS_BORNE = 3


class Row:
    """One row, as its sweep sees it. `line` None: it runs what stands on the command line. `status` None: not ended.

    `path` is where its program was found before anything was asked for.
    """

    __slots__ = ("deaths", "index", "job", "line", "path", "status")

    def __init__(self, index: int, line: bytes | None, path: bytes) -> None:
        self.index = index
        self.line = line
        self.path = path
        self.job = 0
        self.status: int | None = None
        self.deaths = 0

    def is_hopeless(self) -> bool:
        """Whether so many of its children have ended before they became it that no more is tried."""
        return self.deaths >= DEATHS_BORNE


def read_each(name: str, words: list[str]) -> tuple[list[Row], int | None]:
    """Read the file of commands; `FILE%4` as in `--array`, unless there is a file of that name."""
    if words:
        raise UsageError("--each: takes no program: the lines are the commands")
    limit = None
    file, percent, count = name.rpartition("%")
    if percent and not os.path.lexists(name):
        limit, name = parse_limit(count, f"each {name}"), file
    if not name:
        raise UsageError("each: the file's name must not be empty")
    shown = "standard input" if name == "-" else name
    try:
        fd = os.dup(0) if name == "-" else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as lines:
            content = lines.read(MOST_BYTES + 1)
    except OSError as err:
        raise GpurunError(f"cannot read: {shown}: {str(err.strerror).lower()}") from err
    commands = read_commands(content, shown)
    if name == "-":
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
    rows: list[Row] = []
    paths: dict[bytes, bytes] = {}
    for number, line in commands:
        program = argv_of(line)[0]
        if program not in paths:
            try:
                paths[program] = find_program(program)
            except GpurunError as err:
                raise GpurunError(f"{shown}: line {number}: {err.text}", hint=err.hint, status=err.status) from err
        rows.append(Row(number, line, paths[program]))
    return rows, limit


def in_parts(rows: list[Row]) -> "list[dict[str, object]]":
    """Cut rows into parts that fit a packet each."""
    parts: list[dict[str, object]] = []
    if rows and rows[0].line is None:
        for at in range(0, len(rows), INDICES_AT_ONCE):
            parts.append({"indices": in_words([row.index for row in rows[at : at + INDICES_AT_ONCE]])})
        return parts
    sizes: dict[bytes, int | None] = {}
    indices: list[int] = []
    lines: list[bytes] = []
    scripts: list[str] = []
    used = 0

    def close() -> None:
        text = b"\n".join(lines).decode("utf-8", "surrogateescape")
        parts.append({"indices": in_words(indices), "lines": text, "scripts": " ".join(scripts)})

    for row in rows:
        line = row.line or b""
        if used + len(line) > CHUNK // 2 and lines:
            close()
            indices, lines, scripts, used = [], [], [], 0
        words = [word for word in argv_of(line) if word.endswith((b".py", b".sh"))][:1]
        if words and words[0] not in sizes:
            sizes[words[0]] = script_bytes(words)
        size = sizes[words[0]] if words else None
        indices.append(row.index)
        lines.append(line)
        scripts.append("-" if size is None else str(size))
        used += len(line) + 24
    if lines:
        close()
    return parts


def jobs_in_words(rows: dict[int, Row]) -> str:
    """Name the jobs of rows: `jobs 14-33`."""
    numbers = sorted(rows)
    return ("job " if len(numbers) == 1 else "jobs ") + in_words(numbers)


def counted(count: int, what: str) -> str:
    """Return `1 row`, `2 rows`."""
    return f"1 {what}" if count == 1 else f"{count} {what}s"
