"""Rows of cells to lines: aligned, and on a terminal of a width and colours that suit it.

1. A terminal gets lines that fit: notes stand beside the rows only where each of them fits whole, below them elsewhere;
   columns that can be spared go before the last one, which says what a row is about, is lost.
2. A pipe gets one line for each row, never cut, never coloured.
"""

import os

from .widths import columns, columns_of_each, cut

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Sequence

INDENT = " " * 8
GAP = "  "
# The last column has at least as much (or all it needs), with notes beside it or without.
LEAST_BESIDE, LEAST = 40, 20
BOLD, DIM = "1", "2"


class Screen:
    """Where a table goes: `width` None is a pipe, which is never cut; `colour` only ever adds.

    `height` is how many lines there is room for, None where they may scroll away.
    """

    __slots__ = ("colour", "height", "width")

    def __init__(self, width: int | None = None, colour: bool = False, height: int | None = None) -> None:
        self.width = width
        self.colour = colour
        self.height = height

    @classmethod
    def of_stdout(cls) -> "Screen":
        """The screen on stdout; NO_COLOR [no-color.org] and TERM=dumb take the colour away."""
        width = terminal_width()
        plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
        return cls(width, width is not None and not plain)


class Table:
    """What to show. `colours` are of the second column's cells; `notes` stand beside or below the rows.

    `numeric` columns are aligned to the right; `spare` ones go where the terminal is narrow, in that order.
    """

    __slots__ = ("colours", "header", "notes", "numeric", "rows", "spare")

    def __init__(
        self,
        header: list[str],
        rows: list[list[str]],
        colours: list[str],
        numeric: tuple[str, ...] = (),
        spare: tuple[str, ...] = (),
        notes: "Sequence[str]" = (),
    ) -> None:
        self.header, self.rows, self.colours = header, rows, colours
        self.numeric, self.spare, self.notes = numeric, spare, notes


def draw(table: Table, screen: Screen) -> list[str]:
    """Return the lines of a table: its header, then its rows with their notes."""
    cells: list[Sequence[str]] = list(zip(table.header, *table.rows, strict=True))
    sizes = [[columns(head), *columns_of_each(column)] for head, *column in cells]
    widths = [max(column) for column in sizes]
    shown = _that_fit(table, widths, screen.width)
    beside = any(table.notes)
    tight = False
    if screen.width is not None:
        room = screen.width - sum(widths[at] + len(GAP) for at in shown[:-1])
        left = room - len(GAP) - max(columns_of_each(table.notes), default=0)
        beside = beside and left >= min(widths[-1], LEAST_BESIDE)
        room = left if beside else room
        tight = room < 1
        if widths[-1] > room:
            cells[-1] = [cut(cell, max(room, 1)) for cell in cells[-1]]
            sizes[-1] = columns_of_each(cells[-1])
            widths[-1] = max(sizes[-1])
    drawn = [_aligned(cells[at], sizes[at], widths[at], right=table.header[at] in table.numeric) for at in shown]
    if beside:
        drawn.append(["WHY", *table.notes])
    if screen.colour and not tight:
        _paint_columns(drawn, table.colours, notes=beside)
    lines = [GAP.join(row).rstrip() for row in zip(*drawn, strict=True)]
    if screen.width is None:
        return lines
    if tight:  # nothing more can be spared
        lines = [cut(line, screen.width) for line in lines]
    return lines if beside else _with_notes(lines, table.notes, screen)


def _that_fit(table: Table, widths: list[int], width: int | None) -> list[int]:
    """Return the columns to show: all, or those that leave the last one its least."""
    shown = list(range(len(widths)))
    if width is None:
        return shown
    for name in table.spare:
        if sum(widths[at] + len(GAP) for at in shown[:-1]) + min(widths[-1], LEAST) <= width:
            break
        if name in table.header:
            shown.remove(table.header.index(name))
    return shown


def _aligned(cells: "Sequence[str]", sizes: list[int], width: int, *, right: bool) -> list[str]:
    if right:
        return [" " * (width - size) + cell for cell, size in zip(cells, sizes, strict=True)]
    return [cell + " " * (width - size) for cell, size in zip(cells, sizes, strict=True)]


def _with_notes(lines: list[str], notes: "Sequence[str]", screen: Screen) -> list[str]:
    if not any(notes):
        return lines
    assert screen.width is not None
    room = max(screen.width - len(INDENT), 1)
    found = lines[:1]
    for line, note in zip(lines[1:], notes, strict=True):
        found.append(line)
        if note:
            found.append(INDENT + (_paint(cut(note, room), DIM) if screen.colour else cut(note, room)))
    return found


def _paint_columns(drawn: list[list[str]], colours: "Sequence[str]", *, notes: bool) -> None:
    """Colour the header, the second column's cells, and the notes beside."""
    drawn[1][1:] = [_paint(cell, code) for cell, code in zip(drawn[1][1:], colours, strict=True)]
    if notes:
        drawn[-1][1:] = [_paint(cell, DIM) for cell in drawn[-1][1:]]
    for column in drawn:
        column[0] = _paint(column[0], BOLD)


def _paint(text: str, code: str) -> str:
    """Colour a cell, and not the spaces around it."""
    word = text.strip()
    return text.replace(word, f"\x1b[{code}m{word}\x1b[0m", 1) if code and word else text


def terminal_width() -> int | None:
    """Columns of the terminal on stdout, None if it is none."""
    if not os.isatty(1):
        return None
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
