"""What has been since the first job, as sums that only grow: results, waits, use by user, who gave way and how.

Ended jobs are forgotten after a while: what they came to is kept as text, and added to what is still there.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable

# Seconds; the last bucket has no end.
BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 3 * 86400.0)
MEANS = ("pause", "suspend", "evict")
RESULTS = ("success", "failure", "signal", "lost", "unknown", "cancelled", "wait-limit")


class Totals:
    """Sums. `waits` counts by bucket, `users` are in the order in which they came."""

    def __init__(self) -> None:
        self.results = dict.fromkeys(RESULTS, 0)
        self.means = dict.fromkeys(MEANS, 0)
        self.waits = [0] * (len(BUCKETS) + 1)
        self.waited_seconds = 0.0
        self.users: dict[str, float] = {}

    def add_waits(self, waits: Iterable[float]) -> None:
        """Count for how long jobs waited for their first start."""
        for seconds in waits:
            self.waits[bisect_left(BUCKETS, seconds)] += 1
            self.waited_seconds += seconds

    def add(self, other: "Totals") -> None:
        """Add other sums."""
        for mine, its in ((self.results, other.results), (self.means, other.means)):
            for name, count in its.items():
                mine[name] = mine.get(name, 0) + count
        self.waits = [a + b for a, b in zip(self.waits, other.waits, strict=True)]
        self.waited_seconds += other.waited_seconds
        for user, seconds in other.users.items():
            self.users[user] = self.users.get(user, 0.0) + seconds

    def plus(self, other: "Totals") -> "Totals":
        """Return the sums of both."""
        both = Totals()
        both.add(self)
        both.add(other)
        return both

    def text(self) -> str:
        """Write them down."""
        return json.dumps([self.results, self.means, self.waits, round(self.waited_seconds, 3), self.users])

    @classmethod
    def remembered(cls, text: str) -> "Totals":
        """Read what `text` wrote; nothing of what it did not. Raises ValueError."""
        totals = cls()
        if text:
            try:
                results, means, waits, waited, users = json.loads(text)
                totals.results |= results
                totals.means |= means
                totals.waits = [int(count) for count in waits] if len(waits) == len(totals.waits) else totals.waits
                totals.waited_seconds, totals.users = float(waited), {str(user): float(each) for user, each in users.items()}
            except (TypeError, AttributeError) as err:
                raise ValueError(text) from err
        return totals
