"""What the kernel tells of who it ended for want of memory, from files as it writes them."""

from pathlib import Path

import pytest
from views import running

from gpuwrap.arbiter.jobs.scarcity import Scarcity
from gpuwrap.host import hostmemory
from gpuwrap.model import Result, ResultKind

KILLED = Result(ResultKind.SIGNAL, signal=9)
EVENTS = "low 0\nhigh 0\nmax 12\noom 1\noom_kill {}\noom_group_kill 0\n"


@pytest.fixture
def group(tmp_path: Path) -> Path:
    folder = tmp_path / "app.slice" / "run-u7.service"
    folder.mkdir(parents=True)
    (folder / "memory.events").write_text(EVENTS.format(2))
    (folder / "memory.max").write_text("max\n")
    return folder


def test_a_job_that_was_killed_when_memory_ran_out_says_so_and_which_limit_it_was(group: Path) -> None:
    scarcity = Scarcity(lambda _pid: str(group))
    scarcity.watch(running(1))
    (group / "memory.events").write_text(EVENTS.format(3))
    (group / "memory.max").write_text("157286400\n")
    told = Result(ResultKind.SIGNAL, signal=9, text="out of memory: the limit of run-u7.service is 150M")
    assert scarcity.judge(running(1), KILLED) == told
    assert scarcity.judge(running(1), KILLED) == told, "the first could not be written down"
    scarcity.forget(running(1))
    assert scarcity.judge(running(1), KILLED) == KILLED


def test_the_limit_may_be_of_a_group_above_or_the_machine_s(group: Path) -> None:
    (group.parent / "memory.max").write_text("1073741824\n")
    assert hostmemory.limit_of(str(group)) == (2**30, "app.slice")
    (group.parent / "memory.max").unlink()
    assert hostmemory.limit_of(str(group)) is None


@pytest.mark.parametrize("result", [Result(ResultKind.SIGNAL, signal=15), Result(ResultKind.SIGNAL, signal=9, text="killed")])
def test_who_was_ended_otherwise_was_not_ended_by_that(group: Path, result: Result) -> None:
    scarcity = Scarcity(lambda _pid: str(group))
    scarcity.watch(running(1))
    (group / "memory.events").write_text(EVENTS.format(3))
    assert scarcity.judge(running(1), result) == result


def test_a_kill_while_the_count_stays_is_a_kill(group: Path) -> None:
    scarcity = Scarcity(lambda _pid: str(group))
    scarcity.watch(running(1))
    assert scarcity.judge(running(1), KILLED) == KILLED


def test_where_the_kernel_does_not_tell_nothing_is_said(group: Path) -> None:
    (group / "memory.events").unlink()
    scarcity = Scarcity(lambda _pid: str(group))
    scarcity.watch(running(1))
    (group / "memory.events").write_text(EVENTS.format(1))
    assert scarcity.judge(running(1), KILLED) == KILLED
