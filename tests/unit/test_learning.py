"""What a command is known by, and what a run teaches about its need."""

import signal
from dataclasses import replace

import pytest
from views import NOW, running, share

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Job, Result, ResultKind
from gpuwrap.policy.learning import fingerprint, learned_from, needed_bytes, ran_out_of_memory, recall
from gpuwrap.units import GIB, MIB

HOME = b"/home/anna"


def known_as(text: str, cwd: bytes = HOME, size: int | None = None) -> str:
    return fingerprint(tuple(text.encode().split()), cwd, size)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("python train.py --seed 1", "python train.py --seed 2"),
        ("python train.py --seed=1 --lr 0.1", "python train.py --seed=77 --lr 3e-4"),
        ("python train.py --learning_rate 1", "python train.py --learning_rate 2"),
        ("python train.py seed=1", "python train.py seed=2"),
        ("python train.py --output-dir a --name b", "python train.py --output-dir c --name d"),
        ("/usr/bin/python train.py", "python train.py"),
        ("python train.py --lr -1", "python train.py --lr -2"),
    ],
)
def test_what_changes_no_memory_is_left_out(one: str, other: str) -> None:
    assert known_as(one) == known_as(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("python train.py --batch-size 1", "python train.py --batch-size 2"),
        ("python train.py --seed 1", "python train.py"),
        ("python train.py --seed --amp", "python train.py --seed"),
        ("python train.py model=a", "python train.py model=b"),
        ("python train.py 1", "python train.py 2"),
        ("python train.py experiment=a", "python train.py experiment=b"),
        ("python train.py", "python eval.py"),
    ],
)
def test_everything_else_counts(one: str, other: str) -> None:
    assert known_as(one) != known_as(other)


def test_a_script_is_known_by_its_whole_path() -> None:
    assert known_as("python train.py") != known_as("python train.py", b"/home/bob")
    assert known_as("python /home/anna/train.py", b"/tmp") == known_as("python train.py")


def test_a_script_edited_a_little_is_the_same_and_one_much_changed_is_not() -> None:
    peaks = {known_as("python train.py", size=10_000): 6 * GIB}
    for size in (10_000, 9_500, 10_400, 11_000):
        assert recall(known_as("python train.py", size=size), peaks.get) == 6 * GIB
    for size in (1_000, 5_000, 20_000, 100_000):
        assert recall(known_as("python train.py", size=size), peaks.get) is None
    assert recall(known_as("python train.py"), peaks.get) is None


def ended(
    peak: int | None, code: int | None = 0, promised: int = 24 * GIB, seconds: float = 10, text: str | None = None
) -> Job:
    kind = ResultKind.EXIT if code is not None else ResultKind.SIGNAL
    result = Result(kind, code=code, signal=None if code is not None else 9, text=text)
    job = running(1, share(0, promised), since=seconds)
    return replace(job, state=JobState.ENDED, peak_bytes=peak, fingerprint="x", ended_mono=NOW, result=result)


def test_a_peak_is_raised_at_once_and_lowered_slowly() -> None:
    assert learned_from(ended(6 * GIB), None) == 6 * GIB
    assert learned_from(ended(8 * GIB), 6 * GIB) == 8 * GIB
    assert learned_from(ended(4 * GIB), 8 * GIB) == 7 * GIB


def test_a_run_that_failed_early_teaches_nothing() -> None:
    assert learned_from(ended(GIB, code=1), None) is None
    assert learned_from(ended(GIB, code=1), 6 * GIB) == 6 * GIB
    assert learned_from(ended(7 * GIB, code=1), 6 * GIB) == 7 * GIB
    assert learned_from(ended(7 * GIB, code=None, seconds=90, text="killed by anna"), None) == 7 * GIB
    assert learned_from(ended(None), 6 * GIB) is None


def test_what_ended_with_the_machine_ran_for_nobody_knows_how_long() -> None:
    lost = replace(ended(7 * GIB, seconds=7200), ended_mono=None, result=Result(ResultKind.LOST, text="machine restarted"))
    assert learned_from(lost, None) is None
    assert learned_from(lost, 6 * GIB) == 7 * GIB


