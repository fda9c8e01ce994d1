"""`gpuwrap.gpu` as a Python programmer finds it: typed, documented, a decorator, and in asyncio."""

import subprocess
from pathlib import Path

import pytest
from test_python import script
from waiting import wait_until
from world import World

import gpuwrap


def test_help_dir_and_all_show_what_there_is(world: World) -> None:
    body = "help(gpuwrap)\nprint(sorted(gpuwrap.__all__), set(gpuwrap.__all__) <= set(dir(gpuwrap)))"
    output, errors = script(world, body).communicate(timeout=30)
    assert errors == ""
    for word in ("class gpu", "exclusive: bool = False", "priority: int | str = 0", "wait: how long to wait", "GpurunError"):
        assert word in output
    assert output.endswith("['BlockGrant', 'GpurunError', 'gpu'] True\n")


def test_a_type_checker_reads_the_package(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    assert (Path(gpuwrap.__file__).parent / "py.typed").exists()
    program = tmp_path / "program.py"
    program.write_text(
        "import gpuwrap\n@gpuwrap.gpu('6G', gpus=2)\ndef f(x: int) -> str:\n    return str(x)\nreveal_type(f(1))\nf('a')\n"
        "gpuwrap.gpu(gpu=1)\nwith gpuwrap.gpu(wait=2.5) as grant:\n    reveal_type(grant.job)\n"
        "try:\n    pass\nexcept gpuwrap.GpurunError as err:\n    reveal_type(err.text)\n"
    )
    told, errors, _ = api.run([str(program), "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"])
    assert errors == ""
    lines = [line.partition(": ")[2] for line in told.replace("builtins.", "").splitlines()]
    assert [line for line in lines if "defined in" not in line][:5] == [
        'note: Revealed type is "str"',
        'error: Argument 1 to "f" has incompatible type "str"; expected "int"  [arg-type]',
        'error: Unexpected keyword argument "gpu" for "gpu"; did you mean "gpus"?  [call-arg]',
        'note: Revealed type is "int"',
        'note: Revealed type is "str"',
    ]


def test_what_cannot_be_meant_is_raised_at_the_call() -> None:
    for options in ({"memory": "8"}, {"gpus": -1}, {"wait": "5"}, {"name": "3"}, {"exclusive": True}, {"priority": "hihg"}):
        with pytest.raises(gpuwrap.GpurunError):
            gpuwrap.gpu(**options)  # type: ignore[arg-type]


def test_limits_may_be_numbers_of_seconds(world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = """
for wait in (0, 0.5, "0.5s"):
    try:
        with gpuwrap.gpu(wait=wait):
            print("never")
    except TimeoutError as err:
        print(err)
"""
    output = script(world, body).communicate(timeout=30)[0].splitlines()
    assert [line.partition(":")[0] for line in output] == [f"job {job} not started within the wait limit" for job in (2, 3, 4)]


def test_a_block_that_lasts_beyond_its_limit_is_asked_to_end(world: World) -> None:
    child = script(world, "with gpuwrap.gpu(time=1):\n    time.sleep(60)")
    assert child.wait(30) == -15
    wait_until(lambda: world.state(1) == "ended", "the job to end")


def test_a_decorated_function_has_a_block_for_each_call(world: World) -> None:
    body = """
@gpuwrap.gpu("6G", name="step")
def train(rate, *, twice=False):
    "Train."
    return os.environ["GPURUN_JOB"], rate, twice
print(train(3), train(4, twice=True), train.__name__, train.__doc__, "GPURUN_JOB" in os.environ)
try:
    @gpuwrap.gpu()
    def steps():
        yield 1
except TypeError as err:
    print(err)
"""
    output, errors = script(world, body).communicate(timeout=30)
    assert (output.splitlines(), errors) == (
        [
            "('1', 3, False) ('2', 4, True) train Train. False",
            "gpu() goes around functions, not generators: put `with gpu()` inside",
        ],
        "",
    )
    assert [(job["name"], job["result"]["code"]) for job in world.jobs()] == [("step", 0)] * 2


def test_in_asyncio_other_tasks_go_on_while_one_waits(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    world.start("-g", "all", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = f"""
import asyncio
async def open_gate():
    for _ in range(20):
        await asyncio.sleep(0.01)
    open({str(gate)!r}, "w").close()
@gpuwrap.gpu(quiet=True)
async def decorated():
    return os.environ["GPURUN_JOB"]
async def main():
    opening = asyncio.create_task(open_gate())
    async with gpuwrap.gpu(quiet=True) as grant:
        await opening
        print(grant.job, os.environ["CUDA_VISIBLE_DEVICES"])
        async def another():
            try:
                async with gpuwrap.gpu():
                    print("never")
            except gpuwrap.GpurunError as err:
                print(err)
        await asyncio.create_task(another())
        async with gpuwrap.gpu(quiet=True) as inner:
            print(inner.job)
    print("CUDA_VISIBLE_DEVICES" in os.environ, await decorated())
asyncio.run(main())
"""
    assert script(world, body).communicate(timeout=30) == (
        "2 0\nanother task of this process is in a block: the variables that CUDA reads are common to all\n3\nFalse 4\n",
        "",
    )
    assert [job["result"]["code"] for job in world.jobs()[1:]] == [0, 0, 0]


def test_a_task_that_is_cancelled_while_it_waits_leaves_the_line(world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    body = """
import asyncio
async def ask():
    async with gpuwrap.gpu(quiet=True):
        print("never")
async def main():
    task = asyncio.create_task(ask())
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        print("cancelled", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
asyncio.run(main())
"""
    child = script(world, body, stdin=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    wait_until(lambda: world.state(2) == "waiting", "the block to wait")
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "cancelled\n"
    wait_until(lambda: world.state(2) == "ended", "the job to leave the line")
    assert world.job(2)["result"]["kind"] == "cancelled"
    assert child.communicate("\n", timeout=30) == ("", "")
    assert child.returncode == 0
