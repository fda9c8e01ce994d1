"""Which of two arbiters is better off, when one leaves to the other, and how a folder that cannot be written is told."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpuwrap.arbiter import birth
from gpuwrap.arbiter.birth import Birth
from gpuwrap.host import inherited
from gpuwrap.host.inherited import LIMITS, WELL, standing
from gpuwrap.state import trial
from gpuwrap.state.paths import Folder
from gpuwrap.state.trial import why_unwritable


def lacking(name: str, value: float) -> tuple[float, ...]:
    place = list(LIMITS).index(name)
    return (*WELL[:place], value, *WELL[place + 1 :])


def test_the_weightier_lack_decides_and_no_two_leave_to_each_other() -> None:
    less_room, fewer_files = lacking("Max file size", 10.0), lacking("Max open files", 256.0)
    assert less_room < fewer_files < WELL
    both = [less_room, fewer_files, WELL, lacking("Max file size", 11.0), (*WELL[:-1], -15)]
    for one in both:
        for other in both:
            assert (one > other) + (other > one) + (one == other) == 1


def test_what_is_more_than_enough_is_nothing_better(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = dict.fromkeys(LIMITS, inherited.UNLIMITED)
    monkeypatch.setattr(inherited, "hard_limits", lambda _pid: limits)
    mine = standing(os.getpid())
    limits["Max open files"] = 524288.0
    assert standing(os.getpid()) == mine
    limits["Max open files"] = 1024.0
    assert standing(os.getpid()) < mine


@pytest.mark.parametrize(
    ("better", "paused", "writes", "leaves"),
    [(True, False, True, True), (False, False, True, False), (True, True, True, False), (True, True, False, True)],
)
def test_an_arbiter_leaves_to_a_better_one_but_not_while_somebody_is_paused_and_it_can_write(
    monkeypatch: pytest.MonkeyPatch, better: bool, paused: bool, writes: bool, leaves: bool
) -> None:
    said: list[str] = []
    bell = SimpleNamespace(send_now=lambda _connection, kind: said.append(kind))
    sampling = SimpleNamespace(somebody_is_paused=lambda: paused)
    monkeypatch.setattr(birth, "standing", lambda _pid: lacking("Max file size", 10.0))
    monkeypatch.setattr(birth, "is_better_off", lambda _pid, than: better)
    folder = SimpleNamespace(path="/tmp")
    turn = SimpleNamespace(was_lost=not writes)
    arbiter = SimpleNamespace(turn=turn, bell=bell, sampling=sampling, folder=folder, stop_at_once=lambda: said.append("stop"))
    assert Birth(cast(Any, arbiter)).leaves_to(cast(Any, SimpleNamespace(pid=os.getpid()))) is leaves
    assert said == (["stop", "old"] if leaves else [])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("step", ["open", "write", "fsync"])
def test_a_folder_that_cannot_be_written_is_told_whatever_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, number: int
) -> None:
    folder = Folder(str(tmp_path), os.open(tmp_path, os.O_RDONLY))

    def refuse(*_arguments: object, **_named: object) -> None:
        raise OSError(number, os.strerror(number))

    assert why_unwritable(folder) is None
    with monkeypatch.context() as broken:
        broken.setattr(trial.os, step, refuse)
        assert why_unwritable(folder) == os.strerror(number).lower()
    assert list(tmp_path.iterdir()) == []
    os.close(folder.fd)
