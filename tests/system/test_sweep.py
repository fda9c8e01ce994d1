"""Sweeps: `--array` and `--each`, one process that waits for all rows, each row a job like any other."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from fidelity import Counted, WarmWorld, check, environment, outcome, probe, probe_all
from terminal import Terminal
from test_bad_input import assert_nothing_left, assert_one_line
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]
UNDER_WAY = ("granted", "running", "paused", "suspended", "stopping")


def rows(world: World) -> list[dict[str, Any]]:
    """The rows of sweeps, by number."""
    return world.rows("SELECT * FROM job WHERE sweep IS NOT NULL ORDER BY id")


def count(world: World, state: str) -> int:
    return sum(row["state"] == state for row in rows(world))


def until(world: World, state: str, wanted: int, within: float = 20) -> None:
    wait_until(lambda: count(world, state) == wanted, f"{wanted} rows to be {state}", within)


def most_at_once(world: World, sweep: int) -> int:
    """How many rows of a sweep were ever granted or running together, by the events."""
    mine = {row["id"] for row in rows(world) if row["sweep"] == sweep}
    under_way: set[int] = set()
    most = 0
    for event in world.events():
        if event["job_id"] in mine:
            (under_way.add if event["to_state"] in UNDER_WAY else under_way.discard)(event["job_id"])
            most = max(most, len(under_way))
    return most


def each_ran_once(world: World) -> None:
    """Every row was taken and ended once, and none was lost."""
    numbers = [row["id"] for row in rows(world)]
    moves = [event for event in world.events() if event["job_id"] in set(numbers)]
    taken = Counter(event["job_id"] for event in moves if event["to_state"] == "running")
    ended = Counter(event["job_id"] for event in moves if event["to_state"] == "ended")
    assert taken == Counter(numbers), {job: taken[job] for job in numbers if taken[job] != 1}
    assert ended == Counter(numbers)


def signed(folder: Path) -> Counter[str]:
    """What rows appended to their own files: one letter each time they ran."""
    return Counter({path.name: len(path.read_text()) for path in folder.iterdir()})


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# What runs


def test_an_array_runs_the_program_for_each_index(world: World) -> None:
    done = world.run("--array", "1,5,7-9", "--", "sh", "-c", "echo $GPURUN_INDEX $GPURUN_JOB")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == ["1 1", "5 2", "7 3", "8 4", "9 5"]
    assert [(job["id"], job["name"], job["sweep"]) for job in world.jobs()] == [
        (number, "sweep-1", {"id": 1, "index": index, "limit": None}) for number, index in enumerate((1, 5, 7, 8, 9), 1)
    ]
    each_ran_once(world)


def test_each_runs_every_line_of_a_file(world: World, tmp_path: Path) -> None:
    (tmp_path / "my prog").write_text("#!/bin/sh\necho mine \"$1\" $GPURUN_INDEX\n")
    (tmp_path / "my prog").chmod(0o755)
    commands = tmp_path / "commands"
    commands.write_bytes(
        b"# a comment\n\n"
        b"printenv GPURUN_INDEX\n"
        b"echo one | tr a-z A-Z\n"
        b"LR=3 printenv LR\n"
        b"  './my prog' 'a  b'\r\n"
        b"printf '\xff\\n'\n"
        b"cd / && pwd"
    )
    done = world.run("--each", commands, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == sorted(["3", "ONE", "3", "mine a  b 6", "\udcff", "/"])
    argvs = {job["sweep"]["index"]: job["argv"] for job in world.jobs()}
    assert argvs[3] == ["printenv", "GPURUN_INDEX"]
    assert argvs[4] == ["/bin/sh", "-c", "echo one | tr a-z A-Z"]
    assert argvs[7] == ["printf", "\udcff\\n"]


def test_lines_from_standard_input_are_read_to_the_end_and_rows_have_none(world: World) -> None:
    done = world.run("--each", "-", input="cat\necho $GPURUN_INDEX\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_rows_of_a_file_have_the_callers_input(world: World, tmp_path: Path) -> None:
    (tmp_path / "one").write_text("cat\n")
    assert world.run("--each", tmp_path / "one", input="mine").stdout == "mine"


@pytest.mark.parametrize(
    ("command", "status"),
    [("exit $((GPURUN_INDEX % 4))", 1), ("test $GPURUN_INDEX != 3 || kill -9 $$", 137), ("exit 0", 0),
     ("test $GPURUN_INDEX != 6 || exit 255", 255)],
)  # fmt: skip
def test_it_ends_with_the_first_status_that_is_not_0_in_order(world: World, command: str, status: int) -> None:
    assert world.run("--array", "1-8", "sh", "-c", command).returncode == status


def test_a_program_that_cannot_be_executed_is_told_by_its_row(world: World, tmp_path: Path) -> None:
    broken, between = tmp_path / "broken", tmp_path / "between"
    broken.write_text(f"#!{between}\n")
    between.write_text("#!/no/such/interpreter\n")  # so far nobody looks but the kernel
    broken.chmod(0o755)
    between.chmod(0o755)
    done = world.run("--array", "1-2", broken)
    assert done.returncode == 127
    assert done.stderr == f"gpurun: cannot run: {broken}: bad interpreter: no such file\n" * 2
    assert [row["result_code"] for row in rows(world)] == [127, 127]


def test_a_program_that_vanished_while_its_row_waited_is_not_found(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("1x24G")
    (tmp_path / "gone.sh").write_text("#!/bin/sh\nrm gone.sh\n")
    (tmp_path / "gone.sh").chmod(0o755)
    (tmp_path / "lines").write_text("./gone.sh\n./gone.sh\n")
    done = world.run("--each", "lines%1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (127, "gpurun: cannot run: ./gone.sh: not found\n")
    assert [(row["result_kind"], row["result_code"]) for row in rows(world)] == [("exit", 0), ("exit", 127)]
    each_ran_once(world)


def test_the_program_finds_what_the_caller_has(warm: WarmWorld, counted: Counted) -> None:
    """As behind a stub: its parent is the sweep, with which it dies."""
    base = [os.fsencode(f"{name}={value}") for name, value in warm.env.items()]
    cases = [
        probe(warm, "plain"),
        probe(warm, "strange environment", env=[*base, b"=odd", b"TWICE=1", b"TWICE=2", b"BYTES=\xff\xfe"]),
        probe(warm, "no PATH", env=[entry for entry in base if not entry.startswith(b"PATH=")]),
        probe(warm, "C locale", env=[*base, b"LC_ALL=C"]),
        probe(warm, "descriptors", ["hold", 7, "/dev/null", os.O_RDWR, True], ["hold", 99, "/dev/null", os.O_RDONLY, True]),
        probe(warm, "descriptors closed", ["close", [0]]),
        probe(warm, "ignored", ["ignore", [1, 2, 3, 13, 15, 17, 20, 25]]),
        probe(warm, "blocked", ["block", [1, 10, 12, 15, 17, 34]]),
        probe(warm, "folder, umask", ["chdir", "/usr"], ["umask", 0o27]),
        probe(warm, "limits", ["limit", "RLIMIT_NOFILE", 100, 100], ["nice", 3]),
        probe(warm, "affinity", ["affinity", [0]]),
        probe(warm, "group", ["group"]),
        probe(warm, "session", ["session"]),
    ]

    def inside(run: Any) -> dict[str, Any]:
        assert run.report is not None, outcome(run)
        found = {name: value for name, value in run.report.items() if name not in ("pid", "alarm_left")}
        entries = [entry.encode("latin-1") for entry in run.report["environ"]]
        found["environ"] = [entry for entry in environment(entries) if not entry.startswith(b"GPURUN_INDEX=")]
        left_out = ("ppid", "pgrp", "session", "tpgid")
        found["stat"] = {name: value for name, value in found["stat"].items() if name not in left_out}
        found["controls"] = {**found["controls"], "pdeathsig": 0}
        return {**outcome(run), **found}

    pairs = probe_all(warm, cases, options=["--array", "7"])
    for pair in pairs:
        assert pair.under.report is not None, pair.under
        assert "GPURUN_INDEX=7" in pair.under.report["environ"]
    check(counted, pairs, inside)


# How many at once


def test_never_more_than_the_limit_run_at_once(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("8x24G")
    done = world.run("--array", "1-40%3", "sh", "-c", "sleep 0.0$((GPURUN_INDEX % 7))", timeout=60)
    assert done.returncode == 0
    assert most_at_once(world, 1) == 3
    each_ran_once(world)


def test_a_limit_stands_behind_a_file_too_unless_that_is_its_name(world: World, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("sleep 0.1\n" * 3)
    (tmp_path / "f%1").write_text("sleep 0.1\n" * 2)
    (tmp_path / "g").write_text("sleep 0.1\n" * 3)
    assert world.run("--each", "f%1", cwd=tmp_path).returncode == 0
    assert world.run("--each", "g%1", cwd=tmp_path).returncode == 0
    assert [row["sweep_limit"] for row in rows(world)] == [None, None, 1, 1, 1]
    assert most_at_once(world, 3) == 1


def test_without_gpus_as_many_run_as_there_are_cpus(world: World) -> None:
    cpus = len(os.sched_getaffinity(0))
    assert world.run("-g", "0", "--array", f"1-{4 * cpus}", "sleep", "0.05").returncode == 0
    assert most_at_once(world, 1) <= cpus
    assert world.run("-g", "0", "--array", "1-9%9", "true").returncode == 0
    assert rows(world)[-1]["sweep_limit"] == 9


def test_rows_share_gpus_and_leave_them_to_others(make_world: MakeWorld) -> None:
    """Nothing is kept for the rows beyond the limit: a job that comes later starts at once."""
    world = make_world("3x24G")
    world.start("--array", "1-9%2", "sleep", "60")
    until(world, "running", 2)
    assert world.run("-n", "true").returncode == 0
    waiting = next(job for job in world.jobs() if job["state"] == "waiting")
    assert waiting["why"] == {"rule": "sweep", "text": "its turn: sweep 1 runs 2 at once"}
    told = world.run("why", str(waiting["id"])).stdout
    assert "it is a row of a sweep that runs only so many at once" in told


# Options


def test_the_options_hold_for_every_row(world: World) -> None:
    done = world.run("-g", "2", "-m", "3G", "-p", "7", "-t", "1h", "-N", "mine", "-i", "0,1", "-v", "--array", "4-5", "true")
    assert done.returncode == 0
    assert sorted(re.findall(r"job (\d) on GPUs 0, 1, shared", done.stderr)) == ["1", "2"]
    for job in world.jobs():
        told = (job["gpus"], job["memory_bytes"], job["priority"], job["name"])
        assert told == (2, 3 << 30, 7, "mine")
    assert {row["time_limit_seconds"] for row in rows(world)} == {3600}


def test_output_goes_to_a_file_for_each_index(world: World, tmp_path: Path) -> None:
    assert world.run("-o", tmp_path / "%i-%j-%%.log", "--array", "7-8", "sh", "-c", "echo $GPURUN_INDEX").returncode == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"7-1-%.log": "7\n", "8-2-%.log": "8\n"}
    assert world.run("logs", "2").stdout == "8\n"


def test_a_time_limit_ends_each_row(world: World) -> None:
    done = world.run("-t", "1s", "--array", "1-2", "sleep", "60")
    assert done.returncode == 143
    assert {row["result_text"] for row in rows(world)} == {"time limit of 1s"}


def test_nonblock_gives_up_the_rows_that_cannot_start(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    assert world.run("-n", "--array", "1-5", "sleep", "0.5").returncode == 124
    assert Counter(row["result_kind"] for row in rows(world)) == {"exit": 2, "wait-limit": 3}
    assert world.run("-n", "-E", "9", "--array", "1-5", "sleep", "0.5").returncode == 9
    assert world.run("-w", "1m", "--array", "1-5", "sleep", "0.1").returncode == 0


def test_a_wait_limit_ends_the_wait_of_each_row(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    assert world.run("-w", "1s", "--array", "1-3", "sleep", "3").returncode == 124
    assert Counter(row["result_kind"] for row in rows(world)) == {"exit": 1, "wait-limit": 2}


def test_after_holds_for_every_row_and_a_sweep_can_be_awaited(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("4x24G")
    gate = tmp_path / "gate"
    first = world.start("--array", "1-3", "sh", "-c", f"while ! [ -e {gate} ]; do sleep 0.05; done")
    until(world, "running", 3)
    second = world.start("-a", "sweep-1", "--array", "1-2", "true")
    until(world, "waiting", 2)
    assert world.state(4) == "waiting"
    gate.touch()
    assert (first.wait(30), second.wait(20)) == (0, 0)
    done = world.run("-a", "ok:1-5", "--array", "1-2", "false")
    assert done.returncode == 1
    done = world.run("-a", "ok:6", "--array", "1-2", "true")
    assert done.returncode == 125
    assert "job 6 failed" in done.stderr


def test_rows_with_retries_are_run_again(world: World, tmp_path: Path) -> None:
    script = f"echo x >> {tmp_path}/$GPURUN_INDEX; test $GPURUN_ATTEMPT = 2 -a $GPURUN_INDEX != 3"
    assert world.run("--retries", "1", "--array", "1-3", "sh", "-c", script).returncode == 1
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys("123", "x\nx\n")
    assert [row["attempt"] for row in rows(world)] == [2, 2, 2]


def test_restartable_rows_give_way_and_come_back(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("2x24G")
    gate = tmp_path / "gate"
    script = f"echo $GPURUN_ATTEMPT; while ! [ -e {gate} ]; do sleep 0.05; done"
    sweep = world.start("-r", "--signal", "TERM:1", "--array", "1-3%2", "sh", "-c", script)
    until(world, "running", 2)
    assert world.run("kill", "--requeue", "1").returncode == 0
    wait_until(lambda: world.job(1)["attempt"] == 2, "row 1 to run again", 20)
    gate.touch()
    assert sweep.wait(30) == 0
    assert most_at_once(world, 1) == 2


def test_again_runs_a_row_with_its_index(world: World) -> None:
    assert world.run("--array", "3-4", "sh", "-c", "echo $GPURUN_INDEX").returncode == 0
    done = world.run("again", "2")
    assert (done.returncode, done.stdout) == (0, "4\n")
    assert (world.job(3)["name"], world.job(3)["sweep"]) == (None, None)


def test_a_rehearsal_tells_of_the_first_row_and_leaves_nothing(world: World) -> None:
    done = world.run("--dry-run", "--array", "1-20%4", "true")
    assert (done.returncode, done.stdout) == (0, "20 rows, 4 at once: the first would start now on GPU 0\n")
    assert world.jobs() == []


def test_memory_is_learned_of_each_line(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("2x24G")
    hold = tmp_path / "hold.py"
    hold.write_text(
        "import os, sys, time\n"
        "index = os.environ['CUDA_VISIBLE_DEVICES']\n"
        "open(f\"{os.environ['GPURUN_SIM_DIR']}/{index}/{os.getpid()}\", 'w').write(sys.argv[1])\n"
        "time.sleep(3)\n"
    )
    (tmp_path / "lines").write_text(f"{sys.executable} {hold} 1000000000\n{sys.executable} {hold} 2000000000\n")
    for _ in range(2):
        assert world.run("-m", "auto", "--each", tmp_path / "lines", timeout=40).returncode == 0
    needed = [job["memory_bytes"] for job in world.jobs()]
    assert needed[:2] == [None, None]
    assert [round(size / 1e9) for size in needed[2:]] == [2, 3], needed


# In the background


def test_a_detached_sweep_prints_its_numbers_and_survives_the_terminal(world: World, tmp_path: Path) -> None:
    import pty

    gate, out = tmp_path / "gate", tmp_path / "out"
    script = f"while ! [ -e {gate} ]; do sleep 0.05; done; echo $GPURUN_INDEX"
    (tmp_path / "script").write_text(script)
    pid, master = pty.fork()
    if pid == 0:
        line = f"{world.command} -d --array 1-5%2 sh {tmp_path}/script > {out}; exec sleep 60"
        os.execve("/bin/sh", ["sh", "-c", line], world.env)
    try:
        until(world, "running", 2)
    finally:
        os.close(master)  # hangs up
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert out.read_text() == "1-5\n"
    gate.touch()
    assert world.run("wait", "1-5").returncode == 0
    assert [world.run("logs", str(number)).stdout for number in range(1, 6)] == [f"{number}\n" for number in range(1, 6)]
    assert {row["detached"] for row in rows(world)} == {1}


def test_a_detached_sweep_that_cannot_be_is_refused_at_once(world: World) -> None:
    assert_one_line(world.run("-d", "-g", "3", "--array", "1-2", "true"), 125, "needs 3 GPUs")
    assert world.jobs() == []


def test_logs_follow_a_row_that_waits(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    assert world.run("-d", "--array", "1-2", "sh", "-c", "sleep 0.5; echo $GPURUN_INDEX").stdout == "1-2\n"
    done = world.run("logs", "-f", "2")
    assert (done.returncode, done.stdout) == (0, "2\n")


# The whole and its rows


def on_terminal(world: World, columns: int = 80) -> list[str]:
    """What `ls` shows there."""
    terminal = Terminal(world, [world.command, "ls"], columns=columns, lines=40, env={"NO_COLOR": "1"})
    terminal.finish()
    return terminal.text().splitlines()


def test_ls_shows_a_line_for_each_state_and_unfolds(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("2x24G")
    (tmp_path / "lines").write_text("".join(f"{program} 60\n" for program in ["sleep", "env sleep", "nice sleep"] * 5))
    world.start("-N", "night", "--each", tmp_path / "lines")
    until(world, "running", 2)
    lines = on_terminal(world)
    assert lines[0] == "15 jobs: 2 run, 13 wait"
    assert [line.split()[:2] for line in (lines[2], lines[4])] == [["1-2", "running"], ["3-15", "1st-13th"]]
    assert "2×  night: …" in lines[2]
    assert lines[3].strip() == "0 of 15 done, 2 run"
    assert "13×  night: …" in lines[4]
    assert [line.split()[0] for line in world.run("ls").stdout.splitlines()[1:]] == [str(number) for number in range(1, 16)]
    assert len(world.run("ls", "night").stdout.splitlines()) == 16
    unfolded = world.run("ls", "3-4").stdout
    assert "night[3]: nice sleep 60" in unfolded
    assert "night[4]: sleep 60" in unfolded
    assert world.run("kill", "-y", "night").returncode == 0
    until(world, "ended", 15)


def test_verbs_take_the_whole_and_single_rows(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    sweep = world.start("--array", "1-6", "sleep", "60")
    until(world, "running", 1)
    assert world.run("renice", "5", "sweep-1").returncode == 0
    assert {row["priority"] for row in rows(world)} == {5}
    assert world.run("pause", "3").returncode == 0
    assert world.run("set", "-t", "2h", "4-5").returncode == 0
    assert world.run("kill", "2").stdout == "job 2: cancelled while waiting\n"
    assert world.run("kill", "1").returncode == 0
    wait_until(lambda: world.state(4) == "running", "row 4 to run, since 3 is held")
    assert world.run("resume", "3").returncode == 0
    done = world.run("kill", "-y", "sweep-1")
    assert done.returncode == 0
    assert sweep.wait(30) == 143
    assert "gpurun: job 2: cancelled by" in sweep.stderr.read()
    assert [row["result_kind"] for row in rows(world)] == ["signal", *["cancelled"] * 2, "signal", *["cancelled"] * 2]


def test_rows_are_paused_for_more_important_work(make_world: MakeWorld) -> None:
    """The rows of a detached sweep can be stopped unnoticed, as any job in the background."""
    world = make_world("1x24G")
    assert world.run("-d", "-m", "2G", "--array", "1-3%1", "sleep", "3").stdout == "1-3\n"
    until(world, "running", 1)
    urgent = world.run("-p", "urgent", "-m", "20G", "--exclusive", "true", timeout=40)
    assert urgent.returncode == 0
    assert world.run("wait", "1-3", timeout=60).returncode == 0
    assert most_at_once(world, 1) == 1


def test_a_sweep_inside_a_job_asks_that_jobs_grant(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    done = world.run("-m", "8G", world.command, "-m", "4G", "--array", "1-4", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert (done.returncode, done.stdout) == (0, "0\n" * 4)
    assert {row["parent_id"] for row in rows(world)} == {1}


def test_a_gpurun_inside_a_row_asks_the_rows_grant(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    done = world.run("-m", "8G", "--array", "1-3", world.command, "-m", "4G", "true")
    assert (done.returncode, done.stderr) == (0, "")
    inner = world.rows("SELECT parent_id FROM job WHERE sweep IS NULL ORDER BY id")
    assert sorted(row["parent_id"] for row in inner) == [1, 2, 3]


# Signals


def test_a_request_to_end_is_passed_on_and_gives_the_rest_up(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("2x24G")
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(15, lambda *_: (os.write(1, b'asked\\n'), sys.exit(3)))\n"
        "os.write(1, b'on\\n'); time.sleep(60)"
    )
    sweep = world.start("--array", "1-5", sys.executable, "-c", code)
    assert [sweep.stdout.readline() for _ in range(2)] == ["on\n"] * 2
    sweep.terminate()
    assert sweep.wait(30) == -signal.SIGTERM
    assert sweep.stdout.read() == "asked\n" * 2
    until(world, "ended", 5)
    assert [(row["result_kind"], row["result_code"]) for row in rows(world)][:2] == [("exit", 3)] * 2
    assert {row["result_text"] for row in rows(world)[2:]} == {"given up with its sweep: terminated"}


def test_killed_it_takes_all_its_rows_along(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    sweep = world.start("--array", "1-500", "sleep", "60")
    until(world, "running", 2)
    pids = [row["pid"] for row in rows(world) if row["state"] == "running"]
    assert sweep.pid not in pids
    sweep.kill()
    sweep.wait()
    until(world, "ended", 500)
    assert all(gone(pid) for pid in pids)
    results = Counter((row["result_kind"], row["result_signal"]) for row in rows(world))
    assert results == {("signal", 9): 2, ("cancelled", 9): 498}
    assert world.run("-n", "-g", "2", "true").returncode == 0


def test_restartable_rows_die_with_the_killed_sweep_too(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    sweep = world.start("-r", "--array", "1-3", "sh", "-c", "sleep 60; true")
    until(world, "running", 2)
    # A row runs as soon as its stub is told so; its program is there a moment later.
    wait_until(lambda: len(psutil.Process(sweep.pid).children(recursive=True)) >= 4, "two stubs and their programs")
    below = psutil.Process(sweep.pid).children(recursive=True)
    sweep.kill()
    sweep.wait()
    wait_until(lambda: all(gone(process.pid) for process in below), "all below it to end")
    until(world, "ended", 3)


@pytest.fixture
def shell(make_world: MakeWorld) -> tuple[World, Terminal]:
    world = make_world("2x24G")
    terminal = Terminal(world, ["bash", "--norc", "--noprofile", "-i"], env={"PS1": "@@> "})
    terminal.await_text("@@>")
    return world, terminal


@pytest.mark.needs("bash")
def test_an_interrupt_ends_the_rows_as_they_choose_then_the_sweep(shell: tuple[World, Terminal], tmp_path: Path) -> None:
    world, terminal = shell
    (tmp_path / "row.py").write_text(
        "import os, time\nos.write(1, b'on\\n')\ntry: time.sleep(60)\n"
        "except KeyboardInterrupt: time.sleep(0.5); os.write(1, b'saved\\n')\n"
    )
    terminal.send(f"{world.command} --array 1-5 {sys.executable} {tmp_path}/row.py\n")
    wait_until(lambda: len(re.findall(r"^on$", terminal.text(), re.MULTILINE)) == 2, "two rows to run")
    terminal.await_text("gpurun: jobs 3-5 wait: 5 rows of sweep-1")
    terminal.send("\x03")
    wait_until(lambda: count(world, "ended") == 5, "all rows to end")
    terminal.send("echo status $?\n")
    text = terminal.await_text("status 130")
    assert text.count("saved") == 2, text
    assert [row["result_kind"] for row in rows(world)] == ["exit", "exit", "cancelled", "cancelled", "cancelled"]
    assert rows(world)[0]["result_code"] == 0


@pytest.mark.needs("bash")
def test_ctrl_z_stops_the_whole_and_fg_goes_on(shell: tuple[World, Terminal], tmp_path: Path) -> None:
    world, terminal = shell
    gate = tmp_path / "gate"
    # No shell: one that is stopped between vfork and exec cannot be seen to stop.
    (tmp_path / "row.py").write_text(f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n")
    terminal.send(f"{world.command} --array 1-6 {sys.executable} {tmp_path}/row.py\n")
    until(world, "running", 2)
    pids = {row["pid"] for row in rows(world)}
    terminal.send("\x1a")
    terminal.await_text("Stopped")
    def states() -> dict[int, str]:
        return {pid: psutil.Process(pid).status() for pid in pids}

    wait_until(lambda: set(states().values()) == {psutil.STATUS_STOPPED}, f"all to stop: {states()}")
    assert world.run("kill", "-9", "1", "2").returncode == 0
    wait_until(lambda: count(world, "ended") == 2, "two rows to end")
    waiting = [job for job in world.jobs() if job["state"] == "waiting"]
    assert {job["why"]["rule"] for job in waiting} == {"stopped"}
    assert world.run("-n", "-g", "2", "true").returncode == 0, "nothing is kept for a sweep that is stopped"
    terminal.send("fg\n")
    until(world, "running", 2)
    gate.touch()
    until(world, "ended", 6)
    terminal.send("echo status $?\n")
    terminal.await_text("status 137")
    assert Counter(row["result_kind"] for row in rows(world)) == {"signal": 2, "exit": 4}


@pytest.mark.needs("bash")
def test_in_cron_and_with_quiet_it_says_nothing(shell: tuple[World, Terminal]) -> None:
    world, terminal = shell
    assert world.run("--array", "1-5", "sleep", "0.3").stderr == ""
    terminal.send(f"clear; {world.command} -q --array 1-5 sleep 0.3; echo over\n")
    wait_until(lambda: len(rows(world)) == 10 and count(world, "ended") == 10, "both to end")
    assert "wait" not in terminal.text()


# Crashes


@pytest.mark.parametrize("options", [[], ["-r"], ["-d"]], ids=lambda options: options[0] if options else "plain")
def test_the_arbiter_killed_again_and_again_loses_no_row_and_runs_none_twice(
    make_world: MakeWorld, tmp_path: Path, options: list[str]
) -> None:
    world = make_world("3x24G")
    ran = tmp_path / "ran"
    ran.mkdir()
    script = f"printf x >> {ran}/$GPURUN_INDEX; sleep 0.05"
    sweep = world.start(*options, "--array", "1-120%3", "sh", "-c", script)
    for ended in (0, 10, 30, 50, 70, 90):
        wait_until(lambda ended=ended: count(world, "ended") >= ended, f"{ended} rows to end", 60)
        for pid in (world.keeper_pid(), world.arbiter_pid()):
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: count(world, "ended") == 120, "all rows to end", 60)
    assert sweep.wait(30) == 0, world.last_words()
    assert signed(ran) == Counter(dict.fromkeys(map(str, range(1, 121)), 1))
    each_ran_once(world)
    assert most_at_once(world, 1) <= 3
    assert {(row["result_kind"], row["result_code"]) for row in rows(world)} == {("exit", 0)}


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_arbiter_killed_while_the_rows_are_registered_registers_them_once(make_world: MakeWorld, when: str) -> None:
    world = make_world("2x24G")
    assert world.run("true").returncode == 0
    pid = wait_until(world.arbiter_pid, "an arbiter")
    sweep = world.start("--array", "1-100", "true")
    if when == "after":
        wait_until(lambda: rows(world), "the rows to be there")
    os.kill(pid, signal.SIGKILL)
    assert sweep.wait(60) == 0, sweep.stderr.read()
    assert [row["id"] for row in rows(world)] == list(range(2, 102))
    each_ran_once(world)


def test_everything_killed_at_once_is_repaired_by_the_next_command(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    sweep = world.start("--array", "1-50", "sleep", "60")
    until(world, "running", 2)
    keeper, arbiter = world.keeper_pid(), world.arbiter_pid()
    for pid in (keeper, arbiter, sweep.pid):
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    sweep.wait()
    assert world.run("-g", "2", "true").returncode == 0
    assert count(world, "ended") == 50


def test_a_removed_database_lets_the_rows_that_wait_go_on_elsewhere(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("2x24G")
    ran = tmp_path / "ran"
    ran.mkdir()
    sweep = world.start("--array", "1-6", "sh", "-c", f"printf x >> {ran}/$GPURUN_INDEX; sleep 1")
    until(world, "running", 2)
    for path in world.folder.glob("state.db*"):
        path.unlink()
    assert sweep.wait(60) == 0
    assert signed(ran) == Counter(dict.fromkeys("123456", 1))


ASKS = """
import socket, sys
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
line.connect(sys.argv[1])
line.send(sys.argv[2].replace("|", chr(0)).encode())
print(line.recv(1000).split(b"\\0")[0].decode())
"""


def test_only_a_child_of_the_sweeps_process_takes_a_row_over(make_world: MakeWorld) -> None:
    """This test is the sweep's process itself: it speaks, and children and others ask for the row that was offered."""
    import socket

    world = make_world("1x24G")
    assert world.run("true").returncode == 0
    bell = f"{world.folder}/bell"

    def ask(words: str, prefix: Sequence[str] = ()) -> str:
        done = subprocess.run([*prefix, sys.executable, "-c", ASKS, bell, words], capture_output=True, text=True, timeout=20)
        return done.stdout.strip()

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(bell)
        line.settimeout(10)

        def offered() -> None:
            while line.recv(60_000) != b"offer\0rows=2":
                line.send(b"continued")

        line.send(b"rows\0indices=5-6")
        line.send(b"sweep\0version=2\0key=abc\0count=2\0offset=0")
        assert line.recv(60_000) == b"sweep\0ids=2-3\0name=sweep-2"
        offered()
        assert ask("become|key=abc:5|row=2", ["sh", "-c", '"$@"; true', "sh"]) == "again"
        assert ask("become|key=abc:6|row=2") == "again"
        assert ask("become|key=abc:6|row=3") == "again"
        assert ask("row|row=2|key=abc|index=5|status=0") == "over"
        assert count(world, "waiting") + count(world, "granted") == 2, "nobody else ends a row either"

        def taken() -> bool:
            if ask("become|key=abc:5|row=2") == "job":
                return True
            offered()
            return False

        wait_until(taken, "the row to be taken over by a child, before its offer is stale")


