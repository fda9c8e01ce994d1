"""history: what ran, and that it stays small."""

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from waiting import let_pass, wait_until
from world import World

from gpuwrap.commands.history import since_when
from gpuwrap.state.schema import LIVE


def fill(world: World, rows: int) -> None:
    """Put ended jobs into the database, alike the last one; numbers go on, times lie a minute apart, into the past."""
    with contextlib.closing(sqlite3.connect(world.database, timeout=10)) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(job)") if row[1] not in ("id", "key", "ended_at")]
        last = database.execute("SELECT max(id), ended_at FROM job").fetchone()
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO job (key, ended_at, {', '.join(names)}) "
            f"SELECT 'filled ' || i, ended_at - 60 * i, {', '.join(names)} FROM job, n WHERE id = ?",
            (rows, last[0]),
        )


def until_nobody_is_there(world: World) -> None:
    """Until the arbiter has left by itself, with nothing to wake the next."""
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to leave", 45)


def test_it_tells_how_long_a_job_waited_and_ran_and_how_it_ended(world: World, tmp_path: Path) -> None:
    world.run("-N", "good", "-o", tmp_path / "log", "sh", "-c", "sleep 1")
    world.run("sh", "-c", "exit 3")
    blocker = world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(3) == "running", "the GPUs to be taken")
    assert world.run("-w", "1s", "true").returncode == 124
    world.run("kill", "-9", "3")
    blocker.wait(30)
    wait_until(lambda: world.state(3) == "ended", "the end to be known")
    done = world.run("history")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["JOB", "RESULT", "ENDED", "WAITED", "RAN", "PEAK", "LOG", "COMMAND"]
    words = [line.split("  ") for line in lines]
    told = [[word.strip() for word in line if word.strip()] for line in words]
    assert [line[:2] for line in told] == [["1", "exit 0"], ["2", "exit 3"], ["3", "SIGKILL"], ["4", "wait-limit"]]
    assert str(tmp_path / "log") in told[0]
    assert told[0][-1] == "good: sh -c 'sleep 1'"
    rows = json.loads(world.run("history", "--json").stdout)["jobs"]
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert 0.9 <= rows[0]["ran_seconds"] < 10
    assert rows[0]["output"] == str(tmp_path / "log")
    assert rows[3]["waited_seconds"] >= 0.9
    assert rows[3]["ran_seconds"] is None
    assert rows[3]["output"] is None


def test_filters_take_names_numbers_times_and_users(world: World) -> None:
    assert world.run("history").stdout == "no jobs\n"
    for name in ("lr-1", "lr-2", "other"):
        world.run("-N", name, "true")

    def numbers(*words: str) -> list[int]:
        done = world.run("history", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [row["id"] for row in json.loads(done.stdout)["jobs"]]

    wait_until(lambda: len(numbers()) == 3, "all to have ended")
    assert numbers("lr-*") == [1, 2]
    assert numbers("other", "1") == [1, 3]
    assert numbers("2-9") == [2, 3]
    assert numbers("-n", "1") == [3]
    assert numbers("-n", "0") == []
    assert numbers("lr-*", "-n", "1") == [2]
    assert numbers("1-1", "other") == [1, 3]
    assert numbers("--since", "1h", "2-3", "lr-2", "-n", "5", "-u", world.job(1)["user"]) == [2, 3]
    assert numbers("--since", (datetime.now() + timedelta(hours=1)).isoformat(timespec="seconds"), "lr-*") == []
    assert numbers("--since", "1h", "-u", world.job(1)["user"]) == [1, 2, 3]
    assert numbers("-u", "nobody-here") == []
    ended_at = world.job(2)["ended_at"]
    assert numbers("--since", ended_at) == [2, 3]  # as --json has it
    tomorrow = (datetime.now() + timedelta(days=1)).strftime("%Y-%m-%d")
    assert numbers("--since", tomorrow) == []
    done = world.run("history", "99")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "gpurun: history: job 99: no such job\n")
    world.start("-N", "runs", "sleep", "60")
    wait_until(lambda: world.state(4) == "running", "one to run")
    done = world.run("history", "runs", "other", "gone")
    assert (done.returncode, len(done.stdout.splitlines())) == (1, 2)
    assert done.stderr == "gpurun: history: job runs: has not ended\ngpurun: history: job gone: no such job\n"
    done = world.run("history", "--since", "soon")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", datetime(2026, 3, 4, 13, 30)),
        ("today", datetime(2026, 3, 4)),
        ("yesterday", datetime(2026, 3, 3)),
        ("14:05", datetime(2026, 3, 4, 14, 5)),
        ("2026-01-31", datetime(2026, 1, 31)),
        ("2026-01-31 07:05", datetime(2026, 1, 31, 7, 5)),
        ("2026-01-31T07:05:09", datetime(2026, 1, 31, 7, 5, 9)),
        ("2026-01-31T07:05:09.250Z", datetime(2026, 1, 31, 7, 5, 9, 250_000, UTC)),
        ("2026-01-31T07:05:09+02:00", datetime(2026, 1, 31, 5, 5, 9, 0, UTC)),
    ],
)
def test_since_is_read_as_people_say_it(text: str, expected: datetime) -> None:
    assert since_when(text, datetime(2026, 3, 4, 15, 30)) == expected.timestamp()


