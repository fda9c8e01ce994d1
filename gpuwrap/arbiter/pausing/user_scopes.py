"""Jobs of a login session, which only the user manager can take from where they live: it is asked when they are paused.

1. A move alone changes nothing for a job, so it is made before the pause is begun, and is never undone.
2. The manager is given `MANAGER_SECONDS`, inside a wake of the arbiter. Where it was asked in vain it is left alone for a
   while, and the job is paused by other means, if there are any.
"""

import time
from collections.abc import Sequence

from ...host import bus, processes, usermanager
from ...host.freezer import Group, may_have_group
from ...model import Job
from ..log import log
from .marks import Traces

MANAGER_SECONDS = 1.0
# A manager that did not answer in time may do it all the same: then the job is found where it can be frozen.
MUTE_SECONDS = (5.0, 30.0)


class Scopes:
    """Has jobs be given scopes of their own."""

    def __init__(self, traces: Traces) -> None:
        self._traces = traces
        self._mute_until = 0.0
        self._mute_seconds = MUTE_SECONDS[0]
        self._said = ""

    def may_help(self, job: Job) -> bool:
        """Whether the user manager could give a job, which lives where we may not write, a scope of its own."""
        if self._mute_until > time.monotonic():
            return False
        return usermanager.is_in_session(job.identity.pid) and usermanager.lingers()

    def words(self, job: Job) -> str:
        """Say what would have to change for the manager to help a job; empty if it could not anyway."""
        if not usermanager.is_in_session(job.identity.pid):
            return ""
        if not usermanager.lingers():
            return "; loginctl enable-linger would let it be frozen"
        return f"; the user manager {self._said}" if self._said else ""

    def prepare(self, job: Job) -> bool:
        """See that a job that is to be frozen lives where a group can be made; false if it does not."""
        leader = job.identity.pid
        if may_have_group(leader):
            return True
        begun = time.monotonic()
        try:
            usermanager.adopt(leader, usermanager.scope_name(self._traces.group_name(job)), begun + MANAGER_SECONDS)
        except bus.Refused as refused:
            self._said = refused.text
            self._mute_until = time.monotonic() + self._mute_seconds
            self._mute_seconds = min(MUTE_SECONDS[1], self._mute_seconds * 4)
        else:
            self._mute_seconds = MUTE_SECONDS[0]
        made = may_have_group(leader)
        said = "made" if made else f"the user manager {self._said}"
        log("scope", f"job {job.id}: {said}, {(time.monotonic() - begun) * 1000:.1f} ms")
        return made


def have_moved(group: Group, stats: Sequence[processes.Stat], until_mono: float) -> str | None:
    """Have the user manager move into a group who lives where only it may take somebody from, all with one call.

    A process that ends meanwhile makes it refuse the others too: they are asked for again. Returns None if all that live
    are in the group, else who is not and why.
    """
    scope = usermanager.scope_of(group.folder)
    why = "may not be moved"
    while scope is not None and time.monotonic() < until_mono:
        try:
            usermanager.attach(*scope, [stat.pid for stat in stats], until_mono)
        except bus.Refused as refused:
            why = f"the user manager {refused.text}"
        left = [stat for stat in stats if _lives(stat) and not group.holds(stat.pid)]
        if not left:
            return None
        if len(left) == len(stats):
            break
        stats = left
    return f"pid {stats[0].pid}: {why}"


def _lives(stat: processes.Stat) -> bool:
    now = processes.read_stat(stat.pid)
    return now is not None and now.start_ticks == stat.start_ticks and now.state not in "ZX"
