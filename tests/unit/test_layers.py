"""Imports only run downwards, each outside library has one importer, and a launch loads next to nothing."""

import ast
import graphlib
import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

import gpuwrap

PACKAGE = Path(gpuwrap.__file__).parent
# From below; a layer imports itself and those below it. `host` and `state` never know each other.
LAYERS = [
    {"errors"},
    {"units", "wire", "lifecycle", "widths", "stdout", "clocks"},
    {"options", "people", "restarts", "outputs", "sweeps"},
    {"model"},
    {"listed", "turns", "standing"},
    {"policy"},
    {"accounts"},
    {"state", "host"},
    {"client"},
    {"arbiter"},
    {"tables", "folding"},
    {"listing", "charts"},
    {"render"},
    {"exports", "web"},
    {"launch"},
    {"commands"},
    {"slurm"},
    {"cli", "block"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names} | {"__init__": -1}
PURE = {
    "errors", "units", "wire", "lifecycle", "widths", "options", "people", "model", "restarts", "outputs", "sweeps", "turns",
    "listed", "policy", "accounts",
}  # fmt: skip
# What may be imported upwards, and why.
ALLOWED = {
    # only for a mistake: which priority was meant
    ("units", "options"),
    # loaded when a Python program asks for it, never by a launch
    ("__init__", "block"),
    ("__init__", "errors"),
}
ONE_IMPORTER = {
    "pynvml": {"host.nvml"},
    "psutil": {"host.processes"},
    "filelock": {"arbiter.start"},
    "platformdirs": {"state.settings"},
    "sqlite3": {"state.store"},
    # the C half alone: a Tab waits for it
    "_sqlite3": {"state.reading"},
    "tomllib": {"state.settings"},
    # extras: only what they are for loads them
    "matplotlib": {"exports.picture"},
    "prometheus_client": {"exports.prometheus"},
    "starlette": {"web.app"},
    "uvicorn": {"web.serve"},
}
STANDARD = set(sys.stdlib_module_names)


def modules() -> dict[str, ast.Module]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text())
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imports(name: str, tree: ast.Module) -> set[str]:
    """What a module imports, also inside functions: `.x` for our own, dotted from the package."""
    found: set[str] = set()
    package = name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            target = [*base, *(node.module.split(".") if node.module else [])]
            found |= {"." + ".".join([*target, alias.name]) for alias in node.names}  # a module, or a name of one
            found |= {"." + ".".join(target)} if node.module else set()
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_imports_only_run_downwards() -> None:
    wrong = []
    for name, tree in modules().items():
        layer = name.split(".")[0]
        assert layer in RANK, f"{name}: a new module: which layer is it in?"
        for target in imports(name, tree):
            if not target.startswith("."):
                continue
            other = target[1:].split(".")[0] or "__init__"
            if other == layer or other not in RANK or (layer, other) in ALLOWED:
                continue
            if RANK[other] >= RANK[layer]:
                wrong.append(f"{name} imports {target[1:]}")
            if layer in PURE and other not in PURE and RANK[other] >= 0:
                wrong.append(f"{name} is pure, and imports {target[1:]}")
    assert not wrong, "\n".join(wrong)


