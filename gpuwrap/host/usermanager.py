"""The systemd user manager (for root: the system's): it gives processes of ours a scope of their own.

The scope of a session (ssh, a console) is root's, and so is what is above it: nothing can be made below it, and nothing
moved out of it, by its user. His manager has a part of the tree of its own and may ask PID 1 to move processes of his
there [systemd, src/core/cgroup.c, unit_attach_pid_to_cgroup_via_bus].

1. Of jobs only what lives in a session's scope is moved, and only where the user lingers: without, the manager ends with
   the last logout and takes along what the session would have left alive. A cgroup of somebody else's (a Slurm step, a
   system service) is one that a job must not leave.
2. The manager is asked when a job is to be paused, or left behind by a session that would end it; each call has an end.
3. What it answers is not believed: where a process lives is what the kernel says. A call may have moved a part of them,
   and one that was given up may still be carried out; a job that was moved and is not frozen notices nothing.
"""

import os
import time
from collections.abc import Sequence

from . import bus
from .bus import Refused
from .freezer import folder_of
from .logind import is_in_session_scope
from .processes import user_name

LINGER = "/var/lib/systemd/linger"
LOOK_SECONDS = 0.002
# Nobody shall end a job for having been moved: systemd-oomd chooses its victims below the user manager. What a manager is
# too old to know it refuses, and is asked again without. Where Delegate is set OOMPolicy is `continue` [systemd.scope(5)]: else
# a scope is stopped as a whole once the kernel has ended one of its processes for want of memory.
_OURS = ("Delegate", "b", "true")
_COLLECT = ("CollectMode", "s", "inactive-or-failed")
UNTOUCHED = ("ManagedOOMPreference", "s", "omit")


def our_name() -> str:
    """Return the name of the user whose manager it is."""
    return user_name(os.geteuid())


def lingers() -> bool:
    """Whether our user's manager, and what lives below it, outlives his last logout."""
    return os.path.exists(f"{LINGER}/{our_name()}")


def has_manager() -> bool:
    """Whether a manager of ours can be asked: without a login or lingering there is none."""
    return bus.is_there() and (os.geteuid() == 0 or os.path.exists(f"/run/user/{os.geteuid()}/bus"))


def is_below_manager(folder: str) -> bool:
    """Whether a cgroup is our manager's, and ends with it."""
    return f"/user@{os.geteuid()}.service/" in folder


def is_in_session(pid: int) -> bool:
    """Whether a process lives in the scope of a login session of ours."""
    return is_in_session_scope(folder_of(pid) or "")


def scope_name(group: str) -> str:
    """Name the scope that a job's group is made below."""
    return group + ".scope"


def start_words(scope: str, pids: Sequence[int], *properties: Sequence[str]) -> list[str]:
    """Return the bus tool's words that ask for a scope, ours to write, in which some processes live, and no longer."""
    given = [("PIDs", "au", str(len(pids)), *map(str, pids)), _COLLECT, _OURS, *properties]
    words = [word for each in given for word in each]
    return [*_call_words("StartTransientUnit", "ssa(sv)a(sa(sv))"), scope, "fail", str(len(given)), *words, "0"]


def is_too_old(refused: Refused) -> bool:
    """Whether a manager refuses only since it does not know `UNTOUCHED`."""
    return UNTOUCHED[0] in refused.text


def adopt(pid: int, scope: str, until_mono: float) -> None:
    """Have a process live in a scope of its own that is ours to write. Raises Refused.

    A pid may be reused while the manager is asked: it moves none but our own user's, and whoever is moved notices nothing.
    """
    try:
        _start(pid, scope, until_mono)
    except Refused as refused:
        if "already" not in refused.text:
            raise
        attach(scope, "", [pid], until_mono)  # somebody moved it out of the scope that it has
    # The reply says that a start job is queued, not that it is done.
    while os.path.basename(folder_of(pid) or "") != scope:
        if time.monotonic() > until_mono or not os.path.exists(f"/proc/{pid}"):
            raise Refused("has not moved the job's process")
        time.sleep(LOOK_SECONDS)


def _start(pid: int, scope: str, until_mono: float) -> None:
    try:
        bus.ask(until_mono, *start_words(scope, [pid], UNTOUCHED))
    except Refused as refused:
        if not is_too_old(refused):
            raise
        bus.ask(until_mono, *start_words(scope, [pid]))


def scope_of(folder: str) -> tuple[str, str] | None:
    """Tell the scope of a job that a group lies below, and the group's path in it; None if it lies in none."""
    words = folder.split("/")
    for number in range(len(words) - 1, 0, -1):
        if words[number].startswith("gpurun-") and words[number].endswith(".scope"):
            return words[number], "".join("/" + word for word in words[number + 1 :])
    return None


def attach(scope: str, below: str, pids: Sequence[int], until_mono: float) -> None:
    """Ask for processes to be moved into a scope of ours, or a group below it. Raises Refused."""
    words = [*_call_words("AttachProcessesToUnit", "ssau"), scope, below, str(len(pids)), *map(str, pids)]
    bus.ask(until_mono, *words)


def _call_words(*method: str) -> list[str]:
    return ["--system" if os.geteuid() == 0 else "--user", "call", *bus.MANAGER, *method]
