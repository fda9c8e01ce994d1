"""Block after block in one process: what an earlier one left there is not in its way, and is counted once.

A program that holds memory after its block stands for one whose CUDA context stays, as it does until the process ends.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from standin import GIB, MIB, NOT_SUPPORTED, Gpu, Process
from test_python import HEAD, script
from truth import Machine
from waiting import wait_until
from world import World

LEAVE = """
def block(size=500 << 20, do=None, wait="5s", **options):
    with gpuwrap.gpu(wait=wait, quiet=True, **options) as grant:
        take(size)
        print(*grant.devices, flush=True)
        if do is not None:
            do()
def refused(**options):
    try:
        block(**options)
    except (gpuwrap.errors.GpurunError, TimeoutError) as err:
        print(err, flush=True)
"""
SEES = "CUDA is initialised in this process already and sees GPU"


def said(world: World, body: str, *prefix: str, timeout: float = 40) -> list[str]:
    """Run a program of blocks; returns the lines that it has printed."""
    output, errors = script(world, LEAVE + body, *prefix).communicate(timeout=timeout)
    assert errors == ""
    return str(output).splitlines()


def test_block_after_block_goes_on_with_what_the_process_still_holds(make_world: Callable[..., World]) -> None:
    world = make_world("1x24G")
    assert said(world, "for _ in range(3):\n    block()\nblock(memory='23G')\nblock(gpus='all')") == ["0"] * 5
    assert {job["result"]["code"] for job in world.jobs()} == {0}
    wait_until(lambda: not world.rows("SELECT 1 FROM share"), "what it held to be free")


def test_the_same_as_the_driver_tells_it(make_world: Callable[..., World], tmp_path: Path) -> None:
    """What the driver names at each look is what counts, and not a word of the process."""
    machine = Machine(tmp_path, make_world, Gpu(), Gpu())
    body = f"""
def stay(number):
    with gpuwrap.gpu(wait="5s", quiet=True) as grant:
        print(number, *grant.devices, flush=True)
        until({str(tmp_path)!r} + f"/end{{number}}")
for number in (1, 2):
    stay(number)
time.sleep(60)
"""
    child = script(machine.world, body)
    assert child.stdout is not None
    assert child.stdout.readline() == "1 0\n"
    machine.box.set(0, processes=[Process(child.pid, 500 * MIB)])
    (tmp_path / "end1").touch()
    assert child.stdout.readline() == "2 0\n"
    machine.box.set(0, processes=[Process(child.pid, 9 * GIB)])
    (tmp_path / "end2").touch()
    wait_until(lambda: machine.world.states() == ["ended"] * 2, "both blocks to end")
    shares = machine.world.rows("SELECT job_id, bytes FROM share")
    assert shares == [{"job_id": 2, "bytes": 9 * GIB}]


@pytest.fixture
def with_device(tmp_path: Path) -> list[str]:
    """What a program is started behind so that there is a /dev/nvidia0 for it."""
    apart = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--mount"]
    devices = tmp_path / "dev"
    devices.mkdir()
    bound = f"for each in null zero urandom; do touch {devices}/$each; mount --bind /dev/$each {devices}/$each; done"
    inside = f'{bound}; touch {devices}/nvidia0; mount --rbind {devices} /dev && exec "$@"'
    wrapper = ["unshare", *apart, "sh", "-c", inside, "sh"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no mount namespace can be had here (unshare)")
    return wrapper


INITIALISE = "opened = open('/dev/nvidia0')\n"


@pytest.mark.needs("unshare", "mount")
def test_a_device_file_that_is_open_says_that_cuda_was_initialised(world: World, with_device: list[str]) -> None:
    """As on a real GPU: in its first block, or by a program that is a job itself, or where nobody knows what it saw."""

    def printed(body: str, *prefix: str) -> list[str]:
        words = [*with_device, *prefix, sys.executable, "-c", HEAD + LEAVE + body]
        done = subprocess.run(words, env=world.env, capture_output=True, text=True, timeout=60)
        return [*done.stdout.splitlines(), *done.stderr.splitlines()]

    first = f"with gpuwrap.gpu(device='1', quiet=True):\n    {INITIALISE}"
    assert printed(first + "block(0)\nrefused(device='0')\nblock(0)") == ["1", f"needs another GPU, but {SEES} 1", "1"]
    inner = "block(0, memory='1G')\nrefused(gpus=2)\nblock(0)"
    assert printed(INITIALISE + inner, world.command, "-i", "1") == ["1", f"needs 2 GPUs, but {SEES} 1 alone", "1"]
    assert printed(INITIALISE + "refused()") == [
        "CUDA is initialised in this process already: it would not see which GPU it is granted"
    ]


@pytest.mark.needs("unshare", "mount")
@pytest.mark.parametrize("tells", ["nobody", "nothing"])
def test_where_the_driver_hides_processes_the_next_block_starts_all_the_same(
    make_world: Callable[..., World], tmp_path: Path, with_device: list[str], tells: str
) -> None:
    """As in a container: memory that nobody is named for, and the device open, are what is left of the first block."""
    machine = Machine(tmp_path, make_world, Gpu())
    if tells == "nothing":
        for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            machine.box.fail(function, NOT_SUPPORTED)
    body = f"""
