"""A login session of another user without systemd: its part of the cgroup tree, and a stand-in for the user's manager.

1. The tree is as logind and PID 1 make it: the session's scope and what is above it are root's, `user@UID.service` the user's.
2. The stand-in `busctl` only passes its words on to a thread of the test, which is root and does what the manager would do
   and have PID 1 do. It reads the words as busctl(1) does, by the signatures of org.freedesktop.systemd1(5), and refuses
   anything else.
3. The user lingers, or not, in a mount namespace of the test's own: nothing of the machine's is changed.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pauses import OrdinaryWorld
from waiting import wait_until
from world import OTHER_UID

CLONE_NEWNS = 0x20000
USER = "nobody"
METHODS = {"StartTransientUnit": "ssa(sv)a(sa(sv))", "AttachProcessesToUnit": "ssau"}
CALL = ["--user", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
PROPERTIES = {
    "PIDs": "au", "Delegate": "b", "CollectMode": "s", "ManagedOOMPreference": "s", "Description": "s", "TimeoutStopUSec": "t",
}  # fmt: skip
# What PID 1 and logind say when they are asked: by the object's last word.
FACTS = {"login1": "b false\nas 0\nas 0", "systemd1": 's "running"', "unit": 's "active"'}

TOOL = """#!/usr/bin/python3 -IS
import json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect(os.path.dirname(os.path.abspath(__file__)) + "/manager")
line.sendall(json.dumps([sys.argv[1:], dict(os.environ)]).encode())
line.shutdown(socket.SHUT_WR)
status, said, complaint = json.loads(line.makefile().read())
print(said) if said else None
sys.exit(complaint or status)
"""

# What a mount namespace of one's own needs: a machine that was booted with systemd, where nobody lingers yet.
NAMESPACE = """
mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd/system /run/user &&
mount -t tmpfs -o mode=755 tmpfs /var/lib && mkdir -p /var/lib/systemd/linger && echo ready && exec sleep 3600
"""


class Refusal(Exception):
    """The manager says no, in these words."""


class Mounts:
    """A mount namespace, held open by a process that sleeps in it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", NAMESPACE], stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        self.usable = self._holder.stdout.readline() == "ready\n"
        self._libc = ctypes.CDLL(None, use_errno=True)

    def enter(self) -> None:
        """In a child that is about to exec."""
        descriptor = os.open(f"/proc/{self._holder.pid}/ns/mnt", os.O_RDONLY)
        if self._libc.setns(descriptor, CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)

    @property
    def root(self) -> Path:
        """How the files in it are called from outside."""
        return Path(f"/proc/{self._holder.pid}/root")

    def linger(self) -> None:
        (self.root / "var/lib/systemd/linger" / USER).touch()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        if self._holder.stdout is not None:
            self._holder.stdout.close()


