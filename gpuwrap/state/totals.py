"""What jobs come to, asked of the database: by the arbiter of those that it forgets, by metrics of all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..accounts.totals import Totals
from ..restarts import GAVE_WAY
from .schema import FIRST_WAITS, GAVE_WAY_BY, RESULTS, USE

_MEANS = {"paused": "pause", "suspended": "suspend", "waiting": "evict"}
Fetch = Callable[[str, Mapping[str, Any]], list[Any]]


def totals_of(fetch: Fetch, job_ids: Sequence[int] | None, now_mono: float, boot: str) -> Totals:
    """Return the sums of some jobs, None of all."""
    totals = Totals()
    numbers = None if job_ids is None else ", ".join(map(str, job_ids))
    jobs, moves = ("1", "1") if numbers is None else (f"id IN ({numbers})", f"job_id IN ({numbers})")
    values = {"now": now_mono, "boot": boot, "gave_way": GAVE_WAY}
    for result, count in fetch(RESULTS.format(jobs, moves), {}):
        totals.results[result] = totals.results.get(result, 0) + count
    for state, count in fetch(GAVE_WAY_BY.format(jobs, moves), values):
        totals.means[_MEANS[state]] += count
    totals.add_waits(seconds for (seconds,) in fetch(FIRST_WAITS.format(jobs, moves), {}))
    totals.users = {user: seconds for user, seconds in fetch(USE.format(jobs, moves), values)}
    return totals
