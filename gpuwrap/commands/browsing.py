"""What keys do to a list of jobs on a screen that stays: scrolling, a filter, and verbs on the row under the cursor.

1. It draws nothing and reads no key itself: lines in, lines out, so that all of it is tested without a terminal.
2. Verbs are those of the command line, run as somebody would type them, and what they say is shown. Whatever ends or changes
   something on one key is asked about first.

The screen is our own, not that of curses: what is hard about one that stays (stopping, the background, a new size, a signal at
any moment) was solved before there were keys, and of curses we would need its table of keys alone, which is a dozen lines.
"""

import re
import textwrap
from collections.abc import Callable

from ..widths import columns, cut

KEYS = {
    "\x1b[A": "up", "\x1bOA": "up", "\x1b[B": "down", "\x1bOB": "down", "\x1b[5~": "page up", "\x1b[6~": "page down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[7~": "home", "\x1b[F": "end", "\x1bOF": "end",
    "\x1b[4~": "end", "\x1b[8~": "end", "\r": "enter", "\n": "enter", "\x7f": "erase", "\b": "erase", "\x04": "q",
    "\x1b": "escape",
}  # fmt: skip
MOVES = {"up": -1, "k": -1, "down": 1, "j": 1}
HELP = """\
arrows, j k, PgUp PgDn, Home End   move
Enter   why the job waits, or how it is
l       the end of its log
K       kill it (asks)
r       renice it (asks for the priority)
p       pause it, or let it go on
/       show only rows with a text; Escape shows all again
q       leave

A row of several jobs is taken as a whole."""
# Numbers as JOB takes them, at the beginning of a row; of a sweep that has too many of them an ellipsis ends them.
_JOBS = re.compile(r" *(\d[\d,-]*)(,…)?(?=  )")
_COLOURS = re.compile(r"\x1b\[\d*m")
LOG_LINES = 200


class Page:
    """Lines to show: `head` stays, `body` scrolls; a row is a line that begins with numbers, and what stands below it."""

    def __init__(self, lines: list[str], before: list[str] | None = None) -> None:
        plain = [_COLOURS.sub("", line).strip() for line in lines]
        at = next((at for at, line in enumerate(plain) if line.startswith("JOB")), len(lines) - 1)
        self.head, self.body = [*(before or []), *lines[: at + 1]], lines[at + 1 :]
        header = _COLOURS.sub("", lines[at]) if lines else ""
        self.numbers_end = header.find("JOB") + len("JOB")
        """Where the column of numbers ends: what stands below a row may begin with a number, too."""


class Row:
    """Some lines of a page about jobs: their numbers as verbs take them, None if a verb could not name them all."""

    def __init__(self, line: str, match: "re.Match[str]") -> None:
        self.lines = [line]
        self.jobs = match[1] if match[2] is None else None
        self.state = line[match.end() :].split(maxsplit=1)[0] if line[match.end() :].strip() else ""


def rows_of(page: Page, text: str) -> list[Row]:
    """Cut a page's body into rows, those that have a text in them."""
    found: list[Row] = []
    for line in page.body:
        match = _JOBS.match(_COLOURS.sub("", line) + "  ")
        if match is not None and match.end() == page.numbers_end:
            found.append(Row(_COLOURS.sub("", line), match))
            found[-1].lines = [line]
        elif found:
            found[-1].lines.append(line)
    return [row for row in found if text.casefold() in _COLOURS.sub("", "\n".join(row.lines)).casefold()]


