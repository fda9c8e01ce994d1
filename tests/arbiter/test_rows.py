"""Rows of a sweep: what its process registers at once, how they are offered, and what it hears of them."""

import pytest
from inprocess import Client, Jobs, five_good_wakes, full_disk
from waiting import wait_until

from gpuwrap.arbiter.loop import Arbiter

FIRST = {"key": "s", "gpus": 0}


class Sweep:
    """A child that is the process of a sweep."""

    def __init__(self, jobs: Jobs, indices: str, count: int, **values: object) -> None:
        self.jobs = jobs
        self.client = jobs.ask_as("rows", indices=indices)
        self.client.ask("sweep", **{**FIRST, "count": count, **values})
        five_good_wakes(jobs.arbiter)
        self.said = self.client.heard()

    def rows(self) -> dict[int, str]:
        """State of each row, by index."""
        store = self.jobs.arbiter.store
        rows = [job for job in store.live.values() if job.row is not None]
        return {job.row.index: job.state.value for job in rows if job.row is not None}


def test_all_rows_are_registered_in_one_turn_with_their_indices(jobs: Jobs) -> None:
    jobs.start()
    sweep = Sweep(jobs, "1-3,7", 4, gpus=1)
    assert sweep.rows() == dict.fromkeys((1, 2, 3, 7), "waiting")
    numbers = sorted(job.id for job in jobs.arbiter.store.live.values() if job.row is not None)
    assert numbers == list(range(numbers[0], numbers[0] + 4))
    assert {job.row.sweep for job in jobs.arbiter.store.live.values() if job.row is not None} == {numbers[0]}


@pytest.mark.parametrize(("limit", "granted"), [(1, 1), (2, 2), (3, 3), (9, 5), (None, 5)])
def test_no_more_of_them_run_at_once_than_it_says(jobs: Jobs, limit: int | None, granted: int) -> None:
    sweep = Sweep(jobs, "1-5", 5, **({} if limit is None else {"limit": limit}))
    assert list(sweep.rows().values()).count("granted") == granted


@pytest.mark.parametrize(("sent", "count"), [("1-3", 4), ("1-3", 2), ("1-3", 0)])
def test_of_rows_that_are_not_those_announced_none_is_registered(jobs: Jobs, sent: str, count: int) -> None:
    assert Sweep(jobs, sent, count).rows() == {}


def test_a_sweep_whose_turn_is_lost_is_registered_whole_or_not_at_all(
    jobs: Jobs, arbiter: Arbiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk(arbiter, monkeypatch):
        sweep = Sweep(jobs, "1-3", 3)
    assert sweep.rows() == {}
    sweep.client.ask("rows", indices="1-3")
    sweep.client.ask("sweep", **{**FIRST, "count": 3})
    five_good_wakes(arbiter)
    assert len(sweep.rows()) in (0, 3)


def test_when_its_process_dies_the_rows_that_wait_are_cancelled(jobs: Jobs) -> None:
    jobs.start()
    sweep = Sweep(jobs, "1-3", 3, gpus=1)
    child = sweep.client.child
    assert child is not None
    child.kill()
    child.wait()
    sweep.client.hang_up()
    wait_until(lambda: (five_good_wakes(jobs.arbiter), sweep.rows() == {})[1], "the rows to go", 5)


def test_it_can_give_up_one_row_or_all(jobs: Jobs) -> None:
    jobs.start()
    sweep = Sweep(jobs, "1-3", 3, gpus=1)
    second = next(job.id for job in jobs.arbiter.store.live.values() if job.row is not None and job.row.index == 2)
    sweep.client.ask("forsake", row=second, text="cannot fork")
    assert sorted(sweep.rows()) == [1, 3]
    sweep.client.ask("forsake", text="interrupted")
    assert sweep.rows() == {}


def test_rows_of_the_same_kind_are_killed_by_number_as_any_job(jobs: Jobs, other: Client) -> None:
    jobs.start()
    sweep = Sweep(jobs, "1-3", 3, gpus=1)
    numbers = [job.id for job in jobs.arbiter.store.live.values() if job.row is not None]
    done = other.answer("kill", jobs=" ".join(map(str, numbers[:2])))
    assert [each[1:] for each in done] == [[True, "cancelled while waiting"]] * 2
    assert sorted(sweep.rows()) == [3]
    assert "end" in sweep.client.kinds()


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_one_row_is_held_and_let_go_and_the_others_go_on(jobs: Jobs, other: Client, verb: str) -> None:
    first = jobs.start()
    sweep = Sweep(jobs, "1-3", 3, gpus=1)
    number = next(job.id for job in jobs.arbiter.store.live.values() if job.row is not None and job.row.index == 1)
    other.answer("pause", jobs=number)
    if verb == "resume":
        other.answer("resume", jobs=number)
    jobs.end(first)
    five_good_wakes(jobs.arbiter)
    assert [index for index, state in sweep.rows().items() if state == "granted"] == ([2] if verb == "pause" else [1])
