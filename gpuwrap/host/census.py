"""Every process of the machine as of one moment, and after that only those that have come since.

Whoever looks for the processes of several jobs, or again and again until no new one comes, reads each of them once: a
stat line costs 24 µs [tested], the list of pids next to nothing.
"""

import os
import time

from .processes import Stat, everybody, read_stat


class Census:
    """All processes that can be seen, by pid."""

    def __init__(self) -> None:
        self.taken_mono = time.monotonic()
        self.stats: dict[int, Stat] = {stat.pid: stat for stat in everybody()}

    def news(self) -> list[Stat]:
        """Return those that were not there at the last look, in order of pid; who has gone is forgotten."""
        pids = {int(name) for name in os.listdir("/proc") if name.isdigit()}
        for pid in self.stats.keys() - pids:
            del self.stats[pid]
        new = [stat for pid in sorted(pids - self.stats.keys()) if (stat := read_stat(pid)) is not None]
        self.stats.update((stat.pid, stat) for stat in new)
        return new

    def all_orphaned(self, groups: set[int]) -> bool:
        """Whether no member of these process groups has a parent in another group of its session [POSIX, orphaned group].

        A stopped member of a group that becomes orphaned is hung up; of one that is orphaned already nothing more can happen.
        """
        for stat in self.stats.values():
            if stat.group in groups:
                parent = self.stats.get(stat.parent)
                if parent is not None and parent.session == stat.session and parent.group != stat.group:
                    return False
        return True
