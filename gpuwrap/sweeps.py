"""Rows of sweeps (`--array`, `--each`): which there are, what each runs, and numbers in few words (`14-33,35`).

Shared by those who ask and the arbiter, so both take a line for the same command. A launch loads it only for sweeps.
"""

from .errors import UsageError
from .units import parse_integer

MOST_ROWS = 10_000
MOST_INDEX = 2**31 - 1
# One line must fit into a packet; all of them are held in memory by two processes.
LONGEST_LINE = 32_768
MOST_BYTES = 16 << 20
# What some editors begin a text with.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

# What a shell would act on. A line without any is split here and run without a shell.
META = frozenset(b"|&;<>()$`*?[]#~{}!\n")
# What only a shell can do, or what means something else to it.
BUILTINS = frozenset((
    b".", b":", b"alias", b"bg", b"break", b"case", b"cd", b"command", b"continue", b"eval", b"exec", b"exit", b"export",
    b"fg", b"for", b"if", b"jobs", b"local", b"read", b"readonly", b"return", b"set", b"shift", b"source", b"times", b"trap",
    b"type", b"ulimit", b"umask", b"unalias", b"unset", b"until", b"wait", b"while",
))  # fmt: skip
SHELL = (b"/bin/sh", b"-c")


def parse_array(text: str) -> tuple[list[int], int | None]:
    """Read `1-20%4`, `1,5,7-9`, `0-100:10`: the indices in order, and how many run at once. Raises UsageError."""
    spec, percent, limit = text.partition("%")
    indices: dict[int, None] = {}
    for part in spec.split(","):
        first, dash, rest = part.partition("-")
        last, colon, step = rest.partition(":")
        numbers = [_number(first), _number(last) if dash else 0, _number(step) if colon else 1]
        if None in numbers or (colon and not dash):
            raise UsageError(f"array {text}: not understood: 1-20, 1,5,7-9 or 0-100:10, and %4 for 4 at once")
        low, high, by = (number or 0 for number in numbers)
        high = high if dash else low
        if high < low:
            raise UsageError(f"array {text}: {part} counts backwards")
        if by < 1:
            raise UsageError(f"array {text}: steps must be 1 or more")
        if (high - low) // by >= MOST_ROWS:
            raise UsageError(f"array {text}: more than {MOST_ROWS} rows")
        indices.update(dict.fromkeys(range(low, high + 1, by)))
    if len(indices) > MOST_ROWS:
        raise UsageError(f"array {text}: more than {MOST_ROWS} rows")
    return sorted(indices), parse_limit(limit, f"array {text}") if percent else None


def _number(text: str) -> int | None:
    number = parse_integer(text) if text[:1].isdigit() else None
    return number if number is not None and number <= MOST_INDEX else None


def parse_limit(text: str, what: str) -> int:
    """Read what stands behind the percent sign. Raises UsageError, naming `what`."""
    limit = _number(text)
    if not limit:
        raise UsageError(f"{what}: at once: a count, 1 or more")
    return limit


def read_commands(content: bytes, name: str) -> list[tuple[int, bytes]]:
    """Return the lines that are commands, each with its number from 1; blank ones and comments are none.

    Raises UsageError for a line that cannot be run, or if there is none, or too many.
    """
    if len(content) > MOST_BYTES:
        raise UsageError(f"{name}: larger than {MOST_BYTES >> 20}M")
    found = []
    for number, line in enumerate(content.removeprefix(BYTE_ORDER_MARK).split(b"\n"), 1):
        command = line.strip(b" \t\r")
        if not command or command.startswith(b"#"):
            continue
        if b"\0" in command:
            raise UsageError(f"{name}: line {number}: holds a NUL byte")
        if len(command) > LONGEST_LINE:
            raise UsageError(f"{name}: line {number}: longer than {LONGEST_LINE} bytes")
        if (len(command) - len(command.rstrip(b"\\"))) % 2:
            raise UsageError(f"{name}: line {number}: ends with a backslash: a command is one line")
        try:
            argv_of(command)
        except ValueError as err:
            raise UsageError(f"{name}: line {number}: {str(err).lower()}") from None
        found.append((number, command))
    if not found:
        raise UsageError(f"{name}: holds no command")
    if len(found) > MOST_ROWS:
        raise UsageError(f"{name}: more than {MOST_ROWS} commands")
    return found


def argv_of(line: bytes) -> tuple[bytes, ...]:
    """Return what a line runs: its words if it is simple, else a shell with it. Raises ValueError for an open quotation."""
    words = None if META.intersection(line) else _split(line)
    if not words or words[0] in BUILTINS or b"=" in words[0]:
        return (*SHELL, line)
    return tuple(words)


def _split(line: bytes) -> list[bytes]:
    """Split at blanks and tabs alone, as a shell does."""
    if not {*b"'\"\\"}.intersection(line):
        return [word for word in line.replace(b"\t", b" ").split(b" ") if word]
    import shlex  # brings re along: only for lines with quotes

    words = shlex.shlex(line.decode("latin-1"), posix=True, punctuation_chars=False)
    words.commenters, words.whitespace, words.whitespace_split = "", " \t", True
    return [word.encode("latin-1") for word in words]


def in_words(numbers: list[int]) -> str:
    """Write numbers as runs, `14-33,35`; in the order given."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def from_words(text: str) -> list[int]:
    """Read what `in_words` wrote."""
    numbers: list[int] = []
    for run in text.split(",") if text else ():
        first, _dash, last = run.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
