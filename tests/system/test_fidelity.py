"""The job is the program: everything a launcher can give to a program, compared bare and under gpurun.

1. Each check starts the same thing twice from an identical launcher (`launch.py`, a shell, make, a terminal): once
   bare, once with gpurun in front, and compares what came of it. None compares with a list of what was expected to
   matter: the probe writes down all it finds.
2. The only differences allowed are the variables that gpurun promises to set (`OURS`).
3. Each test counts: "n of n equal" stands in its record and in the summary of the run.
4. Every kind is tried with the arbiter up and, in `test_*_cold`, with one that this very call must summon.

`GPURUN_TEST_COMMAND=/usr/bin/env` runs it all with a prefix that is faithful by construction: what fails then
is a fault of these tests.
"""

import ast
import contextlib
import hashlib
import json
import os
import pwd
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until
from world import OTHER_COMMAND, SUPPORT, World, clean_environment

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


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Assert that two lists of named findings are equal, and record "n of n equal"."""

    def count(names: Sequence[str], bare: Sequence[Any], under: Sequence[Any]) -> None:
        assert len(names) == len(bare) == len(under)
        assert names, "nothing was compared"
        wrong = [f"{name}: {differences(b, u)}" for name, b, u in zip(names, bare, under, strict=True) if b != u]
        text = f"{len(names) - len(wrong)} of {len(names)} equal"
        record_property("counted", text)
        assert not wrong, "\n  ".join([text, *wrong[:20], *(["…"] if len(wrong) > 20 else [])])

    return count


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


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    world = WarmWorld()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def warm(shared_world: World) -> World:
    """One world for all tests of this file, its arbiter up."""
    started = shared_world.run("true")
    assert started.returncode == 0, started.stderr + shared_world.last_words()
    if not STAND_IN:
        assert shared_world.arbiter_pid() is not None
    return shared_world


@pytest.fixture
def fresh() -> Iterator[Callable[..., World]]:
    """Make worlds that have no arbiter yet."""
    made: list[World] = []

    def make(spec: str = SIMULATED, **variables: str) -> World:
        made.append(WarmWorld(spec, **variables))
        return made[-1]

    yield make
    for world in made:
        world.close()


def probe(world: World, name: str, *steps: Sequence[Any], **more: Any) -> Case:
    """A case that runs the probe. Its report has the same name in both runs; `world.scratch` numbers the folders."""
    return Case(name, [*PYTHON, PROBE, "REPORT"], steps, **more)


def place_reports(world: World, cases: Sequence[Case]) -> Sequence[Case]:
    for number, case in enumerate(cases):
        case.argv = [str(world.scratch / f"case{number}" / "report") if word == "REPORT" else word for word in case.argv]
    return cases


def probe_all(world: World, cases: Sequence[Case], **more: Any) -> list[Pair]:
    return launch(world, place_reports(world, cases), **more)


# Ends


def test_every_exit_status_is_the_programs(warm: World, counted: Counted) -> None:
    pairs = launch(warm, [Case(str(code), ["/bin/sh", "-c", f"exit {code}"]) for code in range(256)])
    assert [pair.bare.status for pair in pairs] == [code << 8 for code in range(256)]
    check(counted, pairs)


def test_death_and_stop_by_every_signal_is_the_programs(warm: World, counted: Counted) -> None:
    numbers = [*range(1, 32), *range(34, 65)]
    itself = "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"
    # A group of its own, whose parent is of the same session: in an orphaned one TSTP, TTIN and TTOU do nothing.
    steps = [["group"], ["limit", "RLIMIT_CORE", 1 << 41, 0]]
    dies = [Case(f"by itself {n}", ["/bin/sh", "-c", 'kill -"$0" $$', str(n)], steps) for n in numbers]
    # Python's own handlers are out of the way: this is about signals that a program handles and sends on.
    reset = f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); {itself}"
    dies += [Case(f"from Python {n}", [*PYTHON, "-c", reset, str(n)], steps) for n in (1, 2, 6, 9, 11, 13, 15, 25)]
    pairs = launch(warm, dies)
    stopped = [pair.name for pair in pairs if pair.bare.stops]
    assert stopped == [f"by itself {n}" for n in (19, 20, 21, 22)]
    assert sum(os.WIFSIGNALED(pair.bare.status) for pair in pairs) > 50
    check(counted, pairs)


def test_a_signal_sent_to_the_pid_of_gpurun_reaches_the_program(warm: World, counted: Counted, tmp_path: Path) -> None:
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGALRM, 64]

    def end(words: list[str], number: int) -> tuple[int, bool]:
        sign = tmp_path / "running"
        sign.unlink(missing_ok=True)
        script = f'echo $$ > "{sign}.half"; mv "{sign}.half" "{sign}"; exec sleep 1000'
        child = warm.adopt(subprocess.Popen([*words, "/bin/sh", "-c", script], env=warm.env, stdin=subprocess.DEVNULL))
        wait_until(sign.exists, "the program to run")
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "sleep to run in the same pid")
        child.send_signal(number)
        return child.wait(30), int(sign.read_text()) == child.pid

    bare = [end([], number) for number in numbers]
    under = [end([warm.command], number) for number in numbers]
    assert bare == [(-number, True) for number in numbers]
    counted([str(number) for number in numbers], bare, under)


# Pipes


def hash_of(words: Sequence[str], world: World, source: Callable[[Any], None] | None) -> tuple[str, int, int]:
    """Feed a program by `source`, return the digest and length of what it wrote, and its status."""
    digest, length = hashlib.blake2b(), 0
    with world.adopt(
        subprocess.Popen(words, env=world.env, stdin=subprocess.PIPE if source else subprocess.DEVNULL, stdout=-1)
    ) as child:
        if source:
            threading.Thread(target=source, args=(child.stdin,), daemon=True).start()
        while block := child.stdout.read(1 << 20):
            digest.update(block)
            length += len(block)
        return digest.hexdigest(), length, child.wait()


def test_100_megabytes_pass_through_a_pipe_both_ways(warm: World, counted: Counted, tmp_path: Path) -> None:
    block = random.Random(2).randbytes(1 << 20)
    size = 100 << 20
    stored = tmp_path / "data"
    with stored.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(8) + block[8:])

    def pour(stream: Any) -> None:
        with stream:
            for number in range(100):
                stream.write(number.to_bytes(8) + block[8:])

    def findings(prefix: list[str]) -> list[tuple[str, int, int]]:
        through = hash_of([*prefix, "/bin/cat"], warm, pour)
        out = hash_of([*prefix, "/bin/cat", str(stored)], warm, None)
        summed = hash_of([*prefix, "/usr/bin/sha256sum"], warm, pour)
        return [through, out, summed]

    bare, under = findings([]), findings([warm.command])
    assert [length for _, length, _ in bare[:2]] == [size, size]
    assert bare[0] == bare[1]
    counted(["in and out", "out", "in"], bare, under)


@pytest.mark.needs("bash")
def test_a_closed_pipe_ends_the_program_as_ever(warm: World, counted: Counted) -> None:
    lines = {
        "default": 'RUN yes | head -1; echo "${PIPESTATUS[@]}"',
        "ignored by the shell": "trap '' PIPE; RUN yes | head -1; echo \"${PIPESTATUS[@]}\"",
        "ignored by a parent": "trap '' PIPE; bash -c 'RUN yes | head -1; echo \"${PIPESTATUS[@]}\"'",
        "in the middle": 'yes | RUN cat | head -1; echo "${PIPESTATUS[@]}"',
        "reader first": 'yes | RUN head -1; echo "${PIPESTATUS[@]}"',
        "size limit": "trap - XFSZ; ulimit -f 1; RUN head -c 100000 /dev/zero > big; echo $?; stat -c %s big",
        "size limit ignored": "trap '' XFSZ; ulimit -f 1; RUN head -c 100000 /dev/zero > big; echo $?; stat -c %s big",
    }

    def say(line: str, prefix: str) -> tuple[str, str, int]:
        done = subprocess.run(
            ["bash", "--norc", "-c", line.replace("RUN", prefix)],
            env=warm.env, cwd=warm.scratch, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        # bash names a killed child by its command line.
        errors = re.sub(r"line 1: +\d+ ", "", done.stderr.replace(f"{prefix} ", "" if prefix else " "))
        return done.stdout, errors, done.returncode

    bare = [say(line, "") for line in lines.values()]
    under = [say(line, warm.command) for line in lines.values()]
    assert bare[0][0] == "y\n141 0\n"
    assert bare[1][0] == "y\n1 0\n"
    counted(list(lines), bare, under)


# Words


def word_cases() -> list[Case]:
    """The program writes down its own command line, from the kernel's record."""
    shown = ["/bin/sh", "-c", "exec 3<&-; cat /proc/$$/cmdline"]
    every = [bytes([value]) for value in range(1, 256)]
    random_words = random.Random(22)
    words: dict[str, list[bytes]] = {
        "none": [],
        "empty": [b""],
        "empties": [b""] * 7,
        "empty last": [b"a", b""],
        "empty first": [b"", b"a"],
        "newline": [b"\n"],
        "newlines": [b"a\nb\n", b"\r\n"],
        "not UTF-8": [b"\xff\xfe", b"\x80", b"caf\xe9"],
        "surrogates": [b"\xed\xb2\x80", b"\xed\xa0\xbd"],
        "UTF-8": ["žluťoučký 🐎".encode()],
        "every byte": every,
        "every byte in one": [b"".join(every)],
        "100 KB in one": [b"x" * 100_000],
        "100 KB in 10000": [b"%09d" % number for number in range(10_000)],
        "100 KB of odd bytes": [random_words.randbytes(100_000).replace(b"\0", b"\n")],
        "1 MB": [b"y" * 100_000] * 10,
        "longest": [b"z" * (128 * 1024 - 1)],
        "spaces": [b" ", b"  a  b ", b"\t"],
        "quotes": [b"'", b'"', b"\\", b"`", b"$(id)", b"${HOME}", b"*", b"~", b"!"],
        "percent": [b"%j", b"%s", b"%", b"{}"],
        "verbs": [b"ls", b"kill", b"wait", b"demo", b"renice"],
        "help": [b"--help"],
        "version": [b"--version"],
        "-h": [b"-h"],
        "dashes": [b"--"],
        "many dashes": [b"--", b"--", b"-", b"---"],
        "gpus": [b"-g", b"9", b"--gpus=99"],
        "memory": [b"-m", b"nonsense", b"--memory"],
        "priority": [b"-p", b"1000", b"-n", b"-w", b"1s", b"-E", b"3"],
        "simulated": [b"--sim", b"nonsense", b"--dry-run", b"-q", b"-v"],
        "unknown options": [b"--unknown", b"-Z", b"-\xff", b"--\n"],
        "device": [b"-i", b"17", b"--not", b"0", b"--exclusive"],
        "assignments": [b"A=1", b"=odd", b"=", b"CUDA_VISIBLE_DEVICES=7"],
        "self": [b"gpurun", b"gpurun", b"-g", b"1"],
    }
    for number in range(20):
        words[f"random {number}"] = [
            random_words.randbytes(random_words.randrange(40)).replace(b"\0", b"") for _ in range(random_words.randrange(1, 30))
        ]
    return [Case(name, [*shown, *given]) for name, given in words.items()]


