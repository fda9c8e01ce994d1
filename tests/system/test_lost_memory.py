"""The database is lost or damaged while jobs run, wait and stand still, with its arbiter and without."""

import contextlib
import fcntl
import json
import os
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pauses import OrdinaryWorld, Stage, groups_go_with_their_world, may_freeze, no_group_left, nobody_left_standing
from proof import claims_on
from test_crash import AT_ONCE, SHUTDOWN, fill, small_disk
from waiting import wait_until
from world import OTHER_UID, World

__all__ = ["groups_go_with_their_world", "small_disk"]

Damage = Callable[[Path], None]


def remove(*names: str) -> Damage:
    def act(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return act


def empty(name: str) -> Damage:
    return lambda folder: os.truncate(folder / name, 0)


def overwrite(name: str) -> Damage:
    def act(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.write(os.urandom((folder / name).stat().st_size))

    return act


def empty_folder(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() or path.is_socket():
            path.unlink()


DAMAGES: dict[str, Damage] = {
    "database deleted": remove("state.db", "state.db-wal", "state.db-shm"),
    "database truncated": empty("state.db"),
    "database overwritten": overwrite("state.db"),
    "log emptied": empty("state.db-wal"),
    "log removed": remove("state.db-wal"),
    "log overwritten": overwrite("state.db-wal"),
    "index removed": remove("state.db-shm"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_list_shows_the_live_jobs_whatever_is_done_to_the_database(world: World, damage: Damage) -> None:
    for _ in range(12):
        assert world.run("-d", "sleep", "600").returncode == 0
    wait_until(lambda: world.states().count("running") == 2, "two to run")
    before = world.run("ls", "--json")
    arbiter = world.arbiter_pid()
    damage(world.folder)
    listed = world.run("ls")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "running" in listed.stdout
    assert "10th" in listed.stdout
    jobs = world.jobs(all=False)
    assert [(job["id"], job["state"]) for job in jobs] == [(n, "running" if n < 3 else "waiting") for n in range(1, 13)]
    assert before.stdout.count('"argv"') == len(jobs)
    assert world.run("renice", "5", "12").returncode == 0
    assert world.run("kill", "1").returncode == 0
    wait_until(lambda: world.state(12) == "running", "another to run")
    assert world.arbiter_pid() == arbiter
    assert world.run("-d", "true").stdout == "13\n"


# Those who stand still


FREEZING, STOPPING = "freezing", "stopping"


@pytest.fixture(params=[FREEZING, STOPPING])
def paused(request: pytest.FixtureRequest, make_world: Callable[..., World], open_folder: Path) -> Iterator[Stage]:
    """A job that gives way to an urgent one: frozen in a group of its own, or stopped by signal where there is none."""
    if request.param == FREEZING:
        if not may_freeze():
            pytest.skip("no cgroup v2 tree that may be written here")
        stage = Stage(make_world("1x24G"), open_folder)
        yield from giving_way(stage)
        return
    command = request.getfixturevalue("everybodys_command")
    with OrdinaryWorld("1x24G", command=command) as world:
        os.chown(world.directory, OTHER_UID, OTHER_UID)
        open_folder.chmod(0o777)
        yield from giving_way(Stage(world, open_folder, python=["/usr/bin/python3", "-I", "-S"]))


def giving_way(stage: Stage) -> Iterator[Stage]:
    stage.running("low", under=["-p", "low"], start_new_session=True)
    stage.running("urgent", under=["-p", "urgent"], start_new_session=True)
    stage.until_state(1, "paused")
    stage.beats.until_still("low")
    yield stage
    stage.open_all()
    nobody_left_standing([line.pid for line in stage.beats.lines(what="start")])
    try:
        no_group_left(stage.world)
    except AssertionError as failure:
        raise AssertionError(f"{failure}\n{stage.said()}") from None


def kill(world: World, *pids: int | None) -> None:
    for pid in pids:
        assert pid
        os.kill(pid, signal.SIGKILL)


ENDS = ["the arbiter lives", "the arbiter is killed", "arbiter and keeper are killed"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("damage", [*DAMAGES.values(), empty_folder], ids=[*DAMAGES.keys(), "folder emptied"])
def test_nobody_stays_frozen_whatever_is_done_to_the_database(paused: Stage, damage: Damage, end: str) -> None:
    world = paused.world
    arbiter, keeper = world.arbiter_pid(), world.keeper_pid()
    damage(world.folder)
    if end == ENDS[1]:
        kill(world, arbiter)
    elif end == ENDS[2]:
        kill(world, keeper, arbiter)
        assert world.run("-g", "0", "--", "true").returncode == 0  # the next command repairs
    else:
        world.run("ls")
    paused.open("urgent")
    paused.beats.until_beats("low", within=20)
    paused.open("low")


def test_nobody_stays_frozen_when_the_folder_is_moved_away(paused: Stage) -> None:
    world = paused.world
    world.folder.rename(away := world.folder.with_name("away"))
    try:
        paused.open("urgent")
        paused.beats.until_beats("low", within=20)
    finally:
        away.rename(world.folder)


def test_doctor_lets_go_who_was_forgotten_and_says_so(paused: Stage) -> None:
    world = paused.world
    pid = paused.beats.first("low", "start").pid
    kill(world, world.keeper_pid(), world.arbiter_pid())
    empty_folder(world.folder)
    done = world.run("doctor")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.startswith("mended")]
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith(f"mended job 1 (pid {pid}, ")
    assert lines[0].endswith(") stood still for a job that has ended: it goes on")
    paused.beats.until_beats("low")
    assert "\nmended" not in world.run("doctor").stdout


def die(world: World) -> None:
    """From now on every access to the disk is an input/output error."""
    with world.database.open("rb") as file:
        try:
            fcntl.ioctl(file, SHUTDOWN, struct.pack("I", AT_ONCE))
        except OSError as err:
            pytest.skip(f"no disk can be made to die here: {err}")


@pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")
@pytest.mark.parametrize("small_disk", ["ext4"], indirect=True)
@pytest.mark.parametrize("end", ENDS)
def test_nobody_stays_frozen_when_the_disk_dies(small_disk: World, open_folder: Path, end: str) -> None:
    world, stage = small_disk, Stage(small_disk, open_folder)
    stage.running("low", under=["-p", "low"], start_new_session=True)
    stage.running("urgent", under=["-p", "urgent", "-g", "2"], start_new_session=True)
    stage.until_state(1, "paused")
    waiter = world.start("-q", "-g", "2", "--", "true")
    wait_until(lambda: world.state(3) == "waiting", "job 3 to wait")
    arbiter, keeper = world.arbiter_pid(), world.keeper_pid()
    uuids = [gpu["uuid"] for gpu in json.loads(world.run("gpus", "--json").stdout)["gpus"]]
    assert len(claims_on(uuids)) == 2
    pids = [line.pid for line in stage.beats.lines(what="start")]
    try:
        die(world)
        if end == ENDS[1]:
            kill(world, arbiter)
        elif end == ENDS[2]:
            kill(world, keeper, arbiter)
        else:
            stage.open("urgent")
        stage.beats.until_beats("low", within=20)
        _, errors = waiter.communicate(timeout=30)
        assert (waiter.returncode, errors.count("\n")) == (125, 1), errors
        assert "input/output error" in errors
        if end == ENDS[0]:  # in memory it knows who has what, until they have ended
            assert len(claims_on(uuids)) == 1
            stage.open_all()
            wait_until(lambda: not claims_on(uuids), "the claims to go", 10)
            wait_until(lambda: not Path(f"/proc/{arbiter}").exists(), "the arbiter to leave", 10)
    finally:
        stage.open_all()
        for pid in [*pids, arbiter, keeper]:
            with contextlib.suppress(ProcessLookupError, TypeError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")
@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
def test_nobody_stays_frozen_until_a_full_disk_has_room_again(small_disk: World, open_folder: Path) -> None:
    world, stage = small_disk, Stage(small_disk, open_folder)
    stage.running("low", under=["-p", "low"], start_new_session=True)
    urgent = stage.running("urgent", under=["-p", "urgent", "-g", "2"], start_new_session=True)
    stage.until_state(1, "paused")
    filler = fill(world)
    stage.open("urgent")
    assert urgent.wait(20) == 0
    stage.beats.until_beats("low", within=15)
    filler.unlink()
    stage.until_state(2, "ended")
    stage.until_state(1, "running")
    stage.beats.until_beats("low")
    assert world.run("pause", "1").returncode == 0
    stage.beats.until_still("low")
    assert world.run("resume", "1").returncode == 0
    stage.beats.until_beats("low")
    stage.open_all()
    no_group_left(world)
