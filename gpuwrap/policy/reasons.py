"""Reasons as sentences for people: what comes after "job 13 waits for".

1. One line, and no control character: commands, users and faults come from anybody and are written escaped.
2. No end time rather than a bad one: only a time limit gives one.
3. Few words: who holds what and which rule blocks; many holders are counted.
"""

from collections.abc import Callable, Sequence, Set
from itertools import groupby
from math import inf

from ..lifecycle import IN_LINE, JobState
from ..model import Claim, Job, Obstacle, Reason, Refusal, Rule, View
from ..sweeps import from_words
from ..units import PRIORITY_HIGHEST, PRIORITY_STEP, format_duration, format_of, format_size
from . import refusals
from .between import capped, used_less
from .needs import URGENT
from .placement import Shape, unexplained_bytes
from .plan import ends_mono
from .users import Standing
from .words import (
    PROHIBITS,
    be,
    clock_of,
    command,
    gpu_count,
    gpu_list,
    how_to_permit,
    job_list,
    joined,
    moment,
    ordinal,
    program,
    safe,
)

# What keeps a job from giving way, in words of our own or of the driver's.
REFUSAL_LENGTH = 160
# More than this many jobs or GPUs are counted instead of described.
DESCRIBED = 2

# Rules that end by themselves when our own jobs end: the place in line matters.
_OURS = (Rule.BUSY, Rule.MEMORY, Rule.BEHIND, Rule.JOBS_PER_GPU, Rule.COMPUTE_MODE)


def sentence(reason: Reason, job: Job, view: View, now_mono: float, now_at: float) -> str:
    """Say why a job waits. For many jobs of one view, make one `Teller`."""
    return Teller(view, now_mono, now_at).sentence(reason, job)


def help_lines(reason: Reason, job: Job, view: View) -> list[str]:
    """Say what would help, one short line each."""
    return Teller(view, 0.0, 0.0).help_lines(reason, job)


