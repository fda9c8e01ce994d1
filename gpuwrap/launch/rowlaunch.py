"""The launch of one row, in a child of its sweep: it takes over a row that is registered, and goes on as any launch does.

Loaded only for sweeps, before they wait.
"""

import os
import time

from ..outputs import with_index
from ..wire import PROTOCOL, pack
from .output import Output
from .run import Launch
from .stub import Stub
from .sweep_rows import Row

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from .sweep import Sweep

# What a child ends with that was too late for its offer: its row waits on.
LATE = 0


class RowOf(Launch):
    """What a row's launch does otherwise than others: it takes over a row that is there."""

    def take_over(self, sweep: "Sweep", row: Row) -> None:
        """Become the row. Returns only by an exception."""
        self.sweep, self.row = sweep, row
        self.key = f"{sweep.key}:{row.index}"
        self.begun_mono = sweep.begun_mono
        self.mask = sweep.mask
        if "output" in self.request:
            template = with_index(os.fsencode(str(self.request["output"])), row.index)
            self.output = Output(os.fsdecode(template))
        Launch.start(self)

    def _register(self, rehearsal: bool = False) -> bytes:
        wait = None
        if "wait" in self.request:
            wait = max(0.0, float(str(self.request["wait"])) - (time.monotonic() - self.begun_mono))
        return pack("become", version=PROTOCOL, key=self.key, row=self.row.job, wait=wait, **self._running())

    def _ignored_by_caller(self) -> int:
        return self.sweep.ignored

    def _offer_withdrawn(self) -> None:
        if not self.job:  # too late to become it: the row waits on in its sweep
            raise SystemExit(LATE)
        super()._offer_withdrawn()

    def _say_fewer(self, values: dict[str, str]) -> None:
        if self.row is self.sweep.rows[0]:  # once is enough
            super()._say_fewer(values)


class RowLaunch(RowOf):
    """A row that becomes its program."""


class RowStub(RowOf, Stub):
    """A row that stays the parent of its program."""
