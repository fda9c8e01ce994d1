"""`ls`, `history` and the completion for both queues."""

import os
import sys
from datetime import datetime
from typing import Any

from ..clocks import Now
from ..commands.asking import Given, my_name
from ..errors import SOME_FAILED, GpurunError
from ..listing import Elsewhere
from ..policy.words import command, safe
from ..standing import Standing
from ..sweeps import in_words
from ..tables import Screen, Table, draw
from ..units import format_duration, format_size, parse_integer
from . import record
from .engine import Slurm
from .names import Name
from .reading import SlurmJob
from .reasons import sentence
from .selecting import Local, split
from .site import read_site

NAME_LENGTH = 40


class Listed:
    """Jobs of Slurm's as `ls` shows them; what cannot be asked is said once."""

    def __init__(self, engine: Slurm, names: list[Name] | None, user: str | None, *, ended: bool) -> None:
        self.engine, self.names, self.user, self.ended = engine, names, user, ended
        self.missing: list[str] = []
        self._told = False

    def jobs(self) -> list[SlurmJob]:
        """Return the jobs to show."""
        if self.user is not None and self.user != my_name():
            return []
        try:
            jobs = self.engine.listed()
            if self.names is not None:
                jobs = self._named(jobs)
            elif self.ended:
                jobs = [*self.engine.history(None), *jobs]
        except GpurunError as err:
            if not self._told:
                sys.stdout.flush()
                sys.stderr.write(f"gpurun: ls: {err.report()}\n")
            self._told = True
            return []
        return jobs

    def _named(self, live: list[SlurmJob]) -> list[SlurmJob]:
        found: list[SlurmJob] = []
        self.missing = []
        for name in self.names or ():
            jobs = [job for job in live if job.base == name.number and (name.holds(job.index) or job.index.startswith("["))]
            jobs = jobs or [job for job in self.engine.look_up(name.number) if name.holds(job.index)]
            if not jobs:
                self.missing.append(str(name))
            found += jobs
        return found

    def rows(self) -> list[Elsewhere]:
        """Return the rows of the table: alike rows of a sweep in one."""
        alike: dict[tuple[str, str], list[SlurmJob]] = {}
        for job in self.jobs():
            alike.setdefault((job.base, job.state if job.index else job.job), []).append(job)
        now = Now.here()
        return [_row(jobs, now) for jobs in alike.values()]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the jobs for programs."""
        return [as_json(job) for job in self.jobs()]


def ls(given: Given, operands: list[str]) -> int:
    """List both queues."""
    from ..commands.ls import main as here

    engine = Slurm(read_site())
    names, rest = split(operands, engine) if operands else ([], [])
    user = given.get("user")
    if operands and not names:
        return here(given, operands)
    other = Listed(engine, names if operands else None, user if isinstance(user, str) else None, ended="all" in given)
    status = here(given, rest, other) if rest or not operands else _only(other, given)
    sys.stdout.flush()
    for name in other.missing:
        sys.stderr.write(f"gpurun: ls: job {name}: no such job\n")
    return max(status, SOME_FAILED if other.missing else 0)


def _only(other: Listed, given: Given) -> int:
    """Jobs of Slurm's alone were named."""
    if "json" in given:
        import json

        print(json.dumps({"jobs": [], "slurm": other.as_json()}))
        return 0
    from ..listing import jobs_as_table

    rows = other.rows()
    if rows:
        print("\n".join(jobs_as_table([], Standing(), [], Now.here(), Screen.of_stdout(), rows)))
    return 0


def numbers_of(jobs: list[SlurmJob]) -> str:
    """Name the rows of a sweep in few words."""
    first = jobs[0]
    indices = [job.index.strip("[]").partition("%")[0] for job in jobs]
    if len(jobs) == 1:
        return f"s{first.base}" + (f"_{indices[0]}" if indices[0] else "")
    numbers = sorted(int(index) for index in indices if index.isdigit())
    return f"s{first.base}_{in_words(numbers)}" if len(numbers) == len(jobs) else f"s{first.base}_{','.join(indices)}"


def _row(jobs: list[SlurmJob], now: Now) -> Elsewhere:
    job = jobs[0]
    waits = job.state in ("waiting", "held")
    gpus = "none" if not job.gpus else "any" if job.gpus == 1 and waits else f"any {job.gpus}" if waits else str(job.gpus) + "×"
    memory = parse_integer(job.wish.get("m", ""))
    size = format_size(memory) if memory else "whole" if job.gpus else ""
    times = f"{len(jobs)}×  " if len(jobs) > 1 else ""
    where = ",".join(dict.fromkeys(each.nodes for each in jobs if each.nodes))
    state = job.result if job.state == "ended" else job.state
    note = sentence(job.reason).replace("%N", "of its limit") if waits else ""
    cells = [numbers_of(jobs), state, str(job.priority), gpus, size, _time(job, now), times + _what(job)]
    return Elsewhere(cells, f"slurm {safe(where, 20)}".rstrip(), my_name(), note)


def _what(job: SlurmJob) -> str:
    entry = record.read(job.base)
    program = command(entry.argv) if entry is not None and entry.argv and entry.argv != [b"sweep"] else ""
    name = safe(job.name, NAME_LENGTH)
    if not program or program.split(" ")[0] == name:
        return program or name
    return f"{name}: {program}"


def _time(job: SlurmJob, now: Now) -> str:
    if job.state in ("waiting", "held") and job.submitted:
        try:
            return format_duration(now.since(datetime.fromisoformat(job.submitted).timestamp(), None, ""))
        except ValueError:
            return ""
    return format_duration(job.elapsed)


