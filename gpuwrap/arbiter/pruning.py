"""Keeping the state folder small: rows of jobs long ended, and logs that grew old or too large together.

Only logs in the state folder are removed, never what `-o` named; a job that has not ended keeps its log.
"""

import contextlib
import os
from typing import TYPE_CHECKING

from ..accounts.totals import Totals
from ..clocks import file_age
from ..lifecycle import JobState
from ..outputs import LOGS
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter

FIRST_SECONDS = 1.0
BETWEEN_SECONDS = 3600.0
# So many rows go at once: the queue waits meanwhile.
ROWS_AT_ONCE = 2000


class Pruning:
    """Prunes soon after the start, then every hour."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._folder = arbiter.folder
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        arbiter.timers.after(FIRST_SECONDS, self._prune)

    def _prune(self) -> None:
        kept = int(self._arbiter.settings["keep_history"])
        awaited = self._arbiter.order.awaited_by_anybody()
        removed = self._store.prune(kept, ROWS_AT_ONCE, awaited, self._keep) if kept else 0
        if removed:
            log("prune", f"{removed} rows")
        self._turn.do(self._prune_logs)
        self._timers.after(FIRST_SECONDS if removed == ROWS_AT_ONCE else BETWEEN_SECONDS, self._prune)

    def _keep(self, forgotten: Totals) -> None:
        totals = self._arbiter.notes.totals
        totals.put(totals.get().plus(forgotten))

    def _prune_logs(self) -> None:
        live = {job.id for job in self._store.live.values() if job.state is not JobState.ENDED}
        kept_seconds = float(self._arbiter.settings["keep_logs"])
        young = self._store.ended_within(kept_seconds)
        limit = room = int(self._arbiter.settings["keep_logs_size"])
        for name, size, changed_at in self._logs(live):
            room -= size if size <= limit else 0  # one that cannot be kept at all takes nobody else along
            old = file_age(changed_at) > kept_seconds and int(name.removesuffix(".log")) not in young
            if old or room < 0 or size > limit:
                with contextlib.suppress(OSError):
                    os.unlink(f"{LOGS}/{name}", dir_fd=self._folder.fd)
                    log("prune", f"{LOGS}/{name}")

    def _logs(self, live: set[int]) -> list[tuple[str, int, float]]:
        """Return the logs of ended jobs, the latest first."""
        found = []
        try:
            folder = os.open(LOGS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._folder.fd)
        except OSError:
            return []
        try:
            for name in os.listdir(folder):
                number = name.removesuffix(".log")
                if number.isdigit() and int(number) not in live:
                    with contextlib.suppress(OSError):
                        facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                        found.append((name, facts.st_size, facts.st_mtime))
        finally:
            os.close(folder)
        return sorted(found, key=lambda each: each[2], reverse=True)