class Session:
    """The cgroups of a user who is logged in once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slice = root / f"user-{OTHER_UID}.slice"
        self.scope, self.service = self.slice / "session-7.scope", self.slice / f"user@{OTHER_UID}.service"
        for folder in (self.scope, self.service):
            folder.mkdir(parents=True)
        give(self.service)

    def close(self) -> None:
        (self.root / "cgroup.kill").write_text("1")

        def removed() -> bool:
            for path, _, _ in os.walk(self.root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
            return not self.root.exists()

        wait_until(removed, f"{self.root} to be removed", 10)


def give(folder: Path) -> None:
    """Delegate a cgroup to the other user."""
    for path in (folder, folder / "cgroup.procs", folder / "cgroup.threads", folder / "cgroup.subtree_control"):
        os.chown(path, OTHER_UID, OTHER_UID)


class Manager:
    """The stand-in. `behave` is called with the method's name before anything is done, and may raise Refusal or wait."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.bin = session, folder / "bin"
        self.bin.mkdir()
        self.calls: list[tuple[str, Any]] = []
        self.lodged: list[str] = []
        """The scopes that arbiters had made for themselves; all else is about jobs."""
        self.knows = set(PROPERTIES)
        self.moves: Callable[[int], bool] = lambda pid: True
        self.behave: Callable[[str], None] = lambda method: None
        self.faults: list[str] = []
        tool = self.bin / "busctl"
        tool.write_text(TOOL)
        tool.chmod(0o755)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.bin / "manager"))
        (self.bin / "manager").chmod(0o666)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            words, environment = json.loads(line.makefile().read())
            try:
                answer = (0, self._call(words, environment), "")
            except Refusal as refusal:
                answer = (1, "", f"Call failed: {refusal}")
            except Exception as err:  # the test shall hear of it
                self.faults.append(f"{words}: {err!r}")
                answer = (1, "", f"stand-in: {err!r}")
            line.sendall(json.dumps(answer).encode())

    def _call(self, words: list[str], environment: dict[str, str]) -> str:
        if "get-property" in words:
            path = words[words.index("get-property") + 2].split("/")
            return FACTS["unit" if "unit" in path else path[-1]]
        assert words[: len(CALL)] == CALL, words
        assert environment["XDG_RUNTIME_DIR"] == f"/run/user/{OTHER_UID}"
        assert environment["DBUS_SESSION_BUS_ADDRESS"] == f"unix:path=/run/user/{OTHER_UID}/bus"
        method, signature, *rest = words[len(CALL) :]
        assert METHODS[method] == signature
        values = read(signature, rest)
        assert not rest, f"words left over: {rest}"
        if values[0].startswith("gpurun-arbiter-"):
            self.lodged.append(values[0])
            return self._start(*values)
        self.calls.append((method, values))
        self.behave(method)
        return self._start(*values) if method == "StartTransientUnit" else self._attach(*values)

    def _start(self, name: str, mode: str, properties: list[Any], more: list[Any]) -> str:
        assert mode in ("fail", "replace")
        assert more == []
        found = {}
        for key, (signature, value) in properties:
            if key not in self.knows:
                raise Refusal(f"Cannot set property {key}, or unknown property.")
            assert PROPERTIES[key] == signature, key
            found[key] = value
        assert found.get("Delegate") is True  # or the kernel's OOM killer would have the whole scope stopped
        folder = self._folder(name)
        if folder.exists():
            raise Refusal(f"Unit {name} was already loaded or has a fragment file.")
        folder.mkdir(parents=True)
        for path in (folder.parent, folder):
            give(path)
        self._move(found["PIDs"], folder)
        return 'o "/org/freedesktop/systemd1/job/32"'

    def _attach(self, name: str, below: str, pids: list[int]) -> str:
        folder = self._folder(name)
        if not folder.exists():
            raise Refusal(f"Unit {name} not loaded.")
        self._move(pids, folder / below.lstrip("/"))
        return ""

    def _move(self, pids: list[int], folder: Path) -> None:
        for pid in pids:
            try:
                assert os.stat(f"/proc/{pid}").st_uid == OTHER_UID, "not its owner's"
            except FileNotFoundError:
                raise Refusal(f"Process with ID {pid} does not exist.") from None
        for pid in pids:
            if self.moves(pid):
                (folder / "cgroup.procs").write_text(str(pid))

    def _folder(self, name: str) -> Path:
        assert name.endswith(".scope")
        assert "/" not in name
        return self.session.service / "app.slice" / name

    def started(self) -> list[str]:
        return [values[0] for method, values in self.calls if method == "StartTransientUnit"]

    def collect(self) -> None:
        """As the manager does with scopes in which nothing lives any more."""
        folder = self.session.service / "app.slice"
        for scope in folder.iterdir() if folder.exists() else ():
            with contextlib.suppress(OSError):
                scope.rmdir()


def read(signature: str, words: list[str]) -> list[Any]:
    """Take the values of a D-Bus signature off the front of `words`, which are written as busctl(1) wants them."""
    found, at = [], 0
    while at < len(signature):
        one = first_type(signature[at:])
        found.append(value_of(one, words))
        at += len(one)
    return found


def value_of(one: str, words: list[str]) -> Any:
    if one[0] == "a":
        return [value_of(one[1:], words) for _ in range(int(words.pop(0)))]
    if one[0] == "(":
        return tuple(read(one[1:-1], words))
    word = words.pop(0)
    if one == "v":
        return word, value_of(word, words)
    return {"s": str, "u": int, "t": int, "b": lambda text: {"true": True, "false": False}[text]}[one](word)


def first_type(signature: str) -> str:
    if signature[0] == "a":
        return "a" + first_type(signature[1:])
    if signature[0] != "(":
        return signature[0]
    depth = 0
    for at, letter in enumerate(signature):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return signature[: at + 1]
    raise AssertionError(f"not closed: {signature}")


class SessionWorld(OrdinaryWorld):
    """A world whose commands the other user runs in his login session."""

    mounts: Mounts
    scope: Path

    def start(self, *arguments: Any, **settings: Any) -> "subprocess.Popen[Any]":
        return super().start(*arguments, **{"preexec_fn": self.log_in, **settings})

    def log_in(self, group: Path | None = None) -> None:
        """In a child that is about to exec: be the other user, in the session or another group."""
        self.mounts.enter()
        ((group or self.scope) / "cgroup.procs").write_text(str(os.getpid()))
        os.chdir("/")
        if os.isatty(0):
            os.fchown(0, OTHER_UID, OTHER_UID)
        os.setgroups([])
        os.setgid(OTHER_UID)
        os.setuid(OTHER_UID)


@contextlib.contextmanager
def a_session(root: Path) -> Iterator[Session]:
    session = Session(root / f"gpurun-tests-{os.getpid()}-{time.monotonic_ns()}")
    try:
        yield session
    finally:
        session.close()
