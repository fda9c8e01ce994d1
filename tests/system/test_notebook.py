"""Notebooks: the cells of README's recipe in a real Jupyter kernel, and `!gpurun` in one."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until
from world import World

manager = pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed")
PATIENCE_SECONDS = 60


class Kernel:
    """One kernel, as a notebook's page sees it."""

    def __init__(self, world: World, folder: Path) -> None:
        self._manager, self._client = manager.start_new_kernel(
            kernel_name="python3", env=world.env, cwd=str(folder), startup_timeout=PATIENCE_SECONDS
        )

    @property
    def pid(self) -> int:
        """The process that runs the cells."""
        pid: int = self._manager.provisioner.pid
        return pid

    def begin(self, cell: str) -> str:
        """Run a cell; returns by what its messages are known."""
        number: str = self._client.execute(cell)
        return number

    def messages(self, number: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What comes back for a cell, until it is over."""
        while True:
            message = self._client.get_iopub_msg(timeout=PATIENCE_SECONDS)
            if message["parent_header"].get("msg_id") != number:
                continue
            yield message["msg_type"], message["content"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return

    def run(self, cell: str) -> tuple[str, str]:
        """Run a cell to its end; returns what it wrote, and the name of the exception that ended it."""
        return shown(self.messages(self.begin(cell)))

    def interrupt(self) -> None:
        """The page's stop button."""
        self._manager.interrupt_kernel()

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def shown(messages: Iterator[tuple[str, dict[str, Any]]]) -> tuple[str, str]:
    text, error = "", ""
    for kind, content in messages:
        if kind == "stream":
            text += content["text"]
        elif kind == "error":
            error = content["ename"]
    return text.replace("\r\n", "\n"), error


@pytest.fixture
def kernel(world: World, tmp_path: Path) -> Iterator[Kernel]:
    world.env["PATH"] = os.path.dirname(world.command) + os.pathsep + world.env["PATH"]
    made = Kernel(world, tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_the_recipe_of_the_readme_is_a_job_of_the_kernel(kernel: Kernel, world: World) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    recipe = [line.removeprefix("    ") for line in readme.splitlines() if line.startswith("    ")]
    begin = recipe.index("import gpuwrap")
    assert kernel.run("\n".join(recipe[begin : begin + 3])) == ("job 1 on GPU 0\n", "")
    (job,) = world.jobs()
    assert (job["pid"], job["priority"], job["result"]["code"]) == (kernel.pid, 5, 0)
    assert kernel.run("import os; print(os.environ.get('GPURUN_JOB'))") == ("None\n", "")


def test_a_cell_waits_visibly_and_the_stop_button_takes_it_out_of_the_line(kernel: Kernel, world: World) -> None:
    world.start("-g", "all", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    messages = kernel.messages(kernel.begin("import gpuwrap\nwith gpuwrap.gpu():\n    print('never')"))
    told = next(content["text"] for kind, content in messages if kind == "stream")
    assert told.startswith("gpurun: job 2 waits for a GPU, 1st in line: job 1 (sleep 60")
    kernel.interrupt()
    text, error = shown(messages)
    assert (error, "never" in text) == ("KeyboardInterrupt", False)
    wait_until(lambda: world.state(2) == "ended", "the job to leave the line")
    assert kernel.run("print(1 + 1)") == ("2\n", "")


def test_what_the_kernel_still_holds_is_said_and_goes_with_it(kernel: Kernel, world: World) -> None:
    take = (
        "import os, gpuwrap\n"
        "with gpuwrap.gpu(memory='6G') as grant:\n"
        "    folder = os.path.join(os.environ['GPURUN_SIM_DIR'], str(grant.devices[0]))\n"
        "    open(os.path.join(folder, str(os.getpid())), 'w').write(str(3 * 1024**3))\n"
    )
    text, error = kernel.run(take)
    assert (error, "3G" in text, "job 1" in text) == ("", True, True), text
    kernel.close()
    wait_until(lambda: not world.rows("SELECT 1 FROM share"), "what it held to be free")


def test_the_cell_may_be_run_again_and_again_though_the_kernel_holds_on(kernel: Kernel, world: World) -> None:
    cell = (
        "import os, gpuwrap\n"
        "with gpuwrap.gpu(gpus=2, quiet=True, wait='5s') as grant:\n"
        "    for index in grant.devices:\n"
        "        folder = os.path.join(os.environ['GPURUN_SIM_DIR'], str(index))\n"
        "        open(os.path.join(folder, str(os.getpid())), 'w').write(str(500 * 1024**2))\n"
        "    print('job', grant.job, 'on', *grant.devices)"
    )
    assert [kernel.run(cell) for _ in range(3)] == [(f"job {number} on 0 1\n", "") for number in (1, 2, 3)]
    assert world.run("-n", "true").returncode == 124
    assert [job["pid"] for job in world.jobs()][:3] == [kernel.pid] * 3


def test_gpurun_in_a_shell_escape_runs_the_program(kernel: Kernel, world: World) -> None:
    text, error = kernel.run("!gpurun sh -c 'echo on $CUDA_VISIBLE_DEVICES'")
    assert (text, error) == ("on 0\n", "")
    assert world.job(1)["result"]["code"] == 0
