"""The long answer of `why`: which rule keeps a job waiting, who stands in the way, and when that ends at the earliest."""

from collections.abc import Iterable, Sequence
from math import inf

from ..model import Job, Obstacle, Reason, Rule
from ..sweeps import in_words
from .outlook import outlook
from .plan import ends_mono
from .reasons import Teller, must_succeed
from .words import job_list, named_command

# What is awaited has so many columns beside a list; else it is counted.
AFTER_WIDTH = 14
_RULES = {
    Rule.HELD: "it is held by hand",
    Rule.STOPPED: "it is stopped at its terminal; it keeps its place and is passed over",
    Rule.ABSENT: "its gpurun is not connected just now; it keeps its place and is passed over",
    Rule.AFTER: "it starts after others, as it was asked to (--after)",
    Rule.CAP: "its owner has as much as he may have at once",
    Rule.SWEEP: "it is a row of a sweep that runs only so many at once (%N)",
    Rule.BUSY: "it asks for whole GPUs, and a whole GPU is free only when no other job computes there",
    Rule.MEMORY: "no GPU has so much memory left beside what its jobs were promised",
    Rule.FOREIGN: "a process that was not started by gpurun uses the GPU, and is left alone",
    Rule.CLAIMED: "another gpurun has the GPU: another user's, or that of another folder of yours; each has a queue of its own",
    Rule.LEFTOVER: "a job has ended, but a process that it started still holds the GPU",
    Rule.UNHEALTHY: "nothing starts on a GPU that is not healthy",
    Rule.DRAINED: "nothing starts on a drained GPU",
    Rule.UNKNOWN: "the driver does not say how much memory is free, and what is not known counts as taken",
    Rule.UNEXPLAINED: "memory is held by a process that the driver does not name, and that counts as taken",
    Rule.JOBS_PER_GPU: "the setting jobs_per_gpu limits how many share a GPU",
    Rule.COMPUTE_MODE: "the GPU's compute mode limits who may compute there",
}


class Lister(Teller):
    """Tells reasons beside a list of jobs in the order of the line: it says the rest, and of each job what it asks for."""

    def _asks(self, reason: Reason, job: Job, *, in_line: bool = False) -> str:
        return ""

    def _held(self, job: Job) -> str:
        return f"gpurun resume {job.id} lets it go"

    def _holder(self, job_id: int) -> str:
        """A number is enough, and until when."""
        job = self._jobs.get(job_id)
        until = [] if job is None else self._until_known(job)
        return f"job {job_id} ({until[0]})" if until else f"job {job_id}"

    def _busy(self, obstacles: Sequence[Obstacle]) -> list[str]:
        """Say together who has the same GPUs, but for those that say until when, or more than that they have them."""
        told = super()._busy(obstacles)
        if len(told) == 2 and (job_ids := sorted({job_id for each in obstacles for job_id in each.job_ids})):
            first, second = (text.removeprefix(f"job {job_id} ") for text, job_id in zip(told, job_ids, strict=True))
            if first == second and first.startswith("has "):
                return [f"jobs {job_ids[0]} and {job_ids[1]} have {first.removeprefix('has ')}"]
        return told

    def _awaited_jobs(self, job: Job) -> str:
        """Say it as `--after` does: it stands where others have their place."""
        job_ids = self._view.after.get(job.id, ())
        told = self._told_awaited.get(id(job_ids))
        if told is None:
            must = must_succeed(job)
            kinds = in_words([n for n in job_ids if n not in must]), _ok(n for n in job_ids if n in must)
            told = "after " + ",".join(filter(None, kinds))
            if len(told) > AFTER_WIDTH:
                told = f"after {len(job_ids)} jobs"
            self._told_awaited[id(job_ids)] = told
        return told


def _ok(job_ids: Iterable[int]) -> str:
    runs = in_words(list(job_ids))
    return ",".join(f"ok:{run}" for run in runs.split(",")) if runs else ""


