"""One job of a key at a time (--once), for cron."""

import subprocess
from pathlib import Path

import psutil
import pytest
from test_real_work import NAMESPACE, end, in_namespace, prepare_cron
from waiting import wait_until
from world import World

SLEEP = ("python3", "-c", "import time; time.sleep(60)")


def test_a_key_is_held_while_its_job_waits_and_while_it_runs(world: World) -> None:
    holder = world.start("--once", "nightly", "-g", "all", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the first to run")
    done = world.run("--once", "nightly", "true")
    assert (done.returncode, done.stdout, done.stderr) == (124, "", "")
    assert world.run("--once", "nightly", "-E", "0", "true").returncode == 0
    assert world.run("-v", "--once", "nightly", "true").stderr == "gpurun: not started: job 1 of key nightly is running\n"
    assert world.run("--dry-run", "--once", "nightly", "true").stdout.startswith("would not start: job 1 of key nightly")
    assert len(world.jobs()) == 1  # those never were jobs
    waiting = world.start("--once", "other", "true")
    wait_until(lambda: world.state(2) == "waiting", "the other key to wait")
    assert world.run("-v", "--once", "other", "true").stderr == "gpurun: not started: job 2 of key other is waiting\n"
    assert world.run("-d", "--once", "other", "true").returncode == 124
    world.run("kill", "1")
    holder.wait(30)
    assert waiting.wait(30) == 0
    for key in ("nightly", "other"):
        assert world.run("--once", key, "true").returncode == 0


def test_the_key_outlives_the_arbiter(world: World) -> None:
    world.start("--once", "k", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the first to run")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    assert world.run("--once", "k", "true").returncode == 124


def test_of_many_at_one_moment_one_runs(world: World) -> None:
    children = [world.start("--once", "k", "-m", "1G", "sleep", "5") for _ in range(12)]
    statuses = sorted(child.wait(30) for child in children)
    assert statuses == [0] + [124] * 11


@pytest.mark.parametrize("key", ["", "a\nb"])
def test_a_key_is_printable_text(world: World, key: str) -> None:
    done = world.run("--once", key, "true")
    assert done.returncode == 125
    assert "must be text that can be printed" in done.stderr


@pytest.mark.long
@pytest.mark.limit(330)
@pytest.mark.needs("cron")
def test_under_debians_cron_the_recipe_never_doubles(world: World, tmp_path: Path) -> None:
    """Each run takes longer than the minute after which cron starts the next."""
    log = tmp_path / "log"
    script = f"echo begin >> {log}; sleep 80; echo end >> {log}"
    settings = [f"{name}={world.env[name]}" for name in ("GPURUN_DIR", "GPURUN_SIM")]
    recipe = f'{world.command} --once update -E 0 -- sh -c "{script}"'
    line = f"* * * * * {recipe} > {tmp_path}/said 2>&1; echo $? >> {tmp_path}/status"
    prepare_cron(tmp_path, "\n".join([*settings, line]) + "\n")
    cron = world.adopt(subprocess.Popen(in_namespace(NAMESPACE.format(folder=tmp_path))))
    try:
        wait_until(lambda: log.exists() and log.read_text().count("end") == 2, "two runs", 300)
    finally:
        end(cron)
    words = log.read_text().split()
    assert words[:4] == ["begin", "end", "begin", "end"]
    statuses = (tmp_path / "status").read_text().split()
    assert statuses.count("0") == len(statuses) >= 3
    assert not (tmp_path / "said").read_text()


def test_once_more_after_the_run_under_way_and_never_two_that_wait(world: World) -> None:
    """Though there is a second GPU: what has come since is seen to by the next run, not by two at a time."""
    runs = world.start("--once", "new", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the first to run")
    done = world.run("--dry-run", "--once-waiting", "new", "true")
    assert done.stdout.startswith("would wait for job 1 (python3")
    more = world.start("--once-waiting", "new", *SLEEP)
    wait_until(lambda: world.state(2) == "waiting", "another to wait")
    assert world.job(2)["why"]["text"].startswith("job 1 ")
    assert world.run("--once-waiting", "new", "true").returncode == 124
    assert world.run("--once-waiting", "new", "-E", "0", "true").returncode == 0
    assert world.run("-v", "--once-waiting", "new", "true").stderr == "gpurun: not started: job 2 of key new is waiting\n"
    assert world.run("--dry-run", "--once-waiting", "new", "true").stdout == "would not start: job 2 of key new is waiting\n"
    assert world.run("kill", "1").returncode == 0
    runs.wait(30)
    wait_until(lambda: world.state(2) == "running", "the second to run")
    assert world.run("--once", "new", "true").returncode == 124
    third = world.start("--once-waiting", "new", "true")
    wait_until(lambda: world.state(3) == "waiting", "a third to wait")
    assert world.run("kill", "2").returncode == 0
    more.wait(30)
    assert third.wait(30) == 0
    assert world.run("--once-waiting", "new", "true").returncode == 0
    assert len(world.jobs()) == 4


def test_of_many_that_come_while_one_runs_one_waits(world: World) -> None:
    runs = world.start("--once-waiting", "k", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the first to run")
    children = [world.start("--once-waiting", "k", "-a", "any:1", "true") for _ in range(8)]
    wait_until(lambda: sum(child.poll() is not None for child in children) == 7, "all but one to be refused")
    world.run("kill", "1")
    runs.wait(30)
    assert sorted(child.wait(30) for child in children) == [0] + [124] * 7


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--once", "a", "--once-waiting", "a", "true"], "gpurun: --once and --once-waiting: one of them\n"),
        (["--once-waiting", "", "true"], "gpurun: --once-waiting : must be text that can be printed\n"),
        (["--once-waiting", "k", "--array", "1-3", "true"], "gpurun: --once-waiting: goes without --each"),
    ],
)
def test_what_makes_no_sense_with_it_is_refused(world: World, words: list[str], said: str) -> None:
    done = world.run(*words)
    assert done.returncode == 125
    assert done.stderr.startswith(said)
