"""What squeue, sacct and scontrol print, as records. Pure: each line is read by one reader, and what is none is left out."""

from ..units import parse_integer
from .mapping import MARK
from .reasons import is_held

# What is asked for, in this order: free text last, so that it may hold a separator.
FORMAT = "%F|%K|%T|%r|%Q|%y|%M|%l|%N|%P|%V|%S|%k|%j"
FIELDS = FORMAT.count("|") + 1
SACCT_FIELDS = "JobID,State,ExitCode,Submit,Start,End,ElapsedRaw,NodeList,Comment,JobName"

STATES = {
    "PENDING": "waiting", "RUNNING": "running", "SUSPENDED": "paused", "COMPLETING": "stopping", "CONFIGURING": "granted",
    "STAGE_OUT": "stopping", "SIGNALING": "running", "STOPPED": "paused", "REQUEUED": "waiting", "REQUEUE_HOLD": "held",
    "REQUEUE_FED": "waiting", "RESV_DEL_HOLD": "held", "SPECIAL_EXIT": "held", "RESIZING": "running",
}  # fmt: skip
# How a job ended that did not end by itself.
ENDS = {
    "CANCELLED": "cancelled", "TIMEOUT": "its time limit passed", "NODE_FAIL": "its machine failed",
    "PREEMPTED": "a job of higher priority took its GPUs", "OUT_OF_MEMORY": "it ran out of memory",
    "BOOT_FAIL": "its machine did not start", "DEADLINE": "its deadline passed", "REVOKED": "another cluster took it",
}  # fmt: skip


class SlurmJob:
    """One job of Slurm's: `job` is `4711`, or `4711_7` for a row; of an array's rows that wait, `4711_[7-20]`."""

    __slots__ = (
        "base", "code", "comment", "elapsed", "ended", "index", "limit", "name", "nice", "nodes", "partition", "rank", "raw",
        "reason", "signal", "started", "submitted",
    )  # fmt: skip

    def __init__(self) -> None:
        self.base = self.index = self.raw = self.reason = self.nodes = self.partition = self.comment = self.name = ""
        self.rank = self.nice = 0
        self.elapsed = 0.0
        self.limit = ""
        self.submitted = self.started = self.ended = ""
        self.code: int | None = None
        self.signal: int | None = None

    @property
    def job(self) -> str:
        """The number as Slurm writes it."""
        return f"{self.base}_{self.index}" if self.index else self.base

    @property
    def state(self) -> str:
        """The state in our words."""
        state = STATES.get(self.raw, "ended")
        return "held" if state == "waiting" and is_held(self.reason) else state

    @property
    def wish(self) -> dict[str, str]:
        """What was asked for in our words, as the comment has it."""
        return dict(word.partition("=")[::2] for word in self.comment.split(" ")[1:] if "=" in word)

    @property
    def gpus(self) -> int:
        """How many GPUs were asked for."""
        return parse_integer(self.wish.get("g", "")) or 0

    @property
    def priority(self) -> int:
        """The priority in our words."""
        return parse_integer(self.wish.get("p", "")) or 0

    @property
    def is_ours(self) -> bool:
        """Whether gpurun submitted it."""
        return self.comment.startswith(MARK)

    @property
    def status(self) -> int | None:
        """How it ended as a shell says it; None while nobody knows."""
        if self.signal:
            return 128 + self.signal
        return self.code

    @property
    def result(self) -> str:
        """How it ended, in words."""
        if self.raw == "UNKNOWN":
            return "unknown"
        how = f"signal {self.signal}" if self.signal else f"exit {self.code}" if self.code is not None else ""
        cause = ENDS.get(self.raw, "")
        return f"{how}, {cause}" if how and cause and how != "exit 0" else cause or how or self.raw.lower()


