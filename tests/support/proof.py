"""What a crowd of jobs must leave behind to be believed: the only place that judges an event log.

Every proof takes plain records and returns the faults it found, in words; no fault is an empty list. So each can be
shown to fail (`test_proof.py` does that with hand-made bad logs). The log is written by `work.c`, one line per start
and per end of a program, and knows nothing of gpurun; what was asked for is the test's own list (`Asked`); only the
order of grants is read from gpurun's own event table, since two programs granted together may start in any order.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("work.c")
ONCE, NEVER, MAYBE = (1, 1), (0, 0), (0, 1)
GIB = 2**30


def build_work(folder: Path) -> Path:
    """Compile the program of the crowd tests into `folder`; skips the test where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler (cc)")
    program = folder / "work"
    if not program.exists():
        # Built beside and moved: two sessions may build at once.
        fresh = folder / f"work.{os.getpid()}"
        subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-o", fresh, SOURCE], check=True)
        fresh.rename(program)
    return program


@dataclass(frozen=True)
class Asked:
    """What a test asked for one program: `memory` None is whole GPUs; `starts` are the fewest and most allowed."""

    tag: str
    gpus: int = 1
    memory: int | None = None
    priority: int = 0
    starts: tuple[int, int] = ONCE

    def no_harder_than(self, other: "Asked") -> bool:
        """Whether it can be placed wherever `other` can: then no backfill explains that `other` went first."""
        if (self.memory is None) != (other.memory is None) or self.gpus > other.gpus:
            return False
        return self.memory is None or other.memory is None or self.memory <= other.memory


@dataclass(frozen=True)
class Life:
    """One run of one program, from the log: `end_ns` None if it never said that it ended."""

    tag: str
    job: int | None
    pid: int
    devices: tuple[int, ...]
    uuids: tuple[str, ...]
    granted: tuple[int, ...]
    start_ns: int
    end_ns: int | None = None


@dataclass(frozen=True)
class Move:
    """One row of gpurun's event table, in its order."""

    job: int
    at: float
    before: str | None
    after: str


@dataclass
class Faults:
    """Faults of several proofs together; `check` fails the test with all of them."""

    found: list[str] = field(default_factory=list)

    def add(self, faults: Iterable[str]) -> "Faults":
        self.found.extend(faults)
        return self

    def check(self, what: str) -> None:
        shown = self.found[:40]
        more = f"\n… and {len(self.found) - 40} more" if len(self.found) > 40 else ""
        assert not self.found, f"{what}: {len(self.found)} faults:\n" + "\n".join(shown) + more


def _numbers(text: str) -> tuple[int, ...]:
    return () if text in ("", "-") else tuple(int(part) for part in text.split(","))


def read_log(text: str) -> list[Life]:
    """Make lives of the lines of an event log. Raises ValueError for a line that `work` does not write.

    An end without a start, or a second end, is one too: the log itself must be sound before it proves anything.
    """
    lives: dict[tuple[str, int], Life] = {}
    over: list[Life] = []
    for line in text.splitlines():
        at, what, *pairs = line.split(" ")
        values = dict(pair.split("=", 1) for pair in pairs)
        key = values["tag"], int(values["pid"])
        if what == "start":
            if key in lives:
                over.append(lives.pop(key))
            devices = _numbers(values["devices"])
            granted = _numbers(values["granted"])
            lives[key] = Life(
                tag=values["tag"],
                job=None if values["job"] == "-" else int(values["job"]),
                pid=int(values["pid"]),
                devices=devices,
                uuids=tuple(uuid for uuid in values["uuids"].split(",") if uuid not in ("", "-")),
                granted=granted * len(devices) if len(granted) == 1 else granted,
                start_ns=int(at),
            )
        elif what == "end":
            life = lives.pop(key, None)
            if life is None:
                raise ValueError(f"an end without a start: {line}")
            over.append(Life(**{**_fields(life), "end_ns": int(at)}))
        else:
            raise ValueError(f"neither start nor end: {line}")
    return sorted([*over, *lives.values()], key=lambda life: life.start_ns)


def _fields(life: Life) -> dict:
    return {name: getattr(life, name) for name in life.__dataclass_fields__}


