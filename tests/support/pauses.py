"""What the tests of giving way share: the log of beat.py and what it proves, groups of the freezer, an ordinary user.

Times are CLOCK_MONOTONIC in nanoseconds, written by the programs themselves; of gpurun only the event table is believed,
and only about the order of moves.
"""

import contextlib
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from fidelity import PYTHON
from shells import Terminal
from waiting import wait_until
from world import OTHER_UID, SUPPORT, World

GIB = 2**30
BEAT = str(SUPPORT / "beat.py")
# No step of a program that steps each 10 ms for so long: it stands still.
STILL_SECONDS = 0.25
# What is promised of an urgent job's first instruction after its submit, and of its victim after its end. Measured: 0.1 to
# 0.6 s and 0.02 s on two cores that run other things too, so no allowance is made.
PROMISED_SECONDS = 1.0
# Times figures that nobody is promised: on a machine that runs other things too they may take a few times as long.
SLACK = 3


# The log


@dataclass(frozen=True)
class Line:
    at_ns: int
    tag: str
    pid: int
    what: str
    value: str


class Beats:
    """The log that programs of one test write together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    def lines(self, tag: str | None = None, what: str | None = None) -> list[Line]:
        found = []
        for text in self.path.read_text().splitlines():
            at, *rest, value = text.split(" ")
            line = Line(int(at), rest[0], int(rest[1]), rest[2], value)
            if (tag is None or line.tag == tag) and (what is None or line.what == what):
                found.append(line)
        return found

    def first(self, tag: str, what: str) -> Line:
        return self.lines(tag, what)[0]

    def last(self, tag: str, what: str = "beat") -> Line:
        return self.lines(tag, what)[-1]

    def has(self, tag: str, what: str) -> bool:
        return bool(self.lines(tag, what))

    def until_beats(self, tag: str, count: int = 3, within: float = 40) -> None:
        """Wait for `count` more steps from now on."""
        before = len(self.lines(tag, "beat"))
        wait_until(lambda: len(self.lines(tag, "beat")) >= before + count, f"{tag} to make {count} steps", within)

    def stands_still(self, tag: str) -> bool:
        """Whether it has made no step for a while."""
        return time.monotonic_ns() - self.last(tag).at_ns > STILL_SECONDS * 1e9

    def until_still(self, tag: str, within: float = 30) -> None:
        wait_until(lambda: self.stands_still(tag), f"{tag} to stand still", within)

    # Proofs: the faults found, in words.

    def steps_between(self, tag: str, from_ns: int, to_ns: int) -> list[str]:
        """No progress while it was to stand still."""
        found = [line for line in self.lines(tag, "beat") if from_ns < line.at_ns < to_ns]
        return [f"{tag}: step {line.value} made {(line.at_ns - from_ns) / 1e9:.3f} s into the pause" for line in found]

    def lost_steps(self, tag: str) -> list[str]:
        """All progress was kept: one process, and every step once, in order."""
        beats = self.lines(tag, "beat")
        numbers = [int(line.value) for line in beats]
        faults = [] if numbers == list(range(1, len(numbers) + 1)) else [f"{tag}: steps {numbers[:5]} … {numbers[-5:]}"]
        return faults + ([f"{tag}: {len({line.pid for line in beats})} processes"] if len({b.pid for b in beats}) != 1 else [])

    def too_much_memory(self, total: int) -> list[str]:
        """What programs held together never exceeded a GPU; nobody that held any was killed in these tests."""
        held: dict[str, dict[str, int]] = defaultdict(dict)
        gpus: dict[str, list[str]] = {}
        faults = []
        for line in self.lines():
            if line.what == "start":
                gpus[line.tag] = line.value.split(",")
            for gpu in gpus[line.tag] if line.what in ("take", "free") else []:
                held[gpu][line.tag] = int(line.value) if line.what == "take" else 0
                if sum(held[gpu].values()) > total:
                    faults.append(f"GPU {gpu}: {dict(held[gpu])} of {total} at {line.at_ns}")
        return faults


class Stage:
    """A world with its log and a folder for gates: files whose appearance ends a program."""

    def __init__(self, world: World, folder: Path, python: Sequence[str] = PYTHON) -> None:
        self.world, self.folder, self.python = world, folder, list(python)
        self.beats = Beats(folder / "log")
        # Not where it lies: another user may not read the checkout.
        self.program = folder / "beat.py"
        self.program.write_text(Path(BEAT).read_text())

    def words(self, tag: str, *options: str, gate: bool = True) -> list[str]:
        """The command line of a program, which runs until `open(tag)` unless it is told for how long."""
        more = [f"until={self.gate(tag)}"] if gate else []
        return [*self.python, str(self.program), str(self.beats.path), tag, *more, *options]

    def gate(self, tag: str) -> Path:
        return self.folder / f"open-{tag}"

    def open(self, tag: str) -> None:
        self.gate(tag).touch()

    def open_all(self) -> None:
        for tag in {line.tag for line in self.beats.lines()}:
            self.open(tag)

    def start(self, tag: str, *options: str, under: Sequence[str] = (), **popen: Any) -> "subprocess.Popen[Any]":
        """Start it by `gpurun UNDER`; it has not started when this returns."""
        return self.world.start(*under, "--", *self.words(tag, *options), **popen)

    def running(self, tag: str, *options: str, under: Sequence[str] = (), **popen: Any) -> "subprocess.Popen[Any]":
        """Start it and wait until it makes steps."""
        client = self.start(tag, *options, under=under, **popen)
        self.until_running(tag)
        return client

    def until_running(self, tag: str, within: float = 40) -> None:
        try:
            wait_until(lambda: self.beats.has(tag, "beat"), f"{tag} to run", within)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.said()}") from None

    def said(self) -> str:
        """What gpurun says about it all, for messages of tests that failed."""
        shown = self.world.run("ls", "-a")
        return shown.stdout + shown.stderr + self.world.last_words()

    def until_state(self, job: int, *states: str, within: float = 30) -> str:
        """Wait for a state, as the database itself has it."""

        def look() -> str | None:
            rows = self.world.rows("SELECT state FROM job WHERE id = ?", job)
            return rows[0]["state"] if rows and rows[0]["state"] in states else None

        try:
            return wait_until(look, f"job {job} to be {' or '.join(states)}", within)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.said()}") from None

    def whys(self, job: int, state: str) -> list[str]:
        """Why it came into a state, each time."""
        return [row["why"] for row in self.world.events() if row["job_id"] == job and row["to_state"] == state]

    def text(self, *words: str) -> str:
        """What a verb prints, on both streams."""
        done = self.world.run(*words)
        return str(done.stdout + done.stderr)


# Groups of the freezer


def cgroup_root() -> Path | None:
    """Where the cgroup v2 tree is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 "):
            return Path(fields.split(" ")[4])
    return None


