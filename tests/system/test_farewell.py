"""An arbiter that is told to end (with its unit, its session, the machine) leaves nobody stopped and lets nobody wait.

Here the signals are sent by hand, to each process or to all as systemd sends them; `tests/machine` has a systemd that does.
"""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pauses import (
    OrdinaryWorld,
    Stage,
    alive,
    groups_go_with_their_world,
    may_freeze,
    nobody_left_standing,
)
from waiting import let_pass, wait_until
from world import OTHER_UID, World

__all__ = ["groups_go_with_their_world"]
# What it says at the end of a session is TERM, then HUP.
TOLD = (signal.SIGTERM, signal.SIGHUP)
# No stop of anything takes longer.
STOP_SECONDS = 2.0


@pytest.fixture(params=["freeze", "stop"])
def stage(request: pytest.FixtureRequest, everybodys_command: str, open_folder: Path) -> Iterator[Stage]:
    """A world whose jobs are paused by the freezer (root's), or by SIGSTOP (an ordinary user's without a cgroup)."""
    if request.param == "freeze" and not may_freeze():
        pytest.skip("no cgroup v2 tree that may be written here")
    with World("1x80G") if request.param == "freeze" else OrdinaryWorld("1x80G", command=everybodys_command) as world:
        if isinstance(world, OrdinaryWorld):
            for folder in (world.directory, open_folder):
                os.chown(folder, OTHER_UID, OTHER_UID)
        yield Stage(world, open_folder, ["/usr/bin/python3", "-I", "-S"])


def start(stage: Stage, tag: str, *under: str) -> "subprocess.Popen[str]":
    """Start a job without a terminal, in a session of its own."""
    return stage.running(tag, under=under, start_new_session=True)


def told(pid: int | None) -> psutil.Process:
    """Tell a process to end, as the end of a session does."""
    assert pid is not None
    process = psutil.Process(pid)
    tell(process)
    return process


def tell(process: psutil.Process) -> None:
    for number in TOLD:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def paused(stage: Stage, *options: str) -> None:
    start(stage, "train", *options)
    assert stage.world.run("pause", "1").returncode == 0, stage.said()
    stage.beats.until_still("train")


@pytest.mark.parametrize("options", [[], ["-g", "0"]], ids=["a GPU", "none"])
def test_who_was_paused_goes_on_and_nothing_of_gpurun_stays(stage: Stage, options: list[str]) -> None:
    paused(stage, *options)
    keeper = psutil.Process(stage.world.keeper_pid())
    arbiter = told(stage.world.arbiter_pid())
    wait_until(lambda: not alive(arbiter.pid), "the arbiter to leave", STOP_SECONDS)
    wait_until(lambda: not alive(keeper.pid), "its keeper to leave", STOP_SECONDS)
    stage.beats.until_beats("train")
    stage.until_state(1, "running")
    assert stage.beats.lost_steps("train") == []
    assert stage.world.arbiter_pid() is None
    # The next command finds everything as it is.
    assert stage.world.state(1) == "running"


def test_who_waits_elsewhere_summons_the_next_one(stage: Stage) -> None:
    paused(stage)
    start(stage, "infer", "-p", "urgent")
    waiting = stage.start("later")
    wait_until(lambda: stage.world.state(3) == "waiting", "job 3 to wait")
    before = told(stage.world.arbiter_pid()).pid
    wait_until(lambda: stage.world.arbiter_pid() not in (None, before), "another arbiter")
    assert stage.world.state(3) == "waiting"
    assert waiting.poll() is None
    stage.open_all()
    stage.open("later")
    assert waiting.wait(30) == 0


def test_a_frozen_job_that_is_ended_together_with_its_arbiter_receives_its_signal(stage: Stage) -> None:
    train = start(stage, "train", "-r")
    (program,) = psutil.Process(train.pid).children()
    assert stage.world.run("pause", "1").returncode == 0, stage.said()
    stage.beats.until_still("train")
    pids = (stage.world.arbiter_pid(), stage.world.keeper_pid(), program.pid, train.pid)
    everybody = [psutil.Process(pid) for pid in pids]
    for process in everybody:
        process.send_signal(signal.SIGTERM)
    assert train.wait(STOP_SECONDS) == -signal.SIGTERM
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to leave", STOP_SECONDS)
    nobody_left_standing(process.pid for process in everybody)
    # It has written down how that ended, and nobody has summoned another.
    (row,) = stage.world.rows("SELECT state, result_kind, result_signal FROM job")
    assert tuple(row.values()) == ("ended", "signal", signal.SIGTERM)
    assert len(re.findall("ready: arbiter", stage.world.last_words())) == 1


def test_a_stub_that_is_asked_to_end_summons_nobody(world: World) -> None:
    """It finds its connection broken, and must not start what would live in a unit that is being stopped."""
    stub = world.start("-r", "sh", "-c", "exec sleep 600", start_new_session=True)
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    everybody = [psutil.Process(pid) for pid in (world.keeper_pid(), world.arbiter_pid()) if pid]
    os.kill(stub.pid, signal.SIGSTOP)
    for process in everybody:
        process.kill()
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to be gone")
    for number in (signal.SIGTERM, signal.SIGCONT):
        os.kill(stub.pid, number)
    assert stub.wait(10) == -signal.SIGTERM
    let_pass(0.5, "an arbiter takes a fifth of a second to come")
    assert len(re.findall("ready: arbiter", world.last_words())) == 1
    assert world.arbiter_pid() is None


def test_a_job_that_ends_just_before_its_arbiter_is_written_down(world: World) -> None:
    """A service's main process ends, and systemd ends the rest of the service at once."""
    child = world.start("sh", "-c", "read line; exit 7", stdin=subprocess.PIPE)
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    everybody = [psutil.Process(pid) for pid in (world.keeper_pid(), world.arbiter_pid())]
    assert child.stdin is not None
    child.stdin.write("over\n")
    child.stdin.flush()
    assert child.wait(10) == 7
    for process in everybody:
        tell(process)
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to leave", STOP_SECONDS)
    (row,) = world.rows("SELECT state, result_kind, result_code FROM job")
    assert tuple(row.values()) == ("ended", "exit", 7)


def test_it_leaves_though_nothing_can_be_written_down(world: World) -> None:
    """The database is locked by somebody else: nobody stays stopped, and it does not wait."""
    import sqlite3

    world.start("sleep", "600", start_new_session=True)
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    assert world.run("pause", "1").returncode == 0
    (pid,) = [row["pid"] for row in world.rows("SELECT pid FROM job")]
    database = sqlite3.connect(world.database, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        arbiter = told(world.arbiter_pid())
        nobody_left_standing([pid])
        wait_until(lambda: not alive(arbiter.pid), "the arbiter to leave", 15)
    finally:
        database.close()
