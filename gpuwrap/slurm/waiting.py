"""`wait` and `logs` for jobs of Slurm's."""

import sys
import time

from ..commands.asking import Given, read_lines
from ..errors import SOME_FAILED, GpurunError, printable
from ..stdout import put
from . import tools
from .engine import Slurm
from .following import ASK_SECONDS, FIRST_ASK_SECONDS, LOOK_SECONDS, PIECE, logs_of
from .names import Name
from .reading import SlurmJob


def wait(_given: Given, names: list[Name], engine: Slurm) -> int:
    """Wait until all have ended; the first status that is not 0, in the order named."""
    left = list(names)
    known: dict[str, list[SlurmJob]] = {}
    pause = FIRST_ASK_SECONDS
    while left:
        for name in list(left):
            try:
                jobs = _of(name, engine)
            except tools.SlurmDown:
                break  # it goes on; what has ended is known when it is back
            if not jobs or all(job.state == "ended" for job in jobs):
                known[str(name)] = jobs
                left.remove(name)
        if left:
            time.sleep(pause)
            pause = min(ASK_SECONDS, pause * 2)
    status = 0
    for name in names:
        for each in [_status(name, job) for job in known[str(name)]] or [_nobody(name)]:
            status = status or each
    return status


def _of(name: Name, engine: Slurm) -> list[SlurmJob]:
    return [job for job in engine.look_up(name.number) if name.holds(job.index) or job.index.startswith("[")]


def _nobody(name: Name) -> int:
    sys.stderr.write(f"gpurun: wait: {name}: no such job\n")
    return SOME_FAILED


def _status(name: Name, job: SlurmJob) -> int:
    if job.status is None or job.raw == "UNKNOWN":
        sys.stderr.write(f"gpurun: wait: {name}: Slurm knows it no more, and nobody saw how it ended: unknown\n")
        return SOME_FAILED
    if job.status == 0 and job.raw not in ("COMPLETED", ""):
        sys.stderr.write(f"gpurun: wait: {name}: {job.result}\n")
        return 143 if job.raw in ("CANCELLED", "TIMEOUT", "PREEMPTED") else SOME_FAILED
    if job.raw not in ("COMPLETED", "FAILED", "CANCELLED"):
        sys.stderr.write(f"gpurun: wait: {name}: {job.result}\n")
    return job.status


def logs(given: Given, names: list[Name], engine: Slurm) -> int:
    """Show what jobs wrote; with -f until they have ended."""
    lines, follow = read_lines(given), "follow" in given
    status = 0
    for name in names:
        found = logs_of(name.number, name.rows if name.rows.isdigit() else "")
        found = [(job, path) for job, path in found if name.holds(job.partition("_")[2]) or "_" not in job]
        if not found and not (follow and _lives(name, engine)):
            says = "has written nothing so far" if _has_log(name) else "wrote to its own terminal or pipe: nothing is kept"
            sys.stderr.write(f"gpurun: logs: {name}: {says}\n")
            status = SOME_FAILED
            continue
        several = len(found) > 1 or len(names) > 1
        for job, path in found:
            status = max(status, _show(f"s{job}", path, lines, several=several, until=(name, engine) if follow else None))
    return status


def _has_log(name: Name) -> bool:
    from . import record

    entry = record.read(name.number)
    return entry is not None and entry.log is not None


def _lives(name: Name, engine: Slurm) -> bool:
    try:
        return any(job.state != "ended" for job in _of(name, engine))
    except GpurunError:
        return False


def _show(job: str, path: str, lines: int | None, *, several: bool, until: tuple[Name, Slurm] | None) -> int:
    prefix = f"{job}: ".encode() if several else b""
    at, ask_mono, pause, rest = 0, 0.0, FIRST_ASK_SECONDS, b""
    lives = until is not None
    while True:
        if until is not None and time.monotonic() >= ask_mono:
            lives = _lives(*until)  # asked before the file is read: what was written before the end is there then
            ask_mono, pause = time.monotonic() + pause, min(ASK_SECONDS, pause * 2)
        try:
            with open(path, "rb") as file:
                if at == 0 and lines is not None:
                    text = file.read()
                    kept = text.splitlines(keepends=True)[-lines:] if lines else []
                    at = len(text) - sum(map(len, kept))
                file.seek(at)
                while piece := file.read(PIECE):
                    at += len(piece)
                    if not prefix:
                        put(piece)
                        continue
                    text = rest + piece
                    whole, end, rest = text.rpartition(b"\n")
                    if end:
                        put(prefix + whole.replace(b"\n", b"\n" + prefix) + b"\n")
        except FileNotFoundError:
            if not lives:
                sys.stderr.write(f"gpurun: logs: {job}: has written nothing: {printable(path)}\n")
                return SOME_FAILED
        except OSError as err:
            sys.stderr.write(f"gpurun: logs: cannot read: {printable(path)}: {str(err.strerror).lower()}\n")
            return SOME_FAILED
        if not lives:
            if rest:
                put(prefix + rest + b"\n")
            return 0
        time.sleep(LOOK_SECONDS)
