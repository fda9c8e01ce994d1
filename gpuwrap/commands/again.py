"""again: run ended jobs' commands again, from here: this folder, this environment, the options they were started with.

It becomes an ordinary launch by exec, so everything about a launch holds; of several jobs each has a launch of its own, at
the same time, and we wait for all. What the job waited for (--after) has ended and is
not repeated; for how long, how loud and with what status to give up (-n, -w, -E, -q, -v) is a matter of whoever types. Where
the output goes, too, unless the job was told to write to a file (-o) or ran in the background.
"""

import os
import sys
from typing import NoReturn

from ..accounts.sums import has_failed
from ..errors import SOME_FAILED, GpurunError
from ..launch.output import default_output
from ..launch.program import ignored_by_caller, restore_python_signals, set_environment
from ..model import GiveWay, Job
from .asking import Given, World, require_jobs

USAGE = "again [--failed] JOB..."


def main(given: Given, operands: list[str]) -> int:
    """Become the launch, or the parent of several: the first status in their order that is not 0.

    Raises GpurunError if there is one job, and it has not ended.
    """
    require_jobs(operands, given, USAGE)
    world = World(given)
    world.repair()
    jobs, missing = world.select(operands, ended=True)
    faults: list[GpurunError] = [*missing]
    if "failed" in given:
        jobs = [job for job in jobs if has_failed(job)]
        if not jobs and not faults:
            sys.stderr.write("gpurun: again: none of these has failed\n")
            return 0
    faults += [GpurunError(f"job {job.id}: has not ended: it is {job.state.value}") for job in jobs if not job.has_ended]
    jobs = [job for job in jobs if job.has_ended]
    if len(jobs) + len(faults) == 1:
        if faults:
            raise faults[0]
        _become(world, given, jobs[0])
    for fault in faults:
        sys.stderr.write(f"gpurun: again: {fault.text}\n")
    sys.stderr.flush()
    pids = [os.fork() or _become(world, given, job) for job in jobs]
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    statuses = [status if status >= 0 else 128 - status for status in ends]
    return next((status for status in statuses if status), SOME_FAILED if faults else 0)


def _become(world: World, given: Given, job: Job) -> NoReturn:
    assert world.folder is not None
    words = options_of(job, default_output(world.folder))
    if "sim" in given:
        words += ["--sim", str(given["sim"])]
    with open("/proc/self/cmdline", "rb") as file:
        entries = file.read().split(b"\0")[:-1]
    command = [os.fsencode(sys.executable), *entries[1 : len(entries) - len(sys.argv) + 1]]
    sys.stdout.flush()
    restore_python_signals(ignored_by_caller())
    set_environment({}, None)
    if job.row is not None:
        os.putenv("GPURUN_INDEX", str(job.row.index))
    os.execv(sys.executable, [*command, *(os.fsencode(word) for word in words), b"--", *job.argv])


def options_of(job: Job, default: str) -> list[str]:
    """Write the options with which a job was started, as far as they still mean something."""
    request = job.request
    words = ["-g", str(request.gpus)]
    if request.memory_bytes is not None:
        words += ["-m", f"{request.memory_bytes / 1024!r}K"]
    if request.memory_percent is not None:
        words += ["-m", f"{request.memory_percent!r}%"]
    words += ["--exclusive"] if request.exclusive else []
    words += ["-i", ",".join(sorted(request.allowed))] if request.allowed is not None else []
    words += ["-p", str(job.priority)] if job.priority else []
    words += ["-t", f"{request.time_limit_seconds!r}s"] if request.time_limit_seconds is not None else []
    words += ["--expect", f"{job.expect_seconds!r}s"] if job.expect_seconds is not None else []
    words += ["--give-way", request.give_way.value] if request.give_way is not GiveWay.PAUSE else []
    words += ["--signal", job.signals] if job.signals is not None else []
    words += ["--retries", str(job.retries)] if job.retries else []
    words += ["--once", job.once] if job.once is not None else []
    named = job.name is not None and not (job.row is not None and job.name == f"sweep-{job.row.sweep}")
    words += ["-N", str(job.name)] if named else []
    words += ["-d"] if job.detached else []
    if job.output is not None and os.fsdecode(job.output) != default and job.output_asked:
        words += ["-o", os.fsdecode(job.output)]
    return words
