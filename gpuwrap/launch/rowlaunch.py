"""The launch of one row, in a child of its sweep: it takes over a row that is registered, and goes on as any launch does.

Loaded only for sweeps, before they wait.
"""

import os

from ..outputs import with_index
from ..wire import PROTOCOL, pack
from .launch import Launch
from .output import Output
from .stub import Stub
from .sweep_rows import Row

# What a child ends with that was too late for its offer: its row waits on.
LATE = 0


class RowOf(Launch):
    """What a row's launch does otherwise than others: it takes over a row that is there."""

    def take_over(self, row: Row, key: str, begun_mono: float, mask: "set[int]", ignored: int, *, is_first: bool) -> None:
        """Become the row, as the sweep of this key began: then, with that mask and what its caller ignored.

        `is_first`: it speaks for all rows. Returns only by an exception.
        """
        self.row, self.key, self.begun_mono, self.mask = row, f"{key}:{row.index}", begun_mono, mask
        self.ignored_by_sweep, self.is_first = ignored, is_first
        if "output" in self.request:
            template = with_index(os.fsencode(str(self.request["output"])), row.index)
            self.output = Output(os.fsdecode(template))
        Launch.start(self)

    def _register(self, rehearsal: bool = False) -> bytes:
        wait = self._wait_left() if "wait" in self.request else None
        return pack("become", version=PROTOCOL, key=self.key, row=self.row.job, wait=wait, **self._running())

    def _ignored_by_caller(self) -> int:
        return self.ignored_by_sweep

    def _offer_withdrawn(self) -> None:
        if not self.job:  # too late to become it: the row waits on in its sweep
            raise SystemExit(LATE)
        super()._offer_withdrawn()

    def _say_fewer(self, values: dict[str, str]) -> None:
        if self.is_first:  # once is enough
            super()._say_fewer(values)


class RowLaunch(RowOf):
    """A row that becomes its program."""


class RowStub(RowOf, Stub):
    """A row that stays the parent of its program."""