def test_arguments_are_passed_byte_for_byte(warm: World, counted: Counted) -> None:
    cases = word_cases()
    pairs = launch(warm, cases)
    for pair in pairs:
        assert pair.bare.out == b"".join(os.fsencode(word) + b"\0" for word in pair.argv), f"{pair.name}: launcher"
    check(counted, pairs)


def test_arguments_are_passed_after_a_double_dash_too(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, word_cases(), options=["--"]))


@only_gpurun
def test_arguments_are_passed_after_options_too(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, word_cases(), options=["-g", "0", "-p", "low", "-N", "words"]))


def executable(path: Path, text: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


@pytest.mark.needs("bash")
def test_programs_are_found_and_refused_as_by_a_shell(warm: World, counted: Counted, tmp_path: Path) -> None:
    """As bash does it: the same status, and the program's own output; of a refusal, the message is gpurun's."""
    here = os.fsencode(tmp_path)
    # Not among them: a name that only folders on PATH have, or one too long for any; bash and env(1) disagree there.
    shows = b'echo "[$0]" "$@"; exit 7\n'
    for folder in ("first", "second", "third"):
        (tmp_path / folder).mkdir()
    executable(tmp_path / "script", b"#!/bin/sh\n" + shows)
    executable(tmp_path / "bare-script", shows)
    executable(tmp_path / "one-word", b"#! /bin/sh -e\n" + shows)
    executable(tmp_path / "lost", b"#!/nonexistent/interpreter\n" + shows)
    executable(tmp_path / "lost-env", b"#!/usr/bin/env nonexistent-interpreter\n" + shows)
    executable(tmp_path / "folder-interpreter", b"#!/usr/bin\n" + shows)
    executable(tmp_path / "empty", b"")
    executable(tmp_path / "plain", shows, 0o644)
    executable(tmp_path / "first/same", shows, 0o644)
    executable(tmp_path / "second/same", b"#!/bin/sh\n" + shows)
    executable(tmp_path / "first/hidden", shows, 0o644)
    executable(tmp_path / "third/no-line", shows)
    executable(tmp_path / "third/ls", b"#!/bin/sh\n" + shows)
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("round", tmp_path / "round")
    os.symlink("script", tmp_path / "linked")
    executable(tmp_path / "-g", b"#!/bin/sh\n" + shows)
    executable(Path(os.fsdecode(here + b"/\xff\n name")), b"#!/bin/sh\n" + shows)
    words: list[bytes] = [
        b"./script", b"script", b"./bare-script", b"./one-word", b"./lost", b"./lost-env", b"./folder-interpreter",
        b"./empty", b"./plain", b"./binary", b"./dangling", b"./round", b"./linked", b"./-g", b"./\xff\n name",
        b"./first", b"first", b"./first/", b"./script/", b"./script/x", b"./nothing", b"nothing-of-the-kind",
        b"/nonexistent/folder/x", b"same", b"hidden", b"no-line", b"true", b"./" + b"n" * 300,
        b"/" * 5000 + b"bin/true", here + b"/script",
    ]  # fmt: skip
    path = b"PATH=" + b":".join([here + b"/first", here + b"/second", here + b"/third", b"/usr/bin", b"/bin"])
    base = [entry for entry in entries(warm.env) if not entry.startswith(b"PATH=")]
    cases = [Case(repr(word), [word, b"-x", b"--help"], [["chdir", str(tmp_path)]], [*base, path]) for word in words]
    pairs = launch(warm, cases, bare=["/bin/bash", "--norc", "-c", '"$@"', "bash"])
    assert {pair.bare.status >> 8 for pair in pairs} == {0, 1, 7, 126, 127}
    # A program that was never started must not leave anything in line.
    if not STAND_IN:
        assert [job for job in warm.jobs() if job["state"] != "ended"] == []
        for pair in pairs:
            if refused(pair.under) and pair.name != repr(b"./lost-env"):
                assert pair.under.err.startswith(b"gpurun: "), (pair.name, pair.under.err)
                assert pair.under.err.count(b"\n") <= 2, (pair.name, pair.under.err)
    check(counted, pairs, lambda run: {**outcome(run), "err": b"" if refused(run) else run.err})


def refused(run: Run) -> bool:
    return run.status in (126 << 8, 127 << 8)


def test_what_the_kernel_cannot_run_is_run_by_sh(warm: World, counted: Counted, tmp_path: Path) -> None:
    """As execvp(3) does it, which the launcher uses."""
    shows = b'echo "[$0]" "$@"; cat /proc/$$/comm; tr "\\0" "|" < /proc/$$/cmdline; exit 7\n'
    executable(tmp_path / "bare-script", shows)
    executable(tmp_path / "empty", b"")
    executable(tmp_path / "comment", b"# nothing\n" + shows)
    executable(tmp_path / "wrong-line", b"#\n!/bin/sh\n" + shows)
    executable(tmp_path / "binary", b"\x7fELF\x02\x01\x01" + bytes(100))
    executable(tmp_path / "one-word", b"#! /bin/sh -e\n" + shows)
    executable(tmp_path / "nested", os.fsencode(f"#!{tmp_path}/one-word\n") + shows)
    names = ["bare-script", "empty", "comment", "wrong-line", "binary", "one-word", "nested"]
    words: list[list[str | bytes]] = [[f"./{name}", *more] for name in names for more in ([], ["-x", "", "a b", b"\xff"])]
    words += [[str(tmp_path / "bare-script")], ["bare-script", "1"], ["nested"]]
    env = [f"PATH={tmp_path}:/usr/bin:/bin".encode(), *(e for e in entries(warm.env) if not e.startswith(b"PATH="))]
    cases = [Case(repr(word), word, [["chdir", str(tmp_path)]], env) for word in words]
    check(counted, launch(warm, cases))


# Environment


def environment_cases(world: World) -> list[Case]:
    where = [entry for entry in entries(world.env) if entry.startswith((b"GPURUN_DIR=", b"GPURUN_SIM="))]
    path = [b"PATH=/usr/local/bin:/usr/bin:/bin"]
    random_entries = random.Random(222)
    given: dict[str, list[bytes]] = {
        "only what gpurun needs": [],
        "the tests' own": [e for e in entries(clean_environment()) if not e.startswith(b"PATH=")],
        "=odd": [b"=odd", b"=C:=C:\\x", b"==", b"="],
        "no =": [b"noequals", b"NO EQUALS", b"\xff\xfe"],
        "an empty entry": [b""],
        "duplicates": [b"A=1", b"A=2"],
        "equal duplicates": [b"A=1", b"A=1", b"A=1"],
        "duplicates apart": [b"A=1", b"B=x", b"A=", b"C=y", b"A=3"],
        "duplicates of PATH": [b"PATH=/second", b"PATH=/third"],
        "duplicates of locale": [b"LC_ALL=C", b"LC_ALL=xx_YY", b"LANG=a", b"LANG=b", b"LC_CTYPE=C", b"LC_CTYPE=x"],
        "duplicates of ours": [b"CUDA_DEVICE_ORDER=FASTEST_FIRST", b"CUDA_DEVICE_ORDER=PCI_BUS_ID", b"X=1"],
        "duplicates of the job": [b"GPURUN_JOB=999", b"X=1", b"GPURUN_JOB=998"],
        "bash functions": [b"BASH_FUNC_x%%=() {  echo hi\n}", b"BASH_FUNC_ml%%=() { :; }", b"BASH_ENV=/nonexistent"],
        "names with odd bytes": [b"X-Y=3", b"a b=c", b"a.b=c", b"\xff\xfe=1", b"\n=newline", b"1=2", b"\x01=\x02"],
        "values with odd bytes": [b"V=\xff\xfe", b"W=\n\n", b"U=\x1b[31m", b"E=", b"Q==", b"R=a=b=c"],
        "every byte": [b"EVERY=" + bytes(range(1, 256))],
        "100 KB": [b"LONG=" + b"v" * 100_000],
        "1 MB": [b"LONG%d=" % number + b"v" * 100_000 for number in range(10)],
        "3000": [b"V%d=%d" % (number, number) for number in range(3000)],
        "a locale that C.UTF-8 stands for": [b"LC_ALL=C.UTF-8", b"LC_CTYPE=C.UTF-8"],
        "LC_CTYPE C": [b"LC_CTYPE=C"],
        "LC_CTYPE empty": [b"LC_CTYPE="],
        "LC_CTYPE C.UTF-8": [b"LC_CTYPE=C.UTF-8"],
        "LC_CTYPE POSIX": [b"LC_CTYPE=POSIX", b"LANG=POSIX"],
        "LC_ALL C": [b"LC_ALL=C"],
        "LC_ALL unknown": [b"LC_ALL=xx_YY.utf8"],
        "LANG Latin-1": [b"LANG=de_DE.ISO-8859-1", b"LANGUAGE=de"],
        "LANG C": [b"LANG=C"],
        "homes": [b"HOME=/nonexistent", b"XDG_STATE_HOME=/nonexistent", b"XDG_RUNTIME_DIR=", b"TMPDIR=/nonexistent"],
        "HOME empty": [b"HOME="],
        "shell's": [b"IFS=x", b"PWD=/nowhere", b"OLDPWD=relative", b"SHLVL=999", b"_=odd", b"PS1=$ ", b"OPTIND=3"],
        "terminal": [b"TERM=nonsense", b"COLUMNS=1", b"LINES=0", b"NO_COLOR=1"],
        "TZ": [b"TZ=:/nonexistent", b"POSIXLY_CORRECT=1"],
        "an old job's": [b"GPURUN_JOB=12345", b"GPURUN_GRANTED=1", b"GPURUN_ATTEMPT=9", b"GPURUN_GPU_UUIDS=GPU-x"],
        "unknown of ours": [b"GPURUN_UNKNOWN=1", b"GPURUN=2", b"GPURUN_", b"GPURUN_JOBS=3"],
        "CUDA, empty": [b"CUDA_VISIBLE_DEVICES="],
        "CUDA, none": [b"CUDA_VISIBLE_DEVICES=-1"],
        "CUDA, others": [b"CUDA_HOME=/x", b"CUDA_VISIBLE_DEVICE=7", b"CUDA_CACHE_PATH=\xff"],
        "make's": [b"MAKEFLAGS= -j --jobserver-auth=3,4", b"MAKELEVEL=2", b"MFLAGS=-j"],
        "systemd's": [b"INVOCATION_ID=x", b"JOURNAL_STREAM=8:1", b"NOTIFY_SOCKET=/nonexistent", b"LISTEN_FDS=1"],
    }
    pythons = {
        "PATH": str(hostile_modules(world)), "INSPECT": "1", "STARTUP": "/nonexistent",
        "WARNINGS": "error", "UTF8": "0", "COERCECLOCALE": "0", "IOENCODING": "ascii",
        "DEVMODE": "1", "MALLOC": "debug", "OPTIMIZE": "2", "NOUSERSITE": "", "HASHSEED": "7", "DUMPREFS": "1",
        "UNBUFFERED": "1", "DEBUG": "1", "TRACEMALLOC": "5", "FAULTHANDLER": "1",
        "PYCACHEPREFIX": "/nonexistent", "BREAKPOINT": "x", "SAFEPATH": "1",
    }  # fmt: skip
    for name, value in pythons.items():
        given[f"PYTHON{name}"] = [os.fsencode(f"PYTHON{name}={value}")]
    given["all of Python's"] = [os.fsencode(f"PYTHON{name}={value}") for name, value in pythons.items()]
    for number in range(20):
        given[f"random {number}"] = [
            random_entries.randbytes(random_entries.randrange(60)).replace(b"\0", b"")
            for _ in range(random_entries.randrange(1, 60))
        ]
    # In the middle, so that neither the first nor the last entry is always one of ours.
    return [
        Case(name, ["/bin/cat", "/proc/self/environ"], env=[*some[::2], *path, *where, *some[1::2]])
        if "duplicates of ours" not in name
        else Case(name, ["/bin/cat", "/proc/self/environ"], env=[*some, *path, *where])
        for name, some in given.items()
    ]


def environment_findings(run: Run) -> dict[str, Any]:
    return {**outcome(run), "out": environment(run.out.split(b"\0")[:-1])}


def test_environment_is_passed_byte_for_byte(warm: World, counted: Counted) -> None:
    cases = environment_cases(warm)
    pairs = launch(warm, cases)
    for case, pair in zip(cases, pairs, strict=True):
        assert pair.bare.out == b"".join(entry + b"\0" for entry in case.env or ()), f"{case.name}: launcher"
    check(counted, pairs, environment_findings)
    if not STAND_IN:
        wrong = {pair.name: wrong_variables(pair.under.out.split(b"\0")[:-1]) for pair in pairs}
        assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("name", ["VERBOSE=1", "PROFILEIMPORTTIME=1", "COERCECLOCALE=warn"])
def test_variables_that_make_every_python_talk_change_nothing_else(warm: World, counted: Counted, name: str) -> None:
    env = [*entries(warm.env), f"PYTHON{name}".encode()]
    pairs = launch(warm, [Case(name, ["/bin/cat", "/proc/self/environ"], env=env)])
    check(counted, pairs, lambda run: {**environment_findings(run), "err": None})


@pytest.mark.needs("unshare", "mount")
@only_gpurun
def test_an_environment_with_nothing_at_all_is_left_so(fresh: Callable[..., World], counted: Counted) -> None:
    """Without GPURUN_DIR it is the home folder's own world: an empty file system is put there, seen here only.

    Where that is not allowed: in CI the home itself serves, elsewhere the test is skipped.
    """
    world = fresh()
    state = Path(pwd.getpwuid(os.geteuid()).pw_dir) / ".local" / "state"
    made = [folder for folder in (state.parent, state) if not folder.exists()]
    for folder in made:
        folder.mkdir(mode=0o700)
    namespace = world.scratch / "namespace"
    # A spec that nobody else has: its arbiter is known by it.
    spec = "2x11011M"
    apart = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--mount"]
    inside = 'mount -t tmpfs -o mode=0700 none "$0" && readlink /proc/self/ns/mnt > "$1" && shift && exec "$@"'
    wrapper = ["unshare", *apart, "/bin/sh", "-c", inside, str(state), str(namespace)]
    try:
        if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
            if "CI" not in os.environ:
                pytest.skip("no mount namespace can be had here (unshare)")
            wrapper = []
        cases = [
            Case("program by path", ["/bin/cat", "/proc/self/environ"], env=[]),
            Case("again, arbiter up", ["/bin/cat", "/proc/self/environ"], env=[]),
            Case("program by name", ["cat", "/proc/self/environ"], env=[]),
            Case("status", ["/bin/sh", "-c", "exit 9"], env=[]),
            Case("only odd entries", ["/bin/cat", "/proc/self/environ"], env=[b"=odd", b"", b"noequals"]),
        ]
        pairs = launch(world, cases, options=["--sim", spec], wrapper=wrapper, workers=1)
        for pair in pairs:
            # What --sim says is passed on, so that a gpurun inside asks the same world.
            pair.under.out = pair.under.out.replace(f"GPURUN_SIM={spec}".encode() + b"\0", b"")
        assert pairs[0].bare.out == b""
        assert pairs[0].under.out
        check(counted, pairs, environment_findings)
    finally:
        wait_until(lambda: end_stray(namespace, state, spec), "arbiter and keeper of the home folder's world to end")
        for left in state.glob(f"gpurun/*{spec}"):
            shutil.rmtree(left)
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def end_stray(namespace: Path, state: Path, spec: str) -> bool:
    """End whoever lives in the mount namespace named in a file, or serves this spec in that folder; true if nobody did."""
    theirs = namespace.read_text().strip() if namespace.exists() else ""
    nobody = True
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            where = os.readlink(f"/proc/{process.pid}/ns/mnt")
            named = any(word.startswith(str(state)) and spec in word for word in process.cmdline())
            if where == theirs or (named and where == os.readlink("/proc/self/ns/mnt")):
                process.kill()
                nobody = False
    return nobody


# Everything else that is inherited


def hostile_modules(world: World) -> Path:
    """A folder of modules that must not be imported from where the user happens to be or to have his own."""
    folder: Path = world.scratch / "hostile"
    folder.mkdir(exist_ok=True)
    for name in ("socket", "signal", "gpuwrap", "sqlite3", "json", "enum", "typing", "importlib", "random", "fcntl"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('imported the wrong {name}')\n")
    return folder


def inherited_cases(world: World) -> list[Case]:
    """One thing changed at a time, and the whole probe compared each time."""
    scratch = str(world.scratch)
    hostile = hostile_modules(world)
    odd = os.fsdecode(os.fsencode(scratch) + b"/odd \xff\n folder")
    os.makedirs(odd, exist_ok=True)
    deep = scratch + "/d" + "/deep" * 60
    os.makedirs(deep, exist_ok=True)
    (world.scratch / "data").write_bytes(b"0123456789" * 100)
    data = str(world.scratch / "data")
    cases = [
        probe(world, "nothing changed"),
        probe(world, "cwd /", ["chdir", "/"]),
        probe(world, "cwd deep", ["chdir", deep]),
        probe(world, "cwd with odd bytes", ["chdir", odd]),
        probe(world, "cwd full of modules", ["chdir", str(hostile)]),
        probe(world, "cwd deleted", ["deleted cwd", scratch]),
        probe(world, "session of its own", ["session"]),
        probe(world, "group of its own", ["group"]),
        probe(world, "nice 5", ["nice", 5]),
        probe(world, "nice 19", ["nice", 19]),
        probe(world, "ionice idle", ["io priority", 3 << 13]),
        probe(world, "ionice best effort 7", ["io priority", 2 << 13 | 7]),
        probe(world, "batch scheduling", ["scheduler", os.SCHED_BATCH, 0]),
        probe(world, "idle scheduling", ["scheduler", os.SCHED_IDLE, 0]),
        probe(world, "one CPU", ["affinity", [min(os.sched_getaffinity(0))]]),
        probe(world, "oom_score_adj", ["write", "/proc/self/oom_score_adj", "500"]),
        probe(world, "coredump_filter", ["write", "/proc/self/coredump_filter", "0x7f"]),
        probe(world, "no randomisation", ["personality", 0x0040000]),
        probe(world, "timer slack", ["prctl", 29, 123456]),
        probe(world, "signal at the parent's death", ["prctl", 1, signal.SIGUSR2], ["ignore", [signal.SIGUSR2]]),
        probe(world, "no new privileges", ["prctl", 38, 1]),
        probe(world, "subreaper", ["prctl", 36, 1]),
        probe(world, "no huge pages", ["prctl", 41, 1]),
        probe(world, "alarm", ["alarm", 300]),
        probe(world, "virtual timer", ["timer", signal.ITIMER_VIRTUAL, 300]),
        probe(world, "profiling timer", ["timer", signal.ITIMER_PROF, 300]),
        probe(world, "USR1 blocked", ["block", [signal.SIGUSR1]]),
        probe(world, "HUP ignored", ["ignore", [signal.SIGHUP]]),
        probe(world, "CHLD ignored", ["ignore", [signal.SIGCHLD]]),
    ]
    cases += [probe(world, f"umask {mask:03o}", ["umask", mask]) for mask in (0, 0o002, 0o022, 0o077, 0o777)]
    for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"):
        which = getattr(resource, name)
        try:
            resource.getrlimit(which)
        except (ValueError, OSError):
            continue
        step = 1 if name in ("RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_NOFILE", "RLIMIT_NPROC") else 4096
        cases.append(probe(world, f"{name} soft lowered", ["limit", name, step, 0]))
        cases.append(probe(world, f"{name} both lowered", ["limit", name, 2 * step, step]))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    cases += [
        probe(world, "few descriptors", ["limit", "RLIMIT_NOFILE", 0, most - 20]),
        probe(world, "small stack", ["limit", "RLIMIT_STACK", 7 << 20, 0]),
        probe(world, "no core", ["limit", "RLIMIT_CORE", 1 << 41, 1 << 41]),
    ]  # fmt: skip
    if os.geteuid() == 0:
        cases += [
            probe(world, "nice -5", ["nice", -5]),
            probe(world, "round robin", ["scheduler", os.SCHED_RR, 3]),
            probe(world, "ionice real time", ["io priority", 1 << 13 | 4]),
            probe(world, "groups", ["groups", [4, 7, 65534]]),
        ]
    # Descriptors
    for closed in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        cases.append(probe(world, f"closed {closed}", ["close", closed]))
        cases.append(probe(world, f"closed {closed}, 7 open", ["close", closed], ["hold", 7, data, os.O_RDONLY, True]))
    for number in (3, 4, 5, 6, 9, 10, 63, 64, 100, 255, 500):
        cases.append(probe(world, f"{number} inherited", ["hold", number, data, os.O_RDWR, True]))
        cases.append(probe(world, f"{number} closed by exec", ["hold", number, data, os.O_RDWR, False]))
    cases += [
        probe(world, "3 to 40 inherited", *(["hold", number, data, os.O_RDONLY, True] for number in range(3, 41))),
        probe(world, "every other inherited", *(["hold", n, data, os.O_RDONLY, bool(n % 2)] for n in range(3, 41))),
        probe(world, "appending", ["hold", 3, data, os.O_WRONLY | os.O_APPEND, True]),
        probe(world, "at an offset", ["hold", 3, data, os.O_RDONLY, True], ["seek", 3, 123]),
        probe(world, "non-blocking", ["hold", 3, "/dev/zero", os.O_RDONLY, True], ["nonblocking", 3]),
        probe(world, "a folder", ["hold", 3, scratch, os.O_RDONLY | os.O_DIRECTORY, True]),
        probe(world, "path only", ["hold", 3, data, os.O_PATH, True]),
        probe(world, "stdin at an offset", ["seek", 0, 77], input=data),
        probe(world, "stdin non-blocking", ["nonblocking", 0], input=data),
        probe(world, "stdin is /dev/full", ["hold", 0, "/dev/full", os.O_RDWR, True]),
        probe(world, "stdout is /dev/full", ["hold", 1, "/dev/full", os.O_RDWR, True]),
        probe(world, "stderr is /dev/full", ["hold", 2, "/dev/full", os.O_RDWR, True]),
        probe(world, "stdin only writable", ["hold", 0, data, os.O_WRONLY, True]),
        probe(world, "stdout only readable", ["hold", 1, data, os.O_RDONLY, True]),
    ]
    return cases


def test_everything_inherited_stays(warm: World, counted: Counted) -> None:
    check_probes(counted, probe_all(warm, inherited_cases(warm)))


def test_everything_inherited_stays_cold(fresh: Callable[..., World], counted: Counted) -> None:
    """Each case must summon the arbiter itself: what becomes the program has forked, locked and listened."""
    wanted = (
        "nothing changed", "cwd deleted", "cwd full of modules", "closed [0]", "closed [1]", "closed [2]",
        "closed [0, 1, 2]", "3 to 40 inherited", "every other inherited", "umask 777", "CHLD ignored",
        "USR1 blocked", "session of its own", "nice 19", "few descriptors", "alarm",
        "signal at the parent's death", "RLIMIT_FSIZE both lowered", "HUP ignored", "stderr is /dev/full",
    )  # fmt: skip
    world = fresh()
    cases = []
    for name in wanted:
        # Its own state folder; bare and under run with the same variables.
        own = fresh("1x24G")
        case = next(case for case in inherited_cases(world) if case.name == name)
        case.env = entries({**world.env, "GPURUN_DIR": own.env["GPURUN_DIR"]})
        cases.append(case)
    check_probes(counted, probe_all(world, cases, workers=2))


@only_gpurun
@pytest.mark.parametrize("options", [["-g", "0"], ["-m", "4G"], ["-g", "4"], ["-g2", "-p", "high", "-N", "x", "-v"], ["--"]])
def test_everything_inherited_stays_with_options(warm: World, counted: Counted, options: list[str]) -> None:
    wanted = ("nothing changed", "closed [0, 1, 2]", "3 to 40 inherited", "USR1 blocked", "alarm")
    cases = [case for case in inherited_cases(warm) if case.name in wanted]
    pairs = probe_all(warm, cases, options=options)
    if "-v" in options:
        for pair in pairs:
            pair.under.err = pair.bare.err
            if pair.under.report:
                # It has written there: another position.
                pair.under.report["descriptors"].update(
                    {n: facts for n, facts in pair.bare.report["descriptors"].items() if n == "2"}
                )
    check_probes(counted, pairs)


def signal_lines(run: Run) -> dict[str, Any]:
    """What the kernel says about a program that does nothing to its signals: cat(1)."""
    found = dict(line.split(":\t", 1) for line in run.out.decode("latin-1").split("\n") if ":\t" in line)
    wanted = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Threads", "Umask")
    assert set(wanted) <= found.keys(), outcome(run)
    return {"status": run.status, "err": run.err, **{name: found[name] for name in wanted}}


# Python ignores these two at its start and does not say what it found: gpurun asks its parent's status instead, but
# that of a Python parent, such as our launcher, says nothing. They have a test of their own.
PYTHON_IGNORES = (signal.SIGPIPE, signal.SIGXFSZ)
UNTOUCHABLE = (signal.SIGKILL, signal.SIGSTOP, 32, 33)
SIGNALS = [number for number in range(1, 65) if number not in (*UNTOUCHABLE, *PYTHON_IGNORES)]


def signal_cases() -> list[Case]:
    usual = {
        "as they come": [],
        "nohup's": [["ignore", [signal.SIGHUP]]],
        "a background job's": [["ignore", [signal.SIGINT, signal.SIGQUIT]]],
        "all ignored": [["ignore", SIGNALS]],
        "all blocked": [["block", SIGNALS]],
        "all blocked and ignored": [["block", SIGNALS], ["ignore", SIGNALS]],
        "every other": [["block", SIGNALS[::2]], ["ignore", SIGNALS[1::2]]],
        "USR1 pending": [["block", [signal.SIGUSR1]], ["pend", signal.SIGUSR1, False]],
        "USR1 pending for the thread": [["block", [signal.SIGUSR1]], ["pend", signal.SIGUSR1, True]],
        "TERM pending": [["block", [signal.SIGTERM]], ["pend", signal.SIGTERM, False]],
        "INT pending": [["block", [signal.SIGINT]], ["pend", signal.SIGINT, False]],
        "ALRM pending": [["block", [signal.SIGALRM]], ["pend", signal.SIGALRM, False]],
        "a real-time signal pending twice": [["block", [40]], ["pend", 40, False], ["pend", 40, True]],
    }
    cases = [Case(name, ["/bin/cat", "/proc/self/status"], steps) for name, steps in usual.items()]
    for number in SIGNALS:
        cases.append(Case(f"{number} ignored", ["/bin/cat", "/proc/self/status"], [["ignore", [number]]]))
        cases.append(Case(f"{number} blocked", ["/bin/cat", "/proc/self/status"], [["block", [number]]]))
    return cases


def test_signal_dispositions_and_mask_stay(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, signal_cases()), signal_lines)


def test_signal_dispositions_and_mask_stay_cold(fresh: Callable[..., World], counted: Counted) -> None:
    world = fresh()
    cases = [case for case in signal_cases() if not re.match(r"\d", case.name)]
    for case in cases:
        case.env = entries({**world.env, "GPURUN_DIR": fresh("1x24G").env["GPURUN_DIR"]})
    check(counted, launch(world, cases, workers=2), signal_lines)


SIGNAL_WAYS = {
    "default": ":",
    "PIPE": "trap '' PIPE",
    "XFSZ": "trap '' XFSZ",
    "both": "trap '' PIPE XFSZ",
    "both, back again": "trap '' PIPE XFSZ; trap - PIPE XFSZ",
    "others": "trap '' HUP INT USR1 CHLD TSTP",
}


@pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("dash", "bash", "zsh")])
def test_ignored_pipe_and_size_signals_stay_below_a_shell(warm: World, counted: Counted, shell: str) -> None:
    pairs = []
    for name, line in SIGNAL_WAYS.items():
        case = Case(name, ["/bin/cat", "/proc/self/status"])
        pairs += launch(warm, [case], between=[shell, "-c", f'{line}; "$@"; exit $?', shell])
    check(counted, pairs, signal_lines)


