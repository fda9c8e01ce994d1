"""Imports only run downwards, each outside library has one importer, and a launch loads next to nothing."""

import ast
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
    {"options", "model", "restarts", "outputs", "sweeps"},
    {"listed", "turns"},
    {"policy"},
    {"state", "host"},
    {"client"},
    {"arbiter"},
    {"tables"},
    {"listing"},
    {"render"},
    {"launch"},
    {"commands"},
    {"cli", "block"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names} | {"__init__": -1}
PURE = {
    "errors", "units", "wire", "lifecycle", "widths", "options", "model", "restarts", "outputs", "sweeps", "turns", "listed",
    "policy",
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
            found |= {"." + ".".join([*target, alias.name] if not node.module else target) for alias in node.names}
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
    assert "gpuwrap.launch.run" in loaded, "the launch was looked at"
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
    """None is in a package, so the second of two would be taken for the first, and no test would run at all."""
    modules = [path for path in Path(__file__).parents[1].rglob("*.py") if not (path.parent / "__init__.py").exists()]
    names = Counter(path.name for path in modules)
    assert [name for name, count in names.items() if count > 1] == []