for number in (1, 2):
    with gpuwrap.gpu(wait="5s", quiet=True) as grant:
        opened = open("/dev/nvidia0")
        print(number, *grant.devices, flush=True)
        until({str(tmp_path)!r} + f"/end{{number}}")
    print("out", flush=True)
    until({str(tmp_path)!r} + f"/again{{number}}")
"""
    words = [*with_device, sys.executable, "-c", HEAD + body]
    child = machine.world.adopt(subprocess.Popen(words, env=machine.world.env, stdout=subprocess.PIPE, text=True))
    assert child.stdout is not None
    assert child.stdout.readline() == "1 0\n"
    machine.box.set(0, free=15 * GIB)
    (tmp_path / "end1").touch()
    assert child.stdout.readline() == "out\n"
    assert machine.world.run("-n", "true").returncode == 124
    (tmp_path / "again1").touch()
    assert child.stdout.readline() == "2 0\n"
    for name in ("end2", "again2"):
        (tmp_path / name).touch()
    assert child.wait(30) == 0
    machine.box.set(0, free=None)
    assert machine.world.run("-w", "10s", "true").returncode == 0


def test_others_wait_for_what_is_left_between_blocks_and_in_them(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world("1x24G")
    gate, end = tmp_path / "gate", tmp_path / "end"
    body = f"block()\nprint('out', flush=True)\nuntil({str(gate)!r})\nblock(do=lambda: until({str(end)!r}))\ntime.sleep(60)"
    child = script(world, LEAVE + body)
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0\n", "out\n"]
    world.start("-N", "whole", "true")
    wait_until(lambda: "left by job 1" in str(world.job(2)["why"]), "another to wait for what is left")
    gate.touch()
    assert child.stdout.readline() == "0\n"  # before who waits for it: it lets go only when it ends
    wait_until(lambda: "job 3 " in str(world.job(2)["why"]), "another to wait for the block")
    assert world.run("-n", "-m", "1G", "true").returncode == 124
    end.touch()
    wait_until(lambda: "left by job 3" in str(world.job(2)["why"]), "another to wait for what is left again")
    child.kill()
    child.wait(30)
    wait_until(lambda: world.state(2) == "ended", "it to run")


def test_memory_is_counted_once(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world("1x24G")
    gate = tmp_path / "gate"
    body = f"block(5 << 30, memory='6G')\nblock(5 << 30, memory='20G', do=lambda: until({str(gate)!r}))\ntime.sleep(60)"
    child = script(world, LEAVE + body)
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0\n", "0\n"]
    (share,) = world.rows("SELECT job_id, bytes FROM share")
    assert share == {"job_id": 2, "bytes": 20 << 30}
    assert world.run("-n", "-m", "3G", "true").returncode == 0
    assert world.run("-n", "-m", "5G", "true").returncode == 124
    gate.touch()
    wait_until(lambda: world.state(2) == "ended", "the second block to end")
    assert world.run("-n", "-m", "18G", "true").returncode == 0
    assert world.run("-n", "-m", "20G", "true").returncode == 124


def test_only_what_needs_another_gpu_is_refused(world: World) -> None:
    body = "block()\nrefused(gpus=2)\nrefused(device='1')\nblock(device='0')\nblock(memory='6G')"
    assert said(world, body) == ["0", f"needs 2 GPUs, but {SEES} 0 alone", f"needs another GPU, but {SEES} 0", "0", "0"]


def test_the_first_gpu_that_the_process_sees_stays_the_first(world: World) -> None:
    """Sees GPUs 0 and 1: a block that was given the second one alone would compute on the first."""
    body = "block(gpus=2)\nblock()\nblock(memory='1G')\nrefused(device='1')\nblock(gpus=2)"
    assert said(world, body) == ["0 1", "0", "0", f"needs another GPU, but {SEES} 0, 1 first", "0 1"]


def test_a_changed_request_keeps_to_what_the_process_sees(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = script(world, LEAVE + f"block(gpus=2)\nuntil({str(gate)!r})\nblock(gpus=2, wait='60s')")
    assert child.stdout is not None
    assert child.stdout.readline() == "0 1\n"
    wait_until(lambda: world.state(1) == "ended", "the first block to end")
    world.start("-m", "20G", "-i", "0", "sleep", "60")
    wait_until(lambda: world.state(2) == "running", "another to hold memory of the first GPU")
    gate.touch()
    wait_until(lambda: world.state(3) == "waiting", "the second block to wait")
    assert world.run("set", "-i", "1", "-g", "1", "3").returncode == 1
    assert world.run("set", "-g", "1", "3").returncode == 0
    assert world.run("kill", "2").returncode == 0
    assert child.communicate(timeout=20)[0] == "0\n"


def test_what_it_leaves_on_other_gpus_is_counted_there(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    child = script(world, LEAVE + f"block(gpus=2)\nblock(do=lambda: until({str(gate)!r}))\ntime.sleep(60)")
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0 1\n", "0\n"]
    held = world.rows("SELECT job_id, gpu_index, bytes FROM share ORDER BY gpu_index")
    assert [(row["job_id"], row["gpu_index"]) for row in held] == [(2, 0), (1, 1)]
    assert world.run("-n", "-i", "1", "true").returncode == 124
    assert world.run("-n", "-m", "23G", "true").returncode == 0
    gate.touch()
    wait_until(lambda: world.state(2) == "ended", "the second block to end")
    assert world.run("-n", "-i", "0", "true").returncode == 124
    child.kill()
    child.wait(30)
    assert world.run("-w", "5s", "-g", "2", "true").returncode == 0


def test_what_an_earlier_block_left_does_not_end_a_process_that_is_in_another(world: World, tmp_path: Path) -> None:
    (world.directory / "settings.toml").write_text('end_leftovers = "1s"\n')
    child = script(world, LEAVE + "block(gpus=2)\nblock(do=lambda: time.sleep(4))\ntime.sleep(60)")
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0 1\n", "0\n"]
    wait_until(lambda: world.state(2) == "ended", "the second block to end")
    assert world.job(2)["result"]["code"] == 0
    assert child.wait(30) == -signal.SIGTERM  # a second later


def test_the_next_block_is_where_the_workers_of_the_first_still_are(world: World) -> None:
    """Their parent has not initialised CUDA, and could be given any GPU: they would compute where they are."""
    body = """
