"""Memory that nobody has to type: learned needs, and what happens to who uses more than it asked for."""

import contextlib
import os
import pty
import random
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import GIB, MIB, Gpu
from truth import Machine
from waiting import wait_until
from world import World

MakeMachine = Callable[..., Machine]
MakeWorld = Callable[..., World]


@pytest.fixture
def make_machine(tmp_path: Path, make_world: MakeWorld) -> MakeMachine:
    return lambda *gpus, settings="": Machine(tmp_path, make_world, *gpus, settings=settings)


def test_who_uses_more_than_its_m_is_told_once_and_shown(make_machine: MakeMachine) -> None:
    machine = make_machine()
    master, slave = pty.openpty()
    job = machine.run_job("-m", "2G", "sleep", "1000", stderr=slave)
    os.close(slave)
    os.set_blocking(master, False)
    said = b""

    def told() -> bytes:
        nonlocal said
        with contextlib.suppress(BlockingIOError):
            said += os.read(master, 4096)
        return said

    machine.box.allocate(0, job.pid, 3 * GIB)
    wait_until(lambda: b"more than its -m 2G" in told(), "the notice on its terminal", 15)
    assert "uses 3G on GPU 0, more than its -m 2G" in machine.text("ls")
    machine.box.allocate(0, job.pid, 4 * GIB)
    wait_until(lambda: machine.job_of(job)["peak_bytes"] == 4 * GIB, "the peak", 15)
    for _ in ("with the same arbiter", "with its successor"):
        machine.box.allocate(0, job.pid, GIB)
        wait_until(lambda: "more than its" not in machine.text("ls"), "it to use less", 15)
        machine.box.allocate(0, job.pid, 3 * GIB)
        wait_until(lambda: "uses 3G on GPU 0" in machine.text("ls"), "it to use more again", 15)
        machine.restart_arbiter()
    wait_until(lambda: "uses 3G on GPU 0" in machine.text("ls"), "the last arbiter to have seen it", 15)
    assert told().count(b"more than its") == 1
    assert machine.job_of(job)["state"] == "running"
    os.close(master)
    machine.end(job.pid)
    wait_until(lambda: machine.job_of(job)["state"] == "ended", "the job to end")
    assert machine.world.rows("SELECT * FROM setting WHERE name LIKE 'told-over %'") == []


A100 = Gpu(total=80 * GIB, reserved=512 * MIB)


@pytest.mark.parametrize("count", [2, 4])
def test_as_many_jobs_share_a_real_card_as_their_percentage_says(make_machine: MakeMachine, count: int) -> None:
    """80G of which 79.5 can be had, as on every real one: inside a grant, by `set` and where memory is kept free as well."""
    machine = make_machine(A100, settings='keep_free = "1G"\n')
    percent = f"{100 // count}%"
    inner = f'for _ in $(seq {count}); do "$GPURUN" -m {percent} sleep 1000 & done; wait'
    outer = machine.run_job("sh", "-c", inner, extra={"GPURUN": machine.world.command})

    def states(outside: bool) -> list[str]:
        return [job["state"] for job in machine.jobs() if (job["pid"] == outer.pid) is outside]

    wait_until(lambda: states(False) == ["running"] * count, f"{count} jobs of {percent} inside another", 20)
    assert machine.world.run("kill", "-9", "--all", "-y").returncode == 0
    wait_until(lambda: not machine.jobs(), "all to end")
    jobs = [machine.run_job("-m", percent, "sleep", "1000") for _ in range(count - 1)]
    for job in jobs:
        machine.box.allocate(0, job.pid, machine.job_of(job)["devices"][0]["bytes"])
    late = machine.start("sleep", "1001")
    machine.why(late, "busy")
    assert "would start now on GPU 0" in machine.text("--dry-run", "-p", "1", "-m", percent, "true")
    assert machine.world.run("set", "-m", percent, str(machine.job_of(late)["id"])).returncode == 0
    machine.until_running(late)
    assert machine.job_of(late)["devices"][0]["bytes"] == int((80 * GIB - 512 * MIB - GIB) / count)
    assert "left beside" in machine.why(machine.start("-m", percent, "sleep", "1002"), "memory")


def test_a_setting_evicts_who_uses_more_and_may_be_restarted(make_machine: MakeMachine) -> None:
    machine = make_machine(settings='over_memory = "evict"\n')
    stays = machine.run_job("-m", "2G", "sleep", "1000")
    job = machine.run_job("-m", "2G", "-r", "sleep", "1001")
    machine.box.allocate(0, stays.pid, 3 * GIB)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    program = int(wait_until(children.read_text, "the program below the stub").split()[0])
    machine.box.allocate(0, program, 3 * GIB)

    def again() -> bool:
        seen = machine.job_of(job)
        return seen["attempt"] == 2 and seen["state"] == "running" and seen["memory_bytes"] > 4 * GIB - 1

    wait_until(again, "it to run again with what it was seen to need", 30)
    assert machine.job_of(stays)["state"] == "running"


TRAIN = """
import os, sys, time
need = int(int(open(sys.argv[1]).read()) * float(os.environ.get("NOISE", "1")))
root = os.environ["GPURUN_SIM_DIR"] + "/" + os.environ["CUDA_VISIBLE_DEVICES"]
mine = f"{root}/{os.getpid()}"
def held():
    return sum(int(open(f"{root}/{name}").read() or 0) for name in os.listdir(root) if name.isdigit())
def take(size):
    with open(mine + ".new", "w") as file:
        file.write(str(size))
    os.rename(mine + ".new", mine)
size = 0
while size < need:
    size = min(need, size + int(os.environ.get("STEP", 2**30)))
    if size > int(os.environ["GPURUN_GRANTED"]):
        sys.exit("out of memory")  # at once: nobody has seen what it held
    take(size)
    time.sleep(0.05)
until = time.monotonic() + float(sys.argv[2])
while time.monotonic() < until:
    time.sleep(0.05)
if os.environ.get("GATE"):
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.05)
"""


