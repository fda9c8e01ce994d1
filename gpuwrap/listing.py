"""Tables of jobs: alike ones in one row, each with its state, what it asks for and why it waits.

1. Nothing of a user's text reaches the terminal raw.
2. Thousands of rows are drawn while somebody waits: jobs come as `Listed`, and nothing heavy is imported.
"""

from time import localtime, strftime

from .clocks import Now, span
from .listed import IN_LINE, Listed
from .policy.words import command_line, safe
from .sweeps import in_words
from .tables import Screen, Table, draw
from .units import format_duration, format_size

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Why = tuple[str, str, list[str]]

# As many alike rows are shown as one.
FOLDED = 3
# A row's numbers take so many columns at most.
NUMBERS_WIDTH = 20
# Programs whose first script, module or code says what is run.
INTERPRETERS = frozenset((
    "python", "pypy", "bash", "sh", "dash", "zsh", "perl", "ruby", "node", "julia", "Rscript", "torchrun", "accelerate",
    "deepspeed", "env", "uv", "conda", "srun", "mpirun", "nice", "timeout", "time",
))  # fmt: skip
# Where jobs stand that are on no GPU, or no longer.
_NOWHERE = (*IN_LINE, "ended")
SCRIPTS = (".py", ".sh", ".pl", ".rb", ".js", ".jl", ".R", ".r", ".pyz")
RED, GREEN, YELLOW, CYAN = "31", "32", "33", "36"
_COLOURS = {
    "running": GREEN,
    "granted": GREEN,
    "waiting": YELLOW,
    "held": CYAN,
    "paused": CYAN,
    "suspended": CYAN,
    "stopping": RED,
}


def jobs_as_table(
    rows: "Sequence[list[Listed]]", fetch_why: "Callable[[], Mapping[int, Why]]", now: Now, screen: Screen,
    progress: "Mapping[int, str] | None" = None,
) -> list[str]:
    """Lines of `ls`: a header and each row, alike jobs in one; reasons beside them or below.

    The reasons are fetched when the rest is made: who tells them may need as long. `progress` says how far sweeps are.
    """
    several = len({row[0].user for row in rows}) > 1 or len({job.user for row in rows for job in row}) > 1
    cells = [_cells(row, now, several_users=several) for row in rows]
    header = ["JOB", "STATE", "PRIO↑", "GPU", "MEM", "TIME", *(["USER"] if several else []), "COMMAND"]
    colours = [colour_of(row[0]) for row in rows]
    why = fetch_why()
    spare = ("MEM", "TIME", "PRIO↑", "USER", "GPU")
    notes = [_reason(row, why, now) for row in rows]
    _add_progress(rows, notes, progress or {})
    return draw(Table(header, cells, colours, ("JOB", "PRIO↑"), spare, notes), screen)


def _add_progress(rows: "Sequence[list[Listed]]", notes: list[str], progress: "Mapping[int, str]") -> None:
    """Say once of each sweep how far it is: with its first row that has no reason, or else with its first."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row[0].sweep in progress and row[0].sweep is not None:
            places.setdefault(row[0].sweep, []).append(place)
    for sweep, its in places.items():
        place = next((each for each in its if not notes[each]), its[0])
        notes[place] = "; ".join(filter(None, [progress[sweep], notes[place]]))


def fold(jobs: "Iterable[Listed]") -> list[list[Listed]]:
    """Put alike jobs together, where there are at least `FOLDED` of them; in order of the first of each row."""
    alike: dict[object, list[Listed]] = {}
    for job in jobs:
        key: object
        if job.sweep is not None:
            key = job.sweep, state_words(job), job.priority
        else:
            how = (job.result_kind, job.result_code, job.result_signal, job.result_text)
            where = () if job.state in _NOWHERE else tuple(job.devices)
            who = job.user, job.parent_id
            key = job.state, job.priority, job.asked, where, how, who, _stem(job.name), head_of(job.words)
        alike.setdefault(key, []).append(job)
    rows = [row for group in alike.values() for row in _rows_of(group)]
    return sorted(rows, key=lambda row: row[0].id)


def _rows_of(alike: list[Listed]) -> list[list[Listed]]:
    """Put alike jobs into as many rows as it takes to name each of them; a sweep has a name."""
    if alike[0].sweep is not None:
        return [alike]
    if len(alike) < FOLDED:
        return [[job] for job in alike]
    runs: list[list[Listed]] = []
    for job in alike:
        if runs and runs[-1][-1].id == job.id - 1:
            runs[-1].append(job)
        else:
            runs.append([job])
    rows: list[list[Listed]] = []
    used = 0
    for run in runs:
        width = len(_numbers(run)) + 1
        if not rows or used + width - 1 > NUMBERS_WIDTH:
            rows.append([])
            used = 0
        rows[-1] += run
        used += width
    return [each for row in rows for each in ([row] if len(row) >= FOLDED else [[job] for job in row])]


def _stem(name: str | None) -> str:
    """What the names of a sweep have in common: `lr` of `lr-1e-3`."""
    for at, letter in enumerate(name or ""):
        if letter in "-_.=:0123456789":
            return (name or "")[:at]
    return name or ""


def head_of(words: list[str]) -> tuple[str, ...]:
    """A command up to its arguments: the program, and what an interpreter is given to run."""
    if words[0].rpartition("/")[2].rstrip("0123456789.") in INTERPRETERS:
        for at, word in enumerate(words):
            if not at:
                continue
            if word in ("-m", "-c"):
                return tuple(words[: at + 2])
            if word.endswith(SCRIPTS):
                return tuple(words[: at + 1])
    return (words[0],)


def _cells(row: list[Listed], now: Now, *, several_users: bool) -> list[str]:
    job = row[0]
    number = _numbers(row)
    what = command_of(job) if len(row) == 1 else _command_of_all(row)
    if several_users:
        user = safe(job.user, 16)
        return [number, state_words(job), str(job.priority), _gpus(row), _memory(job), _time(job, now), user, what]
    return [number, state_words(job), str(job.priority), _gpus(row), _memory(job), _time(job, now), what]


def _numbers(row: list[Listed]) -> str:
    """The jobs of a row as JOB names them, each of them; only of a sweep, which has a name, as many as there is room for."""
    text = in_words([job.id for job in row])
    if len(text) <= NUMBERS_WIDTH:
        return text
    return text[: text.rindex(",", 0, NUMBERS_WIDTH)] + ",…"


def command_of(job: Listed) -> str:
    """A job's command, and its name before it."""
    if not job.name:
        return command_line(job.words)
    index = "" if job.sweep is None else f"[{job.sweep_index}]"
    return f"{safe(job.name, 30)}{index}: {command_line(job.words)}"