# Imports that close a circle, those for type checkers counted. None may come to it; what is mended is struck off.
HOLD_EVERYBODY = {
    name: "arbiter.loop"
    for name in (
        "arbiter.answers.admission",
        "arbiter.answers.answers",
        "arbiter.answers.changing",
        "arbiter.answers.dry_run",
        "arbiter.answers.verbs",
        "arbiter.bell.ahead",
        "arbiter.birth",
        "arbiter.farewell",
        "arbiter.jobs.after",
        "arbiter.jobs.asking",
        "arbiter.jobs.enforce",
        "arbiter.jobs.killing",
        "arbiter.jobs.limits",
        "arbiter.jobs.memory",
        "arbiter.jobs.patience",
        "arbiter.jobs.rerunning",
        "arbiter.jobs.sweeps",
        "arbiter.lodging",
        "arbiter.mending",
        "arbiter.pausing.marks",
        "arbiter.pausing.pausing",
        "arbiter.pausing.stopping",
        "arbiter.pruning",
        "arbiter.seeing.astray",
        "arbiter.seeing.deciding",
        "arbiter.seeing.sampling",
        "arbiter.seeing.views",
        "arbiter.telling.gpus",
        "arbiter.telling.wait_line",
        "arbiter.tuning",
    )
}
KNOWN_EDGES = {
    *HOLD_EVERYBODY.items(),
    ("arbiter.answers.dry_run", "arbiter.answers.answers"),
    ("arbiter.answers.verbs", "arbiter.answers.answers"),
    ("arbiter.bell.seat", "arbiter.jobs.sweeps"),
    ("units", "options"),
}
# The folders of the arbiter, from below; what stands in none of them is above them all, but for GROUND.
FOLDERS = ["people", "bell", "kin", "worlds", "seeing", "pausing", "telling", "jobs", "answers"]
GROUND = {"log", "timers", "turn", "errands"}
KNOWN_UPWARDS = {
    ("arbiter.answers.answers", "arbiter.birth"),
    ("arbiter.bell.seat", "arbiter.jobs.sweeps"),
    ("arbiter.errands", "arbiter.bell.socket"),
    ("arbiter.jobs.rerunning", "arbiter.answers.table"),
    ("arbiter.jobs.sweeps", "arbiter.answers.table"),
    ("arbiter.pausing.pausing", "arbiter.telling.notices"),
    ("arbiter.seeing.astray", "arbiter.telling.notices"),
}
# Calls through a collaborator's collaborator, `self._a.b.c()`, in the arbiter.
MOST_REACHES = 383  # 365 before the machine's queue, which stands beside the loop and not yet in `compose`


def our_imports() -> dict[str, set[str]]:
    """Which of our modules each imports, also for type checkers only: who needs a name to say what it takes depends on it."""
    trees = modules()
    found: dict[str, set[str]] = {}
    for name, tree in trees.items():
        targets = {target[1:] for target in imports(name, tree) if target.startswith(".")}
        found[name] = {target for target in targets if target in trees and target != name}
    return found


def test_imports_have_no_circle() -> None:
    edges = our_imports()
    assert not [edge for edge in sorted(KNOWN_EDGES) if edge[1] not in edges.get(edge[0], ())], "mended: strike it off"
    graph = {name: {each for each in targets if (name, each) not in KNOWN_EDGES} for name, targets in edges.items()}
    graphlib.TopologicalSorter(graph).prepare()  # names the circle, if there is one


def test_nobody_but_who_builds_and_who_starts_it_imports_the_loop() -> None:
    importers = {name for name, targets in our_imports().items() if "arbiter.loop" in targets}
    assert importers - {"arbiter.compose", "arbiter.start", "arbiter.machine"} == set(HOLD_EVERYBODY)


def rank_in_arbiter(name: str) -> int:
    """How high a module of the arbiter stands: what is in no folder above all that are, but for the ground."""
    room = name.split(".")[1]
    return FOLDERS.index(room) if room in FOLDERS else -1 if room in GROUND else len(FOLDERS)


def test_the_folders_of_the_arbiter_import_downwards() -> None:
    wrong = {
        (name, target)
        for name, targets in our_imports().items()
        for target in targets
        if name.startswith("arbiter.") and target.startswith("arbiter.") and rank_in_arbiter(target) > rank_in_arbiter(name)
    }
    wrong -= {edge for edge in KNOWN_EDGES if edge[1] == "arbiter.loop"}
    assert sorted(wrong - KNOWN_UPWARDS) == []
    assert sorted(KNOWN_UPWARDS - wrong) == [], "mended: strike it off"


def reaches(tree: ast.Module) -> int:
    """How many calls go through a collaborator's collaborator; `arbiter` is one wherever it stands."""
    count = 0
    for node in ast.walk(tree):
        at, steps = node.func if isinstance(node, ast.Call) else None, 0
        while isinstance(at, ast.Attribute):
            at, steps = at.value, steps + 1
        through_itself = isinstance(at, ast.Name) and at.id == "self" and steps > 2
        count += through_itself or (isinstance(at, ast.Name) and at.id == "arbiter" and steps > 1)
    return count


