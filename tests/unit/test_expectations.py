"""What the arbiter knows of how long jobs take: learned from rows, the same for a successor, and only where it is asked."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from views import waiting

from gpuwrap.arbiter.seeing.expectations import Expectations
from gpuwrap.clocks import wall_at
from gpuwrap.lifecycle import Event
from gpuwrap.model import Basis, Bounds, Job, Order, Request, Result, ResultKind, Row, Share, View
from gpuwrap.state.paths import Folder
from gpuwrap.state.store import Store

GRANT = (Share("GPU-0", 0, 1, True),)
WELL = Result(ResultKind.EXIT, code=0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    fd = os.open(tmp_path, os.O_RDONLY)
    store = Store(Folder(str(tmp_path), fd))
    yield store
    store.close()
    os.close(fd)


def asks(store: Store, **changes: Any) -> Job:
    """A job in line."""
    key = f"key {store.next_id()}"
    with store.batch():
        return store.register(replace(waiting(0), key=key, submitted_mono=monotonic(), **changes))


def runs(store: Store, ago: float, **changes: Any) -> Job:
    """A job that has run for so many seconds."""
    with store.batch():
        job = store.grant(asks(store, **changes), GRANT, "granted")
        return store.move(job, Event.TAKE, "taken", started_at=wall_at() - ago, started_mono=monotonic() - ago)


def ended(store: Store, seconds: float, result: Result = WELL, **changes: Any) -> Job:
    """A job that has just ended, after so many seconds."""
    job = runs(store, seconds, **changes)
    with store.batch():
        job = store.move(job, Event.END, "ended", result=result, ended_at=wall_at(), ended_mono=monotonic())
        return store.release(job)


def left(expectations: Expectations, *jobs: Job) -> list[tuple[float, Basis]]:
    found = expectations.expected(jobs, monotonic())
    return [(round(found[job.id].seconds, 1), found[job.id].basis) for job in jobs]


def test_what_a_command_took_before_is_expected_of_it_by_whoever_reads_the_rows(store: Store) -> None:
    jobs = [ended(store, seconds, fingerprint="x") for seconds in (100.0, 300.0)]
    job = asks(store, fingerprint="x")
    successor = Expectations(store)
    assert left(successor, job) == [(200.0, Basis.COMMAND)]
    first = Expectations(store)
    assert left(first, job) == [(200.0, Basis.COMMAND)]
    later = ended(store, 500.0, fingerprint="x")
    first.note(later, monotonic())
    assert left(first, job) == left(Expectations(store), job) == [(300.0, Basis.COMMAND)]
    assert len(jobs) == 2


def test_what_its_owner_says_counts_before_what_was_seen(store: Store) -> None:
    ended(store, 100.0, fingerprint="x")
    limited = asks(store, fingerprint="x", request=Request(time_limit_seconds=60.0))
    guessed = asks(store, fingerprint="x", expect_seconds=7200.0)
    assert left(Expectations(store), limited, guessed) == [(60.0, Basis.LIMIT), (7200.0, Basis.GUESS)]


def test_of_a_running_job_what_is_left_counts_without_its_pauses(store: Store) -> None:
    job = runs(store, 600.0, expect_seconds=1000.0)
    expectations = Expectations(store)
    assert left(expectations, job) == [(600.0, Basis.GUESS)]  # it may need as much again, at least
    with store.batch():
        job = store.move(job, Event.PAUSE, "paused", paused_mono=monotonic() - 200.0)
    assert left(expectations, job) == [(600.0, Basis.GUESS)]
    store._db.execute("UPDATE event SET mono = mono - 200 WHERE to_state = 'paused'")
    with store.batch():
        job = store.move(job, Event.RESUME, "goes on", paused_mono=None, returned_mono=monotonic())
    assert expectations.ran_seconds(job, monotonic()) == pytest.approx(400.0, abs=1.0)


def test_who_was_ended_by_somebody_teaches_nothing(store: Store) -> None:
    ended(store, 5.0, Result(ResultKind.SIGNAL, signal=15, text="killed by anna"), fingerprint="x")
    job = asks(store, fingerprint="x")
    expectations = Expectations(store)
    assert left(expectations, job)[0][1] is Basis.SO_FAR
    expectations.note(ended(store, 5.0, Result(ResultKind.LOST, text="lost"), fingerprint="x"), monotonic())
    assert left(expectations, job)[0][1] is Basis.SO_FAR


def test_rows_of_a_sweep_are_expected_to_take_what_the_others_took_and_twice_what_they_have_run(store: Store) -> None:
    sweep = store.next_id()
    line = asks(store, row=Row(sweep, 4, None))
    expectations = Expectations(store)
    for index, seconds in enumerate((100.0, 200.0), 1):
        expectations.note(ended(store, seconds, row=Row(sweep, index, None), fingerprint=str(index)), monotonic())
    assert left(expectations, line)[0] == left(Expectations(store), line)[0]
    expectations.expected([], monotonic())
    running = runs(store, 300.0, row=Row(sweep, 3, None))
    found = Expectations(store).expected([line], monotonic())[line.id]
    assert (round(found.seconds), found.basis, found.runs) == (300, Basis.SWEEP, 3)
    assert running.row is not None


def test_in_order_of_arrival_nothing_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    job = asks(store)
    view = View((), (job,), bounds=Bounds())
    expectations = Expectations(store)
    monkeypatch.setattr(store, "past_runs", None)
    expectations.note(ended(store, 5.0), monotonic())
    assert expectations.ordered(view, Order.ARRIVAL, monotonic()) is view
    with pytest.raises(TypeError):
        expectations.ordered(view, Order.SHORTEST, monotonic())


def test_a_name_that_had_much_of_the_gpus_is_a_burden_to_its_next_job(store: Store) -> None:
    ended(store, 3600.0, name="sweep of anna")
    ended(store, 60.0, name="test")
    jobs = [asks(store, name="sweep of anna"), asks(store, name="test"), asks(store, name="new")]
    expectations = Expectations(store)
    view = expectations.ordered(View((), tuple(jobs), bounds=Bounds()), Order.FAIR, monotonic())
    much, little, none = (view.burden[job.id] for job in jobs)
    assert much > 1 > little >= none
    runs(store, 7200.0, name="new")
    assert expectations.burden(jobs, monotonic())[jobs[2].id] > much / 2


def test_a_limit_that_was_changed_counts_at_once(store: Store) -> None:
    job = asks(store, request=Request(time_limit_seconds=60.0))
    expectations = Expectations(store)
    assert left(expectations, job) == [(60.0, Basis.LIMIT)]
    with store.batch():
        job = store.change(job, request=Request(time_limit_seconds=90.0))
    assert left(expectations, job) == [(90.0, Basis.LIMIT)]
