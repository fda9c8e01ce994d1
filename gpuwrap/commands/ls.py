"""ls: jobs, and why they wait."""

import json
import sys
import time

from ..errors import NoSuchJob
from ..render import job_as_json, jobs_as_table, terminal_width
from .asking import Given, World


def main(given: Given, operands: list[str]) -> int:
    """List jobs; exit 1 if a job was named that is none."""
    world = World(given)
    world.repair()
    missing: list[NoSuchJob] = []
    if operands:
        jobs, missing = world.select(operands, everything=False)
    elif world.reader is not None:
        jobs = world.reader.jobs(ended="all" in given)
    else:
        jobs = []
    why = world.explain(jobs)
    if "json" in given:
        print(json.dumps({"jobs": [job_as_json(job, why.get(job.id)) for job in jobs]}))
    elif jobs:
        print("\n".join(jobs_as_table(jobs, why, time.time(), terminal_width())))
    elif not operands:
        print("no jobs")
    for err in missing:
        sys.stderr.write(f"gpurun: ls: {err.text}\n")
    return 1 if missing else 0
