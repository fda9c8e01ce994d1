"""Who was made to stand still by a gpurun of this world that nobody remembers: its memory, the database, was lost.

1. A frozen group says by its name whose it is: the world and the job. It is let go unless a row says that this job is paused.
2. A stopped process is let go if it has the marker of a job of this world, runs as us, and no row knows that job: and only if
   its owner cannot have stopped it with Ctrl-Z. So it has no terminal; or else the stub that started it, which Ctrl-Z would
   have stopped too, is awake. (An owner's own `kill -STOP` looks like ours then.)
3. All of it is found in /proc, whatever of the state folder is left.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ...host import processes
from ...host.freezer import Group, folder_of, job_of_group, world_key
from ...host.signals import resume
from ...policy.words import command_line
from ...state.allocation import VARIABLES, suffix
from ...state.paths import Folder
from ..kin.marker import value_of
from ..log import log

# How long after its start an arbiter looks: those who wait for it come first.
AFTER_SECONDS = 0.5
WORDS = "stood still for a job that has ended: it goes on"

IsPaused = Callable[[int, str], bool]
"""Whether a row says that a job is paused, in a group."""
IsKnown = Callable[[int, processes.Stat], bool]
"""Whether a row knows the job of a stopped process."""


class Forgotten(NamedTuple):
    """A process that stands still; `group` if it is frozen in one of ours."""

    job_id: int
    stat: processes.Stat
    group: Group | None

    def who(self) -> str:
        """Name it: `(pid 4711, python t.py)`."""
        words = [word.decode("utf-8", "surrogateescape") for word in processes.command_line(self.stat.pid)]
        return f"(pid {self.stat.pid}, {command_line(words)})"

    def is_still(self) -> bool:
        """Whether it stands still by now."""
        now = processes.read_stat(self.stat.pid)
        if now is None or now.start_ticks != self.stat.start_ticks:
            return False
        return self.group.is_asked_to_freeze() if self.group is not None else now.state == "T"

    def let_go(self) -> None:
        """Let it go on, and say so."""
        log("mended", f"job {self.job_id} {self.who()} {WORDS}")
        if self.group is not None:
            self.group.thaw()
            return
        with suppress(PermissionError):
            resume(processes.identity_of(self.stat))


def find(folder: Folder, sim_root: str | None, is_paused: IsPaused, is_known: IsKnown) -> list[Forgotten]:
    """Return who stands still for nobody: of each group one process, the first; children before the stubs around them."""
    world = world_key(folder.fd)
    frozen: dict[str, Forgotten] = {}
    stopped: list[Forgotten] = []
    for stat in processes.everybody():
        for path, job_id in _groups_around(stat.pid, world):
            if path not in frozen and Group(path).is_asked_to_freeze() and not is_paused(job_id, path):
                frozen[path] = Forgotten(job_id, stat, Group(path))
        if stat.state == "T":
            number = _job_that_stopped(stat, folder, sim_root)
            if number is not None and not is_known(number, stat):
                stopped.append(Forgotten(number, stat, None))
    return [*frozen.values(), *sorted(stopped, key=lambda each: (-each.stat.start_ticks, -each.stat.pid))]


def free_all(folder: Folder, sim_root: str | None) -> None:
    """Let everybody of a world go on: who should look after them cannot even begin."""
    for each in find(folder, sim_root, lambda _job, _group: False, lambda _job, _stat: False):
        each.let_go()


def groups_of_world(folder: Folder) -> dict[str, int]:
    """Return the folders of all groups of a world in which something lives, and whose they are."""
    world = world_key(folder.fd)
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return {path: job_id for pid in pids for path, job_id in _groups_around(pid, world)}


def _groups_around(pid: int, world: str) -> Iterator[tuple[str, int]]:
    if f"/gpurun-{world}-".encode() not in processes.groups_of(pid):
        return
    path = folder_of(pid) or ""
    while len(path) > 1:
        job_id = job_of_group(os.path.basename(path), world)
        if job_id is not None:
            yield path, job_id
        path = os.path.dirname(path)


def _job_that_stopped(stat: processes.Stat, folder: Folder, sim_root: str | None) -> int | None:
    """Return the job that a stopped process belongs to, if it is of this world and can only have been stopped by us."""
    if not _is_ours(stat.pid):
        return None
    environment = processes.environment(stat.pid)
    number = value_of(environment, b"GPURUN_JOB")
    if not number.isdigit() or not _is_of_world(environment, folder, sim_root):
        return None
    return int(number) if stat.tty == 0 or _is_behind_awake_stub(stat, number) else None


def _is_ours(pid: int) -> bool:
    try:
        uid, namespace = os.stat(f"/proc/{pid}").st_uid, os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return False
    return uid == os.geteuid() and namespace == processes.pid_namespace()


def _is_of_world(environment: bytes, folder: Folder, sim_root: str | None) -> bool:
    """Whether a program was started from this state folder, as its variables tell."""
    simulated = value_of(environment, b"GPURUN_SIM_DIR")
    if sim_root is not None or simulated:
        return simulated == os.fsencode(sim_root or "")
    name = os.path.basename(folder.path)
    job, node, step_gpus, job_gpus = (value_of(environment, each.encode()).decode("ascii", "replace") for each in VARIABLES)
    _, mark, allocation = name.partition("-slurm")
    if mark + allocation != suffix(job, node, step_gpus or job_gpus):
        return False
    chosen = value_of(environment, b"GPURUN_DIR")
    if not chosen:
        return not os.environ.get("GPURUN_DIR")
    with suppress(OSError):
        return os.path.samestat(os.stat(os.path.join(os.fsdecode(chosen), name)), os.fstat(folder.fd))
    return False


def _is_behind_awake_stub(stat: processes.Stat, number: bytes) -> bool:
    for above in processes.ancestors(stat.parent):
        if value_of(processes.environment(above.pid), b"GPURUN_JOB") == number:
            continue
        words = [os.path.basename(word) for word in processes.command_line(above.pid)[:4]]
        return b"gpurun" in words and above.group == stat.group and above.state not in "Tt"
    return False