def group_of(pid: int) -> str:
    """The path of the cgroup v2 group a process lives in, below the root of the tree."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def groups_of(world: World) -> list[Path]:
    """The groups of all jobs of a world, wherever in the tree."""
    return groups_named(names_of(world))


def names_of(world: World) -> set[str]:
    """How the names of a world's groups begin: with the device and the inode of its folder."""
    if not world.directory.exists():
        return set()
    folders = [path.stat() for path in world.directory.iterdir() if path.is_dir()]
    return {f"gpurun-{folder.st_dev:x}.{folder.st_ino:x}-" for folder in folders}


def groups_named(names: set[str]) -> list[Path]:
    root = cgroup_root()
    found: list[Path] = []
    for folder, below, _ in os.walk(root) if root is not None else ():
        found += [Path(folder, name) for name in below if name.rpartition("-")[0] + "-" in names]
    return found


@pytest.fixture(autouse=True, scope="module")
def groups_go_with_their_world() -> Iterator[None]:
    """Remove the groups of a world that is closed: its arbiter is killed, maybe before it came to do it."""
    close = World.close

    def close_and_sweep(self: World) -> None:
        names = names_of(self)
        try:
            close(self)
        finally:
            for group in reversed(groups_named(names)):
                with contextlib.suppress(OSError):
                    group.rmdir()

    World.close = close_and_sweep  # type: ignore[method-assign]
    yield
    World.close = close  # type: ignore[method-assign]


def frozen(group: Path) -> bool:
    return "frozen 1" in (group / "cgroup.events").read_text()


def stands(pid: int) -> bool:
    """Whether a process is stopped or in a frozen group."""
    try:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt":
            return True
        root, path = cgroup_root(), group_of(pid)
        return root is not None and "frozen 1" in (root / path.lstrip("/") / "cgroup.events").read_text()
    except (OSError, StopIteration):
        return False


def nobody_left_standing(pids: Iterable[int]) -> None:
    """Wait until none of these is stopped or frozen; those that have ended are none."""
    wait_until(lambda: not [pid for pid in pids if stands(pid)], "nobody to be left stopped or frozen", 10)


def no_group_left(world: World, within: float = 30) -> None:
    wait_until(lambda: not groups_of(world), "the groups of all ended jobs to be removed", within)


def may_freeze() -> bool:
    """Whether groups can be made where these tests run."""
    root = cgroup_root()
    if root is None:
        return False
    with contextlib.suppress(OSError, StopIteration):
        folder = root / group_of(os.getpid()).lstrip("/")
        return os.access(folder / "cgroup.procs", os.W_OK)
    return False


# An ordinary user


def become(uid: int | None, group: Path | None = None) -> Callable[[], None]:
    """What a child does before it execs: move into a cgroup, own its terminal as login(1) sees to, be that user."""

    def act() -> None:
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        if uid is not None:
            if os.isatty(0):
                os.fchown(0, uid, uid)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)

    return act


class OrdinaryWorld(World):
    """A world whose every command is run by another uid, in a group of its own if one is given."""

    group: Path | None = None

    def start(self, *arguments: Any, **settings: Any) -> "subprocess.Popen[Any]":
        return super().start(*arguments, **{"preexec_fn": become(OTHER_UID, self.group), "cwd": "/", **settings})


# A terminal


class Desk(Terminal):
    """A shell on a terminal, maybe another user's and in a cgroup. What gpurun says on it is no difference."""

    def __init__(
        self, shell: str, world: World, folder: Path, prefix: str, *,
        uid: int | None = None, group: Path | None = None, python: Sequence[str] = PYTHON,
    ) -> None:  # fmt: skip
        super().__init__(shell, world, folder, prefix, python=python, uid=uid, become=become(uid, group))

    def window_closes(self) -> None:
        """The terminal goes away, as when ssh drops; the shell is left to notice."""
        self.screen.ptyproc.fileobj.close()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
