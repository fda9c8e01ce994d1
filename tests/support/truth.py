"""A world over a stand-in driver of its own, for tests of what a grant means there."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standin import GIB, Box, Gpu, NoCompiler, build
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]
Seen = dict[str, Any]


class Machine:
    """A box of GPUs that no other test has (claims are machine-wide), and a world on it."""

    def __init__(self, folder: Path, make_world: MakeWorld, *gpus: Gpu, settings: str = "") -> None:
        named = [gpu if gpu.uuid or gpu.mig else replace(gpu, uuid=f"GPU-{uuid.uuid4()}") for gpu in gpus or (Gpu(),)]
        try:
            self.box: Box = build(folder / "driver", *named)
        except NoCompiler as missing:
            pytest.skip(str(missing))
        self.world = make_world(None, **self.box.environment)
        if settings:
            (self.world.directory / "settings.toml").write_text(settings)

    def start(self, *words: str, **popen: Any) -> "subprocess.Popen[Any]":
        return self.world.start(*words, **popen)

    def run_job(self, *words: str, **popen: Any) -> "subprocess.Popen[Any]":
        """Start a job and wait until it runs."""
        child = self.start(*words, **popen)
        self.until_running(child)
        return child

    def until_running(self, child: "subprocess.Popen[Any]") -> Seen:
        def running() -> Seen | None:
            return next((job for job in self.jobs() if job["pid"] == child.pid and job["state"] == "running"), None)

        return wait_until(running, f"pid {child.pid} to run", 15)

    def jobs(self) -> list[Seen]:
        return self.world.jobs(all=False)

    def job_of(self, child: "subprocess.Popen[Any]") -> Seen:
        return wait_until(
            lambda: next((job for job in self.world.jobs() if job["pid"] == child.pid), None), "the job to be listed"
        )

    def gpu(self, index: int = 0) -> Seen:
        done = self.world.run("gpus", "--json")
        assert done.returncode == 0, done.stderr
        gpus: list[Seen] = json.loads(done.stdout)["gpus"]
        return next(gpu for gpu in gpus if gpu["index"] == index)

    def gpus_text(self) -> str:
        return self.text("gpus")

    def text(self, *words: str) -> str:
        done = self.world.run(*words)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def why(self, child: "subprocess.Popen[Any]", rule: str | None = None, within: float = 15) -> str:
        """Wait until a job waits (by a rule) and return its sentence."""

        def told() -> str | None:
            job = next((job for job in self.jobs() if job["pid"] == child.pid), None)
            if job is None or job["state"] != "waiting" or not job["why"]:
                return None
            return str(job["why"]["text"]) if rule in (None, job["why"]["rule"]) else None

        return wait_until(told, f"pid {child.pid} to wait ({rule})", within)

    def stranger(self, size: int | None = 4 * GIB, index: int | str = 0, *argv: str, kind: str = "compute") -> int:
        """A process that is no job and holds memory."""
        child = self.world.adopt(subprocess.Popen(argv or ["sleep", "1000"], env=self.world.env))
        self.box.allocate(index, child.pid, size, kind)
        return child.pid

    def end(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)

    def restart_arbiter(self) -> None:
        """Kill the arbiter; its keeper becomes the next."""
        before = self.world.arbiter_pid()
        assert before
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: self.world.arbiter_pid() not in (None, before), "the next arbiter", 15)
