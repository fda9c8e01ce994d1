"""top: GPUs above jobs on a screen that stays, whatever its size, and a terminal that is as it was afterwards."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from equipment import missing_gpu
from screens import expect
from standin import LIB_RM_VERSION_MISMATCH, Gpu
from terminal import Terminal
from truth import Machine
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]
SLEEP = ("sleep", "600")


def queue(world: World, number: int, state: str, *words: str) -> None:
    """Start a job that has this number, and wait for its state."""
    world.start("-q", *words)
    wait_until(lambda: world.state(number) == state, f"job {number} to be {state}")


def top(world: World, *words: str, columns: int = 80, lines: int = 24) -> Terminal:
    """`gpurun top` on a terminal, once its first frame stands there."""
    terminal = Terminal(world, [world.command, "top", *words], columns=columns, lines=lines)
    terminal.await_text("q leaves")
    return terminal


def numbers(table: str) -> set[str]:
    """What stands in the first column, where it is a number."""
    rows = [line.split() for line in table.splitlines() if " jobs: " not in line]
    return {words[0] for words in rows if words and words[0].isdigit()}


def jobs_and_gpus(terminal: Terminal) -> tuple[set[str], set[str]]:
    """Which jobs and which GPUs have a row on the screen."""
    above, _, below = terminal.text().partition("JOB  STATE")
    return numbers(below), numbers(above)


@pytest.mark.parametrize("end", ["q", "ctrl-c"])
def test_it_shows_gpus_and_jobs_follows_them_and_leaves_the_terminal_as_it_was(world: World, end: str) -> None:
    queue(world, 1, "running", "-m", "8G", *SLEEP)
    terminal = top(world)
    terminal.await_text("sleep 600")
    queue(world, 2, "running", "-N", "new", "-m", "20G", *SLEEP)
    terminal.await_text("new: sleep 600")
    queue(world, 3, "waiting", "-N", "late", "-g", "2", *SLEEP)
    terminal.await_text("late: sleep 600")
    wait_until(lambda: terminal.text().count("kept for job 3") == 2, "both GPUs to be kept for job 3")
    expect("top", terminal.text())
    world.run("kill", "-9", "1")
    wait_until(lambda: "job 1:" not in terminal.text(), "the ended job to go from its GPU")
    assert jobs_and_gpus(terminal) == ({"2", "3"}, {"0", "1"})
    terminal.send("q" if end == "q" else "\x03")
    assert terminal.finish() == (0 if end == "q" else -signal.SIGINT)
    assert terminal.attributes() == terminal.before
    assert terminal.entered_and_left() == (1, 1)


def test_with_a_user_it_shows_their_jobs_and_all_gpus(world: World) -> None:
    queue(world, 1, "running", *SLEEP)
    terminal = top(world, "-u", "nobody")
    screen = terminal.await_text("no jobs")
    assert "job 1: " in screen
    assert "JOB" not in screen


def test_it_begins_before_there_is_anything(world: World) -> None:
    """No folder, no arbiter: a job that comes is there nevertheless, and an arbiter that goes is replaced."""
    terminal = top(world)
    terminal.await_text("no jobs")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    queue(world, 1, "running", *SLEEP)
    terminal.await_text("job 1: ")
    assert jobs_and_gpus(terminal) == ({"1"}, {"0", "1"})


def test_in_a_small_window_jobs_are_left_out_and_no_gpu(world: World) -> None:
    """A GPU has a line for each of its jobs only in a window with room for all."""
    for number in range(1, 6):
        queue(world, number, "running", "-p", str(number), "-m", "4G", *SLEEP)  # the priority keeps them from being folded
    terminal = top(world, lines=8)
    terminal.await_text("more lines")
    lines = terminal.text().splitlines()
    assert (len(lines), lines[-1]) == (8, "… and 4 more lines"), terminal.text()
    assert jobs_and_gpus(terminal) == ({"1"}, {"0", "1"})
    terminal.resize(80, 24)
    wait_until(lambda: "more lines" not in terminal.text() and "JOB" in terminal.text(), "all of it")
    assert jobs_and_gpus(terminal) == (set("12345"), {"0", "1"})
    assert terminal.text().count(", sleep 600, ") == 5, "each user of a GPU has a line again"
    terminal.resize(40, 8)
    wait_until(lambda: terminal.text().endswith("… and 4 more lines"), "some of it")
    assert jobs_and_gpus(terminal)[1] == {"0", "1"}
    assert max(map(len, terminal.text().splitlines())) < 40


def test_more_gpus_than_lines_are_cut_and_counted(make_world: MakeWorld) -> None:
    world = make_world("16x24G")
    queue(world, 1, "running", *SLEEP)
    terminal = top(world, lines=8)
    # Of twenty lines below the title (16 GPUs, a job, its header, theirs) seven less one have room.
    terminal.await_text("… and 13 more lines")
    assert jobs_and_gpus(terminal)[1] == {"0", "1", "2", "3", "4"}


def test_without_a_driver_it_says_so_and_does_not_begin(make_world: MakeWorld) -> None:
    if missing_gpu() != "no NVIDIA driver (libnvidia-ml.so.1)":
        pytest.skip("here is a driver")
    world = make_world(None)
    terminal = Terminal(world, [world.command, "top"], columns=120)
    assert terminal.finish() == 1
    assert terminal.entered_and_left() == (0, 0)
    assert terminal.text().startswith("gpurun: top: no GPU to be had: ")


def test_a_driver_that_goes_away_is_told_in_place(tmp_path: Path, make_world: MakeWorld) -> None:
    machine = Machine(tmp_path, make_world, Gpu())
    machine.run_job("sleep", "1000")
    terminal = top(machine.world, columns=120)
    terminal.await_text("job 1: ")
    machine.box.fail("nvmlInit", LIB_RM_VERSION_MISMATCH)
    machine.restart_arbiter()  # one that has never seen the GPU
    terminal.await_text("driver was upgraded")
    assert jobs_and_gpus(terminal) == ({"1"}, set())
    terminal.send("q")
    assert terminal.finish() == 0


@pytest.mark.parametrize("words", [("top",), ("ls", "-w")], ids=" ".join)
def test_all_is_reached_by_keys_and_a_job_is_killed_from_the_screen(world: World, words: tuple[str, ...]) -> None:
    """Real keys on a real terminal: End, a filter, why, and a kill that asks first."""
    queue(world, 1, "running", "-g", "2", *SLEEP)
    for number in range(2, 14):
        queue(world, number, "waiting", "-N", f"only-{chr(95 + number)}{number}", "-t", f"{number}h", *SLEEP)
    terminal = Terminal(world, [world.command, *words], lines=12, env={"NO_COLOR": "1"})
    terminal.await_text("more lines")
    assert "n13" not in terminal.text()
    terminal.send("\x1b[F")
    terminal.await_text("only-l13")
    assert "STATE" in terminal.text(), "the header stays"
    terminal.send("/d5\n")
    wait_until(lambda: "only-l13" not in terminal.text() and "only-d5" in terminal.text(), "the filter")
    terminal.send("\n")
    terminal.await_text("job 5 (only-d5: sleep 600) waits")
    terminal.send("x")
    wait_until(lambda: "waits" not in terminal.text(), "the list again")
    terminal.send("K")
    terminal.await_text("kill 5? [y/N]")
    terminal.send("n")
    wait_until(lambda: "[y/N]" not in terminal.text(), "the question to go")
    assert world.state(5) == "waiting"
    terminal.send("Ky")
    terminal.await_text("job 5: cancelled while waiting")
    assert world.state(5) == "ended"
    terminal.send("q")
    assert terminal.finish() == 0
    assert terminal.attributes() == terminal.before
