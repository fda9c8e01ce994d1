"""The demo goes as it is told, for a reader and for a machine, and leaves nothing behind."""

import os
import signal
from pathlib import Path

import psutil
import pytest
from screens import expect, said
from terminal import Terminal
from waiting import wait_until
from world import World


@pytest.fixture
def stage(world: World, tmp_path: Path) -> Path:
    """Where the demo makes its folder."""
    folder = tmp_path / "stage"
    folder.mkdir()
    world.env["TMPDIR"] = str(folder)
    return folder


def of_the_demo(stage: Path) -> list[psutil.Process]:
    """Processes of a demo's world; zombies do not count."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(stage) in process.environ().get("GPURUN_DIR", "") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_the_demo_tells_its_story_to_the_end(world: World, stage: Path) -> None:
    expect("demo", said(world.run("demo", "--fast", timeout=100)))
    assert list(stage.iterdir()) == []
    wait_until(lambda: not of_the_demo(stage), "everything of the demo to be gone")


@pytest.mark.long
def test_the_demo_with_its_pauses_is_the_same_story(world: World, stage: Path) -> None:
    expect("demo", said(world.run("demo", timeout=300)))


def test_the_demos_sentences_fit_on_the_terminal(world: World, stage: Path) -> None:
    terminal = Terminal(world, [world.command, "demo"], columns=60, lines=60)
    text = terminal.await_text("two simulated GPUs of 24G; arbiter,")
    assert "it starts when a\nGPU is really free.\n" in text
    terminal.send("\x03")
    assert terminal.finish() == 128 + signal.SIGINT
    wait_until(lambda: not list(stage.iterdir()), "the demo's folder to be gone")
    wait_until(lambda: not of_the_demo(stage), "everything of the demo to be gone")


@pytest.mark.long
def test_a_story_that_does_not_go_as_told_breaks_off(world: World, stage: Path) -> None:
    child = world.start("demo")
    wait_until(lambda: "1. Waiting" in child.stdout.readline(), "the story to begin")  # type: ignore[union-attr]
    training = wait_until(
        lambda: next((each for each in of_the_demo(stage) if "train.py" in each.cmdline()), None), "a training to run"
    )
    os.kill(training.pid, signal.SIGKILL)
    assert child.communicate(timeout=90)[1].startswith("gpurun: demo: the story broke off: ")
    assert child.returncode == 1
    assert list(stage.iterdir()) == []
