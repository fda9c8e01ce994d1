"""The bounds of giving way, end to end."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pauses import Stage, groups_go_with_their_world, may_freeze
from world import World

MakeStage = Callable[..., Stage]

__all__ = ["groups_go_with_their_world"]
pytestmark = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")


@pytest.fixture
def stage_of(make_world: Callable[..., World], tmp_path: Path) -> MakeStage:
    """A stage whose arbiter has these settings."""

    def make(spec: str = "1x80G", **settings: object) -> Stage:
        world = make_world(spec)
        (world.directory / "settings.toml").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
        return Stage(world, tmp_path)

    return make


def pauses_of(stage: Stage, job: int) -> list[float]:
    """For how long a job was paused, each time that has ended."""
    found, since = [], None
    for row in stage.world.events():
        if row["job_id"] == job and row["to_state"] == "paused":
            since = row["at"]
        elif row["job_id"] == job and since is not None:
            found.append(row["at"] - since)
            since = None
    return found


def test_the_limit_of_a_job_inside_a_paused_one_counts_no_pause(stage_of: MakeStage) -> None:
    stage = stage_of()
    inner = f"{stage.world.command} -t 3s -- {' '.join(stage.words('inner', 'every=20'))}"
    stage.world.start("sh", "-c", f"{inner}; {' '.join(stage.words('outer'))}")
    stage.until_running("inner")
    assert stage.world.run("pause", "1").returncode == 0
    time.sleep(5)  # longer than the limit
    assert stage.world.state(2) == "running"
    assert stage.world.run("resume", "1").returncode == 0
    stage.until_state(2, "ended")
    stood = pauses_of(stage, 1)[0]
    first, last = stage.beats.first("inner", "beat").at_ns, stage.beats.last("inner").at_ns
    computed = (last - first) / 1e9 - stood
    print(f"computed for {computed:.2f} s of 3 s, and stood still for {stood:.2f} s")
    assert 2.5 < computed < 4
    assert stage.world.job(2)["result"]["text"] == "time limit of 3s"
    stage.open("outer")