@pytest.mark.parametrize("code", [1, None])
def test_a_death_of_memory_raises_the_need_by_half(code: int | None) -> None:
    job = ended(int(7.8 * GIB), code=code, promised=8 * GIB)
    assert ran_out_of_memory(job)
    assert learned_from(job, 6 * GIB) == int(int(7.8 * GIB) * 1.5)


def test_a_failure_beside_others_with_more_than_ever_before_is_a_death_of_memory() -> None:
    job = ended(6 * GIB, code=1)
    shared = replace(job, shares=(share(0, int(6.5 * GIB), whole=False),))
    assert learned_from(shared, 5 * GIB) == 9 * GIB
    assert learned_from(shared, 6 * GIB) == 6 * GIB
    assert learned_from(job, 5 * GIB) == 6 * GIB


def test_who_was_ended_by_somebody_did_not_die_of_memory() -> None:
    assert not ran_out_of_memory(ended(8 * GIB, code=None, promised=8 * GIB, text="killed by anna"))
    assert not ran_out_of_memory(ended(4 * GIB, code=1, promised=8 * GIB))
    assert not ran_out_of_memory(ended(8 * GIB, code=0, promised=8 * GIB))


def promised_learned(peak: int | None, known: int, code: int | None = 1) -> Job:
    """A run of a command of which `known` was learned, and which was promised that."""
    need = needed_bytes(known)
    job = ended(peak, code=code)
    request = replace(job.request, memory_bytes=need)
    return replace(job, shares=(share(0, need, whole=False),), learned_bytes=need, request=request)


@pytest.mark.parametrize("peak", [None, GIB, 5 * GIB])
def test_a_failure_with_what_was_learned_doubles_it_whatever_was_seen(peak: int | None) -> None:
    assert learned_from(promised_learned(peak, 5 * GIB), 5 * GIB) == 10 * GIB
    assert learned_from(promised_learned(peak, 5 * GIB, code=None), 5 * GIB) == 10 * GIB
    of_a_neighbour = learned_from(promised_learned(peak, 5 * GIB), None)  # learned before the script was edited
    assert of_a_neighbour == pytest.approx(10 * GIB, rel=1e-6)
    typed = promised_learned(peak, 5 * GIB)
    typed = replace(typed, request=replace(typed.request, memory_bytes=7 * GIB))
    assert learned_from(typed, 5 * GIB) in (None, 5 * GIB)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGPIPE])
def test_who_is_ended_by_hand_did_not_die_of_memory(number: signal.Signals) -> None:
    by_signal = ended(8 * GIB, code=None, promised=8 * GIB)
    by_signal = replace(by_signal, result=Result(ResultKind.SIGNAL, signal=number))
    for job in (by_signal, ended(8 * GIB, code=128 + number, promised=8 * GIB)):
        assert not ran_out_of_memory(job, 6 * GIB)
        assert learned_from(job, 6 * GIB) == 8 * GIB
    learned = promised_learned(GIB, 5 * GIB, code=128 + number)
    assert learned_from(learned, 5 * GIB) == 5 * GIB


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_signals_of_a_program_without_memory_count(number: signal.Signals) -> None:
    job = ended(8 * GIB, code=None, promised=8 * GIB)
    assert ran_out_of_memory(replace(job, result=Result(ResultKind.SIGNAL, signal=number)), 6 * GIB)


def test_ten_noisy_runs_always_fit_into_what_was_learned_before() -> None:
    known = None
    for step in range(10):
        peak = 6 * GIB + (step * 7919 % 600 - 300) * MIB
        if known is not None:
            assert peak <= needed_bytes(known)
        known = learned_from(ended(peak, promised=needed_bytes(known) if known else 24 * GIB), known)
    assert known is not None
    assert 3 * needed_bytes(known) <= 24 * GIB
