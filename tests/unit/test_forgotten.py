"""Who is found to stand still for nobody, and who is left alone: other worlds' jobs, and those whose owner pressed Ctrl-Z."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from gpuwrap.arbiter.pausing import forgotten
from gpuwrap.host import processes
from gpuwrap.host.freezer import group_name, job_of_group
from gpuwrap.state.paths import Folder

Start = Callable[..., int]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    (tmp_path / "world").mkdir()
    fd = os.open(tmp_path / "world", os.O_RDONLY)
    yield Folder(str(tmp_path / "world"), fd)
    os.close(fd)


@pytest.fixture
def stopped() -> Iterator[Start]:
    """Start a program with some variables, in a session of its own, and stop it."""
    children: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> int:
        child = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], **variables}, start_new_session=True)
        children.append(child)
        os.kill(child.pid, signal.SIGSTOP)
        until_stopped(child.pid)
        return child.pid

    yield start
    for child in children:
        child.kill()
        child.wait()


def until_stopped(pid: int) -> None:
    def is_stopped() -> bool:
        stat = processes.read_stat(pid)
        return stat is not None and stat.state == "T"

    wait_until(is_stopped, "it to stand still", 5)


def found(folder: Folder, sim_root: str | None, known: tuple[int, ...] = ()) -> set[tuple[int, int]]:
    there = forgotten.find(folder, sim_root, lambda _job, _group: False, lambda job, _stat: job in known)
    return {(each.job_id, each.stat.pid) for each in there}


def test_a_stopped_process_of_this_world_is_found_and_goes_on(folder: Folder, stopped: Start) -> None:
    root = folder.path + "/sim"
    pid = stopped(GPURUN_JOB="7", GPURUN_SIM_DIR=root)
    assert (7, pid) in found(folder, root)
    assert (7, pid) not in found(folder, root, known=(7,))
    (each,) = [each for each in forgotten.find(folder, root, lambda *_: False, lambda *_: False) if each.stat.pid == pid]
    assert each.who() == f"(pid {pid}, sleep 600)"
    assert each.is_still()
    each.let_go()
    wait_until(lambda: not each.is_still(), "it to go on", 5)


def test_those_of_other_worlds_are_left_alone(
    folder: Folder, stopped: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, simulated GPUs and real ones, a Slurm step, and who was started by no gpurun at all."""
    base = str(tmp_path)
    monkeypatch.setenv("GPURUN_DIR", base)  # as the arbiter of such a folder has it
    others = [
        stopped(GPURUN_JOB="7", GPURUN_SIM_DIR="/elsewhere/sim"),
        stopped(GPURUN_JOB="7"),
        stopped(GPURUN_JOB="7", GPURUN_DIR="/elsewhere"),
        stopped(GPURUN_JOB="7", GPURUN_DIR=base, SLURM_JOB_ID="12", SLURMD_NODENAME="n1"),
        stopped(GPURUN_DIR=base),
        stopped(GPURUN_JOB="x", GPURUN_DIR=base),
    ]
    ours = stopped(GPURUN_JOB="7", GPURUN_DIR=base)
    real = {pid for _job, pid in found(folder, None)}
    assert (ours in real, real & set(others)) == (True, set())
    assert not {pid for _job, pid in found(folder, folder.path + "/sim")} & {ours, *others}


def test_the_same_folder_spelled_in_another_way_is_this_world(folder: Folder, stopped: Start, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert (3, stopped(GPURUN_JOB="3", GPURUN_DIR=str(tmp_path / "link"))) in {*found(folder, None)}


@pytest.mark.parametrize(("name", "is_let_go"), [("gpurun", True), ("python", False)])
def test_on_a_terminal_only_who_stands_behind_an_awake_stub(folder: Folder, tmp_path: Path, name: str, is_let_go: bool) -> None:
    """A stub would have been stopped by Ctrl-Z, too; a shell without job control or with it proves nothing."""
    root = folder.path + "/sim"
    program = tmp_path / name
    variables = {"GPURUN_JOB": "7", "GPURUN_SIM_DIR": root}
    program.write_text(
        f"import os, time\nprint(os.spawnve(os.P_NOWAIT, '/bin/sleep', ['sleep', '600'], {variables}), flush=True)\n"
        "time.sleep(600)\n"
    )
    stub, terminal = pty.fork()
    if stub == 0:
        os.execv(sys.executable, [sys.executable, str(program)])
    child = 0
    try:
        child = int(os.read(terminal, 100))
        wait_until(lambda: b"GPURUN_JOB=7" in processes.environment(child), "the program to run", 5)
        os.kill(child, signal.SIGSTOP)
        until_stopped(child)
        assert ((7, child) in found(folder, root)) is is_let_go
        os.kill(stub, signal.SIGSTOP)  # as Ctrl-Z stops both
        until_stopped(stub)
        assert (7, child) not in found(folder, root)
    finally:
        for pid in filter(None, (child, stub)):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(stub, 0)
        os.close(terminal)


def test_another_users_process_is_left_alone(folder: Folder, monkeypatch: pytest.MonkeyPatch, stopped: Start) -> None:
    root = folder.path + "/sim"
    pid = stopped(GPURUN_JOB="7", GPURUN_SIM_DIR=root)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert (7, pid) not in found(folder, root)


def test_a_groups_name_says_whose_it_is() -> None:
    assert job_of_group(group_name("fe00.386971", 12), "fe00.386971") == 12
    assert [job_of_group(name, "fe00.1") for name in ("gpurun-fe00.12-1", "gpurun-fe00.1-", "gpurun-fe00.1-x", "gpurun")] == [
        None
    ] * 4


def test_looking_costs_next_to_nothing(folder: Folder) -> None:
    begun = time.process_time()
    found(folder, None)
    everybody = len([name for name in os.listdir("/proc") if name.isdigit()])
    seconds = time.process_time() - begun
    print(f"{everybody} processes: {seconds * 1000:.1f} ms")
    assert seconds < 0.0005 * everybody + 0.05
