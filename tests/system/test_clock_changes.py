"""The wall clock is set while jobs run, wait and stand still: nothing comes of it but other dates.

Arbiters and commands are those of a Python environment of the test's own, whose wall clock is ahead by what the file `ahead`
in GPURUN_DIR says; each process reads it anew each time.
"""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from steps import build
from waiting import let_pass, wait_until
from world import World

HOUR = 3600
YEAR = 365 * 24 * HOUR

SHIM = r"""
import os, site, time

site.addsitedir(PACKAGES)
FOLDER = os.environ.get("GPURUN_DIR", "")


def ahead():
    try:
        with open(FOLDER + "/ahead") as file:
            return float(file.read())
    except OSError:
        return 0.0


def shifted(_plain=time.time):
    return _plain() + ahead()


time.time = shifted
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(tmp_path_factory.mktemp("wall"), SHIM)


@pytest.fixture
def shifting(make_world: Callable[..., World], command: str) -> World:
    """A world of one GPU whose wall clock can be set."""
    return make_world("1x24G", command=command)


def set_clock(world: World, ahead: float) -> None:
    half = world.directory / ".ahead"
    half.write_text(str(ahead))
    half.rename(world.directory / "ahead")


def until_state(world: World, job: int, state: str) -> None:
    wait_until(lambda: world.state(job) == state, f"job {job} to be {state}")


def next_arbiter(world: World) -> None:
    """The arbiter is killed, and its keeper becomes the next one, which has recovered all."""
    before = world.arbiter_pid()
    assert before is not None
    psutil.Process(before).kill()
    wait_until(lambda: world.arbiter_pid() not in (None, before), "the next arbiter")
    assert world.run("ls").returncode == 0


def text(world: World, *words: str) -> str:
    done = world.run(*words)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_set_forth_a_successor_ends_nobody_and_takes_nobody_out_of_the_line(shifting: World) -> None:
    running = shifting.start("-t", "1h", "sleep", "600")
    until_state(shifting, 1, "running")
    shifting.start("-w", "1h", "true")
    until_state(shifting, 2, "waiting")
    set_clock(shifting, 2 * HOUR)
    next_arbiter(shifting)
    let_pass(1.0, "the arbiter to end what it takes to be over")
    assert (shifting.state(1), shifting.state(2)) == ("running", "waiting")
    assert running.poll() is None
    for line in text(shifting, "ls").splitlines()[1:3]:
        assert re.search(r" \d+ s ", line), line


@pytest.mark.parametrize("back", [HOUR, 10 * YEAR], ids=["an hour", "ten years"])
@pytest.mark.parametrize("successor", [False, True], ids=["same arbiter", "successor"])
def test_set_back_a_limit_still_comes(shifting: World, back: float, successor: bool) -> None:
    begun = time.monotonic()
    running = shifting.start("-t", "3s", "sleep", "600")
    until_state(shifting, 1, "running")
    set_clock(shifting, -back)
    if successor:
        next_arbiter(shifting)
    assert running.wait(30) == -signal.SIGTERM
    assert time.monotonic() - begun > 2.9
    until_state(shifting, 1, "ended")
    assert shifting.job(1)["result"]["text"] == "time limit of 3s"


@pytest.mark.parametrize("ahead", [5 * HOUR, 10 * YEAR, -HOUR], ids=["5 h", "10 y", "back 1 h"])
def test_a_pause_goes_on_however_the_clock_is_set(shifting: World, ahead: float) -> None:
    shifting.start("sleep", "600", start_new_session=True)
    until_state(shifting, 1, "running")
    urgent = shifting.start("-p", "urgent", "sleep", "600")
    until_state(shifting, 1, "paused")
    set_clock(shifting, ahead)
    let_pass(2.5, "the arbiter to look after pauses, more than once")
    assert (shifting.state(1), shifting.state(2)) == ("paused", "running")
    next_arbiter(shifting)
    let_pass(1.0, "the next one to do so")
    assert (shifting.state(1), shifting.state(2)) == ("paused", "running")
    assert re.search(r"paused for job 2, \d+ s", text(shifting, "ls"))
    urgent.terminate()
    until_state(shifting, 1, "running")


def test_who_has_just_come_back_is_not_paused_again_because_the_clock_was_set_forth(shifting: World) -> None:
    shifting.start("sleep", "600", start_new_session=True)
    until_state(shifting, 1, "running")
    urgent = shifting.start("-p", "urgent", "sleep", "600")
    until_state(shifting, 1, "paused")
    urgent.terminate()
    until_state(shifting, 1, "running")
    set_clock(shifting, 6 * 60)  # more than it runs at least after each return
    again = shifting.start("-p", "urgent", "true")
    until_state(shifting, 3, "waiting")
    assert re.search(r"was paused a moment ago and may be paused again at \d\d:\d\d", text(shifting, "why", "3"))
    assert (shifting.state(1), again.poll()) == ("running", None)


def test_what_ran_and_waited_is_told_by_the_clock_that_decides_and_when_by_the_other(shifting: World) -> None:
    running = shifting.start("sleep", "600")
    until_state(shifting, 1, "running")
    waiting = shifting.start("true")
    until_state(shifting, 2, "waiting")
    set_clock(shifting, 3 * HOUR)
    assert re.search(r"does not wait: running on GPU 0 for \d+ s", text(shifting, "why", "1"))
    assert re.search(r"\d+ s so far", text(shifting, "why", "2"))
    assert re.search(r"sleep 600, \d+ s", text(shifting, "gpus"))
    running.kill()
    assert waiting.wait(30) == 0
    until_state(shifting, 2, "ended")
    for line in text(shifting, "ls", "-a").splitlines()[1:]:
        assert re.search(r" \d+ s ", line), line
    assert re.search(r"it ended \d+ s ago", text(shifting, "why", "1"))
    jobs = json.loads(text(shifting, "history", "--json"))["jobs"]
    assert [job["id"] for job in jobs] == [1, 2]
    for job in jobs:
        assert 0 <= job["ran_seconds"] < 60
        assert 0 <= job["waited_seconds"] < 60
        assert job["ended_at"][:13] != job["submitted_at"][:13], "dates are those of the wall"


def test_keepers_are_counted_by_the_clock_that_decides(shifting: World) -> None:
    """Three in a minute give up: those of the last minute, though the clock says that they were long ago."""
    shifting.start("sleep", "600")
    until_state(shifting, 1, "running")
    log = shifting.folder / "arbiter.log"

    def follows(before: int) -> bool:
        return "give-up" in log.read_text() or shifting.arbiter_pid() not in (None, before)

    for number in range(3):
        set_clock(shifting, number * HOUR)
        before = shifting.arbiter_pid()
        assert before is not None
        psutil.Process(before).kill()
        wait_until(lambda before=before: follows(before), "the next arbiter")  # type: ignore[misc]
    wait_until(lambda: "give-up" in log.read_text(), "the third to give up")


@pytest.mark.long
def test_logs_of_this_boot_are_kept_for_as_long_as_they_should(shifting: World) -> None:
    shifting.run("-d", "echo", "kept")
    until_state(shifting, 1, "ended")
    logs: Path = shifting.folder / "logs"
    arbiter = shifting.arbiter_pid()
    assert arbiter is not None
    wait_until(lambda: shifting.arbiter_pid() is None, "the arbiter to leave", 60)
    (logs / "999.log").write_text("of nobody's")
    os.utime(logs / "999.log", (0, 0))
    set_clock(shifting, 10 * YEAR)
    shifting.start("sleep", "600")
    wait_until(lambda: not (logs / "999.log").exists(), "old logs to go")
    assert (logs / "1.log").read_text() == "kept\n"
