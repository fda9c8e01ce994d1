"""Figures for Prometheus: named as it has them, bounded, never smaller than before; and a dashboard that shows them."""

import contextlib
import json
import re
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from equipment import find_tool
from waiting import wait_until
from world import World

from gpuwrap.accounts.totals import Totals
from gpuwrap.errors import GpurunError, UsageError

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "share" / "grafana-dashboard.json"
Figures = dict[tuple[str, str], float]


def written(world: World, folder: Path) -> str:
    path = folder / "gpurun.prom"
    done = world.run("metrics", "--textfile", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [each.name for each in folder.iterdir()] == ["gpurun.prom"], "nothing is left beside it"
    return path.read_text()


def read(text: str) -> Figures:
    """Every sample, by its name and the values of its labels."""
    found: Figures = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = " ".join(value for name, value in sorted(sample.labels.items()) if name != "uuid")
            found[sample.name, labels] = sample.value
    return found


def had_some(world: World) -> None:
    world.run("-g", "2", "sleep", "1")
    world.run("sh", "-c", "exit 3")
    world.start("-q", "-m", "8G", "sleep", "600")
    wait_until(lambda: world.state(3) == "running", "job 3 to run")
    blocked = world.start("-q", "-g", "2", "sleep", "600")
    wait_until(lambda: world.state(4) == "waiting", "job 4 to wait")
    blocked.terminate()
    wait_until(lambda: world.state(4) == "ended", "job 4 to have left the line")


def test_figures_tell_what_has_been_and_what_is(world: World, tmp_path: Path) -> None:
    had_some(world)
    found = read(written(world, tmp_path))
    assert found["gpurun_jobs", "running"] == 1
    assert found["gpurun_jobs", "waiting"] == 0
    assert [found["gpurun_jobs_ended_total", word] for word in ("success", "failure", "cancelled")] == [1, 1, 1]
    assert found["gpurun_queue_wait_seconds_count", ""] == 3
    assert found["gpurun_queue_wait_seconds_bucket", "+Inf"] == 3
    granted = [found["gpurun_gpu_granted_bytes", index] for index in "01"]
    assert sorted(granted) == [0, 8 << 30]
    (use,) = [value for (name, _user), value in found.items() if name == "gpurun_user_gpu_seconds_total"]
    assert 2.0 <= use < 60
    assert found["gpurun_arbiter_up", ""] == 1
    assert found["gpurun_plan_seconds_count", ""] > 0
    assert found["gpurun_commit_failures_total", ""] == 0
    assert found["gpurun_arbiter_starts_total", ""] == 1


@pytest.mark.needs("promtool")
def test_promtool_has_nothing_to_find_fault_with(world: World, tmp_path: Path) -> None:
    had_some(world)
    done = subprocess.run([find_tool("promtool") or "", "check", "metrics"], input=written(world, tmp_path),
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.long
def test_what_is_forgotten_still_counts(world: World, tmp_path: Path) -> None:
    """Or a counter would go back, which Prometheus takes for a restart."""
    had_some(world)
    before = read(written(world, tmp_path))
    world.run("kill", "-9", "3")
    (world.directory / "settings.toml").write_text("keep_history = 1\n")
    arbiter = world.arbiter_pid()
    assert arbiter is not None
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to leave", 60)
    world.start("-q", "sleep", "600")  # the next one forgets soon after its start
    wait_until(lambda: len(world.rows("SELECT id FROM job WHERE state = 'ended'")) == 1, "all but one to be forgotten", 90)
    after = read(written(world, tmp_path))
    for key, value in before.items():
        if key[0].endswith(("_total", "_count", "_sum", "_bucket")) and "plan" not in key[0]:
            assert after[key] >= value, key
    assert after["gpurun_jobs_ended_total", "success"] == 1


def test_labels_are_bounded_whatever_jobs_and_users_there_are(world: World, tmp_path: Path) -> None:
    world.run("-N", "secret-name", "true", "secret-argument")
    wait_until(lambda: world.state(1) == "ended", "it to have ended")
    with contextlib.closing(sqlite3.connect(world.database, timeout=10)) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(job)") if row[1] not in ("id", "key", "user")]
        moves = "INSERT INTO event (job_id, at, to_state, why, mono) SELECT id, 0, {0}, '', {1} FROM job WHERE id > 1"
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) "
            f"INSERT INTO job (key, user, {', '.join(names)}) "
            f"SELECT 'f' || i, 'u' || i, {', '.join(names)} FROM job, n WHERE id = 1"
        )
        database.execute(moves.format("'running'", "1"))
        database.execute(moves.format("'ended'", "3"))
    text = written(world, tmp_path)
    users = [line for line in text.splitlines() if line.startswith("gpurun_user_gpu_seconds_total")]
    assert len(users) == 101
    assert [line for line in users if "(others)" in line] == ['gpurun_user_gpu_seconds_total{user="(others)"} 402.0']
    assert "secret" not in text


