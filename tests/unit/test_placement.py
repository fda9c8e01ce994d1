"""What is left on a GPU, and which GPUs are chosen."""

import pytest
from views import GIB, HEADROOM, NOW, TOTAL, foreign, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, ComputeMode, Gpu, Job, Request, Rule, View
from gpuwrap.policy.choosing import best_connected
from gpuwrap.policy.placement import (
    FOREIGN_GROWTH_BYTES,
    Holder,
    Room,
    Shape,
    largest,
    unexplained_bytes,
)
from gpuwrap.policy.plan import plan
from gpuwrap.units import MIB


def room(card: Gpu, *holders: Holder, **bounds: int) -> Room:
    made = Room(card, Bounds(**bounds))
    for holder in holders:
        made.hold(holder)
    made.settle()
    return made


def asks(**request: object) -> Shape:
    return Shape.of(Request(**request))  # type: ignore[arg-type]


def placed(cards: tuple[Gpu, ...], *jobs: Job, **view: object) -> dict[int, tuple[int, ...]]:
    result = plan(View(cards, jobs, **view), NOW)  # type: ignore[arg-type]
    return {action.job_id: tuple(each.index for each in action.shares) for action in result.actions}


# What is left.


def test_what_is_promised_but_not_yet_used_is_not_available() -> None:
    card = gpu(free_bytes=20 * GIB, used={1: 4 * GIB})
    assert room(card, Holder(1, 10 * GIB), keep_free_bytes=HEADROOM).available == 14 * GIB - HEADROOM


def test_a_job_that_uses_more_than_promised_takes_what_it_uses() -> None:
    assert room(gpu(free_bytes=10 * GIB, used={1: 14 * GIB}), Holder(1, 8 * GIB)).available == 10 * GIB


def test_a_holder_without_a_figure_is_counted_with_all_it_was_promised() -> None:
    assert room(gpu(free_bytes=20 * GIB, used={1: None}), Holder(1, 8 * GIB)).available == 12 * GIB


def test_room_is_left_for_foreign_processes_to_grow_to_what_they_once_held() -> None:
    card = gpu(free_bytes=20 * GIB, foreign=(foreign(size=4 * GIB),), foreign_peak_bytes=6 * GIB)
    assert room(card).available == 18 * GIB - FOREIGN_GROWTH_BYTES
    card = gpu(free_bytes=20 * GIB, foreign=(foreign(size=None),), foreign_peak_bytes=6 * GIB)
    assert room(card).available == 20 * GIB - FOREIGN_GROWTH_BYTES
    assert room(gpu(foreign_peak_bytes=6 * GIB)).available == TOTAL


@pytest.mark.parametrize("figure", ["free_bytes", "total_bytes"])
@pytest.mark.parametrize("request_", [{}, {"memory_bytes": 1}, {"memory_percent": 1.0}])
def test_unknown_is_never_free(figure: str, request_: dict[str, object]) -> None:
    card = room(gpu(**{figure: None}))
    assert not card.fits(asks(**request_))
    obstacle = card.lasting(asks(**request_))
    assert obstacle is not None
    assert obstacle.rule is Rule.UNKNOWN


@pytest.mark.parametrize("state", [JobState.PAUSED, JobState.SUSPENDED])
def test_nothing_is_placed_beside_a_paused_job(state: JobState) -> None:
    paused = in_state(running(1, share(0, GIB, whole=False), m=1), state)
    result = plan(View(gpus(1), (paused, waiting(2, m=1), waiting(3))), NOW)
    assert not result.actions
    assert [result.reasons[each].rule for each in (2, 3)] == [Rule.BUSY, Rule.BUSY]


def test_a_whole_share_keeps_sharing_jobs_away() -> None:
    assert not room(gpu(), Holder(1, GIB, whole=True)).fits(asks(memory_bytes=1))