@pytest.mark.xfail(not STAND_IN, strict=True, reason="a Python parent's own status says nothing about what it hands on")
def test_ignored_pipe_signal_stays_below_python(warm: World, counted: Counted) -> None:
    case = Case("PIPE", ["/bin/cat", "/proc/self/status"], [["ignore", [signal.SIGPIPE]]])
    check(counted, launch(warm, [case]), signal_lines)


def test_an_alarm_set_before_ends_the_program(warm: World, counted: Counted) -> None:
    cases = [
        Case("alarm", ["/bin/sleep", "20"], [["alarm", 0.3]]),
        Case("alarm ignored", ["/bin/sleep", "0.6"], [["alarm", 0.3], ["ignore", [signal.SIGALRM]]]),
        Case("alarm blocked", ["/bin/sleep", "0.6"], [["alarm", 0.3], ["block", [signal.SIGALRM]]]),
    ]
    pairs = launch(warm, cases)
    assert [pair.bare.status for pair in pairs] == [signal.SIGALRM, 0, 0]
    check(counted, pairs)


def test_pythons_way_to_start_a_child_makes_no_difference(warm: World, counted: Counted) -> None:
    """subprocess.Popen as people call it, with what it can set."""
    ways: dict[str, dict[str, Any]] = {
        "default": {},
        "descriptors kept": {"close_fds": False},
        "a session": {"start_new_session": True},
        "a group": {"process_group": 0},
        "umask": {"umask": 0o027},
        "cwd": {"cwd": "/usr"},
        "by the shell": {"shell": True},
    }

    def start(prefix: list[str], way: dict[str, Any]) -> tuple[int, str, str]:
        words: Any = [*prefix, "/bin/grep", "-E", "^(Sig[BIC]|Umask|Threads)", "/proc/self/status"]
        if way.get("shell"):
            words = " ".join(f"'{word}'" for word in words)
        done = subprocess.run(words, env=warm.env, capture_output=True, text=True, timeout=30, check=False, **way)
        return done.returncode, done.stdout, done.stderr

    bare = [start([], way) for way in ways.values()]
    assert all(code == 0 for code, _, _ in bare)
    counted(list(ways), bare, [start([warm.command], way) for way in ways.values()])


