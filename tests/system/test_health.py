"""Sick GPUs get no new job, with the reason, and come back by themselves; the rest go on, and so do running jobs."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import (
    ERROR_UNKNOWN,
    GIB,
    GPU_IS_LOST,
    LIB_RM_VERSION_MISMATCH,
    MIB,
    NO_PERMISSION,
    NOT_SUPPORTED,
    PROHIBITED,
    RESET_REQUIRED,
    TIMEOUT,
    Gpu,
)
from truth import Machine
from waiting import wait_until
from world import World

MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(tmp_path: Path, make_world: Callable[..., World]) -> MakeMachine:
    return lambda *gpus, settings="": Machine(tmp_path, make_world, *gpus, settings=settings)


def unhealthy(machine: Machine, index: int = 0) -> str | None:
    """The line of `gpus` that says so."""
    if machine.gpu(index)["state"] != "unhealthy":
        return None
    return next((line for line in machine.gpus_text().splitlines() if "unhealthy" in line), "")


@pytest.mark.parametrize(
    ("make_ill", "make_well", "reason"),
    [
        (lambda box: box.fail("*", GPU_IS_LOST, 0), lambda box: box.mend(), "lost"),
        (lambda box: box.fail("nvmlDeviceGetMemoryInfo", RESET_REQUIRED, 0), lambda box: box.mend(), "needs a reset"),
        (lambda box: box.fail("*", LIB_RM_VERSION_MISMATCH, 0), lambda box: box.mend(), "driver was upgraded"),
        (lambda box: box.hang("nvmlDeviceGetMemoryInfo", 30, 0), lambda box: box.mend(), "does not answer"),
    ],
    ids=["lost", "reset required", "driver upgraded", "hangs"],
)
def test_a_sick_gpu_gets_no_job_and_comes_back(
    make_machine: MakeMachine, make_ill: Callable, make_well: Callable, reason: str
) -> None:
    machine = make_machine(Gpu(), Gpu())
    first = machine.run_job("-i", "0", "sleep", "1000")
    machine.box.allocate(0, first.pid, 5 * GIB)
    make_ill(machine.box)
    wait_until(lambda: unhealthy(machine), "GPU 0 to be seen as sick", 15)
    assert reason in (unhealthy(machine) or "")
    assert machine.world.run("--", "true").returncode == 0  # the other goes on
    pinned = machine.start("-i", "0", "-m", "1G", "--", "true")
    assert reason in machine.why(pinned, "unhealthy")
    assert machine.job_of(first)["state"] == "running"
    make_well(machine.box)
    machine.end(first.pid)
    assert pinned.wait(30) == 0


@pytest.mark.parametrize(("fact", "reason"), [("retired_pending", "wait for a reset"), ("remap_failure", "must be replaced")])
def test_memory_trouble_keeps_new_jobs_away(make_machine: MakeMachine, fact: str, reason: str) -> None:
    machine = make_machine(Gpu(facts={fact: 1}))
    waiting = machine.start("--", "true")
    assert reason in machine.why(waiting, "unhealthy")
    assert machine.gpu()["free_bytes"]
    machine.box.set(0, facts={})
    assert waiting.wait(30) == 0


def test_an_xid_that_matters_keeps_new_jobs_away_and_others_do_not(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(), Gpu())
    runs = machine.run_job("-i", "1", "sleep", "1000")
    wait_until(lambda: machine.gpu()["state"] == "free", "a look")
    machine.box.send_xid(0, 31)  # a program's own mistake
    machine.box.send_xid(1, 79)
    waiting = machine.start("-i", "1", "-m", "1G", "--", "true")
    assert "Xid 79" in machine.why(waiting, "unhealthy")
    assert machine.world.run("-i", "0", "--", "true").returncode == 0
    assert machine.job_of(runs)["state"] == "running"
    assert "Xid 79" in (unhealthy(machine, 1) or "")


def test_a_driver_that_hangs_for_good_leaves_the_verbs_alone(make_machine: MakeMachine) -> None:
    machine = make_machine()
    runs = machine.run_job("sleep", "1000")
    machine.box.hang("*", 30)
    waiting = machine.start("--", "true")
    text = machine.why(waiting, within=20)
    assert "does not answer" in text or "sleep" in text
    assert machine.world.run("kill", "1", timeout=5).returncode == 0
    assert runs.wait(30) != 0
    machine.box.mend()
    assert waiting.wait(30) == 0


def test_a_driver_that_was_never_there_is_asked_again(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.box.fail("nvmlInit", LIB_RM_VERSION_MISMATCH)
    done = machine.world.run("--", "true")
    assert done.returncode == 125
    assert "driver was upgraded under us" in done.stderr


CALLED_AT_EACH_LOOK = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetComputeMode",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetUtilizationRates",
    "nvmlEventSetWait",
    "*",
)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, TIMEOUT, GPU_IS_LOST, ERROR_UNKNOWN])
def test_a_stranger_is_never_taken_for_nobody_whatever_fails(make_machine: MakeMachine, code: int) -> None:
    """A small one too, whose memory alone would pass for the driver's own."""
    machine = make_machine()
    machine.run_job("-g", "0", "sleep", "1000")
    pid = machine.stranger(300 * MIB)
    wait_until(lambda: machine.gpu()["foreign"], "the stranger to be seen", 10)
    arbiter = machine.world.arbiter_pid()
    for function in CALLED_AT_EACH_LOOK:
        machine.box.fail(function, code)
        done = machine.world.run("-n", "--", "true")
        assert done.returncode in (124, 125), function
        assert done.returncode == 124 or "driver" in done.stderr or "GPU" in done.stderr, (function, done.stderr)
        machine.box.mend()
    assert machine.world.arbiter_pid() == arbiter
    machine.end(pid)
    assert machine.start("--", "true").wait(30) == 0


