"""How many are let in at a claim, and how often a release counts."""

import pytest

from gpuwrap.arbiter.worlds.crowding import ANY_RELEASE_SECONDS, MOST_IN_ALL, MOST_OF_A_USER, RELEASE_SECONDS, Guests, Heeded


def test_of_a_user_only_a_few_are_let_in_at_each_claim() -> None:
    guests = Guests(20000)
    assert [guests.admit("A", 7) for _ in range(MOST_OF_A_USER + 1)] == [True] * MOST_OF_A_USER + [False]
    assert guests.admit("B", 7)
    assert guests.admit("A", 8)
    guests.leave("A", 7)
    assert guests.admit("A", 7)
    assert not guests.admit("A", 7)


@pytest.mark.parametrize(("descriptors", "most"), [(20000, MOST_IN_ALL), (1024, 128), (256, 32), (4, 1)])
def test_in_all_there_is_a_bound_that_leaves_descriptors_for_others(descriptors: int, most: int) -> None:
    guests = Guests(descriptors)
    let_in = [uid for uid in range(2 * MOST_IN_ALL) if guests.admit("A", uid)]
    assert len(let_in) == most
    assert not guests.has_room()
    guests.leave("A", let_in[0])
    assert guests.admit("A", 10_000)


def test_a_release_counts_at_once_and_the_next_of_that_user_a_second_later() -> None:
    heeded = Heeded()
    assert heeded.seconds_until("A", 7, 100.0) == 0
    assert heeded.seconds_until("A", 7, 100.25) == pytest.approx(RELEASE_SECONDS - 0.25)
    # It counts then, and what comes after it waits for another second.
    assert heeded.seconds_until("A", 7, 101.5) == pytest.approx(RELEASE_SECONDS - 0.5)
    assert heeded.seconds_until("A", 7, 200.0) == 0


def test_worlds_that_hand_a_gpu_to_each_other_are_heeded_each() -> None:
    heeded = Heeded()
    waits = [heeded.seconds_until("A", uid, 10 + 0.3 * number) for number, uid in enumerate((1, 2, 3, 4, 1))]
    assert waits == [0] * 5
    assert heeded.seconds_until("B", 1, 11.3) == 0


def test_with_thousands_of_users_one_is_not_heeded_more_often_than_ten_times_a_second() -> None:
    heeded = Heeded()
    heeded.seconds_until("A", 0, 10.0)
    waits = [heeded.seconds_until("A", uid, 10.001) for uid in range(1, 50)]
    assert waits[0] == pytest.approx(ANY_RELEASE_SECONDS - 0.001)
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(49 * ANY_RELEASE_SECONDS - 0.001)
