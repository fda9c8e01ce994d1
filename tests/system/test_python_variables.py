"""The user's PYTHON* variables are meant for the program: it sees them, and gpurun itself does as if there were none.

Some act on every Python before a line of gpurun runs, and pip drops options from a script's first line: as it is installed
those stop gpurun, or add lines of Python's own; with `-EP` in that line none does, but for PYTHONEXECUTABLE. The manual says
which, in BEFORE GPURUN RUNS.
"""

import re
import shutil
import signal
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until
from world import World, installed_command

# What every Python dies of.
FATAL = (
    ("HOME", "/nonexistent"), ("HASHSEED", "x"), ("UTF8", "2"), ("IOENCODING", "nosuch"), ("MALLOC", "nosuch"),
    ("TRACEMALLOC", "x"), ("INTMAXSTRDIGITS", "x"), ("PLATLIBDIR", "nowhere"), ("EXECUTABLE", "/nonexistent"),
)  # fmt: skip
# What makes every Python talk.
TALK = (
    ("VERBOSE", "1"), ("PROFILEIMPORTTIME", "1"), ("MALLOCSTATS", "1"), ("WARNINGS", "nonsense"), ("COERCECLOCALE", "warn"),
    ("PATH", "SITE"),
)  # fmt: skip
QUIET = (
    ("HOME", "OTHER"), ("HASHSEED", "7"), ("UTF8", "0"), ("UTF8", "1"), ("IOENCODING", "ascii"), ("IOENCODING", "latin-1"),
    ("PATH", "/nonexistent"), ("STARTUP", "/nonexistent"), ("INSPECT", "1"), ("WARNINGS", "error"), ("WARNINGS", "always"),
    ("DEVMODE", "1"), ("MALLOC", "debug"), ("TRACEMALLOC", "1"), ("FAULTHANDLER", "1"), ("SAFEPATH", "1"), ("NOUSERSITE", "1"),
    ("DONTWRITEBYTECODE", "1"), ("PYCACHEPREFIX", "/nonexistent"), ("OPTIMIZE", "2"), ("UNBUFFERED", "1"), ("DEBUG", "1"),
    ("BREAKPOINT", "nosuch"), ("INTMAXSTRDIGITS", "640"), ("COERCECLOCALE", "0"), ("CASEOK", "1"), ("NODEBUGRANGES", "1"),
    ("ASYNCIODEBUG", "1"), ("DUMPREFS", "1"), ("WARNDEFAULTENCODING", "1"), ("USERBASE", "/nonexistent"),
)  # fmt: skip
FORMS = (
    ("-g", "0", "-d", "--", "true"),
    ("-g", "0", "--retries", "1", "--", "sh", "-c", "exit 5"),
    ("-g", "0", "--array", "1-2", "--", "true"),
    ("-n", "true"),
    ("nosuchprogram",),
    ("-m", "8", "true"),
    ("ls",),
    ("why", "2"),
    ("gpus",),
    ("doctor",),
    ("history",),
    ("logs", "3"),
    ("set", "-p", "1", "2"),
    ("kill", "999"),
    ("--help", "all"),
    ("--version",),
)
# Figures of time and numbers of jobs differ from one call to the next.
CHANGING = re.compile(r"\d+")


@pytest.fixture(scope="module")
def busy() -> Iterator[World]:
    """A world with one job that runs and one that waits, for all tests of this file."""
    world = World("1x24G")
    try:
        world.start("-N", "grün", "sleep", "600")
        wait_until(lambda: world.state(1) == "running", "a job to run")
        world.start("sleep", "600")
        wait_until(lambda: world.state(2) == "waiting", "a job to wait")
        assert world.run(*FORMS[0]).returncode == 0
        wait_until(lambda: world.state(3) == "ended", "a job of the background to end")
        yield world
    finally:
        world.close()


@pytest.fixture(scope="module")
def isolated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command with `-EP` in its first line, as its user may write it there."""
    made = tmp_path_factory.mktemp("bin") / "gpurun"
    shutil.copy(installed_command(), made)
    manual = (Path(__file__).parents[2] / "man" / "gpurun.1").read_text()
    (line,) = [line for line in manual.splitlines() if line.startswith("sed ")]
    line = line.replace("\\-", "-").replace("\\(aq", "'")
    subprocess.run(["sh", "-c", line], env={"PATH": f"{made.parent}:/usr/bin:/bin"}, check=True)
    return str(made)


def variable(name: str, value: str, folder: Path) -> dict[str, str]:
    """The variable; OTHER is a home with the library of another build, SITE has a sitecustomize.py."""
    if value == "OTHER":
        library = Path(sysconfig.get_path("stdlib"))
        (folder / "lib" / library.name).mkdir(parents=True)
        for each in library.iterdir():
            if each.name not in ("site-packages", "lib-dynload"):
                (folder / "lib" / library.name / each.name).symlink_to(each)
        value = str(folder)
    elif value == "SITE":
        (folder / "sitecustomize.py").write_text("import sys; sys.stderr.write('sitecustomize\\n')")
        value = str(folder)
    return {f"PYTHON{name}": value}


def entries(world: World, command: str, env: dict[str, str]) -> tuple[int, list[bytes], bytes]:
    """How `cat /proc/self/environ` ended under gpurun, what it saw beyond gpurun's own variables, and what was said."""
    words = [command, "-g", "0", "--", "sh", "-c", "cat /proc/self/environ; exit 3"]
    done = subprocess.run(words, env=env, capture_output=True, timeout=30)
    ours = (b"CUDA_", b"GPURUN_", b"PWD=", b"OLDPWD=", b"_=")
    return done.returncode, [e for e in done.stdout.split(b"\0")[:-1] if not e.startswith(ours)], done.stderr


