"""The output of batch jobs while they run, shown as it is written, and how they ended."""

import os
import time

from ..errors import GpurunError
from ..stdout import put
from . import record, tools
from .engine import Slurm
from .reading import SlurmJob, first_word

FIRST_ASK_SECONDS, ASK_SECONDS, LOOK_SECONDS = 0.3, 5.0, 0.1
PIECE = 1 << 16


class Follower:
    """One job, or the rows of one array. `pattern`: the path of the output, in which `%a` is a row's index."""

    def __init__(self, engine: Slurm, number: str, indices: list[int] | None, pattern: bytes) -> None:
        self.engine, self.number, self.indices, self.pattern = engine, number, indices, pattern
        self._ended: dict[int, int | None] = {}
        self._shown: dict[int, int] = {}
        self._started: set[int] = set()
        self._ask_mono = time.monotonic() + FIRST_ASK_SECONDS
        self._pause = FIRST_ASK_SECONDS

    @property
    def rows(self) -> list[int]:
        """Every row's index; 0 for a job that is no array."""
        return self.indices if self.indices is not None else [0]

    def is_over(self) -> bool:
        """Whether all have ended and all that they wrote was shown."""
        return len(self._ended) == len(self.rows)

    def never_ran(self) -> bool:
        """Whether none of them has started."""
        return not self._started and not self._shown

    def statuses(self) -> list[int | None]:
        """How they ended, in order."""
        return [self._ended[index] for index in self.rows]

    def look(self) -> None:
        """Show what is new; ask Slurm when it is time."""
        if self.indices is None:
            self._show(0)
        if time.monotonic() < self._ask_mono:
            time.sleep(LOOK_SECONDS)
            return
        self._pause = min(ASK_SECONDS, self._pause * 2)
        try:
            self._ask()
        except tools.SlurmDown:
            self._pause = ASK_SECONDS
        self._ask_mono = time.monotonic() + self._pause

    def _ask(self) -> None:
        """One question for all rows: which of them live. How the others ended is asked of what remembers it."""
        answer = tools.call("squeue", "--noheader", "--array", f"--jobs={self.number}", "--format=%K|%T")
        if answer.status and tools.is_down(answer.errors):
            raise tools.refusal("squeue", answer.errors)
        live = set()
        for line in answer.output.splitlines() if answer.status == 0 else []:
            index, _, state = line.partition("|")
            row = int(index) if index.isdigit() else 0
            live.add(row)
            if first_word(state) != "PENDING":
                self._started.add(row)
        over = [row for row in self.rows if row not in live and row not in self._ended]
        if not over:
            return
        known = self._how_they_ended()
        for row in over:
            job = known.get(row)
            if job is not None and job.state != "ended":
                continue  # it is being requeued, or squeue did not know it yet
            self._show(row)
            self._ended[row] = None if job is None else job.status

    def _how_they_ended(self) -> dict[int, SlurmJob]:
        try:
            jobs = self.engine.look_up(self.number)
        except GpurunError as err:
            if isinstance(err, tools.SlurmDown):
                raise
            return {}
        return {int(job.index) if job.index.isdigit() else 0: job for job in jobs}

    def _show(self, index: int) -> None:
        path = b"%".join(part.replace(b"%a", str(index).encode()) for part in self.pattern.split(b"%%"))
        try:
            with open(path, "rb") as file:
                file.seek(self._shown.get(index, 0))
                while piece := file.read(PIECE):
                    self._shown[index] = file.tell()
                    put(piece)
        except OSError:
            return


def logs_of(number: str, index: str = "") -> list[tuple[str, str]]:
    """Return the job, and the path of its log, of each row of a job that has one; of `index` alone if that is given."""
    entry = record.read(number)
    if entry is None or entry.log is None:
        return []
    text = os.fsdecode(entry.log)
    if "%a" not in text.replace("%%", ""):
        return [(number, text.replace("%%", "%"))]
    before, _, after = text.partition("%a")
    before, after = before.replace("%%", "%"), after.replace("%%", "%")
    if index.isdigit():
        return [(f"{number}_{index}", f"{before}{index}{after}")]
    folder, head = os.path.split(before)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    found = [name[len(head) : len(name) - len(after)] for name in names if name.startswith(head) and name.endswith(after)]
    return [(f"{number}_{each}", f"{before}{each}{after}") for each in sorted((one for one in found if one.isdigit()), key=int)]
