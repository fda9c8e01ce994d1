"""Records to tables and JSON.

1. The JSON's keys are frozen surface: only ever added to; absent is null; never cut, never coloured.
2. In tables nothing of a user's text reaches the terminal raw.
"""

import os
from datetime import datetime
from typing import Any

from .lifecycle import JobState
from .model import Job
from .policy.reasons import command, safe
from .units import format_duration, format_size

Why = tuple[str, str, list[str]]


def job_as_json(job: Job, why: Why | None) -> dict[str, Any]:
    """One job of `ls --json`."""
    result = job.result
    in_line = job.state in (JobState.WAITING, JobState.HELD)
    return {
        "id": job.id,
        "name": job.name,
        "user": job.user,
        "state": job.state.value,
        "priority": job.priority,
        "gpus": job.request.gpus,
        "memory_bytes": job.request.memory_bytes,
        "exclusive": job.request.exclusive,
        "give_way": job.request.give_way.value,
        "devices": [] if in_line else [{"index": s.index, "uuid": s.uuid, "bytes": s.bytes} for s in job.shares],
        "pid": job.identity.pid,
        "argv": [word.decode("utf-8", "surrogateescape") for word in job.argv],
        "cwd": job.cwd.decode("utf-8", "surrogateescape"),
        "submitted_at": timestamp(job.submitted_at),
        "started_at": timestamp(job.started_at),
        "ended_at": timestamp(job.ended_at),
        "attempt": job.attempt,
        "times_given_way": job.times_given_way,
        "peak_bytes": job.peak_bytes,
        "result": None
        if result is None
        else {"kind": result.kind.value, "code": result.code, "signal": result.signal, "text": result.text},
        "why": None if why is None else {"rule": why[0], "text": why[1]},
    }


def timestamp(at: float | None) -> str | None:
    """RFC 3339 in local time with its offset."""
    return None if at is None else datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


def jobs_as_table(jobs: list[Job], why: dict[int, Why], now_at: float, width: int | None) -> list[str]:
    """Lines of `ls`: a header and a line a job; cut to `width` columns, None for a pipe: never cut."""
    rows: list[tuple[str, ...]] = [("JOB", "STATE", "PRIO↑", "GPUS", "MEM", "TIME", "COMMAND")]
    rows += [_job_row(job, why.get(job.id), now_at) for job in jobs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    numeric = (0, 2)
    lines = []
    for row in rows:
        cells = [
            cell.rjust(widths[column]) if column in numeric else cell.ljust(widths[column])
            for column, cell in enumerate(row[:-1])
        ]
        line = "  ".join([*cells, row[-1]]).rstrip()
        lines.append(line if width is None or len(line) <= width else line[: max(1, width - 1)] + "…")
    return lines


def _job_row(job: Job, why: Why | None, now_at: float) -> tuple[str, ...]:
    in_line = job.state in (JobState.WAITING, JobState.HELD)
    if in_line or not job.shares:
        gpus = f"{job.request.gpus}×" if job.request.gpus else "none"
    else:
        gpus = ",".join(str(share.index) for share in job.shares)
    what = safe(job.name, 30) + ": " + command(job.argv) if job.name else command(job.argv)
    if in_line and why is not None:
        what += f"  ({why[1]})"
    elif job.state is JobState.ENDED:
        what += f"  ({result_words(job)})"
    return (str(job.id), job.state.value, str(job.priority), gpus, _memory(job), _time(job, now_at), what)


def _memory(job: Job) -> str:
    if job.request.memory_bytes is not None:
        return format_size(job.request.memory_bytes)
    if job.request.memory_percent is not None:
        return f"{job.request.memory_percent:g}%"
    return "whole" if job.request.gpus else ""


def _time(job: Job, now_at: float) -> str:
    if job.state is JobState.ENDED:
        return format_duration((job.ended_at or 0) - job.started_at) if job.started_at else ""
    return format_duration(now_at - (job.started_at or job.submitted_at))


def result_words(job: Job) -> str:
    """How a job ended, in a few words."""
    result = job.result
    if result is None:
        return "ended"
    if result.signal is not None and result.kind.value == "signal":
        words = f"signal {result.signal}"
    elif result.code is not None:
        words = f"exit {result.code}"
    else:
        words = result.kind.value
    return f"{words}, {safe(result.text, 60)}" if result.text else words


def terminal_width() -> int | None:
    """Columns of the terminal on stdout, None if it is none."""
    if not os.isatty(1):
        return None
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
