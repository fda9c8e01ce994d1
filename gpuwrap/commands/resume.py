"""resume: let held and paused jobs go on."""

from .asking import Given, World, require_jobs
from .report import report


def main(given: Given, operands: list[str]) -> int:
    """Let held and paused jobs go on; exit 1 if one could not be resumed."""
    require_jobs(operands, given, "resume JOB...")
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("resume", [job.id for job in jobs]) if jobs else []
    return report("resume", done, missing)
