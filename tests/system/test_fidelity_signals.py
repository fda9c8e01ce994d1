"""A program finds signals ignored, blocked and pending as they were; a waiting gpurun ends by them as the program would."""

import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from fidelity import STAND_IN, Case, Counted, Run, check, entries, launch, only_gpurun, outcome
from waiting import wait_until
from world import World


def signal_lines(run: Run) -> dict[str, Any]:
    """What the kernel says about a program that does nothing to its signals: cat(1)."""
    found = dict(line.split(":\t", 1) for line in run.out.decode("latin-1").split("\n") if ":\t" in line)
    wanted = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Threads", "Umask")
    assert set(wanted) <= found.keys(), outcome(run)
    return {"status": run.status, "err": run.err, **{name: found[name] for name in wanted}}


# Python ignores these two at its start and does not say what it found: gpurun asks its parent's status instead, but
# that of a Python parent, such as our launcher, says nothing. They have a test of their own.
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
UNTOUCHABLE = (signal.SIGKILL, signal.SIGSTOP, 32, 33)
SIGNALS = [number for number in range(1, 65) if number not in (*UNTOUCHABLE, *PYTHON_IGNORES)]


def signal_cases() -> list[Case]:
    usual = {
        "as they come": [],
        "nohup's": [["ignore", [signal.SIGHUP]]],
        "a background job's": [["ignore", [signal.SIGINT, signal.SIGQUIT]]],
        "all ignored": [["ignore", SIGNALS]],
        "all blocked": [["block", SIGNALS]],
        "all blocked and ignored": [["block", SIGNALS], ["ignore", SIGNALS]],
        "every other": [["block", SIGNALS[::2]], ["ignore", SIGNALS[1::2]]],
        "USR1 pending": [["block", [signal.SIGUSR1]], ["pend", signal.SIGUSR1, False]],
        "USR1 pending for the thread": [["block", [signal.SIGUSR1]], ["pend", signal.SIGUSR1, True]],
        "TERM pending": [["block", [signal.SIGTERM]], ["pend", signal.SIGTERM, False]],
        "INT pending": [["block", [signal.SIGINT]], ["pend", signal.SIGINT, False]],
        "ALRM pending": [["block", [signal.SIGALRM]], ["pend", signal.SIGALRM, False]],
        "a real-time signal pending twice": [["block", [40]], ["pend", 40, False], ["pend", 40, True]],
    }
    cases = [Case(name, ["/bin/cat", "/proc/self/status"], steps) for name, steps in usual.items()]
    for number in SIGNALS:
        cases.append(Case(f"{number} ignored", ["/bin/cat", "/proc/self/status"], [["ignore", [number]]]))
        cases.append(Case(f"{number} blocked", ["/bin/cat", "/proc/self/status"], [["block", [number]]]))
    return cases


def test_signal_dispositions_and_mask_stay(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, signal_cases()), signal_lines)


def test_signal_dispositions_and_mask_stay_cold(fresh: Callable[..., World], counted: Counted) -> None:
    world = fresh()
    cases = [case for case in signal_cases() if not re.match(r"\d", case.name)]
    for case in cases:
        case.env = entries({**world.env, "GPURUN_DIR": fresh("1x24G").env["GPURUN_DIR"]})
    check(counted, launch(world, cases, workers=2), signal_lines)


SIGNAL_WAYS = {
    "default": ":",
    "PIPE": "trap '' PIPE",
    "XFSZ": "trap '' XFSZ",
    "both": "trap '' PIPE XFSZ",
    "both, back again": "trap '' PIPE XFSZ; trap - PIPE XFSZ",
    "others": "trap '' HUP INT USR1 CHLD TSTP",
}


@pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("dash", "bash", "zsh")])
def test_ignored_pipe_and_size_signals_stay_below_a_shell(warm: World, counted: Counted, shell: str) -> None:
    pairs = []
    for name, line in SIGNAL_WAYS.items():
        case = Case(name, ["/bin/cat", "/proc/self/status"])
        pairs += launch(warm, [case], between=[shell, "-c", f'{line}; "$@"; exit $?', shell])
    check(counted, pairs, signal_lines)


@pytest.mark.xfail(not STAND_IN, strict=True, reason="a Python parent's own status says nothing about what it hands on")
def test_ignored_pipe_signal_stays_below_python(warm: World, counted: Counted) -> None:
    case = Case("PIPE", ["/bin/cat", "/proc/self/status"], [["ignore", [signal.SIGPIPE]]])
    check(counted, launch(warm, [case]), signal_lines)


def test_an_alarm_set_before_ends_the_program(warm: World, counted: Counted) -> None:
    cases = [
        Case("alarm", ["/bin/sleep", "20"], [["alarm", 0.3]]),
        Case("alarm ignored", ["/bin/sleep", "0.6"], [["alarm", 0.3], ["ignore", [signal.SIGALRM]]]),
        Case("alarm blocked", ["/bin/sleep", "0.6"], [["alarm", 0.3], ["block", [signal.SIGALRM]]]),
    ]
    pairs = launch(warm, cases)
    assert [pair.bare.status for pair in pairs] == [signal.SIGALRM, 0, 0]
    check(counted, pairs)


@only_gpurun
def test_a_signal_ends_the_wait_as_it_would_end_the_program(
    fresh: Callable[..., World], record_property: Callable[[str, object], None]
) -> None:
    """By the same signal; the job is taken out of the line. A signal that was ignored before stays so."""
    world = fresh("1x24G")
    holder = world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGKILL, 40]

    def ignoring(number: int) -> Callable[[], object]:
        return lambda: signal.signal(number, signal.SIG_IGN)

    ending = {number: world.start("sleep", "1000") for number in numbers}
    staying = {n: world.start("true", preexec_fn=ignoring(n)) for n in numbers if n != signal.SIGKILL}
    everybody = {child.pid for child in (*ending.values(), *staying.values())}

    def in_line() -> set[int]:
        return {job["pid"] for job in world.jobs(all=False) if job["state"] == "waiting"}

    wait_until(lambda: in_line() == everybody, f"{len(everybody)} jobs to wait")
    for number, child in (*ending.items(), *staying.items()):
        child.send_signal(number)
    assert {number: child.wait(30) for number, child in ending.items()} == {number: -number for number in numbers}
    left = {child.pid for child in staying.values()}
    wait_until(lambda: in_line() == left, "the ended ones to leave the line")
    ended = [job for job in world.jobs() if job["state"] == "ended"]
    assert [job["result"]["kind"] for job in ended] == ["cancelled"] * len(numbers)
    assert [child.poll() for child in staying.values()] == [None] * len(staying)
    # Those that ignored it run in their turn.
    holder.kill()
    assert [child.wait(30) for child in staying.values()] == [0] * len(staying)
    record_property("counted", f"{len(numbers)} of {len(numbers)} equal")
