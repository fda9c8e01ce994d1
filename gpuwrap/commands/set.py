"""set: change what waiting jobs ask for; of running ones the time limit and the name."""

from ..errors import UsageError
from .asking import Given, World, require_jobs
from .report import report
from .request import read_request

USAGE = "set [-g N] [-m SIZE] [-i LIST] [-p N] [-t DURATION] [-w DURATION] [-N NAME] JOB..."


def main(given: Given, operands: list[str]) -> int:
    """Change every job named; exit 1 if one could not be changed."""
    words = {name: value for name, value in given.items() if name not in ("all", "sim")}
    if not words:
        raise UsageError("nothing to change", hint=f"usage: gpurun {USAGE}")
    values = read_request(words)
    require_jobs(operands, given, USAGE)
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("set", [job.id for job in jobs], **values) if jobs else []
    return report("set", done, missing)
