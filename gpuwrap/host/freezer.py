"""The cgroup v2 freezer: a pause that no parent and no shell can see.

1. A job's group is made below the group its leader lives in, so that nothing about the job's life changes: whatever ends
   the outer group ends this one.
2. cgroup2 is found in mountinfo, never assumed at a path; where the folder may not be written there is no group.
3. A frozen group is confirmed (`frozen 1` in cgroup.events) or thawed again: a process in uninterruptible sleep could keep
   the others half stopped [kernel, admin-guide/cgroup-v2].
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable

FREEZE_SECONDS = 0.5
# Rounds of moving processes: each may have forked another before it was moved.
MOST_ROUNDS = 50


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

    def exists(self) -> bool:
        """Whether it has been made."""
        return os.path.isdir(self.folder)

    def gather(self, members: Callable[[], Iterable[int]]) -> bool:
        """Make the group and move processes in, until no new one appears; false if the kernel refuses."""
        try:
            os.makedirs(self.folder, exist_ok=True)
            moved: set[int] = set()
            for _ in range(MOST_ROUNDS):
                new = set(members()) - moved
                if not new:
                    return True
                for pid in new:
                    with contextlib.suppress(ProcessLookupError):
                        self._write("cgroup.procs", str(pid))
                moved |= new
        except OSError:
            self.remove()
        return False

    def freeze(self) -> bool:
        """Freeze; false, and thawed again, if it is not confirmed in time."""
        try:
            self._write("cgroup.freeze", "1")
            if self._await_frozen():
                return True
        except OSError:
            pass
        self.thaw()
        return False

    def thaw(self) -> None:
        """Let everything in it go on."""
        with contextlib.suppress(OSError):
            self._write("cgroup.freeze", "0")

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

    def remove(self) -> None:
        """Remove it, if nothing lives in it."""
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)

    def _write(self, name: str, text: str) -> None:
        fd = os.open(f"{self.folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def _await_frozen(self) -> bool:
        """Wait for the kernel's word; it raises POLLPRI on cgroup.events when it changes."""
        until = time.monotonic() + FREEZE_SECONDS
        with open(self.folder + "/cgroup.events") as events:
            poll = select.poll()
            poll.register(events, select.POLLPRI)
            while True:
                events.seek(0)
                if "frozen 1" in events.read():
                    return True
                left = until - time.monotonic()
                if left <= 0:
                    return False
                poll.poll(left * 1000)
