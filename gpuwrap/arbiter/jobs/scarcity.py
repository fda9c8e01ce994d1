"""Jobs that the kernel ended for want of memory are told as that, where it tells.

What it tells is a count of each cgroup, so it is read when a job starts and when one was ended by SIGKILL. In a cgroup that
many jobs live in (a session's scope) it may have been another one's process, at the same time.
"""

import signal
from collections.abc import Callable

from ...host import hostmemory
from ...host.freezer import folder_of
from ...model import Job, Result, ResultKind
from ...units import format_size


class Scarcity:
    """Knows what the kernel told when jobs started."""

    def __init__(self, folder_of: Callable[[int], str | None] = folder_of) -> None:
        self._folder_of = folder_of
        self._before: dict[int, tuple[str, int]] = {}

    def watch(self, job: Job) -> None:
        """A job runs, here or, having been moved, elsewhere."""
        folder = self._folder_of(job.identity.pid)
        count = hostmemory.kills(folder) if folder is not None else None
        if folder is not None and count is not None:
            self._before[job.id] = folder, count

    def judge(self, job: Job, result: Result) -> Result:
        """Return how a job ended that seems to have ended so."""
        folder, before = self._before.get(job.id, ("", 0))
        if result.kind is not ResultKind.SIGNAL or result.signal != signal.SIGKILL or result.text is not None:
            return result
        if (hostmemory.kills(folder) or 0) <= before:
            return result
        limit = hostmemory.limit_of(folder)
        by = f"the limit of {limit[1]} is {format_size(limit[0])}" if limit is not None else "the machine's was used up"
        return Result(result.kind, signal=result.signal, text=f"out of memory: {by}")

    def forget(self, job: Job) -> None:
        """Its end is written down."""
        self._before.pop(job.id, None)