def as_json(job: SlurmJob) -> dict[str, Any]:
    """One job of `slurm` in `ls --json`."""
    entry = record.read(job.base)
    return {
        "id": f"s{job.job}",
        "name": job.name or None,
        "state": job.state,
        "priority": job.priority,
        "gpus": job.gpus,
        "nodes": job.nodes or None,
        "partition": job.partition or None,
        "argv": None if entry is None else [word.decode("utf-8", "surrogateescape") for word in entry.argv],
        "submitted_at": job.submitted or None,
        "started_at": job.started or None if job.state not in ("waiting", "held") else None,
        "ended_at": job.ended or None,
        "result": _result_as_json(job) if job.state == "ended" else None,
        "why": {"rule": job.reason, "text": sentence(job.reason)} if job.state in ("waiting", "held") else None,
    }


def _result_as_json(job: SlurmJob) -> dict[str, Any]:
    return {"state": job.raw, "code": job.code, "signal": job.signal, "text": job.result}


# --- history ------------------------------------------------------------------------------------------------------


def history(given: Given, operands: list[str], local: Local) -> int:
    """What ran in both queues, this machine's first."""
    engine = Slurm(read_site())
    names, rest = split(operands, engine) if operands else ([], [])
    jobs: list[SlurmJob] = []
    missing: list[str] = []
    user = given.get("user")
    try:
        if names:
            for name in names:
                found = [job for job in engine.look_up(name.number) if name.holds(job.index) and job.state == "ended"]
                jobs += found
                missing += [] if found else [str(name)]
        elif not operands and user in (None, my_name()):
            jobs = engine.history(_since(given))
    except GpurunError as err:
        sys.stderr.write(f"gpurun: history: {err.report()}\n")
    most = parse_integer(str(given["lines"])) if "lines" in given else None
    jobs = jobs if most is None else jobs[len(jobs) - min(len(jobs), most) :]
    status = 0
    if "json" in given:
        status = _history_json(given, rest, local, jobs, skip=bool(operands) and not rest)
    else:
        if rest or not operands:
            status = _local_history(given, rest, local, quiet=bool(jobs))
        if jobs:
            print("\n".join(_history_table(jobs)))
    sys.stdout.flush()
    for word in missing:
        sys.stderr.write(f"gpurun: history: job {word}: has not ended, or is no job\n")
    return max(status, SOME_FAILED if missing else 0)


def _since(given: Given) -> str | None:
    if "since" not in given:
        return None
    from ..clocks import wall_at
    from ..commands.history import since_when

    at = since_when(str(given["since"]), datetime.fromtimestamp(wall_at()))
    return datetime.fromtimestamp(at).strftime("%Y-%m-%dT%H:%M:%S")


def _local_history(given: Given, rest: list[str], local: Local, *, quiet: bool) -> int:
    """This machine's; it does not say that there are none where Slurm has some."""
    import contextlib
    import io

    printed = io.StringIO()
    if not quiet:
        return local(given, rest)
    with contextlib.redirect_stdout(printed):
        status = local(given, rest)
    if printed.getvalue() != "no jobs\n":
        sys.stdout.write(printed.getvalue() + "\n")
    return status


def _history_json(given: Given, rest: list[str], local: Local, jobs: list[SlurmJob], *, skip: bool) -> int:
    import contextlib
    import io
    import json

    printed = io.StringIO()
    status = 0
    if not skip:
        with contextlib.redirect_stdout(printed):
            status = local(given, rest)
    found = json.loads(printed.getvalue()) if printed.getvalue() else {"jobs": []}
    print(json.dumps(found | {"slurm": [as_json(job) for job in jobs]}))
    return status


def _history_table(jobs: list[SlurmJob]) -> list[str]:
    rows, colours = [], []
    for job in jobs:
        entry = record.read(job.base)
        log = "" if entry is None or entry.log is None else "-d" if os.fsdecode(entry.log).startswith(record.root()) else "-o"
        ended = job.ended[:16].replace("T", " ") if job.ended else ""
        on = f"slurm {job.nodes}".rstrip()
        rows.append([f"s{job.job}", job.result, ended, format_duration(job.elapsed), log, on, _what(job)])
        colours.append("" if job.status == 0 else "31")
    header = ["JOB", "RESULT", "ENDED", "RAN", "LOG", "ON", "COMMAND"]
    return draw(Table(header, rows, colours, ("JOB",), ("LOG", "ENDED", "RAN")), Screen.of_stdout())


# --- completion ---------------------------------------------------------------------------------------------------

STATES = {"resume": ("held",), "pause": ("waiting",), "why": ("waiting", "held"), "renice": ("waiting", "held")}


def complete(given: Given, operands: list[str], local: Local) -> int:
    """Add the jobs of Slurm's to what a Tab offers; a controller that does not answer offers nothing."""
    status = local(given, operands)
    if operands[:1] != ["jobs"]:
        return status
    verb = operands[1] if len(operands) > 1 else ""
    try:
        jobs = [] if verb in ("again", "history") else Slurm().listed(patient=False)
    except GpurunError:
        jobs = []
    for job in jobs:
        if job.state in STATES.get(verb, (job.state,)):
            print(f"{numbers_of([job])}\t{safe(job.name, NAME_LENGTH)}  {job.state} on slurm")
    if verb in ("again", "history", "logs", "wait"):
        live = {job.base for job in jobs}
        for number in record.jobs()[-20:]:
            if number not in live and verb != "again":
                entry = record.read(number)
                print(f"s{number}\t{safe(entry.values.get('name', ''), NAME_LENGTH) if entry else ''}  on slurm")
    return status
