"""The story of the restartable training, with default options: `gpurun -p low -r python train.py` fills the card, is ended
for an urgent newcomer, and comes back by itself from its checkpoint.

Nobody is ended before it has run for five minutes (`min_run`); so the story as it is by default is `long`, and the short
form sets that one bound lower. What the programs did is read from their own log.
"""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pauses import GIB, PROMISED_SECONDS, Line, Stage, groups_go_with_their_world
from waiting import let_pass, wait_until
from world import SUPPORT, World

__all__ = ["groups_go_with_their_world"]
pytestmark = pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="scikit-learn is not installed")

TRAIN = SUPPORT / "train_resuming.py"
# How often the arbiter looks at those who wait for nothing that it is told of, such as the age of a job.
LOOK_SECONDS = 1.0
CHECKPOINT_EVERY = 10


def training(log: Path, state: Path, epochs: int, *options: str) -> list[str]:
    return [sys.executable, str(TRAIN), str(log), "train", str(state), str(epochs), f"every={CHECKPOINT_EVERY}", *options]


def undisturbed(folder: Path, epochs: int) -> str:
    """What it learns if nobody disturbs it."""
    log = folder / "calm"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPURUN_")}
    subprocess.run(training(log, folder / "calm-state", epochs), check=True, timeout=120, env=environment)
    return log.read_text().rpartition(" result ")[2].split("\n")[0]


def runs(stage: Stage) -> list[list[Line]]:
    """What the training did in each of its runs."""
    found: list[list[Line]] = []
    for line in stage.beats.lines("train"):
        if line.what == "start":
            found.append([])
        found[-1].append(line)
    return found


def at(lines: list[Line], what: str) -> int:
    """When it did something last, in ns."""
    return max(line.at_ns for line in lines if line.what == what)


@pytest.mark.parametrize(
    ("min_run", "saves"),
    [
        pytest.param("6s", True, id="6 s, saves when asked"),
        pytest.param("6s", False, id="6 s, dies when asked"),
        pytest.param(None, True, id="defaults", marks=[pytest.mark.long, pytest.mark.limit(600)]),
    ],
)
def test_a_restartable_training_makes_way_for_an_urgent_job_and_comes_back_from_its_checkpoint(
    make_world: Callable[..., World], tmp_path: Path, record_property: Callable[[str, object], None],
    min_run: str | None, saves: bool,
) -> None:  # fmt: skip
    world = make_world("1x80G")
    if min_run is not None:
        (world.directory / "settings.toml").write_text(f'min_run = "{min_run}"\n')
    seconds, words = (6, "6 s") if min_run else (300, "5 min")
    stage = Stage(world, tmp_path)
    beats, pause = stage.beats, 20 if min_run else 100
    epochs = int(seconds * 1000 / pause) + 150
    line = training(beats.path, tmp_path / "state", epochs, f"pause={pause}", *([] if saves else ["deaf"]))
    train = world.start("-p", "low", "-r", *line)
    stage.until_running("train", 60)
    # It has hardly begun, and it holds nearly all of the card: the newcomer waits, and is told for how long.
    urgent = stage.start("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(2, "waiting")
    sentence = rf"job 1 holds 78 of 80G and may be ended at \d\d:\d\d, when it has run for {words} \(min_run\)"
    wait_until(lambda: re.search(sentence, stage.text("why", "2")), "the reason to be told", 5)
    # Then, by itself, and not a moment before.
    wait_until(lambda: beats.has("infer", "beat"), "the urgent job to run", seconds + 30)
    (first,) = runs(stage)
    gone = at(first, "end") if saves else at(first, "beat")
    started = beats.first("infer", "start").at_ns
    rows = [row for row in world.events() if row["job_id"] == 1]
    ran = next(r["at"] for r in rows if r["to_state"] == "stopping") - next(r["at"] for r in rows if r["to_state"] == "running")
    assert seconds <= ran < seconds + 2 * LOOK_SECONDS
    assert stage.whys(1, "stopping") == ["gives way to job 2"]
    assert world.state(1) == "waiting"
    assert "gave way" in stage.whys(1, "waiting")[-1]
    let_pass(1, "it would come back as soon as the other has ended")
    assert len(runs(stage)) == 1, "it waits while the urgent job runs"
    stage.open("infer")
    assert urgent.wait(30) == 0
    stage.beats.until_beats("train", 3)
    ended = beats.last("infer", "end").at_ns
    second = runs(stage)[1]
    back = second[0].at_ns
    assert train.wait(120) == 0
    job = world.job(1)
    assert (job["attempt"], job["times_given_way"], job["state"]) == (2, 1, "ended")
    # Work lost: what it did after its last checkpoint, and no more.
    saved = max((int(each.value) for each in first if each.what == "saved"), default=0)
    done = max(int(each.value) for each in first if each.what == "beat")
    begun = min(int(each.value) for each in runs(stage)[1] if each.what == "beat")
    lost = done - saved
    assert begun == saved + 1
    assert lost == 0 if saves else 0 <= lost < CHECKPOINT_EVERY
    assert [each.value for each in runs(stage)[1] if each.what == "result"] == [undisturbed(tmp_path, epochs)]
    if saves:  # one that dies frees its memory without a word
        assert beats.too_much_memory(80 * GIB) == []
    waits, returns = (started - gone) / 1e9, (back - ended) / 1e9
    record_property("counted", f"start {waits:.2f} s after its exit, back {returns:.2f} s")
    print(
        f"asked after {ran:.2f} s of running; newcomer's first instruction {waits:.3f} s after the program's own exit; "
        f"back {returns:.3f} s after the end; {done} epochs done, {lost} lost of {CHECKPOINT_EVERY}"
    )
    # What urgent work waits beyond the program's own exit, and the program after the end of that.
    assert waits < PROMISED_SECONDS
    assert 0 < returns < PROMISED_SECONDS
