"""Jobs that compute on a GPU that they were not granted: what is shown, who is told, and that nothing is granted there."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from screens import expect
from standin import GIB, Gpu
from terminal import Terminal
from truth import Machine
from waiting import wait_until
from world import World

MakeMachine = Callable[..., Machine]
A100 = Gpu(name="NVIDIA A100-SXM4-80GB", total=80 * GIB)

# What CUDA does: it takes the first GPU that the variable lists, the first of all without it.
COMPUTE = """
import os, sys, time
index = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
with open(f"{sys.argv[1]}/{index}/{os.getpid()}", "w") as file:
    file.write(str(int(29.3 * 2**30)))
time.sleep(1000)
"""


@pytest.fixture
def machine(tmp_path: Path, make_world: Callable[..., World]) -> Machine:
    return Machine(tmp_path, make_world, A100, A100)


def compute(machine: Machine) -> list[str]:
    return [sys.executable, "-c", COMPUTE, str(machine.box.folder / "alloc")]


def await_stray(machine: Machine, job_id: int) -> None:
    """Wait until a job is seen to compute on GPU 0, which it was not granted."""
    wait_until(lambda: job_id in machine.gpu(0)["jobs"], f"job {job_id} to be seen on GPU 0", 15)
    assert [share["index"] for share in machine.world.job(job_id)["devices"]] != [0]


def test_a_job_that_computes_on_another_gpu_is_named_wherever_its_gpus_are(machine: Machine) -> None:
    """Situation 35, and what whoever waits for a whole GPU is told."""
    train = machine.box.folder.parent / "train.sh"
    train.write_text(shlex.join(["exec", *compute(machine)]))
    owner = Terminal(machine.world, [machine.world.command, "-i", "0", "-m", "10G", "--", "sleep", "1000"], columns=120)
    wait_until(lambda: machine.world.state(1) == "running", "the owner of GPU 0 to run", 15)
    words = [machine.world.command, "-i", "1", "env", "CUDA_VISIBLE_DEVICES=0", "sh", "train.sh"]
    stray = Terminal(machine.world, words, columns=120, cwd=train.parent)
    stray.await_text("does it set CUDA_VISIBLE_DEVICES?")
    owner.await_text("it was granted GPU 1")
    await_stray(machine, 2)
    gpu = machine.gpu(0)
    assert (gpu["state"], gpu["jobs"], gpu["foreign"]) == ("used", [1, 2], [])
    assert machine.job_of(stray.child)["why"]["rule"] == "astray"
    waiting = machine.start("true")
    machine.why(waiting, "busy")
    told = {word: machine.text(*word.split()) for word in ("gpus", "ls", "why 2", "why 3")}
    screen = "".join(f"$ gpurun {word}\n{text}\n" for word, text in told.items())
    expect("astray", f"{screen}$ # on the terminal of job 1:\n{owner.text()}\n$ # on that of job 2:\n{stray.text()}\n")
    assert machine.world.run("-n", "true").returncode == 124


def test_it_is_told_once_and_gone_with_its_cause(machine: Machine) -> None:
    terminal = Terminal(machine.world, [machine.world.command, "-i", "1", "--", "sleep", "1000"], columns=120)
    wait_until(lambda: machine.world.state(1) == "running", "the job to run", 15)
    for _ in ("with the same arbiter", "with its successor"):
        machine.box.allocate(0, terminal.child.pid, GIB)
        await_stray(machine, 1)
        assert machine.gpu(0)["state"] == "used"
        machine.box.release(0, terminal.child.pid)
        wait_until(lambda: machine.gpu(0)["state"] == "free", "GPU 0 to be free again", 15)
        machine.restart_arbiter()
    machine.box.allocate(0, terminal.child.pid, GIB)
    await_stray(machine, 1)
    assert terminal.text().count("computes on GPU 0") == 1
    machine.end(terminal.child.pid)
    wait_until(lambda: machine.world.state(1) == "ended", "the job to end", 15)
    assert machine.world.rows("SELECT * FROM setting WHERE name LIKE 'told-astray %'") == []


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (["env", "-i"], "it was started without CUDA_VISIBLE_DEVICES"),
        (["env", "-u", "CUDA_VISIBLE_DEVICES"], "it was started without CUDA_VISIBLE_DEVICES"),
        (["bash", "-c", '. "$0"; exec "$@"', "RC"], "it sets CUDA_VISIBLE_DEVICES itself"),
    ],
)  # fmt: skip
def test_why_it_does_is_told_as_far_as_it_can_be_seen(machine: Machine, before: list[str], cause: str) -> None:
    rc = machine.box.folder / "rc"
    rc.write_text("export CUDA_VISIBLE_DEVICES=0\n")
    before = [str(rc) if word == "RC" else word for word in before]
    job = machine.run_job("-i", "1", *before, *compute(machine))
    await_stray(machine, 1)
    assert machine.job_of(job)["why"]["text"] == f"29.3G on GPU 0, but was granted GPU 1 ({cause})"


@pytest.mark.needs("sudo")
def test_sudo_gets_its_hint(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may use sudo without a password")
    terminal = Terminal(machine.world, [machine.world.command, "-i", "1", "sudo", *compute(machine)], columns=200)
    keeps = "sudo --preserve-env=CUDA_VISIBLE_DEVICES,CUDA_DEVICE_ORDER"
    terminal.await_text(f"it was granted GPU 1: sudo drops CUDA_VISIBLE_DEVICES: {keeps} keeps it")
    assert f"(sudo drops CUDA_VISIBLE_DEVICES; {keeps} keeps it)" in machine.gpus_text()
    assert "(sudo drops CUDA_VISIBLE_DEVICES)" in machine.text("ls")
    assert f"{keeps} keeps it" in machine.text("why", "1")
    assert machine.world.run("kill", "1").returncode == 0
    wait_until(lambda: machine.gpu(0)["state"] == "free", "GPU 0 to be free again", 15)
    heeded = machine.start("-i", "1", *keeps.split(), *compute(machine))
    wait_until(lambda: machine.gpu(1)["free_bytes"] < 60 * GIB, "it to compute on the GPU that it was granted", 15)
    assert machine.gpu(0)["state"] == "free"
    assert machine.job_of(heeded)["why"] is None


def test_a_job_inside_another_may_use_what_that_was_granted_and_is_named_if_it_was_not_itself(machine: Machine) -> None:
    """Within a grant of two GPUs: the outer queue sees nothing amiss, the inner one does."""
    inner = [machine.world.command, "-i", "1", "env", "CUDA_VISIBLE_DEVICES=0", *compute(machine)]
    outer = machine.run_job("-g", "2", *inner)
    wait_until(lambda: len(machine.jobs()) == 2, "the job inside", 15)
    machine.until_running(outer)
    wait_until(lambda: machine.gpu(0)["free_bytes"] < 60 * GIB, "it to compute", 15)
    whys = {job["id"]: job["why"] for job in machine.jobs()}
    assert whys[1] is None
    assert json.loads(machine.text("gpus", "--json"))["gpus"][0]["jobs"] == [1]


def test_what_it_leaves_behind_there_is_named_too(machine: Machine) -> None:
    words = ["sh", "-c", 'CUDA_VISIBLE_DEVICES=0 setsid "$@" & sleep 1000; exit', "sh"]
    job = machine.run_job("-i", "1", *words, *compute(machine))
    await_stray(machine, 1)
    job.kill()
    wait_until(lambda: machine.world.state(1) == "ended", "the job to end", 15)
    gpu = machine.gpu(0)
    assert (gpu["state"], gpu["jobs"]) == ("used", [1])
    assert ", left behind) computes on GPU 0, but was granted GPU 1" in machine.text("--dry-run", "-i", "0", "true")


def test_a_job_without_gpus_that_computes_is_named(machine: Machine) -> None:
    job = machine.run_job("-g", "0", "env", "CUDA_VISIBLE_DEVICES=0", *compute(machine))
    await_stray(machine, 1)
    assert machine.gpu(0)["foreign"] == []
    assert "29.3G on GPU 0, but was granted none" in machine.job_of(job)["why"]["text"]


def test_what_draws_elsewhere_is_not_said_to_set_the_variable(machine: Machine) -> None:
    """A simulator that renders: EGL heeds no CUDA_VISIBLE_DEVICES."""
    job = machine.run_job("-i", "1", "sleep", "1000")
    machine.box.allocate(0, job.pid, GIB, "graphics")
    await_stray(machine, 1)
    assert machine.job_of(job)["why"]["text"].endswith("(it draws, which CUDA_VISIBLE_DEVICES does not govern)")


def test_only_a_terminal_is_told(machine: Machine) -> None:
    job = machine.run_job("-i", "1", "env", "CUDA_VISIBLE_DEVICES=0", *compute(machine))
    await_stray(machine, 1)
    assert job.stderr is not None
    os.set_blocking(job.stderr.fileno(), False)
    with pytest.raises(BlockingIOError):  # nothing to read
        os.read(job.stderr.fileno(), 1)
