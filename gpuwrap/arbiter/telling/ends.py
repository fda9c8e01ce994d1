"""The command that is told of ends (`on_end`): run beside us, as us, and never waited for.

1. Only for jobs of the user that we are, and that ran for as long as `on_end_after` says; in a queue for several users nobody
   runs anything for others.
2. It is an argv, run without a shell; what the job is called is in its environment alone. It is not in the job, so none of its
   variables is the one that marks processes as a job's.
3. timeout(1) starts it, and ends it after `LIMIT_SECONDS`: so a folder that hangs holds nobody up here, and our own end
   changes nothing. At most `AT_ONCE` run, and at most `MOST_WAITING` wait for that.
"""

import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from ...host.processes import user_name
from ...model import Job, Result, ResultKind
from ...outputs import kept_in
from ...policy.words import command, safe, signal_name
from ...units import format_duration
from ..log import log

LIMIT_SECONDS, KILL_SECONDS = 30, 2
AT_ONCE, MOST_WAITING = 4, 200
LONGEST = 4000


class Watcher(Protocol):
    """Who registers descriptors with the loop."""

    def watch(self, fd: int, callback: Callable[[int], None]) -> None: ...

    def unwatch(self, fd: int) -> None: ...


class Ends:
    """Has ends told."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._waiting: deque[tuple[Sequence[str], Job]] = deque()
        self._running = 0

    def tell(self, job: Job, argv: Sequence[str], least_seconds: float) -> None:
        """Have the end of a job told, if it is one of ours, and ran for so long."""
        if not argv or job.started_mono is None or job.ended_mono is None or job.user != user_name(os.geteuid()):
            return
        if job.ended_mono - job.started_mono < least_seconds:
            return
        if len(self._waiting) >= MOST_WAITING:
            log("on_end", f"job {job.id}: not told, so many wait to be told already")
            return
        self._waiting.append((argv, job))
        self._run()

    def _run(self) -> None:
        while self._waiting and self._running < AT_ONCE:
            argv, job = self._waiting.popleft()
            timeout = shutil.which("timeout")
            if timeout is None:
                log("on_end", f"job {job.id}: not told: timeout(1) is not installed")
                continue
            words = [timeout, "-k", str(KILL_SECONDS), str(LIMIT_SECONDS), *argv]
            try:
                child = subprocess.Popen(
                    words, env={**os.environ, **facts_of(job)}, cwd="/", start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                pidfd = os.pidfd_open(child.pid)
            except OSError as err:
                log("on_end", f"job {job.id}: not told: {argv[0]}: {err}")
                continue
            self._running += 1
            self._watcher.watch(pidfd, partial(self._over, child, pidfd, job))

    def _over(self, child: "subprocess.Popen[bytes]", pidfd: int, job: Job, _mask: int) -> None:
        self._watcher.unwatch(pidfd)
        os.close(pidfd)
        self._running -= 1
        if status := child.wait():
            late = f" (after {LIMIT_SECONDS} s)" if status == 124 else ""
            log("on_end", f"job {job.id}: the command that is told of ends ended with {status}{late}")
        self._run()


def facts_of(job: Job) -> dict[str, str]:
    """Return what a command is told of an end, as variables."""
    result = job.result
    ran = (job.ended_mono or 0.0) - (job.started_mono or 0.0)
    path, _words = kept_in(job.output, job.id)
    name = f"{safe(job.name, 60)} " if job.name else ""
    text = f"job {job.id} {name}({command(job.argv)}): {_how(result)} after {format_duration(ran)}"
    waited = None if job.submitted_mono is None else (job.started_mono or 0.0) - job.submitted_mono
    facts = {
        "JOB": job.id, "NAME": job.name or "", "TEXT": text, "RESULT": _how(result),
        "KIND": result.kind.value if result is not None else "", "CODE": result.code if result is not None else None,
        "SIGNAL": result.signal if result is not None else None, "WHY": result.text if result is not None else None,
        "SECONDS": f"{ran:.0f}", "WAITED": None if waited is None else f"{max(0.0, waited):.0f}",
        "COMMAND": b" ".join(job.argv).decode("utf-8", "surrogateescape"), "FOLDER": os.fsdecode(job.cwd),
        "OUTPUT": os.fsdecode(path) if path is not None else "", "HOST": os.uname().nodename,
        "SUCCESS": int(result is not None and result.code == 0 and result.signal is None),
    }  # fmt: skip
    return {f"GPURUN_END_{key}": "" if value is None else str(value)[:LONGEST] for key, value in facts.items()}


def _how(result: Result | None) -> str:
    if result is None:
        return "ended"
    if result.kind is ResultKind.SIGNAL and result.signal is not None:
        return f"SIG{signal_name(result.signal)}"
    return f"exit {result.code}" if result.kind is ResultKind.EXIT else result.kind.value