def check_program(world: World, command: str, given: dict[str, str]) -> None:
    # In the C locale, as cron has it, Python sets LC_CTYPE for itself.
    env = {name: value for name, value in world.env.items() if not name.startswith(("LC_", "LANG"))} | given
    bare = subprocess.run(["sh", "-c", "cat /proc/self/environ"], env=env, capture_output=True, timeout=30)
    ours = (b"CUDA_", b"GPURUN_", b"PWD=", b"OLDPWD=", b"_=")
    seen = [entry for entry in bare.stdout.split(b"\0")[:-1] if not entry.startswith(ours)]
    assert entries(world, command, env) == (3, seen, b"")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *QUIET,
        *[pytest.param(*each, marks=pytest.mark.xfail(strict=True, reason="acts before gpurun")) for each in (*FATAL, *TALK)],
    ],
)
def test_the_program_sees_what_was_set_and_nothing_else_changes(busy: World, tmp_path: Path, name: str, value: str) -> None:
    check_program(busy, busy.command, variable(name, value, tmp_path))


@pytest.mark.parametrize(("name", "value"), [*QUIET, *FATAL[:-1], *TALK])
def test_with_an_option_in_its_first_line_no_variable_acts(
    busy: World, isolated: str, tmp_path: Path, name: str, value: str
) -> None:
    check_program(busy, isolated, variable(name, value, tmp_path))


def said(done: "subprocess.CompletedProcess[str]") -> tuple[int, str]:
    """How a command ended and what it said, without what differs from one call to the next."""
    return done.returncode, CHANGING.sub("N", done.stderr)


@pytest.fixture(scope="module")
def plain(busy: World) -> dict[tuple[str, ...], tuple[int, str]]:
    """What is said without any variable."""
    return {words: said(busy.run(*words)) for words in FORMS}


@pytest.mark.parametrize(("name", "value"), QUIET)
def test_what_gpurun_itself_says_and_how_it_ends_stay_the_same(
    busy: World, plain: dict[tuple[str, ...], tuple[int, str]], tmp_path: Path, name: str, value: str
) -> None:
    given = variable(name, value, tmp_path)
    assert {words: said(busy.run(*words, extra=given)) for words in FORMS} == plain


@pytest.mark.parametrize("option", [False, True])
def test_what_cannot_find_its_own_modules_says_so(busy: World, isolated: str, option: bool) -> None:
    words = [isolated if option else busy.command, "true"]
    env = {**busy.env, "PYTHONEXECUTABLE": "/nonexistent"}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 125
    assert done.stderr.startswith("gpurun: cannot start: its own modules are not found: ")
    assert len(done.stderr.splitlines()) == 1


def test_letters_that_the_encoding_lacks_are_replaced(busy: World) -> None:
    done = busy.run("ls", extra={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, "PRIO?" in done.stdout, "gr?n" in done.stdout or "grün" in done.stdout) == (0, True, True)


@pytest.mark.parametrize(
    ("limit", "status"), [(":", 1), ("ulimit -n 4", 1), ("ulimit -v 8000", 127), ("ulimit -s 64", 128 + signal.SIGSEGV)]
)
def test_what_is_refused_before_gpurun_runs_ends_as_the_manual_says(busy: World, limit: str, status: int) -> None:
    stdin = "< /" if limit == ":" else ""
    line = f"{limit}; {busy.command} -g 0 -- echo ran {stdin}; exit $?"
    done = subprocess.run(["bash", "-c", line], env=busy.env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.parametrize("name", ["FAULTHANDLER", "DEVMODE"])
def test_signals_that_python_catches_then_stay_ignored(busy: World, name: str) -> None:
    env = {**busy.env, f"PYTHON{name}": "1"}
    trap = "trap '' SEGV FPE ABRT BUS ILL; "

    def ignored(command: str) -> str:
        words = ["sh", "-c", f"{trap}{command}grep SigIgn /proc/self/status; exit $?"]
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=30).stdout

    assert ignored(f"{busy.command} -g 0 -- ") == ignored("")
