"""Time limits (-t): asked to end by its own signals, then killed, whoever its parent is and whatever happens to the arbiter."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from world import World

SLEEP = ("python3", "-c", "import time; time.sleep(60)")
# Says which signals come, and goes on.
STUBBORN = """
import signal, sys, time
def note(number, frame):
    with open(sys.argv[1], "a") as file:
        file.write(signal.Signals(number).name + "\\n")
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, note)
open(sys.argv[1], "a").write("ready\\n")
while True:
    time.sleep(60)
"""


@pytest.mark.parametrize("form", [(), ("-r",)], ids=["exec", "stub"])
def test_a_job_is_asked_to_end_at_its_limit_and_dies_as_of_the_signal(world: World, form: tuple[str, ...]) -> None:
    begun = time.monotonic()
    done = world.run(*form, "-t", "1s", *SLEEP)
    assert done.returncode == -signal.SIGTERM
    assert 0.9 <= time.monotonic() - begun < 10
    job = world.job(1)
    assert job["result"] == {"kind": "signal", "code": None, "signal": 15, "text": "time limit of 1s"}
    assert job["attempt"] == 1


def test_a_job_that_ends_before_its_limit_is_left_alone(world: World) -> None:
    assert world.run("-t", "2s", "sh", "-c", "exit 7").returncode == 7
    assert world.run("-t", "30d", "true").returncode == 0


def test_the_signals_of_the_job_are_sent_one_after_the_other_and_then_kill(world: World, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    done = world.run("-t", "4s", "--signal", "USR1:1,TERM:1", "python3", "-c", STUBBORN, seen)
    assert done.returncode == -signal.SIGKILL
    assert seen.read_text().split() == ["ready", "SIGUSR1", "SIGTERM"]


def test_what_the_job_started_is_killed_too_when_the_job_does_not_end(world: World, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"trap '' TERM; sleep 60 & echo $! > {pid_file}; wait; wait; sleep 60"
    world.run("-t", "1s", "--signal", "TERM:1", "sh", "-c", script)
    pid = int(pid_file.read_text())
    wait_until(lambda: not psutil.pid_exists(pid), "the child to be killed")


def test_a_limit_that_passes_while_no_arbiter_is_there_is_kept_by_the_next(world: World) -> None:
    child = world.start("-t", "3s", *SLEEP)
    wait_until(lambda: world.state(1) == "running", "the job to run")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to be gone")
    assert world.job(1)["state"] == "running"  # the list summons another
    assert child.wait(30) == -signal.SIGTERM
    wait_until(lambda: world.state(1) == "ended", "the end to be known")
    assert world.job(1)["result"]["text"] == "time limit of 3s"


def test_kill_does_not_wait_for_the_signals_of_the_limit(world: World, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    child = world.start("-t", "1s", "--signal", "USR1:60", "python3", "-c", STUBBORN, seen)
    wait_until(lambda: world.state(1) == "stopping", "the limit to pass")
    assert "KILL in 10 s" in world.run("kill", "1").stdout
    assert world.run("kill", "-9", "1").returncode == 0
    assert child.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("60", "time 60: unit missing: 60s or 60m?"),
        ("0s", "time 0s: must be more than nothing"),
        ("soon", "time soon: not a duration: a number and a unit, as in 15m"),
    ],
)
def test_a_limit_that_is_none_is_refused(world: World, text: str, complaint: str) -> None:
    done = world.run("-t", text, "true")
    assert (done.returncode, done.stdout, done.stderr) == (125, "", f"gpurun: {complaint}\n")


def test_a_limit_beyond_what_epoll_bears_harms_nobody(world: World) -> None:
    assert world.run("-w", "300d", "-t", "300d", "true").returncode == 0
    arbiter = world.arbiter_pid()
    child = world.start("-w", "300d", "-t", "300d", *SLEEP)
    wait_until(lambda: world.state(2) == "running", "the job to run")
    assert world.arbiter_pid() == arbiter
    assert world.run("kill", "-9", "2").returncode == 0
    child.wait(30)
