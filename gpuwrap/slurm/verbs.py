"""Verbs on both queues at once: what names jobs of Slurm's goes to Slurm, the rest to the verb of this machine.

Loaded only where something was handed to Slurm before, or a word names such a job.
"""

import sys
from collections.abc import Callable
from typing import Any

from ..commands.asking import Given
from ..errors import SOME_FAILED, GpurunError, UsageError
from ..units import parse_integer, parse_priority
from . import record
from .engine import Slurm
from .names import Name
from .reading import SlurmJob
from .selecting import Local, live, split
from .site import read_site

VERBS = ("ls", "kill", "renice", "pause", "resume", "why", "logs", "wait", "history", "set", "again", "completion")


def concerns(verb: str, given: Given) -> bool:
    """Whether a verb may have to do with Slurm: not one that speaks of simulated GPUs by its own option."""
    return "on" in given or (verb in VERBS and record.is_used() and not given.get("sim"))


def run(verb: str, given: Given, operands: list[str], local: Local) -> int:
    """Run a verb on both queues; exit as the worse of the two."""
    if verb == "doctor":
        from .checking import doctor

        return doctor(given, operands, local)
    if verb == "ls":
        from .lists import ls

        return ls(given, operands)
    if verb == "history" and not given.keys().isdisjoint(("by", "day", "plot")):
        return local(given, operands)  # sums and pictures are of this machine's GPUs
    if verb == "history":
        from .lists import history

        return history(given, operands, local)
    if verb == "completion":
        from .lists import complete

        return complete(given, operands, local)
    engine = Slurm(read_site())
    first = operands[:1] if verb == "renice" and "by" not in given else []
    names, rest = split(operands[len(first) :], engine)
    if given.get("all"):
        names += [Name(each, "") for each in dict.fromkeys(job.base for job in live(engine))]
    status = 0
    if rest or (not names):
        if verb == "why" and not operands and (own := _first_waiting(engine)) is not None:
            names = [own]
        else:
            status = local(given, [*first, *rest])
    elif "all" in given and _has_local_jobs():
        status = local(given, [*first, *rest])
    if not names:
        return status
    sys.stdout.flush()
    return max(status, Doing(verb, given, engine).do(names, first))


def _first_waiting(engine: Slurm) -> Name | None:
    """The first job of Slurm's that waits, if none of this machine does."""
    from ..commands.asking import World
    from ..lifecycle import IN_LINE

    if any(job.state in IN_LINE for job in World({}).live()):
        return None
    waiting = [job for job in live(engine) if job.state in ("waiting", "held")]
    return Name(waiting[0].base, "") if waiting else None


def _has_local_jobs() -> bool:
    from ..commands.asking import World

    return bool(World({}).live())


