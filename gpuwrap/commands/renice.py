"""renice: change the priority of jobs, at once."""

from ..errors import UsageError
from ..units import parse_integer, parse_priority
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
        values["priority"] = parse_priority(operands.pop(0))
    require_jobs(operands, given, USAGE)
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("renice", [job.id for job in jobs], **values) if jobs else []
    status = report("renice", done, missing)
    if missing and "by" not in given:
        import sys

        sys.stderr.write(f"usage: gpurun {USAGE}\n")
    return status