def each_ran_as_asked(asked: Sequence[Asked], lives: Sequence[Life], killed_ns: Mapping[int, int] = {}) -> list[str]:
    """Each program ran as often as it may (exactly once, never), to its end, as a job of its own, on what it asked for.

    `killed_ns` maps pids that the test itself killed to the moment just before: those need no end.
    """
    faults = []
    runs = defaultdict(list)
    for life in lives:
        runs[life.tag].append(life)
    wanted = {one.tag: one for one in asked}
    for tag in runs.keys() - wanted.keys():
        faults.append(f"{tag}: ran, but nobody asked for it")
    jobs = defaultdict(set)
    for one in asked:
        fewest, most = one.starts
        if not fewest <= len(runs[one.tag]) <= most:
            faults.append(f"{one.tag}: ran {len(runs[one.tag])} times, not {fewest} to {most}")
        for life in runs[one.tag]:
            if life.end_ns is None and life.pid not in killed_ns:
                faults.append(f"{one.tag}: started (pid {life.pid}) and never ended")
            if life.job is None:
                faults.append(f"{one.tag}: ran without a job number")
            else:
                jobs[life.job].add(one.tag)
            if len(life.devices) != one.gpus or len(set(life.devices)) != one.gpus:
                faults.append(f"{one.tag}: asked for {one.gpus} GPUs, saw {life.devices}")
            if len(life.granted) != len(life.devices):
                faults.append(f"{one.tag}: {len(life.devices)} GPUs, but bytes for {len(life.granted)}")
            if one.memory is not None and any(bytes < one.memory for bytes in life.granted):
                faults.append(f"{one.tag}: asked for {one.memory} bytes, granted {life.granted}")
    faults += [f"job {job}: the number of {sorted(tags)}" for job, tags in jobs.items() if len(tags) > 1]
    return faults


def no_gpu_is_given_twice(
    asked: Sequence[Asked], lives: Sequence[Life], total_bytes: int, killed_ns: Mapping[int, int] = {}
) -> list[str]:
    """No two whole-GPU lives overlap on a GPU, none overlaps a shared one, and promises never exceed its memory.

    A life without an end lasts to the end of the log, unless the test killed it.
    """
    wanted = {one.tag: one for one in asked}
    last = max((life.end_ns or life.start_ns for life in lives), default=0) + 1
    steps = defaultdict(list)
    for life in lives:
        end = life.end_ns if life.end_ns is not None else killed_ns.get(life.pid, last)
        for device, granted in zip(life.devices, life.granted, strict=False):
            whole = life.tag not in wanted or wanted[life.tag].memory is None
            # At equal times ends come first: one program may start in the very nanosecond in which another ended.
            steps[device].append((life.start_ns, 1, life, granted, whole))
            steps[device].append((max(end, life.start_ns + 1), 0, life, granted, whole))
    faults = []
    for device, moments in sorted(steps.items()):
        there: dict[int, tuple[Life, int, bool]] = {}
        for at, begins, life, granted, whole in sorted(moments, key=lambda step: step[:2]):
            if not begins:
                there.pop(id(life), None)
                continue
            for other, _, other_whole in there.values():
                if whole or other_whole:
                    kinds = " and ".join("whole" if w else "shared" for w in (other_whole, whole))
                    faults.append(f"GPU {device}: {other.tag} and {life.tag} overlap at {at} ({kinds})")
            there[id(life)] = life, granted, whole
            promised = sum(bytes for _, bytes, other_whole in there.values() if not other_whole)
            if promised > total_bytes:
                tags = sorted(other.tag for other, _, _ in there.values())
                faults.append(f"GPU {device}: {promised} bytes promised of {total_bytes} at {at}: {tags}")
    return faults


def granted_in_order(
    moves: Sequence[Move], asked: Mapping[int, Asked], excused: Iterable[int] = (), unsure: Sequence[tuple] = ()
) -> list[str]:
    """Priority, then whose turn it is: nobody was granted while one ahead of it, and no harder to place, waited.

    `asked` maps job numbers to requests, in the order of their turns. `excused` are jobs that may be passed over (stopped
    or killed by the test); `unsure` are (from, to) spans of time in which waiting clients may not have been connected (an
    arbiter was killed).
    """
    faults = []
    excused = set(excused)
    place = {job: (-one.priority, turn) for turn, (job, one) in enumerate(asked.items())}
    waiting: set[int] = set()
    for move in moves:
        if move.after == "granted" and move.job in asked and not any(a <= move.at <= b for a, b in unsure):
            mine = asked[move.job]
            for job in sorted(waiting - excused - {move.job}):
                other = asked.get(job)
                if other is None or place[job] > place[move.job]:
                    continue
                if other.no_harder_than(mine):
                    faults.append(
                        f"job {move.job} ({mine.tag}, priority {mine.priority}) was granted before job {job}"
                        f" ({other.tag}, priority {other.priority}), which waited"
                    )
        if move.after == "waiting":
            waiting.add(move.job)
        else:
            waiting.discard(move.job)
    return faults


