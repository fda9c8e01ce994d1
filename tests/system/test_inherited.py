"""What an arbiter was given by whoever came first, and what it cannot have: given up, lived with, or named."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pauses import become
from truth import Machine
from waiting import wait_until
from world import World

# Nobody else's, so that what it has running is what a test has started.
UID = 54321


class TheirWorld(World):
    """A world of a user who is not root: limits hold for him."""

    limits: tuple[tuple[int, int], ...] = ()
    """Hard limits of what is started from now on."""

    def start(self, *arguments: Any, **settings: Any) -> "subprocess.Popen[Any]":
        given, limits = settings.pop("preexec_fn", None), self.limits

        def prepare() -> None:
            for limit, value in limits:
                resource.setrlimit(limit, (value, value))
            (given or become(UID))()

        return super().start(*arguments, **{"preexec_fn": prepare, "cwd": "/", **settings})

    def prlimit(self, pid: int, **limits: str) -> None:
        """Change a process's limits, as its owner may."""
        words = [f"--{name}={value}" for name, value in limits.items()]
        subprocess.run(["prlimit", "--pid", str(pid), *words], check=True, preexec_fn=become(UID))


@pytest.fixture
def make_theirs(everybodys_command: str) -> Iterator[Callable[..., TheirWorld]]:
    made: list[TheirWorld] = []

    def make(spec: str | None = "2x24G", **variables: str) -> TheirWorld:
        made.append(TheirWorld(spec, command=everybodys_command, **variables))
        os.chown(made[-1].directory, UID, UID)
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def theirs(make_theirs: Callable[..., TheirWorld]) -> TheirWorld:
    return make_theirs()


def pids_of(world: World) -> tuple[int, int]:
    """The arbiter and its keeper."""
    arbiter = wait_until(world.arbiter_pid, "an arbiter")
    return arbiter, wait_until(world.keeper_pid, "its keeper")


# What cannot be had


@pytest.mark.needs("prlimit")
def test_an_arbiter_that_cannot_fork_lives_without_a_keeper_until_it_can(theirs: TheirWorld) -> None:
    theirs.start("-g", "2", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    arbiter, keeper = pids_of(theirs)
    theirs.prlimit(arbiter, nproc="1:")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: "keeper: none can be started for now" in theirs.last_words(), "the lack of a keeper to be said", 10)
    assert theirs.arbiter_pid() == arbiter
    theirs.prlimit(arbiter, nproc="1000:")
    assert wait_until(theirs.keeper_pid, "another keeper", 10) != keeper
    assert theirs.arbiter_pid() == arbiter
    assert theirs.last_words().count("keeper: none can be started") == 1


def count_of(uid: int) -> int:
    """How many processes and threads a user has, as the kernel counts them for his limit."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found += len(os.listdir(f"/proc/{name}/task"))
            except FileNotFoundError:
                continue
    return found


@pytest.mark.needs("prlimit", "gcc")
def test_a_successor_without_threads_has_gpu_jobs_wait_and_looks_again(
    make_theirs: Callable[..., TheirWorld], open_folder: Path
) -> None:
    machine = Machine(open_folder, make_theirs)
    world = machine.world
    assert isinstance(world, TheirWorld)
    idle = [world.adopt(subprocess.Popen(["sleep", "600"], preexec_fn=become(UID))) for _ in range(6)]
    running = machine.run_job("-g", "0", "--", "sleep", "600")
    arbiter, keeper = pids_of(world)
    # The keeper becomes the arbiter, and its own keeper is the last process that there is room for.
    wait_until(lambda: count_of(UID) >= len(idle) + 3, "everybody to be there")
    without = len(idle) + len([running, keeper]) + 1
    world.prlimit(keeper, nproc=f"{without}:{without}")
    os.kill(arbiter, signal.SIGKILL)
    wait_until(lambda: world.arbiter_pid() == keeper, "the keeper to be the arbiter", 15)
    done = world.run("-n", "-q", "--", "true")
    assert (done.returncode, done.stderr) == (124, ""), "it waits, and is not refused"
    waiting = world.start("-q", "--", "sh", "-c", "exit 3")
    wait_until(lambda: "waiting" in [job["state"] for job in world.jobs(all=False)], "a job to wait", 10)
    for child in idle:
        child.kill()
        child.wait()
    assert waiting.wait(30) == 3
