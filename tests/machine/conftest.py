"""The machine for the tests of this folder: started once, and cleared before each test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import ROOT, Machine, why_not

# Where it is built and kept; and another checkout to be installed on it, to try the tests on another build.
FOLDER, SOURCE = "GPURUN_TEST_MACHINE", "GPURUN_TEST_SOURCE"


@pytest.fixture(scope="session")
def started() -> Iterator[Machine]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Machine(Path(os.environ.get(FOLDER) or "/var/tmp/gpurun-test-machine")) as machine:
        machine.install(Path(os.environ.get(SOURCE) or ROOT))
        yield machine


@pytest.fixture
def machine(started: Machine) -> Machine:
    """Nobody is logged in or lingers, no job was ever there, and a logout ends nothing."""
    started.clear()
    started.kill_user_processes(False)
    return started
