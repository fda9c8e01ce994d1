"""A sweep as a whole: awaited, asked about and shown together with the rows of it that have ended."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


def live(world: World) -> int:
    return int(world.rows("SELECT count(*) AS live FROM job WHERE state != 'ended'")[0]["live"])


# Waiting for it


@pytest.mark.parametrize("end", ["killed", "gpurun kill", "first failed"])
def test_two_thousand_behind_two_thousand_cost_next_to_nothing(world: World, end: str) -> None:
    """Each end was looked at by each row for each row it waits for: 3 s an end, and no other request in between."""
    holder = world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    sweeps = [world.start("--array", "1-2000", "true")]
    wait_until(lambda: live(world) == 2001, "the first sweep to wait")
    sweeps.append(world.start("--array", "1-2000", "-a", "ok:sweep-2" if end == "first failed" else "sweep-2", "true"))
    wait_until(lambda: live(world) == 4001, "the second sweep to wait")
    pid = world.arbiter_pid()
    assert pid is not None
    arbiter = psutil.Process(pid)
    used, begun = sum(arbiter.cpu_times()[:2]), time.monotonic()
    assert world.run("-g", "0", "true").returncode == 0
    assert world.run("ls", "--json").returncode == 0
    to = "succeed" if end == "first failed" else "end"
    assert f"jobs 2, 3, 4 and 1997 more to {to}" in world.job(2002)["why"]["text"]
    if end == "killed":
        for sweep in sweeps:
            sweep.kill()
    elif end == "gpurun kill":
        assert world.run("kill", "-y", "sweep-2", "sweep-2002").returncode == 0
    else:
        assert world.run("kill", "3").returncode == 0
        assert sweeps[1].wait(20) == 125
        (last,) = world.rows("SELECT result_text FROM job WHERE id = 4001")
        assert last["result_text"].startswith("job 3 did not succeed (cancelled by ")
        sweeps[0].kill()
    wait_until(lambda: live(world) == 1, "all rows to have ended", 20)
    spent = sum(arbiter.cpu_times()[:2]) - used
    assert spent < 5 + 0.05 * (time.monotonic() - begun), f"the arbiter computed for {spent:.1f} s"
    assert world.database.stat().st_size < 8 << 20
    assert holder.poll() is None


def test_reniced_as_a_whole_each_is_told_where_it_stands_then(world: World) -> None:
    """By one look along the line: a sort for each row kept the arbiter from everything else for seconds."""
    world.start("-g", "all", "-p", "9", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    world.start("--array", "1-2000", "true")
    wait_until(lambda: live(world) == 2001, "the sweep to wait")
    world.start("true")
    wait_until(lambda: live(world) == 2002, "the one behind it to wait")
    pid = world.arbiter_pid()
    assert pid is not None
    used = sum(psutil.Process(pid).cpu_times()[:2])
    lines = world.run("renice", "-5", "sweep-2").stdout.splitlines()
    spent = sum(psutil.Process(pid).cpu_times()[:2]) - used
    assert lines == [f"job {place}: priority 0 → -5, {place}{nth(place)} of 2001" for place in range(2, 2002)]
    assert spent < 1, f"the arbiter computed for {spent:.1f} s"
    assert world.run("renice", "-9", "2002", "2001").stdout.splitlines() == [
        "job 2002: priority 0 → -9, 2001st of 2001",
        "job 2001: priority -5 → -9, 2000th of 2001",
    ]


def nth(place: int) -> str:
    return "th" if place // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")


@pytest.fixture
def half(make_world: MakeWorld, tmp_path: Path) -> tuple[World, Path]:
    """A sweep of three rows: 1 has failed with 5, 2 has succeeded, 3 runs until a file is there. Each said its index."""
    world, gate = make_world("4x24G"), tmp_path / "gate"
    script = f"echo row $GPURUN_INDEX; case $GPURUN_INDEX in 1) exit 5;; 3) until [ -e {gate} ]; do sleep 0.05; done; esac"
    assert world.run("-d", "-m", "1G", "--array", "1-3", "sh", "-c", script).stdout == "1-3\n"
    wait_until(lambda: [world.state(number) for number in (1, 2, 3)] == ["ended", "ended", "running"], "row 3 to be left")
    return world, gate


def let_end(world: World, gate: Path) -> None:
    gate.touch()
    wait_until(lambda: world.state(3) == "ended", "row 3 to end")


@pytest.mark.parametrize("word", ["sweep-1", "1-3", "sweep-*"])
def test_success_of_a_sweep_is_that_of_rows_that_have_ended_too(half: tuple[World, Path], word: str) -> None:
    world, gate = half
    done = world.run("-a", f"ok:{word}", "-n", "echo", "ran")
    assert (done.returncode, done.stdout, done.stderr) == (125, "", "gpurun: job 1 failed (exit 5)\n")
    after = world.start("-a", word, "echo", "ran")
    wait_until(lambda: world.state(4) == "waiting", "it to wait")
    assert world.job(4)["why"]["text"].startswith("job 3 (sh -c")
    let_end(world, gate)
    assert after.communicate(timeout=15)[0] == "ran\n"
    if "*" not in word:  # a glob names who is there
        done = world.run("-a", f"ok:{word}", "echo", "ran")
        assert (done.returncode, done.stdout, done.stderr) == (125, "", "gpurun: job 1 failed (exit 5)\n")


def test_of_jobs_of_one_name_the_latest_is_awaited(world: World) -> None:
    assert world.run("-N", "lr", "--array", "1-2", "false").returncode == 1
    assert world.run("-N", "lr", "true").returncode == 0
    assert world.run("-a", "ok:lr", "true").returncode == 0
    assert world.run("-N", "lr", "--array", "1-2", "sh", "-c", "[ $GPURUN_INDEX = 2 ]").returncode == 1
    assert "job 5 failed" in world.run("-a", "ok:lr", "true").stderr


# Asking about it


def asks(pid: int) -> bool:
    """Whether a process has a socket: it speaks to the arbiter."""
    with contextlib.suppress(FileNotFoundError):  # it closed one meanwhile
        return any(os.readlink(fd).startswith("socket:") for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.mark.parametrize("word", ["sweep-1", "1-3", "sweep-*"])
def test_its_status_is_the_same_whenever_one_waits_for_it(half: tuple[World, Path], word: str) -> None:
    world, gate = half
    waits = world.start("wait", word)
    wait_until(lambda: asks(waits.pid), "it to have asked")
    let_end(world, gate)
    assert waits.wait(10) == 5
    assert world.run("wait", "1-3").returncode == world.run("wait", "sweep-1").returncode == 5
    assert world.run("wait", "2-3").returncode == 0


def test_of_jobs_of_one_name_the_latest_is_waited_for(world: World) -> None:
    assert world.run("-N", "lr", "false").returncode == 1
    assert world.run("wait", "lr").returncode == 1
    assert world.run("-N", "lr", "true").returncode == 0
    assert world.run("wait", "lr").returncode == 0
    assert world.run("wait", "1-2").returncode == 1


def numbers(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:]]


def test_ls_shows_its_rows_with_a_the_ended_ones_too(half: tuple[World, Path]) -> None:
    world, gate = half
    for word in ("sweep-1", "1-3"):
        assert numbers(world.run("ls", word).stdout) == ["3"]
        assert numbers(world.run("ls", "-a", word).stdout) == ["1", "2", "3"]
        assert [job["id"] for job in json.loads(world.run("ls", "-a", "--json", word).stdout)["jobs"]] == [1, 2, 3]
    let_end(world, gate)
    for word in ("sweep-1", "1-3"):
        assert numbers(world.run("ls", word).stdout) == numbers(world.run("ls", "-a", word).stdout) == ["1", "2", "3"]


def test_only_rows_that_have_not_ended_are_killed(half: tuple[World, Path]) -> None:
    world, _ = half
    done = world.run("kill", "sweep-1")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("job 3: ")


# Its output


ROWS = "1: row 1\n2: row 2\n3: row 3\n"


def test_logs_show_the_rows_that_have_ended_too(half: tuple[World, Path]) -> None:
    world, gate = half
    assert world.run("logs", "sweep-1").stdout == world.run("logs", "1-3").stdout == ROWS
    follower = world.start("logs", "-f", "sweep-1")
    assert follower.stdout is not None
    assert "".join(follower.stdout.readline() for _ in range(3)) == ROWS
    assert follower.poll() is None
    let_end(world, gate)
    assert follower.communicate(timeout=15) == ("", "")
    for words in (["sweep-1"], ["-f", "sweep-1"], ["3", "1-2"]):
        done = world.run("logs", *words)
        assert (done.returncode, sorted(done.stdout.splitlines(keepends=True))) == (0, ROWS.splitlines(keepends=True))


def test_logs_of_more_rows_than_there_may_be_open_files(world: World) -> None:
    assert world.run("-d", "-g", "0", "--array", "1-80", "sh", "-c", "echo $GPURUN_INDEX").stdout == "1-80\n"
    assert world.run("wait", "sweep-1").returncode == 0
    for words in (["sweep-1"], ["-f", "sweep-1"]):
        done = world.run("logs", *words, prefix=("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "".join(f"{number}: {number}\n" for number in range(1, 81))


def test_what_rows_wrote_to_one_file_is_shown_once(world: World, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as file:
        assert world.run("--array", "1-3%1", "sh", "-c", "echo row $GPURUN_INDEX", stdout=file).returncode == 0
    for words in (["sweep-1"], ["-f", "sweep-1"]):
        assert world.run("logs", *words).stdout == "1-3: row 1\n1-3: row 2\n1-3: row 3\n"
    assert world.run("logs", "2").stdout == "row 1\nrow 2\nrow 3\n"


def test_what_cannot_be_shown_of_many_rows_is_one_line(world: World) -> None:
    world.run("--array", "1-3", "true")
    holder = world.start("-g", "2", "sleep", "600", stdout=None)
    wait_until(lambda: world.state(4) == "running", "the GPUs to be taken")
    world.run("-d", "--array", "1-3", "true")
    done = world.run("logs", "1-3", "sweep-5")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "gpurun: logs: jobs 1-3 wrote to a pipe: nothing is kept; next time -o FILE or -d\n"
        "gpurun: logs: jobs 5-7 still wait: gpurun logs -f 5-7 follows them\n"
    )
    assert holder.poll() is None


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_a_log_is_never_shown_into_itself(make_world: MakeWorld, tmp_path: Path, follow: list[str]) -> None:
    """It read what it had written, line by line, until the disk was full."""
    world, out, gate = make_world("4x24G"), tmp_path / "out", tmp_path / "gate"
    script = f"""ulimit -f 2000; exec > {out}
        {world.command} --array 1-4 -- sh -c 'echo row; until [ -e {gate} ]; do sleep 0.05; done' &
        until [ "$(grep -c row {out})" = 4 ]; do sleep 0.05; done
        {world.command} logs {" ".join(follow)} sweep-1; echo $? >&2
        touch {gate}; wait"""
    child = world.adopt(subprocess.Popen(["sh", "-c", script], env=world.env, stderr=subprocess.PIPE, text=True))
    refusal = f"gpurun: logs: cannot read: {out}: what is shown would be written into it\n1\n"
    assert child.communicate(timeout=30)[1] == refusal
    assert out.read_text() == "row\n" * 4
