"""Tables of jobs: alike ones in one row, each with its state or its place in line, what it asks for and why it waits.

1. Nothing of a user's text reaches the terminal raw.
2. Thousands of rows are drawn while somebody waits: jobs come as `Listed`, and nothing heavy is imported.
3. Of those in line a reason is told once: for the first, and for whoever waits for something else.
"""

from time import localtime, strftime

from .clocks import Now, span
from .folding import NUMBERS_WIDTH
from .listed import IN_LINE, Listed
from .policy.words import command_line, ordinal, safe, signal_name
from .standing import Standing
from .sweeps import in_words
from .tables import Screen, Table, draw
from .units import format_duration, format_size

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .standing import Note

    Why = tuple[str, str, list[str]]

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


class Elsewhere:
    """A row of a job in another queue: its cells as they are shown, where it is, and why it waits."""

    __slots__ = ("cells", "note", "on", "user")

    def __init__(self, cells: list[str], on: str, user: str, note: str) -> None:
        self.cells, self.on, self.user, self.note = cells, on, user, note


def jobs_as_table(
    rows: "Sequence[list[Listed]]", standing: Standing, notes: "Sequence[str]", now: Now, screen: Screen,
    elsewhere: "Sequence[Elsewhere]" = (),
) -> list[str]:  # fmt: skip
    """Lines of `ls`: a header and each row, alike jobs in one; `notes` beside them or below. Other queues' jobs come last."""
    several = len({job.user for row in rows for job in row}) > 1
    cells = [_cells(row, standing, now, several_users=several) for row in rows]
    header = [
        "JOB", "STATE", "PRIO↑", "GPU", "MEM", "TIME", *(["STARTS"] if standing.starts else []),
        *(["USER"] if several else []), "COMMAND",
    ]  # fmt: skip
    colours = [colour_of(row[0]) for row in rows]
    if elsewhere:
        header.insert(-1, "ON")
        for cell in cells:
            cell.insert(-1, "here")
        for other in elsewhere:
            *front, what = other.cells
            starts = [""] if standing.starts else []
            cells.append([*front, *starts, *([other.user] if several else []), other.on, what])
            colours.append(_COLOURS.get(front[1], ""))
        notes = [*notes, *(other.note for other in elsewhere)]
    spare = ("MEM", "TIME", "STARTS", "PRIO↑", "USER", "GPU", "ON")
    return draw(Table(header, cells, colours, ("JOB", "PRIO↑"), spare, notes), screen)


def totals(jobs: "Iterable[Listed]") -> str:
    """Count jobs by what they do: `61 jobs: 4 run, 1 paused, 56 wait`."""
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.state] = counts.get(job.state, 0) + 1
    kinds = (
        (("running", "granted", "stopping"), "runs", "run"), (("paused", "suspended"), "paused", "paused"),
        (("waiting",), "waits", "wait"), (("held",), "held", "held"), (("ended",), "has ended", "have ended"),
    )  # fmt: skip
    found = [(sum(counts.get(state, 0) for state in states), one, many) for states, one, many in kinds]
    total = sum(counts.values())
    told = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in found if count)
    return f"{total} job{'' if total == 1 else 's'}: {told}"


def news(rows: "Sequence[list[Listed]]", standing: Standing, progress: "Mapping[int, str]", now: Now) -> list[str]:
    """Return what is told of each row: of those in line only what was not told before; of each sweep how far it is, once."""
    said: set[Note] = {("", "")}
    found = []
    for row in rows:
        job = row[0]
        if job.state not in IN_LINE:
            found.append(_of_started(job, standing.notes.get(job.id), now))
            continue
        reason, text = standing.reason(job.id), standing.notes.get(job.id, ("", ""))[1]
        found.append("" if reason in said or reason[0] == "after" else text)
        said.add(reason)
    _add_progress(rows, found, progress)
    return found


def _add_progress(rows: "Sequence[list[Listed]]", notes: list[str], progress: "Mapping[int, str]") -> None:
    """Say once of each sweep how far it is: with its first row that has no reason, or else with its first."""
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        if row[0].sweep in progress and row[0].sweep is not None:
            places.setdefault(row[0].sweep, []).append(place)
    for sweep, its in places.items():
        place = next((each for each in its if not notes[each]), its[0])
        notes[place] = "; ".join(filter(None, [progress[sweep], notes[place]]))


def whole_reasons(
    rows: "Sequence[list[Listed]]", why: "Mapping[int, Why]", progress: "Mapping[int, str]", now: Now
) -> list[str]:
    """Return what is told of jobs that were asked for by name."""
    notes = {number: told[:2] for number, told in why.items()}
    found = [_of_started(row[0], notes.get(row[0].id), now) for row in rows]
    _add_progress(rows, found, progress)
    return found


def _cells(row: list[Listed], standing: Standing, now: Now, *, several_users: bool) -> list[str]:
    job = row[0]
    state = _place(row, standing) if job.state in IN_LINE else state_words(job)
    what = command_of(job) if len(row) == 1 else _command_of_all(row)
    least = row[-1].priority
    priority = str(job.priority) if least == job.priority else f"≤{job.priority}"
    user = [safe(job.user, 16)] if several_users else []
    starts = [_starts(job, standing)] if standing.starts else []
    return [_numbers(row), state, priority, _gpus(row), _memory(job), _time(job, now), *starts, *user, what]


def _starts(job: Listed, standing: Standing) -> str:
    """In how long the first of these jobs is expected to start; `-` if nobody can say."""
    if job.state not in IN_LINE:
        return ""
    seconds = standing.starts.get(job.id)
    return "-" if seconds is None else f"~{format_duration(seconds)}"


def _place(row: list[Listed], standing: Standing) -> str:
    """Where jobs stand in line, `2nd-12th` (`2nd…12th` if others stand between), or what keeps them out of it."""
    job = row[0]
    rule, text = standing.notes.get(job.id, ("", ""))
    if rule == "after" and text.startswith("after "):
        return text
    if rule in ("held", "stopped") or job.state == "held":
        return rule or job.state
    first, last = standing.places.get(job.id), standing.places.get(row[-1].id)
    if first is None or last is None:
        return job.state
    inside = f" in {standing.queues[job.id]}" if job.id in standing.queues else ""
    if first == last:
        return ordinal(first) + inside
    return f"{ordinal(first)}{'-' if last - first == len(row) - 1 else '…'}{ordinal(last)}{inside}"


def _numbers(row: list[Listed]) -> str:
    """The jobs of a row as JOB names them, each of them; only of a sweep, which has a name, as many as there is room for."""
    text = in_words(sorted([job.id for job in row]))
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
        return f"SIG{signal_name(job.result_signal)}"
    return f"exit {job.result_code}" if job.result_kind == "exit" else job.result_kind


def moment(at: float, now_at: float) -> str:
    """Write a time of day, with its date if that is another."""
    same_day = localtime(at)[:3] == localtime(now_at)[:3]
    return strftime("%H:%M" if same_day else "%d %b %H:%M", localtime(at))


def _of_started(job: Listed, note: "Note | None", now: Now) -> str:
    """What is told of a job itself: of one that ended, how; else what is unusual about it, or why it waits."""
    if note is not None:
        return note[1]
    text = job.result_text if job.state == "ended" else None
    at = moment(job.ended_at, now.at) + " " if job.ended_at else ""
    return at + safe(text, 80) if text else ""


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
