"""Records to JSON and tables; the table of `ls` is in listing.

1. The JSON's keys are frozen surface: only ever added to; absent is null; never cut, never coloured.
2. In tables nothing of a user's text reaches the terminal raw.
3. How rows become lines is decided in tables.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from .clocks import Now, span
from .lifecycle import IN_LINE
from .listed import Listed
from .listing import GREEN, RED, colour_of, command_of, moment
from .listing import state_words as words_of_state
from .model import Job
from .policy.words import cause_of_end, safe, signal_name
from .tables import Screen, Table, draw
from .units import format_duration, format_of, format_size
from .widths import cut

LOG_WIDTH = 24
Why = tuple[str, str, list[str]]


def job_as_json(job: Job, why: Why | None, place: int | None = None) -> dict[str, Any]:
    """One job of `ls --json`; `place` is where it stands in its line, from 1."""
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
        "place": place,
    }


def state_words(job: Job) -> str:
    """A job's state in a word; of one that ended, how."""
    return words_of_state(Listed.of(job))


def timestamp(at: float | None) -> str | None:
    """RFC 3339 in local time with its offset."""
    if at is None:
        return None
    from datetime import datetime  # 5 ms, and only JSON needs it

    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


# --- history ----------------------------------------------------------------------------------------------------


def history_as_json(job: Job, log: bytes | None) -> dict[str, Any]:
    """One job of `history --json`: that of `ls`, and how long it waited and ran, and the file of its output."""
    waited, ran = _spans(job)
    more = {"waited_seconds": waited, "ran_seconds": ran}
    return job_as_json(job, None) | more | {"output": None if log is None else log.decode("utf-8", "surrogateescape")}


def history_as_table(jobs: Sequence[Job], logs: Mapping[int, str], now: Now, screen: Screen) -> list[str]:
    """Lines of `history`; `logs` says where the output of jobs is kept."""
    gave_way = ["GAVE WAY"] if any(job.times_given_way for job in jobs) else []
    header = ["JOB", "RESULT", "ENDED", "WAITED", "RAN", "PEAK", *gave_way, "LOG", "COMMAND"]
    rows, codes = [], []
    for job in jobs:
        waited, ran = _spans(job)
        listed = Listed.of(job)
        codes.append(colour_of(listed))
        rows.append([
            str(job.id), _result(listed), moment(job.ended_at, now.at) if job.ended_at else "", format_duration(waited),
            "" if ran is None else format_duration(ran), "" if job.peak_bytes is None else format_size(job.peak_bytes),
            *(f"{job.times_given_way}×" if job.times_given_way else "" for _ in gave_way),
            _log(logs.get(job.id, ""), screen), command_of(listed),
        ])  # fmt: skip
    spare = ("PEAK", "GAVE WAY", "LOG", "WAITED", "ENDED", "RAN")
    return draw(Table(header, rows, codes, ("JOB",), spare), screen)


def _result(job: Listed) -> str:
    """How a job ended, and what ended it if it was not its owner."""
    cause = cause_of_end(job.result_text) if job.result_kind in ("exit", "signal") else ""
    if not cause:
        return words_of_state(job)
    how = words_of_state(job) if job.result_signal is None else f"SIG{signal_name(job.result_signal)}"
    return f"{how}, {cause}"


def _spans(job: Job) -> tuple[float, float | None]:
    """How long a job waited for its (last) start, and how long it ran from there."""
    submitted, ended = (job.submitted_at, job.submitted_mono), (job.ended_at or job.submitted_at, job.ended_mono)
    if job.started_at is None:
        return span(submitted, ended), None
    started = job.started_at, job.started_mono
    return span(submitted, started), span(started, ended)


def _log(where: str, screen: Screen) -> str:
    """Where the output is kept; of a long path a terminal has room for the end."""
    where = safe(where, 200)
    return where if screen.width is None else cut(where[::-1], LOG_WIDTH)[::-1]


# --- GPUs -------------------------------------------------------------------------------------------------------

GPU_KEYS = ("index", "uuid", "name", "total_bytes", "free_bytes", "state", "jobs", "foreign", "claim", "load")


def gpu_as_json(gpu: Mapping[str, Any]) -> dict[str, Any]:
    """One GPU of `gpus --json`, of what the arbiter told of it."""
    return {key: gpu.get(key) for key in GPU_KEYS}  # an arbiter that is older than we knows fewer


def gpus_as_table(
    gpus: Sequence[Mapping[str, Any]], screen: Screen, *, brief: bool = False, bars: bool = False
) -> list[str]:
    """Lines of `gpus`: a header and a row for each GPU; each of its users has a line, in a pipe (or `brief`) they share one.

    `bars` draws how much of the memory is used and how busy it is, and leaves the name out.
    """
    loads = {gpu["uuid"]: load_words(gpu) for gpu in gpus}
    load = ["LOAD"] if any(text != UNKNOWN_LOAD for text in loads.values()) else []
    if bars:
        loads = {gpu["uuid"]: _busy_bar(gpu) + loads[gpu["uuid"]] for gpu in gpus}
    header, rows, codes = ["GPU", "MEMORY" if bars else "NAME", "FREE", *load, "USED BY"], [], []
    for gpu in gpus:
        notes = [safe(note, 200) for note in gpu["notes"]] or ["free"]
        if brief or screen.width is None:
            notes = ["; ".join(notes)]
        second = _memory_bar(gpu) if bars else safe(gpu["name"], 30)
        rows.append([str(gpu["index"]), second, _free(gpu), *(loads[gpu["uuid"]] for _ in load), notes[0]])
        rows += [["", "", "", *("" for _ in load), note] for note in notes[1:]]
        codes += [GREEN if gpu["state"] == "free" else RED if gpu["state"] == "unhealthy" else ""] * len(notes)
    return draw(Table(header, rows, codes, ("GPU",), ("NAME", "LOAD", "MEMORY")), screen)


BAR = 10


def _bar(part: float) -> str:
    full = round(BAR * max(0.0, min(1.0, part)))
    return f"[{'#' * full}{'.' * (BAR - full)}]"


def _memory_bar(gpu: Mapping[str, Any]) -> str:
    free, total = gpu["free_bytes"], gpu["total_bytes"]
    return _bar(1 - free / total) if total and free is not None else ""


def _busy_bar(gpu: Mapping[str, Any]) -> str:
    percent = (gpu.get("load") or {}).get("utilization_percent")
    return "" if percent is None else _bar(percent / 100) + " "


UNKNOWN_LOAD = "- - - -"


def load_words(gpu: Mapping[str, Any]) -> str:
    """Write what a GPU is doing: `97% 61° 310/450W fan 40%`; what the driver does not tell is a dash."""
    load: Mapping[str, Any] = gpu.get("load") or {}

    def figure(name: str, unit: str) -> str:
        value = load.get(name)
        return "-" if value is None else f"{value:.0f}{unit}"

    power, limit = figure("power_watts", "W"), figure("power_limit_watts", "W")
    if "-" not in (power, limit):
        power = f"{power[:-1]}/{limit}"
    fan = figure("fan_percent", "%")
    return " ".join([
        figure("utilization_percent", "%"), figure("temperature_celsius", "°"), power, fan if fan == "-" else f"fan {fan}",
    ])  # fmt: skip


def _free(gpu: Mapping[str, Any]) -> str:
    free, total = gpu["free_bytes"], gpu["total_bytes"]
    if free is None or total is None:
        return "unknown" if total is None else f"? of {format_size(total)}"
    return format_of(free, total)
