"""Whose client may be out of reach is known without a look at each seat."""

import pytest
from family import kin_of

from gpuwrap.arbiter.bell.seat import Seat
from gpuwrap.arbiter.seeing.observe import Observer
from gpuwrap.host.devices import Look
from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, Identity, Job, Request

LOOK = Look((), 1.0)


def waiting(number: int) -> Job:
    who = Identity("boot", 1, number, 3)
    return Job(number, "key", None, "anna", JobState.WAITING, 0, Request(), who, (b"python",), b"/", 1.5)


@pytest.mark.parametrize("told", [True, False], ids=["by the seats", "by looking"])
def test_stopped_and_absent_are_found_and_found_back(told: bool) -> None:
    away: set[int] = set()
    jobs = {number: waiting(number) for number in range(1, 6)}
    seats = {number: Seat(number, number, away) for number in range(1, 5)}
    observer = Observer(jobs, {}, seats, *kin_of(jobs, {}), nested={}, away=away if told else None)

    def passed_over() -> tuple[set[int], set[int]]:
        view = observer.outer_view(LOOK, {}, frozenset(), Bounds())
        return set(view.stopped), set(view.absent)

    assert passed_over() == (set(), {1, 2, 3, 4, 5})  # nobody is there yet; the fifth has not even a seat
    for seat in seats.values():
        seat.connection = object()  # type: ignore[assignment]
    assert passed_over() == (set(), {5})
    assert not told or away == set()
    seats[1].stopped = True
    seats[2].mute = True
    seats[3].connection = None
    assert passed_over() == ({1}, {2, 3, 5})
    seats[1].mute = True
    assert passed_over() == (set(), {1, 2, 3, 5})
    seats[1].stopped = seats[1].mute = seats[2].mute = False
    seats[3].connection = object()  # type: ignore[assignment]
    assert passed_over() == (set(), {5})
    del jobs[5]
    assert passed_over() == (set(), set())
    seats[4].stopped = True
    seats[4].stopped = False
    assert passed_over() == (set(), set())
    assert not told or away == set()
