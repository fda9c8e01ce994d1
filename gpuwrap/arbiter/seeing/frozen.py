"""Jobs whose cgroup, or one around it, somebody else has frozen (`systemctl freeze`): they do nothing, and we did not do it."""

from os.path import basename, dirname

from ...host.freezer import frozen_by_others
from ...model import Job
from ...policy.words import safe

UNITS = (".service", ".scope", ".slice")


def frozen_words(job: Job) -> tuple[str, list[str]] | None:
    """Say by which group a job is frozen, and what lets it go on; None if it is not, or by us."""
    folder = frozen_by_others(job.identity.pid)
    if folder is None:
        return None
    name = safe(basename(folder), 60)
    if name.endswith(UNITS):
        user = "--user " if "/user@" in dirname(folder) else ""
        thaw = f"systemctl {user}thaw {name}"
    else:
        thaw = f"echo 0 > {safe(folder, 200)}/cgroup.freeze"
    return f"frozen by others ({name})", [f"{thaw} lets it go on"]


def and_frozen(job: Job) -> str:
    """Say it behind why a job is asked to end: it cannot hear of it; empty if it is not frozen."""
    words = frozen_words(job)
    return f", {words[0]}" if words is not None else ""
