"""Records to tables and JSON.

1. The JSON's keys are frozen surface: only ever added to; absent is null; never cut, never coloured.
2. In tables nothing of a user's text reaches the terminal raw.
3. How rows become lines is decided in tables.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from time import localtime, strftime
from typing import Any

from .lifecycle import IN_LINE, JobState
from .model import Job, ResultKind
from .policy.words import command, safe
from .tables import Screen, Table, draw
from .units import format_duration, format_of, format_size

Why = tuple[str, str, list[str]]

# As many alike rows are shown as one.
FOLDED = 3
# Programs whose first script, module or code says what is run.
INTERPRETERS = (
    "python", "pypy", "bash", "sh", "dash", "zsh", "perl", "ruby", "node", "julia", "Rscript", "torchrun", "accelerate",
    "deepspeed", "env", "uv", "conda", "srun", "mpirun", "nice", "timeout", "time",
)  # fmt: skip
SCRIPTS = (".py", ".sh", ".pl", ".rb", ".js", ".jl", ".R", ".r", ".pyz")
_RED, _GREEN, _YELLOW, _CYAN = "31", "32", "33", "36"
_COLOURS = {
    JobState.RUNNING: _GREEN,
    JobState.GRANTED: _GREEN,
    JobState.WAITING: _YELLOW,
    JobState.HELD: _CYAN,
    JobState.PAUSED: _CYAN,
    JobState.SUSPENDED: _CYAN,
    JobState.STOPPING: _RED,
}


def job_as_json(job: Job, why: Why | None) -> dict[str, Any]:
    """One job of `ls --json`."""
    result = job.result
    in_line = job.state in IN_LINE
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
        "sweep": None if job.row is None else {"id": job.row.sweep, "index": job.row.index, "limit": job.row.limit},
        "why": None if why is None else {"rule": why[0], "text": why[1]},
    }


def timestamp(at: float | None) -> str | None:
    """RFC 3339 in local time with its offset."""
    if at is None:
        return None
    from datetime import datetime  # 5 ms, and only JSON needs it

    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


def jobs_as_table(
    rows: Sequence[list[Job]], fetch_why: Callable[[], Mapping[int, Why]], now_at: float, screen: Screen
) -> list[str]:
    """Lines of `ls`: a header and each row, alike jobs in one; reasons beside them or below.

    The reasons are fetched when the rest is made: who tells them may need as long.
    """
    users = {job.user for row in rows for job in row}
    cells = [_cells(row, now_at, several_users=len(users) > 1) for row in rows]
    header = ["JOB", "STATE", "PRIO↑", "GPU", "MEM", "TIME", *(["USER"] if len(users) > 1 else []), "COMMAND"]
    colours = [_colour_of(row[0]) for row in rows]
    why = fetch_why()
    spare = ("MEM", "TIME", "PRIO↑", "USER", "GPU")
    return draw(Table(header, cells, colours, ("JOB", "PRIO↑"), spare, [_reason(row, why) for row in rows]), screen)


def fold(jobs: Iterable[Job]) -> list[list[Job]]:
    """Put alike jobs together, where there are at least `FOLDED` of them; in order of the first of each row."""
    alike: dict[object, list[Job]] = {}
    for job in jobs:
        result = job.result
        if job.row is not None:
            alike.setdefault((job.row.sweep, state_words(job), job.priority), []).append(job)
            continue
        how = None if result is None else (result.kind, result.code, result.signal, result.text)
        where = () if job.state in IN_LINE or job.state is JobState.ENDED else tuple(share.uuid for share in job.shares)
        key = (job.state, job.priority, _asked(job), where, how, job.user, job.parent_id, _stem(job.name), _head(job.argv))
        alike.setdefault(key, []).append(job)
    rows = [row for group in alike.values() for row in ([group] if _folds(group) else [[job] for job in group])]
    return sorted(rows, key=lambda row: row[0].id)


def _folds(alike: list[Job]) -> bool:
    return len(alike) >= FOLDED or alike[0].row is not None


def _stem(name: str | None) -> str:
    """What the names of a sweep have in common: `lr` of `lr-1e-3`."""
    text = name or ""
    return text[: next((at for at, letter in enumerate(text) if letter in "-_.=:0123456789"), len(text))]


def _asked(job: Job) -> tuple[object, ...]:
    """A request as plain values: hashing a Request hashes its enum, which is Python code."""
    request = job.request
    return (
        request.gpus, request.memory_bytes, request.memory_percent, request.exclusive, request.allowed,
        request.give_way.value, request.time_limit_seconds,
    )  # fmt: skip


def _head(argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """A command up to its arguments: the program, and what an interpreter is given to run."""
    program = argv[0].rpartition(b"/")[2].decode("ascii", "replace").rstrip("0123456789.")
    if program not in INTERPRETERS:
        return argv[:1]
    for at, word in enumerate(argv[1:], 1):
        if word in (b"-m", b"-c"):
            return argv[: at + 2]
        if word.endswith(tuple(suffix.encode() for suffix in SCRIPTS)):
            return argv[: at + 1]
    return argv[:1]


def _cells(row: list[Job], now_at: float, *, several_users: bool) -> list[str]:
    job = row[0]
    number = str(job.id) if len(row) == 1 else f"{job.id}-{row[-1].id}"
    what = _command_of(row)
    user = [safe(job.user, 16)] if several_users else []
    return [number, state_words(job), str(job.priority), _gpus(row), _memory(job), _time(job, now_at), *user, what]


def _command_of(row: list[Job]) -> str:
    job = row[0]
    if len(row) == 1:
        index = "" if job.row is None else f"[{job.row.index}]"
        return safe(job.name, 30) + index + ": " + command(job.argv) if job.name else command(job.argv)
    same = list(job.argv)
    for other in row[1:]:
        same = same[: next((at for at, (a, b) in enumerate(zip(same, other.argv, strict=False)) if a != b), len(other.argv))]
    text = command(tuple(same)) if same else "…"
    if any(len(other.argv) != len(same) for other in row) and not text.endswith("…"):
        text += " …"
    name = _name_of(row)
    return f"{len(row)}×  " + (f"{name}: {text}" if name else text)


def _name_of(row: list[Job]) -> str:
    """The name of alike jobs: one, or a glob that `kill` and others take; none if they have no beginning in common."""
    names = [job.name for job in row if job.name]
    if len(names) < len(row):
        return ""
    least, most = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    first: str = least[:same]
    return safe(first, 30) + ("" if len(set(names)) == 1 else "*") if first else ""


def state_words(job: Job) -> str:
    """A job's state in a word; of one that ended, how."""
    if job.state is not JobState.ENDED or job.result is None:
        return job.state.value
    result = job.result
    if result.kind is ResultKind.SIGNAL and result.signal is not None:
        return f"signal {result.signal}"
    if result.kind is ResultKind.EXIT:
        return f"exit {result.code}"
    return str(result.kind.value)


