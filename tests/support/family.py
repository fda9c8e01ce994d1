"""A small tree of real processes, made to order: shells that start others below them when they are told to.

Each is one `sh` that reads its orders from a pipe of its own, so that who is whose parent, session, group, environment and name
is the test's choice, and a parent can be taken away while its children live.
"""

import os
import shutil
import subprocess
from pathlib import Path

import psutil
from waiting import wait_until

from gpuwrap.host import processes
from gpuwrap.model import Identity

_OBEYS = 'while read -r order; do eval "$order"; done'


class Member:
    """One process of the tree."""

    def __init__(self, tree: "Tree", pid: int, pipe: int) -> None:
        self.pid = pid
        self._tree, self._pipe = tree, pipe
        found = processes.identify(pid)
        assert found is not None
        self.identity: Identity = found
        self.handle = psutil.Process(pid)

    def child(self, *, session: bool = False, program: str = "sh", uid: int | None = None, **variables: str) -> "Member":
        """Start a process below this one; its own session if so wished, under another name, with variables added."""
        order, answer, pipe = self._tree.pipes()
        words = [f"{name}={value}" for name, value in variables.items()]
        words += ["setsid"] * session
        words += ["setpriv", f"--reuid={uid}", "--clear-groups"] * (uid is not None)
        shell = self._tree.program(program)
        self.tell(f"{' '.join(words)} {shell} -c '{_OBEYS}' < {order} & echo $! > {answer}")
        pid = int(answer.read_text())
        wait_until(lambda: processes.name(pid) == program.encode()[:15], f"{program} to be there")
        return self._tree.add(Member(self._tree, pid, pipe))

    def tell(self, order: str) -> None:
        """Have it do something."""
        os.write(self._pipe, f"{order}\n".encode())

    def kill(self) -> None:
        """End it, and see it gone: those below it are orphans then."""
        self.handle.kill()
        wait_until(lambda: not processes.is_same_process(self.identity), f"pid {self.pid} to be gone")

    def stat(self) -> processes.Stat:
        """Read it."""
        stat = processes.read_stat(self.pid)
        assert stat is not None
        return stat


class Tree:
    """All of them; `close` ends them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._members: list[Member] = []
        self._pipes: list[int] = []
        self._firsts: list[subprocess.Popen[bytes]] = []

    def root(self, **variables: str) -> Member:
        """Start the first, in a session of its own: a leader."""
        order, _answer, pipe = self.pipes()
        with open(order) as orders:
            environment = {"PATH": os.environ["PATH"], **variables}
            child = subprocess.Popen(["sh", "-c", _OBEYS], stdin=orders, env=environment, start_new_session=True)
        self._firsts.append(child)
        wait_until(lambda: processes.name(child.pid) == b"sh", "the first to be there")
        return self.add(Member(self, child.pid, pipe))

    def add(self, member: Member) -> Member:
        """Remember one to be ended."""
        self._members.append(member)
        return member

    def pipes(self) -> tuple[Path, Path, int]:
        """Make the pipe of a new member, and one that its pid comes back by; the first is open for writing."""
        order, answer = (self._folder / f"{kind}-{len(self._pipes)}" for kind in ("order", "answer"))
        os.mkfifo(order)
        os.mkfifo(answer)
        self._pipes.append(os.open(order, os.O_RDWR | os.O_CLOEXEC))
        return order, answer, self._pipes[-1]

    def program(self, name: str) -> str:
        """A shell that the kernel calls by a name."""
        if name == "sh":
            return "sh"
        path = self._folder / name
        if not path.exists():
            shutil.copy(os.path.realpath("/bin/sh"), path)
        return str(path)

    def close(self) -> None:
        """End all of them."""
        for member in self._members:
            if processes.is_same_process(member.identity):
                member.handle.kill()
        for pipe in self._pipes:
            os.close(pipe)
        self.reap()

    def reap(self) -> None:
        """Wait for the first ones, which were killed."""
        for child in self._firsts:
            child.wait()