def test_nobody_reaches_through_a_collaborator_more_than_before() -> None:
    found = {name: reaches(tree) for name, tree in modules().items() if name.startswith("arbiter.")}
    assert sum(found.values()) <= MOST_REACHES, Counter(found).most_common(10)


def test_a_reach_is_seen() -> None:
    assert reaches(ast.parse("self._arbiter.store.find(1); arbiter.store.find(1)")) == 2
    assert reaches(ast.parse("self._store.find(1); store.find(1); arbiter.adopt(1)")) == 0


# Who makes an identity of a pid and a start time; the last has jobs without processes.
IDENTITIES = {"arbiter.kin.walk", "host.processes", "state.rows", "policy.replaying"}


def names_called(tree: ast.Module) -> set[str]:
    """What a module calls by a bare name."""
    return {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def test_identities_are_made_in_few_places() -> None:
    assert {name for name, tree in modules().items() if "Identity" in names_called(tree)} == IDENTITIES


def test_what_outlives_an_arbiter_is_read_and_written_in_one_place() -> None:
    users = {
        name
        for name, tree in modules().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("note", "notes_of", "put_note") and is_store(node.value)
    }
    assert users == {"state.notes"}


def is_store(node: ast.expr) -> bool:
    return (node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")) in ("store", "_store")


def test_each_outside_library_has_exactly_one_importer() -> None:
    importers: dict[str, set[str]] = {}
    for name, tree in modules().items():
        for target in imports(name, tree):
            top = target.split(".")[0]
            if target.startswith(".") or (top in STANDARD and top not in ONE_IMPORTER) or top == "gpuwrap":
                continue
            importers.setdefault(top, set()).add(name)
    assert importers == ONE_IMPORTER


def test_nothing_knows_that_gpus_are_simulated_above_host() -> None:
    for name, tree in modules().items():
        if name.startswith(("policy", "render", "tables")):
            assert not any("simulated" in target for target in imports(name, tree)), name


HEAVY = {
    "sqlite3", "pynvml", "psutil", "filelock", "platformdirs", "socket", "signal", "re", "enum", "dataclasses", "json",
    "argparse", "typing", "collections", "subprocess",
}  # fmt: skip


def loaded_by(world: World, *words: str) -> set[str]:
    done = world.run(*words, extra={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


LAUNCHES = [
    ["true"],
    ["-m", "1G", "-p", "high", "-N", "x", "-w", "1m", "--", "true"],
    ["-t", "1h", "-o", "/dev/null", "--once", "k", "-a", "1", "true"],
    ["-r", "--retries", "1", "true"],
    ["--array", "1-2%1", "true"],
]


@pytest.mark.parametrize("words", LAUNCHES, ids=" ".join)
def test_a_launch_loads_next_to_nothing_while_an_arbiter_is_up(world: World, words: list[str]) -> None:
    world.run("true")
    wait_until(lambda: world.arbiter_pid() is not None, "an arbiter")
    loaded = loaded_by(world, *words)
    assert "gpuwrap.launch.launch" in loaded, "the launch was looked at"
    assert not loaded & HEAVY


def test_a_list_of_jobs_loads_hardly_more_than_a_launch(world: World) -> None:
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    loaded = loaded_by(world, "ls")
    assert "gpuwrap.state.reading" in loaded
    by_sqlite = {"collections"}
    assert not loaded & (HEAVY - by_sqlite | {"datetime", "gpuwrap.model", "gpuwrap.lifecycle"})


def test_the_test_sees_what_a_verb_loads(world: World) -> None:
    assert {"enum", "dataclasses", "json"} <= loaded_by(world, "ls", "--json")
    assert os.path.exists(world.command)


def test_no_two_test_modules_have_one_name() -> None:
    """Each is imported by its name alone, so the second of two would be taken for the first, and no test would run at all."""
    tests = Path(__file__).parents[1]
    packages = {path.parent for path in tests.rglob("__init__.py")} - {tests / "support"}
    modules = [path for path in tests.rglob("*.py") if path.parent not in packages and path.name != "conftest.py"]
    names = Counter(path.name for path in modules)
    assert [name for name, count in names.items() if count > 1] == []
