"""`history --replay`: what another order would have made of the jobs that have ended."""

from collections.abc import Sequence

from ..errors import UsageError
from ..model import Job, Order
from ..policy.hindsight import LEAST_JOBS, Came, gain, played, recorded
from ..tables import Screen, Table, draw
from ..units import format_duration

# So many of the latest are played: each event looks at all in line, and a thousand that all wait take 15 s.
MOST_JOBS = 400


def orders_of(word: object) -> list[Order]:
    """Return the orders to play: arrival first, then the one that was asked for, or all. Raises UsageError."""
    if word is None:
        return list(Order)
    if word not in [order.value for order in Order]:
        raise UsageError(f"order {word}: arrival, shortest or fair")
    return list(dict.fromkeys((Order.ARRIVAL, Order(word))))


def replayed(jobs: Sequence[Job], orders: Sequence[Order], screen: Screen) -> list[str]:
    """Return the lines to show."""
    gpus, again = recorded(jobs)
    again = again[-MOST_JOBS:]
    if not again:
        return ["no jobs"]
    came = [played(gpus, again, order) for order in orders]
    rows = [
        [each.order.value, *map(format_duration, (each.wait_mean, each.took_mean, each.wait_longest)), str(each.preemptions)]
        for each in came
    ]
    count = f"{len(again)} job{'s' * (len(again) > 1)} on {gpus} GPU{'s' * (gpus > 1)}, played again:"
    lines = [count, *draw(Table(["ORDER", "WAITED", "TOOK", "LONGEST WAIT", "GAVE WAY"], rows, [""] * len(rows)), screen)]
    told = [text for each in came[1:] if (text := _gain(came[0], each))]
    return [*lines, *told]


def advice(jobs: Sequence[Job]) -> str | None:
    """Say what the order `shortest` would have brought, where that is much; None where it is not, or nobody can say."""
    gpus, again = recorded(jobs)
    if len(again) < LEAST_JOBS:
        return None
    text = gain(played(gpus, again, Order.ARRIVAL), played(gpus, again, Order.SHORTEST))
    return None if text is None else f"your last {len(again)} jobs would have waited {text} with order = \"shortest\""


def _gain(arrival: Came, other: Came) -> str | None:
    text = gain(arrival, other)
    return None if text is None else f"with order = \"{other.order.value}\" they would have waited {text}"
