"""The children of those who may adopt orphans, most of which were there before: only who came since is read.

1. A process's children stand in the order in which they came: fork and adoption append [Linux kernel/fork.c, kernel/exit.c].
   So who comes after the last one that is known to be still the same is new, and nobody before it is.
2. A pid may have been taken again meanwhile, by one that came later: the last that is taken for known is read again.
3. An orphan goes to the nearest ancestor that adopts [prctl(2), PR_SET_CHILD_SUBREAPER], which nobody can be asked about.
   We are an orphan ourselves: whoever stands between the one that summoned us and the one that adopted us does not,
   unless it asks for that later. (The one that summoned us may well: it may become a stub.)
"""

import os
from collections.abc import Container, Iterable

from ..model import Identity
from .processes import Stat, ancestors, children, read_stat

# Of fewer children all are read: that costs no more.
_WORTH_REMEMBERING = 8
_MOST_REMEMBERED = 32


class Adopters:
    """Remembers when the children of init, and of others with many, began."""

    def __init__(self) -> None:
        self._known: dict[int, list[tuple[int, int]]] = {}
        self._born_below: list[Stat] = []
        self._ordinary: set[tuple[int, int]] | None = None

    def note_birth(self, summoners: list[Stat]) -> None:
        """Remember who summoned this process, with its ancestors. Who adopts it is known once they have let it go."""
        self._born_below = summoners

    def among(self, reapers: Iterable[Identity]) -> set[int]:
        """Return the pids of those that may adopt, init always, among the ancestors of a process."""
        if self._ordinary is None:
            self._ordinary = self._find_ordinary()
        return {each.pid for each in reapers if (each.pid, each.start_ticks) not in self._ordinary} | {1}

    def _find_ordinary(self) -> set[tuple[int, int]]:
        """Find those that passed this process on when it lost its parent."""
        adopter = next(iter(ancestors(os.getppid())), None)
        born_below = [(stat.pid, stat.start_ticks) for stat in self._born_below]
        if adopter is None or (adopter.pid, adopter.start_ticks) not in born_below:
            return set()
        return set(born_below[1 : born_below.index((adopter.pid, adopter.start_ticks))])

    def young(self, adopter: int, start_ticks: int, others: Container[int]) -> list[Stat]:
        """Return the children of a process that began at or after a time since boot, in clock ticks, but for `others`."""
        pids = [pid for pid in children(adopter) if pid not in others]
        known = _still_there(self._known.pop(adopter, []), pids)
        found = [stat for pid, began in known if began >= start_ticks and (stat := read_stat(pid)) is not None]
        new = [stat for pid in pids[len(known) :] if (stat := read_stat(pid)) is not None]
        if len(pids) >= _WORTH_REMEMBERING:
            self._known[adopter] = known + [(stat.pid, stat.start_ticks) for stat in new]
            for oldest in list(self._known)[:-_MOST_REMEMBERED]:
                del self._known[oldest]
        return found + [stat for stat in new if stat.start_ticks >= start_ticks]


def _still_there(known: list[tuple[int, int]], pids: list[int]) -> list[tuple[int, int]]:
    """Return those known that a list of children begins with, less those that have gone."""
    left = iter(known)
    there: list[tuple[int, int]] = []
    for pid in pids:
        match = next((each for each in left if each[0] == pid), None)
        if match is None:
            break
        there.append(match)
    while there:
        pid, began = there[-1]
        stat = read_stat(pid)
        if stat is not None and stat.start_ticks == began:
            break
        there.pop()
    return there
