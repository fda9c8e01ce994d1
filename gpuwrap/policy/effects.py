"""What a plan does for one job, in a few words: for the echo of `renice`, and for the newcomer beside a paused job."""

from collections.abc import Callable, Iterable, Sequence

from ..lifecycle import JobState
from ..model import Evict, Grant, Job, Pause, Plan, Refusal, Resume, Share, View
from ..units import format_of, format_size
from . import refusals
from .placement import Room, Shape
from .returning import is_vague
from .words import gpu_list, job_list


def effect(plan: Plan, job_id: int, view: View, clock: Callable[[float], str]) -> str:
    """Say what a plan made from `view` does for a job; empty if it goes on, or waits, as it did. `clock` writes a moment."""
    jobs = {job.id: job for job in view.jobs}
    for action in plan.actions:
        if action.job_id != job_id:
            continue
        if isinstance(action, Grant):
            return _starts(action, view)
        if isinstance(action, Resume):
            return "goes on"
        return f"gives way to job {action.newcomer_id}"
    paused = [each.job_id for each in plan.actions if isinstance(each, Pause) and each.newcomer_id == job_id]
    evicted = [each.job_id for each in plan.actions if isinstance(each, Evict) and each.newcomer_id == job_id]
    if evicted:
        return f"evicts {job_list(evicted)}"
    if len(paused) == 1:
        return f"pauses job {paused[0]}{_beside(jobs[job_id], jobs[paused[0]], plan, view)}"
    if paused:
        return f"pauses {job_list(paused)}"
    if jobs[job_id].state is JobState.PAUSED and jobs[job_id].yields_to is not None:
        return f"stays paused: {stuck(plan, job_id, clock)}" if job_id in plan.stuck else "stays paused"
    reason = plan.reasons.get(job_id)
    if reason is None:
        return ""
    if reason.yielding:
        return f"{job_list(reason.yielding)} {'is' if len(reason.yielding) == 1 else 'are'} being asked to end for it"
    if reason.cannot_yield:
        return _cannot_interrupt(reason.cannot_yield, clock)
    return ""


def _cannot_interrupt(refused: Sequence[Refusal], clock: Callable[[float], str]) -> str:
    (job_ids, text), *others = refusals.grouped(refused, clock)
    more = sum(len(each) for each, _ in others)
    also = "" if not more else f"; {more} other{'' if more == 1 else 's'} cannot give way either"
    return f"cannot interrupt {job_list(job_ids)}: {'it' if len(job_ids) == 1 else 'each'} {text}{also}"


def stuck(plan: Plan, job_id: int, clock: Callable[[float], str]) -> str:
    """Say why a paused job does not go on although it outranks who computes beside it."""
    return ", ".join(refusals.sentence(*group) for group in refusals.grouped(plan.stuck[job_id], clock)[:2])


def notice(grant: Grant, view: View) -> str | None:
    """Tell a job whose need nobody knows what it was given beside a paused one; None for any other job."""
    job = next((each for each in view.jobs if each.id == grant.job_id), None)
    beside = _paused_on(grant.shares, view)
    if job is None or not beside or not is_vague(job):
        return None
    totals = {gpu.uuid: gpu.total_bytes for gpu in view.gpus}
    least = min(grant.shares, key=lambda share: share.bytes)
    where = gpu_list(share.index for share in grant.shares)
    free = format_of(least.bytes, totals.get(least.uuid) or least.bytes)
    return f"runs on {where} beside paused {job_list(beside)}: {free} are free"


def _starts(grant: Grant, view: View) -> str:
    if not grant.shares:
        return "starts"
    beside = _paused_on(grant.shares, view)
    where = f"starts on {gpu_list(share.index for share in grant.shares)}"
    return f"{where} beside paused {job_list(beside)}" if beside else where


def _paused_on(shares: Iterable[Share], view: View) -> list[int]:
    uuids = {share.uuid for share in shares}
    paused = (JobState.PAUSED, JobState.SUSPENDED)
    return [job.id for job in view.jobs if job.state in paused and uuids & {share.uuid for share in job.shares}]


def _beside(job: Job, victim: Job, plan: Plan, view: View) -> str:
    """Say how both fit: `(8G beside its 20G on GPU 0)`; nothing where the figures are not known."""
    for gpu in view.gpus:
        if plan.kept.get(gpu.uuid) != job.id or gpu.uuid not in {share.uuid for share in victim.shares}:
            continue
        held, wanted = gpu.used.get(victim.id), Room(gpu, view.bounds).asked(Shape.of(job.request)) or job.learned_bytes
        if held:
            mine = "" if wanted is None else f"{format_size(wanted)} "
            return f" ({mine}beside its {format_size(held)} on GPU {gpu.index})"
    return ""
