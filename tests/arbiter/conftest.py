"""What the tests of the arbiter's parts get: small trees of real processes, and an arbiter that is woken by hand."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from family import Tree
from inprocess import Client, Clock, Jobs, made_arbiter

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.arbiter.pausing import stopping


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    made.close()


@pytest.fixture
def arbiter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arbiter]:
    """An arbiter of one GPU that nobody can ring for: no bell, no keeper."""
    monkeypatch.setenv("GPURUN_DIR", str(tmp_path))
    # On a busy machine half a second is not always enough, and then it is no pause.
    monkeypatch.setattr(stopping, "STOP_SECONDS", 20.0)
    with made_arbiter(tmp_path) as made:
        yield made


@pytest.fixture
def leader() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "600"]) as child:
        yield child
        child.kill()


@pytest.fixture
def client(arbiter: Arbiter) -> Iterator[Client]:
    made = Client(arbiter)
    yield made
    made.close()


@pytest.fixture
def other(arbiter: Arbiter) -> Iterator[Client]:
    made = Client(arbiter)
    yield made
    made.close()


@pytest.fixture
def jobs(arbiter: Arbiter) -> Iterator[Jobs]:
    """The jobs of that arbiter, whose leaders are children of the test."""
    made = Jobs(arbiter)
    yield made
    made.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that decides, to be turned on."""
    return Clock(monkeypatch)
