"""The systemd user manager: it gives a job of a login session a cgroup that is ours to write.

The scope of a session (ssh, a console) is root's, and so is what is above it: nothing can be made below it, and nothing
moved out of it, by its user. His manager has a part of the tree of its own and may ask PID 1 to move processes of his
there [systemd, src/core/cgroup.c, unit_attach_pid_to_cgroup_via_bus]. Never tried with a PID 1 that is systemd.

1. Only what lives in a session's scope is moved, and only where the user lingers: without, the manager ends with the last
   logout and takes along what the session would have left alive. A cgroup of somebody else's (a Slurm step, a system
   service) is one that must not be left.
2. The manager is asked when a job is to be paused, by its bus tool as a subprocess, never at launch; each call has an end.
3. What it answers is not believed: where a process lives is what the kernel says. A call may have moved a part of them,
   and one that was given up may still be carried out; a job that was moved and is not frozen notices nothing.
"""

import os
import time
from collections.abc import Sequence
from itertools import pairwise

from .freezer import folder_of
from .processes import user_name

LINGER = "/var/lib/systemd/linger"
TOOL = "busctl"
LOOK_SECONDS = 0.002
_CALL = ("--user", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
# Nobody shall end a job for having been moved: systemd-oomd chooses its victims below the user manager. What a manager is
# too old to know it refuses, and is asked again without. OOMPolicy is `continue` where Delegate is set [systemd.scope(5)].
_COLLECT = ("CollectMode", "s", "inactive-or-failed")
_UNTOUCHED = (("ManagedOOMPreference", "s", "omit"),)


class Refused(Exception):
    """The manager did not do as it was asked; the text follows its name."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


def lingers() -> bool:
    """Whether our user's manager, and what lives below it, outlives his last logout."""
    return os.path.exists(f"{LINGER}/{user_name(os.geteuid())}")


def is_in_session(pid: int) -> bool:
    """Whether a process lives in the scope of a login session of ours."""
    words = (folder_of(pid) or "").split("/")
    slice_name = f"user-{os.geteuid()}.slice"
    return any(
        outer == slice_name and inner.startswith("session-") and inner.endswith(".scope") for outer, inner in pairwise(words)
    )


def scope_name(group: str) -> str:
    """Name the scope that a job's group is made below."""
    return group + ".scope"


def adopt(pid: int, scope: str, until_mono: float) -> None:
    """Have a process live in a scope of its own that is ours to write. Raises Refused.

    A pid may be reused while the manager is asked: it moves none but our own user's, and whoever is moved notices nothing.
    """
    for more in (_UNTOUCHED, ()):
        properties = [("PIDs", "au", "1", str(pid)), ("Delegate", "b", "true"), _COLLECT, *more]
        words = [word for each in properties for word in each]
        try:
            _call(until_mono, "StartTransientUnit", "ssa(sv)a(sa(sv))", scope, "fail", str(len(properties)), *words, "0")
            break
        except Refused as refused:
            if "already" in refused.text:  # somebody moved it out of the scope that it has
                attach(scope, "", [pid], until_mono)
                break
            if not more or not any(name in refused.text for name, _type, _value in more):
                raise
    # The reply says that a start job is queued, not that it is done.
    while os.path.basename(folder_of(pid) or "") != scope:
        if time.monotonic() > until_mono or not os.path.exists(f"/proc/{pid}"):
            raise Refused("has not moved the job's process")
        time.sleep(LOOK_SECONDS)


def scope_of(folder: str) -> tuple[str, str] | None:
    """Tell the scope of a job that a group lies below, and the group's path in it; None if it lies in none."""
    words = folder.split("/")
    for number in range(len(words) - 1, 0, -1):
        if words[number].startswith("gpurun-") and words[number].endswith(".scope"):
            return words[number], "".join("/" + word for word in words[number + 1 :])
    return None


def attach(scope: str, below: str, pids: Sequence[int], until_mono: float) -> None:
    """Ask for processes to be moved into a scope of ours, or a group below it. Raises Refused."""
    _call(until_mono, "AttachProcessesToUnit", "ssau", scope, below, str(len(pids)), *map(str, pids))


def _call(until_mono: float, *words: str) -> None:
    import subprocess

    uid = os.geteuid()
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "XDG_RUNTIME_DIR": f"/run/user/{uid}",
        "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{uid}/bus",
    }
    try:
        done = subprocess.run(
            [TOOL, *_CALL, *words], env=environment, timeout=max(0.0, until_mono - time.monotonic()),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Refused("does not answer") from None
    except OSError as err:
        raise Refused(f"cannot be asked: {TOOL}: {str(err.strerror).lower()}") from err
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip()
        raise Refused(f"refuses: {text.splitlines()[0] if text else f'{TOOL}: exit {done.returncode}'}")
