"""On a real NVIDIA GPU, with torch: a grant is true. Run by hand where one is: `python -m pytest -m gpu`.

Not run yet for want of a GPU: the first run on one decides what of it must change.
"""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

pytestmark = [pytest.mark.gpu, pytest.mark.limit(300)]

HOLD = textwrap.dedent(
    """
    import os, sys, time, torch
    held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda")
    open(sys.argv[2], "w").write(os.environ.get("CUDA_VISIBLE_DEVICES", "") + " " + torch.cuda.get_device_name(0))
    time.sleep(600)
    """
)


@pytest.fixture
def real(make_world: "type[World]") -> World:
    """A world on the machine's own GPUs."""
    pytest.importorskip("torch")
    return make_world("")  # type: ignore[return-value,arg-type]


def hold(folder: Path, size: int, name: str) -> tuple[list[str], Path]:
    """The command of a program that takes memory on its GPU and says so."""
    ready = folder / name
    return [sys.executable, "-c", HOLD, str(size), str(ready)], ready


def test_the_granted_device_is_the_one_that_torch_sees(real: World, tmp_path: Path) -> None:
    command, ready = hold(tmp_path, 1 << 30, "ready")
    real.start("-m", "4G", *command)
    wait_until(ready.exists, "torch to take memory", 120)
    (job,) = real.jobs(all=False)
    assert ready.read_text().split()[0] == str(job["devices"][0]["index"])
    wait_until(lambda: (real.job(job["id"])["peak_bytes"] or 0) >= 1 << 30, "its memory to be accounted", 30)


def test_a_stranger_keeps_whole_gpu_jobs_waiting_and_is_named(real: World, tmp_path: Path) -> None:
    command, ready = hold(tmp_path, 1 << 30, "stranger")
    stranger = real.adopt(subprocess.Popen(command))
    wait_until(ready.exists, "the stranger to take memory", 120)
    assert real.run("-g", "all", "-n", "--", "true").returncode == 124
    real.start("-g", "all", "true")
    job = wait_until(lambda: [job for job in real.jobs(all=False) if job["why"]], "a job to wait")[0]
    assert job["why"]["rule"] == "foreign"
    assert str(stranger.pid) in job["why"]["text"]
    stranger.kill()
    stranger.wait()
    wait_until(lambda: not real.jobs(all=False), "the job to run once the stranger has gone", 30)


def test_a_gpu_is_free_again_after_kill_9(real: World, tmp_path: Path) -> None:
    command, ready = hold(tmp_path, 1 << 30, "victim")
    victim = real.start(*command)
    wait_until(ready.exists, "torch to take memory", 120)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    assert real.run("-w", "60s", "--", "true").returncode == 0
