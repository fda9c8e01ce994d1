"""set: change what waiting jobs ask for; of running ones the time limit and the name.

What can be changed is in `options.CHANGEABLE`; how it is taken back in TAKEN_BACK.
"""

from ..errors import UsageError
from ..launch.request import read_request
from .asking import Given, World, require_jobs
from .report import report

USAGE = (
    "set [-g N] [-m SIZE|whole] [--exclusive] [-i LIST|all] [--not LIST] [-p N] [-t DURATION|none] [-w DURATION|none]"
    " [-N NAME] JOB..."
)
TAKEN_BACK = {"memory": "whole", "time": "none", "wait": "none"}


def main(given: Given, operands: list[str]) -> int:
    """Change every job named; exit 1 if one could not be changed."""
    words = {name: value for name, value in given.items() if name not in ("all", "sim")}
    if not words:
        raise UsageError("nothing to change", hint=f"usage: gpurun {USAGE}")
    back: dict[str, object] = {name: word for name, word in TAKEN_BACK.items() if words.get(name) == word}
    if "exclusive" in words and "memory" not in words:
        back["exclusive"] = True  # whether the job shares at all the arbiter knows
    elif "exclusive" in words and "memory" in back:
        raise UsageError("--exclusive: not with -m whole: GPUs are never shared then")
    values = read_request({name: value for name, value in words.items() if name not in back}) | back
    require_jobs(operands, given, USAGE)
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("set", [job.id for job in jobs], **values) if jobs else []
    return report("set", done, missing)
