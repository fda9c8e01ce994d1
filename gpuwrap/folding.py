"""Alike jobs in one row: which they are, and in which order rows stand.

1. Those that ended come first, then those that have started, by number; then those in line, as they will be served.
2. A row names exactly its jobs (but of a sweep, which has a name), and of those in line the places.
3. In line neighbours are alike that differ only in priority, number or row; where others stand between, not in priority.
"""

from .listed import IN_LINE, Listed
from .sweeps import in_words

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .standing import Standing

# As many alike rows are shown as one.
FOLDED = 3
# A row's numbers take so many columns at most.
NUMBERS_WIDTH = 20
# Programs whose first script, module or code says what is run.
INTERPRETERS = frozenset((
    "python", "pypy", "bash", "sh", "dash", "zsh", "perl", "ruby", "node", "julia", "Rscript", "torchrun", "accelerate",
    "deepspeed", "env", "uv", "conda", "srun", "mpirun", "nice", "timeout", "time",
))  # fmt: skip
SHELLS = ("bash", "sh", "dash", "zsh")
SCRIPTS = (".py", ".sh", ".pl", ".rb", ".js", ".jl", ".R", ".r", ".pyz")
_FAR = 1 << 40


def in_order(jobs: "Iterable[Listed]", standing: "Standing") -> list[Listed]:
    """Return jobs in the order of a list."""
    places, queues = standing.places, standing.queues

    def key(job: Listed) -> tuple[int, int, int, int, int]:
        if job.state not in IN_LINE:
            return 0 if job.state == "ended" else 1, 0, 0, 0, job.id
        return 2, queues.get(job.id, 0), places.get(job.id, _FAR), -job.priority, job.id

    return sorted(jobs, key=key)


def fold(jobs: "Iterable[Listed]", standing: "Standing") -> list[list[Listed]]:
    """Put alike jobs together, where there are at least `FOLDED` of them; in order of the first of each row."""
    ordered = in_order(jobs, standing)
    alike: dict[object, list[Listed]] = {}
    before: object = None
    run: list[Listed] = []
    for job in ordered:
        if job.state not in IN_LINE:
            alike.setdefault(_key(job, standing), []).append(job)
            continue
        key = _key_in_line(job, standing)
        if key != before:
            _put_aside(run, before, alike)
            before, run = key, []
        run.append(job)
    _put_aside(run, before, alike)
    rows = [row for group in alike.values() for row in _rows_of(group)]
    at = {job.id: at for at, job in enumerate(ordered)}
    return sorted(rows, key=lambda row: at[row[0].id])


def _put_aside(run: list[Listed], key: object, alike: dict[object, list[Listed]]) -> None:
    """Note a run of neighbours: with others of one priority that stand elsewhere, if it is of that priority too."""
    if run:
        one = run[0].priority == run[-1].priority
        alike.setdefault((key, run[0].priority) if one else (key, run[0].id, "mixed"), []).extend(run)


def _key(job: Listed, standing: "Standing") -> object:
    how = (job.result_kind, job.result_code, job.result_signal, job.result_text)
    if job.sweep is not None:
        return job.sweep, job.state, how[:3], job.priority, standing.notes.get(job.id)
    where = () if job.state == "ended" else tuple(job.devices)
    who = job.user, job.parent_id
    return job.state, job.priority, job.asked, where, how, who, _stem(job.name), head_of(job.words), standing.notes.get(job.id)


def _key_in_line(job: Listed, standing: "Standing") -> object:
    reason = standing.reason(job.id)
    if job.sweep is not None:
        return job.sweep, job.state, reason
    return job.state, job.asked, job.user, job.parent_id, _stem(job.name), head_of(job.words), reason


def _rows_of(alike: list[Listed]) -> list[list[Listed]]:
    """Put alike jobs into as many rows as it takes to name each of them; a sweep has a name."""
    if alike[0].sweep is not None:
        return [alike]
    if len(alike) < FOLDED:
        return [[job] for job in alike]
    order = {job.id: at for at, job in enumerate(alike)}
    runs: list[list[Listed]] = []
    for job in sorted(alike, key=lambda job: job.id):
        if runs and runs[-1][-1].id == job.id - 1:
            runs[-1].append(job)
        else:
            runs.append([job])
    rows: list[list[Listed]] = []
    used = 0
    for run in runs:
        width = len(in_words([job.id for job in run])) + 1
        if not rows or used + width - 1 > NUMBERS_WIDTH:
            rows.append([])
            used = 0
        rows[-1] += run
        used += width
    for row in rows:
        row.sort(key=lambda job: order[job.id])
    return [each for row in rows for each in ([row] if len(row) >= FOLDED else [[job] for job in row])]


def _stem(name: str | None) -> str:
    """What the names of a sweep have in common: `lr` of `lr-1e-3`."""
    for at, letter in enumerate(name or ""):
        if letter in "-_.=:0123456789":
            return (name or "")[:at]
    return name or ""


def head_of(words: list[str]) -> tuple[str, ...]:
    """A command up to its arguments: the program, and what an interpreter is given to run."""
    name = words[0].rpartition("/")[2].rstrip("0123456789.")
    if name in INTERPRETERS:
        for at, word in enumerate(words):
            if not at:
                continue
            if word in ("-m", "-c"):
                said = words[at + 1 : at + 2]
                # Of what a shell is given the first word is the program.
                return (*words[: at + 1], *(said if name not in SHELLS else (text.partition(" ")[0] for text in said)))
            if word.endswith(SCRIPTS):
                return tuple(words[: at + 1])
    return (words[0],)
