"""A small tree of real processes, made to order: shells that start others below them when they are told to.

Each is one `sh` that reads its orders from a pipe of its own, so that who is whose parent, session, group, environment and name
is the test's choice, and a parent can be taken away while its children live.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
from waiting import wait_until

from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers
from gpuwrap.arbiter.kin.owners import Owners
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host import processes
from gpuwrap.model import Identity, Job

# It says its number and lets go of the pipe that it said it into, so that whoever reads that sees its end.
_OBEYS = 'echo $$; exec > /dev/null; while read -r order; do eval "$order"; done'


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
        self.tell(f"{' '.join(words)} {self._tree.program(program)} -c '{_OBEYS}' < {order} > {answer} &")
        return self._tree.add(Member(self._tree, int(answer.read_text()), pipe))

    def tell(self, order: str) -> None:
        """Have it do something."""
        os.write(self._pipe, f"{order}\n".encode())

    def rename(self, program: str) -> None:
        """Have the kernel call it otherwise."""
        self.tell(f"exec {self._tree.program(program)} -c '{_OBEYS}'")  # its pipe is its stdin still
        wait_until(lambda: processes.name(self.pid) == program.encode()[:15], f"it to be {program}")

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
        environment = {"PATH": os.environ["PATH"], **variables}
        with open(order) as orders:
            child = subprocess.Popen(
                ["sh", "-c", _OBEYS], stdin=orders, stdout=subprocess.PIPE, env=environment, start_new_session=True
            )
        assert child.stdout is not None
        child.stdout.read()
        child.stdout.close()
        self._firsts.append(child)
        return self.add(Member(self, child.pid, pipe))

    def pipeline(self) -> tuple[Member, Member, Member]:
        """Start a shell with job control and two processes that it puts into one group, named after the first."""
        (first, answer, to_first), (second, other_answer, to_second) = self.pipes(), self.pipes()
        script = f"set -m; sh -c '{_OBEYS}' < {first} > {answer} | sh -c '{_OBEYS}' < {second} > {other_answer} & wait"
        child = subprocess.Popen(["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._firsts.append(child)
        leader = self.add(Member(self, int(answer.read_text()), to_first))
        consumer = self.add(Member(self, int(other_answer.read_text()), to_second))
        return self.add(Member(self, child.pid, -1)), leader, consumer

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


def kin_of(live: Mapping[int, Job], holding: Mapping[int, Job]) -> tuple[Known, Owners]:
    """What is known of some jobs' processes, nothing yet, and whose a process is by that."""
    known, walk = Known(), Walk({})
    return known, Owners(live, holding, known, Links(known, walk, Markers(None)))
