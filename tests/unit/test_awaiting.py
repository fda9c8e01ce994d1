"""Who waits for whom (--after): what the mirror keeps is what walking through all rows would find."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import waiting as made

from gpuwrap.lifecycle import IN_LINE, JobState
from gpuwrap.model import Job
from gpuwrap.state.awaiting import from_row, in_row
from gpuwrap.state.mirror import Mirror

STATES = (JobState.WAITING, JobState.HELD, JobState.GRANTED, JobState.RUNNING, JobState.ENDED)


@pytest.mark.parametrize(
    ("ended", "succeeded", "text"),
    [
        ([], [], ""),
        ([3], [], "3"),
        ([2, 1, 3, 7], [], "1-3 7"),
        ([], [5, 6, 9], "ok:5-6 ok:9"),
        ([1, 2, 3], [2], "1 3 ok:2"),
        (range(1, 2001), [4001], "1-2000 ok:4001"),
    ],
)
def test_what_is_awaited_is_written_in_few_words(ended: list[int], succeeded: list[int], text: str) -> None:
    assert in_row(list(ended), succeeded) == text
    assert set(from_row(text)) == {(n, False) for n in ended if n not in succeeded} | {(n, True) for n in succeeded}


def test_rows_as_older_versions_wrote_them_are_read() -> None:
    assert from_row("1 2 ok:3 4") == [(1, False), (2, False), (3, True), (4, False)]


def found(mirror: Mirror, jobs: dict[int, Job]) -> tuple[dict[int, tuple[int, ...]], dict[int, set[int]]]:
    """Whom each job in line waits for, and who waits for each to succeed, as the mirror has it."""
    blocked = {number: each.missing for each in mirror.awaiting.records() if each.missing for number in each.waiting}
    glad = {
        number: {w for each in mirror.awaiting.of(number) if number in each.must_succeed for w in each.waiting}
        for number, job in jobs.items()
        if job.state is not JobState.ENDED
    }
    return blocked, glad


def walked(jobs: dict[int, Job]) -> tuple[dict[int, tuple[int, ...]], dict[int, set[int]]]:
    """The same, by walking through all of it."""
    blocked, glad = {}, {number: set[int]() for number, job in jobs.items() if job.state is not JobState.ENDED}
    for job in jobs.values():
        if job.state not in IN_LINE:
            continue
        words = from_row(job.after_jobs or "")
        missing = tuple(sorted(number for number, _ in words if jobs[number].state is not JobState.ENDED))
        if missing:
            blocked[job.id] = missing
        for number, must in words:
            if must and number in glad:
                glad[number].add(job.id)
    return blocked, glad


@given(st.data())
def test_it_is_what_walking_through_all_of_it_would_find(data: st.DataObject) -> None:
    mirror = Mirror()
    jobs: dict[int, Job] = {}
    committed: dict[int, Job] = {}
    for _ in range(data.draw(st.integers(1, 25))):
        step = data.draw(st.sampled_from(["register", "register", "move", "commit", "undo"]))
        live = [number for number, job in jobs.items() if job.state is not JobState.ENDED]
        if step == "register":
            some = st.lists(st.sampled_from(sorted(jobs)), max_size=4) if jobs else st.just([])
            after = in_row(data.draw(some), data.draw(some)) or None
            number = len(jobs) + 1
            jobs[number] = replace(made(number), after_jobs=after)
            mirror.put(jobs[number])
        elif step == "move" and live:
            number = data.draw(st.sampled_from(live))
            jobs[number] = replace(jobs[number], state=data.draw(st.sampled_from(STATES)))
            mirror.put(jobs[number])
        elif step == "commit":
            mirror.committed()
            committed = dict(jobs)
        elif step == "undo":
            mirror.undo()
            jobs = dict(committed)
            still = [number for number, job in jobs.items() if job.state is not JobState.ENDED]
            assert (list(mirror.live), mirror.last_id) == (still, len(jobs))
        assert found(mirror, jobs) == walked(jobs)
    for number in list(jobs):
        jobs[number] = replace(jobs[number], state=JobState.ENDED)
        mirror.put(jobs[number])
    assert not mirror.awaiting.records()
    assert not any(mirror.awaiting.of(number) for number in jobs)


def test_rows_that_wait_for_the_same_share_what_they_wait_for() -> None:
    mirror = Mirror()
    for number in range(1, 2001):
        mirror.put(made(number))
    for number in range(2001, 4001):
        mirror.put(replace(made(number), after_jobs="1-2000"))
    (record,) = mirror.awaiting.records()
    assert record.missing == tuple(range(1, 2001))
    assert record.missing is record.missing
    mirror.put(replace(made(1), state=JobState.ENDED))
    assert record.missing == tuple(range(2, 2001))
