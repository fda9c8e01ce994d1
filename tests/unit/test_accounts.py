"""Sums, days, stretches and progress, from moves and records: by length on one clock, by date on the other."""

from datetime import datetime

from gpuwrap.accounts.days import Bar, busy_seconds, lanes, parts_by_day
from gpuwrap.accounts.progress import Progress
from gpuwrap.accounts.stretches import Move, Present, Stretch, granted_by, stretches_of
from gpuwrap.accounts.sums import has_failed, sums_by
from gpuwrap.lifecycle import JobState
from gpuwrap.model import Identity, Job, Request, Result, ResultKind

NOW = Present(10_000.0, 1_000.0, 0.0)
AHEAD = NOW.at - NOW.mono


def move(mono: float, state: str, why: str = "", at: float | None = None) -> Move:
    return Move(1, AHEAD + mono if at is None else at, mono, state, why)


def job(number: int = 1, result: Result | None = None, started: float | None = 1.0, gpus: int = 1) -> Job:
    state = JobState.ENDED if result else JobState.RUNNING
    of = number, str(number), None, "anna", state, 0, Request(gpus=gpus), Identity("b", 1, number, 1), (b"x",), b"/", 0.0
    return Job(*of, started_at=started, result=result)


def test_a_job_that_gave_way_has_computed_stood_still_and_computed_again() -> None:
    moves = [
        move(100, "waiting"), move(110, "granted", "granted GPUs 0, 2"), move(111, "running"), move(211, "paused"),
        move(251, "running"), move(300, "ended"),
    ]  # fmt: skip
    found = list(stretches_of(moves, NOW))
    assert [(each.seconds, each.paused, each.gpus) for each in found] == [
        (100, False, (0, 2)), (40, True, (0, 2)), (49, False, (0, 2)),
    ]  # fmt: skip
    assert found[0].begun_at == AHEAD + 111


def test_one_that_was_run_again_elsewhere_is_told_where_it_was() -> None:
    moves = [move(1, "granted", "granted GPU 0"), move(2, "running"), move(5, "waiting"),
             move(7, "granted", "granted GPU 3"), move(8, "running")]  # fmt: skip
    found = list(stretches_of(moves, NOW))
    assert [(each.gpus, each.is_open) for each in found] == [((0,), False), ((3,), True)]
    assert found[1].ended_at == NOW.at


def test_what_ran_in_an_earlier_boot_and_has_no_end_is_left_out() -> None:
    assert not list(stretches_of([move(2, "running")], NOW, of_this_boot=False))


def test_a_clock_that_was_set_changes_no_length() -> None:
    """The date of the start is of 1970, as on a machine whose clock was set by NTP afterwards."""
    (found,) = stretches_of([move(100, "running", at=5.0), move(160, "ended")], NOW)
    assert found.seconds == 60
    assert found.ended_at - found.begun_at == 60
    (found,) = stretches_of([move(100, "running", at=NOW.at + 3600), move(160, "ended", at=NOW.at + 3660)], NOW)
    assert (found.seconds, found.ended_at) == (60, NOW.at)


def test_a_machine_that_slept_was_no_clock_that_was_set() -> None:
    slept = NOW._replace(suspended_seconds=500.0)
    (found,) = stretches_of([move(100, "running"), move(160, "ended", at=AHEAD + 160 + 400)], slept)
    assert (found.seconds, found.ended_at - found.begun_at) == (60, 460)


def test_only_what_grants_gpus_says_which() -> None:
    assert granted_by("granted GPU 3") == (3,)
    assert granted_by("granted GPUs 0, 11") == (0, 11)
    assert granted_by("granted no GPU") == granted_by("taken") == ()


def stretch(job_id: int, begun: float, ended: float, *gpus: int, paused: bool = False) -> Stretch:
    return Stretch(job_id, begun, ended, ended - begun, gpus, paused)


def test_jobs_that_shared_a_gpu_have_lanes_of_their_own() -> None:
    a, b, c = stretch(1, 0, 10, 0, 1), stretch(2, 5, 15, 0), stretch(3, 12, 20, 0)
    found = lanes([a, b, c], [2])
    assert found == {0: [[Bar(1, (a,)), Bar(3, (c,))], [Bar(2, (b,))]], 1: [[Bar(1, (a,))]], 2: []}
    assert busy_seconds([a, b, c, stretch(4, 30, 40, 0, paused=True)]) == 20


def test_a_part_of_a_stretch_has_its_part_of_the_time() -> None:
    slept = Stretch(1, 0.0, 100.0, 50.0, (0,))  # half of it the machine was suspended
    assert slept.within(50, 200) == Stretch(1, 50.0, 100.0, 25.0, (0,))
    assert slept.within(200, 300) is None


def test_a_night_belongs_to_two_days() -> None:
    ten = datetime(2026, 11, 29, 22).timestamp()
    assert list(parts_by_day(stretch(1, ten, ten + 4 * 3600, 0))) == [("2026-11-29", 0.5), ("2026-11-30", 0.5)]


def test_sums_count_computing_and_not_pauses_and_who_failed() -> None:
    failed = Result(ResultKind.EXIT, code=1)
    jobs = [job(1, Result(ResultKind.EXIT, code=0), gpus=2), job(2, failed), job(3, Result(ResultKind.CANCELLED), None), job(4)]
    first = [stretch(1, 0, 100, 0, 1), stretch(1, 100, 200, 0, 1, paused=True)]
    of = {1: first, 2: [stretch(2, 0, 30, 0)], 4: [stretch(4, 0, 5)]}
    (found,) = sums_by(jobs, of, {1: 4.0, 2: 8.0, 4: 60.0}, lambda job, _stretch: [(job.user, 1.0)])
    assert (found.key, found.gpu_seconds, found.jobs, found.failed, found.never_ran) == ("anna", 235, 3, 1, 1)
    assert (found.waited_median, found.waited_most) == (8.0, 60.0)


def test_who_was_taken_out_of_the_line_has_not_failed() -> None:
    assert has_failed(job(1, Result(ResultKind.SIGNAL, signal=9)))
    assert has_failed(job(1, Result(ResultKind.LOST), None))
    for result in (Result(ResultKind.EXIT, code=0), Result(ResultKind.CANCELLED), Result(ResultKind.WAIT_LIMIT)):
        assert not has_failed(job(1, result))
    assert not has_failed(job(1))


def test_progress_says_how_long_the_rest_takes_as_it_runs_now() -> None:
    rows = [("ended", True, False, 11, 1100.0), ("ended", True, True, 1, 1.0), ("waiting", False, False, 24, 0.0)]
    running = [("running", True, False, 1, seconds) for seconds in (0.0, 50.0, 100.0, 500.0)]
    found = Progress("sweep-1", rows + running)
    assert found.left_seconds == (24 * 100 + 100 + 50) / 4
    assert found.words() == "12 of 40 done, 1 failed, 4 run, about 10 min left"


def test_progress_of_which_nothing_has_ended_expects_nothing() -> None:
    rows = [("ended", False, False, 2, 0.0), ("running", True, False, 1, 5.0), ("held", False, False, 1, 0.0)]
    found = Progress("s", rows)
    assert found.words() == "2 of 4 done, 2 never ran, 1 runs"
    assert not found.is_over
    assert Progress("s", rows[:1]).is_over
