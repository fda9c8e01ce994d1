"""kill: end jobs, waiting or running."""

import signal

from ..errors import UsageError
from .asking import Given, World, require_jobs
from .report import report


def main(given: Given, operands: list[str]) -> int:
    """End every job named; exit 1 if one could not be ended."""
    require_jobs(operands, given, "kill [-s SIGNAL] JOB...")
    number = signal_number(str(given["signal"])) if "signal" in given else None
    world = World(given)
    jobs, missing = world.select(operands, everything="all" in given)
    done = world.ask_about("kill", [job.id for job in jobs], signal=number) if jobs else []
    return report("kill", done, missing)


def signal_number(text: str) -> int:
    """Read a signal as kill(1) does: KILL, SIGKILL, 9. Raises UsageError."""
    word = text.upper()
    if word.isdigit() and 0 < int(word) < signal.NSIG:
        return int(word)
    try:
        return int(signal.Signals["SIG" + word.removeprefix("SIG")])
    except KeyError:
        raise UsageError(f"signal {text}: no such signal") from None
