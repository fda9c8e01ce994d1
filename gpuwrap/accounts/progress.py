"""How far a sweep is, and how long the rest may take.

Lists read this module: it imports nothing but the vocabulary.
"""

from ..units import format_duration

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Iterable

WAITS = ("waiting", "held")


class Progress:
    """The rows of one sweep: how many there are, how many have ended (`done`), failed, never ran, run and wait.

    `left_seconds`: how long the rest takes if its rows take as long as those that ran to their end, and as many run at once as
    now; None while none has, or none runs.
    """

    __slots__ = ("done", "failed", "left_seconds", "name", "never_ran", "run", "total", "waits")

    def __init__(self, name: str, rows: "Iterable[tuple[str, bool, bool, int, float]]") -> None:
        """Count alike rows: their state, whether they started, whether they failed, how many, for how long together.

        Each row that runs comes alone.
        """
        self.name = name
        self.total = self.done = self.failed = self.never_ran = self.run = self.waits = 0
        took, succeeded = 0.0, 0
        runs: list[float] = []
        for state, started, failed, count, seconds in rows:
            self.total += count
            if state == "ended":
                self.done += count
                self.failed += count if failed else 0
                self.never_ran += 0 if started or failed else count
                if started and not failed:
                    took += seconds
                    succeeded += count
            elif state in WAITS:
                self.waits += count
            else:
                self.run += count
                runs.append(seconds)
        self.left_seconds: float | None = None
        if succeeded and runs:
            usual = took / succeeded
            work = self.waits * usual + sum(max(0.0, usual - seconds) for seconds in runs)
            self.left_seconds = work / len(runs)

    @property
    def is_over(self) -> bool:
        """Whether all rows have ended."""
        return self.done == self.total

    def words(self) -> str:
        """Say it: `12 of 40 done, 1 failed, 4 run, about 9 min left`."""
        parts = [f"{self.done} of {self.total} done"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.never_ran} never ran"] if self.never_ran else []
        parts += [f"{self.run} run{'s' if self.run == 1 else ''}"] if self.run else []
        parts += [f"about {format_duration(self.left_seconds)} left"] if self.left_seconds is not None else []
        return ", ".join(parts)