def test_need_is_learned_shared_by_and_learned_anew(make_world: MakeWorld, tmp_path: Path) -> None:
    """A simulated card; out of memory is what exceeds the promise, as where all of a card is promised."""
    world = make_world("24G")
    (tmp_path / "train.py").write_text(TRAIN)
    need, gate = tmp_path / "need", tmp_path / "gate"
    noise = random.Random(5)

    def words(seed: int, seconds: str = "2.5") -> list[str]:
        return ["-m", "auto", "--", sys.executable, "train.py", str(need), seconds, "--seed", str(seed)]

    need.write_text(str(5 * GIB))
    first = world.start(*words(0), cwd=tmp_path)
    wait_until(lambda: world.state(1) == "running", "the first to run", 15)
    assert world.job(1)["devices"][0]["bytes"] == 24 * GIB  # unknown: whole
    assert first.wait(30) == 0
    nine = []
    for seed in range(1, 10):  # each needs a little more or less than the one that was seen
        extra = {"GATE": str(gate), "NOISE": str(noise.uniform(0.9, 1.1))}
        nine.append(world.start(*words(seed), cwd=tmp_path, extra=extra))
        if seed == 3:
            wait_until(lambda: [job["state"] for job in world.jobs(all=False)] == ["running"] * 3, "three at once", 20)
            assert {job["memory_bytes"] for job in world.jobs(all=False)} == {int(5 * GIB * 1.2) + 512 * 2**20}
    wait_until(lambda: world.state(10) == "waiting", "the last of ten to wait")
    assert "6.5G" in world.run("why", "5").stdout
    gate.touch()
    assert [each.wait(60) for each in nine] == [0] * 9
    need.write_text(str(10 * GIB))
    assert world.run(*words(10), cwd=tmp_path).returncode == 1  # its need has doubled
    assert world.run(*words(11), cwd=tmp_path).returncode == 0
    with (tmp_path / "train.py").open("a") as file:
        file.write("# " + "longer " * 400)
    last = world.start(*words(12), cwd=tmp_path)
    wait_until(lambda: world.state(13) == "running", "the last to run", 15)
    assert world.job(13)["memory_bytes"] is None  # much changed: unknown again
    assert last.wait(30) == 0


@pytest.mark.parametrize("step", [GIB, 100 * GIB], ids=["step by step", "one allocation"])
def test_a_need_that_has_doubled_is_met_after_one_failed_run(make_world: MakeWorld, tmp_path: Path, step: int) -> None:
    """And one that has not is forgotten with the next success: what failed may have had another reason."""
    world = make_world("24G")
    (tmp_path / "train.py").write_text(TRAIN)
    need = tmp_path / "need"

    def status(size: int) -> int:
        need.write_text(str(size))
        words = ["-m", "auto", "--", sys.executable, "train.py", str(need), "2.5" if size else "0"]
        return int(world.run(*words, cwd=tmp_path, extra={"STEP": str(step)}).returncode)

    assert [status(5 * GIB), status(10 * GIB), status(10 * GIB)] == [0, 1, 0]
    assert world.job(2)["memory_bytes"] == int(5 * GIB * 1.2) + 512 * 2**20
    assert status(24 * GIB) == 1  # a mistake, say
    assert [status(10 * GIB), status(10 * GIB)] == [0, 0]
    assert world.job(5)["memory_bytes"] is None  # twice as much is more than there is
    assert world.job(6)["memory_bytes"] == int(10 * GIB * 1.2) + 512 * 2**20


def test_auto_asks_for_the_whole_gpu_where_more_is_needed_than_there_is(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("8G")
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "need").write_text(str(7 * GIB))
    for _ in range(2):
        done = world.run("-m", "auto", "--", sys.executable, "train.py", str(tmp_path / "need"), "2.5", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert [job["memory_bytes"] for job in world.jobs()] == [None, None]


def test_auto_asks_for_the_whole_of_gpus_that_are_too_small(make_world: MakeWorld, tmp_path: Path) -> None:
    """What was learned on the large card is more than the others have: one alone of them, or both, are not refused."""
    world = make_world("1x80G+1x24G")
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "need").write_text(str(40 * GIB))
    words = ["--", sys.executable, "train.py", str(tmp_path / "need"), "2.5"]
    assert world.run("-m", "auto", "-i", "0", *words, cwd=tmp_path, extra={"STEP": str(40 * GIB)}).returncode == 0
    (tmp_path / "need").write_text("0")
    for options in (["-i", "1"], ["--not", "0"], ["-g", "2"], ["-g", "all"]):
        done = world.run("-m", "auto", *options, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert world.jobs()[-1]["memory_bytes"] is None, options


def test_a_retry_is_given_what_the_run_before_died_for_want_of(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("24G")
    (tmp_path / "train.py").write_text(TRAIN)
    need = tmp_path / "need"
    words = ["-m", "auto", "--retries", "1", "--", sys.executable, "train.py", str(need), "2.5"]
    need.write_text(str(5 * GIB))
    assert world.run(*words, cwd=tmp_path).returncode == 0
    need.write_text(str(10 * GIB))
    assert world.run(*words, cwd=tmp_path, timeout=60).returncode == 0
    job = world.job(2)
    assert job["attempt"] == 2
    assert 10 * GIB < job["memory_bytes"] < 24 * GIB