# What cannot be


BAD = [
    (["--array", "", "true"], 125, "array"),
    (["--array", "x", "true"], 125, "array x: not understood"),
    (["--array", "3-1", "true"], 125, "counts backwards"),
    (["--array", "1-3%0", "true"], 125, "at once"),
    (["--array", "1-20000", "true"], 125, "more than 10000"),
    (["--array", "1-3"], 125, "program missing"),
    (["--array", "1-3", "/no/such"], 127, "/no/such: not found"),
    (["--array", "1-3", "/etc/passwd"], 126, "permission denied"),
    (["--array", "1-3", "--each", "f", "true"], 125, "only one of them"),
    (["--array", "1-3", "--once", "k", "true"], 125, "--once"),
    (["--array", "1-3", "-o", "/no/such/folder/x", "true"], 125, "cannot write"),
    (["--array", "1-3", "-o", "/no/such/x-%i", "true"], 125, "cannot write: /no/such/x-1: no such file or directory"),
    (["--array", "1-3", "-o", "/no/such/x-%j", "true"], 125, "cannot write: /no/such/x-%j: no such file or directory"),
    (["--array", "1-3", "-o", "/no/such/%i/x", "true"], 125, "cannot write: /no/such/1/x: no such file or directory"),
    (["--array", "1-3", "-o", "/dev/null/x-%i", "true"], 125, "cannot write: /dev/null/x-1: not a directory"),
    (["--dry-run", "--array", "1-3", "-o", "/no/such/x-%i", "true"], 125, "cannot write: /no/such/x-1"),
    (["--dry-run", "-o", "/no/such/x", "true"], 125, "cannot write: /no/such/x"),
    (["-o", "/no/such/x-%j", "true"], 125, "cannot write: /no/such/x-%j: no such file or directory"),
    (["--array", "1-3", "-g", "99", "true"], 125, "needs 99 GPUs"),
    (["--array", "1-3", "-m", "900G", "true"], 125, "no GPU has 900G"),
    (["--array", "1-3", "-a", "77", "true"], 125, "no such job"),
    (["--array", "1-3", "-i", "9", "true"], 125, "no GPU 9"),
    (["-d", "--array", "1-3", "-m", "900G", "true"], 125, "no GPU has 900G"),
    (["--dry-run", "--array", "1-3", "-m", "900G", "true"], 125, "no GPU has 900G"),
    (["--each", ""], 125, "name must not be empty"),
    (["--each", "/no/such"], 125, "cannot read: /no/such: no such file"),
    (["--each", "/"], 125, "is a directory"),
    (["--each", "-"], 125, "standard input: holds no command"),
    (["--each", "/dev/null"], 125, "/dev/null: holds no command"),
    (["--each", "GOOD", "true"], 125, "takes no program"),
    (["--each", "GOOD%x"], 125, "at once"),
    (["--each", "QUOTE"], 125, "line 2: no closing quotation"),
    (["--each", "MISSING"], 127, "line 3: cannot run: no-such-program: not found"),
    (["--each", "NUL"], 125, "line 1: holds a NUL byte"),
    (["--each", "COMMENTS"], 125, "holds no command"),
    (["--each", "LONG"], 125, "line 1: longer than"),
    (["--each", "HUGE"], 125, "larger than 16M"),
    (["--each", "MANY"], 125, "more than 10000"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    contents = {
        "GOOD": b"true\n", "QUOTE": b"true\necho 'x\n", "MISSING": b"true\n\nno-such-program x\n", "NUL": b"true \0\n",
        "COMMENTS": b"# a\n\n", "LONG": b"true " + b"x" * 40_000, "HUGE": b"#" * (17 << 20), "MANY": b"true\n" * 10_001,
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def test_what_cannot_be_is_one_line_and_leaves_nothing(make_world: MakeWorld, files: Path) -> None:
    world = make_world("2x24G")
    assert world.run("true").returncode == 0
    for words, status, told in BAD:
        assert_one_line(world.run(*words, cwd=files), status, told)
    assert_nothing_left(world, rows=1)


# How large, how long


def pss_kib(pid: int) -> int:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.parametrize("size", [200, pytest.param(2000, marks=[pytest.mark.long, pytest.mark.limit(600)])])
def test_a_sweep_that_waits_is_one_process_with_one_connection(make_world: MakeWorld, size: int, tmp_path: Path) -> None:
    world = make_world("4x24G")
    blocker = world.start("-g", "4", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    arbiter = world.arbiter_pid()
    assert arbiter is not None
    descriptors = len(os.listdir(f"/proc/{arbiter}/fd"))
    begun = time.monotonic()
    sweep = world.start("--array", f"1-{size}", "true")
    until(world, "waiting", size, 60)
    registered = time.monotonic() - begun
    ours = [process for process in world.processes() if process.pid not in (arbiter, world.keeper_pid(), blocker.pid)]
    assert [process.pid for process in ours] == [sweep.pid]
    assert len(os.listdir(f"/proc/{arbiter}/fd")) - descriptors <= 2  # its connection and its pidfd
    memory = pss_kib(sweep.pid), pss_kib(arbiter)
    cpu = psutil.Process(arbiter).cpu_times()
    listed = time.monotonic()
    assert len(world.run("ls").stdout.splitlines()) == 2 + size
    listed = time.monotonic() - listed
    begun = time.monotonic()
    blocker.kill()
    assert sweep.wait(500) == 0
    ran = time.monotonic() - begun
    each_ran_once(world)
    print(
        f"\n{size} rows: registered in {registered:.2f} s, 1 process, its PSS {memory[0] / 1024:.1f} MiB, the arbiter's"
        f" {memory[1] / 1024:.1f} MiB (cpu so far {cpu.user + cpu.system:.2f} s), ls {listed * 1000:.0f} ms,"
        f" all run on 4 GPUs in {ran:.1f} s ({ran / size * 1000:.1f} ms a row)"
    )
    assert memory[0] < 12 * 1024
    assert memory[1] < 40 * 1024


def test_it_costs_nothing_while_it_waits(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    world.start("sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPU to be taken")
    sweep = psutil.Process(world.start("--array", "1-500", "true").pid)
    until(world, "waiting", 500)
    wait_until(lambda: sweep.status() == psutil.STATUS_SLEEPING, "it to sleep")
    before = sweep.cpu_times(), sweep.num_ctx_switches().voluntary
    seen = world.rows("SELECT count(*) AS n FROM job")
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() - begun > 2, "two seconds to pass", 5)
    assert world.rows("SELECT count(*) AS n FROM job") == seen
    assert sweep.cpu_times() == before[0]
    assert sweep.num_ctx_switches().voluntary - before[1] <= 2