@pytest.mark.needs("setsid", "timeout", "nohup", "xargs", "nice", "stdbuf", "bash", "setpriv", "prlimit", "ionice")
def test_other_prefix_commands_around_it_work_as_ever(warm: World, counted: Counted) -> None:
    lines = {
        "timeout": "timeout 0.2 RUN sleep 20; echo $?",
        "timeout with a signal": "timeout -s USR1 0.2 RUN sleep 20; echo $?",
        "timeout --foreground": "timeout --foreground -k 1 0.2 RUN sleep 20; echo $?",
        "inside timeout": "RUN timeout 0.2 sleep 20; echo $?",
        "setsid": "setsid -w RUN sh -c 'exit 5'; echo $?",
        "nohup": "nohup RUN grep SigIgn /proc/self/status </dev/null 2>&1; echo $?",
        "xargs": "seq 6 | xargs -n 1 -P 3 RUN sh -c 'exit $0' ; echo $?",
        "xargs with input": "seq 3 | xargs RUN echo",
        "nice": "nice -n 3 RUN nice; echo $?",
        "inside nice": "RUN nice -n 3 nice; echo $?",
        "ionice": "ionice -c 3 RUN ionice; echo $?",
        "env -u": "env -u HOME RUN sh -c 'echo ${HOME-none}'",
        "prlimit": "prlimit --nofile=77:88 RUN sh -c 'ulimit -Sn; ulimit -Hn'",
        "setpriv": "setpriv --pdeathsig TERM --no-new-privs RUN grep NoNew /proc/self/status",
        "subshell": "(RUN sh -c 'exit 3'); echo $?",
        "substitution": "x=$(RUN printf 'a\\n\\n'; echo $?); echo \"[$x]\"",
        "process substitution": "RUN cat <(echo one) <(echo two)",
        "a descriptor by number": "RUN sh -c 'echo three >&3' 3>&1",
        "here text": "RUN cat <<< 'some text'",
        "reading on": "{ RUN head -c 2; cat; } < <(printf abcdef)",
        "closed input": "RUN cat <&-; echo $?",
        "closed output": "RUN /bin/echo x >&-; echo $?",
        "exec": "exec RUN sh -c 'exit 4'",
        "background": "RUN sh -c 'exit 6' & wait $!; echo $?",
        "wait -n": "RUN sh -c 'exit 6' & wait -n; echo $?",
        "the same pid": "RUN sh -c 'echo $$' > pid & wait; [ $! = $(cat pid) ]; echo $?",
        "killed": "RUN sleep 20 & kill -9 $!; wait $!; echo $?",
        "not": "! RUN false; echo $?",
        "errexit": "set -e; RUN false; echo not reached",
        "pipefail": "set -o pipefail; RUN sh -c 'exit 8' | cat; echo $?",
        "ulimit": "ulimit -S -n 99; RUN sh -c 'ulimit -n'",
        "umask": "umask 027; RUN sh -c umask",
        "lone variable": "A='b c' RUN sh -c 'echo \"$A\"'",
        "monitor": "set -m; RUN sleep 0.1 & fg %1 >/dev/null; echo $?",
    }

    def say(line: str, prefix: str) -> tuple[str, str, int]:
        done = subprocess.run(
            ["bash", "--norc", "-c", line.replace("RUN", prefix)],
            env=warm.env, cwd=warm.scratch, capture_output=True, text=True, timeout=40, check=False,
            start_new_session=True,
        )  # fmt: skip
        return (
            done.stdout,
            re.sub(r"line 1: +\d+ ", "", done.stderr.replace(f"{prefix} ", "" if prefix else " ")),
            done.returncode,
        )

    bare = [say(line, "") for line in lines.values()]
    under = [say(line, warm.command) for line in lines.values()]
    counted(list(lines), bare, under)


