"""What verbs read where the database is not theirs to read: the same questions, asked over the bell."""

from collections.abc import Callable, Iterable
from typing import Any

from ..accounts.progress import Progress
from ..listed import Listed
from ..model import Job
from .reading import Reader
from .rows import job_from_row, shares_from_text
from .schema import VERSION

Ask = Callable[..., Any]


class AskedReader(Reader):
    """Asks who can read; as the asker may see it."""

    def __init__(self, ask: Ask) -> None:
        """`ask` sends a request with its fields and returns the answer, None if that is empty."""
        self._ask = ask
        self._version = VERSION

    def jobs(self, *, ended: bool) -> list[Job]:
        return self._all("jobs", ended=ended)

    def listed(self, *, ended: bool) -> list[Listed]:
        return [Listed.of(job) for job in self.jobs(ended=ended)]

    def history(self, since_at: float | None, user: str | None, most: int | None) -> list[Job]:
        found = self._all("history", since=since_at, user=user)
        return found if most is None else found[len(found) - min(most, len(found)) :]

    def has_live(self) -> bool:
        return bool(self.unended_ids() or self.holding_ids())

    def unended_ids(self) -> frozenset[int]:
        return frozenset(self._ask("jobs", what="unended") or ())

    def holding_ids(self) -> frozenset[int]:
        return frozenset(self._ask("jobs", what="holding") or ())

    def by_number(self, first: int, last: int) -> list[Job]:
        return self._all("by_number", first=first, last=last)

    def latest_named(self, name: str, uid: int | None = None) -> list[Job]:
        return self._all("latest_named", name=name)

    def names(self, uid: int | None = None) -> list[str]:
        return list(self._ask("jobs", what="names") or ())

    def rows_named(self, sweep: int, name: str) -> list[Job]:
        return self._all("rows_named", first=sweep, name=name)

    def progress(self, sweeps: Iterable[int]) -> dict[int, Progress]:
        return {}

    def _all(self, what: str, **values: object) -> list[Job]:
        rows = self._ask("jobs", what=what, **values) or ()
        return [job_from_row(row, shares_from_text(row[-1])) for row in map(_from_json, rows)]


def _from_json(row: list[Any]) -> tuple[Any, ...]:
    return tuple(each[0].encode("utf-8", "surrogateescape") if isinstance(each, list) else each for each in row)
