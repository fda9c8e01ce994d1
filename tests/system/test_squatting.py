"""Another user at the claims: he may connect, and bind a name first; what that costs us is bounded, and seen."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pauses import Stage
from standin import Gpu, NoCompiler, build
from test_two_worlds import OtherUsersWorld
from waiting import let_pass, wait_until
from world import OTHER_UID, SUPPORT, World

from gpuwrap.arbiter.worlds.crowding import MOST_IN_ALL, MOST_OF_A_USER

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may run something as another user")

TICKS = os.sysconf("SC_CLK_TCK")
WATCHED_SECONDS = 2.0
# Of one processor. Before there was a bound it was all of it.
MOST_CPU_PART = 0.2
PYTHON = "/usr/bin/python3"


class Squatter:
    """A process of another user at a claim."""

    def __init__(self, folder: Path, kind: str, uuid: str, count: int = 0) -> None:
        program = folder / "squatter.py"
        program.write_text((SUPPORT / "squatter.py").read_text())
        program.chmod(0o644)
        uid = 0 if kind == "many" else OTHER_UID
        self.process = subprocess.Popen(
            [PYTHON, program, kind, f"gpurun/{uuid}", str(count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=uid, group=uid, extra_groups=[], cwd="/", text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def leave(self) -> int:
        """End it; returns how many connections there were."""
        output, _ = self.process.communicate(timeout=20)
        return int(output)


@pytest.fixture
def squat(open_folder: Path) -> Iterator[Callable[..., Squatter]]:
    made: list[Squatter] = []

    def start(kind: str, uuid: str, count: int = 0) -> Squatter:
        made.append(Squatter(open_folder, kind, uuid, count))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def stage(make_world: Callable[..., World], tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(make_world("1x24G"), tmp_path)
    yield stage
    stage.open_all()


def uuid_of(world: World) -> str:
    done = world.run("gpus", "--json")
    return str(json.loads(done.stdout)["gpus"][0]["uuid"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def held_claim(stage: Stage, **popen: Any) -> tuple[int, str]:
    """Start a job; returns the arbiter, and the GPU that it has claimed."""
    stage.running("runs", **popen)
    uuid = uuid_of(stage.world)
    arbiter = wait_until(stage.world.arbiter_pid, "the arbiter")
    return arbiter, uuid


@pytest.mark.parametrize(
    ("kind", "count"),
    [("crowd", 3000), ("churn", 0), ("talk", 0), ("trickle", 0), ("many", 3000)],
)
def test_who_connects_to_a_claim_costs_next_to_nothing(
    stage: Stage, squat: Callable[..., Squatter], kind: str, count: int
) -> None:
    arbiter, uuid = held_claim(stage)
    quiet = descriptors(arbiter)
    squatter = squat(kind, uuid, count)
    used = cpu_seconds(arbiter)
    most = 0
    until = time.monotonic() + WATCHED_SECONDS

    def watch() -> bool:
        nonlocal most
        most = max(most, descriptors(arbiter))
        return time.monotonic() > until

    wait_until(watch, "a while to pass", WATCHED_SECONDS + 2)
    begun = time.monotonic()
    assert "running" in stage.text("ls")
    assert time.monotonic() - begun < 2.0
    part = (cpu_seconds(arbiter) - used) / (time.monotonic() - until + WATCHED_SECONDS)
    print(f"{kind}: {part:.1%} of a processor, {quiet} to {most} descriptors")
    assert stage.world.arbiter_pid() == arbiter
    assert part < MOST_CPU_PART
    assert most <= quiet + (MOST_IN_ALL if kind == "many" else MOST_OF_A_USER) + 4
    squatter.leave()
    wait_until(lambda: descriptors(arbiter) <= quiet, "the guests to be gone", 5)


def test_an_arbiter_with_few_descriptors_keeps_its_claim_and_its_pauses(stage: Stage, squat: Callable[..., Squatter]) -> None:
    few = ("bash", "-c", 'ulimit -n 256; exec "$@"', "bash")
    arbiter, uuid = held_claim(stage, prefix=few)
    stage.running("urgent", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    squatters = [squat("many", uuid, 2000), squat("crowd", uuid, 2000)]
    let_pass(WATCHED_SECONDS, "the squatters to do their worst")
    print(f"{descriptors(arbiter)} descriptors")
    assert stage.world.run("-n", "--", "true").returncode == 124
    assert stage.world.arbiter_pid() == arbiter, stage.world.last_words()
    assert stage.beats.stands_still("runs")
    for squatter in squatters:
        squatter.leave()
    stage.open("urgent")
    stage.beats.until_beats("runs")


def test_who_was_not_let_in_learns_of_the_release_all_the_same(
    make_world: Callable[..., World], everybodys_command: str, open_folder: Path, squat: Callable[..., Squatter]
) -> None:
    """The squatters are of the other world's own user: it comes after them, and never has a connection that stays."""
    try:
        box = build(open_folder / "driver", Gpu(uuid=f"GPU-{uuid4()}"))
    except NoCompiler as missing:
        pytest.skip(str(missing))
    mine = Stage(make_world(None, **box.environment), open_folder)
    with OtherUsersWorld(None, command=everybodys_command, **box.environment) as theirs:
        os.chown(theirs.directory, OTHER_UID, OTHER_UID)
        arbiter, uuid = held_claim(mine)
        squat("crowd", uuid, 500)
        squat("churn", uuid)
        client = theirs.start("--", "true", cwd="/")
        wait_until(lambda: theirs.rows("SELECT 1 FROM job WHERE state = 'waiting'"), "the other world's job to wait")
        let_pass(2.5, "it to be turned away")
        begun = time.monotonic()
        mine.open("runs")
        assert client.wait(30) == 0
        print(f"{time.monotonic() - begun:.2f} s after the release")
        assert time.monotonic() - begun < 4
        assert mine.world.arbiter_pid() == arbiter


@pytest.mark.parametrize("kind", ["release", "shut", "crowded", "garbage", "keep", "mute"])
def test_who_holds_a_claim_that_is_none_is_named_and_asked_seldom(
    stage: Stage, squat: Callable[..., Squatter], kind: str
) -> None:
    with_none = uuid_of(stage.world)
    squatter = squat(kind, with_none)
    client = stage.start("waits")
    wait_until(lambda: stage.world.rows("SELECT 1 FROM job WHERE state = 'waiting'"), "the job to wait")
    arbiter = wait_until(stage.world.arbiter_pid, "the arbiter")
    let_pass(0.5, "the first answers")
    used = cpu_seconds(arbiter)
    let_pass(WATCHED_SECONDS, "the squatter to answer")
    part = (cpu_seconds(arbiter) - used) / WATCHED_SECONDS
    said = stage.text("why", "1") + stage.text("gpus")
    rounds = squatter.leave()
    print(f"{kind}: {part:.1%} of a processor, {rounds} rounds")
    assert part < MOST_CPU_PART
    assert rounds <= 2 * (WATCHED_SECONDS + 2) + 4
    assert "another gpurun has the GPU" in said
    assert kind == "mute" or str(squatter.process.pid) in said
    stage.until_running("waits", 12)
    stage.open("waits")
    assert client.wait(20) == 0
