"""Killing gpurun between any two of its steps, without a word about it in gpurun itself.

1. `build` makes a Python environment of the test's own with the gpurun under test in it. Its `sitecustomize` wraps the
   functions by which an arbiter or a stub changes the world outside its own memory: that is a step, counted before it is
   made. After a commit there is one more, since nothing else need follow.
2. Steps are counted while the file `armed` lies in GPURUN_DIR: `ROLE WHO COUNT…`. The process of that role (arbiter, stub)
   that comes to the count, or to a step of that name, kills WHO (self, keeper, both, or a pid) at that point, or takes a
   nap there (nap). The next COUNT is for its successor.
3. Each step is a line of the file `steps`: ROLE PID NUMBER NAME.
4. While the file `mistaken` lies there, reading a job is a mistake of the arbiter's own.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from world import World, installed_command

SHIM = r'''
import contextlib, os, site, sys, time

site.addsitedir(PACKAGES)
FOLDER = os.environ.get("GPURUN_DIR", "")
ROLE = "arbiter" if "gpuwrap.arbiter.start" in " ".join(sys.orig_argv[:5]) else "stub"
# A client is no stub before it has a program.
owner, count = os.getpid() if ROLE == "arbiter" else 0, 0


def step(name):
    global count
    if os.getpid() != owner:
        return
    try:
        with open(FOLDER + "/armed") as file:
            role, who, *counts = file.read().split()
    except OSError:
        return
    if role != ROLE:
        return
    count += 1
    with open(FOLDER + "/steps", "a") as file:
        file.write(f"{ROLE} {owner} {count} {name}\n")
    if counts[0] not in (str(count), name):
        return
    if counts[1:]:
        with open(FOLDER + "/armed.next", "w") as file:
            file.write(" ".join([role, who, *counts[1:]]))
        os.rename(FOLDER + "/armed.next", FOLDER + "/armed")
    else:
        os.unlink(FOLDER + "/armed")
    strike(who)


def strike(who):
    if who == "nap":
        time.sleep(2.0)
    if who in ("keeper", "both"):
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            children = file.read().split()
        for pid in children:
            with open(f"/proc/{pid}/comm") as file:
                if file.read() == "sh\n":
                    os.kill(int(pid), 9)
    if who.isdigit():
        with contextlib.suppress(ProcessLookupError):  # a client may have ended as the program by now
            os.kill(int(who), 9)
    if who in ("self", "both"):
        os.kill(os.getpid(), 9)


def count_calls(owner, *names, when=lambda *words: True):
    for name in names:
        def wrapped(*words, _plain=getattr(owner, name), _name=name, **more):
            if when(*words):
                step(_name + "".join(" " + word for word in words if type(word) is str)[:60])
            return _plain(*words, **more)
        setattr(owner, name, wrapped)


class Database:
    """A connection whose commits are steps."""

    def __init__(self, plain):
        self.plain = plain

    def execute(self, sql, *values):
        if sql == "COMMIT":
            step("commit")
        done = self.plain.execute(sql, *values)
        if sql == "COMMIT":
            step("committed")
        return done

    def __getattr__(self, name):
        return getattr(self.plain, name)


def in_arbiter():
    from gpuwrap.arbiter import keeper
    from gpuwrap.arbiter.answers import admission
    from gpuwrap.arbiter.bell import socket as bell
    from gpuwrap.arbiter.pausing import marks, pausing
    from gpuwrap.arbiter.worlds import claims
    from gpuwrap.host import freezer, processes
    from gpuwrap.state import store

    count_calls(processes, "send_signal")
    count_calls(freezer.Group, "make", "_write", "eject")
    count_calls(freezer.Group, "remove", when=lambda group: group.exists())
    count_calls(marks.Traces, "mark", "unmark")
    count_calls(bell.Bell, "_send", when=lambda bell, connection: connection.unsent)
    count_calls(claims.Claims, "take", "release")
    count_calls(keeper.Keeper, "start")
    count_calls(pausing, "tell")
    init, read_job = store.Store.__init__, admission.Admission.read_job

    def read(self, *words):
        if os.path.exists(FOLDER + "/mistaken"):
            raise ValueError("a mistake of ours")
        return read_job(self, *words)

    admission.Admission.read_job = read

    def opened(self, *words):
        init(self, *words)
        self._db = Database(self._db)

    store.Store.__init__ = opened


def in_stub():
    from gpuwrap.client import call
    from gpuwrap.launch import child, ending, hearing, stub

    become = stub.Stub._become

    def becomes(self, values):
        global owner
        owner = os.getpid()
        become(self, values)

    stub.Stub._become = becomes
    count_calls(stub.Stub, "_announce", "_settle", "_start", "_early", "_follow", "_heard", "_report", "_wait_again")
    count_calls(stub.Stub, "_stop_self")
    count_calls(child.Child, "signal")
    count_calls(hearing.Hearing, "attend", when=lambda hearing: hearing._call.socket is not None)
    count_calls(hearing.Hearing, "leave", "reconnect", "say")
    count_calls(ending.Ending, "begin", "_send", "clean_up")
    count_calls(call.Call, "send")
    count_calls(stub, "end_as")


if ROLE == "arbiter":
    in_arbiter()
elif "STUB_STEPS" in os.environ:
    in_stub()
'''


def build(folder: Path, shim: str = SHIM) -> str:
    """Make an environment whose Python begins with `shim`, which finds our packages in PACKAGES; returns its gpurun."""
    script = Path(installed_command()).read_text(errors="replace")
    if "python" not in script.partition("\n")[0]:
        pytest.skip("the command under test is no Python script")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=60)
    python = folder / "bin" / "python"
    words = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    Path(packages, "sitecustomize.py").write_text(f"PACKAGES = {sysconfig.get_path('purelib')!r}\n" + shim)
    command = folder / "bin" / "gpurun"
    command.write_text(f"#!{python}\n" + script.partition("\n")[2])
    command.chmod(0o755)
    return str(command)


def arm(world: World, role: str, who: str, *counts: int | str) -> None:
    """From now on steps are counted; at the first count, or the step of that name, WHO is killed, 0 for never."""
    half = world.directory / ".armed"
    half.write_text(" ".join([role, who, *map(str, counts)]))
    half.rename(world.directory / "armed")


def is_armed(world: World) -> bool:
    """Whether somebody is still doomed."""
    return (world.directory / "armed").exists()


def disarm(world: World) -> bool:
    """Count no more; returns whether somebody was killed."""
    if not is_armed(world):
        return True
    (world.directory / "armed").unlink()
    return False


def steps_made(world: World) -> list[str]:
    """What was counted, in order."""
    log = world.directory / "steps"
    return log.read_text().splitlines() if log.exists() else []
