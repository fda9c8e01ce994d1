"""A gpurun world of a test's own: state folder, simulated GPUs, clean environment, and the end of all of it.

1. No test touches the user's own world: GPURUN_DIR is a fresh folder; no GPURUN_*, CUDA_* or Slurm variable gets in.
2. Every process the world started is ended by `close`, found by pid and start time (psutil compares both): the
   children and their descendants, whoever carries the world's GPURUN_DIR in its environment, the live jobs of the
   database, the arbiter and its keeper.
"""

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from waiting import wait_until

from gpuwrap.state.schema import LIVE
from gpuwrap.wire import PACKET, pack

# Here lie the programs that tests run.
SUPPORT = Path(__file__).parent

# Who else there is on the machine: nobody.
OTHER_UID = 65534

# So long an arbiter that answers a ping may take; one that a test has stopped takes longer.
ANSWER_SECONDS = 1.0

Argument = str | bytes | os.PathLike[str]

# Set to try the tests on another build, or on a stand-in such as /usr/bin/env, which must pass every fidelity test.
OTHER_COMMAND = "GPURUN_TEST_COMMAND"

FOREIGN_TO_TESTS = (
    "GPURUN_",
    "SLURM_",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "MAKEFLAGS",
    "MAKELEVEL",
    "MFLAGS",
)


def installed_command() -> str:
    """The `gpurun` that belongs to the running interpreter, else the one on PATH; AssertionError if there is none."""
    other = os.environ.get(OTHER_COMMAND)
    if other:
        return other
    beside = os.path.join(sysconfig.get_path("scripts"), "gpurun")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("gpurun")
    assert found, f"no gpurun to test: neither {beside} nor one on PATH; install the package into {sys.prefix} first"
    return os.path.abspath(found)


