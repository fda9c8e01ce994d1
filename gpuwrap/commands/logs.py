"""logs: show and follow what jobs wrote.

1. Files are copied in pieces, however long they or their lines are; `-n` looks for its lines from the end.
2. Of several jobs each line begins with the job's number, where they wrote to one file with the numbers of all that did
   (`1-20`): it is shown once. Lines are never mixed (one longer than `PIECE` is broken).
3. Following ends when the jobs have ended and all that they wrote was shown. Nobody may be left who notes their end: then
   an arbiter is summoned.
4. While one job writes faster than is read, the others have their turn.
5. Open are the files of jobs that may still write, and no other: a sweep may have more rows than we may have files.
6. A file that is our own output is refused, as cat(1) does: following it would write it without end.
"""

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Set
from dataclasses import replace
from typing import BinaryIO

from ..errors import SOME_FAILED, GpurunError, NoSuchJob, WaitLimitPassed, printable
from ..lifecycle import IN_LINE, JobState
from ..model import Job
from ..outputs import kept_in
from ..render import state_words
from ..state.reading import Reader
from ..stdout import put
from ..sweeps import in_words
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
    lines, follow = read_lines(given), "follow" in given
    world = World(given)
    jobs, missing = world.select(operands, ended=True)
    logs, status = _find_logs(jobs, missing, follow=follow)
    left = []
    for log in logs:
        log.prefix = f"{log.numbers}: ".encode() if len(jobs) > 1 else b""
        if log.show_present(lines, MOST_BYTES if follow else None) and (log.ended or not follow):
            log.finish()
        else:
            left.append(log)
    return (_follow(world, left) if left else 0) or status


def _find_logs(jobs: list[Job], missing: list[NoSuchJob], *, follow: bool) -> tuple[list["Log"], int]:
    """Return the logs that there are, or will be; what cannot be shown is said, alike of many jobs in one line."""
    by_path: dict[bytes, Log] = {}
    no_log: dict[str, list[int]] = {}
    waits: list[int] = []
    for job in jobs:
        path, words = kept_in(job.output, job.id)
        if path is not None:
            by_path.setdefault(path, Log(path)).jobs.append(job)
        elif job.has_ended and job.started_at is None:
            no_log.setdefault(f"never ran: {state_words(job)}", []).append(job.id)
        else:
            no_log.setdefault(f"wrote {words}: nothing is kept; next time -o FILE or -d", []).append(job.id)
    texts = [err.text for err in missing] + [f"{_named(numbers)} {text}" for text, numbers in no_log.items()]
    logs = []
    for log in by_path.values():
        # The file is made when the job runs already.
        if log.open() or (follow and log.is_missing and not log.ended):
            logs.append(log)
        elif log.is_missing and any(job.state in IN_LINE or job.state is JobState.GRANTED for job in log.jobs):
            waits += [job.id for job in log.jobs]
        else:
            texts.append(log.fault)
        log.close()
    if waits:
        wait, them = ("still waits", "it") if len(waits) == 1 else ("still wait", "them")
        texts.append(f"{_named(waits)} {wait}: gpurun logs -f {' '.join(in_words(waits).split(','))} follows {them}")
    for text in texts:
        _complain(text)
    return logs, SOME_FAILED if texts else 0


def _named(numbers: list[int]) -> str:
    return f"job{'s' if len(numbers) > 1 else ''} {in_words(numbers)}"


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
        if looks % LOOKS_BETWEEN == 0 and world.reader is not None:
            # Asked before the files are read: what a job wrote before its end is there then.
            unended = world.reader.unended_ids()
            for log in logs:
                log.note_ends(world.reader, unended)
        at_end = [log.show_new(MOST_BYTES) for log in logs]
        for log in [log for log, shown in zip(list(logs), at_end, strict=True) if log.ended and shown]:
            log.finish()
            logs.remove(log)
            if log.cause and any(job.started_at is not None for job in log.jobs):
                status = _complain(log.fault)
        looks += 1
        if logs and all(at_end):
            time.sleep(LOOK_SECONDS)
    return status


class Log:
    """The output of a job, or of several that write to one file, as far as it was shown."""

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.jobs: list[Job] = []
        self.prefix = b""
        self.cause = ""
        self.is_missing = False
        self._file: BinaryIO | None = None
        self._rest = b""

    @property
    def numbers(self) -> str:
        """The numbers of the jobs, in few words."""
        return in_words([job.id for job in self.jobs])

    @property
    def ended(self) -> bool:
        """Whether all jobs that write to it have ended, as far as is known."""
        return all(job.has_ended for job in self.jobs)

    @property
    def fault(self) -> str:
        """Why it cannot be shown."""
        return f"cannot read: {os.fsdecode(self.path)}: {self.cause}"

    def open(self) -> bool:
        """Open the file if it is there; `cause` says why not. Only regular files have something to show again."""
        if self._file is not None:
            return True
        self.is_missing = False
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as err:
            self.cause = str(err.strerror).lower()
            self.is_missing = err.errno == errno.ENOENT
            return False
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            self.cause = "not a regular file"
        elif _is_our_output(facts):
            self.cause = "what is shown would be written into it"
        else:
            self.cause = ""
            self._file = os.fdopen(fd, "rb", buffering=0)
            return True
        os.close(fd)
        return False

    def close(self) -> None:
        """Let go of the file; opened again it is shown from its beginning."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def show_present(self, lines: int | None, most: int | None) -> bool:
        """Show what is there, with `lines` only the last so many; about `most` bytes for now. Whether that was all."""
        if self.open() and lines is not None:
            assert self._file is not None
            self._file.seek(_start_of_last(self._file, lines))
        return self.show_new(most)

    def note_ends(self, reader: Reader, unended: Set[int]) -> None:
        """Take in which jobs have ended; one that is no longer known has."""
        for place, job in enumerate(self.jobs):
            if not job.has_ended and job.id not in unended:
                found = reader.by_number(job.id, job.id)
                self.jobs[place] = found[0] if found else replace(job, state=JobState.ENDED)

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
                put(piece)
            shown += len(piece)
            if most is not None and shown >= most:
                return False
        return True

    def finish(self) -> None:
        """Show a last line that has no end, and let go of the file."""
        if self._rest:
            self._write_lines(b"\n")
        self.close()

    def _write_lines(self, piece: bytes) -> None:
        text = self._rest + piece
        if b"\n" not in piece and len(text) >= PIECE:
            text += b"\n"
        lines, end, self._rest = text.rpartition(b"\n")
        if end:
            put(self.prefix + lines.replace(b"\n", b"\n" + self.prefix) + b"\n")


def _is_our_output(facts: os.stat_result) -> bool:
    try:
        ours = os.fstat(1)
    except OSError:
        return False
    return (facts.st_dev, facts.st_ino) == (ours.st_dev, ours.st_ino)


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
