"""set and again: what a waiting job asks for, and an ended one once more."""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from world import World

from gpuwrap.options import CHANGEABLE, LAUNCH

SLEEP = ("python3", "-c", "import time; time.sleep(60)")
HOLD = """
import os, sys, time
for index in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    with open(os.path.join(os.environ["GPURUN_SIM_DIR"], index, str(os.getpid())), "w") as file:
        file.write(sys.argv[1])
time.sleep(8)
"""


@pytest.fixture
def blocked(world: World) -> World:
    """A world in which job 1 has both GPUs and job 2 waits."""
    world.start("-g", "all", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    world.start("true")
    wait_until(lambda: world.state(2) == "waiting", "the second to wait")
    return world


def test_a_waiting_job_is_changed_and_the_change_is_told(blocked: World) -> None:
    done = blocked.run("set", "-g", "2", "-m", "8G", "-p", "5", "-t", "90m", "-N", "new", "2")
    told = "job 2: GPUs 1 → 2, memory whole → 8G, priority 0 → 5, time limit none → 1h30m, name none → new\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
    job = blocked.job(2)
    assert (job["gpus"], job["memory_bytes"], job["priority"], job["name"]) == (2, 8 << 30, 5, "new")
    assert blocked.rows("SELECT time_limit_seconds FROM job WHERE id = 2") == [{"time_limit_seconds": 5400}]
    assert blocked.run("set", "-g", "2", "new").stdout == "job 2: as it was\n"


def test_it_starts_at_once_if_it_can_with_less(world: World) -> None:
    world.start("-m", "20G", *SLEEP)
    world.start("-m", "20G", *SLEEP)
    wait_until(lambda: world.states() == ["running"] * 2, "both to run")
    child = world.start("-m", "8G", "true")
    wait_until(lambda: world.state(3) == "waiting", "the third to wait")
    assert world.run("set", "-m", "2G", "3").returncode == 0
    assert child.wait(30) == 0


def test_what_can_never_be_had_is_refused_and_changes_nothing(blocked: World) -> None:
    done = blocked.run("set", "-g", "5", "2")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "gpurun: set: job 2: needs 5 GPUs: this machine has 2\n")
    assert blocked.job(2)["gpus"] == 1
    assert blocked.run("set", "-i", "7", "2").returncode == 1


def test_of_a_running_job_only_limit_and_name_change(blocked: World) -> None:
    done = blocked.run("set", "-m", "2G", "1", "2", "99")
    assert done.returncode == 1
    assert done.stdout == "job 2: memory whole → 2G\n"
    assert done.stderr == (
        "gpurun: set: job 1: is running: only its time limit and its name can be changed\ngpurun: set: job 99: no such job\n"
    )
    assert blocked.run("set", "-t", "1s", "1").stdout == "job 1: time limit none → 1s\n"
    wait_until(lambda: blocked.state(1) == "ended", "the limit to end it")
    assert blocked.job(1)["result"]["text"] == "time limit of 1s"


