"""Nothing is decided by wall time, and what an earlier version wrote down by it is reckoned anew, once."""

import ast
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest
from earlier import SINCE, make_version_1, make_version_4, make_version_5
from test_layers import modules
from views import waiting

from gpuwrap.clocks import Now, boot_id, span, wall_at
from gpuwrap.lifecycle import Event
from gpuwrap.model import Share
from gpuwrap.state.paths import Folder
from gpuwrap.state.reading import Reader
from gpuwrap.state.rows import row_from_job
from gpuwrap.state.schema import VERSION
from gpuwrap.state.store import Store

# What else asks what time it is on the wall.
ASKING = {"time.time", "time.time_ns", "time.CLOCK_REALTIME", "datetime.now", "datetime.today", "datetime.utcnow", "date.today"}
# Where on a calendar something lies is what these show; how long it was, they reckon on the other clock.
CALENDARS = {"clocks", "accounts.stretches", "accounts.days", "arbiter.people.crowd", "charts", "exports.picture"}
NO_ORDER = ast.Is | ast.IsNot | ast.In | ast.NotIn
HOUR = 3600.0


def name_of(node: ast.AST) -> str:
    """`a.b` of an attribute or a call of it, the last two names of a longer one."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value).rpartition('.')[2]}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def askers(tree: ast.Module) -> list[str]:
    names = [name_of(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name in ASKING]


def reckonings(tree: ast.Module) -> list[int]:
    """The lines on which a date is compared, subtracted, or the larger or smaller one is taken."""
    lines = []
    for node in ast.walk(tree):
        operands: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            operands = [node.left, node.right]
        elif isinstance(node, ast.Compare) and not all(isinstance(op, NO_ORDER) for op in node.ops):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and name_of(node.func) in ("min", "max", "sorted"):
            operands = list(node.args)
        parts = [part for each in operands for part in (each.values if isinstance(each, ast.BoolOp) else [each])]
        if any(name_of(part).endswith(("_at", ".at")) for part in parts):
            lines.append(node.lineno)
    return lines


def test_one_module_asks_what_time_it_is_on_the_wall() -> None:
    assert {name: askers(tree) for name, tree in modules().items() if askers(tree)} == {"clocks": ["time.time"]}


def test_dates_are_shown_and_nothing_is_reckoned_with_them() -> None:
    assert {name: reckonings(tree) for name, tree in modules().items() if name not in CALENDARS and reckonings(tree)} == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import time\nif time.time() > 3: pass", 1),
        ("from time import time", 1),
        ("import datetime\ndatetime.datetime.now()", 1),
        ("import time\ntime.clock_gettime(time.CLOCK_REALTIME)", 1),
        ("import time\ntime.monotonic()", 0),
    ],
)
def test_who_asks_for_wall_time_is_seen(text: str, found: int) -> None:
    assert len(askers(ast.parse(text))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("now_at - job.started_at", 1),
        ("x = wall_at() - 5", 1),
        ("5 < job.paused_at", 1),
        ("now - (job.paused_at or now)", 1),
        ("max(begun, job.ended_at or 0)", 1),
        ("job.started_at is None", 0),
        ("now_at + seconds", 0),
        ("now_mono - job.started_mono", 0),
    ],
)
def test_a_reckoning_with_dates_is_seen(text: str, found: int) -> None:
    assert len(reckonings(ast.parse(text))) == found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield Folder(str(tmp_path), fd)
    os.close(fd)


def left_by_version_4(folder: Folder, boot: str, at: float) -> None:
    """A job that was submitted, granted and started `at`, and paused and resumed for a minute each 10 s later."""
    store = Store(folder)
    with store.batch():
        job = store.register(replace(waiting(0), identity=replace(waiting(0).identity, boot_id=boot), submitted_at=at))
        job = store.grant(job, (Share("GPU-0", 0, 1, True),), "granted")
        store.move(job, Event.TAKE, "taken", started_at=at)
    store.close()
    make_version_4(folder.inside("state.db"))
    with closing(sqlite3.connect(folder.inside("state.db"))) as database, database:
        database.execute("UPDATE job SET granted_at = ?, returned_at = ?", (at, at + 70))
        database.execute("UPDATE event SET at = ?", (at,))
        for seconds, state in ((10, "paused"), (70, "running")):
            database.execute("INSERT INTO event (job_id, at, to_state, why) VALUES (1, ?, ?, '')", (at + seconds, state))


def test_what_an_arbiter_of_version_4_has_left_is_reckoned_anew_once(folder: Folder) -> None:
    left_by_version_4(folder, boot_id(), wall_at() - HOUR)
    for _ in range(2):
        store = Store(folder)
        begun = monotonic() - HOUR
        job = store.live[1]
        times = job.submitted_mono, job.granted_mono, job.started_mono, job.returned_mono
        assert times == pytest.approx((begun, begun, begun, begun + 70), abs=5)
        assert (job.ended_mono, job.paused_mono) == (None, None)
        assert store.paused_seconds_since([1], begun - 10) == pytest.approx(60, abs=0.1)
        store.close()
    with closing(sqlite3.connect(folder.inside("state.db"))) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_what_version_4_says_to_be_in_the_future_is_taken_to_be_now(folder: Folder) -> None:
    """The clock was set back under it: its limits would be years away."""
    left_by_version_4(folder, boot_id(), wall_at() + 10 * 365 * 24 * HOUR)
    store = Store(folder)
    assert store.live[1].started_mono == pytest.approx(monotonic(), abs=5)
    store.close()


def test_of_another_boot_only_dates_are_left(folder: Folder) -> None:
    left_by_version_4(folder, "another boot", wall_at() - HOUR)
    store = Store(folder)
    job = store.live[1]
    assert (job.started_mono, job.granted_mono, job.returned_mono) == (None, None, None)
    assert job.started_at == pytest.approx(wall_at() - HOUR, abs=5)
    store.close()


def test_what_the_first_version_has_left_is_reckoned_anew_too(folder: Folder) -> None:
    """On its first day it knew no pauses, and had no dates of any."""
    left_by_version_4(folder, boot_id(), wall_at() - HOUR)
    with closing(sqlite3.connect(folder.inside("state.db"))) as database, database:
        for column in (*SINCE[1], *SINCE[2], *SINCE[3]):
            database.execute(f"ALTER TABLE job DROP COLUMN {column}")
        database.execute("PRAGMA user_version = 1")
    store = Store(folder)
    job = store.live[1]
    assert (job.submitted_mono, job.started_mono) == pytest.approx((monotonic() - HOUR,) * 2, abs=5)
    assert (job.returned_mono, job.retries, job.requeue) == (None, 0, False)
    assert store.paused_seconds_since([1], monotonic() - 2 * HOUR) == pytest.approx(60, abs=0.1)
    store.close()


def test_of_version_5_all_is_kept_and_nobody_had_said_what_a_job_may_take(folder: Folder) -> None:
    store = Store(folder)
    with store.batch():
        before = row_from_job(store.register(replace(waiting(0), expect_seconds=60.0)))
    store.close()
    make_version_5(folder.inside("state.db"))
    (read,) = Reader(folder).jobs(ended=False)
    store = Store(folder)
    assert row_from_job(read) == row_from_job(store.live[1]) == (*before[:-2], None, None)
    with store.batch():
        store.change(store.live[1], expect_seconds=60.0)
    store.close()
    (read,) = Reader(folder).jobs(ended=False)
    assert row_from_job(read) == before


@pytest.mark.parametrize("earlier", [make_version_1, make_version_4, make_version_5])
def test_a_database_that_was_brought_up_to_date_has_all_that_a_new_one_has(
    folder: Folder, earlier: Callable[[str], None]
) -> None:
    def has(path: str) -> set[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as database:
            tables = database.execute("SELECT name FROM sqlite_master").fetchall()
            return {(name, row[1]) for (name,) in tables for row in database.execute(f"PRAGMA table_xinfo({name})")}

    Store(folder).close()
    new = has(folder.inside("state.db"))
    earlier(folder.inside("state.db"))
    assert new - has(folder.inside("state.db"))
    Store(folder).close()
    assert new <= has(folder.inside("state.db"))


def test_durations_are_told_by_the_clock_that_decides_and_by_dates_of_another_boot() -> None:
    now = Now(at=1_000_000.0, mono=500.0, boot="b")
    assert now.since(-1e9, 440.0, "b") == 60.0
    assert now.since(1_000_000.0 - 7, 440.0, "another") == 7.0
    assert now.since(1_000_000.0 - 7, None, "b") == 7.0
    assert span((5.0, 100.0), (1e9, 130.0)) == 30.0
    assert span((5.0, 100.0), (25.0, None)) == 20.0
    assert span((5.0, None), (1.0, None)) == 0.0