def jobs_of(text: str) -> list[SlurmJob]:
    """Read what squeue printed in FORMAT."""
    found = []
    for line in text.splitlines():
        fields = line.split("|", FIELDS - 1)
        if len(fields) != FIELDS or not fields[0].isdigit():
            continue
        job = SlurmJob()
        job.base, index, raw, job.reason, rank, nice, elapsed, limit, nodes, job.partition = fields[:10]
        job.index = "" if index == "N/A" else index if index.isdigit() else f"[{index}]"
        job.raw = first_word(raw)
        job.rank, job.nice = parse_integer(rank) or 0, (parse_integer(nice) or 0)
        job.elapsed = seconds_of(elapsed)
        job.limit, job.nodes = limit, "" if nodes in ("N/A", "(null)") else nodes
        job.submitted, job.started, job.comment, job.name = date_of(fields[10]), date_of(fields[11]), fields[12], fields[13]
        found.append(job)
    return found


def first_word(state: str) -> str:
    """Return a state's first word: `CANCELLED by 123`, `CANCELLED+`."""
    return state.split(" ", 1)[0].rstrip("+")


def date_of(text: str) -> str:
    """Return a date, nothing for those that Slurm writes where there is none."""
    return text if text[:4].isdigit() else ""


def seconds_of(text: str) -> float:
    """Read an elapsed time: `[D-][[H:]M:]S`."""
    days, dash, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + (parse_integer(part) or 0)
    return float(total + 86400 * (parse_integer(days) or 0 if dash else 0))


def from_sacct(text: str) -> list[SlurmJob]:
    """Read what `sacct -X -P -n` printed of SACCT_FIELDS."""
    found = []
    for line in text.splitlines():
        fields = line.split("|", 9)
        if len(fields) != 10 or not fields[0][:1].isdigit():
            continue
        job = SlurmJob()
        job.base, _, job.index = fields[0].partition("_")
        job.raw = first_word(fields[1])
        _end(job, fields[2])
        job.submitted, job.started, job.ended = (date_of(field) for field in fields[3:6])
        job.elapsed = float(parse_integer(fields[6]) or 0)
        job.nodes, job.comment, job.name = fields[7], fields[8], fields[9]
        found.append(job)
    return found


def from_scontrol(text: str) -> list[SlurmJob]:
    """Read what `scontrol show job` printed: pairs of NAME=VALUE, a blank line between jobs."""
    found = []
    for block in text.split("\n\n"):
        pairs: dict[str, str] = {}
        for line in block.splitlines():
            line = line.strip()
            name, equals, value = line.partition("=")
            if name in ("Comment", "StdOut", "Command", "WorkDir"):
                pairs[name] = value.strip()
                continue
            for word in line.split(" "):
                name, equals, value = word.partition("=")
                if equals:
                    pairs.setdefault(name, value)
            if line.startswith("JobId=") and " JobName=" in line:
                pairs["JobName"] = line.partition(" JobName=")[2]
        if "JobId" not in pairs:
            continue
        job = SlurmJob()
        job.base, job.index = pairs.get("ArrayJobId", pairs["JobId"]), pairs.get("ArrayTaskId", "")
        job.raw, job.reason = first_word(pairs.get("JobState", "")), pairs.get("Reason", "")
        if job.state == "ended":
            _end(job, pairs.get("ExitCode", ""))
        job.submitted, job.started = date_of(pairs.get("SubmitTime", "")), date_of(pairs.get("StartTime", ""))
        job.ended = date_of(pairs.get("EndTime", ""))
        job.elapsed = seconds_of(pairs.get("RunTime", "0"))
        nodes = pairs.get("NodeList", "")
        job.nodes = "" if nodes == "(null)" else nodes
        job.comment, job.name, job.partition = pairs.get("Comment", ""), pairs.get("JobName", ""), pairs.get("Partition", "")
        job.rank, job.nice = parse_integer(pairs.get("Priority", "")) or 0, parse_integer(pairs.get("Nice", "")) or 0
        job.limit = pairs.get("TimeLimit", "")
        found.append(job)
    return found


def _end(job: SlurmJob, exit_code: str) -> None:
    """Read `code:signal`."""
    code, _, signal = exit_code.partition(":")
    job.code = parse_integer(code)
    job.signal = parse_integer(signal) or None
    if job.signal is not None and job.signal > 64:  # of a step that srun ended: 128 and the signal
        job.signal -= 128


def settings_of(text: str) -> dict[str, str]:
    """Read `scontrol show config`: NAME = VALUE on each line."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
