"""A program gets its environment byte for byte, and what gpurun promises to set."""

import contextlib
import os
import pwd
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from fidelity import (
    STAND_IN,
    Case,
    Counted,
    Run,
    check,
    entries,
    environment,
    hostile_modules,
    launch,
    only_gpurun,
    outcome,
    wrong_variables,
)
from waiting import wait_until
from world import World, clean_environment


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
