"""What a list of jobs is told at once: the order in which they will be served, and why each of them waits.

Of a long line most wait for the same: each reason is written once, and the line says by number which of them holds for whom.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from types import MappingProxyType

from ...model import Job, Plan
from ...sweeps import in_words

NOTHING: Mapping[int, float] = MappingProxyType({})
# The rule, the sentence, and what would help.
Words = tuple[str, str, list[str]]


def lined_up(
    plans: Mapping[int | None, Plan],
    in_line: Mapping[int, Job],
    live: Iterable[Job],
    explain: Callable[[Job], Words | None] | None,
    starts: Mapping[int, float] = NOTHING,
) -> str:
    """Return the answer to `line`, in lines whose fields stand between tabs; without `explain` it tells no reasons.

    `queue`, whose (the job inside which it waits, or nothing), its jobs as they will be served, which reason each has as
    `count*number` · `reason`, rule, sentence, in the order of their numbers · `job`, number, rule, sentence: of one that does
    not wait and is told of all the same · `starts`, `job:seconds`…: in how long those are expected to start of whom that can be
    said.
    """
    known: dict[tuple[str, str], int] = {}
    planned: set[int] = set()
    lines = []
    for parent_id, plan in plans.items():
        jobs = [job for job_id in plan.reasons if (job := in_line.get(job_id)) is not None]
        numbers = []
        for job in jobs if explain is not None else ():
            words = explain(job) if explain is not None else None
            numbers.append(known.setdefault(words[:2] if words is not None else ("", ""), len(known)))
        job_ids = [job.id for job in jobs]
        planned.update(job_ids)
        lines.append("\t".join(("queue", "" if parent_id is None else str(parent_id), in_words(job_ids), _runs(numbers))))
    lines += ["\t".join(("reason", *words)) for words in known]
    for job in live if explain is not None else ():
        words = explain(job) if job.id not in planned and explain is not None else None
        if words is not None:
            lines.append("\t".join(("job", str(job.id), *words[:2])))
    if starts:
        lines.append("\t".join(("starts", *(f"{job_id}:{seconds:.0f}" for job_id, seconds in starts.items()))))
    return "\n".join(lines)


def _runs(numbers: Iterable[int]) -> str:
    return " ".join(f"{len(list(run))}*{number}" for number, run in groupby(numbers))
