"""`with gpuwrap.gpu(…):` in scripts and notebooks: the same queue, freed at the block's end and on death."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
from waiting import let_pass, wait_until
from world import World

HEAD = """
import os, sys, time
import gpuwrap
def take(size):
    for index in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
        with open(os.path.join(os.environ["GPURUN_SIM_DIR"], index, str(os.getpid())), "w") as file:
            file.write(str(size))
def until(path):
    while not os.path.exists(path):
        time.sleep(0.02)
"""


def script(world: World, body: str, *prefix: str, **popen: object) -> "subprocess.Popen[str]":
    """Start a Python program; with a prefix, under gpurun."""
    command = [*prefix, sys.executable, "-c", HEAD + body]
    if prefix:
        return world.start(*command[1:], **popen)
    settings = {"env": world.env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", **popen}
    return world.adopt(subprocess.Popen(command, **settings))


def test_a_block_is_a_job_and_the_environment_is_as_before_after_it(world: World) -> None:
    body = """
before = dict(os.environ)
with gpuwrap.gpu(memory="6G", priority=5, name="cell") as grant:
    print(grant.job, grant.devices, grant.bytes, os.environ["CUDA_VISIBLE_DEVICES"])
assert dict(os.environ) == before, set(os.environ) ^ set(before)
with gpuwrap.gpu(gpus=2) as grant:
    print(grant.job, grant.devices, len(grant.uuids))
"""
    done = script(world, body).communicate(timeout=20)
    assert done == ("1 (0,) (6442450944,) 0\n2 (0, 1) 2\n", "")
    jobs = world.jobs()
    assert [(job["state"], job["result"]["code"], job["priority"], job["name"]) for job in jobs] == [
        ("ended", 0, 5, "cell"),
        ("ended", 0, 0, None),
    ]


def test_while_the_block_lasts_the_gpu_is_reserved_and_then_it_is_free(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = script(world, f"with gpuwrap.gpu(gpus='all'):\n    until({str(gate)!r})\nprint('out', flush=True)\ntime.sleep(60)")
    wait_until(lambda: world.state(1) == "running", "the block to begin")
    assert world.run("-n", "true").returncode == 124
    gate.touch()
    assert child.stdout is not None
    assert child.stdout.readline() == "out\n"
    assert world.state(1) == "ended"
    assert world.run("-w", "5s", "-g", "2", "true").returncode == 0  # though the program lives on
    assert child.poll() is None


def test_what_the_process_still_holds_stays_counted_and_is_said(world: World, tmp_path: Path) -> None:
    body = """
with gpuwrap.gpu(memory="20G", device="0"):
    take(2 << 30)
print("out", flush=True)
time.sleep(60)
"""
    child = script(world, body)
    assert child.stdout is not None
    assert child.stdout.readline() == "out\n"
    assert world.run("-n", "-i", "0", "true").returncode == 124  # whole: no
    assert world.run("-n", "-i", "0", "-m", "20G", "true").returncode == 0  # beside it: yes
    assert world.run("-n", "-i", "0", "-m", "23G", "true").returncode == 124
    child.kill()
    child.wait(30)
    assert child.stderr is not None
    assert child.stderr.read() == "gpurun: job 1 ended; this process still holds 2G until it ends or lets go\n"
    assert world.run("-w", "5s", "-i", "0", "true").returncode == 0


def test_it_waits_visibly_and_an_interrupt_cancels(world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = """
try:
    with gpuwrap.gpu():
        print("never")
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(60)
"""
    child = script(world, body)
    wait_until(lambda: world.state(2) == "waiting", "the block to wait")
    assert child.stderr is not None
    assert child.stderr.readline().startswith("gpurun: job 2 waits for a GPU, 1st in line: job 1 (sleep 60")
    child.send_signal(signal.SIGINT)
    assert child.stdout is not None
    assert child.stdout.readline() == "interrupted\n"
    wait_until(lambda: world.state(2) == "ended", "the job to leave the line")
    assert world.job(2)["result"]["kind"] == "cancelled"


def test_it_is_freed_on_death_and_errors_count(world: World) -> None:
    child = script(world, "with gpuwrap.gpu(gpus=2):\n    time.sleep(60)")
    wait_until(lambda: world.state(1) == "running", "the block to begin")
    child.kill()
    child.wait(30)
    assert world.run("-w", "5s", "-g", "2", "true").returncode == 0
    child = script(world, "with gpuwrap.gpu():\n    raise SystemExit(4)")
    assert child.wait(30) == 4
    assert world.job(3)["result"]["code"] == 1


def test_inside_a_job_it_asks_that_jobs_grant_each_time(world: World) -> None:
    body = """
