"""logs: show and follow what jobs wrote.

1. Files are copied in pieces, however long they or their lines are; `-n` looks for its lines from the end.
2. Of several jobs each line begins with the job's number; lines are never mixed (one longer than `PIECE` is broken).
3. Following ends when the jobs have ended and all that they wrote was shown. Nobody may be left who notes their end: then
   an arbiter is summoned.
4. While one job writes faster than is read, the others have their turn.
"""

import contextlib
import errno
import os
import sys
import time
from typing import BinaryIO

from ..arbiter.summon import WaitLimitPassed
from ..errors import SOME_FAILED, GpurunError, NoSuchJob, printable
from ..lifecycle import IN_LINE, JobState
from ..model import Job
from ..outputs import kept_in
from ..render import state_words
from .asking import Given, World, read_lines, require_jobs

PIECE = 1 << 16
LOOK_SECONDS = 0.1
# Every so many looks the database is asked whether a job still runs, and an arbiter whether it is there.
LOOKS_BETWEEN = 5
LOOKS_BETWEEN_REPAIRS = 20
# Of one log at one look.
MOST_BYTES = 64 * PIECE


def main(given: Given, operands: list[str]) -> int:
    """Show the output of every job named; exit 1 if one has none to show."""
    require_jobs(operands, given, "logs [-f] [-n N] JOB...")
    lines = read_lines(given)
    world = World(given)
    jobs, missing = world.select(operands, everything=False)
    logs, status = _open_logs(jobs, missing, follow="follow" in given)
    for log in logs:
        log.prefix = f"{log.job.id}: ".encode() if len(jobs) > 1 else b""
        log.show_present(lines, MOST_BYTES if "follow" in given else None)
        if "follow" not in given:
            log.finish()
    if "follow" in given and logs:
        status = _follow(world, logs) or status
    return status


def _open_logs(jobs: list[Job], missing: list[NoSuchJob], *, follow: bool) -> tuple[list["Log"], int]:
    logs, status = [], 0
    for err in missing:
        status = _complain(err.text)
    for job in jobs:
        path, words = kept_in(job.output, job.id)
        never_ran = job.state is JobState.ENDED and job.started_at is None
        if path is None and never_ran:
            status = _complain(f"job {job.id} never ran: {state_words(job)}")
            continue
        if path is None:
            status = _complain(f"job {job.id} wrote {words}: nothing is kept; next time -o FILE or -d")
            continue
        log = Log(job, path)
        waits = job.state in IN_LINE or job.state is JobState.GRANTED
        # The file is made when the job runs already.
        if log.open() or (follow and job.state is not JobState.ENDED and log.is_missing):
            logs.append(log)
        elif waits:
            status = _complain(f"job {job.id} still waits: gpurun logs -f {job.id} follows it")
        else:
            status = _complain(f"cannot read: {os.fsdecode(path)}: {log.cause}")
    return logs, status


def _complain(text: str) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"gpurun: logs: {printable(text)}\n")
    sys.stderr.flush()
    return SOME_FAILED


def _follow(world: World, logs: list["Log"]) -> int:
    looks = status = 0
    while logs:
        if looks % LOOKS_BETWEEN_REPAIRS == 0:
            with contextlib.suppress(GpurunError, WaitLimitPassed):  # a full disk, say: what is written is shown all the same
                world.refresh()
        if looks % LOOKS_BETWEEN == 0:
            # Asked before the files are read: what a job wrote before its end is there then.
            for log in logs:
                log.note_end(world)
        at_end = [log.show_new(MOST_BYTES) for log in logs]
        for log in [log for log, shown in zip(list(logs), at_end, strict=True) if log.ended and shown]:
            log.finish()
            logs.remove(log)
            if log.cause and log.job.started_at is not None:
                status = _complain(f"cannot read: {os.fsdecode(log.path)}: {log.cause}")
        looks += 1
        if logs and all(at_end):
            time.sleep(LOOK_SECONDS)
    return status


class Log:
    """One job's output as far as it was shown."""

    def __init__(self, job: Job, path: bytes) -> None:
        self.job = job
        self.path = path
        self.prefix = b""
        self.cause = ""
        self.is_missing = False
        self.ended = False
        self._file: BinaryIO | None = None
        self._rest = b""

    def open(self) -> bool:
        """Open the file if it is there; `cause` says why not. Only regular files have something to show again."""
        if self._file is None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            except OSError as err:
                self.cause = str(err.strerror).lower()
                self.is_missing = err.errno == errno.ENOENT
                return False
            self.cause = ""
            self._file = os.fdopen(fd, "rb", buffering=0)
            if os.fstat(fd).st_mode & 0o170000 != 0o100000:
                self.cause = "not a regular file"
                self._file.close()
                self._file = None
                return False
        return True

    def show_present(self, lines: int | None, most: int | None) -> None:
        """Show what is there, with `lines` only the last so many; about `most` bytes for now."""
        if self.open() and lines is not None:
            assert self._file is not None
            self._file.seek(_start_of_last(self._file, lines))
        self.show_new(most)

    def note_end(self, world: World) -> None:
        """Ask whether the job has ended."""
        found = world.reader.by_number(self.job.id, self.job.id) if world.reader is not None else []
        self.job = found[0] if found else self.job
        self.ended = not found or self.job.state is JobState.ENDED

    def show_new(self, most: int | None = None) -> bool:
        """Show what was added, about `most` bytes of it; from its beginning again if the file was cut. Whether that was all."""
        if not self.open():
            return True
        assert self._file is not None
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        shown = 0
        while piece := self._file.read(PIECE):
            if self.prefix:
                self._write_lines(piece)
            else:
                _write(piece)
            shown += len(piece)
            if most is not None and shown >= most:
                return False
        return True

    def finish(self) -> None:
        """Show a last line that has no end."""
        if self._rest:
            self._write_lines(b"\n")

    def _write_lines(self, piece: bytes) -> None:
        text = self._rest + piece
        if b"\n" not in piece and len(text) >= PIECE:
            text += b"\n"
        lines, end, self._rest = text.rpartition(b"\n")
        if end:
            _write(self.prefix + lines.replace(b"\n", b"\n" + self.prefix) + b"\n")


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def _start_of_last(file: BinaryIO, lines: int) -> int:
    """Return where the last so many lines begin; a last line may have no end."""
    size = os.fstat(file.fileno()).st_size
    at, wanted = size, lines
    while at > 0:
        length = min(PIECE, at)
        file.seek(at - length)
        piece = file.read(length)
        end = len(piece)
        if at == size and piece.endswith(b"\n"):
            end -= 1  # it ends the last line, and begins none
        if not wanted:
            return size
        while (found := piece.rfind(b"\n", 0, end)) >= 0:
            wanted -= 1
            if not wanted:
                return at - length + found + 1
            end = found
        at -= length
    return 0
