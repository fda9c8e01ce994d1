"""A verb's question to the arbiter, asked ahead of the need: the answer is that of the question."""

import os
import signal

import pytest
from waiting import wait_until
from world import World

from gpuwrap.commands.asking import World as Asking


@pytest.fixture
def asking(world: World, monkeypatch: pytest.MonkeyPatch) -> Asking:
    for name in ("GPURUN_DIR", "GPURUN_SIM"):
        monkeypatch.setenv(name, world.env[name])
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "-N", "behind", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    return Asking({})


def test_the_answer_comes_to_whoever_asks_the_same(asking: Asking) -> None:
    asking.ask_ahead("explain", jobs="2")
    assert asking.ask("explain", jobs="2")["2"][0] == "busy"
    assert asking.ask("explain", jobs="2")["2"][0] == "busy", "and is not kept"


def test_another_question_does_not_get_it(asking: Asking) -> None:
    asking.ask_ahead("explain", jobs="2")
    assert [gpu["index"] for gpu in asking.ask("gpus")] == [0, 1]
    assert asking.ask("explain", jobs="2")["2"][0] == "busy"


def test_it_is_asked_again_if_the_arbiter_is_killed_meanwhile(asking: Asking, world: World) -> None:
    pid = world.arbiter_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asking.ask_ahead("explain", jobs="2")
    os.kill(pid, signal.SIGKILL)
    assert isinstance(asking.ask("explain", jobs="2"), dict)


def test_reasons_are_fetched_after_they_were_asked_for(asking: Asking) -> None:
    fetch = asking.explain(asking.live(), listed=True)
    assert fetch()[2][1] == "a GPU, 1st in line: job 1 has GPUs 0 and 1"
    assert asking.explain([])() == {}
