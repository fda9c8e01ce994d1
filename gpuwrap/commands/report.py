"""How verbs on many jobs report: what was done on stdout, what could not be done on stderr, then 1 if anything failed."""

import sys
from typing import Any

from ..errors import SOME_FAILED, NoSuchJob


def report(verb: str, done: list[Any], missing: list[NoSuchJob]) -> int:
    """Print a line for each job. `done` holds [number, whether it was done, what was done or why not]."""
    for job_id, well, text in done:
        if well:
            print(f"job {job_id}: {text}")
    sys.stdout.flush()
    failed = [f"job {job_id}: {text}" for job_id, well, text in done if not well] + [err.text for err in missing]
    for text in failed:
        sys.stderr.write(f"gpurun: {verb}: {text}\n")
    return SOME_FAILED if failed else 0
