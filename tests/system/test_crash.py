"""What survives when processes are killed at any moment, when the machine restarts, and when the database suffers.

The same proof as for an undisturbed crowd: nothing runs twice, nothing is lost, no GPU is given twice, nothing is left.
"""

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from crowd import Crowd
from earlier import make_version_1
from proof import GIB, MAYBE, Asked, build_work, claims_on, left_over, no_gpu_is_given_twice
from screens import expect
from terminal import Terminal
from waiting import let_pass, wait_until
from world import World, start_ticks

from gpuwrap.state.schema import VERSION

MakeWorld = Callable[..., World]


def seeded() -> random.Random:
    """A generator whose seed stands in the output of a failed test."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def kill_everything(world: World, spared: tuple[int, ...] = ()) -> None:
    """`kill -9` on all that belongs to the world, until nobody is left to start anything anew."""

    def nothing_left() -> bool:
        left = [process for process in world.processes() if process.pid not in spared]
        # Keeper and arbiter stand last: first of all they go, or it would see the others end.
        for process in reversed(left):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    wait_until(nothing_left, "everything to be killed", 20)


def assert_refused(done: "subprocess.CompletedProcess[str]", status: int, *words: str) -> None:
    """One line, or two of which the second says what to do; nothing on standard output."""
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    assert lines[0].startswith("gpurun: "), done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


# kill -9 at random moments


def disturb(crowd: Crowd, victim: str, dice: random.Random) -> bool:
    """Kill one victim now; false if there is none at the moment."""
    if victim == "client":
        waiting = crowd.waiting()
        if waiting:
            crowd.kill(dice.choice(waiting), signal.SIGKILL, MAYBE)
        return bool(waiting)
    arbiter, keeper = crowd.world.arbiter_pid(), crowd.world.keeper_pid()
    # The keeper first: it would become the next arbiter.
    pids = {"arbiter": [arbiter], "keeper": [keeper], "both": [keeper, arbiter]}[victim]
    if not all(pids):
        return False
    crowd.kill_of_gpurun(pids)
    return True


@pytest.mark.parametrize(
    ("crowds", "size", "kills"),
    [
        pytest.param(1, 30, 10, id="10 kills"),
        pytest.param(5, 60, 10, id="50 kills", marks=[pytest.mark.long, pytest.mark.limit(900)]),
    ],
)
def test_kills_at_random_moments_lose_nothing(
    make_world: MakeWorld, tmp_path: Path, crowds: int, size: int, kills: int
) -> None:
    dice = seeded()
    work = build_work(tmp_path)
    for number in range(crowds):
        folder = tmp_path / f"crowd{number}"
        folder.mkdir()
        with make_world("4x24G") as world:
            disturb_a_crowd(Crowd(world, work, folder), size, kills, dice)


def disturb_a_crowd(crowd: Crowd, size: int, kills: int, dice: random.Random) -> None:
    crowd.start_mixed(size, dice, longest_ms=250)
    victims = ["arbiter", "keeper", "both", "client"] * 3
    dice.shuffle(victims)
    moments = sorted(dice.sample(range(size * 3 // 4), kills))
    story = list(zip(victims, moments, strict=False))
    for victim, moment in story:
        crowd.until_started(moment)

        def hit(victim: str = victim) -> bool:
            return disturb(crowd, victim, dice) or not crowd.waiting()

        wait_until(hit, f"a {victim} to kill", 40)
    crowd.finish()
    crowd.prove(f"a crowd of {size} with kills {story}")
    assert not any("Traceback" in line for line in crowd.complaints()), crowd.complaints()
    print(f"{story}: {crowd.started()} programs ran")


def test_jobs_that_end_while_no_arbiter_lives_are_not_lost(make_world: MakeWorld, tmp_path: Path) -> None:
    """No client waits and the keeper is dead too: nobody notices the ends until the next command."""
    crowd = Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    for tag in ("a", "b"):
        crowd.start(Asked(tag), f"until={gate}", status=3)
    crowd.until_started(2)
    crowd.kill_of_gpurun([crowd.world.keeper_pid(), crowd.world.arbiter_pid()])
    wait_until(lambda: crowd.world.arbiter_pid() is None, "the arbiter to be gone")
    gate.touch()
    crowd.finish()
    for job in crowd.world.jobs():
        assert job["state"] == "ended", job
        assert job["result"]["kind"] in ("exit", "unknown"), job
    crowd.prove("two that ended unseen")


def test_a_running_program_never_notices_that_the_arbiter_is_killed(make_world: MakeWorld, tmp_path: Path) -> None:
    crowd = Crowd(make_world("1x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("running"), f"until={gate}", status=5)
    crowd.until_started(1)
    crowd.start(Asked("waiting"))
    crowd.until_in_line(["waiting"])
    for _ in range(4):
        before = crowd.world.arbiter_pid()
        crowd.kill_of_gpurun([before])
        wait_until(lambda b=before: crowd.world.arbiter_pid() not in (None, b), "the next arbiter", 15)
        assert crowd.started() == 1
        assert crowd.world.run("-n", "--", "true").returncode == 124, "a second job was let onto the GPU"
    gate.touch()
    crowd.finish()
    crowd.prove("one that ran through four arbiters")


def test_after_everything_is_killed_at_once_the_next_command_repairs(make_world: MakeWorld, tmp_path: Path) -> None:
    crowd = Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "never"
    for number in range(12):
        crowd.start(Asked(f"j{number:02}"), f"until={gate}", f"take={GIB}")
    crowd.until_started(2)
    wait_until(lambda: len(crowd.states()) == 12, "all to be registered")
    for tag in crowd.asked:
        crowd.kill(tag, signal.SIGSTOP, MAYBE)
    kill_everything(crowd.world)
    crowd.finish()
    assert crowd.started() == 2
    done = crowd.world.run("ls", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["jobs"] == []
    jobs = crowd.world.jobs()
    assert [job["state"] for job in jobs] == ["ended"] * 12
    assert not crowd.settle()
    assert crowd.world.run("-g", "2", "-n", "--", "true").returncode == 0
    assert crowd.started() == 2


def test_after_all_of_gpurun_but_the_programs_is_killed_these_keep_their_gpus(make_world: MakeWorld, tmp_path: Path) -> None:
    crowd = Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    for tag in ("a", "b"):
        crowd.start(Asked(tag), f"until={gate}")
    crowd.until_started(2)
    for number in range(6):
        crowd.start(Asked(f"waiting{number}"))
    crowd.until_in_line([f"waiting{number}" for number in range(6)])
    for number in range(6):
        crowd.kill(f"waiting{number}", signal.SIGSTOP, MAYBE)
    kill_everything(crowd.world, spared=(crowd.clients["a"].pid, crowd.clients["b"].pid))
    assert sorted(job["state"] for job in crowd.world.jobs(all=False)) == ["running", "running"]
    assert crowd.world.run("-n", "--", "true").returncode == 124
    gate.touch()
    crowd.finish()
    assert crowd.started() == 2
    assert not crowd.settle()


def test_another_boot_id_is_a_restart_and_nothing_is_believed_to_run(make_world: MakeWorld, tmp_path: Path) -> None:
    """The rows name a living process of the same pid and start time: only the boot tells that it is another."""
    crowd = Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)
    world = crowd.world
    gate = tmp_path / "never"
    for number in range(6):
        crowd.start(Asked(f"j{number}"), f"until={gate}")
    crowd.until_started(2)
    wait_until(lambda: len(crowd.states()) == 6, "all to be registered")
    for tag in crowd.asked:
        crowd.kill(tag, signal.SIGSTOP, MAYBE)
    kill_everything(world)
    crowd.finish()
    bystander = world.adopt(subprocess.Popen(["sleep", "600"]))
    with contextlib.closing(sqlite3.connect(world.database)) as database, database:
        live = [id for (id,) in database.execute("SELECT id FROM job WHERE state != 'ended' ORDER BY id")]
        assert len(live) == 6
        database.execute(
            "UPDATE job SET boot_id = '00000000-0000-0000-0000-000000000001', pid = ?, start_ticks = ?,"
            " submitted_mono = submitted_mono + 1e6, started_mono = started_mono + 1e6",  # it had been up for longer
            (bystander.pid, start_ticks(bystander.pid)),
        )
    jobs = {job["id"]: job for job in world.jobs()}
    for id in live:
        assert jobs[id]["state"] == "ended", jobs[id]
        assert jobs[id]["result"]["kind"] == "lost", jobs[id]
        assert "restart" in jobs[id]["result"]["text"], jobs[id]
    assert world.jobs(all=False) == []
    assert [row["id"] for row in world.rows("SELECT id FROM job WHERE ended_mono IS NULL ORDER BY id")] == live
    for job in json.loads(world.run("history", "--json").stdout)["jobs"]:
        ran, waited = job["ran_seconds"], job["waited_seconds"]
        assert 0 <= waited < 120, "between two boots dates are all there is"
        assert 0 <= (ran or 0.0) < 120
    assert bystander.poll() is None, "somebody else's process was ended"
    assert world.run("-g", "2", "-n", "--", "true").returncode == 0, "the GPUs are not free again"
    assert world.rows("SELECT * FROM share WHERE job_id <= ?", max(live)) == []
    assert bystander.poll() is None


# The database


def delete_database(world: World) -> None:
    for path in world.folder.glob("state.db*"):
        path.unlink()


def test_nothing_starts_from_a_deleted_database(make_world: MakeWorld) -> None:
    """The arbiter sleeps while it is deleted, and wakes because a GPU came free."""
    world = make_world("24G")
    holder = world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPU to be held")
    arbiter = world.arbiter_pid()
    assert arbiter is not None
    waiter = world.start("sleep", "601")
    wait_until(lambda: world.state(2) == "waiting", "another to wait")
    let_pass(0.1, "the arbiter falls asleep")
    os.kill(arbiter, signal.SIGSTOP)
    delete_database(world)
    holder.kill()
    holder.wait(30)
    os.kill(arbiter, signal.SIGCONT)
    wait_until(lambda: Path(f"/proc/{waiter.pid}/cmdline").read_bytes().startswith(b"sleep"), "the other to run")
    running = [job["pid"] for job in world.jobs() if job["state"] == "running"]
    assert running == [waiter.pid], "it runs and nobody knows of it"


def test_a_database_deleted_under_a_running_arbiter_costs_no_running_job_and_no_double_grant(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    crowd = Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)
    world = crowd.world
    gate = tmp_path / "open"
    crowd.start(Asked("old"), f"until={gate}", status=4)
    crowd.until_started(1)
    delete_database(world)
    # The other GPU is free: the next command finds the arbiter, which has written the database anew, with the old job.
    crowd.start(Asked("beside"), "for=50")
    crowd.until_started(2, within=15)
    assert [one.tag for one in crowd.asked_by_job().values()] == ["old", "beside"]
    assert world.run("-n", "-g", "2", "--", "true").returncode == 124, "a GPU in use was granted again"
    crowd.start(Asked("both", gpus=2))
    wait_until(lambda: crowd.clients["beside"].poll() is not None, "the one beside to end")
    assert not crowd.has_started("both")
    assert crowd.clients["old"].poll() is None
    gate.touch()
    crowd.finish(30)
    assert {tag: client.returncode for tag, client in crowd.clients.items()} == {"old": 4, "beside": 0, "both": 0}
    lives = crowd.lives()
    assert sorted(life.tag for life in lives) == ["beside", "both", "old"]
    assert no_gpu_is_given_twice(list(crowd.asked.values()), lives, 24 * GIB) == []
    assert not claims_on(crowd.uuids()) or not crowd.settle()

    def alone() -> bool:
        return {process.pid for process in world.processes()} <= {world.arbiter_pid(), world.keeper_pid()}

    wait_until(alone, "all but the arbiter to end", 15)


def test_clients_that_wait_while_the_database_is_deleted_are_registered_again(make_world: MakeWorld, tmp_path: Path) -> None:
    crowd = Crowd(make_world("1x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("old"), f"until={gate}")
    crowd.until_started(1)
    tags = [f"waiting{number}" for number in range(5)]
    for tag in tags:
        crowd.start(Asked(tag), "for=20")
    crowd.until_in_line(tags)
    delete_database(crowd.world)
    # Somebody has to come by for the arbiter to look: it does not watch its folder.
    assert crowd.world.run("ls").returncode == 0
    gate.touch()
    crowd.finish(40)
    lives = crowd.lives()
    assert sorted(life.tag for life in lives) == ["old", *tags]
    assert no_gpu_is_given_twice(list(crowd.asked.values()), lives, 24 * GIB) == []
    assert [client.returncode for client in crowd.clients.values()] == [0] * 6


def closed_world_with_a_job(world: World) -> None:
    assert world.run("--", "true").returncode == 0
    kill_everything(world)


def no_process_or_lock(world: World) -> None:
    """Nothing lives and nothing is locked: whoever could not open the database has gone again."""
    wait_until(lambda: not world.processes(), "all to leave", 5)


@pytest.mark.parametrize(
    "words", [["--", "true"], ["-n", "true"], ["-g", "0", "true"], ["-v", "-m", "1G", "true"]], ids=" ".join
)
def test_a_corrupt_database_is_one_line_and_125(world: World, words: list[str]) -> None:
    closed_world_with_a_job(world)
    for path in world.folder.glob("state.db-*"):
        path.unlink()
    garbage = b"this is no database " * 300
    world.database.write_bytes(garbage)
    assert_refused(world.run(*words), 125, "state.db", "not a database")
    assert world.database.read_bytes() == garbage, "the evidence was changed"
    no_process_or_lock(world)


@pytest.mark.parametrize("verb", [["ls"], ["ls", "--json"], ["kill", "1"], ["renice", "1", "1"], ["wait", "1"]], ids=" ".join)
def test_verbs_refuse_a_corrupt_database_in_one_line(world: World, verb: list[str]) -> None:
    closed_world_with_a_job(world)
    for path in world.folder.glob("state.db-*"):
        path.unlink()
    world.database.write_bytes(b"this is no database " * 300)
    done = world.run(*verb)
    assert done.returncode in (1, 2), done
    assert_refused(done, done.returncode, "state.db", "not a database")


def test_a_database_corrupted_in_the_middle_never_starts_a_program_unregistered(world: World, tmp_path: Path) -> None:
    closed_world_with_a_job(world)
    with contextlib.closing(sqlite3.connect(world.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = world.database.stat().st_size
    assert size > 4096
    with world.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    witness = tmp_path / "ran"
    assert_refused(world.run("--", "touch", witness), 125, "state.db")
    assert not witness.exists()


@pytest.mark.parametrize("words", [["--", "true"], ["ls"], ["kill", "1"]], ids=" ".join)
def test_a_newer_database_is_one_line_and_is_left_alone(world: World, words: list[str]) -> None:
    closed_world_with_a_job(world)
    with contextlib.closing(sqlite3.connect(world.database)) as database, database:
        database.execute("PRAGMA user_version = 999")
        before = list(database.iterdump())
    assert_refused(world.run(*words), 125 if words[0] == "--" else 1, "state.db", "newer")
    with contextlib.closing(sqlite3.connect(world.database)) as database:
        assert list(database.iterdump()) == before
        assert database.execute("PRAGMA user_version").fetchone() == (999,)
    no_process_or_lock(world)


@pytest.mark.parametrize("first", [["--", "true"], ["ls", "-a"], ["history"]], ids=" ".join)
def test_a_database_of_the_first_version_is_read_and_goes_on(world: World, first: list[str]) -> None:
    """It was made on the first day, before there were pauses or sweeps; whoever only reads cannot change it."""
    closed_world_with_a_job(world)
    make_version_1(world.database)
    done = world.run(*first)
    assert (done.returncode, done.stderr) == (0, "")
    assert world.run("--", "false").returncode == 1
    jobs = [(job["result"]["code"], job["sweep"]) for job in world.jobs()]
    assert (jobs[0], jobs[-1]) == ((0, None), (1, None))
    assert world.rows("PRAGMA user_version") == [{"user_version": VERSION}]


# The disk


def mount(*words: str | Path) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted: {done.stderr.strip()}")


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, make_world: MakeWorld, tmp_path: Path) -> Iterator[World]:
    """A world whose state folder lies on a filesystem of 8 MiB."""
    world = make_world("2x24G")
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    if request.param == "tmpfs":
        mount("-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", world.directory)
    else:
        maker = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
        if not maker:
            pytest.skip("mkfs.ext4 is not installed")
        image = tmp_path / "disk"
        with image.open("wb") as file:
            file.truncate(8 * 2**20)
        subprocess.run([maker, "-q", "-m", "0", "-O", "^has_journal", image], check=True)
        mount("-o", "loop", image, world.directory)
        os.rmdir(world.directory / "lost+found")
    yield world
    kill_everything(world)
    subprocess.run(["umount", world.directory], check=True)


def fill(world: World) -> Path:
    """Leave no byte of space; returns the file to delete."""
    filler = world.directory / ".filler"
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)
                    os.fsync(file.fileno())
    return filler


def test_a_full_disk_refuses_new_jobs_and_touches_no_running_one(small_disk: World, tmp_path: Path) -> None:
    crowd = Crowd(small_disk, build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("running"), f"until={gate}", status=6)
    crowd.until_started(1)
    filler = fill(small_disk)
    witness = tmp_path / "ran"
    # The write-ahead log may have room left from before: a few may still be registered, truly.
    refused: list[Any] = []

    def one_is_refused() -> bool:
        done = small_disk.run("-n", "-g", "2", "--", "touch", witness)
        assert done.returncode in (124, 125), done
        if done.returncode == 125:
            refused.append(done)
        return bool(refused)

    wait_until(one_is_refused, "a command to be refused", 60)
    assert_refused(refused[0], 125)
    first, second = refused[0].stderr.splitlines()
    assert first.startswith("gpurun: cannot register job: "), first
    assert "state.db: no space left on device" in first or "state.db: database or disk is full" in first
    assert second == "running jobs are not affected; free some space, or run it without gpurun"
    assert not witness.exists()
    assert small_disk.run("ls").returncode == 0, "ls must work on a full disk"
    assert "\nbad       database      cannot be written: no space left on device\n" in small_disk.run("doctor").stdout
    assert crowd.clients["running"].poll() is None
    gate.touch()
    crowd.finish()
    assert crowd.clients["running"].returncode == 6
    filler.unlink()
    done = small_disk.run("-g", "2", "--", "touch", witness, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert witness.exists()
    crowd.prove("one that ran over a full disk", order=False)


def test_a_full_disk_refuses_a_sweep_as_it_does_a_job(small_disk: World, tmp_path: Path) -> None:
    crowd = Crowd(small_disk, build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("running"), f"until={gate}")
    crowd.until_started(1)
    arbiter = small_disk.arbiter_pid()
    filler = fill(small_disk)
    witness = tmp_path / "ran"

    def refused() -> Any:
        done = small_disk.run("-n", "-g", "2", "--array", "1-3", "--", "touch", witness)
        assert done.returncode in (124, 125), done
        return done if done.returncode == 125 else None  # there may be room from before

    done = wait_until(refused, "a sweep to be refused", 60)
    assert_refused(done, 125, "cannot register job: ")
    assert "free some space" in done.stderr
    assert not witness.exists()
    assert small_disk.arbiter_pid() == arbiter
    filler.unlink()
    gate.touch()
    crowd.finish()
    done = small_disk.run("--array", "1-3", "--", "touch", witness)
    assert (done.returncode, done.stderr) == (0, "")
    assert witness.exists()


def test_a_disk_that_was_full_from_the_start_is_said_in_one_line(small_disk: World, tmp_path: Path) -> None:
    filler = fill(small_disk)
    witness = tmp_path / "ran"
    assert_refused(small_disk.run("--", "touch", witness), 125, "space")
    assert not witness.exists()
    filler.unlink()
    assert small_disk.run("--", "touch", witness).returncode == 0
    assert witness.exists()


def test_one_that_waits_while_the_disk_is_full_runs_once_there_is_space(small_disk: World, tmp_path: Path) -> None:
    crowd = Crowd(small_disk, build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("running", gpus=2), f"until={gate}")
    crowd.until_started(1)
    tags = [f"waiting{number}" for number in range(4)]
    for tag in tags:
        crowd.start(Asked(tag, gpus=2), "for=10")
    crowd.until_in_line(tags)
    filler = fill(small_disk)
    gate.touch()
    wait_until(lambda: crowd.clients["running"].poll() is not None, "the running one to end")
    filler.unlink()
    assert small_disk.run("-g", "0", "--", "true", timeout=20).returncode == 0
    crowd.finish(40)
    crowd.prove("four that waited over a full disk", order=False)


def test_while_the_disk_is_full_everybody_is_told_that_the_queue_cannot_be_written(small_disk: World, tmp_path: Path) -> None:
    gate = tmp_path / "open"
    first = small_disk.start("-g", "2", "--", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done")
    wait_until(lambda: small_disk.state(1) == "running", "job 1 to run")
    terminal = Terminal(small_disk, ["sh", "-c", f"{small_disk.command} -- echo started"], columns=110)
    terminal.await_text("job 1")
    filler = fill(small_disk)
    wait_until(lambda: small_disk.run("-n", "-g", "2", "true").returncode == 125, "a command to be refused", 60)
    gate.touch()
    assert first.wait(20) == 0
    line = terminal.await_text("the queue cannot be written")
    _, _, why = small_disk.run("ls", "2").stdout.partition("echo started")
    expect("disk-full", f"{line}\n{small_disk.run('why', '2').stdout}{why.strip()}\n")
    assert small_disk.run("gpus", timeout=10).returncode == 0
    filler.unlink()
    terminal.await_text("started", 20)


# EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH [fs/ext4/ext4.h]: from then on every access is an input/output error.
SHUTDOWN, AT_ONCE = 0x8004587D, 2


@pytest.mark.parametrize("small_disk", ["ext4"], indirect=True)
def test_one_that_waits_on_a_disk_that_dies_says_what_cannot_be_used(small_disk: World) -> None:
    world = small_disk
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    waiting = world.start("-q", "--", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    arbiter, keeper, path = world.arbiter_pid(), world.keeper_pid(), world.folder
    assert arbiter is not None
    assert keeper is not None
    with (path / "state.db").open("rb") as file:
        try:
            fcntl.ioctl(file, SHUTDOWN, struct.pack("I", AT_ONCE))
        except OSError as err:
            pytest.skip(f"no disk can be made to die here: {err}")
    for pid in (keeper, arbiter):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _, errors = waiting.communicate(timeout=30)
    assert_refused(subprocess.CompletedProcess([], waiting.returncode, "", errors), 125, "input/output error")
    assert "cannot use state folder: " in errors, errors
    assert "\nbad       database      cannot be written: input/output error\n" in world.run("doctor").stdout


# Sockets and files of the world


def test_a_bell_of_a_dead_arbiter_is_no_obstacle(world: World) -> None:
    closed_world_with_a_job(world)
    world.bell.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(world.bell))
    assert world.run("--", "true", timeout=15).returncode == 0


def test_a_bell_deleted_under_the_arbiter_does_not_lead_to_two_grants(make_world: MakeWorld, tmp_path: Path) -> None:
    """Whoever cannot be heard may be refused, in one line, but the GPU of the running job is never given away."""
    crowd = Crowd(make_world("1x24G"), build_work(tmp_path), tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("old"), f"until={gate}")
    crowd.until_started(1)
    crowd.world.bell.unlink()
    done = crowd.world.run("-w", "2s", "--", crowd.work, crowd.log, "next", timeout=40)
    assert_refused(done, done.returncode) if done.returncode == 125 else None
    assert done.returncode in (124, 125)
    assert crowd.started() == 1
    gate.touch()
    crowd.finish(40)
    assert crowd.clients["old"].returncode == 0


def test_a_closed_world_leaves_nothing(make_world: MakeWorld) -> None:
    """The fixture itself is believed by every test here."""
    world = make_world()
    assert world.run("--", "true").returncode == 0
    world.close()
    assert left_over(world.directory) == []


def test_an_arbiter_killed_before_it_is_ready_is_replaced(world: World) -> None:
    """Whoever summoned it does not fail for it: another is started."""
    client = world.start("true")
    ours = str(world.directory).encode()

    def being_born() -> "psutil.Process | None":
        for number in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            with contextlib.suppress(OSError, psutil.NoSuchProcess):
                line = Path(f"/proc/{number}/cmdline").read_bytes() if number > client.pid else b""
                if b"gpuwrap.arbiter.start" in line and ours in line:
                    return psutil.Process(number)
        return None

    while (newborn := being_born()) is None:  # looked for without any pause: it is ready in a tenth of a second
        assert client.poll() is None
    newborn.kill()
    assert client.wait(30) == 0
    assert client.communicate()[1] == ""


def test_waiting_for_others_for_a_key_and_for_a_retry_outlives_arbiters_that_die_all_the_time(
    world: World, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    jobs = [
        ["sh", "-c", f"sleep 3; echo first >> {log}"],
        ["-a", "ok:1", "--", "sh", "-c", f"echo second >> {log}; exit 3"],
        ["-a", "2", "--", "sh", "-c", f"echo third >> {log}"],
        ["-a", "ok:2", "--", "sh", "-c", f"echo never >> {log}"],
        ["--retries", "2", "--", "sh", "-c", f"echo try $GPURUN_ATTEMPT >> {log}; exit 4"],
        ["--once", "k", "--", "sh", "-c", f"sleep 6; echo key >> {log}"],
        ["-a", "3-6", "--", "sh", "-c", f"echo last >> {log}"],
    ]
    for words in jobs:
        assert world.run("-d", "-m", "1G", *words).returncode == 0
    refused = 0
    for _ in range(8):
        for pid in (world.keeper_pid(), world.arbiter_pid()):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        holds = "key" not in (log.read_text() if log.exists() else "")
        done = world.run("--once", "k", "true")
        refused += done.returncode == 124
        assert done.returncode == 124 or not holds or "key" in log.read_text()
    assert refused
    assert world.run("wait", "7", timeout=60).returncode == 0
    lines = log.read_text().splitlines()
    assert sorted(lines) == ["first", "key", "last", "second", "third", "try 1", "try 2", "try 3"]
    assert [line for line in lines if line in ("first", "second", "third", "last")] == ["first", "second", "third", "last"]
    assert lines[-1] == "last"
    results = [(job["result"]["kind"], job["result"]["code"]) for job in world.jobs()[:7]]
    assert results == [("exit", 0), ("exit", 3), ("exit", 0), ("cancelled", 125), ("exit", 4), ("exit", 0), ("exit", 0)]
    assert world.run("-g", "2", "-w", "10s", "true").returncode == 0
