"""The cgroup v2 freezer: a pause that no parent and no shell can see.

1. A job's group is made below the group its leader lives in, so that nothing about the job's life changes: whatever ends
   the outer group ends this one.
2. cgroup2 is found in mountinfo, never assumed at a path; where the folder may not be written there is no group.
3. That all of a group stands still is what the kernel says (`frozen 1` in cgroup.events), never what was asked for: a
   process in uninterruptible sleep could keep the others half stopped [kernel, admin-guide/cgroup-v2].
"""

import contextlib
import os
from functools import lru_cache

from .processes import Stat, read_stat


@lru_cache(maxsize=1)
def mount_point() -> tuple[str, str] | None:
    """Return (where the cgroup2 tree is mounted, which part of it), None if it is not."""
    try:
        with open("/proc/self/mountinfo") as file:
            lines = file.readlines()
    except OSError:
        return None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if rest.split(" ")[0] == "cgroup2":
            words = fields.split(" ")
            return words[4].replace("\\040", " "), words[3]
    return None


def folder_of(pid: int) -> str | None:
    """Return the folder of the group a process lives in, None if there is none to be seen."""
    mount = mount_point()
    if mount is None:
        return None
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in lines if line.startswith("0::")), None)
    point, root = mount
    if path is None or not (path == root or path.startswith(root.rstrip("/") + "/")):
        return None
    return os.path.normpath(point + "/" + path[len(root) :])


def may_have_group(pid: int) -> bool:
    """Whether a group of its own can be made below the one a process lives in, by us and without moving it elsewhere."""
    folder = folder_of(pid)
    return folder is not None and os.access(folder, os.W_OK) and os.access(folder + "/cgroup.procs", os.W_OK)


def frozen_by_others(pid: int) -> str | None:
    """Return the folder of the group, a process's own or one around it, that somebody else has frozen; None if none."""
    mount, folder = mount_point(), folder_of(pid)
    if mount is None or folder is None or not Group(folder).is_frozen():
        return None
    while folder != mount[0]:
        if Group(folder).is_asked_to_freeze() and not is_group(os.path.basename(folder)):
            return folder
        folder = os.path.dirname(folder)
    return None


def standing_still(stat: Stat) -> str | None:
    """Say how a process is kept from running: `stopped`, `frozen`; None if it is not."""
    if stat.state in "Tt":
        return "stopped"
    folder = folder_of(stat.pid)
    return "frozen" if folder is not None and Group(folder).is_frozen() else None


def leave_groups() -> None:
    """Move ourselves out of any job's group: an arbiter summoned inside a job would be frozen with it."""
    while (folder := folder_of(os.getpid())) is not None and is_group(os.path.basename(folder)):
        Group(folder).eject(os.getpid())
        if folder_of(os.getpid()) == folder:
            return


def world_key(fd: int) -> str:
    """Name a world by its state folder: an inode alone is not enough, each filesystem begins with its own."""
    stat = os.fstat(fd)
    return f"{stat.st_dev:x}.{stat.st_ino:x}"


def group_name(world: str, job_id: int) -> str:
    """Name the group of a job of a world."""
    return f"gpurun-{world}-{job_id}"


def job_of_group(name: str, world: str) -> int | None:
    """Return the job of a world whose group has this name; None if it is no such group's."""
    prefix = group_name(world, 0)[:-1]
    number = name.removeprefix(prefix)
    return int(number) if name.startswith(prefix) and number.isdigit() else None


def is_group(name: str) -> bool:
    """Whether a cgroup's name is one of ours."""
    word, _, rest = name.partition("-")
    world, _, job_id = rest.partition("-")
    return word == "gpurun" and job_id.isdigit() and bool(world) and all(letter in "0123456789abcdef." for letter in world)


class Group:
    """One job's group; found again by name after a restart."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def of(cls, leader: int, name: str) -> "Group | None":
        """Return the group called `name` that the leader lives in already, or could live in; None if it can have none."""
        folder = folder_of(leader)
        if folder is None:
            return None
        return cls(folder) if os.path.basename(folder) == name else cls(os.path.join(folder, name))

    def inode(self) -> int | None:
        """Return what no other group of the machine has, None if it has gone."""
        try:
            return os.stat(self.folder).st_ino
        except OSError:
            return None

    def exists(self) -> bool:
        """Whether it has been made."""
        return os.path.isdir(self.folder)

    def make(self) -> bool:
        """Make the group; false if it is there already. Raises OSError."""
        try:
            os.mkdir(self.folder)
        except FileExistsError:
            return False
        return True

    def freeze(self) -> None:
        """Have all that is in it, or comes into it, stand still; `is_frozen` tells when it does. Raises OSError.

        Frozen while it is still empty, each process stands still on arrival and forks no more: one that runs away from
        its parent every few milliseconds would be gone otherwise.
        """
        self._write("cgroup.freeze", "1")

    def holds(self, pid: int) -> bool:
        """Whether a process lives in the group or below it."""
        folder = folder_of(pid)
        return folder is not None and (folder == self.folder or folder.startswith(self.folder + "/"))

    def take(self, stat: Stat) -> None:
        """Move one process in, unless it is inside already or has ended. Raises OSError."""
        if self.holds(stat.pid):
            return
        now = read_stat(stat.pid)
        if now is not None and now.start_ticks == stat.start_ticks and now.state not in "ZX":
            with contextlib.suppress(ProcessLookupError):
                self._write("cgroup.procs", str(stat.pid))

    def thaw(self) -> None:
        """Let everything in it go on."""
        with contextlib.suppress(OSError):
            self._write("cgroup.freeze", "0")

    def is_asked_to_freeze(self) -> bool:
        """Whether it was itself asked to stand still, whatever is around it."""
        try:
            with open(self.folder + "/cgroup.freeze") as file:
                return file.read(1) == "1"
        except OSError:
            return False

    def is_frozen(self) -> bool:
        """Whether everything in it stands still."""
        try:
            with open(self.folder + "/cgroup.events") as file:
                return "frozen 1" in file.read()
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Return the processes in it and below."""
        found: list[int] = []
        for folder, _, _ in os.walk(self.folder):
            with contextlib.suppress(OSError), open(folder + "/cgroup.procs") as file:
                found += [int(word) for word in file.read().split()]
        return found

    def remove(self) -> bool:
        """Remove it; false while something lives in it."""
        try:
            os.rmdir(self.folder)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def eject(self, pid: int) -> None:
        """Move a process that was born in it, but is no part of the job, to where the job came from."""
        with contextlib.suppress(OSError):
            Group(os.path.dirname(self.folder))._write("cgroup.procs", str(pid))

    def _write(self, name: str, text: str) -> None:
        fd = os.open(f"{self.folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