def _reason(row: list[Job], why: Mapping[int, Why]) -> str:
    job = row[0]
    if job.state is JobState.ENDED and job.id in why:
        return why[job.id][1]
    if job.state is JobState.ENDED:
        text = job.result.text if job.result is not None else None
        at = strftime("%H:%M ", localtime(job.ended_at)) if job.ended_at and text else ""
        return at + safe(text, 80) if text else ""
    told = why.get(job.id)
    if told is None:
        return ""
    return f"first: {told[1]}" if len(row) > 1 and told[0] not in ("held", "stopped") else told[1]


def _colour_of(job: Job) -> str:
    if job.state is not JobState.ENDED:
        return _COLOURS.get(job.state, "")
    return "" if job.result is not None and job.result.code == 0 else _RED


def _gpus(row: list[Job]) -> str:
    """The GPUs of a row, all of them if it is a sweep's, or what it asks for; nothing where ended ones had different GPUs."""
    job = row[0]
    request = job.request
    if not request.gpus:
        return "none"
    if job.state not in IN_LINE and job.shares:
        if job.state is JobState.ENDED and any(other.shares != job.shares for other in row[1:]):
            return ""
        return ",".join(map(str, sorted({share.index for each in row for share in each.shares})))
    if request.allowed is not None:
        return f"{request.gpus} of {len(request.allowed)}"
    return "any" if request.gpus == 1 else f"any {request.gpus}"


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