# make


@pytest.mark.needs("make", "mkfifo", "timeout")
@pytest.mark.parametrize("width", [2, 4])
def test_a_make_below_shares_the_jobserver(warm: World, counted: Counted, tmp_path: Path, width: int) -> None:
    """Two recipes that wait for each other end only if the make below runs both at once, with a token from above."""
    (tmp_path / "Makefile").write_text(
        "all: below other\nbelow:\n\t+$(PREFIX) $(MAKE) --no-print-directory -f inner.mk all\nother:\n\t@true\n",
    )
    (tmp_path / "inner.mk").write_text(
        "all: a b c d\n"
        "a:\n\t@timeout 20 sh -c 'echo met > meeting'\n"
        "b:\n\t@timeout 20 cat meeting\n"
        "c d:\n\t@printf '%s\\n' \"$(filter-out -%auth=%,$(MAKEFLAGS))\" > $@.flags\n"
        ".PHONY: a b c d\n",
    )

    def build(prefix: str) -> tuple[int, str, str, list[str]]:
        os.mkfifo(tmp_path / "meeting")
        child = warm.adopt(
            subprocess.Popen(
                ["make", "-s", f"-j{width}", f"PREFIX={prefix}"],
                cwd=tmp_path, env=warm.env, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True,
            )
        )  # fmt: skip
        out, err = child.communicate(timeout=60)
        (tmp_path / "meeting").unlink()
        flags = [(tmp_path / f"{name}.flags").read_text().replace(prefix, "") for name in "cd"]
        return child.returncode, out, err, flags

    bare, under = build(""), build(warm.command)
    assert bare[:3] == (0, "met\n", "")
    counted([f"make -j{width}"], [bare], [under])