class Browser:
    """Where one is on a page, and what was typed."""

    def __init__(self, verb: Callable[[list[str]], str]) -> None:
        """`verb` runs one, and returns what it said."""
        self._verb = verb
        self._rows: list[Row] = []
        self._cursor: int | None = None
        self._on: str | None = None
        self._top = 0
        self._height = 1
        self._width = 80
        self._filter = self._message = ""
        self._asked: tuple[str, str] | None = None
        self._typed = ""
        self._told: list[str] | None = None

    def frame(self, page: Page, width: int, height: int, title: str) -> list[str]:
        """Return the lines of a screen."""
        self._width = width
        head = [_title(title, width), ""]
        if self._told is not None:
            return self._overlay(head, height)
        self._rows = rows_of(page, self._filter)
        self._follow()
        body = [(line, at) for at, row in enumerate(self._rows) for line in row.lines] if page.body else []
        above = [*head, *page.head]
        bottom = self._bottom()
        if len(above) + len(body) + bool(bottom) > height:  # empty lines go first
            above = [line for line in above if line]
        if len(above) + len(body) + bool(bottom) <= height:
            self._height = len(body)
            shown, self._top = body, 0
        elif len(above) + 2 > height:  # not even the head has room
            everything = [*above, *(line for line, _ in body)]
            left = len(everything) - height + 1
            return [*everything[: height - 1], bottom or f"… and {left} more lines"]
        else:
            room = height - len(above) - 1
            self._height = room
            self._scroll(body, room)
            shown = body[self._top : self._top + room]
            left = len(body) - len(shown)
            bottom = bottom or (f"… and {left} more lines" + (f" ({self._top} above)" if self._top else ""))
        lines = [_marked(line, width) if at == self._cursor else line for line, at in shown]
        return [*above, *lines, *([cut(bottom, width)] if bottom else [])]

    def key(self, key: str) -> bool:
        """Do what a key says; false if it leaves."""
        if self._asked is not None:
            self._answer(key)
        elif self._told is not None:
            self._read_on(key)
        elif key in ("q", "Q"):
            return False
        else:
            self._message = ""
            self._command(key)
        return True

    def _command(self, key: str) -> None:
        if key in MOVES:
            self._move(MOVES[key])
        elif key in ("page down", " "):
            self._move(max(1, self._height - 1))
        elif key == "page up":
            self._move(-max(1, self._height - 1))
        elif key in ("home", "g"):
            self._go(0)
        elif key in ("end", "G"):
            self._go(len(self._rows) - 1)
        elif key == "/":
            self._asked, self._typed = ("filter", ""), self._filter
        elif key == "escape":
            self._filter, self._cursor = "", None
        elif key == "?":
            self._tell(HELP)
        elif key in ("enter", "l", "K", "r", "p"):
            self._on_row(key)

    def _on_row(self, key: str) -> None:
        if self._cursor is None and self._rows:
            self._go(0)
        row = self._rows[self._cursor] if self._cursor is not None and self._rows else None
        if row is None:
            return
        if row.jobs is None:
            self._message = "this row has more jobs than it names: use its name on the command line"
        elif key == "enter":
            self._tell(self._verb(["why", row.jobs]))
        elif key == "l":
            self._tell(self._verb(["logs", "-n", str(LOG_LINES), row.jobs]))
        elif key == "p":
            self._say(["resume" if row.state in ("paused", "held", "suspended") else "pause", row.jobs])
        else:
            self._asked, self._typed = ("kill" if key == "K" else "renice", row.jobs), ""

    def _answer(self, key: str) -> None:
        """Take in what is typed after a question."""
        assert self._asked is not None
        what, jobs = self._asked
        if what == "kill":
            self._asked = None
            if key in ("y", "Y"):
                self._say(["kill", "-y", jobs])
        elif key == "escape":
            self._asked = None
            self._filter = "" if what == "filter" else self._filter
        elif key == "enter":
            self._asked = None
            if what == "renice" and self._typed.strip():
                self._say(["renice", self._typed.strip(), jobs])
        elif key == "erase":
            self._typed = self._typed[:-1]
        elif len(key) == 1 and key.isprintable():
            self._typed += key
        if what == "filter" and key != "escape":
            self._filter, self._cursor, self._top = self._typed, None, 0

    def _bottom(self) -> str:
        if self._asked is None:
            return self._message or (f"only rows with: {self._filter} (Escape shows all)" if self._filter else "")
        what, jobs = self._asked
        if what == "kill":
            return f"kill {jobs}? [y/N]"
        return f"/{self._typed}_" if what == "filter" else f"priority of {jobs}: {self._typed}_"

    def _say(self, words: list[str]) -> None:
        lines = self._verb(words).strip().splitlines()
        if len(lines) > 1:
            self._tell("\n".join(lines))
        else:
            self._message = lines[0] if lines else ""

    def _tell(self, text: str) -> None:
        lines = (textwrap.wrap(line, max(20, self._width - 1), drop_whitespace=False) or [""] for line in text.splitlines())
        self._told, self._top = [each for line in lines for each in line], 0

    def _read_on(self, key: str) -> None:
        """Scroll what a verb said; other keys close it."""
        assert self._told is not None
        step = {**MOVES, "page down": self._height, " ": self._height, "page up": -self._height}.get(key)
        if key in ("home", "g", "end", "G"):
            step = len(self._told) * (1 if key in ("end", "G") else -1)
        if step is None:
            self._told, self._top = None, 0
        else:
            self._top = max(0, min(self._top + step, len(self._told) - self._height))

    def _overlay(self, head: list[str], height: int) -> list[str]:
        assert self._told is not None
        self._height = room = max(1, height - len(head) - 1)
        self._top = max(0, min(self._top, len(self._told) - room))
        shown = self._told[self._top : self._top + room]
        left = len(self._told) - self._top - len(shown)
        return [*head, *shown, cut(f"… and {left} more lines; any key goes back" if left else "any key goes back", self._width)]

    def _move(self, by: int) -> None:
        self._go(0 if self._cursor is None and by > 0 else (self._cursor or 0) + by)

    def _go(self, to: int) -> None:
        self._cursor = max(0, min(to, len(self._rows) - 1)) if self._rows else None
        self._on = self._rows[self._cursor].jobs if self._cursor is not None else None

    def _follow(self) -> None:
        """Stay on the row that one was on, as far as it is still there."""
        if self._cursor is None:
            return
        again = next((at for at, row in enumerate(self._rows) if row.jobs == self._on), self._cursor)
        self._go(again)

    def _scroll(self, body: list[tuple[str, int]], room: int) -> None:
        """Scroll so far that the row under the cursor is seen."""
        mine = [at for at, (_, row) in enumerate(body) if row == self._cursor]
        if mine and mine[0] < self._top:
            self._top = mine[0]
        elif mine and mine[-1] >= self._top + room:
            self._top = mine[-1] - room + 1
        self._top = max(0, min(self._top, len(body) - room))


def keys_in(typed: str) -> list[str]:
    """Cut what a terminal sent into keys: their names, or the letters themselves."""
    found = []
    while typed:
        known = max((each for each in KEYS if typed.startswith(each)), key=len, default=typed[0])
        if known == "\x1b" and len(typed) > 2 and typed[1] in "[O":  # a key that we do not know
            typed = re.sub(r"^\x1b(\[[0-9;]*[ -/]*[@-~]|O.)", "", typed)
            continue
        found.append(KEYS.get(known, known))
        typed = typed[len(known) :]
    return found


def _title(title: str, width: int) -> str:
    right = "? keys, q leaves"
    head = cut(title, max(width - len(right) - 1, 1))
    return head + right.rjust(width - columns(head))


def _marked(line: str, width: int) -> str:
    plain = _COLOURS.sub("", line)
    return f"\x1b[7m{plain}{' ' * max(0, width - columns(plain))}\x1b[0m"