# --- history ----------------------------------------------------------------------------------------------------


def history_as_json(job: Job, log: bytes | None) -> dict[str, Any]:
    """One job of `history --json`: that of `ls`, and how long it waited and ran, and the file of its output."""
    waited, ran = _spans(job)
    more = {"waited_seconds": waited, "ran_seconds": ran}
    return job_as_json(job, None) | more | {"output": None if log is None else log.decode("utf-8", "surrogateescape")}


def history_as_table(jobs: Sequence[Job], logs: Set[int], now_at: float, screen: Screen) -> list[str]:
    """Lines of `history`; `logs` are the jobs whose output is kept."""
    header = ["JOB", "RESULT", "ENDED", "WAITED", "RAN", "PEAK", "GAVE WAY", "LOG", "COMMAND"]
    rows = []
    for job in jobs:
        waited, ran = _spans(job)
        rows.append([
            str(job.id), state_words(job), _moment(job.ended_at, now_at), format_duration(waited),
            "" if ran is None else format_duration(ran), "" if job.peak_bytes is None else format_size(job.peak_bytes),
            f"{job.times_given_way}×" if job.times_given_way else "", "yes" if job.id in logs else "", _command_of([job]),
        ])  # fmt: skip
    spare = ("PEAK", "GAVE WAY", "LOG", "WAITED", "ENDED", "RAN")
    return draw(Table(header, rows, [_colour_of(job) for job in jobs], ("JOB",), spare), screen)


def _spans(job: Job) -> tuple[float, float | None]:
    """How long a job waited for its (last) start, and how long it ran from there."""
    end = job.ended_at or job.submitted_at
    started = job.started_at
    return max(0.0, (started or end) - job.submitted_at), None if started is None else max(0.0, end - started)


def _moment(at: float | None, now_at: float) -> str:
    if at is None:
        return ""
    same_day = localtime(at)[:3] == localtime(now_at)[:3]
    return strftime("%H:%M" if same_day else "%d %b %H:%M", localtime(at))


# --- GPUs -------------------------------------------------------------------------------------------------------

GPU_KEYS = ("index", "uuid", "name", "total_bytes", "free_bytes", "state", "jobs", "foreign", "claim")


def gpu_as_json(gpu: Mapping[str, Any]) -> dict[str, Any]:
    """One GPU of `gpus --json`, of what the arbiter told of it."""
    return {key: gpu[key] for key in GPU_KEYS}


def gpus_as_table(gpus: Sequence[Mapping[str, Any]], screen: Screen) -> list[str]:
    """Lines of `gpus`: a header and a row for each GPU; each of its users has a line, in a pipe they share one."""
    header, rows, codes = ["GPU", "NAME", "FREE", "USED BY"], [], []
    for gpu in gpus:
        notes = [safe(note, 200) for note in gpu["notes"]] or ["free"]
        if screen.width is None:
            notes = ["; ".join(notes)]
        rows.append([str(gpu["index"]), safe(gpu["name"], 30), _free(gpu), notes[0]])
        rows += [["", "", "", note] for note in notes[1:]]
        codes += [_GREEN if gpu["state"] == "free" else _RED if gpu["state"] == "unhealthy" else ""] * len(notes)
    return draw(Table(header, rows, codes, ("GPU",), ("NAME",)), screen)


def _free(gpu: Mapping[str, Any]) -> str:
    free, total = gpu["free_bytes"], gpu["total_bytes"]
    if free is None or total is None:
        return "unknown" if total is None else f"? of {format_size(total)}"
    return format_of(free, total)
