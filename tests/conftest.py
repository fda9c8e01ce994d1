"""What every test gets: a world of its own, a time limit, and rules for tests that cannot run here.

1. `long` and `machine` tests run only when asked for (`-m long`); `gpu` tests are skipped without a driver and a GPU.
2. A test marked `needs("zsh")` is skipped where that tool is missing, and the reason names the tool.
3. Ctrl-C means what it means at a terminal, also where pytest itself was started in the background.
4. With CI=true in the environment only `gpu` tests may be skipped: any other skip is a failure.
"""

import contextlib
import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import hypothesis
import pytest
from cluster import Cluster, why_not
from equipment import find_tool, missing_gpu
from world import OTHER_UID, World, installed_command

BY_HAND = ("long", "machine")
# These machines are noisy: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("noisy", deadline=None)
hypothesis.settings.load_profile("noisy")

LIMIT_SECONDS = 120
LONG_LIMIT_SECONDS = 900


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(tool, ...): skipped where one of these commands is missing, except in CI")
    config.addinivalue_line("markers", "limit(seconds): the test's own time limit")
    # A shell without job control starts what it puts into the background with these ignored, and so would all we start be.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr:
        return
    late = [item for item in items if any(item.get_closest_marker(name) for name in BY_HAND)]
    if late:
        config.hook.pytest_deselected(items=late)
        items[:] = [item for item in items if item not in late]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for tool in marker.args:
            if find_tool(tool) is None:
                pytest.skip(f"{tool} is not installed")
    if item.get_closest_marker("gpu") and (reason := missing_gpu()):
        pytest.skip(reason)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1", "yes")


def forbid_skip(report: Any) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"{report.nodeid}: must not be skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and in_ci() and not hasattr(report, "wasxfail") and not item.get_closest_marker("gpu"):
        forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    if report.skipped and in_ci() and not collector.get_closest_marker("gpu"):
        forbid_skip(report)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests have counted ("256 of 256 equal"), one line for all variants of a test, so that a run's record says it."""
    sums: dict[str, list[int]] = {}
    told = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            if report.when != "call" or "counted" not in (properties := dict(report.user_properties)):
                continue
            value, name = str(properties["counted"]), report.nodeid.partition("[")[0]
            if numbers := re.fullmatch(r"(\d+) of (\d+) equal", value):
                so_far = sums.setdefault(name, [0, 0])
                so_far[0] += int(numbers[1])
                so_far[1] += int(numbers[2])
            else:
                told.append(f"{value:>24}  {report.nodeid}")
    lines = [f"{f'{equal} of {all_} equal':>24}  {name}" for name, (equal, all_) in sorted(sums.items())] + told
    if lines:
        terminalreporter.section("counted")
        terminalreporter.write_line("\n".join(lines))


class OverTime(Exception):
    """A test took longer than its limit."""


@pytest.fixture(autouse=True)
def _limit(request: pytest.FixtureRequest) -> Iterator[None]:
    """Raise OverTime in a test that hangs; 60 s later print every thread's stack and give the whole run up."""
    marker = request.node.get_closest_marker("limit")
    ordinary = LONG_LIMIT_SECONDS if request.node.get_closest_marker("long") else LIMIT_SECONDS
    seconds = marker.args[0] if marker else ordinary

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise OverTime(f"not over after {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + 60, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    """Make worlds, `make_world("4x24G", GPURUN_X="y")`; all of them are closed after the test, whatever happens."""
    worlds: list[World] = []

    def make(spec: str | None = "2x24G", **variables: str) -> World:
        worlds.append(World(spec, **variables))
        return worlds[-1]

    yield make
    failures = []
    for world in worlds:
        try:
            world.close()
        except (AssertionError, OverTime) as failure:
            failures.append(str(failure))
    assert not failures, "; ".join(failures)


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world of two simulated 24 GB GPUs."""
    return make_world()


# Slurm


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    """A Slurm of two machines with four GPUs each, for all tests of a worker."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The same, without jobs before and after a test."""
    yield whole_cluster
    whole_cluster.empty()


@pytest.fixture
def on_slurm(cluster: Cluster, make_world: Callable[..., World]) -> World:
    """A world whose gpurun finds the cluster."""
    return make_world(None, **cluster.env)


# Another user


ROOT = Path(__file__).parents[1]


def may_run(command: str) -> bool:
    """Whether the other uid can start this very gpurun: a checkout below /root it cannot."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [command, "--version"],
            user=OTHER_UID, group=OTHER_UID, extra_groups=[], capture_output=True, cwd="/", timeout=20,
        )  # fmt: skip
        return done.returncode == 0
    return False


@pytest.fixture(scope="session")
def everybodys_command() -> Iterator[str]:
    """A gpurun that any uid may run: the one under test, or the checkout installed where everybody may read."""
    if os.geteuid() != 0:
        pytest.skip("only root may run something as another user")
    own = installed_command()
    if may_run(own):
        yield own
        return
    python = next((path for path in ("/usr/bin/python3", "/usr/local/bin/python3") if os.access(path, os.X_OK)), None)
    if python is None:
        pytest.skip("no python that another user may run")
    folder = Path(tempfile.mkdtemp(prefix="gpurun-everybody-"))
    folder.chmod(0o755)
    try:
        subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=120)
        subprocess.run(
            [sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q", ROOT],
            check=True, timeout=300,
        )  # fmt: skip
        command = str(folder / "bin/gpurun")
        assert may_run(command), f"uid {OTHER_UID} cannot run {command}"
        yield command
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every uid may enter (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp(prefix="gr-open-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
