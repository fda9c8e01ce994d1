"""Slurm behind the small interface (interface.py) that verbs and launches see.

1. All jobs are asked for at once, and at most every `FRESH_SECONDS`: a site's controller serves everybody.
2. A job that the queue does not list any more is asked of what keeps records, then of our own; else it is unknown. No row
   never means that it failed.
"""

import os

from ..clocks import file_age
from ..errors import GpurunError
from ..units import format_duration
from . import record, tools
from .reading import FORMAT, SACCT_FIELDS, SlurmJob, from_sacct, from_scontrol, jobs_of
from .reasons import sentence, what_helps
from .site import Site

FRESH_SECONDS = 5.0
# A Tab waits no longer for an answer.
IMPATIENT_SECONDS = 0.5
CACHE = "squeue"


class Slurm:
    """Slurm, by its own commands."""

    def __init__(self, site: Site | None = None) -> None:
        self.site = site or Site()

    # --- what lives ---------------------------------------------------------------------------------------------

    def submit(self, options: list[str], script: bytes) -> str:
        """Hand a script to sbatch."""
        output = tools.ask("sbatch", "--parsable", *options, stdin=script).strip().splitlines()
        number, _, _cluster = (output[-1] if output else "").partition(";")
        if not number.isdigit():
            raise GpurunError(f"sbatch: no job number in what it printed: {' '.join(output)[:80] or 'nothing'}")
        self.forget()
        return number

    def listed(self, *, fresh: bool = False, patient: bool = True) -> list[SlurmJob]:
        """Ask squeue once for all; what others of this user's processes asked less than 5 s ago is good enough."""
        text = None if fresh else _cached()
        if text is None:
            seconds = tools.CALL_SECONDS if patient else IMPATIENT_SECONDS
            text = tools.ask("squeue", "--noheader", "--me", f"--format={FORMAT}", seconds=seconds)
            _cache(text)
        jobs = [job for job in jobs_of(text) if job.is_ours]
        return [job for job in jobs if job.state != "ended"]

    def forget(self) -> None:
        """Something was changed: what squeue said before is not good enough any more."""
        _uncache()

    def look_up(self, job: str) -> list[SlurmJob]:
        """Return what is known of a job, live or ended, rows of an array each: Slurm's memory, its accounts, our record."""
        answer = tools.call("scontrol", "show", "job", job)
        found = [] if answer.status else from_scontrol(answer.output)
        if not found and answer.status and tools.is_down(answer.errors):
            raise tools.refusal("scontrol", answer.errors)
        if not found:
            done = tools.call("sacct", "-X", "-P", "-n", "-j", job, "-o", SACCT_FIELDS)
            found = from_sacct(done.output) if done.status == 0 else []
        entry = record.read(job.partition("_")[0])
        if not found and entry is not None:
            found = [_recorded(job, entry)]
        for each in found:
            _complete(each, entry)
        _keep(found)
        return found

    # --- what is changed ----------------------------------------------------------------------------------------

    def cancel(self, job: str, signal: str | None = None) -> None:
        """scancel; a signal reaches the program of a batch job, too (--full)."""
        words = ["scancel"] if signal is None else ["scancel", "--full", f"--signal={signal}"]
        answer = tools.call(*words, job)
        self.forget()
        if answer.status or "error" in answer.errors:
            raise tools.refusal("scancel", answer.errors)

    def renice(self, job: str, priority: int) -> str:
        """Nice alone: a priority that is set would stick."""
        nice = max(0, -priority) * self.site.nice_step
        tools.ask("scontrol", "update", f"JobId={job}", f"Nice={nice}")
        self.forget()
        entry = record.read(job.partition("_")[0])
        comment = None if entry is None else entry.values.get("comment")
        if comment:
            words = [f"p={priority}" if word.startswith("p=") else word for word in comment.split(" ")]
            tools.call("scontrol", "update", f"JobId={job}", f"Comment={' '.join(words)}")
            record.note(job.partition("_")[0], comment=" ".join(words))
        return f"nice {nice} in Slurm" + ("; nobody may raise his own above 0" if priority > 0 else "")

    def hold(self, job: str, held: bool) -> None:
        """Hold it as its owner would, who may let it go again, also where root asks; or let it go."""
        tools.ask("scontrol", "uhold" if held else "release", job)
        self.forget()

    def requeue(self, job: str) -> None:
        """scontrol requeue."""
        tools.ask("scontrol", "requeue", job)
        self.forget()

    def change(self, job: str, *pairs: str) -> None:
        """scontrol update."""
        tools.ask("scontrol", "update", f"JobId={job}", *pairs)
        self.forget()

    # --- what is told -------------------------------------------------------------------------------------------

    def why(self, job: SlurmJob) -> tuple[list[str], list[str]]:
        """The reason in a sentence, when it is expected to start, and what would help."""
        sentences = [sentence(job.reason)]
        begins = tools.call("squeue", "--noheader", "--start", f"--jobs={job.base}", "--format=%S|%Y")
        expected = begins.output.partition("\n")[0].partition("|")[0] if not begins.status else ""
        if expected[:4].isdigit():
            sentences.append(f"Slurm expects to start it at {expected.replace('T', ' ')}")
        if job.rank <= 1 and job.nice > 0:
            sentences.append("this cluster does not heed nice: its priority is as low as it can be anyway")
        help = what_helps(job.reason)
        return sentences, [help] if help else []

    def history(self, since: str | None) -> list[SlurmJob]:
        """Ended jobs, of sacct where there is accounting, else of our own record as far as it was seen."""
        window = since or "now-30days"
        fields = ("-X", "-P", "-n", "-S", window, "-o", SACCT_FIELDS)
        done = tools.call("sacct", *fields)
        accounted = {each.job: each for each in from_sacct(done.output)} if done.status == 0 else {}
        live = {each.base for each in self.listed(fresh=True)}
        remembered: dict[str, list[SlurmJob]] | None = None
        found = []
        for number in record.jobs():
            entry = None if number in live else record.read(number)
            if entry is None:
                continue
            rows = [each for each in accounted.values() if each.base == number and each.state == "ended"]
            if not rows and "state" not in entry.values:
                if remembered is None:
                    remembered = self._remembered()
                rows = [each for each in remembered.get(number, []) if each.state == "ended"]
                _keep(rows)
            for each in rows or [_recorded(number, entry)]:
                _complete(each, entry)
                if since is None or not each.submitted or each.submitted >= since:
                    found.append(each)
        return found

    def _remembered(self) -> dict[str, list[SlurmJob]]:
        """Return what the controller still knows of jobs, ended ones too (MinJobAge), in one question."""
        answer = tools.call("scontrol", "show", "job")
        rows: dict[str, list[SlurmJob]] = {}
        for each in from_scontrol(answer.output) if answer.status == 0 else []:
            rows.setdefault(each.base, []).append(each)
        return rows


