"""The GPUs as `gpus` tells them, and the hand that drains them."""

import time
from typing import TYPE_CHECKING, Any

from ...errors import GpurunError
from ...host.connections import NVLINK
from ...lifecycle import JobState
from ...model import Claim, ComputeMode, ForeignProcess, Gpu, GpuSample, Job, Load
from ...policy import astray
from ...policy.naming import named_gpus
from ...policy.placement import unexplained_allowance, unexplained_bytes
from ...policy.words import PROHIBITS, command, gpu_list, how_to_permit, program, safe
from ...units import format_duration, format_size
from ..kin.leftovers import leftover_words
from ..seeing.views import view_of

if TYPE_CHECKING:
    from ..loop import Arbiter

# A look older than this is not shown.
FRESH_SECONDS = 1.0


class Inventory:
    """Tells of GPUs, and drains them."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._drained = arbiter.notes.drained

    def is_fresh(self) -> bool:
        """Whether the last look can be shown; a driver that has not answered yet is no reason to wait for ever."""
        look = self._arbiter.deciding.look
        return look is not None and time.monotonic() - look.begun_mono < FRESH_SECONDS

    def gpus(self) -> list[dict[str, Any]]:
        """Return every GPU: the frozen keys, and `notes`, who uses it in words. Raises GpurunError if there is no driver."""
        look = self._arbiter.deciding.look
        assert look is not None
        if look.pending and not look.samples:
            raise GpurunError("no GPU to be seen yet: the NVIDIA driver has not answered", hint="try again in a moment")
        if look.fault is not None and not look.samples:
            raise GpurunError(f"no GPU to be had: {look.fault}", hint="try it on simulated GPUs: gpurun demo")
        view = view_of(self._arbiter, None, look)
        assert view is not None
        indices = {gpu.uuid: gpu.index for gpu in view.gpus}
        loads = {sample.uuid: _load(sample) for sample in look.samples}
        return [self._gpu(gpu, view.jobs, indices) | {"load": loads.get(gpu.uuid)} for gpu in view.gpus]

    def drain(self, text: str, drained: bool) -> list[list[object]]:
        """Let no new job onto GPUs, or let them again; returns [index, True, what it means]. Raises Refused."""
        arbiter = self._arbiter
        look = arbiter.deciding.look
        samples = list(look.samples) if look is not None else []
        done: list[list[object]] = []
        uuids = set(self._drained.get())
        for sample in samples if text == "all" else named_gpus(samples, text):
            if sample.uuid in uuids and not drained:
                uuids.remove(sample.uuid)
                done.append([sample.index, True, "takes jobs again"])
            elif drained and sample.uuid not in uuids:
                uuids.add(sample.uuid)
                there = [job.id for job in arbiter.store.holding.values() if any(s.uuid == sample.uuid for s in job.shares)]
                stays = f"; what runs there goes on: {_jobs(there)}" if there else ""
                done.append([sample.index, True, f"drained: no job starts on it{stays}"])
            else:
                done.append([sample.index, True, "is drained already" if drained else "was not drained"])
        self._drained.put(frozenset(uuids))
        self._turn.replan()
        return done

    def _gpu(self, gpu: Gpu, jobs: tuple[Job, ...], indices: dict[str, int]) -> dict[str, Any]:
        here = [job for job in jobs if any(share.uuid == gpu.uuid for share in job.shares)]
        claim = self._claim(gpu)
        plan = self._arbiter.deciding.plans.get(None)
        kept = plan.kept.get(gpu.uuid) if plan is not None else None
        strays = [stray for job_id in sorted(gpu.used) if (stray := self._arbiter.astray.on(job_id, gpu.uuid)) is not None]
        there = {job.id for job in here} | {job_id for job_id, size in gpu.used.items() if size != 0}
        state, notes = _state(gpu, bool(there), claim, kept)
        notes += [_job_words(job, gpu) for job in here]
        notes += [astray.here(stray) for stray in strays]
        notes += [f"left by job {each.job_id}: {leftover_words(each)}" for each in gpu.leftovers]
        notes += [_foreign_words(process, claim) for process in gpu.foreign or ()]
        unexplained = unexplained_bytes(gpu)
        if unexplained and unexplained > unexplained_allowance(gpu.total_bytes or 0):  # less is the driver's own
            notes.append(f"{format_size(unexplained)} held by nobody the driver names")
        if kept is not None:
            notes.append(f"kept for job {kept}")
        linked = [indices[uuid] for uuid, level in gpu.links.items() if level >= NVLINK and uuid in indices]
        if linked:
            notes = [*(notes or ["free"]), f"NVLink to {gpu_list(linked)}"]
        return {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "total_bytes": gpu.total_bytes,
            "free_bytes": gpu.free_bytes,
            "state": state,
            "jobs": sorted(there),
            "foreign": [
                {"pid": each.pid, "user": each.user, "command": each.command, "bytes": each.bytes, "still": each.still}
                for each in gpu.foreign or ()
            ],
            "claim": None if claim is None else {"pid": claim.pid, "user": claim.user},
            "notes": notes,
            "held": {job_id: size for job_id, size in gpu.used.items() if size},
            "kept": kept,
        }

    def _claim(self, gpu: Gpu) -> Claim | None:
        """Another world's claim; one that nobody here wanted so far is asked for now."""
        return gpu.claim or self._arbiter.claims.peek(gpu.uuid)


