"""renice: change the priority of jobs, at once."""

import sys

from ..errors import UsageError
from ..options import nearest
from ..units import PRIORITY_WORDS, parse_integer, parse_priority
from .asking import Given, World, require_jobs
from .report import report

USAGE = "renice PRIORITY JOB... (or: renice --by N JOB...)"


def main(given: Given, operands: list[str]) -> int:
    """Change every job named; exit 1 if one could not be changed."""
    values: dict[str, int] = {}
    if "by" in given:
        step = parse_integer(str(given["by"]))
        if step is None:
            raise UsageError(f"--by {given['by']}: not a number")
        values["by"] = step
    else:
        if not operands:
            raise UsageError("PRIORITY missing", hint=f"usage: gpurun {USAGE}")
        _refuse_swapped(operands)
        values["priority"] = parse_priority(operands.pop(0))
    require_jobs(operands, given, USAGE)
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("renice", [job.id for job in jobs], **values) if jobs else []
    status = report("renice", done, missing)
    if missing and "by" not in given:
        sys.stderr.write(f"usage: gpurun {USAGE}\n")
    return status


def _refuse_swapped(operands: list[str]) -> None:
    """Say so if the job came before the priority; of two numbers nobody can tell, but the echo shows what was done."""
    first, last = operands[0], operands[-1]
    mistyped = parse_integer(first) is not None or nearest(first.lower(), list(PRIORITY_WORDS)) is not None
    if len(operands) > 1 and not mistyped and not _is_priority(first) and _is_priority(last):
        jobs = " ".join(operands[:-1])
        raise UsageError(f"priority {first}: the priority comes first: gpurun renice {last} {jobs}")


def _is_priority(word: str) -> bool:
    try:
        parse_priority(word)
    except UsageError:
        return False
    return True