for _ in range(2):
    with gpuwrap.gpu(memory="3G") as grant:
        print(grant.devices, flush=True)
try:
    with gpuwrap.gpu(memory="20G"):
        print("never")
except gpuwrap.errors.GpurunError as err:
    print(err)
"""
    child = script(world, body, "gpurun", "-m", "8G", "-i", "1")
    assert child.communicate(timeout=20)[0].splitlines() == [
        "(1,)", "(1,)", "needs 20G, but job 1, inside which it runs, has 8G",
    ]  # fmt: skip
    assert [row["parent_id"] for row in world.rows("SELECT parent_id FROM job ORDER BY id")] == [None, 1, 1]


def test_the_arbiter_may_die_meanwhile(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = script(world, f"with gpuwrap.gpu():\n    until({str(gate)!r})\nprint('out')")
    wait_until(lambda: world.state(1) == "running", "the block to begin")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    gate.touch()
    assert child.communicate(timeout=20) == ("out\n", "")
    assert world.job(1)["result"]["code"] == 0


def test_mistakes_are_said(world: World) -> None:
    body = """
for options in ({"memory": "8"}, {"gpus": 9}, {"wait": "0s", "gpus": 2}):
    try:
        with gpuwrap.gpu(**options):
            print("never")
    except (gpuwrap.errors.GpurunError, TimeoutError) as err:
        print(type(err).__name__, err)
try:
    gpuwrap.gpu(gpu=1)
except TypeError as err:
    print(err)
"""
    world.start("sleep", "60")
    wait_until(lambda: world.state(1) == "running", "a GPU to be taken")
    lines = script(world, body).communicate(timeout=20)[0].splitlines()
    assert lines[0] == "UsageError memory 8: unit missing: 8G or 8M?"
    assert lines[1] == "GpurunError needs 9 GPUs: this machine has 2"
    assert lines[2].startswith("TimeoutError job 2 not started within the wait limit")
    assert lines[3].endswith("got an unexpected keyword argument 'gpu'")


def test_a_fork_that_leaves_the_block_gives_nothing_back(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = f"""
with gpuwrap.gpu(gpus="all"):
    if os.fork() == 0:
        sys.exit(0)
    os.wait()
    print("left", flush=True)
    until({str(gate)!r})
print("out", flush=True)
"""
    child = script(world, body)
    assert child.stdout is not None
    assert child.stdout.readline() == "left\n"
    assert world.state(1) == "running"
    assert world.run("-n", "true").returncode == 124
    gate.touch()
    assert child.communicate(timeout=20) == ("out\n", "")
    assert world.job(1)["result"]["code"] == 0


def test_a_program_that_dies_while_it_waits_leaves_the_line_though_its_fork_lives(world: World, tmp_path: Path) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    forked = tmp_path / "forked"
    body = f"""
import threading
def fork():
    until({str(tmp_path / "gate")!r})
    if os.fork() == 0:
        open({str(forked)!r}, "w").close()
        time.sleep(60)
        os._exit(0)
threading.Thread(target=fork, daemon=True).start()
with gpuwrap.gpu():
    print("never")
"""
    child = script(world, body)
    wait_until(lambda: world.state(2) == "waiting", "the block to wait")
    (tmp_path / "gate").touch()
    wait_until(forked.exists, "the fork")
    child.kill()
    wait_until(lambda: world.state(2) == "ended", "the job to leave the line")


def test_while_a_block_is_open_other_threads_cannot_open_any(world: World) -> None:
    body = """
import threading
before = dict(os.environ)
def other(name):
    try:
        with gpuwrap.gpu(memory="2G"):
            print(name, "in", flush=True)
    except gpuwrap.errors.GpurunError as err:
        print(name, err, flush=True)
with gpuwrap.gpu(memory="6G"):
    with gpuwrap.gpu(memory="2G") as inner:
        print("nested", inner.job, flush=True)
    thread = threading.Thread(target=other, args=("second",))
    thread.start()
    thread.join()
