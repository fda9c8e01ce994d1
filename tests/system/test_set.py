"""set and again: what a waiting job asks for, and an ended one once more."""

from pathlib import Path

import pytest
from waiting import wait_until
from world import World

SLEEP = ("python3", "-c", "import time; time.sleep(60)")


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
    wait_until(lambda: [job["state"] for job in world.jobs()] == ["running"] * 2, "both to run")
    child = world.start("-m", "8G", "true")
    wait_until(lambda: world.state(3) == "waiting", "the third to wait")
    assert world.run("set", "-m", "2G", "3").returncode == 0
    assert child.wait(10) == 0


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


def test_the_wait_limit_can_be_shortened_and_stretched(world: World) -> None:
    world.start("-g", "all", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    short, long = world.start("-w", "1h", "true"), world.start("-w", "4s", "true")
    wait_until(lambda: len(world.jobs()) == 3, "both to wait")
    numbers = {row["pid"]: row["id"] for row in world.rows("SELECT pid, id FROM job")}
    assert world.run("set", "-w", "1s", str(numbers[short.pid])).returncode == 0
    assert world.run("set", "-w", "1h", str(numbers[long.pid])).returncode == 0
    assert short.wait(10) == 124
    with pytest.raises(AssertionError):
        wait_until(lambda: long.poll() is not None, "the other, which stays", 5)


@pytest.mark.parametrize("words", [["1"], ["-m", "2G"], ["-m", "8", "1"], ["-N", "4", "1"], ["--frob", "1"]])
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


def test_again_is_for_one_job_that_has_ended(blocked: World) -> None:
    done = blocked.run("again", "2")
    assert (done.returncode, done.stderr) == (1, "gpurun: again: job 2: has not ended: it is waiting\n")
    assert blocked.run("again", "99").stderr == "gpurun: again: job 99: no such job\n"
    assert blocked.run("again").returncode == blocked.run("again", "1", "2").returncode == 2