def test_a_stranger_on_a_gpu_whose_processes_cannot_be_listed_this_time_is_waited_for(make_machine: MakeMachine) -> None:
    """From the first look on: nobody knows whether somebody is there."""
    machine = make_machine()
    pid = machine.stranger(300 * MIB)
    machine.box.fail("nvmlDeviceGetComputeRunningProcesses", ERROR_UNKNOWN)
    whole = machine.start("--", "true")
    shared = machine.start("-m", "23G", "--", "true")
    machine.why(whole, "unhealthy")
    machine.why(shared, "unhealthy")
    machine.box.mend()
    assert f"pid {pid}" in machine.why(whole, "foreign")
    machine.end(pid)
    assert (whole.wait(30), shared.wait(15)) == (0, 0)


def test_a_stranger_that_is_stopped_is_told_as_that(make_machine: MakeMachine) -> None:
    machine = make_machine()
    machine.run_job("-g", "0", "sleep", "1000")
    pid = machine.stranger(3 * GIB)
    waiting = machine.start("--", "true")
    assert "stopped" not in machine.why(waiting, "foreign")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "holds 3G, stopped" in machine.why(waiting, "foreign"), "it to be told as stopped", 15)
    assert f"(pid {pid}, 3G, stopped), not in the queue" in machine.gpus_text()
    assert [each["still"] for each in machine.gpu()["foreign"]] == ["stopped"]
    number = next(job["id"] for job in machine.world.jobs() if job["state"] == "waiting")
    assert f"or let it go on (kill -CONT {pid})" in machine.world.run("why", str(number)).stdout
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: [each["still"] for each in machine.gpu()["foreign"]] == [None], "it to go on", 15)
    machine.end(pid)
    assert waiting.wait(30) == 0


def test_a_gpu_that_may_not_compute_is_not_called_free(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(compute_mode=PROHIBITED), Gpu())
    assert [machine.gpu(index)["state"] for index in (0, 1)] == ["prohibited", "free"]
    text = machine.gpus_text()
    assert "prohibited: its compute mode prohibits computing; root can change it: nvidia-smi -i 0 -c DEFAULT" in text
    machine.box.set(0, compute_mode=0)
    wait_until(lambda: machine.gpu(0)["state"] == "free", "the mode to be seen", 15)


def test_a_compute_mode_that_cannot_be_read_this_time_is_not_the_default(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(compute_mode=PROHIBITED))
    machine.box.fail("nvmlDeviceGetComputeMode", ERROR_UNKNOWN)
    waiting = machine.start("--", "true")
    machine.why(waiting, "unhealthy")
    machine.box.mend()
    assert "prohibits" in machine.why(waiting, "compute-mode")
    machine.box.set(0, compute_mode=0)
    assert waiting.wait(30) == 0


def test_while_the_whole_driver_is_gone_gpus_are_shown_and_jobs_wait_with_the_reason(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(), Gpu())
    runs = machine.run_job("-m", "4G", "sleep", "1000")
    machine.box.fail("nvmlInit", LIB_RM_VERSION_MISMATCH)
    machine.box.forget_sessions()
    wait_until(lambda: unhealthy(machine), "the driver to be seen as gone", 15)
    assert "driver was upgraded under us" in (unhealthy(machine) or "")
    assert machine.gpu()["jobs"] == [1]
    waiting = machine.start("-i", "1", "-g", "1", "--", "true")
    assert "driver was upgraded under us" in machine.why(waiting, "unhealthy")
    assert machine.job_of(runs)["state"] == "running"
