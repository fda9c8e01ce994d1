"""`--after` for Slurm: which of its jobs must have ended first.

Slurm takes a job that it does not know for one that has ended well [run, 22.05]: each is looked up before.
"""

from ..errors import FAILED, GpurunError, UsageError
from ..units import split_jobs
from .engine import Slurm
from .names import Name, read_name


def dependency(text: str, engine: Slurm) -> str | None:
    """Return what `--dependency` takes, None if all have ended already. Raises UsageError, and GpurunError (125)."""
    parts = []
    for word in text.split(","):
        for job in split_jobs(word):
            must_succeed, _, name = job.rpartition(":")
            if must_succeed not in ("", "ok"):
                raise UsageError(f"after {job}: {must_succeed}: not understood: JOB, or ok:JOB")
            kind = "afterok" if must_succeed else "afterany"
            found = read_name(name)
            if found is None:
                raise UsageError(f"--on slurm: after {name}: not a job of Slurm's (s4711)")
            parts += _part(kind, found, engine)
    return ",".join(parts) or None


def _part(kind: str, name: Name, engine: Slurm) -> list[str]:
    jobs = engine.look_up(name.number)
    if not jobs:
        raise GpurunError(f"after {name}: no such job in Slurm, and nothing of it in our record", status=FAILED)
    if any(job.state != "ended" for job in jobs):
        return [f"{kind}:{name.number}"]
    if kind == "afterok":
        failed = next((job for job in jobs if job.status != 0), None)
        if failed is not None:
            raise GpurunError(f"after ok:{name}: it ended: {failed.result}", status=FAILED)
    return []