class Teller:
    """Tells reasons of one view at one moment; its date is only needed to name those of others."""

    _described = DESCRIBED

    def __init__(self, view: View, now_mono: float, now_at: float, asker: int | None = None) -> None:
        """`asker`: the uid of who is told; None: many are."""
        self._asker = asker
        self._view, self._now_mono, self._now_at = view, now_mono, now_at
        self._jobs = {job.id: job for job in view.jobs}
        self._gpus = {gpu.index: gpu for gpu in view.gpus}
        self._told_parts: dict[tuple[int, int | None], tuple[Reason, list[str]]] = {}
        self._told_awaited: dict[int, str] = {}
        self._told_places: dict[tuple[frozenset[str] | None, bool], list[int]] = {}
        self._on_gpu: dict[Rule, Callable[[Obstacle], str]] = {
            Rule.FOREIGN: self._foreign,
            Rule.CLAIMED: self._claimed,
            Rule.LEFTOVER: self._leftover,
            Rule.UNHEALTHY: _unhealthy,
            Rule.DRAINED: lambda _: "drained",
            Rule.UNKNOWN: lambda _: "the driver does not say how much memory is free",
            Rule.UNEXPLAINED: self._unexplained,
            Rule.COMPUTE_MODE: self._compute_mode,
            Rule.JOBS_PER_GPU: self._jobs_per_gpu,
        }

    def sentence(self, reason: Reason, job: Job) -> str:
        """Say why a job waits, in one line."""
        if reason.rule is Rule.HELD:
            return self._held(job)
        if reason.rule is Rule.STOPPED:
            return "stopped at its terminal, keeps its place"
        if reason.rule is Rule.AFTER:
            return self._awaited_jobs(job)
        if reason.rule is Rule.SWEEP and job.row is not None:
            return f"its turn: sweep {job.row.sweep} runs {job.row.limit} at once"
        if reason.rule is Rule.CAP:
            return capped(self._view, job)
        if reason.rule is Rule.ABSENT:
            return "its gpurun to come back, keeps its place"
        if reason.yielding:
            leaving = f"{job_list(reason.yielding)} {be(reason.yielding)} being asked to end for it"
            return self._asks(reason, job) + leaving
        places = self._places(job)
        if not self._view.gpus and self._view.fault is not None:
            return self._asks(reason, job) + safe(self._view.fault, REFUSAL_LENGTH)
        if len(places) < reason.gpus:
            there = "none" if not places else f"only {len(places)}"
            return f"{gpu_count(reason.gpus)}: {there} of those that it may use {'is' if places else 'are'} here"
        if reason.kept and (free := self._kept_free(reason)):
            return self._asks(reason, job) + ", ".join([free, *self._awaited(reason)])
        refused = reason.cannot_yield if reason.rule in _OURS and reason.rule is not Rule.BEHIND else ()
        if refused:
            parts = self._refused(refused) + self._new_parts(reason, job, {each.job_id for each in refused})
            if len(places) == reason.gpus:
                return f"{gpu_list(places)}: " + ", ".join(parts)
        else:
            passed = used_less(self._view, job, self._asker) if reason.rule in _OURS else None
            if passed is not None:
                return f"{_what(reason, job)}, {ordinal(reason.place)} in line: {passed}"
            parts = self._parts(reason, job)
        if len(places) == reason.gpus and all(each.rule not in _OURS for each in reason.obstacles):
            return ", ".join(parts)  # no other will do, and each part says which GPU it is about
        return self._asks(reason, job, in_line=reason.rule in _OURS) + ", ".join(parts)

    def _asks(self, reason: Reason, job: Job, *, in_line: bool = False) -> str:
        """Say what is asked for, and the place in line where that matters."""
        return _what(reason, job) + (f", {ordinal(reason.place)} in line: " if in_line else ": ")

    def _held(self, job: Job) -> str:
        return f"held: gpurun resume {job.id} lets it go"

    def help_lines(self, reason: Reason, job: Job) -> list[str]:
        """Say what would help, one short line each; nothing where only time does."""
        if reason.rule is Rule.HELD:
            return [f"gpurun resume {job.id} lets it go"]
        if reason.rule is Rule.STOPPED:
            return ["fg in its terminal lets it go on"]
        if reason.rule is Rule.AFTER:
            return [f"gpurun why {number} tells of the first of those" for number in self._view.after.get(job.id, ())[:1]]
        if not self._view.gpus or len(self._places(job)) < reason.gpus:
            return ["gpurun gpus shows which are here, gpurun doctor why"]
        lines: list[str] = []
        for obstacle in reason.obstacles:
            lines += self._help_on_gpu(obstacle, job)
        lines += self._help_in_line(reason, job)
        return list(dict.fromkeys(lines))

    # What blocks, part by part.

    def _awaited_jobs(self, job: Job) -> str:
        """Say which jobs must end first."""
        job_ids = self._view.after.get(job.id, ())
        if not job_ids:
            return "its turn"
        told = self._told_awaited.get(id(job_ids))  # of the view, which the rows of a sweep share
        if told is None:
            must = must_succeed(job)
            parts = []
            for numbers, end in (
                ([n for n in job_ids if n not in must], "to end"),
                ([n for n in job_ids if n in must], "to succeed"),
            ):
                if numbers:
                    holders = [self._holder(n) for n in numbers] if len(numbers) <= DESCRIBED else [job_list(numbers)]
                    parts.append(f"{joined(holders)} {end}")
            told = self._told_awaited[id(job_ids)] = ", and ".join(parts)
        return told

    def _refused(self, refused: Sequence[Refusal]) -> list[str]:
        """Say which lower jobs cannot give way, and why not."""
        groups = refusals.grouped(refused, clock_of(self._now_mono, self._now_at))
        parts = [refusals.sentence(*group) for group in groups[: self._described]]
        more = sum(len(job_ids) for job_ids, _ in groups[self._described :])
        return [*parts, f"{more} other{'' if more == 1 else 's'} cannot give way either"] if more else parts

    def _parts(self, reason: Reason, job: Job) -> list[str]:
        """Say what stands on the GPUs.

        Most of a long line face the very same obstacles: those are told once. (They are kept beside what was told of them,
        so that no others can have their id.)
        """
        key = (id(reason.obstacles), reason.behind)
        found = self._told_parts.get(key)
        if found is not None and found[0].rule is reason.rule:
            return found[1]
        parts = self._new_parts(reason, job, frozenset())
        if not any(each.rule is Rule.MEMORY and not each.job_ids for each in reason.obstacles):  # these differ by job
            self._told_parts[key] = reason, parts
        return parts

    def _new_parts(self, reason: Reason, job: Job, told: Set[int]) -> list[str]:
        """Say it anew, but for jobs that have been told of."""
        kept = [each.gpu_index for each in reason.obstacles if each.rule is Rule.BEHIND]
        if kept and reason.rule is Rule.BEHIND:
            return [f"{gpu_list(kept)} {be(kept)} kept for job {reason.behind}"]
        open_ = [each for each in reason.obstacles if not each.job_ids or not told >= set(each.job_ids)]
        parts = self._busy([each for each in open_ if each.rule is Rule.BUSY])
        parts += self._memory([each for each in open_ if each.rule is Rule.MEMORY], job)
        parts += self._outside([each for each in open_ if each.rule in self._on_gpu])
        if kept:
            parts.append(f"{gpu_list(kept)} {be(kept)} kept for another job")
        return parts

    def _busy(self, obstacles: Sequence[Obstacle]) -> list[str]:
        """Say which jobs have which GPUs."""
        gpus: dict[int, list[int]] = {}
        for obstacle in obstacles:
            for job_id in obstacle.job_ids:
                gpus.setdefault(job_id, []).append(obstacle.gpu_index)
        if len(gpus) <= DESCRIBED:
            return [f"{self._holder(job_id)} {self._has(job_id, indices)}" for job_id, indices in sorted(gpus.items())]
        have = "have" if all(self._granted(*each) >= set(each[1]) for each in gpus.items()) else "are on"
        return [f"{job_list(gpus)} {have} {gpu_list({each.gpu_index for each in obstacles})}"]

    def _has(self, job_id: int, indices: Sequence[int]) -> str:
        """Say which of some GPUs a job was granted, and on which it computes all the same."""
        granted = self._granted(job_id, indices)
        mine, others = granted & set(indices), set(indices) - granted
        if not others:
            return f"has {gpu_list(mine)}"
        was = gpu_list(granted) if granted else "none"
        return f"has {gpu_list(mine)} and computes on {gpu_list(others)} too" if mine else (
            f"computes on {gpu_list(others)}, but was granted {was}"
        )

    def _granted(self, job_id: int, otherwise: Sequence[int]) -> set[int]:
        job = self._jobs.get(job_id)
        if job is None or job.state is JobState.WAITING:  # what it has it is granted by the plan that is told
            return set(otherwise)
        return {share.index for share in job.shares}

    def _memory(self, obstacles: Sequence[Obstacle], job: Job) -> list[str]:
        """Say where most memory is left, and beside whom."""
        if not obstacles:
            return []
        best = max(obstacles, key=lambda each: (each.free_bytes or 0, -each.gpu_index))
        if not best.job_ids and self._is_too_small(best, job):
            has = "has" if len(obstacles) == 1 else "have at most"
            biggest = max(each.total_bytes or 0 for each in obstacles)
            return [f"{gpu_list([each.gpu_index for each in obstacles])} {has} {format_size(biggest)} in all"]
        left = format_of(best.free_bytes or 0, best.total_bytes or 0)
        where = f"GPU {best.gpu_index} has" if len(obstacles) == 1 else f"the most is on GPU {best.gpu_index},"
        beside = f" beside {self._holders(best.job_ids)}" if best.job_ids else ""
        return [f"{where} {left} left{beside}"]

    def _outside(self, obstacles: Sequence[Obstacle]) -> list[str]:
        """Say what stands on GPUs that is not simply a job of ours; alike ones once."""
        told = sorted((self._on_gpu[each.rule](each), each.gpu_index) for each in obstacles)
        groups = [(text, [index for _, index in group]) for text, group in groupby(told, key=lambda each: each[0])]
        groups.sort(key=lambda group: group[1][0])
        parts = [f"{gpu_list(indices)}: {text}" for text, indices in groups[: DESCRIBED + 1]]
        more = sum(len(indices) for _, indices in groups[DESCRIBED + 1 :])
        return [*parts, f"and {more} more GPUs"] if more else parts

    def _kept_free(self, reason: Reason) -> str:
        """Say which of the GPUs kept for a job are free already."""
        blocked = {obstacle.gpu_index for obstacle in reason.obstacles}
        free = [index for index in reason.kept if index not in blocked]
        return f"{gpu_list(free)} {be(free)} kept free for it" if free else ""

    def _awaited(self, reason: Reason) -> list[str]:
        """Say when the other GPUs kept for a job can be had."""
        parts = []
        for obstacle in reason.obstacles:
            if obstacle.gpu_index not in reason.kept:
                continue
            if obstacle.rule in self._on_gpu:
                parts += self._outside([obstacle])
            else:
                parts.append(f"GPU {obstacle.gpu_index} {self._until(obstacle.job_ids)}")
        return parts[:3] + ([f"and {len(parts) - 3} more"] if len(parts) > 3 else [])

    def _until(self, job_ids: tuple[int, ...]) -> str:
        jobs = [self._jobs[job_id] for job_id in job_ids if job_id in self._jobs]
        if not jobs:
            return "is in use"
        last = max(jobs, key=lambda job: (ends_mono(job, self._now_mono), job.id))
        end = ends_mono(last, self._now_mono)
        if inf > end > self._now_mono:
            return f"by {self._clock(end)} (limit of job {last.id})"
        if len(jobs) > 1:
            return f"when {job_list(job_ids)} end"
        why = " (it has no time limit)" if last.request.time_limit_seconds is None else ""
        return f"when job {last.id} ends{why}"

    # One GPU each.

    def _claim_on(self, obstacle: Obstacle) -> Claim | None:
        """Return who has claimed a GPU; of one that a stranger's process is on only if it is that one's process."""
        if obstacle.claim is not None or obstacle.rule is not Rule.FOREIGN or obstacle.process is None:
            return obstacle.claim
        gpu = self._gpus.get(obstacle.gpu_index)
        claim = None if gpu is None else self._view.neighbours.get(gpu.uuid)
        return claim if claim is not None and claim.user in (None, obstacle.process.user) else None

    def _claimed(self, obstacle: Obstacle) -> str:
        """Say whose gpurun has a GPU, and for which process."""
        claim, gpu = self._claim_on(obstacle), self._gpus.get(obstacle.gpu_index)
        whose = [each for each in (gpu.foreign or () if gpu is not None else ()) if claim and each.user == claim.user]
        process = max(whose, key=lambda each: each.bytes or 0, default=None)
        owner = "another" if claim is None or not claim.user else f"{safe(claim.user)}'s"
        if process is not None and process.mine:
            owner = "another of your"  # another folder's, or that of an allocation
        if process is not None:
            size = "" if process.bytes is None else f", {format_size(process.bytes)}"
            return f"{owner} gpurun{'s' if process.mine else ''} has it (its job: pid {process.pid}{size})"
        pid = f" (pid {claim.pid})" if claim is not None and claim.pid is not None else ""
        return f"{owner} gpurun has it{pid}"

    def _foreign(self, obstacle: Obstacle) -> str:
        process = obstacle.process
        if self._claim_on(obstacle) is not None:
            return self._claimed(obstacle)
        if process is None:
            return "in use by a process that is not in the queue"
        idle = f"idle for {format_duration(process.idle_seconds)}" if process.idle_seconds else ""
        if process.mine:
            holds = "" if process.bytes is None else f" holds {format_size(process.bytes)}"
            return ", ".join(filter(None, [f"your {program(process)} (pid {process.pid}){holds}", process.still, idle]))
        size = "" if process.bytes is None else format_size(process.bytes)
        about = ", ".join(filter(None, [f"pid {process.pid}", size, process.still, idle]))
        owner = f"{safe(process.user)}'s" if process.user else "somebody's"
        return f"{owner} {program(process)} ({about}), not in the queue"

    def _leftover(self, obstacle: Obstacle) -> str:
        found = obstacle.leftover
        job = self._jobs.get(obstacle.job_ids[0]) if obstacle.job_ids else None
        if found is None:
            if job is None or job.state is not JobState.ENDED:
                return "its earlier run still holds it"
            return f"still held by job {job.id}{self._ended(job.ended_mono)}"
        size = "" if found.bytes is None else f"{format_size(found.bytes)} "
        left = f"left by job {found.job_id}{self._ended(found.ended_mono)}"
        return f"{size}still held by pid {found.pid} ({program(found)}), {left}"

    def _ended(self, ended_mono: float | None) -> str:
        return "" if ended_mono is None else f", ended {format_duration(self._now_mono - ended_mono)} ago"

    def _unexplained(self, obstacle: Obstacle) -> str:
        gpu = self._gpus.get(obstacle.gpu_index)
        size = unexplained_bytes(gpu) if gpu is not None else None
        return f"{'memory' if size is None else format_size(size)} held by nobody the driver names"

    def _compute_mode(self, obstacle: Obstacle) -> str:
        if obstacle.job_ids:
            return f"its compute mode admits one process: {self._holders(obstacle.job_ids)}"
        if obstacle.process is not None:
            return f"its compute mode admits one process: {self._foreign(obstacle)}"
        return PROHIBITS

    def _jobs_per_gpu(self, obstacle: Obstacle) -> str:
        limit = self._view.bounds.jobs_per_gpu
        if not obstacle.job_ids:
            return f"the setting jobs_per_gpu is {limit}"
        return f"{self._holders(obstacle.job_ids)}, at most {limit} on a GPU (jobs_per_gpu)"

    # Jobs.

    def _holder(self, job_id: int) -> str:
        """Name a job with its command and how it stands."""
        job = self._jobs.get(job_id)
        if job is None:
            return f"job {job_id}"
        return f"job {job_id} ({', '.join([command(job.argv), *self._standing(job)])})"

    def _holders(self, job_ids: Sequence[int]) -> str:
        return self._holder(job_ids[0]) if len(job_ids) == 1 else job_list(job_ids)

    def _standing(self, job: Job) -> list[str]:
        if job.state is JobState.GRANTED or job.state in IN_LINE:
            return ["starting"]
        if job.state in (JobState.PAUSED, JobState.SUSPENDED):
            return [job.state.value]
        if job.state is JobState.ENDED:
            return ["left behind"]
        words = [] if job.started_mono is None else [f"{format_duration(self._now_mono - job.started_mono)} so far"]
        if job.state is JobState.STOPPING:
            return [*words, "asked to end"]
        return words + self._until_known(job)

    def _until_known(self, job: Job) -> list[str]:
        """Say when a job ends, if its limit tells."""
        end = ends_mono(job, self._now_mono)
        return [f"ends by {self._clock(end)}"] if inf > end > self._now_mono else []

    def _clock(self, mono: float) -> str:
        return moment(mono - self._now_mono, self._now_at)

    def _places(self, job: Job) -> list[int]:
        asked = job.request.allowed, job.request.gpus > 1
        places = self._told_places.get(asked)
        if places is None:
            shape = Shape.of(job.request)
            places = self._told_places[asked] = sorted(gpu.index for gpu in self._view.gpus if shape.allows(gpu))
        return places

    @staticmethod
    def _is_too_small(obstacle: Obstacle, job: Job) -> bool:
        need = job.request.memory_bytes
        return need is not None and obstacle.total_bytes is not None and need > obstacle.total_bytes

    # Help.

    def _help_on_gpu(self, obstacle: Obstacle, job: Job) -> list[str]:
        index, shares = obstacle.gpu_index, not job.request.shares and job.request.gpus > 0
        share = ", or share the GPU with -m SIZE" if shares else ""
        claim = self._claim_on(obstacle)
        if claim is not None or obstacle.rule is Rule.CLAIMED:
            whose = f"{safe(claim.user)}'s" if claim is not None and claim.user else "that"
            return [f"each user has a queue of their own here: it comes free when {whose} job ends; -m does not share it"]
        if obstacle.rule is Rule.FOREIGN and obstacle.process is not None:
            if obstacle.process.mine:
                pid = obstacle.process.pid
                goes_on = f", or let it go on (kill -CONT {pid})" if obstacle.process.still == "stopped" else ""
                return [f"it is not in the queue: end it{goes_on}{share}"]
            whom = safe(obstacle.process.user) if obstacle.process.user else "its owner"
            return [f"pid {obstacle.process.pid} is not in the queue: ask {whom}{share}"]
        if obstacle.rule is Rule.LEFTOVER:
            return [f"gpurun kill {job_id} ends it" for job_id in obstacle.job_ids]
        if obstacle.rule is Rule.DRAINED:
            return [f"gpurun gpus undrain {index} lets jobs onto it again"]
        if obstacle.rule is Rule.UNEXPLAINED:
            return [f"needs a reset by root; meanwhile: gpurun gpus drain {index}"]
        if obstacle.rule is Rule.COMPUTE_MODE:
            return [how_to_permit(index)]
        if obstacle.rule in (Rule.UNHEALTHY, Rule.UNKNOWN):
            return ["gpurun doctor says more"]
        return []

    def _help_in_line(self, reason: Reason, job: Job) -> list[str]:
        lines = []
        if reason.rule is Rule.JOBS_PER_GPU:
            lines.append(f"a larger jobs_per_gpu in the settings: it is {self._view.bounds.jobs_per_gpu}")
        if reason.rule is Rule.MEMORY:
            lines.append("started with a smaller -m SIZE it might fit")
        if reason.rule is Rule.BUSY and not job.request.shares and self._would_share(reason):
            lines.append("started with -m SIZE it would share a GPU with others that fit")
        if reason.rule in _OURS and reason.place == 1:
            lines += self._help_first(reason, job)
        if reason.rule in _OURS and reason.place > 1:
            line = [each for each in self._view.jobs if each.state in IN_LINE and each.id != job.id]
            standing = Standing(self._view)
            ahead = [each.priority for each in line if not standing.are_strangers(each, job)]
            first = max(ahead, default=job.priority) + 1
            if job.priority < first <= PRIORITY_HIGHEST:
                place = "first of its owner's" if standing.apart else "first in line"
                lines.append(f"gpurun renice {first} {job.id} puts it {place}")
        return lines

    def _help_first(self, reason: Reason, job: Job) -> list[str]:
        """Say what would let the first in line start: nobody needs only to wait for it."""
        lines = []
        restartable = [each.job_id for each in reason.cannot_yield if refusals.NOT_RESTARTABLE in each.text]
        if restartable:
            lines.append(f"started with -r, {job_list(restartable)} could be ended for it, and be run again")
        ids = {number for each in reason.obstacles for number in each.job_ids if number in self._jobs}
        standing = Standing(self._view)
        holders = [each for number in sorted(ids) if (each := self._jobs[number]).state not in IN_LINE]
        holders = [each for each in holders if not standing.are_strangers(each, job)]
        outranked = any(each.priority + PRIORITY_STEP <= URGENT for each in holders)
        if outranked and not reason.cannot_yield and job.priority < URGENT:
            lines.append(f"gpurun renice urgent {job.id} makes less important jobs give way, where they can")
        if len(holders) == 1:
            lines.append(f"gpurun kill {holders[0].id} ends job {holders[0].id}")
        elif holders:
            lines.append(f"the end of one of these; gpurun kill {holders[0].id} ends job {holders[0].id}")
        return lines

    def _would_share(self, reason: Reason) -> bool:
        """Whether some GPU is held only by jobs that share it."""
        for obstacle in reason.obstacles:
            held = [self._jobs[each] for each in obstacle.job_ids if each in self._jobs]
            here = [share for job in held for share in job.shares if share.index == obstacle.gpu_index]
            frozen = any(job.state in (JobState.PAUSED, JobState.SUSPENDED) for job in held)
            if obstacle.rule is Rule.BUSY and here and not frozen and not any(share.whole for share in here):
                return True
        return False


def must_succeed(job: Job) -> Set[int]:
    """Return which jobs must have succeeded before it starts (`--after ok:JOB`)."""
    words = (job.after_jobs or "").split()
    return {number for word in words if word.startswith("ok:") for number in from_words(word.removeprefix("ok:"))}


def _unhealthy(obstacle: Obstacle) -> str:
    return f"unhealthy: {safe(obstacle.fault, REFUSAL_LENGTH)}" if obstacle.fault else "unhealthy"


def _what(reason: Reason, job: Job) -> str:
    """Say what is asked for: `a GPU`, `8G on each of 2 GPUs`."""
    percent = job.request.memory_percent
    if reason.need_bytes is not None:
        size = format_size(reason.need_bytes)
    elif percent is not None:
        size = f"{percent:g}%"
    else:
        return gpu_count(reason.gpus)
    return f"{size} on a GPU" if reason.gpus == 1 else f"{size} on each of {reason.gpus} GPUs"
