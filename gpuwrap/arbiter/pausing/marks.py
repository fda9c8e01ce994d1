"""What a pause leaves where a successor finds it: marks, groups, and who was stopped.

1. A mark in the state folder says that a job is about to be stopped, before it is, and stays until it goes on: the batch may
   never be committed, and the database may be lost.
2. Notes say which group a job has and which processes of it we have stopped.
   They are read once; after that memory is right, also where a batch was undone: what was done stays done.
3. The group of a job that has ended is thawed at once and removed as soon as nothing lives in it, by whichever arbiter
   lives then.
"""

import contextlib
import os
import select
from typing import TYPE_CHECKING

from ...host.freezer import Group, group_name, world_key
from ...model import Job
from ...state.notes import Starts

if TYPE_CHECKING:
    from ..loop import Arbiter

_MARK = "pausing-"
# No job has such a number.
_NO_JOBS_NUMBER = 10**15


class Traces:
    """The marks and rows of a world's pauses."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._folder = arbiter.folder
        self._timers = arbiter.timers
        self._world = world_key(arbiter.folder.fd)
        self._groups_noted, self._stopped_noted = arbiter.notes.groups, arbiter.notes.stopped
        self._groups, self._stopped = self._groups_noted.all(), self._stopped_noted.all()
        self._empty: dict[int, Group] = {}
        self._watched: dict[int, int] = {}

    # --- marks --------------------------------------------------------------------------------------------------

    def mark(self, job: Job, means: str) -> bool:
        """Leave word that a job is about to be stopped, and how; false if the folder refuses."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(_mark_name(job.id), flags, 0o600, dir_fd=self._folder.fd)
        except OSError:
            return False
        with contextlib.suppress(OSError):  # a full disk: the mark is there, and says less
            os.write(fd, means.encode())
        os.close(fd)
        return True

    def marked(self, job: Job) -> str | None:
        """Return how a job was about to be stopped, None if it was not; empty if nobody knows."""
        try:
            fd = os.open(_mark_name(job.id), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._folder.fd)
        except OSError:
            return None
        try:
            return os.read(fd, 64).decode()
        except OSError:
            return ""
        finally:
            os.close(fd)

    def unmark(self, job_id: int) -> None:
        """It goes on."""
        with contextlib.suppress(OSError):
            os.unlink(_mark_name(job_id), dir_fd=self._folder.fd)

    def _all_marked(self) -> list[int]:
        names = []
        with contextlib.suppress(OSError):
            names = [name.removeprefix(_MARK) for name in os.listdir(self._folder.fd) if name.startswith(_MARK)]
        return [int(name) for name in names if name.isdigit()]

    # --- groups -------------------------------------------------------------------------------------------------

    def group(self, job: Job) -> Group | None:
        """Return the group that was made for a job, else the one it could have; None if it can have none."""
        made = self._groups.get(job.id)
        return Group(made) if made else Group.of(job.identity.pid, self.group_name(job))

    def group_name(self, job: Job) -> str:
        """Name the group that a job has or could have."""
        return group_name(self._world, job.id)

    def has_group(self, job_id: int) -> bool:
        """Whether the job's group is known to be of our making."""
        return job_id in self._groups

    def note_group(self, job: Job, group: Group) -> None:
        """Write down which group a job has."""
        self._groups[job.id] = group.folder
        self._groups_noted.put(job.id, group.folder)

    def adopt_group(self, group: Group) -> None:
        """Take over a group whose job no row knows (another may have its number by now): it is removed once it is empty."""
        if group.folder in {*self._groups.values(), *(each.folder for each in self._empty.values())}:
            return
        number = _NO_JOBS_NUMBER + (group.inode() or 0)
        self._groups[number] = group.folder
        self.abandon_group(number)

    def abandon_group(self, job_id: int) -> None:
        """The job has ended: its group is removed once it is empty."""
        folder = self._groups.pop(job_id, None)
        if folder is not None:
            self._empty[job_id] = Group(folder)
        group = self._empty.get(job_id)
        if group is None:
            return
        self._groups_noted.put(job_id, group.folder)  # it may have been lost with a batch
        group.thaw()
        self._timers.after(0.0, self.remove_groups)
        if job_id in self._watched:
            return
        with contextlib.suppress(OSError):
            events = os.open(group.folder + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            os.read(events, 256)  # or its first change would go unnoticed
            self._arbiter.watch(events, lambda _mask: self._changed(job_id), select.EPOLLPRI)
            self._watched[job_id] = events

    def _changed(self, job_id: int) -> None:
        with contextlib.suppress(OSError):
            os.pread(self._watched[job_id], 256, 0)
        self.remove_groups()

    def remove_groups(self) -> None:
        """Remove the groups of jobs that have ended, as soon as nothing lives in them; the inner ones first."""
        for job_id, group in sorted(self._empty.items(), key=lambda each: -len(each[1].folder)):
            if group.remove():
                del self._empty[job_id]
                self._groups_noted.drop(job_id)
                events = self._watched.pop(job_id, None)
                if events is not None:
                    self._arbiter.unwatch(events)
                    os.close(events)

    # --- who was stopped ----------------------------------------------------------------------------------------

    def stopped(self, job_id: int) -> Starts:
        """Return which processes of a job we have stopped."""
        return self._stopped.get(job_id, {})

    def remember_stopped(self, job_id: int, stopped: Starts) -> None:
        """Know whom we have stopped, before it is written down."""
        self._stopped.setdefault(job_id, {}).update(stopped)

    def note_stopped(self, job_id: int) -> None:
        """Write down whom we have stopped."""
        self._stopped_noted.put(job_id, self._stopped.get(job_id, {}))

    def forget_stopped(self, job_id: int) -> None:
        """They go on. The row goes with a later batch: this may be none, or one that is being undone."""
        if self._stopped.pop(job_id, None) is not None:
            self._timers.after(0.0, lambda: self._remove_row(job_id))

    def _remove_row(self, job_id: int) -> None:
        if job_id not in self._stopped:  # nor was it stopped again meanwhile
            self._stopped_noted.drop(job_id)

    # --- after a restart ----------------------------------------------------------------------------------------

    def known(self) -> set[int]:
        """Return the jobs that have left something."""
        return {*self._groups, *self._stopped, *self._all_marked()}

    def find_group(self, job: Job) -> None:
        """After a crash: know the group that was made and never written down."""
        group = self.group(job)
        if group is not None and not self.has_group(job.id) and group.exists():
            self.note_group(job, group)


def _mark_name(job_id: int) -> str:
    return f"{_MARK}{job_id}"