# Terminals

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "--noediting", "-i"],
    "zsh": ["zsh", "-f", "-o", "nobanghist", "-i"],
    "fish": ["fish", "--no-config", "--private", "-i"],
}
STATUS = {"bash": "$?", "zsh": "$?", "fish": "$status"}
LAST = {"bash": "$!", "zsh": "$!", "fish": "$last_pid"}
# A program in one file: says that it runs (its pid, in a file), then does what it is told.
VICTIM = """\
import os, sys, termios, tty
import _signal as signal

sign, what = sys.argv[1:3]
hits = 0

def say(text):
    with open(sign + ".half", "w") as file:
        file.write(text)
    os.rename(sign + ".half", sign)

def hit(number, frame):
    global hits
    hits += 1
    say(f"{os.getpid()} {hits}")

if what == "sleep":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
elif what == "count":
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGHUP):
        signal.signal(number, hit)
    # Python acts on what came just before it began to read only once the read is over, or interrupted.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
elif what == "raw":
    before = termios.tcgetattr(0)
    tty.setraw(0)
say(f"{os.getpid()} 0")
if what == "sleep":
    while True:
        signal.pause()
elif what == "count":
    for line in sys.stdin:
        if line == "size\\n":
            print("<<", *os.get_terminal_size(0), ">>", flush=True)
        elif line == "end\\n":
            print(f"<<hits {hits}>>", flush=True)
            break
elif what == "raw":
    typed = b""
    while len(typed) < 4:
        typed += os.read(0, 4)
    termios.tcsetattr(0, termios.TCSADRAIN, before)
    print("<<", typed.hex(), ">>")
sys.exit(23)
"""