def test_it_is_served_and_keeps_no_arbiter(world: World) -> None:
    world.run("true")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = world.start("metrics", "--listen", f":{port}")

    def answer() -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as told:
                return str(told.read().decode())
        except OSError:
            return ""

    text = wait_until(answer, "an answer")
    assert read(text)["gpurun_jobs_ended_total", "success"] == 1
    taken = world.run("metrics", "--listen", f"127.0.0.1:{port}")
    assert (taken.returncode, taken.stderr) == (
        1, f"gpurun: metrics: cannot listen: 127.0.0.1:{port}: address already in use\n"
    )  # fmt: skip
    server.terminate()
    server.wait(20)


def test_where_nothing_ever_ran_there_are_figures_and_no_arbiter(world: World, tmp_path: Path) -> None:
    found = read(written(world, tmp_path))
    assert found["gpurun_arbiter_up", ""] == 0
    assert found["gpurun_jobs_ended_total", "success"] == 0
    assert world.arbiter_pid() is None


@pytest.mark.parametrize(
    ("text", "address"),
    [("9460", ("127.0.0.1", 9460)), (":1", ("127.0.0.1", 1)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:9", ("::1", 9)),
     ("[::1]", ("::1", 9460)), ("localhost", ("localhost", 9460))],
)  # fmt: skip
def test_addresses_are_read_as_everywhere(text: str, address: tuple[str, int]) -> None:
    from gpuwrap.commands.metrics import read_address

    assert read_address(text) == address


def test_wrong_usage_is_told(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuwrap.commands import metrics

    for text in ("", ":x", "host:0", "host:65536", "http://x:1", "a b:1"):
        with pytest.raises(UsageError):
            metrics.read_address(text)
    assert "FILE.prom" in world.run("metrics", "--textfile", "x.txt").stderr
    gone = world.run("metrics", "--textfile", tmp_path / "no" / "x.prom")
    assert (gone.returncode, gone.stderr.count("\n")) == (1, 1)
    monkeypatch.setitem(sys.modules, "gpuwrap.exports.prometheus", None)
    monkeypatch.delattr("gpuwrap.exports.prometheus", raising=False)
    with pytest.raises(GpurunError, match="not installed"):
        metrics.main({}, [])


def test_totals_are_read_as_they_were_written() -> None:
    totals = Totals()
    totals.add_waits([0.5, 1.0, 70.0, 1e9])
    totals.users["anna"] = 5.0
    totals.results["success"] = 2
    both = Totals.remembered(totals.text())
    both.add(totals)
    assert (both.users, both.results["success"], sum(both.waits)) == ({"anna": 10.0}, 4, 8)
    assert both.waits[0] == 4, "a bucket has its own bound"
    assert Totals.remembered("").text() == Totals().text()


# --- the dashboard ------------------------------------------------------------------------------------------------


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def test_the_dashboard_is_one_that_grafana_would_load() -> None:
    """By what Grafana's own schema asks of a dashboard [grafana, kinds/dashboard]; no Grafana was at hand."""
    board = json.loads(DASHBOARD.read_text())
    assert board["schemaVersion"] >= 36
    assert board["title"] == "gpurun"
    assert re.fullmatch(r"[\w-]{1,40}", board["uid"])
    assert [each["type"] for each in board["templating"]["list"]] == ["datasource", "query"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    taken = set()
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat")
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _y in cells) < 24
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "percentunit", "celsius", "watt")
        assert [target["refId"] for target in panel["targets"]] == list("ABC"[: len(panel["targets"])])


def test_the_dashboard_asks_only_for_what_is_told(world: World, tmp_path: Path) -> None:
    had_some(world)
    told = {name for name, _labels in read(written(world, tmp_path))}
    told |= {f"gpurun_gpu_{name}" for name in ("utilization_ratio", "temperature_celsius", "power_watts")}  # simulated: unknown
    asked = {name for panel in panels() for each in panel["targets"] for name in re.findall(r"gpurun_\w+", each["expr"])}
    assert asked <= told


@pytest.mark.needs("promtool")
def test_the_dashboards_questions_are_understood(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{panel['id']}:{target['refId']}", "expr": target["expr"].replace("$instance", ".*")}
        for panel in panels() for target in panel["targets"]
    ]  # fmt: skip
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML, too
    done = subprocess.run([find_tool("promtool") or "", "check", "rules", tmp_path / "rules.yml"],
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