def test_without_a_limit_every_job_is_remembered(world: World) -> None:
    (world.directory / "settings.toml").write_text("keep_history = 0\n")
    world.run("true")
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    let_pass(1.5, "the arbiter prunes a second after its start")
    assert world.run("-g", "0", "true").returncode == 0
    wait_until(lambda: world.states() == ["ended"] * 2, "both to have ended, and be known")


def test_a_log_too_large_to_be_kept_takes_no_other_along(world: World) -> None:
    (world.directory / "settings.toml").write_text('keep_logs_size = "4K"\n')
    for script in ("echo small", "head -c 9000 /dev/zero"):
        world.run("-d", "sh", "-c", script)
    wait_until(lambda: set(world.states()) == {"ended"}, "both to end")
    for pid in (world.keeper_pid(), world.arbiter_pid()):  # the next prunes soon after its start
        assert pid is not None
        psutil.Process(pid).kill()
    assert world.run("-d", "sleep", "60").returncode == 0
    wait_until(lambda: not (world.folder / "logs" / "2.log").exists(), "the large one to go")
    assert (world.folder / "logs" / "1.log").read_text() == "small\n"


@pytest.mark.long
def test_old_rows_and_old_logs_go_and_the_latest_stay(world: World) -> None:
    (world.directory / "settings.toml").write_text('keep_history = 100\nkeep_logs_size = "4K"\n')
    world.run("-d", "true")
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    until_nobody_is_there(world)
    fill(world, 5000)
    logs = world.folder / "logs"
    for number in range(2, 10):
        (logs / f"{number}.log").write_bytes(b"x" * 1024)
        os.utime(logs / f"{number}.log", (time.time() - number, time.time() - number))
    other = logs / "mine.txt"
    other.write_text("kept")
    child = world.start("-d", "sleep", "60")
    assert child.wait(30) == 0
    wait_until(lambda: len(world.rows("SELECT id FROM job WHERE state = 'ended'")) == 100, "old rows to go")
    assert [row["id"] for row in world.rows("SELECT max(id) AS id FROM job")] == [5002]
    assert world.rows("SELECT count(*) AS n FROM event WHERE job_id = 1") == [{"n": 0}]
    wait_until(lambda: len(list(logs.glob("*.log"))) < 7, "old logs to go")
    assert {path.name for path in logs.iterdir()} >= {"mine.txt", "2.log", "3.log", "5002.log"}
    assert not (logs / "9.log").exists()


def test_ls_is_quick_beside_ten_thousand_ended_jobs(world: World) -> None:
    world.run("true")
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    fill(world, 9_999)  # of more the arbiter forgets the oldest
    plan = [row["detail"] for row in world.rows(f"EXPLAIN QUERY PLAN SELECT id FROM job WHERE {LIVE}")]
    assert not [line for line in plan if line.startswith("SCAN job") and "job_live" not in line], plan
    assert len(json.loads(world.run("history", "--json").stdout)["jobs"]) == 10_000


@pytest.mark.long
def test_ls_takes_150_ms_beside_ten_thousand_ended_and_two_thousand_waiting(
    world: World, record_property: Callable[[str, str], None]
) -> None:
    """The best of twenty: what else the machine does is not counted."""
    world.run("true")
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    fill(world, 9_999)
    world.start("-g", "all", "sleep", "600")
    wait_until(lambda: world.rows("SELECT 1 FROM job WHERE state = 'running'"), "the GPUs to be taken")
    world.start("--array", "1-1000", "true")
    lines = "".join(f"sh -c 'sleep {number}'\n" for number in range(1000))  # these are not folded
    each = world.start("--each", "-", stdin=subprocess.PIPE)
    assert each.stdin is not None
    each.stdin.write(lines)
    each.stdin.close()
    waiting = "SELECT count(*) AS n FROM job WHERE state = 'waiting'"
    wait_until(lambda: world.rows(waiting) == [{"n": 2000}], "all to wait", 60)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        done = world.run("ls", stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
        assert done.returncode == 0
    record_property("counted", f"ls: {min(times) * 1000:.0f} ms, median {sorted(times)[10] * 1000:.0f} ms")
    assert min(times) < 0.150


def test_what_ended_while_no_arbiter_was_there_is_listed(world: World) -> None:
    job = world.start("sleep", "600", start_new_session=True)
    wait_until(lambda: world.state(1) == "running", "the job to run")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to be gone")
    job.kill()
    job.wait()
    (listed,) = json.loads(world.run("history", "--json").stdout)["jobs"]
    assert (listed["id"], listed["state"]) == (1, "ended")
