"""What keeps a job waiting because others use the machine too, in words: who has used less, and which cap it is at."""

from ..lifecycle import JobState
from ..model import Job, View
from ..people import Between
from .users import Standing, cap_of
from .words import gpu_count, joined, safe

# More users than this are counted instead of named.
NAMED = 3
HOUR, MINUTE = 3600, 60
_PAUSED = (JobState.PAUSED, JobState.SUSPENDED)


def used_less(view: View, job: Job, asker: int | None = None) -> str | None:
    """Say which users stand before a job since they have used less, and how much; None if it is no such matter.

    `asker`: the uid of who is told, who is `you`; None: many are.
    """
    people, standing = view.people, Standing(view)
    owner = standing.owner(job)
    if people is None or owner is None or people.between is not Between.FAIR or standing.interrupts(job):
        return None
    waiting = {standing.owner(each) for each in view.jobs if each.state is JobState.WAITING}
    groups = standing.groups(waiting | {owner})
    before = [uid for group in groups[: next(at for at, group in enumerate(groups) if owner in group)] for uid in group]
    if not before:
        return None
    known = sorted((uid for uid in before if uid is not None), key=lambda uid: (standing.burden(uid), uid))
    shown = known[:NAMED]
    names = ["you" if uid == asker else safe(people.name_of(uid)) for uid in shown]
    if len(known) > NAMED:
        names.append(f"{len(known) - NAMED} more")
    have = "has" if len(names) == 1 and names[0] != "you" else "have"
    amounts = joined([amount(people.used.get(uid, 0.0)) for uid in shown])
    mine = f"{'you' if owner == asker else safe(people.name_of(owner))} {amount(people.used.get(owner, 0.0))}"
    return f"{joined(names)} {have} used less this week ({amounts}; {mine})"


def capped(view: View, job: Job) -> str:
    """Say which cap of the moment a job's owner is at."""
    people = view.people
    uid = people.owners.get(job.id) if people is not None else None
    if people is None or uid is None:
        return "its turn"
    caps, name = people.caps_of(uid), safe(people.name_of(uid))
    mine = [each for each in view.jobs if people.owners.get(each.id) == uid and each.shares]
    have = sum(len(each.shares) for each in mine if each.state not in (*_PAUSED, JobState.ENDED))
    if cap_of(job, people, have, len(view.gpus) + caps.leave_free) == "max_gpus" and caps.max_gpus is not None:
        return f"its turn: {name} may have {gpu_count(caps.max_gpus)} at once, and has {have} (max_gpus)"
    free = gpu_count(caps.leave_free)
    return f"its turn: {name} leaves {free} free (leave_free)"


def amount(gpu_seconds: float) -> str:
    """Write use as people reckon it: `2 h`, `61 h`, `5 min`."""
    if gpu_seconds >= HOUR:
        return f"{gpu_seconds / HOUR:.0f} h"
    return f"{gpu_seconds / MINUTE:.0f} min" if gpu_seconds >= MINUTE else f"{gpu_seconds:.0f} s"