import subprocess
work = "import os, sys; open(f'{sys.argv[1]}/1/{os.getpid()}', 'w').write('524288000'); print(); sys.stdin.read()"
workers = []
def do():
    if not workers:
        words = [sys.executable, "-c", work, os.environ["GPURUN_SIM_DIR"]]
        workers.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        workers[0].stdout.readline()
block(0, device="1", do=do)
block(0, do=do)
block(0, memory="6G", do=do)
workers[0].communicate()
"""
    assert said(world, body) == ["1", "1", "1"]


def test_a_process_that_holds_nothing_may_be_given_any_gpu(world: World) -> None:
    assert said(world, "block(0)\nblock(0, device='1')\nblock(0, gpus=2)") == ["0", "1", "0 1"]


@pytest.mark.parametrize("ask", ["block()", "block(memory='3G')"])
def test_inside_a_job_too(world: World, ask: str) -> None:
    body = f"block()\n{ask}\n{ask}\nrefused(gpus=2)"
    assert said(world, body, "gpurun", "-i", "1") == ["1", "1", "1", f"needs 2 GPUs, but {SEES} 1 alone"]
    worker = f"import subprocess\nfor _ in range(2):\n    subprocess.run([sys.executable, '-c', {HEAD + LEAVE + body!r}])"
    assert said(world, worker, "gpurun", "-m", "8G", "-i", "1")[::4] == ["1", "1"]


def test_a_block_in_a_block_may_be_followed_by_another(world: World) -> None:
    body = """