class Compact(Teller):
    """Tells reasons on a line that has little room: who is told of nobody before it is first in line."""

    def _asks(self, reason: Reason, job: Job, *, in_line: bool = False) -> str:
        return super()._asks(reason, job, in_line=in_line and reason.place > 1)


class Brief(Compact):
    """Tells them where there is no room for how long a holder has run, either."""

    def _standing(self, job: Job) -> list[str]:
        return []


class Numbers(Teller):
    """Tells reasons by numbers alone, as lists of earlier versions show them."""

    def _holder(self, job_id: int) -> str:
        return f"job {job_id}"


class Briefest(Numbers, Compact):
    """Tells them by numbers alone, on a line that has little room."""


class Storyteller(Teller):
    """Tells one job's reason in sentences, and leaves nobody out."""

    _described = 8

    def sentences(self, reason: Reason, job: Job) -> list[str]:
        """Return the rule, the holders and the earliest end, as far as there is something to say."""
        told = [f"job {job.id} ({named_command(job)}) waits: {self._rule(reason, job)}"]
        if reason.rule in (Rule.HELD, Rule.STOPPED, Rule.ABSENT):
            return told
        holders = self.sentence(reason, job)
        told.append(f"it waits for {holders}")
        end = self._earliest(reason, job)
        return [*told, end] if end else told

    def outlook(self, reason: Reason, job: Job, before: list[int]) -> list[str]:
        """Return what its place rests on and when it is expected to start, where the order goes by what jobs need."""
        return outlook(self._view, job, reason.place, before, self._now_mono, self._clock)

    def _rule(self, reason: Reason, job: Job) -> str:
        if reason.rule is Rule.BEHIND and reason.behind is not None:
            first = f"job {reason.behind}, which is before it in line"
            return f"what is free is kept for {first}, and others pass only if they cannot delay that one"
        if not self._view.gpus and self._view.fault is not None:
            return "there is no GPU to be had"
        if len(self._places(job)) < reason.gpus:
            return "there are fewer GPUs than it asks for among those that it may use"
        if reason.cannot_yield:
            return "less important jobs would make way for it, but these cannot"
        if reason.rule is Rule.FOREIGN and any(self._claim_on(each) for each in reason.obstacles):
            return _RULES[Rule.CLAIMED]
        if reason.rule is Rule.BUSY and job.request.shares:
            return "what was granted whole is shared with nobody"
        return _RULES.get(reason.rule, reason.rule.value)

    def _earliest(self, reason: Reason, job: Job) -> str:
        """Say when it can start at the earliest, judging by time limits; no end rather than a bad one."""
        mine = [each for each in reason.obstacles if each.job_ids and each.rule is not Rule.LEFTOVER]
        if not mine or any(each.at_mono is not None for each in reason.cannot_yield):
            return ""
        free = len(self._places(job)) - len(reason.obstacles)
        missing = max(1, reason.gpus - max(0, free))
        if len(mine) < missing:
            return ""
        end, holders = sorted((self._end_of(each), each.job_ids) for each in mine)[missing - 1]
        if end == inf or end <= self._now_mono:
            unlimited = sorted({number for each in mine for number in each.job_ids if self._is_unlimited(number)})
            if not unlimited:
                return ""
            return f"nobody can say until when: {job_list(unlimited)} {'has' if len(unlimited) == 1 else 'have'} no time limit"
        before = reason.place - 1
        turn = "its turn comes" if not before else f"the next turn, with {before} before it in line, comes"
        return f"{turn} by {self._clock(end)} at the latest (limit of {_named(holders)})"

    def _end_of(self, obstacle: Obstacle) -> float:
        ends = [ends_mono(self._jobs[number], self._now_mono) for number in obstacle.job_ids if number in self._jobs]
        return max(ends, default=inf)

    def _is_unlimited(self, number: int) -> bool:
        job = self._jobs.get(number)
        return job is not None and job.request.time_limit_seconds is None and ends_mono(job, self._now_mono) == inf


def _named(job_ids: Sequence[int]) -> str:
    return f"job {job_ids[0]}" if len(job_ids) == 1 else "jobs " + ", ".join(str(number) for number in job_ids)
