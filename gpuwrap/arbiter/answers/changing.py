"""Changing what a job asks for (`gpurun set`): anything while it waits, its time limit and its name while it runs.

What the machine can never give is refused, and the job stays as it was. `none`, `whole` and `all` take back what was asked
for (TAKEN_BACK); the limit that its gpurun inherited (CUDA_VISIBLE_DEVICES) stays whatever GPUs are chosen.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ...lifecycle import IN_LINE, JobState
from ...model import GpuSample, Job, Request
from ...policy.naming import choose_devices, count_all, first_seen, fitting_auto
from ...policy.refused import Refused
from ...units import format_limit, format_size
from .admission import Admission
from .table import Values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..loop import Arbiter

ALWAYS = ("time", "name")


def change(arbiter: "Arbiter", admission: Admission, job: Job, values: Values) -> tuple[bool, str]:
    """Change one job; whether it was done, and what to say."""
    wanted = {name: value for name, value in values.items() if name != "jobs"}
    if job.state is JobState.ENDED:
        return False, "has already ended"
    if job.state not in IN_LINE and any(name not in ALWAYS for name in wanted):
        return False, f"is {job.state.value}: only its time limit and its name can be changed"
    try:
        request = _changed(arbiter, admission, job, wanted)
        if request != job.request:
            admission.judge(request, job.parent_id)
    except Refused as refused:
        return False, refused.error.text
    changes: dict[str, object] = {"request": request}
    changes |= {name: wanted[name] for name in ("priority", "name") if name in wanted}
    after = arbiter.store.change(job, **changes)
    told = _told(job, after, arbiter.deciding.look.samples if arbiter.deciding.look is not None else [])
    if "wait" in wanted:
        told.append(_limit_wait(arbiter, after, wanted["wait"]))
    arbiter.turn.replan()
    return True, ", ".join(told) or "as it was"


def _limit_wait(arbiter: "Arbiter", job: Job, wanted: float | str) -> str:
    seconds = None if isinstance(wanted, str) else wanted
    arbiter.patience.limit([job], seconds)
    seat = arbiter.seats[job.id]
    if seat.sweep is None:  # the process of a sweep has no limit of its own
        arbiter.turn.say(seat.connection, "limit", seconds=seconds)
    return "waits without a limit" if seconds is None else f"gives up after {format_limit(seconds)} from now"


def _changed(arbiter: "Arbiter", admission: Admission, job: Job, wanted: Values) -> Request:
    request = job.request
    admission.must_know(wanted)
    if "device" in wanted or "not" in wanted:
        request = replace(request, allowed=_chosen(arbiter, admission, job, wanted))
    if "gpus" in wanted:
        gpus = wanted["gpus"]
        count = gpus if gpus != "all" else count_all(admission.machine_of(job), request.allowed)
        request = replace(request, gpus=count)
    seen = admission.inherited_by(job.id).seen
    if seen is not None and not wanted.keys().isdisjoint(("device", "not", "gpus")):
        choice = request.allowed if "device" in wanted or "not" in wanted else None
        request = replace(request, allowed=first_seen(admission.machine_of(job), seen, request.gpus, choice))
    if wanted.get("memory") == "whole":
        request = replace(request, memory_bytes=None, memory_percent=None, exclusive=False)
    elif wanted.get("auto"):
        machine, outer = admission.machine_of(job), admission.outer_of(job)
        size = fitting_auto(job.learned_bytes, machine, outer, request.allowed, request.gpus)
        request = replace(request, memory_bytes=size, memory_percent=None, exclusive=request.exclusive and size is not None)
    elif "memory" in wanted or "percent" in wanted:
        request = replace(
            request, memory_bytes=wanted.get("memory"), memory_percent=wanted.get("percent")
        )
    if wanted.get("exclusive"):
        if request.memory_bytes is None and request.memory_percent is None:
            raise Refused("it has no -m: GPUs are never shared without")
        request = replace(request, exclusive=True)
    if "time" in wanted:
        request = replace(request, time_limit_seconds=None if wanted["time"] == "none" else wanted["time"])
    return request


def _chosen(arbiter: "Arbiter", admission: Admission, job: Job, wanted: Values) -> frozenset[str] | None:
    """Return the GPUs that -i and --not leave, within what the job's gpurun inherited."""
    seat = arbiter.seats[job.id]
    only = wanted.get("device")
    samples = admission.machine_of(job)
    chosen = choose_devices(samples, None if only == "all" else only, wanted.get("not"), admission.inherited_by(job.id).visible)
    if seat.connection is None and seat.sweep is None and job.request.allowed is not None:
        # What it inherited is told by itself, and it is not here at the moment.
        chosen = job.request.allowed if chosen is None else chosen & job.request.allowed
    if chosen is not None and not chosen:
        raise Refused("no GPU is left to choose from (-i, --not, CUDA_VISIBLE_DEVICES)")
    return chosen


def _told(before: Job, now: Job, samples: "Sequence[GpuSample]") -> list[str]:
    old, new = before.request, now.request
    pairs = [
        ("GPUs", old.gpus, new.gpus),
        ("memory", _memory(old), _memory(new)),
        ("exclusive", _yes(old.exclusive), _yes(new.exclusive)),
        ("GPUs to choose from", _choice(old, samples), _choice(new, samples)),
        ("priority", before.priority, now.priority),
        ("time limit", _limit(old), _limit(new)),
        ("name", before.name or "none", now.name or "none"),
    ]
    return [f"{what} {a} → {b}" for what, a, b in pairs if a != b]


def _memory(request: Request) -> str:
    if request.memory_percent is not None:
        return f"{request.memory_percent:g}%"
    return "whole" if request.memory_bytes is None else format_size(request.memory_bytes)


def _choice(request: Request, samples: "Sequence[GpuSample]") -> str:
    if request.allowed is None:
        return "all"
    indices = {sample.uuid: str(sample.index) for sample in samples}
    return ",".join(sorted((indices.get(uuid, uuid) for uuid in request.allowed), key=lambda name: (len(name), name)))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _limit(request: Request) -> str:
    return "none" if request.time_limit_seconds is None else format_limit(request.time_limit_seconds)
