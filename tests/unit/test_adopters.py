"""Who came since is found among many children, whoever has gone and whatever pid was taken again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuwrap.host import adopters
from gpuwrap.host.adopters import Adopters
from gpuwrap.host.processes import Stat

ADOPTER = 1

# A child comes under one of few pids, so that they are taken again, or one goes.
steps = st.lists(st.one_of(st.integers(2, 14), st.integers(-30, -1), st.just("look")), max_size=60)


@settings(max_examples=400, deadline=None)
@given(steps, st.sets(st.integers(2, 14), max_size=4))
def test_as_if_all_were_read_each_time(moves: list[int | str], others: set[int]) -> None:
    there: dict[int, int] = {}
    reads: list[int] = []

    def read_stat(pid: int) -> Stat | None:
        reads.append(pid)
        return Stat(pid, "S", ADOPTER, pid, pid, 0, 0, there[pid], 0) if pid in there else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adopters, "children", lambda _pid: list(there))
        patch.setattr(adopters, "read_stat", read_stat)
        remembered = Adopters()
        for now, move in enumerate([*moves, "look"]):
            if move == "look":
                since = max(0, now - 5)
                found = remembered.young(ADOPTER, since, others)
                wanted = {pid: began for pid, began in there.items() if began >= since and pid not in others}
                assert {stat.pid: stat.start_ticks for stat in found} == wanted
            elif isinstance(move, int) and move > 0:
                there.setdefault(move, now)
            elif isinstance(move, int) and there:
                del there[list(there)[move % len(there)]]


def test_of_many_that_stay_next_to_none_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def read_stat(pid: int) -> Stat:
        reads.append(pid)
        return Stat(pid, "S", ADOPTER, pid, pid, 0, 0, pid, 0)

    there = list(range(100, 300))
    monkeypatch.setattr(adopters, "children", lambda _pid: there)
    monkeypatch.setattr(adopters, "read_stat", read_stat)
    remembered = Adopters()
    remembered.young(ADOPTER, 1000, ())
    reads.clear()
    there.remove(150)
    there.append(2000)
    assert [stat.pid for stat in remembered.young(ADOPTER, 1000, ())] == [2000]
    assert sorted(reads) == [299, 2000]


def test_the_kernel_appends_those_it_adds() -> None:
    """What the order stands on, asked of this kernel."""
    path = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = path.read_text().split()
    pids = []
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "30"])
        pids.append(pid)
    try:
        assert path.read_text().split() == [*before, *map(str, pids)]
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


PASSED_ON = """
import ctypes, os, sys
from gpuwrap.host import adopters, processes
from gpuwrap.model import Identity
if sys.argv[1] == "adopts":
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
reading, writing = os.pipe()
parent = os.fork()
if parent == 0:
    summoner = os.fork()
    if summoner == 0:
        seen = list(processes.ancestors(os.getpid()))
        if os.fork() == 0:
            if os.fork():
                os._exit(0)
            found = adopters.Adopters()
            found.note_birth(seen)
            while os.getppid() not in (seen[2].pid, 1):
                pass
            ids = [Identity("", 0, stat.pid, stat.start_ticks) for stat in seen]
            left = found.among(ids)
            os.write(writing, repr([stat.pid in left for stat in seen[:3]]).encode())
            os._exit(0)
        os.wait()
    os.wait()
    os._exit(0)
os.wait()
os.close(writing)
print(os.read(reading, 100).decode())
"""


@pytest.mark.parametrize(("form", "told"), [("adopts", [True, False, True]), ("not", [True, False, False])])
def test_who_passed_us_on_adopts_nobody(form: str, told: list[bool]) -> None:
    """The summoner, its parent and its grandparent, of which one may adopt."""
    done = subprocess.run([sys.executable, "-c", PASSED_ON, form], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == str(told)