with gpuwrap.gpu(gpus=2, quiet=True):
    block(memory="3G")
    block(memory="3G")
    block()
block(gpus=1)
"""
    assert said(world, body) == ["0"] * 4


def test_a_child_does_not_go_on_with_what_its_parent_holds(make_world: Callable[..., World]) -> None:
    world = make_world("1x24G")
    body = "block()\nif os.fork() == 0:\n    refused()\n    os._exit(0)\nos.wait()\nblock()"
    first, second, third = said(world, body)
    assert (first, third) == ("0", "0")
    assert second.startswith("job 2 not started within the wait limit: ")
    assert "left by job 1" in second


def test_who_gives_up_leaves_what_was_held_where_it_was(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world("1x24G")
    gate = tmp_path / "gate"
    body = f"block()\nprint('out', flush=True)\nuntil({str(gate)!r})\nrefused()\nprint('gave up', flush=True)\ntime.sleep(60)"
    child = script(world, LEAVE + body)
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0\n", "out\n"]
    world.start("-m", "20G", "sleep", "60")
    wait_until(lambda: world.state(2) == "running", "another to hold memory")
    gate.touch()
    assert child.stdout.readline().startswith("job 3 not started within the wait limit: ")
    assert child.stdout.readline() == "gave up\n"
    assert [row["job_id"] for row in world.rows("SELECT job_id FROM share ORDER BY job_id")] == [1, 2]


def test_a_successor_of_the_arbiter_knows_what_the_process_holds(make_world: Callable[..., World], tmp_path: Path) -> None:
    world = make_world("1x24G")
    gate = tmp_path / "gate"
    child = script(world, LEAVE + f"block()\nprint('out', flush=True)\nuntil({str(gate)!r})\nblock()\nblock()")
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["0\n", "out\n"]
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    gate.touch()
    assert child.communicate(timeout=30) == ("0\n0\n", "")


@pytest.mark.limit(120)
@pytest.mark.parametrize(
    ("spec", "workers", "options"), [("2x24G", 2, ""), ("1x24G", 1, ""), ("1x24G", 2, "memory='6G'")]
)
def test_all_tasks_of_a_pool_of_workers_run_in_turn(
    make_world: Callable[..., World], tmp_path: Path, spec: str, workers: int, options: str
) -> None:
    """joblib keeps its worker processes, and with them what they hold."""
    pytest.importorskip("joblib", reason="joblib is not installed")
    program = tmp_path / "tasks.py"
    program.write_text(
        f"{HEAD}{LEAVE}"
        "def task(number):\n"
        f"    with gpuwrap.gpu(quiet=True, wait='20s', {options}) as grant:\n"
        "        take(500 << 20)\n"
        "        time.sleep(0.3)\n"
        "        return number, os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    import joblib\n"
        f"    found = joblib.Parallel(n_jobs={workers})(joblib.delayed(task)(n) for n in range(6))\n"
        "    print(sorted(number for number, _ in found), len({pid for _, pid in found}))\n"
    )
    world = make_world(spec)
    done = subprocess.run([sys.executable, str(program)], env=world.env, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr) == (f"[0, 1, 2, 3, 4, 5] {workers}\n", "")
    assert [job["result"]["code"] for job in world.jobs()] == [0] * 6