def test_the_choice_of_gpus_stays_within_what_the_caller_may_see(make_world: Callable[..., World]) -> None:
    world = make_world("3x24G")
    world.start("-g", "all", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    script = ("-m", "4G", "sh", "-c", "echo got $CUDA_VISIBLE_DEVICES; sleep 0.1")
    children = [world.start(*script, extra={"CUDA_VISIBLE_DEVICES": text}) for text in ("1,2", "1", "")]
    wait_until(lambda: len(world.states()) == 4, "all to wait")
    numbers = {row["pid"]: str(row["id"]) for row in world.rows("SELECT pid, id FROM job")}
    two, one, free = (numbers[child.pid] for child in children)
    assert world.run("set", "--not", "1", two).stdout == f"job {two}: GPUs to choose from 1,2 → 2\n"
    assert world.run("set", "-i", "0,1", two).stdout == f"job {two}: GPUs to choose from 2 → 1\n"
    assert world.run("set", "-i", "all", two).stdout == f"job {two}: GPUs to choose from 1 → 1,2\n"
    assert world.run("set", "--not", "1", two).stdout == f"job {two}: GPUs to choose from 1,2 → 2\n"
    for words in (("--not", "1"), ("-i", "0,2")):
        done = world.run("set", *words, one)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"gpurun: set: job {one}: no GPU is left to choose from (-i, --not, CUDA_VISIBLE_DEVICES)\n"
    assert world.run("set", "-i", "0", free).stdout == f"job {free}: GPUs to choose from all → 0\n"
    assert world.run("set", "-i", "1", free).stdout == f"job {free}: GPUs to choose from 0 → 1\n"
    # The next arbiter is told by each gpurun what it may see.
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    told = f"job {free}: GPUs to choose from 1 → all\n"
    wait_until(lambda: world.run("set", "-i", "all", free).stdout == told, "it to be back")
    assert world.run("set", "--not", "2", one).stdout == f"job {one}: as it was\n"
    world.run("kill", "-9", "1")
    assert [child.communicate(timeout=15)[0] for child in children[:2]] == ["got 2\n", "got 1\n"]


def test_of_a_sweep_too_the_choice_stays_within_what_the_caller_may_see(world: World) -> None:
    world.start("-g", "all", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    world.start("--array", "1-2", "-m", "4G", "true", extra={"CUDA_VISIBLE_DEVICES": "1"})
    wait_until(lambda: len(world.states()) == 3, "the rows to wait")
    assert world.run("set", "-i", "0", "2-3").returncode == 1
    assert world.run("set", "-i", "1", "2-3").stdout == "job 2: as it was\njob 3: as it was\n"


def test_what_was_asked_for_can_be_taken_back(blocked: World) -> None:
    steps = [
        (["-m", "8G", "--exclusive"], "memory whole → 8G, exclusive no → yes"),
        (["-m", "whole"], "memory 8G → whole, exclusive yes → no"),
        (["-m", "50%"], "memory whole → 50%"),
        (["--exclusive"], "exclusive no → yes"),
        (["-m", "auto"], "memory 50% → whole, exclusive yes → no"),  # this command was never seen
        (["-t", "1h"], "time limit none → 1h"),
        (["-t", "none"], "time limit 1h → none"),
    ]
    began = time.monotonic()
    for words, told in steps:
        assert blocked.run("set", *words, "2").stdout == f"job 2: {told}\n"
    # As long as all that took, and more: on a busy machine a limit must not pass before it is taken back.
    seconds = 4 + int(time.monotonic() - began)
    assert blocked.run("set", "-w", f"{seconds}s", "2").stdout == f"job 2: gives up after {seconds}s from now\n"
    assert blocked.run("set", "-w", "none", "2").stdout == "job 2: waits without a limit\n"
    (row,) = blocked.rows("SELECT started_mono FROM job WHERE id = 1")
    limit = int(time.monotonic() - row["started_mono"]) + seconds
    assert blocked.run("set", "-t", f"{limit}s", "1").stdout == f"job 1: time limit none → {limit}s\n"
    assert blocked.run("set", "-t", "none", "1").stdout == f"job 1: time limit {limit}s → none\n"
    both = {"running", "waiting"}
    with pytest.raises(AssertionError):
        wait_until(lambda: {job["state"] for job in blocked.jobs()} != both, "one of them to end", seconds + 2)
    done = blocked.run("set", "--exclusive", "2")
    text = "gpurun: set: job 2: it has no -m: GPUs are never shared without\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", text)


def test_auto_is_what_the_command_was_seen_to_need(world: World, tmp_path: Path) -> None:
    program = tmp_path / "job.py"
    program.write_text(HOLD)
    first = world.start("-m", "20G", sys.executable, program, str(3 << 30))
    wait_until(lambda: world.rows("SELECT 1 FROM peak"), "its need to be learned", 20)
    first.wait(30)
    world.start("-g", "all", *SLEEP)
    wait_until(lambda: world.state(2) == "running", "the GPUs to be taken")
    world.start(sys.executable, program, str(3 << 30))
    wait_until(lambda: world.state(3) == "waiting", "the third to wait")
    assert world.run("set", "-m", "auto", "3").stdout == "job 3: memory whole → 4.1G\n"


FIXED = [name for option in LAUNCH if option.key not in (*CHANGEABLE, "sim", "help") for name in option.names]


@pytest.mark.parametrize("option", FIXED)
def test_what_cannot_be_changed_is_refused_by_name(world: World, option: str) -> None:
    done = world.run("set", option, "2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpurun: set: option {option}: not with this verb: it is for starting a job\n"


WRONG = [["1"], ["-m", "2G"], ["-m", "8", "1"], ["-N", "4", "1"], ["--frob", "1"], ["-m", "whole", "--exclusive", "1"]]


@pytest.mark.parametrize("words", WRONG)
def test_wrong_usage_is_two_lines_at_most_and_exit_2(world: World, words: list[str]) -> None:
    done = world.run("set", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert 1 <= len(done.stderr.splitlines()) <= 2


def test_again_runs_the_same_command_with_the_same_options_from_here(world: World, tmp_path: Path) -> None:
    script = 'echo "$PWD $HELLO $CUDA_VISIBLE_DEVICES $1"; exit 3'
    first = ("-m", "7G", "-i", "1", "-p", "5", "-t", "1h", "-N", "it", "--once", "k", "--signal", "INT:5")
    assert world.run(*first, "sh", "-c", script, "sh", "a b\n", extra={"HELLO": "one"}).returncode == 3
    wait_until(lambda: world.state(1) == "ended", "the first to end")
    done = world.run("again", "1", cwd=tmp_path, extra={"HELLO": "two"})
    assert (done.returncode, done.stdout) == (3, f"{tmp_path} two 1 a b\n\n")
    columns = (
        "name, priority, gpus, memory_bytes, memory_percent, exclusive, allowed, give_way, time_limit_seconds, argv, stub,"
        " signals, retries, once, detached"
    )
    rows = world.rows(f"SELECT {columns} FROM job ORDER BY id")
    assert rows[0] == rows[1]
    assert rows[0]["time_limit_seconds"] == 3600


def test_again_goes_to_the_background_and_to_the_file_as_before(world: World, tmp_path: Path) -> None:
    world.run("-d", "-r", "-m", "10%", "-o", tmp_path / "log-%j", "echo", "hello")
    world.run("-d", "-r", "echo", "default")
    for number in ("1", "2"):
        assert world.run("wait", number).returncode == 0
    assert world.run("again", "1").stdout == "3\n"
    assert world.run("again", "2").stdout == "4\n"
    for number in ("3", "4"):
        assert world.run("wait", number).returncode == 0
    assert (tmp_path / "log-3").read_text() == "hello\n"
    assert (world.folder / "logs" / "4.log").read_text() == "default\n"


def test_again_writes_to_the_file_that_was_asked_for_not_to_the_one_that_the_shell_gave(world: World, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    world.run("-o", "asked 100%%", "echo", "one", cwd=tmp_path)
    with (tmp_path / "given").open("w") as given:
        world.run("echo", "two", stdout=given)
    assert world.run("again", "1", cwd=tmp_path / "elsewhere").stdout == ""
    assert world.run("again", "2").stdout == "two\n"
    assert (tmp_path / "asked 100%").read_text() == "one\none\n"
    assert (tmp_path / "given").read_text() == "two\n"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_job_lost_by_a_reboot_is_listed_and_run_again(world: World, tmp_path: Path) -> None:
    """The row is given another boot's id, as those of before a reboot have."""
    child = world.start("-m", "7G", "-N", "it", "sh", "-c", "echo ran; sleep 60", cwd=tmp_path)
    wait_until(lambda: world.state(1) == "running", "the job to run")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    child.kill()
    child.wait(30)
    with contextlib.closing(sqlite3.connect(world.database, timeout=10)) as database, database:
        database.execute("UPDATE job SET boot_id = 'another', argv = ?", (b"sh\0-c\0echo ran",))
    shown = world.run("ls", "-a").stdout.splitlines()[-1].split()
    assert shown[:2] == ["1", "lost"]
    assert "machine restarted" in " ".join(shown)
    assert world.job(1)["result"]["kind"] == "lost"
    assert world.run("again", "it").stdout == "ran\n"
    assert (world.job(2)["memory_bytes"], world.job(2)["result"]["code"]) == (7 << 30, 0)


def test_again_is_for_jobs_that_have_ended(blocked: World) -> None:
    done = blocked.run("again", "2")
    assert (done.returncode, done.stderr) == (1, "gpurun: again: job 2: has not ended: it is waiting\n")
    assert blocked.run("again", "99").stderr == "gpurun: again: job 99: no such job\n"
    assert blocked.run("again").returncode == 2
    done = blocked.run("again", "1", "2")
    assert (done.returncode, done.stderr) == (
        1,
        "gpurun: again: job 1: has not ended: it is running\ngpurun: again: job 2: has not ended: it is waiting\n",
    )


def test_again_runs_several_jobs_and_returns_the_first_status_that_is_not_0(world: World, tmp_path: Path) -> None:
    for status in (0, 3, 4):
        world.run("-N", f"it-{status}", "sh", "-c", f"echo ran >> {tmp_path}/{status}; exit {status}")
    assert world.run("again", "1,3", "2").returncode == 4
    done = world.run("again", "it-[03]", "99")  # jobs that began at once have their numbers in any order
    assert (done.returncode, done.stderr) == (3, "gpurun: again: job 99: no such job\n")
    assert [(tmp_path / str(status)).read_text().count("ran") for status in (0, 3, 4)] == [3, 3, 2]
