"""Watches for jobs that compute where they were granted nothing, and tells those whom it concerns.

What was told stands in the database, so that no successor says it again: to the job's own terminal once in each attempt for
each GPU, to that of each job that was granted the GPU once.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ...host import processes
from ...host.devices import Look
from ...lifecycle import STARTED
from ...model import Job
from ...policy import astray
from ...policy.astray import Stray
from ..log import log
from ..telling.notices import tell

if TYPE_CHECKING:
    from ..loop import Arbiter

_VARIABLE = astray.VARIABLE.encode()


class Astray:
    """Knows who computes elsewhere, as of the last look."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter, self._store = arbiter, arbiter.store
        self._turn = arbiter.turn
        self._told = arbiter.notes.told_astray
        self._strays: dict[int, list[Stray]] = {}

    def note(self, look: Look, used: dict[int, dict[str, int | None]]) -> None:
        """Take in a look, and what it shows that jobs hold."""
        found: dict[int, list[Stray]] = {}
        for stray in astray.find(self._store.live, used, {sample.uuid: sample.index for sample in look.samples}):
            found.setdefault(stray.job_id, []).append(self._looked_at(look, stray))
        self._strays = found
        for job_id, strays in found.items():
            self._tell(self._store.live[job_id], strays)

    def on(self, job_id: int, uuid: str) -> Stray | None:
        """Return what a job is on a GPU that it was not granted."""
        return next((stray for stray in self._strays.get(job_id, ()) if stray.uuid == uuid), None)

    def words(self, job: Job) -> tuple[str, list[str]] | None:
        """Say where a job computes that it should not, and what would help; None if it does not."""
        strays = self._strays.get(job.id)
        if not strays:
            return None
        return astray.there(strays), [astray.SUDO_HELP] if strays[0].cause is astray.Cause.SUDO else []

    def forget(self, job: Job) -> None:
        """A job has ended."""
        self._strays.pop(job.id, None)
        self._told.drop(job.id)

    def _looked_at(self, look: Look, stray: Stray) -> Stray:
        found = self._arbiter.owners.processes_on(look, stray.uuid, stray.job_id)
        if not found:
            return stray  # it has just ended
        pid, leader = found[0].pid, self._store.live[stray.job_id].identity.pid
        cause = astray.cause(_has_variable(pid), _is_below_sudo(pid, leader), draws=found[0].graphics)
        return replace(stray, pid=pid, cause=cause)

    def _tell(self, job: Job, strays: list[Stray]) -> None:
        told = list(self._told.get(job.id) or [])
        for stray in strays:
            own = f"{job.attempt}:{stray.index}"
            is_inner = any(each != job.id and self._store.is_inside(each, job.id) for each in self._on_gpu(stray.uuid))
            if own not in told and not is_inner:
                told.append(own)
                log("astray", f"job {job.id}: {astray.there([stray])}")
                self._say(self._on_its_terminal(job, stray), astray.notice(stray))
            for other in self._granted(stray):
                if str(other.id) not in told:
                    told.append(str(other.id))
                    self._say(other, astray.notice_beside(stray, other))
        if told:
            self._told.put(job.id, told)

    def _on_gpu(self, uuid: str) -> Iterable[int]:
        return [job_id for job_id in self._strays if self.on(job_id, uuid)]

    def _granted(self, stray: Stray) -> list[Job]:
        """Return the running jobs that were granted the GPU, but for those inside the stray or around it."""
        store = self._store
        return [
            job
            for job in store.holding.values()
            if job.state in STARTED
            and any(share.uuid == stray.uuid for share in job.shares)
            and not store.is_inside(job.id, stray.job_id)
            and not store.is_inside(stray.job_id, job.id)
        ]

    def _on_its_terminal(self, job: Job, stray: Stray) -> Job:
        """Return the job as its program below sudo would be: sudo gives that a terminal, and has put its own into raw mode."""
        program = processes.identify(stray.pid) if stray.cause is astray.Cause.SUDO and stray.pid is not None else None
        return job if program is None or processes.output_target(program.pid, 2) is None else replace(job, identity=program)

    def _say(self, job: Job, text: str) -> None:
        self._turn.do(lambda: tell(job, text))


def _has_variable(pid: int) -> bool | None:
    """Whether a process was started with the variable; None if that cannot be read, or was wiped (setproctitle)."""
    environment = processes.environment(pid)
    if b"\0" + _VARIABLE + b"=" in environment:
        return True
    is_empty = environment == b"\0\0" and os.access(f"/proc/{pid}/environ", os.R_OK)
    return False if is_empty or b"=" in environment else None


def _is_below_sudo(pid: int, leader: int) -> bool:
    for stat in processes.ancestors(pid):
        if processes.name(stat.pid) == b"sudo":
            return True
        if stat.pid == leader:
            break
    return False