def clean_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ` without anything that gpurun reads or that would make it think it runs inside something."""
    return {name: value for name, value in environ.items() if not name.startswith(FOREIGN_TO_TESTS)}


class World:
    """An isolated world; `spec` as for --sim, None for no simulation. `variables` are added to its environment."""

    def __init__(self, spec: str | None = "2x24G", *, command: str | None = None, **variables: str) -> None:
        self.command = command or installed_command()
        # Short: some tests need the socket's plain path, which the kernel limits to 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="gr-", dir="/tmp" if os.access("/tmp", os.W_OK) else None))
        self.env = clean_environment()
        self.env["GPURUN_DIR"] = str(self.directory)
        if spec is not None:
            self.env["GPURUN_SIM"] = spec
        self.env.update(variables)
        self._children: list[subprocess.Popen[Any]] = []
        self._marker = b"GPURUN_DIR=" + os.fsencode(self.directory)

    # Starting things

    def start(
        self,
        *arguments: Argument,
        prefix: tuple[Argument, ...] = (),
        extra: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> "subprocess.Popen[Any]":
        """Start `gpurun ARGUMENTS` and remember it for `close`.

        Defaults: the world's environment (plus `extra`), standard input empty, output and errors as text pipes.
        `prefix` comes before the command: `prefix=("setsid",)`.
        """
        settings: dict[str, Any] = {
            "env": {**self.env, **(extra or {})},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        if not {"text", "universal_newlines", "encoding"} & popen.keys():
            settings |= {"encoding": "utf-8", "errors": "surrogateescape"}
        return self.adopt(subprocess.Popen([*prefix, self.command, *arguments], **{**settings, **popen}))

    def adopt(self, child: "subprocess.Popen[Any]") -> "subprocess.Popen[Any]":
        """Have `close` end a child that the test started by itself (a shell, make, cron …)."""
        self._children.append(child)
        return child

    def run(self, *arguments: Argument, timeout: float = 30, **popen: Any) -> "subprocess.CompletedProcess[Any]":
        """Run `gpurun ARGUMENTS` to its end; `input` goes to its standard input."""
        given = popen.pop("input", None)
        if given is not None:
            popen["stdin"] = subprocess.PIPE
        child = self.start(*arguments, **popen)
        try:
            output, errors = child.communicate(given, timeout=timeout)
        except subprocess.TimeoutExpired:
            shown = " ".join(os.fsdecode(word) for word in child.args)
            child.kill()
            raise AssertionError(f"not over after {timeout:g} s: {shown}") from None
        return subprocess.CompletedProcess(child.args, child.returncode, output, errors)

    # Looking at it

    def jobs(self, all: bool = True) -> list[dict[str, Any]]:
        """The jobs as `gpurun ls --json` tells them, ended ones too unless `all` is false."""
        done = self.run("ls", *(["-a"] if all else []), "--json")
        assert done.returncode == 0, f"gpurun ls --json: exit {done.returncode}: {done.stderr}"
        jobs: list[dict[str, Any]] = json.loads(done.stdout)["jobs"]
        return jobs

    def job(self, job_id: int) -> dict[str, Any]:
        """One job of `jobs()`; AssertionError if there is none."""
        jobs = self.jobs()
        found = [job for job in jobs if job["id"] == job_id]
        assert found, f"no job {job_id} among {[job['id'] for job in jobs]}"
        return found[0]

    def state(self, job_id: int) -> str | None:
        """The state of a job, None while there is no such job, so that it can be waited for."""
        found = self.rows("SELECT state FROM job WHERE id = ?", job_id)
        self._settle()
        return found[0]["state"] if found else None

    def states(self) -> list[str]:
        """The states of all jobs by number, ended ones too."""
        found = self.rows("SELECT state FROM job ORDER BY id")
        self._settle()
        return [row["state"] for row in found]

    def live(self) -> list[int]:
        """The jobs that `gpurun ls` lists, by number: they have not ended, or their grant stands."""
        found = self.rows(f"SELECT id FROM job WHERE {LIVE} ORDER BY id")
        self._settle()
        return [row["id"] for row in found]

    def _settle(self) -> None:
        """Wait for an arbiter that is there to answer: what it had written down it has also done before."""
        with contextlib.suppress(OSError, AssertionError), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.settimeout(ANSWER_SECONDS)
            line.connect(str(self.bell))
            line.send(pack("ping"))
            line.recv(PACKET)

    @property
    def folder(self) -> Path:
        """The world's one folder below GPURUN_DIR; AssertionError until gpurun has made it."""
        folders = [path for path in sorted(self.directory.iterdir()) if path.is_dir() and path.name != "slurm"]
        found = [path for path in folders if not path.name.startswith(".")]
        assert len(found) == 1, f"one world folder expected in {self.directory}, found {[path.name for path in found]}"
        return found[0]

    @property
    def bell(self) -> Path:
        """The arbiter's socket."""
        return self.folder / "bell"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "state.db"

    def arbiter_pid(self) -> int | None:
        """The process that listens on the bell, as the kernel names it; None if nobody does."""
        folder = self._folder_if_any()
        if folder is None:
            return None
        try:
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
                line.setblocking(False)
                line.connect(f"/proc/self/fd/{descriptor}/bell")
                # Of the listener as it was at listen(2), see unix(7).
                pid, _, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        finally:
            os.close(descriptor)
        return pid or None

    def keeper_pid(self) -> int | None:
        """The arbiter's child that is a shell; None without an arbiter or a keeper."""
        arbiter = self.arbiter_pid()
        if arbiter is None:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(arbiter).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if os.path.basename((child.cmdline() or [""])[0]) == "sh":
                        return child.pid
        return None

    def events(self) -> list[dict[str, Any]]:
        """The rows of the event table, in order: job_id, at, from_state, to_state, why."""
        return self.rows("SELECT * FROM event ORDER BY rowid")

    def last_words(self) -> str:
        """The end of the arbiter's log, for messages of tests that failed."""
        try:
            return (self.folder / "arbiter.log").read_text(errors="replace")[-2000:]
        except (AssertionError, OSError):
            return ""

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the database, read-only; no rows while there is no database, or one that has no tables yet."""
        folder = self._folder_if_any()
        if folder is None or not (folder / "state.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{folder}/state.db?mode=ro", uri=True, timeout=10)) as database:
            if database.execute("PRAGMA user_version").fetchone() == (0,):  # set with the tables, at once
                return []
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def processes(self) -> list[psutil.Process]:
        """Every living process that belongs to this world, arbiter and keeper last; zombies do not count."""
        arbiter, keeper = self.arbiter_pid(), self.keeper_pid()
        pids = self._found() | {*self._live_jobs(), arbiter, keeper}
        found: dict[int, psutil.Process] = {}
        for pid in pids - {None, os.getpid()}:
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                if process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
        return sorted(found.values(), key=lambda process: ((process.pid == keeper) + 2 * (process.pid == arbiter), process.pid))

    def _folder_if_any(self) -> Path | None:
        try:
            return self.folder
        except (AssertionError, FileNotFoundError):
            return None

    def _found(self) -> set[int]:
        """Who is of this world, by pid: all are seen in one look, since many tests look, on machines with many processes."""
        everybody = dict(_everybody())
        below: dict[int, list[int]] = {}
        for pid, parent in everybody.items():
            below.setdefault(parent, []).append(pid)
        # Until a child is waited for, its pid cannot be anybody else's.
        pending = [child.pid for child in self._children if child.returncode is None]
        pending += [pid for pid in everybody if self._marker in _environment(pid)]
        found: set[int] = set()
        while pending:
            pid = pending.pop()
            if pid not in found:
                found.add(pid)
                pending += below.get(pid, ())
        return found

    def _live_jobs(self) -> Iterator[int]:
        # A program may have a cleared environment and no living parent; the row knows its pid and start time.
        try:
            rows = self.rows("SELECT * FROM job WHERE state <> 'ended'")
        except sqlite3.Error:
            return
        for row in rows:
            pid, start = row.get("pid"), row.get("start_ticks")
            if pid and start and start == start_ticks(pid):
                yield pid

    # Ending it

    def close(self) -> None:
        """End every process of this world, check that none is left, and remove its folder."""

        def nothing_left() -> bool:
            # Clients and keepers summon a new arbiter when theirs dies, so this is repeated until nobody is found.
            left = self.processes()
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            for child in self._children:
                child.poll()
            return not left

        try:
            wait_until(nothing_left, f"the processes of {self.directory} to end", within=60)
        finally:
            for child in self._children:
                for stream in (child.stdin, child.stdout, child.stderr):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_ticks(pid: int) -> int | None:
    """Field 22 of a process's stat, clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def _everybody() -> Iterator[tuple[int, int]]:
    """Every process with its parent."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield int(name), int(Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[1])


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
