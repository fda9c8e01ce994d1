"""What a job is expected to need: from what its owner said, from what its command took before, from what its owner's jobs took.

1. Only runs that have ended, and how long it and the other rows of its sweep have run so far, are looked at: nothing here can
   know how long a job will take.
2. The better basis wins, and they are never mixed: a limit or a guess · earlier runs of the command and rows of the sweep ·
   the owner's recent jobs, those of as many GPUs first · everybody's · what it has run so far, once more.
3. Every expectation is of what is left, given what has run: of five runs, those that were shorter say nothing any more.
"""

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..model import Basis, Expected

# So many runs are remembered of an owner, and of a command.
REMEMBERED = 300
# Fewer runs than this that lasted longer say too little of an owner's next job.
LEAST_OWNER, LEAST_COMMAND = 5, 1
# Whoever has just begun may need this much, whatever is known.
UNKNOWN_SECONDS = 600.0
# Unfinished rows of a sweep count as this many times what they have run.
UNFINISHED = 2
LOW, HIGH = 0.2, 0.8
# Limits are given with room to spare, and guesses too: this part of them is mostly needed.
SAID_PART = 0.2
# So little is left, at least, of a job that nobody ends at its limit.
LEAST_SECONDS = 1.0


class PastRun(NamedTuple):
    """A job that has ended by itself: whose it was, what its command is known by, and for how long it ran."""

    owner: str
    fingerprint: str | None
    gpus: int
    seconds: float


class Asked(NamedTuple):
    """What is known of a job whose need is asked for.

    `rows`: how long those rows of its sweep have run that have not ended; `ended_rows`: how long the others took.
    """

    owner: str
    fingerprint: str | None
    gpus: int
    ran_seconds: float = 0.0
    limit_seconds: float | None = None
    guess_seconds: float | None = None
    rows: tuple[float, ...] = ()
    ended_rows: tuple[float, ...] = ()


class _Recent:
    """The durations of the last runs of one kind, in order, and what was worked out from them."""

    __slots__ = ("found", "known", "ordered", "recent")

    def __init__(self) -> None:
        self.recent: deque[float] = deque()
        self.ordered: list[float] = []
        self.found: dict[float, Expected] = {}
        self.known = 0

    def add(self, seconds: float) -> None:
        self.recent.append(seconds)
        insort(self.ordered, seconds)
        if len(self.recent) > REMEMBERED:
            del self.ordered[bisect_left(self.ordered, self.recent.popleft())]
        self.found.clear()

    def longer_than(self, seconds: float) -> int:
        return len(self.ordered) - bisect_right(self.ordered, seconds)


class Experience:
    """What was learned from runs that have ended."""

    def __init__(self, runs: Iterable[PastRun] = ()) -> None:
        self._kinds: dict[object, _Recent] = {}
        for run in runs:
            self.add(run)

    def add(self, run: PastRun) -> None:
        """Note a run, the latest so far."""
        for kind in self._kinds_of(run.owner, run.fingerprint, run.gpus):
            self._kinds.setdefault(kind, _Recent()).add(run.seconds)

    def expect(self, asked: Asked) -> Expected:
        """Say what is left of a job."""
        ran = asked.ran_seconds
        for said, basis in ((asked.limit_seconds, Basis.LIMIT), (asked.guess_seconds, Basis.GUESS)):
            if said is not None:
                left = max(said - ran, LEAST_SECONDS if basis is Basis.LIMIT else ran)
                return Expected(left, left, left * SAID_PART, left, basis)
        command = self._kinds.get(("command", asked.fingerprint)) if asked.fingerprint is not None else None
        ran_before = asked.ended_rows or (command.ordered if command is not None else ())
        alike = sorted([*ran_before, *(UNFINISHED * row for row in asked.rows)])
        if len(alike) - bisect_right(alike, ran) >= LEAST_COMMAND:
            return _mean(alike, ran, Basis.SWEEP if asked.rows or asked.ended_rows else Basis.COMMAND)
        for kind in self._kinds_of(asked.owner, None, asked.gpus):
            recent = self._kinds.get(kind)
            if recent is not None and recent.longer_than(ran) >= LEAST_OWNER:
                found = recent.found.get(ran)
                if found is None:
                    found = recent.found[ran] = _index(recent.ordered, ran)
                return found
        left = max(ran, UNKNOWN_SECONDS)
        return Expected(left, left, left / 4, left * 4)

    @staticmethod
    def _kinds_of(owner: str, fingerprint: str | None, gpus: int) -> list[object]:
        named: list[object] = [] if fingerprint is None else [("command", fingerprint)]
        return [*named, ("owner", owner, gpus), ("owner", owner), "all"]


def _mean(ordered: Sequence[float], ran: float, basis: Basis) -> Expected:
    longer = ordered[bisect_right(ordered, ran) :]
    mean = sum(longer) / len(longer) - ran
    return Expected(mean, mean, _quantile(longer, LOW) - ran, _quantile(longer, HIGH) - ran, basis, len(longer))


def _index(ordered: Sequence[float], ran: float) -> Expected:
    """Return what is left, ranked by the best that a job can be given: the least time for each chance that it ends within it.

    That is Gittins' index, from the runs that were longer and one more of which nothing is known.
    """
    longer = ordered[bisect_right(ordered, ran) :]
    unknown, so_far, best, count = max(ran, UNKNOWN_SECONDS), 0.0, float("inf"), len(longer) + 1
    lefts = [seconds - ran for seconds in longer]
    insort(lefts, unknown)
    for ended, left in enumerate(lefts, 1):
        so_far += left
        value = (so_far + (count - ended) * left) / ended
        if value < best:
            best = value
    return Expected(so_far / count, best, _quantile(lefts, LOW), _quantile(lefts, HIGH), Basis.OWNER, len(longer))


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