def _command_of_all(row: list[Listed]) -> str:
    """What the commands of alike jobs have in common."""
    same = row[0].words
    for other in row[1:]:
        end = min(len(same), len(other.words))
        if same[:end] != other.words[:end]:
            end = next(at for at, (a, b) in enumerate(zip(same, other.words, strict=False)) if a != b)
        same = same[:end]
    text = command_line(same) if same else "…"
    if any(len(other.words) != len(same) for other in row) and not text.endswith("…"):
        text += " …"
    name = _name_of(row)
    return f"{len(row)}×  " + (f"{name}: {text}" if name else text)


def _name_of(row: list[Listed]) -> str:
    """The name of alike jobs: one, or a glob that `kill` and others take; none if they have no beginning in common."""
    names = [job.name for job in row if job.name]
    if len(names) < len(row):
        return ""
    least, most = min(names), max(names)
    same = next((at for at, (a, b) in enumerate(zip(least, most, strict=False)) if a != b), len(least))
    first: str = least[:same]
    return safe(first, 30) + ("" if len(set(names)) == 1 else "*") if first else ""


def state_words(job: Listed) -> str:
    """A job's state in a word; of one that ended, how."""
    if job.state != "ended" or job.result_kind is None:
        return job.state
    if job.result_kind == "signal" and job.result_signal is not None:
        return f"signal {job.result_signal}"
    return f"exit {job.result_code}" if job.result_kind == "exit" else job.result_kind


def moment(at: float, now_at: float) -> str:
    """Write a time of day, with its date if that is another."""
    same_day = localtime(at)[:3] == localtime(now_at)[:3]
    return strftime("%H:%M" if same_day else "%d %b %H:%M", localtime(at))


def _reason(row: list[Listed], why: "Mapping[int, Why]", now: Now) -> str:
    job = row[0]
    if job.state == "ended" and job.id in why:
        return why[job.id][1]
    if job.state == "ended":
        text = job.result_text
        at = moment(job.ended_at, now.at) + " " if job.ended_at else ""
        return at + safe(text, 80) if text else ""
    told = why.get(job.id)
    if told is None:
        return ""
    return f"first: {told[1]}" if len(row) > 1 and told[0] not in ("held", "stopped") else told[1]


def colour_of(job: Listed) -> str:
    """The colour of a job's state, if it has one."""
    if job.state != "ended":
        return _COLOURS.get(job.state, "")
    return "" if job.result_code == 0 else RED


def _gpus(row: list[Listed]) -> str:
    """The GPUs of a row, all of them if it is a sweep's, or what it asks for; nothing where ended ones had different GPUs."""
    job = row[0]
    if not job.gpus:
        return "none"
    if job.devices and job.state not in IN_LINE:
        if job.state == "ended" and any(other.shares != job.shares for other in row[1:]):
            return ""
        return ",".join(map(str, sorted({index for each in row for index in each.devices.values()})))
    if job.allowed is not None:
        return f"{job.gpus} of {job.allowed}"
    return "any" if job.gpus == 1 else f"any {job.gpus}"


def _memory(job: Listed) -> str:
    if job.memory_bytes is not None:
        return format_size(job.memory_bytes)
    if job.memory_percent is not None:
        return f"{job.memory_percent:g}%"
    return "whole" if job.gpus else ""


def _time(job: Listed, now: Now) -> str:
    if job.state == "ended":
        ended = job.ended_at or 0.0, job.ended_mono
        return format_duration(span((job.started_at, job.started_mono), ended)) if job.started_at else ""
    begun = (job.started_at, job.started_mono) if job.started_at else (job.submitted_at, job.submitted_mono)
    return format_duration(now.since(*begun, job.boot_id))
