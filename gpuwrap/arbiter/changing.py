"""Changing what a job asks for (`gpurun set`): anything while it waits, its time limit and its name while it runs.

What the machine can never give is refused, and the job stays as it was.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ..lifecycle import IN_LINE, JobState
from ..model import Job, Request
from ..units import format_limit, format_size
from .admission import Admission, Refused, choose_devices, count_all

if TYPE_CHECKING:
    from .loop import Arbiter

Values = dict[str, str]

ALWAYS = ("time", "name")
KNOWN = ("gpus", "memory", "percent", "exclusive", "device", "not", "priority", "wait", *ALWAYS)


def change(arbiter: "Arbiter", admission: Admission, job: Job, values: Values) -> tuple[bool, str]:
    """Change one job; whether it was done, and what to say."""
    wanted = {name: value for name, value in values.items() if name in KNOWN}
    if job.state is JobState.ENDED:
        return False, "has already ended"
    if job.state not in IN_LINE and any(name not in ALWAYS for name in wanted):
        return False, f"is {job.state.value}: only its time limit and its name can be changed"
    try:
        request = _changed(admission, job, wanted)
        if request != job.request:
            admission.judge(request, job.parent_id)
    except Refused as refused:
        return False, refused.error.text
    changes: dict[str, object] = {"request": request}
    if "priority" in wanted:
        changes["priority"] = int(wanted["priority"])
    if "name" in wanted:
        changes["name"] = wanted["name"]
    after = arbiter.store.change(job, **changes)
    told = _told(job, after)
    if "wait" in wanted:
        seconds = float(wanted["wait"])
        arbiter.answers.limit_wait(after, seconds)
        if arbiter.seats[job.id].sweep is None:  # the process of a sweep has no limit of its own
            arbiter.bell.queue(arbiter.seats[job.id].connection, "limit", seconds=seconds)
        told.append(f"gives up after {format_limit(seconds)} from now")
    arbiter.limits.watch(after)
    arbiter.touch()
    return True, ", ".join(told) or "as it was"


def _changed(admission: Admission, job: Job, wanted: Values) -> Request:
    request = job.request
    admission.must_know(wanted)
    if "device" in wanted or "not" in wanted:
        samples = admission.machine_of(job)
        request = replace(request, allowed=choose_devices(samples, wanted.get("device"), wanted.get("not"), None))
    if "gpus" in wanted:
        gpus = wanted["gpus"]
        count = int(gpus) if gpus != "all" else count_all(admission.machine_of(job), request.allowed)
        request = replace(request, gpus=count)
    if "memory" in wanted or "percent" in wanted:
        request = replace(
            request,
            memory_bytes=int(wanted["memory"]) if "memory" in wanted else None,
            memory_percent=float(wanted["percent"]) if "percent" in wanted else None,
            exclusive=request.exclusive or "exclusive" in wanted,
        )
    if "time" in wanted:
        request = replace(request, time_limit_seconds=float(wanted["time"]))
    return request


def _told(before: Job, now: Job) -> list[str]:
    old, new = before.request, now.request
    pairs = [
        ("GPUs", old.gpus, new.gpus),
        ("memory", _memory(old), _memory(new)),
        ("exclusive", old.exclusive, new.exclusive),
        ("GPUs to choose from", _choice(old), _choice(new)),
        ("priority", before.priority, now.priority),
        ("time limit", _limit(old), _limit(new)),
        ("name", before.name or "none", now.name or "none"),
    ]
    return [f"{what} {a} → {b}" for what, a, b in pairs if a != b]


def _memory(request: Request) -> str:
    if request.memory_percent is not None:
        return f"{request.memory_percent:g}%"
    return "whole" if request.memory_bytes is None else format_size(request.memory_bytes)


def _choice(request: Request) -> str:
    return "all" if request.allowed is None else str(len(request.allowed))


def _limit(request: Request) -> str:
    return "none" if request.time_limit_seconds is None else format_limit(request.time_limit_seconds)
