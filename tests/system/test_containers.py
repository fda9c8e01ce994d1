"""Containers: known as their job's by what is passed in, else strangers, and then no job is called paused that is not.

Tried with a stand-in daemon (`daemon.py`): no container engine.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pauses import stands
from standin import GIB, Gpu
from truth import Machine
from waiting import wait_until
from world import SUPPORT, World, clean_environment

MARKER = ["-e", "GPURUN_JOB", "-e", "GPURUN_GPU_UUIDS"]
HOLD = """
import os, sys, time
with open(f"{sys.argv[1]}/{os.getpid()}", "w") as file:
    file.write(str(int(29.3 * 2**30)))
time.sleep(1000)
"""


class Docker(Machine):
    """A card of 80G, a daemon, and a client called docker on the PATH."""

    def __init__(self, folder: Path, make_world: Callable[..., World]) -> None:
        super().__init__(folder, make_world, Gpu(total=80 * GIB))
        source = (SUPPORT / "daemon.py").read_text()
        client = folder / "docker"
        client.write_text(f"#!{sys.executable}\n{source}")
        client.chmod(0o755)
        # Short: the kernel limits a socket's path.
        self.world.env |= {"PATH": f"{folder}:{os.environ['PATH']}", "DOCKER_HOST": f"{self.world.directory}/.docker"}
        daemon = subprocess.Popen(
            [sys.executable, "-c", source, self.world.env["DOCKER_HOST"]],
            env=clean_environment(), start_new_session=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.world.adopt(daemon).stdout.readline() == "ready\n"

    def container(self, *options: str, before: tuple[str, ...] = ("-m", "30G")) -> "subprocess.Popen[str]":
        """A job that has a container hold 29.3G, one process below its first; seen once it does."""
        inside = f'env -i {sys.executable} -c "$0" "$1" & wait'
        words = ["docker", "run", *options, "image", "sh", "-c", inside, HOLD, str(self.box.folder / "alloc/0")]
        job = self.run_job(*before, "sh", "-c", '"$@"; exit', "sh", *words, start_new_session=True)
        wait_until(lambda: self.gpu()["free_bytes"] < 60 * GIB, "the container to compute", 15)
        return job

    def computing(self) -> psutil.Process:
        (name,) = os.listdir(self.box.folder / "alloc/0")
        return psutil.Process(int(name))


@pytest.fixture
def docker(tmp_path: Path, make_world: Callable[..., World]) -> Docker:
    return Docker(tmp_path, make_world)


def test_a_container_that_is_given_the_marker_is_its_jobs(docker: Docker) -> None:
    """Also what its first process starts, whatever that does to the environment: nothing is counted twice."""
    job = docker.container(*MARKER)
    assert docker.gpu()["foreign"] == []
    assert docker.job_of(job)["why"] is None
    assert "job 1: 29.3G of 30G" in docker.gpus_text()
    wait_until(lambda: docker.job_of(job)["peak_bytes"] == int(29.3 * 2**30), "its memory to be the job's", 15)
    docker.run_job("-m", "30G", "sleep", "1000")  # 19G are left beside both


def test_it_is_paused_with_its_job_and_killed_with_it(docker: Docker) -> None:
    docker.container(*MARKER)
    program = docker.computing()
    done = docker.world.run("pause", "1")
    assert done.stdout == "job 1: paused\n", done.stderr
    assert stands(program.pid)
    assert docker.world.run("resume", "1").returncode == 0
    wait_until(lambda: not stands(program.pid), "it to go on", 15)
    assert docker.text("kill", "-9", "1") == "job 1: killed (KILL)\n"
    wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE, "the container to be killed", 15)
    wait_until(lambda: docker.gpu()["state"] == "free", "the GPU to be free", 15)


@pytest.mark.parametrize("options", [[], ["-e", "GPURUN_JOB"]], ids=["without", "with half of it"])
def test_without_the_marker_it_is_a_stranger_and_its_job_is_not_called_paused(docker: Docker, options: list[str]) -> None:
    job = docker.container(*options)
    assert [found["bytes"] for found in docker.gpu()["foreign"]] == [int(29.3 * 2**30)]
    assert "that counts as a stranger's" in docker.text("ls")
    assert "-u $(id -u) -e GPURUN_JOB -e GPURUN_GPU_UUIDS makes it its own" in docker.text("why", "1")
    done = docker.world.run("pause", "1")
    assert done.returncode == 1
    says = "that would go on: only -u $(id -u) -e GPURUN_JOB -e GPURUN_GPU_UUIDS makes it its own"
    assert "job 1: runs a container (docker, pid " in done.stderr, done.stderr
    assert says in done.stderr
    urgent = docker.start("-p", "urgent", "-m", "45G", "true")
    why = docker.why(urgent)
    assert "job 1 runs a container (docker, pid " in why, why
    assert docker.job_of(job)["state"] == "running"
    assert "; a container (docker, pid " in docker.text("kill", "1")


def test_a_client_that_runs_none_is_no_container(docker: Docker) -> None:
    client = Path(docker.world.env["PATH"].partition(":")[0], "nerdctl")
    client.write_text("#!/bin/sh\nsleep 1000\n")
    client.chmod(0o755)
    job = docker.run_job("sh", "-c", "nerdctl pull image; exit", start_new_session=True)
    wait_until(lambda: [each.name() for each in psutil.Process(job.pid).children()] == ["nerdctl"], "the client")
    assert docker.job_of(job)["why"] is None
    assert docker.text("pause", "1") == "job 1: paused\n"