class Doing:
    """One verb on jobs of Slurm's."""

    def __init__(self, verb: str, given: Given, engine: Slurm) -> None:
        self.verb, self.given, self.engine = verb, given, engine

    def do(self, names: list[Name], first: list[str]) -> int:
        """Do it to each; exit 1 if one could not be done. Raises UsageError."""
        if self.verb in ("logs", "wait"):
            from .waiting import logs, wait

            return (logs if self.verb == "logs" else wait)(self.given, names, self.engine)
        act = self._act(first)
        status = 0
        for name in names:
            try:
                text = act(name)
            except GpurunError as err:
                sys.stdout.flush()
                sys.stderr.write(f"gpurun: {self.verb}: {name}: {err.report()}\n")
                status = SOME_FAILED
                continue
            if text:
                print(text if self.verb == "why" else f"{name}: {text}")
        return status

    def _act(self, first: list[str]) -> Callable[[Name], str]:
        if self.verb == "renice":
            if "by" in self.given:
                step = parse_integer(str(self.given["by"]))
                if step is None:
                    raise UsageError(f"--by {self.given['by']}: not a number")
                return lambda name: self._renice(name, None, step)
            if not first:
                raise UsageError("PRIORITY missing", hint="usage: gpurun renice PRIORITY JOB...")
            priority = parse_priority(first[0])
            return lambda name: self._renice(name, priority, 0)
        if self.verb == "set":
            values = self._changes()
            return lambda name: self._change(name, values)
        acts = {"kill": self._kill, "pause": self._pause, "resume": self._resume, "why": self._why, "again": self._again}
        return acts[self.verb]

    def _known(self, name: Name) -> list[SlurmJob]:
        jobs = [job for job in self.engine.look_up(name.number) if name.holds(job.index) or job.index.startswith("[")]
        if not jobs:
            raise GpurunError("no such job", status=SOME_FAILED)
        return jobs

    def _kill(self, name: Name) -> str:
        if "requeue" in self.given:
            self.engine.requeue(name.job)
            return "ended, and put into the line again: Slurm lets it wait two minutes"
        signal_text = self.given.get("signal")
        signal_name = None
        if isinstance(signal_text, str):
            import signal

            from ..commands.kill import signal_number

            signal_name = signal.Signals(signal_number(signal_text)).name.removeprefix("SIG")
        jobs = self._known(name)
        if all(job.state == "ended" for job in jobs):
            raise GpurunError("has already ended", status=SOME_FAILED)
        waits = all(job.state in ("waiting", "held", "ended") for job in jobs)
        self.engine.cancel(name.job, None if waits else signal_name)
        if waits:
            return "taken out of the line"
        return "asked to end (TERM), KILL follows by the site's KillWait" if signal_name is None else f"SIG{signal_name} sent"

    def _renice(self, name: Name, priority: int | None, step: int) -> str:
        jobs = [job for job in self._known(name) if job.state != "ended"]
        if not jobs:
            raise GpurunError("has already ended", status=SOME_FAILED)
        if jobs[0].state not in ("waiting", "held"):
            raise GpurunError("runs already: Slurm orders only what waits", status=SOME_FAILED)
        old = jobs[0].priority
        new = max(-100, min(100, old + step)) if priority is None else priority
        done = self.engine.renice(name.job, new)
        return f"{old} -> {new}: {done}"

    def _pause(self, name: Name) -> str:
        jobs = self._known(name)
        if any(job.state in ("running", "granted") for job in jobs):
            raise GpurunError("runs: Slurm lets only administrators suspend a job, and its GPUs stay taken", status=SOME_FAILED)
        if all(job.state == "ended" for job in jobs):
            raise GpurunError("has already ended", status=SOME_FAILED)
        self.engine.hold(name.job, held=True)
        return "held in Slurm's line"

    def _resume(self, name: Name) -> str:
        jobs = self._known(name)
        if not any(job.state in ("held", "waiting") for job in jobs):
            raise GpurunError("is not held", status=SOME_FAILED)
        self.engine.hold(name.job, held=False)
        return "let go"

    def _why(self, name: Name) -> str:
        jobs = self._known(name)
        job = next((job for job in jobs if job.state in ("waiting", "held")), jobs[0])
        what = f"{name} ({job.name})" if job.name else str(name)
        if job.state == "ended":
            return f"{what} does not wait: it ended: {job.result}."
        if job.state not in ("waiting", "held"):
            where = f" on {job.nodes}" if job.nodes else ""
            return f"{what} does not wait: {job.state}{where}."
        sentences, helps = self.engine.why(job)
        lines = [f"{what} waits in Slurm's line: {'. '.join(sentences)}."]
        if helps:
            lines += ["What would help:", *(f"  {text}" for text in helps)]
        return "\n".join(lines)

    def _again(self, name: Name) -> str:
        del name
        raise GpurunError("Slurm's jobs are not run again from here: type the command again", status=SOME_FAILED)

    def _changes(self) -> dict[str, Any]:
        from ..launch.request import read_request

        words = {key: value for key, value in self.given.items() if key not in ("all", "sim")}
        if not words:
            raise UsageError("nothing to change")
        for option in ("memory", "exclusive", "device", "not", "wait"):
            if option in words:
                raise UsageError(f"--{option}: of a job of Slurm's only -g, -p, -t and -N can be changed")
        if words.get("time") == "none":
            return {**read_request({key: value for key, value in words.items() if key != "time"}), "time": None}
        return read_request(words)

    def _change(self, name: Name, values: dict[str, Any]) -> str:
        pairs, told = [], []
        if values.get("gpus") is not None:
            kind = f"gpu:{self.engine.site.gpu}" if self.engine.site.gpu else "gpu"
            pairs.append(f"Gres={kind}:{values['gpus']}")
            told.append(f"{values['gpus']} GPUs")
        if "time" in values:
            minutes = None if values["time"] is None else max(1, int(-(-float(values["time"]) // 60)))
            pairs.append(f"TimeLimit={'UNLIMITED' if minutes is None else minutes}")
            told.append("no time limit" if minutes is None else f"time limit {minutes} min")
        if "name" in values:
            pairs.append(f"JobName={values['name']}")
            told.append(f"name {values['name']}")
        self._known(name)
        if pairs:
            self.engine.change(name.job, *pairs)
        if "priority" in values:
            told.append(self._renice(name, int(values["priority"]), 0))
        return ", ".join(told)
