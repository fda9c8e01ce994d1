"""One job of a key at a time (--once), for cron."""

import psutil
import pytest
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
    holder.wait(15)
    assert waiting.wait(10) == 0
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