thread = threading.Thread(target=other, args=("third",))
thread.start()
thread.join()
first, second = gpuwrap.gpu(memory="6G"), gpuwrap.gpu(memory="2G")
first.__enter__()
second.__enter__()
first.__exit__(None, None, None)
second.__exit__(None, None, None)
assert dict(os.environ) == before, set(os.environ) ^ set(before)
"""
    output, errors = script(world, body).communicate(timeout=30)
    assert (output.splitlines(), errors) == (
        [
            "nested 2",
            "second another thread of this process is in a block: the variables that CUDA reads are common to all",
            "third in",
        ],
        "",
    )
    assert {job["state"] for job in world.jobs()} == {"ended"}


def test_the_wait_limit_goes_on_though_the_arbiter_dies(world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = """
begun = time.monotonic()
try:
    with gpuwrap.gpu(wait="5s"):
        print("never")
except TimeoutError:
    print(time.monotonic() - begun)
"""
    child = script(world, body)
    wait_until(lambda: world.state(2) == "waiting", "the block to wait")
    let_pass(3, "of its five seconds")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    assert 4.9 < float(child.communicate(timeout=20)[0]) < 7.5


def test_the_wait_limit_of_a_block_can_be_set_and_be_nothing(world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = """
for wait in (0, "1h"):
    try:
        with gpuwrap.gpu(wait=wait):
            print("never")
    except TimeoutError as err:
        print(err, flush=True)
"""
    child = script(world, body)
    assert child.stdout is not None
    assert child.stdout.readline().startswith("job 2 not started within the wait limit: ")
    wait_until(lambda: world.state(3) == "waiting", "the second block to wait")
    assert world.run("set", "-w", "1s", "3").returncode == 0
    assert child.communicate(timeout=10)[0].startswith("job 3 not started within the wait limit: ")


def test_leaving_the_block_with_success_is_success(world: World) -> None:
    for word in ("0", "", "3"):
        script(world, f"with gpuwrap.gpu():\n    sys.exit({word})").wait(30)
    assert [job["result"]["code"] for job in world.jobs()] == [0, 0, 1]


def test_block_after_block_of_a_job_whose_environment_was_wiped_is_inside_that_job(world: World) -> None:
    """Each is asked for at the moment at which the one before has ended, while the arbiter must often wait for a processor."""
    kept = [f"{name}={world.env[name]}" for name in ("GPURUN_DIR", "GPURUN_SIM", "HOME", "PATH")]
    body = "for _ in range(100):\n    with gpuwrap.gpu(memory='1G', quiet=True, wait='5s'):\n        pass"
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        done = script(world, body, world.command, "-g", "all", "--", "env", "-i", *kept).communicate(timeout=60)
    finally:
        for each in busy:
            each.kill()
            each.wait()
    assert done == ("", "")
    assert {row["parent_id"] for row in world.rows("SELECT parent_id FROM job WHERE id > 1")} == {1}


def test_what_a_job_starts_asks_inside_it_while_the_job_itself_waits_for_a_block(world: World, tmp_path: Path) -> None:
    """The last job of that process is the block, which has no GPU to give: the one around it has."""
    held, ask, end = (tmp_path / name for name in ("held", "ask", "end"))
    body = f"""
import subprocess, threading
def gpurun(*words):
    return subprocess.Popen([{world.command!r}, *words])
holder = gpurun("sh", "-c", "until [ -e {end} ]; do sleep 0.05; done")
until({str(held)!r})
late = []
def ask():
    until({str(ask)!r})
    late.append(subprocess.Popen(["env", "-u", "GPURUN_JOB", {world.command!r}, "true"]))  # unseen below the job, and unmarked
asking = threading.Thread(target=ask)
asking.start()
with gpuwrap.gpu(quiet=True):
    pass
asking.join()
print(holder.wait(), late[0].wait())
"""
    child = script(world, body, world.command, "-i", "0")
    wait_until(lambda: len(world.states()) == 2 and world.state(2) == "running", "the inner job to hold the GPU")
    held.touch()
    wait_until(lambda: len(world.states()) == 3 and world.state(3) == "waiting", "the block to wait")
    ask.touch()
    wait_until(lambda: len(world.states()) == 4, "another to ask")
    assert world.rows("SELECT parent_id FROM job WHERE id = 4") == [{"parent_id": 1}]
    end.touch()
    assert child.communicate(timeout=30)[0] == "0 0\n"