def test_a_request_about_as_large_as_the_card_means_all_of_it() -> None:
    card = room(gpu(total_bytes=TOTAL - 300 * MIB, free_bytes=TOTAL - 700 * MIB), keep_free_bytes=HEADROOM)
    for size in (TOTAL, TOTAL - 300 * MIB, TOTAL - HEADROOM):
        assert card.fits(asks(memory_bytes=size))
        assert card.share(asks(memory_bytes=size)) == share(0, TOTAL - 300 * MIB, whole=True)
    assert not card.fits(asks(memory_bytes=TOTAL + 1))
    assert card.fits(asks(memory_percent=100.0))


def test_what_the_driver_keeps_for_itself_is_not_usable() -> None:
    """No GPU ever has more left than that: `-m 23.6G` would wait for ever on an idle card."""
    card = room(gpu(free_bytes=TOTAL - 512 * MIB))
    for size in (TOTAL - 400 * MIB, TOTAL - 512 * MIB):
        assert card.fits(asks(memory_bytes=size))
        assert card.share(asks(memory_bytes=size)).whole
    assert not card.share(asks(memory_bytes=TOTAL - 513 * MIB)).whole
    beside_a_display = room(gpu(free_bytes=TOTAL - 900 * MIB, bystander_bytes=400 * MIB))
    assert beside_a_display.fits(asks(memory_bytes=TOTAL - 700 * MIB))
    # More than that is somebody's, and may come free.
    ignored = room(gpu(free_bytes=16 * GIB, bystander_bytes=8 * GIB))
    assert not ignored.fits(asks(memory_bytes=20 * GIB))


def test_a_percentage_is_of_each_gpu() -> None:
    half = asks(memory_percent=50.0)
    assert room(gpu()).share(half) == share(0, 12 * GIB, whole=False)
    assert room(gpu(total_bytes=80 * GIB, free_bytes=80 * GIB)).share(half).bytes == 40 * GIB


CARDS = [(80 * GIB, 512 * MIB), (TOTAL, 0), (TOTAL + 1, 300 * MIB), (141 * GIB, 626 * MIB), (4 * GIB, GIB)]


@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 16])
@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("kept", [0, HEADROOM])
@pytest.mark.parametrize("wavers", [0, 60 * MIB])
def test_as_many_jobs_fit_as_their_percentage_says(count: int, card: tuple[int, int], kept: int, wavers: int) -> None:
    """Whether each takes all that it was promised at once, or nothing yet, and if the driver's own part grows meanwhile."""
    total, reserved = card
    for takes in (True, False):
        granted: list[Holder] = []
        used: dict[int, int | None] = {}
        for number in range(1, count + 1):
            held = sum(each or 0 for each in used.values())
            own = reserved + (wavers if granted and total > 4 * GIB else 0)
            seen = gpu(total_bytes=total, free_bytes=total - own - held, used=used)
            here = room(seen, *granted, keep_free_bytes=kept)
            part = asks(memory_percent=100 / count)
            assert here.fits(part), (number, here.available, here.need(part))
            share = here.share(part)
            assert share.bytes <= here.available
            granted.append(Holder(number, share.bytes))
            used = used | ({number: share.bytes} if takes else {})
        here = room(gpu(total_bytes=total, free_bytes=total - reserved), *granted, keep_free_bytes=kept)
        assert not here.fits(asks(memory_percent=100 / count))


def test_an_exclusive_request_is_alone_but_needs_only_its_memory() -> None:
    alone = asks(memory_bytes=8 * GIB, exclusive=True)
    assert room(gpu()).share(alone) == share(0, TOTAL, whole=True)
    assert not room(gpu(), Holder(1, GIB)).fits(alone)
    card = gpu(total_bytes=12 * GIB, free_bytes=11 * GIB)
    assert room(card, keep_free_bytes=HEADROOM).fits(alone)
    card = gpu(total_bytes=12 * GIB, free_bytes=10 * GIB, bystander_bytes=2 * GIB)
    assert not room(card, keep_free_bytes=HEADROOM).fits(asks(memory_bytes=10 * GIB, exclusive=True))


