"""Ended by a rule of gpurun: the log, the stub, the terminal, `wait` and `history` say which."""

import signal
import subprocess
from pathlib import Path

import pytest
from terminal import Terminal
from waiting import wait_until
from world import World

SLEEP = ("sleep", "60")
EXITS = ("sh", "-c", "trap 'exit 3' TERM; sleep 60 & wait")
SAVES = ("sh", "-c", "trap 'exit 0' TERM; echo up; sleep 60 & wait")
ASKED = "gpurun: job 1: time limit of 1s: asked to end (TERM)\n"


def results(world: World) -> list[str]:
    """The column RESULT of `history`."""
    header, *rows = world.run("history").stdout.splitlines()
    begin, end = header.index("RESULT"), header.index("ENDED")
    return [row[begin:end].strip() for row in rows]


def test_of_a_job_in_the_background_the_log_wait_and_history_say_that_its_limit_ended_it(world: World) -> None:
    assert world.run("-d", "-t", "1s", *SLEEP).stdout == "1\n"
    done = world.run("wait", "1")
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "gpurun: job 1: signal SIGTERM (time limit of 1s)\n")
    assert world.run("logs", "1").stdout == ASKED
    assert results(world) == ["SIGTERM, time limit of 1s"]


def test_a_program_that_made_a_status_of_it_is_told_alike(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert world.run("-d", "-o", log, "-t", "1s", *EXITS).returncode == 0
    done = world.run("wait", "1")
    assert (done.returncode, done.stderr) == (3, "gpurun: job 1: exit 3 (time limit of 1s)\n")
    assert log.read_text().endswith(ASKED)
    assert results(world) == ["exit 3, time limit of 1s"]


@pytest.mark.parametrize(("words", "said"), [(("-r",), ASKED), (("-r", "-q"), ""), ((), "")], ids=["stub", "quiet", "exec"])
def test_the_stub_says_it_where_its_messages_go_and_a_program_alone_hears_nothing_in_a_pipe(
    world: World, words: tuple[str, ...], said: str
) -> None:
    done = world.run(*words, "-t", "1s", *SLEEP)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", said)


@pytest.mark.parametrize("form", [(), ("-r",)], ids=["exec", "stub"])
def test_it_is_told_on_the_terminal(world: World, form: tuple[str, ...]) -> None:
    Terminal(world, [world.command, *form, "-t", "1s", *SLEEP]).await_text(ASKED.strip())


def test_who_was_killed_knows_it(world: World) -> None:
    child = world.start(*SLEEP)
    wait_until(lambda: world.state(1) == "running", "it to run")
    assert world.run("kill", "1").returncode == 0
    child.wait(30)
    done = world.run("wait", "1")
    assert (done.returncode, done.stderr) == (143, "")
    assert results(world) == ["SIGTERM"]


def test_exit_0_when_asked_to_make_room_is_done_and_said_once_with_what_would_help(world: World) -> None:
    stub = world.start("-r", *SAVES)
    assert stub.stdout is not None
    assert stub.stdout.readline() == "up\n"
    assert world.run("kill", "--requeue", "1").returncode == 0
    _out, told = stub.communicate(timeout=30)
    assert (stub.returncode, told) == (
        0,
        "gpurun: job 1: exit 0, asked to make room: taken as done\nto be run again it must end with another status, 75 say\n",
    )
    assert world.job(1)["result"] == {"kind": "exit", "code": 0, "signal": None, "text": "asked to make room: taken as done"}
    assert results(world) == ["exit 0, asked to make room: taken as done"]
    assert world.run("wait", "1").stderr == "gpurun: job 1: exit 0 (asked to make room: taken as done)\n"


def test_success_by_itself_is_no_news(world: World) -> None:
    done = subprocess.run([world.command, "-r", "true"], env=world.env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert results(world) == ["exit 0"]
    assert world.run("wait", "1").stderr == ""
