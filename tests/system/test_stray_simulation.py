"""GPURUN_SIM left in a shell on a machine with a driver: each launch says so, in one line."""

import os
import subprocess
import sys
from typing import Any

import pytest
from world import World

pytestmark = pytest.mark.needs("unshare", "mount")
LINE = "gpurun: GPURUN_SIM=2x24G is set: the grant is of simulated GPUs, but the program may use real ones (unset GPURUN_SIM)\n"
# What a loaded driver shows, in a mount namespace of the command's own.
DRIVER = "mount -t tmpfs none /proc/driver && mkdir /proc/driver/nvidia && echo NVRM > /proc/driver/nvidia/version"


@pytest.fixture(autouse=True)
def _may_mount() -> None:
    done = subprocess.run(["unshare", "-m", "sh", "-c", DRIVER], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no driver can be shown here: {done.stderr.strip()}")


def beside_a_driver(world: World, *words: str, **settings: Any) -> "subprocess.CompletedProcess[str]":
    return world.run(*words, prefix=("unshare", "-m", "sh", "-c", f'{DRIVER} && exec "$@"', "sh"), **settings)


@pytest.mark.parametrize("words", [["true"], ["-r", "true"], ["-g", "0", "--array", "1-2", "true"], ["--dry-run", "true"]])
def test_it_is_said_once_at_each_launch(world: World, words: list[str]) -> None:
    done = beside_a_driver(world, *words)
    assert (done.returncode, done.stderr) == (0, LINE)


def test_it_is_said_before_a_job_goes_to_the_background(world: World) -> None:
    done = beside_a_driver(world, "-d", "true")
    assert (done.returncode, done.stderr, done.stdout) == (0, LINE, "1\n")


def test_a_block_says_it_too(world: World) -> None:
    block = f"import sys; sys.path[:0] = {sys.path!r}; import gpuwrap\nwith gpuwrap.gpu(): print('in')"
    command, world.command = world.command, sys.executable
    done = beside_a_driver(world, "-c", block)
    world.command = command
    assert (done.stdout, done.stderr) == ("in\n", LINE)


@pytest.mark.parametrize("words", [["-q", "true"], ["ls"]])
def test_who_wants_to_hear_nothing_and_verbs_do_not_say_it(world: World, words: list[str]) -> None:
    assert LINE not in beside_a_driver(world, *words).stderr


def test_who_asks_for_simulated_gpus_by_an_option_means_them(world: World) -> None:
    """And so does what runs inside: there the variable is gpurun's own."""
    inner = beside_a_driver(world, "--sim", "2x24G", "--", world.command, "true", extra={"GPURUN_SIM": ""})
    assert (inner.returncode, inner.stderr) == (0, "")


def test_where_there_is_no_driver_nothing_is_said(world: World) -> None:
    if os.path.exists("/proc/driver/nvidia/version"):
        pytest.skip("here is a driver")
    assert world.run("true").stderr == ""


def test_doctor_says_it(world: World) -> None:
    done = beside_a_driver(world, "doctor")
    assert LINE.removeprefix("gpurun: ") in done.stdout