def test_display_memory_does_not_block_a_whole_request() -> None:
    assert room(gpu(free_bytes=TOTAL - GIB)).fits(asks())
    assert not room(gpu(free_bytes=TOTAL - GIB - 1)).fits(asks())
    large = gpu(total_bytes=100 * GIB, free_bytes=97 * GIB)
    assert room(large).fits(asks())


def test_where_the_driver_names_no_processes_totals_decide() -> None:
    assert room(gpu(foreign=None)).fits(asks())
    assert not room(gpu(foreign=None, free_bytes=TOTAL - 3 * GIB)).fits(asks())
    assert room(gpu(foreign=None, free_bytes=TOTAL - 3 * GIB)).available == 21 * GIB - FOREIGN_GROWTH_BYTES


def test_memory_that_nobody_is_named_for_is_unknown_with_any_unknown_figure() -> None:
    assert unexplained_bytes(gpu(free_bytes=20 * GIB, used={1: GIB}, foreign=(foreign(size=GIB),))) == 2 * GIB
    assert unexplained_bytes(gpu(free_bytes=20 * GIB, used={1: None})) is None
    assert unexplained_bytes(gpu(foreign=(foreign(size=None),))) is None
    assert unexplained_bytes(gpu(free_bytes=None)) is None


def test_exclusive_process_mode_admits_one_job_paused_or_not() -> None:
    card = gpu(compute_mode=ComputeMode.EXCLUSIVE_PROCESS)
    small = asks(memory_bytes=GIB)
    assert room(card).fits(small)
    beside = room(card, Holder(1, GIB))
    assert not beside.fits(small)
    obstacle = beside.obstacle(small)
    assert obstacle is not None
    assert (obstacle.rule, obstacle.job_ids) == (Rule.COMPUTE_MODE, (1,))
    assert not room(card, Holder(1, GIB, paused=True)).fits(small)
    assert not room(gpu(compute_mode=ComputeMode.EXCLUSIVE_PROCESS, foreign=(foreign(),))).fits(small)


def test_managed_memory_that_the_driver_does_not_attribute_does_not_count_as_nobodys_while_a_job_runs() -> None:
    card = room(gpu(free_bytes=10 * GIB, used={1: GIB}), Holder(1, TOTAL, whole=True))
    assert card.lasting(asks()) is None
    assert card.lasting(asks(memory_bytes=20 * GIB)) is None


def test_the_largest_foreign_process_is_named_and_an_unknown_one_before_all() -> None:
    one, two, dark = foreign(1, GIB), foreign(2, 2 * GIB), foreign(3, None)
    assert largest((one, two)) is two
    assert largest((one, dark, two)) is dark


# Which GPUs are chosen.


def test_sharing_jobs_prefer_a_gpu_on_which_nobody_computes() -> None:
    holder = running(1, share(0, GIB, whole=False), m=1)
    assert placed(gpus(3), holder, waiting(2, m=2), waiting(3, m=2)) == {2: (1,), 3: (2,)}


def test_sharing_jobs_leave_the_empty_gpu_to_a_whole_gpu_job_in_line() -> None:
    holder = running(1, share(0, GIB, whole=False), m=1)
    assert placed(gpus(2), holder, waiting(2, m=2), waiting(3)) == {2: (0,), 3: (1,)}


def test_sharing_jobs_take_the_empty_gpu_if_there_is_no_other_room() -> None:
    holder = running(1, share(0, 23 * GIB, whole=False), m=23)
    assert placed(gpus(2), holder, waiting(2, m=2), waiting(3)) == {2: (1,)}