def taken_once(moves: Sequence[Move], lives: Sequence[Life]) -> list[str]:
    """gpurun's own events agree with the log: a job became running at most once, and every life has such a move."""
    taken = defaultdict(int)
    for move in moves:
        if move.after == "running" and move.before == "granted":
            taken[move.job] += 1
    faults = [f"job {job}: became running {count} times" for job, count in taken.items() if count > 1]
    ran = {life.job for life in lives if life.job is not None}
    faults += [f"job {job}: ran, but was never taken" for job in sorted(ran - taken.keys())]
    return faults


# What is left over. Each looks at the machine, not at what gpurun says.


def databases(folder: Path) -> list[Path]:
    return sorted(folder.rglob("state.db"))


def processes_of(folder: Path) -> dict[int, str]:
    """Processes whose command line or environment names the folder, zombies not: arbiter, keeper, clients, programs."""
    needle = os.fsencode(folder)
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            cmdline = Path(entry.path, "cmdline").read_bytes()
            environ = Path(entry.path, "environ").read_bytes()
        except OSError:
            continue
        if cmdline and (needle in cmdline or needle in environ):
            found[int(entry.name)] = cmdline.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def claims_on(uuids: Iterable[str]) -> list[str]:
    """Claim sockets of these GPUs that somebody still listens on.

    The rest of the list are connections of peers: only a listening socket (flag 00010000) holds a GPU.
    """
    wanted = {f"@gpurun/{uuid}" for uuid in uuids}
    held = []
    for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[3] == "00010000" and fields[7] in wanted:
            held.append(fields[7])
    return held


def bells_that_answer(folder: Path) -> list[Path]:
    """Bells below the folder on which somebody still listens."""
    answering = []
    for bell in folder.rglob("bell"):
        descriptor = os.open(bell.parent, os.O_PATH | os.O_DIRECTORY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.setblocking(False)
            try:
                client.connect(f"/proc/self/fd/{descriptor}/bell")
            except BlockingIOError:
                pass  # its queue is full: somebody listens
            except OSError:
                continue
            finally:
                os.close(descriptor)
            answering.append(bell)
    return answering


def locks_in(folder: Path) -> list[tuple[int, str]]:
    """Locks (flock or POSIX) on files below the folder: who holds them and the file's name."""
    files = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            files[os.major(facts.st_dev), os.minor(facts.st_dev), facts.st_ino] = path
    locked = []
    for line in Path("/proc/locks").read_text().splitlines():
        pid, place = line.split()[-4:-2]
        major, minor, inode = place.split(":")
        path = files.get((int(major, 16), int(minor, 16), int(inode)))
        if path:
            locked.append((int(pid), path.name))
    return locked


def read_rows(database: Path, statement: str) -> list[tuple]:
    """Ask a database without touching it."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def read_moves(folder: Path) -> list[Move]:
    """The event rows of the only database below the folder, in their order."""
    (database,) = databases(folder)
    rows = read_rows(database, "SELECT job_id, at, from_state, to_state FROM event ORDER BY rowid")
    return [Move(*row) for row in rows]


def rows_left(folder: Path) -> list[str]:
    """Jobs that are not over, and grants that still stand, in any database below the folder."""
    left = []
    for database in databases(folder):
        left += [f"job {id} is {state}" for id, state in read_rows(database, _LIVE)]
        left += [f"job {id} still has GPU {gpu}" for id, gpu in read_rows(database, _GRANTS)]
    return left


_LIVE = "SELECT id, state FROM job WHERE state != 'ended' ORDER BY id"
_GRANTS = "SELECT job_id, gpu_index FROM share ORDER BY job_id"


def left_over(folder: Path, uuids: Iterable[str] = (), *, idle: Collection[int | None] = ()) -> list[str]:
    """All that a world left: rows, claims, processes, locks, bells.

    `idle` are the arbiter and its keeper, if they may still wait for more work; then the bell may answer too.
    """
    found = rows_left(folder) + [f"claim {claim} is held" for claim in claims_on(uuids)]
    found += [f"process {pid} lives: {what}" for pid, what in processes_of(folder).items() if pid not in idle]
    found += [f"{name} is locked by {pid}" for pid, name in locks_in(folder) if pid not in idle]
    if not any(idle):
        found += [f"bell {bell} answers" for bell in bells_that_answer(folder)]
    return found