def _state(gpu: Gpu, in_use: bool, claim: Claim | None, kept: int | None) -> tuple[str, list[str]]:
    """The word for the JSON, the most serious one, and every one of them for people."""
    found: list[tuple[str, str]] = []
    if gpu.fault:
        found.append(("unhealthy", f"unhealthy: {gpu.fault}"))
    if gpu.drained:
        found.append(("drained", f"drained: gpurun gpus undrain {gpu.index} lets jobs onto it again"))
    if claim is not None:
        owner = f"{safe(claim.user)}'s" if claim.user else "another"
        pid = f" (pid {claim.pid})" if claim.pid is not None else ""
        found.append(("claimed", f"{owner} gpurun has it{pid}"))
    if gpu.compute_mode is ComputeMode.PROHIBITED:
        found.append(("prohibited", f"prohibited: {PROHIBITS}; {how_to_permit(gpu.index)}"))
    if gpu.foreign is None and not gpu.fault:
        found.append(("unknown", "the driver does not say who uses it"))
    if in_use:
        found.append(("used", ""))
    if gpu.foreign:
        found.append(("foreign", ""))
    if kept is not None:
        found.append(("kept", ""))
    return (found[0][0] if found else "free"), [words for _, words in found if words]


def _load(sample: GpuSample) -> dict[str, int | float | None]:
    """What a GPU is doing, as far as the driver tells."""
    load = sample.load or Load()
    return {
        "utilization_percent": sample.utilization_percent,
        "temperature_celsius": load.temperature_celsius,
        "power_watts": load.power_watts,
        "power_limit_watts": load.power_limit_watts,
        "fan_percent": load.fan_percent,
    }


def _job_words(job: Job, gpu: Gpu) -> str:
    size = gpu.used.get(job.id)
    share = next(share for share in job.shares if share.uuid == gpu.uuid)
    holds = "" if size is None else f" {format_size(size)}" if not job.request.shares else f" {format_size(size)} of"
    promised = f" {format_size(share.bytes)}" if job.request.shares else ""
    state = "" if job.state is JobState.RUNNING else f", {'left behind' if job.state is JobState.ENDED else job.state.value}"
    since = f", {format_duration(time.monotonic() - job.started_mono)}" if job.started_mono and not state else ""
    return f"job {job.id}:{holds}{promised}{',' if holds or promised else ''} {command(job.argv)}{since}{state}"


def _foreign_words(process: ForeignProcess, claim: Claim | None) -> str:
    owner = "your" if process.mine else f"{safe(process.user)}'s" if process.user else "somebody's"
    size = "" if process.bytes is None else f", {format_size(process.bytes)}"
    idle = f", idle for {format_duration(process.idle_seconds)}" if process.idle_seconds else ""
    still = f", {process.still}" if process.still else ""
    queued = "that gpurun's" if claim is not None and process.user == claim.user else "not in the queue"
    return f"{owner} {program(process)} (pid {process.pid}{size}{still}{idle}), {queued}"


def _jobs(job_ids: list[int]) -> str:
    return ("job " if len(job_ids) == 1 else "jobs ") + ", ".join(str(job_id) for job_id in sorted(job_ids))