def _keep(rows: list[SlurmJob]) -> None:
    """Note in our record how a job ended: Slurm forgets it in some minutes."""
    for each in rows:
        entry = record.read(each.base)
        if entry is not None and "state" not in entry.values and each.state == "ended" and each.raw != "UNKNOWN":
            _uncache()  # which lists it, perhaps
        if each.state == "ended" and not each.index and each.raw != "UNKNOWN":
            record.note(each.base, state=each.raw, code=each.code, signal=each.signal, ended=each.ended, started=each.started,
                        elapsed=f"{each.elapsed:g}", nodes=each.nodes)  # fmt: skip


def _complete(job: SlurmJob, entry: record.Entry | None) -> None:
    """Add from our record what Slurm did not say."""
    if entry is not None:
        job.comment = job.comment or entry.values.get("comment", "")
        job.name = job.name or entry.values.get("name", "")


def _recorded(job: str, entry: record.Entry) -> SlurmJob:
    """Return a job as our record has it: unknown, if nobody saw how it ended."""
    found = SlurmJob()
    found.base, _, found.index = job.partition("_")
    found.raw = entry.values.get("state", "UNKNOWN")
    code, signal = entry.number("code"), entry.number("signal")
    found.code, found.signal = None if code is None else int(code), int(signal) if signal else None
    found.elapsed = entry.number("elapsed") or 0.0
    found.started, found.ended = entry.values.get("started", ""), entry.values.get("ended", "")
    found.submitted, found.nodes = entry.values.get("date", ""), entry.values.get("nodes", "")
    _complete(found, entry)
    return found


# --- what squeue said a moment ago --------------------------------------------------------------------------------


def _cached() -> str | None:
    path = os.path.join(record.root(), record.cluster_key(), CACHE)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            if 0 <= file_age(os.fstat(file.fileno()).st_mtime) < FRESH_SECONDS:
                return file.read()
    except OSError:
        return None
    return None


def _cache(text: str) -> None:
    try:
        path = os.path.join(record.folder(), CACHE)
        with open(f"{path}.{os.getpid()}~", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(f"{path}.{os.getpid()}~", path)
    except (OSError, GpurunError):
        return


def _uncache() -> None:
    try:
        os.unlink(os.path.join(record.root(), record.cluster_key(), CACHE))
    except OSError:
        return


def ran_for(job: SlurmJob) -> str:
    """Write how long a job has run."""
    return format_duration(job.elapsed)
