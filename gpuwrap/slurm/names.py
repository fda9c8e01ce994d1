"""How jobs of Slurm's are named: `s4711`, `s4711_7` for a row of a sweep, `s4711_1-4` for some. Pure."""

from ..sweeps import from_words


class Name:
    """One job, or rows of one."""

    __slots__ = ("number", "rows")

    def __init__(self, number: str, rows: str) -> None:
        self.number, self.rows = number, rows

    def __str__(self) -> str:
        return f"s{self.job}"

    @property
    def job(self) -> str:
        """As Slurm's commands take it."""
        if not self.rows:
            return self.number
        return f"{self.number}_{self.rows}" if self.rows.isdigit() else f"{self.number}_[{self.rows}]"

    def holds(self, index: str) -> bool:
        """Whether a row is among them."""
        return not self.rows or (index.isdigit() and int(index) in from_words(self.rows))


def read_name(word: str) -> Name | None:
    """Read a job's name; None if it is none of Slurm's."""
    if word[:1] not in ("s", "S"):
        return None
    number, underscore, rows = word[1:].partition("_")
    rows = rows.removeprefix("[").removesuffix("]")
    if not number.isdigit() or (underscore and not _are_rows(rows)):
        return None
    return Name(number, rows)


def _are_rows(text: str) -> bool:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            return False
    return True