@pytest.mark.parametrize(
    "other", [waiting(3, allowed=frozenset({"GPU-0"})), in_state(waiting(3), JobState.HELD), waiting(3, count=3)]
)
def test_an_empty_gpu_is_left_only_to_jobs_that_could_use_it(other: Job) -> None:
    holder = running(1, share(0, GIB, whole=False), m=1)
    assert placed(gpus(2), holder, waiting(2, m=2), other) == {2: (1,)}


def test_among_shared_gpus_the_least_utilised_is_chosen_and_unknown_comes_last() -> None:
    holders = [running(i + 1, share(i, GIB, whole=False), m=1) for i in range(3)]
    cards = (gpu(0, utilization_percent=None), gpu(1, utilization_percent=70), gpu(2, utilization_percent=30))
    assert placed(cards, *holders, waiting(9, m=1)) == {9: (2,)}
    assert placed(cards[:2], *holders[:2], waiting(9, m=1)) == {9: (1,)}


def test_a_wide_job_is_given_no_instances() -> None:
    cards = (gpu(0), gpu(1, is_mig=True), gpu(2, is_mig=True), gpu(3))
    assert placed(cards, waiting(1, 2)) == {1: (0, 3)}
    assert placed(cards, waiting(1, 3)) == {}
    assert placed(cards[1:3], waiting(1), waiting(2, m=1)) == {1: (1,), 2: (2,)}


def test_ties_go_to_the_tightest_then_to_the_lowest() -> None:
    holders = [running(i + 1, share(i, (1, 5, 5)[i] * GIB, whole=False), m=1) for i in range(3)]
    assert placed(gpus(3), *holders, waiting(9, m=1)) == {9: (1,)}


def test_of_empty_gpus_the_smallest_that_fits_is_chosen() -> None:
    cards = (gpu(0, total_bytes=80 * GIB, free_bytes=80 * GIB), gpu(1))
    assert placed(cards, waiting(1, m=8)) == {1: (1,)}


def linked(pairs: dict[tuple[int, int], int], count: int, **changes: object) -> list[Room]:
    def links(index: int) -> dict[str, int]:
        found = {}
        for (one, other), value in pairs.items():
            if index in (one, other):
                found[f"GPU-{one + other - index}"] = value
        return found

    return [room(gpu(index, links=links(index), **changes)) for index in range(count)]


def indices(rooms: list[Room]) -> list[int]:
    return [each.gpu.index for each in rooms]


def test_whole_jobs_get_the_best_connected_pair() -> None:
    assert indices(best_connected(linked({(0, 1): 1, (2, 3): 4, (1, 2): 2}, 4), 2)) == [2, 3]


def test_the_worst_link_of_a_set_decides_before_the_sum() -> None:
    rooms = linked({(0, 1): 9, (0, 2): 9, (1, 2): 1, (3, 4): 2, (3, 5): 2, (4, 5): 2}, 6)
    assert indices(best_connected(rooms, 3)) == [3, 4, 5]


def test_equal_links_go_to_one_numa_node_then_to_the_lowest() -> None:
    rooms = [room(gpu(index, numa_node=index % 2)) for index in range(6)]
    assert indices(best_connected(rooms, 3)) == [0, 2, 4]
    assert indices(best_connected(rooms, 4)) == [0, 1, 2, 4]
    uneven = linked({(0, 1): 1}, 4)
    assert indices(best_connected(uneven, 2)) == [0, 1]
    assert indices(best_connected(linked({}, 5), 2)) == [0, 1]


def test_sixteen_gpus_of_two_islands_are_not_mixed() -> None:
    pairs = {(a, b): 4 for a in range(16) for b in range(a) if (a < 5) == (b < 5)}
    pairs = {(min(pair), max(pair)): value for pair, value in pairs.items()}
    assert indices(best_connected(linked(pairs, 16), 8)) == list(range(5, 13))


def test_a_link_told_by_one_side_only_counts() -> None:
    rooms = [room(gpu(0)), room(gpu(1)), room(gpu(2, links={"GPU-1": 3}))]
    assert indices(best_connected(rooms, 2)) == [1, 2]