def default_signals() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A shell on a terminal of its own, and the program started in it."""

    def __init__(
        self, shell: str, world: World, folder: Path, prefix: str, *,
        python: Sequence[str] = PYTHON, uid: int | None = None, become: Callable[[], None] = default_signals,
    ) -> None:  # fmt: skip
        import pexpect

        self.shell, self.world, self.prefix, self.folder, self.python = shell, world, prefix, folder, list(python)
        folder.mkdir()
        (folder / "victim.py").write_text(VICTIM)
        if uid is not None:
            os.chown(folder, uid, uid)
        self.sign = folder / "sign"
        env = {**world.env, "TERM": "dumb", "HOME": str(folder), "PS1": "@@> ", "PS2": "", "LC_ALL": "C.UTF-8"}
        words = [*SHELLS[shell]]
        if shell == "fish":
            # fish asks for its prompt by a function, and greets.
            words += ["-C", "function fish_prompt; echo -n '@@> '; end; function fish_title; end; set -g fish_greeting"]
        self.screen = pexpect.spawn(
            words[0], words[1:], env=env, cwd=str(folder), dimensions=(24, 80), timeout=15, encoding="utf-8",
            codec_errors="replace", preexec_fn=become, echo=True,
        )  # fmt: skip
        self.screen.delaybeforesend = None
        self.prompt()

    def prompt(self) -> None:
        self.screen.expect_exact("@@> ")

    def type(self, line: str) -> None:
        """A command line; RUN is the prefix, VICTIM the program."""
        victim = f"{' '.join(self.python)} {self.folder}/victim.py {self.sign}"
        line = line.replace("VICTIM", victim).replace("RUN ", f"{self.prefix} " if self.prefix else "")
        self.screen.send(line + "\n")

    def start(self, line: str) -> int:
        """Type a line that starts VICTIM; its pid, once it says that it runs."""
        self.sign.unlink(missing_ok=True)
        self.type(line)
        return self.pid()

    def pid(self) -> int:
        wait_until(self.sign.exists, f"the program to run in {self.shell}")
        return int(self.sign.read_text().split()[0])

    def hits(self, count: int) -> None:
        wait_until(lambda: self.sign.read_text().split()[1] == str(count), f"{count} signals")

    def status(self) -> str:
        self.type(f'echo "<<"{STATUS[self.shell]}">>"')
        found = self.shown(r"<<(-?\d+)>>")
        # Until then the shell may still be changing the terminal's modes, which throws away what is typed.
        self.prompt()
        return found

    def shown(self, pattern: str) -> str:
        self.screen.expect(pattern)
        found: str = self.screen.match.group(1)
        return found

    def stat(self, pid: int) -> dict[str, Any]:
        """State, group, session and whether it is in the terminal's foreground."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return {"state": "gone"}
        if fields[0] in "ZX":
            # bash without a line editor leaves it a zombie until the next line is typed.
            return {"state": "gone"}
        ours = os.getpgid(self.screen.pid)
        return {
            "state": "T" if fields[0] == "T" else "S" if fields[0] in "SRD" else fields[0],
            "group is its pid": fields[2] == str(pid),
            "group is the shell's": fields[2] == str(ours),
            "parent is the shell": fields[1] == str(self.screen.pid),
            "session is the shell's": fields[3] == str(self.screen.pid),
            "foreground": fields[5] == fields[2],
        }

    def becomes(self, pid: int, **wanted: Any) -> dict[str, Any]:
        """Wait until the program's stat has these values; the whole of it."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.stat(pid))
            return seen.items() >= wanted.items()

        try:
            wait_until(look, f"the program to become {wanted} in {self.shell}")
        except AssertionError as failure:
            with contextlib.suppress(Exception):
                self.screen.expect("nothing", timeout=0)
            raise AssertionError(f"{failure}; it is {seen}; the screen: {self.screen.before!r}") from None
        return seen

    def child(self, name: str) -> int:
        """The pid of the shell's child that runs `name` by now, in the foreground."""

        def look() -> int | None:
            for process in psutil.Process(self.screen.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() == name and self.stat(process.pid).get("foreground"):
                        return process.pid
            return None

        return wait_until(look, f"{name} to run in {self.shell}")

    def kill(self, name: str, pid: int) -> None:
        """By the shell's own kill, of its job where it knows such names."""
        self.type(f"kill -{name} {pid if self.shell == 'fish' else '%1'}")

    def key(self, letter: str) -> None:
        self.screen.sendcontrol(letter)

    def close(self) -> None:
        """Hang up, as when a window is closed; whoever stays is ended."""
        try:
            left = psutil.Process(self.screen.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            left = []
        with contextlib.suppress(OSError):
            self.screen.ptyproc.fileobj.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.screen.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.screen.pid, 0)
        self.screen.closed = self.screen.ptyproc.closed = True
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def interrupt(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    found = [t.becomes(pid, state="S", foreground=True)]
    t.key("c")
    found.append(t.becomes(pid, state="gone"))
    return [*found, t.status()]


def quit(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    t.key("\\")
    return [t.becomes(pid, state="gone"), t.status()]


def stop_and_fg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    found: list[Any] = []
    for _ in range(2):
        t.key("z")
        found += [t.becomes(pid, state="T", foreground=False), t.status()]
        t.type("fg")
        found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def stop_and_bg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("bg")
    found += [t.becomes(pid, state="S", foreground=False), t.status()]
    # Not for one in the background.
    t.key("c")
    if t.shell != "fish":
        # The terminal throws away what was typed ahead, so the next line has to wait.
        t.prompt()
    found += [t.stat(pid), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def in_background(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    found: list[Any] = [t.becomes(pid, state="S", foreground=False)]
    t.type(f'echo "<<"{LAST[t.shell]}">>"')
    found.append(t.shown(r"<<(\d+)>>") == str(pid))
    t.kill("USR1", pid)
    return [*found, t.becomes(pid, state="gone")]


def background_and_fg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.type("fg")
    found = [t.becomes(pid, state="S", foreground=True)]
    t.key("z")
    found.append(t.becomes(pid, state="T", foreground=False))
    t.kill("KILL", pid)
    return [*found, t.becomes(pid, state="gone")]


def caught(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM count")
    for count, key in enumerate("cc\\zc", start=1):
        t.key(key)
        t.hits(count)
    found: list[Any] = [t.stat(pid)]
    t.screen.send("end\n")
    found.append(t.shown("<<hits (.*)>>"))
    return [*found, t.becomes(pid, state="gone"), t.status()]


def resized(t: Terminal) -> list[Any]:
    t.start("RUN VICTIM count")
    t.screen.send("size\n")
    found: list[Any] = [t.shown("<<(.*)>>")]
    t.screen.setwinsize(33, 99)
    t.hits(1)
    t.screen.send("size\n")
    found.append(t.shown("<<(.*)>>"))
    t.screen.send("end\n")
    return [*found, t.shown("<<hits (.*)>>"), t.status()]


def raw_mode(t: Terminal) -> list[Any]:
    t.start("RUN VICTIM raw")
    t.screen.send("\x03\x1a\x04\r")
    return [t.shown("<<(.*)>>"), t.status()]


def reading(t: Terminal) -> list[Any]:
    t.type("RUN cat")
    pid = t.child("cat")
    t.screen.send("first line\n")
    found: list[Any] = [t.shown(r"(first line\r\n(?=.*first line\r\n))")]
    t.key("z")
    found += [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.screen.send("second line\n")
    found.append(t.shown(r"(second line\r\n(?=.*second line\r\n))"))
    t.key("d")
    return [*found, t.status()]


def reading_in_background(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM count &")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False)]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.screen.send("end\n")
    found.append(t.shown("<<(hits .*)>>"))
    return [*found, t.status()]


def in_pipeline(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep | cat")
    found = t.becomes(pid, state="S", foreground=True)
    # The program or cat may be the leader, and in zsh and fish which of them is not a matter of order alone.
    t.key("z")
    stopped = t.becomes(pid, state="T", foreground=False)
    t.type("fg")
    again = t.becomes(pid, state="S", foreground=True)
    t.key("c")
    return [found, stopped, again, t.becomes(pid, state="gone"), t.status()]


def statuses(t: Terminal) -> list[Any]:
    found = []
    for line in ("RUN sh -c 'exit 42'", "RUN true", "RUN false", "RUN sh -c 'kill -TERM $$'", "RUN sh -c 'kill -9 $$'"):
        t.type(line)
        found.append(t.status())
    return found


def tty_facts(t: Terminal) -> list[Any]:
    found = []
    for line in ("RUN PROBE", "RUN PROBE | cat", "cat /dev/null | RUN PROBE", "RUN PROBE &", "RUN PROBE 2>/dev/null"):
        report = t.folder / "report"
        report.unlink(missing_ok=True)
        t.type(line.replace("PROBE", f"{' '.join(PYTHON)} {PROBE} {report}"))
        wait_until(report.exists, f"the probe's report in {t.shell}")
        seen = ast.literal_eval(report.read_text())
        t.status()
        same = {"ppid": str(t.screen.pid), "session": str(t.screen.pid), "pgrp": str(seen["pid"])}
        found.append({
            **{name: seen["stat"][name] == value for name, value in same.items()},
            "tty": seen["stat"]["tty_nr"] != "0",
            "terminal": {**seen["terminal"], "controlling": seen["terminal"]["controlling"].startswith("/dev/pts/")},
            "descriptors": {n: [re.sub(r"\d+", "N", v[0]), v[2]] for n, v in seen["descriptors"].items()},
            "limits": seen["limits"], "children": seen["children"], "threads": seen["threads"], "cwd": seen["cwd"],
        })  # fmt: skip
    return found


SCENARIOS: list[Callable[[Terminal], list[Any]]] = [
    interrupt, quit, stop_and_fg, stop_and_bg, in_background, background_and_fg, caught, resized, raw_mode, reading,
    reading_in_background, in_pipeline, statuses, tty_facts,
]  # fmt: skip

shells = pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in SHELLS])


@shells
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_on_a_terminal(warm: World, counted: Counted, tmp_path: Path, shell: str, scenario: Any) -> None:
    def play(prefix: str, folder: Path) -> list[Any]:
        terminal = Terminal(shell, warm, folder, prefix)
        try:
            return scenario(terminal)
        finally:
            terminal.close()

    # The folder's name is part of what is compared, so both are called the same.
    bare = play("", tmp_path / "here")
    shutil.rmtree(tmp_path / "here")
    under = play(warm.command, tmp_path / "here")
    assert len(bare) == len(under)
    counted([f"{scenario.__name__} {number}" for number in range(len(bare))], bare, under)


@shells
@only_gpurun
def test_ctrl_c_while_waiting_ends_the_wait(fresh: Callable[..., World], tmp_path: Path, shell: str) -> None:
    world = fresh("1x24G")
    world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    terminal = Terminal(shell, world, tmp_path / "here", world.command)
    try:
        terminal.type("RUN VICTIM sleep")
        wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
        terminal.key("c")
        wait_until(lambda: world.state(2) == "ended", "job 2 to end")
        assert terminal.status() == "130"
        assert world.job(2)["result"]["kind"] == "cancelled"
        assert not terminal.sign.exists()
        assert world.state(1) == "running"
    finally:
        terminal.close()


@shells
@only_gpurun
def test_stopped_while_waiting_it_keeps_its_place_and_starts_after_fg(
    fresh: Callable[..., World], tmp_path: Path, shell: str
) -> None:
    world = fresh("1x24G")
    holder = world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    terminal = Terminal(shell, world, tmp_path / "here", world.command)
    try:
        terminal.type("RUN VICTIM sleep")
        wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
        pid = world.job(2)["pid"]
        terminal.key("z")
        terminal.becomes(pid, state="T", foreground=False)
        terminal.status()
        holder.kill()
        # It is passed over: somebody behind it runs first.
        behind = world.run("true")
        assert behind.returncode == 0
        assert world.state(2) == "waiting"
        assert not terminal.sign.exists()
        terminal.type("fg")
        assert terminal.pid() == pid
        terminal.becomes(pid, state="S", foreground=True)
        assert world.state(2) == "running"
        terminal.key("z")
        terminal.becomes(pid, state="T", foreground=False)
        terminal.type("fg")
        terminal.becomes(pid, state="S", foreground=True)
        terminal.key("c")
        terminal.becomes(pid, state="gone")
        # fish does not say how a job ended that was brought back.
        assert terminal.status() == ("0" if shell == "fish" else "130")
    finally:
        terminal.close()


@only_gpurun
def test_a_signal_ends_the_wait_as_it_would_end_the_program(
    fresh: Callable[..., World], record_property: Callable[[str, object], None]
) -> None:
    """By the same signal; the job is taken out of the line. A signal that was ignored before stays so."""
    world = fresh("1x24G")
    holder = world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGKILL, 40]

    def ignoring(number: int) -> Callable[[], object]:
        return lambda: signal.signal(number, signal.SIG_IGN)

    ending = {number: world.start("sleep", "1000") for number in numbers}
    staying = {n: world.start("true", preexec_fn=ignoring(n)) for n in numbers if n != signal.SIGKILL}
    everybody = {child.pid for child in (*ending.values(), *staying.values())}

    def in_line() -> set[int]:
        return {job["pid"] for job in world.jobs(all=False) if job["state"] == "waiting"}

    wait_until(lambda: in_line() == everybody, f"{len(everybody)} jobs to wait")
    for number, child in (*ending.items(), *staying.items()):
        child.send_signal(number)
    assert {number: child.wait(30) for number, child in ending.items()} == {number: -number for number in numbers}
    left = {child.pid for child in staying.values()}
    wait_until(lambda: in_line() == left, "the ended ones to leave the line")
    ended = [job for job in world.jobs() if job["state"] == "ended"]
    assert [job["result"]["kind"] for job in ended] == ["cancelled"] * len(numbers)
    assert [child.poll() for child in staying.values()] == [None] * len(staying)
    # Those that ignored it run in their turn.
    holder.kill()
    assert [child.wait(30) for child in staying.values()] == [0] * len(staying)
    record_property("counted", f"{len(numbers)} of {len(numbers)} equal")


@pytest.mark.needs("bash")
def test_nothing_is_drawn_when_a_job_starts_at_once(warm: World, counted: Counted, tmp_path: Path) -> None:
    """The terminal gets the same bytes; also on a terminal that stops background writers, and after it is hung up."""

    def play(prefix: str) -> list[Any]:
        folder = tmp_path / "here"
        terminal = Terminal("bash", warm, folder, prefix)
        try:
            terminal.type("PS1=; stty -echo; echo beg''un")
            terminal.screen.expect_exact("begun\r\n")
            found: list[Any] = []
            for line in ("RUN printf 'a\\nb'", "RUN true", "RUN sh -c 'echo err >&2'", "RUN cat </dev/null"):
                terminal.type(f"{line}; echo en''ded")
                terminal.screen.expect_exact("ended\r\n")
                found.append(terminal.screen.before)
            terminal.type("stty tostop")
            pid = terminal.start("{ RUN VICTIM sleep; } &")
            terminal.type("kill %1; wait; stty -tostop; echo en''ded")
            terminal.becomes(pid, state="gone")
            terminal.screen.expect_exact("ended\r\n")
            pid = terminal.start("RUN VICTIM sleep")
            # Only the window: the program must be hung up by that alone.
            terminal.screen.ptyproc.fileobj.close()
            terminal.becomes(pid, state="gone")
            return found
        finally:
            terminal.close()
            shutil.rmtree(folder)

    bare = play("")
    under = play(warm.command)
    counted([str(number) for number in range(len(bare))], bare, under)
