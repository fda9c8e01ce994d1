"""pause: hold waiting jobs in line, and make running ones stand still."""

from .asking import Given, World, require_jobs
from .report import report


def main(given: Given, operands: list[str]) -> int:
    """Hold waiting jobs in line, and make running ones stand still; exit 1 if one could not be paused."""
    require_jobs(operands, given, "pause JOB...")
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("pause", [job.id for job in jobs]) if jobs else []
    return report("pause", done, missing)
