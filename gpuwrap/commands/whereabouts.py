"""What `doctor` finds about where jobs and the arbiter live: what can be frozen there, and what ends together with what."""

import os
import shutil
import time
from collections.abc import Iterator

from ..arbiter import lodging
from ..host import bus, freezer, logind, processes, units, usermanager
from .finding import Finding

ASK_SECONDS = 5.0


def freezing() -> Iterator[Finding]:
    if freezer.mount_point() is None:
        help = "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)"
        yield Finding("note", "freezer", "no cgroup v2 is mounted: jobs with a terminal cannot be paused unnoticed", help)
        return
    folder = freezer.folder_of(os.getpid())
    if freezer.may_have_group(os.getpid()):
        yield Finding("ok", "freezer", f"jobs started here can be frozen: {folder}")
        return
    if usermanager.is_in_session(os.getpid()) and usermanager.lingers():
        if shutil.which(bus.TOOL) is None:
            help = f"install it (it comes with systemd), or use -r: {folder}"
            yield Finding("note", "freezer", f"jobs started here cannot be frozen: no {bus.TOOL} is found", help)
        else:
            text = f"the user manager is asked to let jobs of this session be frozen, by {bus.TOOL}: {folder}"
            yield Finding("ok", "freezer", text)
        return
    help = "have a cgroup delegated, or start it below the user manager: systemd-run --user --scope gpurun …; or -r"
    where = folder or "our cgroup is outside of what is mounted here"
    yield Finding("note", "freezer", f"jobs started here cannot be frozen: not ours to write: {where}", help)


def logouts() -> Iterator[Finding]:
    """What outlives a logout, by what logind says."""
    user = processes.user_name(os.getuid())
    if not bus.is_there():
        yield Finding("unproven", "linger", "no systemd runs here")
        return
    survives = usermanager.lingers() or os.geteuid() == 0
    if survives:
        yield Finding("ok", "linger", "what lives below the user manager outlives the last logout: session jobs can be frozen")
    else:
        help = f"so jobs of a login session cannot be frozen: loginctl enable-linger {user}"
        yield Finding("note", "linger", "not enabled", help)
    ended = "a logout ends what its session leaves (KillUserProcesses)"
    if not _logout_kills():
        yield Finding("ok", "logout", "gpurun -d survives it, and so does all that a session leaves (KillUserProcesses=no)")
    elif survives:
        yield Finding("ok", "logout", f"gpurun -d survives it, below the user manager; else {ended}")
    else:
        yield Finding("note", "logout", f"{ended}, gpurun -d too", f"loginctl enable-linger {user} lets gpurun -d survive it")


def _logout_kills() -> bool:
    return logind.kills_at_logout(time.monotonic() + ASK_SECONDS)


def residence(pid: int) -> Iterator[Finding]:
    """With which unit an arbiter ends: the one that is up, or, with pid 0, one that would be started here."""
    folder = freezer.folder_of(pid or os.getpid()) or ""
    unit = units.unit_of(folder)
    if not bus.is_there() or unit is None:
        return
    if lodging.is_own_scope(folder):
        yield Finding("ok", "arbiter", f"it lives in a scope of its own, and ends with nobody's unit or session: {unit[1]}")
        return
    why_not = lodging.why_not_moved(folder, _logout_kills)
    lives = "it lives" if pid else "one that is started here lives"
    if why_not is None:
        yield Finding("ok", "arbiter", f"{lives} in {unit[1]}, until it has moved to a scope of its own; its log says why not")
    elif logind.is_in_session_scope(folder) and not _logout_kills():
        yield Finding("ok", "arbiter", f"{lives} in {unit[1]}, which a logout does not end")
    else:
        text = f"{lives} in {unit[1]} and ends with it, since {why_not}: claims and time limits of other jobs then wait"
        help = f"for the next gpurun command; root prevents it: loginctl enable-linger {processes.user_name(os.getuid())}"
        yield Finding("note", "arbiter", text, help)
