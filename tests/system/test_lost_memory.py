"""The database is lost or damaged while jobs run, wait and stand still, with its arbiter and without."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

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
    wait_until(lambda: [job["state"] for job in world.jobs()].count("running") == 2, "two to run")
    before = world.run("ls", "--json")
    arbiter = world.arbiter_pid()
    damage(world.folder)
    listed = world.run("ls")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "running" in listed.stdout
    assert "waiting" in listed.stdout
    jobs = world.jobs(all=False)
    assert [(job["id"], job["state"]) for job in jobs] == [(n, "running" if n < 3 else "waiting") for n in range(1, 13)]
    assert before.stdout.count('"argv"') == len(jobs)
    assert world.run("renice", "5", "12").returncode == 0
    assert world.run("kill", "1").returncode == 0
    wait_until(lambda: world.state(12) == "running", "another to run")
    assert world.arbiter_pid() == arbiter
    assert world.run("-d", "true").stdout == "13\n"
