"""What a program finds and does when it is started bare and with gpurun in front, compared: the ground of `test_fidelity_*`.

1. Each check starts the same thing twice from an identical launcher (`launch.py`, a shell, make, a terminal): once
   bare, once with gpurun in front, and compares what came of it. None compares with a list of what was expected to
   matter: the probe writes down all it finds.
2. The only differences allowed are the variables that gpurun promises to set (`OURS`).
3. Each test counts: "n of n equal" stands in its record and in the summary of the run.
4. Every kind is tried with the arbiter up and, in `test_*_cold`, with one that this very call must summon.

`GPURUN_TEST_COMMAND=/usr/bin/env` runs it all with a prefix that is faithful by construction: what fails then
is a fault of these tests.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from world import OTHER_COMMAND, SUPPORT, World

PROBE = str(SUPPORT / "probe.py")
PYTHON = [sys.executable, "-I", "-S"]
SIMULATED = "4x24G"
WORKERS = 4

# Not gpurun but something that execs at once: the tests' own check. Tests of waiting have no meaning then.
STAND_IN = OTHER_COMMAND in os.environ and os.path.basename(os.environ[OTHER_COMMAND]) == "env"
only_gpurun = pytest.mark.skipif(STAND_IN, reason="the stand-in prefix does not wait")

# What gpurun sets, each exactly once; nothing else may be changed, added or lost.
ALWAYS = {b"CUDA_VISIBLE_DEVICES", b"CUDA_DEVICE_ORDER", b"GPURUN_JOB", b"GPURUN_GPU_UUIDS", b"GPURUN_GRANTED"}
ALWAYS |= {b"GPURUN_ATTEMPT"}
OURS = ALWAYS | {b"GPURUN_SIM_DIR"}

Counted = Callable[..., None]


# What is compared


@dataclass
class Case:
    """One thing to start; `steps` are those of launch.py, `env` raw entries (None: the world's environment)."""

    name: str
    argv: Sequence[str | bytes]
    steps: Sequence[Sequence[Any]] = ()
    env: Sequence[bytes] | None = None
    input: str | None = None


@dataclass
class Run:
    """What came of one start: `status` as waitpid(2) gives it, `stops` the signals that stopped it on the way."""

    pid: int
    parent: int
    status: int | str
    stops: list[int]
    out: bytes
    err: bytes
    report: dict[str, Any] | None


@dataclass
class Pair:
    name: str
    bare: Run
    under: Run
    argv: list[str | bytes] = field(default_factory=list)


def raw(text: str | bytes) -> str:
    """Bytes as the JSON between us and the launcher has them."""
    return (text if isinstance(text, bytes) else os.fsencode(text)).decode("latin-1")


def entries(env: dict[str, str]) -> list[bytes]:
    return [os.fsencode(f"{name}={value}") for name, value in env.items()]


def run_of(answer: dict[str, Any]) -> Run:
    return Run(**{name: answer[name] for name in ("pid", "parent", "status", "stops", "report")}, **{
        name: answer[name].encode("latin-1") for name in ("out", "err")
    })  # fmt: skip


def launch(
    world: World,
    cases: Sequence[Case],
    options: Sequence[str] = (),
    bare: Sequence[str] = (),
    between: Sequence[str] = (),
    wrapper: Sequence[str] = (),
    workers: int = WORKERS,
) -> list[Pair]:
    """Start every case bare (or behind the words `bare`) and under gpurun, several cases at a time.

    `between` stands before both; `wrapper` is what the launcher itself is started by.
    """
    order = {
        "bare": [raw(word) for word in (*between, *bare)],
        "prefix": [raw(word) for word in (*between, world.command, *options)],
        "workers": workers,
        "cases": [
            {
                "argv": [raw(word) for word in case.argv],
                "env": [raw(entry) for entry in (entries(world.env) if case.env is None else case.env)],
                "steps": case.steps,
                "folder": str(world.scratch / f"case{number}"),
                "input": case.input,
            }
            for number, case in enumerate(cases)
        ],
    }
    launcher = world.adopt(
        subprocess.Popen(
            [*wrapper, *PYTHON, str(SUPPORT / "launch.py")],
            env=world.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
    )
    answers = json.loads(launcher.communicate(json.dumps(order))[0])
    assert len(answers) == len(cases), f"the launcher answered {len(answers)} of {len(cases)} cases"
    return [
        Pair(case.name, run_of(answer["bare"]), run_of(answer["under"]), list(case.argv))
        for case, answer in zip(cases, answers, strict=True)
    ]


def outcome(run: Run) -> dict[str, Any]:
    """All that is seen from outside."""
    return {"status": run.status, "stops": run.stops, "out": run.out, "err": run.err}


def name_of(entry: bytes) -> bytes:
    """A variable's name as getenv(3) would see it; of an entry like `=odd`, all of it."""
    return entry[: entry.index(b"=", 1)] if b"=" in entry[1:] else entry


def environment(found: Sequence[bytes]) -> list[bytes]:
    """The entries that gpurun must pass on, in an order that does not matter, duplicates kept."""
    return sorted(entry for entry in found if name_of(entry) not in OURS)


def wrong_variables(found: Sequence[bytes]) -> list[bytes]:
    """Those of our own variables that are not there exactly once."""
    names = [name_of(entry) for entry in found]
    return sorted(name for name in OURS if names.count(name) != 1 and (name in ALWAYS or name in names))


def inside(run: Run) -> dict[str, Any]:
    """All that the probe found, but for what differs between any two processes."""
    assert run.report is not None, f"no report from the probe: {outcome(run)}"
    found = {name: value for name, value in run.report.items() if name not in ("pid", "alarm_left")}
    found["environ"] = environment([entry.encode("latin-1") for entry in run.report["environ"]])
    found["pid is that of gpurun"] = run.report["pid"] == run.pid
    found["parent is the launcher"] = found["stat"]["ppid"] == str(run.parent)
    # Groups and sessions of its own carry its pid.
    for name in ("pgrp", "session", "tpgid"):
        if found["stat"][name] == str(run.pid):
            found["stat"] = {**found["stat"], name: "its pid"}
    found["stat"] = {**found["stat"], "ppid": None if found["parent is the launcher"] else found["stat"]["ppid"]}
    return {**outcome(run), **found}


def differences(bare: Any, under: Any) -> str:
    if isinstance(bare, dict) and isinstance(under, dict):
        return "; ".join(
            f"{name}: bare {bare.get(name)!r:.300}, under gpurun {under.get(name)!r:.300}"
            for name in {**bare, **under}
            if bare.get(name) != under.get(name)
        )
    return f"bare {bare!r:.600}, under gpurun {under!r:.600}"


def check(counted: Counted, pairs: Sequence[Pair], look: Callable[[Run], Any] = outcome) -> None:
    counted([pair.name for pair in pairs], [look(pair.bare) for pair in pairs], [look(pair.under) for pair in pairs])


def check_probes(counted: Counted, pairs: Sequence[Pair]) -> None:
    """The probe's whole reports; also that every bare run was what the case wanted, and our variables."""
    for pair in pairs:
        assert pair.bare.status == 0, f"{pair.name}: the launcher failed: {outcome(pair.bare)}"
    check(counted, pairs, inside)
    if not STAND_IN:
        for pair in pairs:
            assert pair.under.report is not None
            found = [entry.encode("latin-1") for entry in pair.under.report["environ"]]
            assert not wrong_variables(found), f"{pair.name}: not there exactly once: {wrong_variables(found)}"


# The worlds


class WarmWorld(World):
    """A world whose arbiter is up, with a folder for the launcher's files."""

    def __init__(self, spec: str = SIMULATED, **variables: str) -> None:
        super().__init__(spec, **variables)
        # Not below GPURUN_DIR, where every folder is a world.
        self.scratch = Path(f"{self.directory}-files")
        self.scratch.mkdir()
        self.env["HOME"] = str(self.scratch)

    def close(self) -> None:
        try:
            super().close()
        finally:
            shutil.rmtree(self.scratch, ignore_errors=True)


def probe(world: World, name: str, *steps: Sequence[Any], **more: Any) -> Case:
    """A case that runs the probe. Its report has the same name in both runs; `world.scratch` numbers the folders."""
    return Case(name, [*PYTHON, PROBE, "REPORT"], steps, **more)


def place_reports(world: World, cases: Sequence[Case]) -> Sequence[Case]:
    for number, case in enumerate(cases):
        case.argv = [str(world.scratch / f"case{number}" / "report") if word == "REPORT" else word for word in case.argv]
    return cases


def probe_all(world: World, cases: Sequence[Case], **more: Any) -> list[Pair]:
    return launch(world, place_reports(world, cases), **more)


def hostile_modules(world: World) -> Path:
    """A folder of modules that must not be imported from where the user happens to be or to have his own."""
    folder: Path = world.scratch / "hostile"
    folder.mkdir(exist_ok=True)
    for name in ("socket", "signal", "gpuwrap", "sqlite3", "json", "enum", "typing", "importlib", "random", "fcntl"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported the wrong {name}')\n")
    return folder
