"""history --by, --day and --plot: sums and pictures of what ran."""

import json
import sys
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

from gpuwrap.errors import GpurunError
from gpuwrap.exports.picture import draw_picture
from gpuwrap.state.chronicle import Past


def had_some(world: World) -> None:
    """A job of a second, one that failed, one that never ran, and one that runs."""
    world.run("-N", "long", "-g", "2", "sleep", "1")
    world.run("-N", "bad", "sh", "-c", "exit 3")
    world.start("-q", "-N", "runs", "-g", "all", "sleep", "600")
    wait_until(lambda: world.state(3) == "running", "the last to run")
    assert world.run("-w", "1s", "-N", "never", "true").returncode == 124
    wait_until(lambda: world.state(4) == "ended", "the end of the wait to be known")


def test_sums_tell_gpu_hours_jobs_failures_and_waits(world: World) -> None:
    had_some(world)
    found = {each["name"]: each for each in json.loads(world.run("history", "--by", "name", "--json").stdout)["sums"]}
    assert 2.0 <= found["long"]["gpu_seconds"] < 20, "two GPUs for a second"
    assert (found["bad"]["jobs"], found["bad"]["failed"]) == (1, 1)
    assert (found["never"]["jobs"], found["never"]["never_ran"]) == (0, 1)
    assert found["runs"]["gpu_seconds"] > 0, "what has not ended counts so far"
    (user,) = json.loads(world.run("history", "--by", "user", "--json").stdout)["sums"]
    assert (user["jobs"], user["failed"], user["never_ran"]) == (3, 1, 1)
    assert abs(user["gpu_seconds"] - sum(each["gpu_seconds"] for each in found.values())) < 20
    header, line = world.run("history", "--by", "day").stdout.splitlines()
    assert header.split() == ["GPU-HOURS", "JOBS", "FAILED", "NEVER", "RAN", "WAITED", "AT", "MOST", "DAY"]
    assert line.split()[1:3] == ["3", "1"]
    assert "AT MOST" in world.run("history", "--by", "name", "l*").stdout


def test_the_last_day_is_drawn_in_80_columns(world: World) -> None:
    had_some(world)
    lines = world.run("history", "--day").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line[:5] for line in lines if "━" in line and line.startswith("GPU")] == ["GPU 0", "GPU 1"]
    assert any(line.split()[0] == "3" and "runs: sleep 600" in line for line in lines if line.strip())
    bars = json.loads(world.run("history", "--day", "--json").stdout)
    assert {tuple(bar["gpus"]) for bar in bars["bars"] if bar["job"] == 3} == {(0, 1)}
    assert [bar["runs"] for bar in bars["bars"] if bar["job"] in (1, 3)] == [False, True]


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_is_drawn_whole_or_not_at_all(world: World, tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    world.run("-N", "$\\frac{<b>&", "sleep", "0.2")
    wait_until(lambda: world.state(1) == "ended", "it to have ended")
    path = tmp_path / f"day.{kind}"
    done = world.run("history", "--plot", path, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [each.name for each in tmp_path.iterdir()] == [path.name], "nothing is left beside it"
    if kind == "svg":
        assert "GPU 0" in "".join(xml.parse(path).getroot().itertext())
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
    gone = world.run("history", "--plot", tmp_path / "no" / f"x.{kind}", timeout=60)
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    assert "no such file or directory" in gone.stderr


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(GpurunError) as caught:
        draw_picture("x.svg", Past([], {}, {}), [], {}, 0.0, 1.0)
    assert caught.value.report("history") == "history: --plot: not installed: matplotlib\npip install 'gpuwrap[plot]'"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--by", "usr"], "--by usr: did you mean user?"),
        (["--by", "week"], "--by week: user, name or day"),
        (["--by", "user", "--day"], "--by goes without --day"),
        (["--day", "--since", "2d"], "--day goes without --since"),
        (["--plot", "x.pdf"], "--plot x.pdf: FILE.svg or FILE.png"),
        (["--by", "user", "-n", "3"], "--by goes without --lines"),
    ],
)
def test_wrong_usage_is_told(world: World, words: list[str], text: str) -> None:
    done = world.run("history", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr


def test_where_nothing_ever_ran_there_is_nothing_to_sum_up(world: World) -> None:
    assert world.run("history", "--by", "user").stdout == "no jobs\n"
    assert world.run("history", "--day").stdout == "no jobs had a GPU on the last day\n"
