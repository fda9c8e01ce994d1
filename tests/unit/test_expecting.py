"""What a job is expected to need, and on what that rests."""

from hypothesis import given
from hypothesis import strategies as st

from gpuwrap.model import Basis
from gpuwrap.policy.expecting import REMEMBERED, Asked, Experience, PastRun
from gpuwrap.policy.use import Use

DAY = 86400.0


def runs(*seconds: float, owner: str = "anna", command: str | None = None, gpus: int = 1) -> list[PastRun]:
    return [PastRun(owner, command, gpus, each) for each in seconds]


def test_a_limit_says_what_is_left_whatever_else_is_known() -> None:
    known = Experience(runs(10, 20, 30, command="x"))
    found = known.expect(Asked("anna", "x", 1, ran_seconds=100, limit_seconds=3600))
    assert (found.seconds, found.basis) == (3500, Basis.LIMIT)


def test_a_guess_may_be_exceeded() -> None:
    found = Experience().expect(Asked("anna", None, 1, ran_seconds=900, guess_seconds=600))
    assert (found.seconds, found.basis) == (900, Basis.GUESS)


def test_a_command_that_ran_before_is_expected_to_take_as_long_on_average() -> None:
    known = Experience([*runs(100, 300, command="x"), *runs(*[9000] * 20)])
    found = known.expect(Asked("anna", "x", 1))
    assert (found.seconds, found.basis, found.runs) == (200, Basis.COMMAND, 2)
    assert known.expect(Asked("anna", "x", 1, ran_seconds=200)).seconds == 100, "the shorter one says nothing any more"


def test_unfinished_rows_of_a_sweep_count_as_twice_what_they_have_run() -> None:
    found = Experience().expect(Asked("anna", "x", 1, rows=(1000.0, 1500.0)))
    assert (found.seconds, found.basis, found.runs) == (2500, Basis.SWEEP, 2)


def test_of_an_unknown_command_its_owners_jobs_of_as_many_gpus_speak_then_all_of_his_then_everybodys() -> None:
    known = Experience([*runs(*[60] * 6), *runs(*[3000] * 6, gpus=4), *runs(*[500] * 6, owner="ben")])
    asked = ("anna", 4), ("anna", 2), ("x", 1)
    by_gpus, all_of_his, everybody = (known.expect(Asked(owner, None, gpus)) for owner, gpus in asked)
    assert by_gpus.seconds > all_of_his.seconds > everybody.seconds
    assert {each.basis for each in (by_gpus, all_of_his, everybody)} == {Basis.OWNER}


def test_where_nothing_is_known_as_much_is_expected_as_it_has_run() -> None:
    found = Experience().expect(Asked("anna", None, 1, ran_seconds=5000))
    assert (found.seconds, found.basis) == (5000, Basis.SO_FAR)


def test_who_may_end_soon_is_ranked_before_what_is_expected_on_average() -> None:
    known = Experience(runs(*[60] * 50, *[90_000] * 10))
    young, old = known.expect(Asked("anna", None, 1)), known.expect(Asked("anna", None, 1, ran_seconds=600))
    assert young.index < young.seconds / 10
    assert old.index > 10 * young.index


@given(st.lists(st.floats(1, 1e6), max_size=400), st.floats(0, 1e6))
def test_an_expectation_is_always_some_time_and_a_range_around_nothing_negative(seconds: list[float], ran: float) -> None:
    known = Experience(runs(*seconds))
    found = known.expect(Asked("anna", None, 1, ran))
    assert found.seconds > 0
    assert found.index > 0
    assert 0 <= found.low <= found.high
    assert found == Experience(runs(*seconds[-REMEMBERED:])).expect(Asked("anna", None, 1, ran))


def test_use_fades_by_half_in_a_day() -> None:
    use = Use()
    use.add("anna", 100.0, 0.0)
    use.add("ben", 100.0, DAY)
    assert use.of("anna", DAY) == 50
    burdens = use.burdens(["anna", "ben", "carla"], DAY)
    assert burdens["ben"] == 2 * burdens["anna"] == 2.0
    assert burdens["carla"] == 0.1
