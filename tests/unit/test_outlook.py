"""What `why` says of a place in an order that goes by what jobs need."""

from dataclasses import replace

import pytest
from views import NOW, gpus, running, share, waiting

from gpuwrap.arbiter.telling.lined_up import lined_up
from gpuwrap.model import Basis, Expected, Job, Order, View
from gpuwrap.policy.outlook import needs, outlook, told_starts
from gpuwrap.policy.plan import plan
from gpuwrap.policy.ranks import by_place
from gpuwrap.policy.story import Storyteller
from gpuwrap.standing import Standing

HOUR = 3600.0


def expects(seconds: float, basis: Basis = Basis.COMMAND, runs: int = 12) -> Expected:
    return Expected(seconds, seconds, seconds * 0.8, seconds * 1.5, basis, runs)


def view(*jobs: Job, order: Order = Order.SHORTEST, **expected: Expected) -> View:
    known = {int(name[1:]): each for name, each in expected.items()}
    return View(gpus(1), (running(1, share(0)), *jobs), order=order, expected={1: expects(HOUR), **known})


def told(seen: View, number: int) -> list[str]:
    """What is said of a job after it was planned."""
    made = plan(seen, NOW)
    assert not made.actions
    job = next(job for job in seen.jobs if job.id == number)
    order = list(made.reasons)
    before = order[: order.index(number)]
    teller = Storyteller(seen, NOW, 0.0)
    assert teller.sentences(made.reasons[number], job)
    return [text.partition(" between ")[0] for text in teller.outlook(made.reasons[number], job, before)]


def test_a_place_is_told_with_what_it_rests_on_and_who_is_before() -> None:
    seen = view(waiting(2), waiting(3), waiting(4), n2=expects(2 * HOUR), n3=expects(600.0), n4=expects(60.0))
    assert told(seen, 2) == [
        "it is 3rd: expected to need 2 h (12 runs of its command took 1 h 36 min to 3 h);"
        " before it: jobs 3 and 4, expected to need less",
        "expected to start",
    ]
    assert told(seen, 4)[0] == "it is 1st: expected to need 1 min (12 runs of its command took 48 s to 1 min)"


def test_of_a_higher_priority_it_is_not_said_that_it_needs_less() -> None:
    seen = view(waiting(2), waiting(3, priority=10), n2=expects(60.0), n3=expects(HOUR))
    assert told(seen, 2)[0].endswith("; before it: job 3")


def test_who_is_due_hears_that_nobody_passes_it() -> None:
    old = replace(waiting(2), submitted_mono=NOW - 4 * 86400)
    seen = view(old, waiting(3), n2=expects(HOUR), n3=expects(60.0))
    assert told(seen, 2) == ["nobody passes it any more: it has waited for 4 d", "expected to start"]
    assert "; before it: job 2, which nobody passes any more" in told(seen, 3)[0]


def test_where_nothing_is_known_no_start_is_told() -> None:
    seen = view(waiting(2), n2=expects(600.0, Basis.SO_FAR, 0))
    assert told(seen, 2) == ["it is 1st: nothing is known of what it needs"]
    blind = replace(seen, expected={2: expects(600.0)})
    assert [text[:9] for text in told(blind, 2)] == ["it is 1st"]


def test_in_order_of_arrival_nothing_of_it_is_told() -> None:
    seen = view(waiting(2), order=Order.ARRIVAL, n2=expects(600.0))
    assert told(seen, 2) == []
    assert outlook(replace(seen, order=Order.FAIR, expected={}), waiting(2), 1, [], NOW, str) == []


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        (expects(90.0, Basis.LIMIT), "expected to need 1 min (its time limit)"),
        (expects(90.0, Basis.GUESS), "expected to need 1 min (--expect)"),
        (expects(2400.0, Basis.SWEEP), "expected to need 40 min (12 rows of its sweep took 32 min to 1 h)"),
        (expects(2400.0, Basis.COMMAND, 1), "expected to need 40 min (1 run of its command took 32 min to 1 h)"),
        (expects(2400.0, Basis.OWNER, 7), "expected to need 40 min (7 jobs before it took 32 min to 1 h)"),
    ],
)
def test_each_basis_is_named(expected: Expected, text: str) -> None:
    assert needs(expected) == text


def test_a_list_is_told_in_how_long_those_start_of_whom_something_is_known() -> None:
    seen = view(waiting(2), waiting(3), n2=expects(2 * HOUR), n3=expects(600.0, Basis.SO_FAR))
    made = plan(seen, NOW)
    starts = told_starts(seen, NOW)
    assert list(starts) == [2]
    text = lined_up({None: made}, {job.id: job for job in seen.jobs[1:]}, [], None, starts)
    standing = Standing.read(text)
    assert standing.places == {3: 1, 2: 2}
    assert standing.starts == {2: round(starts[2])}
    assert told_starts(replace(seen, expected={}), NOW) == {}


def test_the_line_of_verbs_is_sorted_as_the_plan_does() -> None:
    jobs = [waiting(2), waiting(3), waiting(4, priority=10), replace(waiting(5), submitted_mono=NOW - 6 * 86400)]
    seen = view(*jobs, n2=expects(HOUR), n3=expects(60.0), n4=expects(HOUR), n5=expects(2 * HOUR))
    assert [job.id for job in sorted(jobs, key=by_place(seen, NOW))] == list(plan(seen, NOW).reasons) == [4, 5, 3, 2]
    arrival = replace(seen, order=Order.ARRIVAL)
    assert [job.id for job in sorted(jobs, key=by_place(arrival, NOW))] == list(plan(arrival, NOW).reasons)
    assert next(job.id for job in sorted(jobs, key=by_place(None, NOW))) == 4
