"""What srun says on its stderr, told apart from what the program says there. Pure.

srun -v tells the job's number, when the program starts, and the wait status with which it ended (which its own exit status does
not: 143 is both an exit and a death by TERM) [run, 22.05]. Another version may say less: then its exit status is all there is.

1. What the program writes is passed on byte for byte, at once; only at the beginning of a line what may become srun's own word
   is kept until it is clear.
2. Until the program starts every line of srun's is kept: it is why it did not start, if it did not.
"""

PREFIX = b"srun: "
# What a step's manager writes into the program's stderr when Slurm ends the job: `slurmstepd: error: *** STEP 7.0 ON n1 …`.
MANAGER, ENDED = b"slurmstepd", b": error: *** "
QUEUED, ALLOCATED, JOB, STARTED, STATUS = b"queued and waiting", b"has been allocated", b"jobid ", b"tasks started", b"(status="
# What srun says of an end that we tell ourselves.
OF_THE_END = (
    b"Exited with", b"Terminated", b"Killed", b"Segmentation", b"Aborted", b"signal", b"Hangup", b"Interrupt", b"Quit",
    b"Alarm", b"core dumped", b"Broken pipe", b"Bus error", b"Floating point", b"Illegal", b"Trace", b"Bad system",
)  # fmt: skip


class Listener:
    """Takes what comes from srun's stderr, and returns what is the program's."""

    def __init__(self) -> None:
        self.job = ""
        self.is_queued = self.has_started = False
        self.status: int | None = None
        """How the program ended, as waitpid(2) tells it."""
        self.said: list[bytes] = []
        """srun's own words until the program started, but for what -v adds."""
        self.notice = b""
        """What a step's manager said of the end."""
        self._rest = b""
        self._in_line = False

    def hear(self, data: bytes, *, last: bool = False) -> bytes:
        """Take in what was read; returns what is to be written. With `last` nothing more comes."""
        text = self._rest + data
        self._rest = b""
        passed = []
        while text:
            line, newline, after = text.partition(b"\n")
            at = _told_at(line) if self._in_line or not line.startswith(PREFIX) else -1
            if at >= 0 and newline:  # the program's line has no end, and srun writes behind it
                passed.append(line[:at])
                self._in_line = True
                if self._is_programs(line[at + len(PREFIX) :]):
                    passed.append(line[at:] + newline)
                text = after
                continue
            if at >= 0 and not last:
                passed.append(line[:at])
                self._in_line, self._rest = True, line[at:]
                break
            if self._in_line or not any(line.startswith(each) or each.startswith(line) for each in (PREFIX, MANAGER)):
                passed.append(line + newline)
                self._in_line = not newline
            elif not newline and not last:
                self._rest = text
                break
            elif line.startswith(MANAGER) and ENDED in line:
                self.notice = line
            elif line.startswith(PREFIX):
                if self._is_programs(line[len(PREFIX) :]):
                    passed.append(line + newline)
            else:
                passed.append(line + newline)
            text = after
        return b"".join(passed)

    def _is_programs(self, words: bytes) -> bool:
        """Read a line of srun's; whether it is rather to be seen."""
        if STATUS in words:
            digits = words.partition(STATUS)[2].partition(b")")[0]
            try:
                self.status = int(digits, 16)
            except ValueError:
                return True
        elif STARTED in words:
            self.has_started = True
        elif words.startswith(JOB):
            self.job = words[len(JOB) :].partition(b":")[0].decode("ascii", "replace")
            self.is_queued = False
        elif words.startswith(b"job ") and QUEUED in words:
            self.job, self.is_queued = words.split(b" ", 2)[1].decode("ascii", "replace"), True
        elif words.startswith(b"job ") and ALLOCATED in words:
            self.job, self.is_queued = words.split(b" ", 2)[1].decode("ascii", "replace"), False
        elif words.startswith(b"error: ") and self.has_started:
            return not any(part in words for part in OF_THE_END)
        elif words.startswith((b"error: ", b"fatal: ")) or (not self.job and b" option" in words[:40]):
            self.said.append(PREFIX + words)
        return False


def _told_at(line: bytes) -> int:
    """Return where in a line srun begins to tell of the program's end, -1 if it does not."""
    at = line.find(PREFIX + b"launch/slurm: _task_finish: ")
    if at >= 0:
        return at
    at = line.find(PREFIX + b"error: ")
    return at if at >= 0 and b": task 0: " in line[at:] else -1
