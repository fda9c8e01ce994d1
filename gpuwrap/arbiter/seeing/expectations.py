"""What jobs are expected to need, and who used the GPUs lately: learned from those that have ended, where anybody asks.

1. In order of arrival nothing here is asked, and nothing read: what has ended is looked up with the first question.
2. What a run has taught is added once it is written down; a successor learns it from the same rows.
3. An owner is a name, or where there is none a folder: all jobs of one queue are one person's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby

from ...lifecycle import STARTED, JobState
from ...model import Expected, Job, Order, View
from ...policy.expecting import Asked, Experience, PastRun
from ...policy.use import Use
from ...state.store import Store

# So many of the jobs that ended last are learned from.
MOST_RUNS = 3000
_STILL = (JobState.PAUSED, JobState.SUSPENDED)


class Expectations:
    """Answers for the jobs of one world."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._experience: Experience | None = None
        self._use = Use()
        self._sweeps: dict[int, list[float]] = {}
        """How long the rows of a sweep ran that have ended, by the sweep."""
        self._waiting: dict[int, tuple[object, Expected]] = {}
        self._stood: dict[int, tuple[float, float]] = {}

    def ordered(self, view: View, order: Order, now_mono: float) -> View:
        """Return a view whose line goes by an order, with what that asks for."""
        if order is Order.ARRIVAL:
            return view
        burden = self.burden(view.jobs, now_mono) if order is Order.FAIR else {}
        return replace(view, order=order, expected=self.expected(view.jobs, now_mono), burden=burden)

    def expected(self, jobs: Iterable[Job], now_mono: float) -> dict[int, Expected]:
        """Say what is left of each job; those that cannot run for their own sake (left behind) are left out."""
        experience = self._learned(now_mono)
        known, found = self._waiting, {}
        rows = self._rows(now_mono)
        of_sweep: dict[tuple[object, ...], Expected] = {}
        for job in jobs:
            if job.state is JobState.ENDED:
                continue
            if job.state in STARTED and job.started_mono is not None:
                found[job.id] = experience.expect(_asked(job, self.ran_seconds(job, now_mono), rows))
                continue
            if job.row is not None and job.row.sweep in rows:
                key = job.row.sweep, job.user, job.fingerprint, job.request, job.expect_seconds
                left = of_sweep.get(key)
                if left is None:
                    left = of_sweep[key] = experience.expect(_asked(job, 0.0, rows))
                found[job.id] = left
                continue
            before = known.get(job.id)
            if before is None or before[0] is not job.request:
                before = known[job.id] = job.request, experience.expect(_asked(job, 0.0, rows))
            found[job.id] = before[1]
        return found

    def burden(self, jobs: Iterable[Job], now_mono: float) -> dict[int, float]:
        """Return of each job the part of the recent use that its owner had, over an equal part."""
        self._learned(now_mono)
        owners = {job.id: owner_of(job.name, job.cwd) for job in jobs}
        running: dict[str, float] = {}
        for job in self._store.holding.values():
            if job.state in STARTED:
                owner = owner_of(job.name, job.cwd)
                running[owner] = running.get(owner, 0.0) + self.ran_seconds(job, now_mono) * job.request.gpus
        burdens = self._use.burdens(set(owners.values()), now_mono, running)
        return {job_id: burdens[owner] for job_id, owner in owners.items()}

    def ran_seconds(self, job: Job, now_mono: float) -> float:
        """Return for how long a job has run, without its pauses."""
        if job.started_mono is None:
            return 0.0
        stood = 0.0
        if job.returned_mono is not None:
            known = self._stood.get(job.id)
            if known is None or known[0] != job.returned_mono:
                seconds = self._store.paused_seconds_since([job.id], job.started_mono)
                known = self._stood[job.id] = job.returned_mono, seconds
            stood = known[1]
        until = job.paused_mono if job.state in _STILL and job.paused_mono is not None else now_mono
        return max(0.0, until - job.started_mono - stood)

    def note(self, job: Job, now_mono: float) -> None:
        """A job has ended, and that is written down."""
        self._waiting.pop(job.id, None)
        self._stood.pop(job.id, None)
        if self._experience is None or job.started_mono is None or job.ended_mono is None:
            return
        seconds = max(0.0, job.ended_mono - job.started_mono)
        self._use.add(owner_of(job.name, job.cwd), seconds * job.request.gpus, now_mono)
        if job.result is None or job.result.kind.value not in ("exit", "signal") or job.result.text is not None:
            return  # somebody ended it
        self._experience.add(PastRun(job.user, job.fingerprint, job.request.gpus, seconds))
        if job.row is not None:
            self._sweeps.setdefault(job.row.sweep, []).append(seconds)
        self._waiting.clear()

    def _rows(self, now_mono: float) -> Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Return of the sweeps that have begun how long their rows ran: of those that have ended, and so far."""
        running = [job for job in self._store.holding.values() if job.row is not None and job.state in STARTED]
        if not running and not self._sweeps:
            return {}
        so_far: dict[int, tuple[float, ...]] = {}
        for sweep, rows in groupby(sorted(running, key=_sweep_of), key=_sweep_of):
            so_far[sweep] = tuple([self.ran_seconds(job, now_mono) for job in rows])
        return {
            sweep: (tuple(self._sweeps.get(sweep, ())), so_far.get(sweep, ()))
            for sweep in self._sweeps.keys() | so_far.keys()
        }

    def _learned(self, now_mono: float) -> Experience:
        """Return what was learned; of what ended before anybody asked, too."""
        if self._experience is None:
            self._experience, live_sweeps = Experience(), self._live_sweeps()
            for run in self._store.past_runs(MOST_RUNS):
                self._use.add(owner_of(run.name, run.cwd), run.seconds * run.gpus, now_mono - run.age_seconds)
                if run.by_itself:
                    self._experience.add(PastRun(run.user, run.fingerprint, run.gpus, run.seconds))
                    if run.sweep in live_sweeps and run.sweep is not None:
                        self._sweeps.setdefault(run.sweep, []).append(run.seconds)
        return self._experience

    def _live_sweeps(self) -> set[int]:
        return {job.row.sweep for job in self._store.live.values() if job.row is not None}


def owner_of(name: str | None, cwd: bytes) -> str:
    """Name whose job it is, among those of one person."""
    return name or cwd.decode("utf-8", "replace")


def _sweep_of(job: Job) -> int:
    assert job.row is not None
    return job.row.sweep


def _asked(job: Job, ran: float, rows: Mapping[int, tuple[tuple[float, ...], tuple[float, ...]]]) -> Asked:
    ended, so_far = rows.get(job.row.sweep, ((), ())) if job.row is not None else ((), ())
    return Asked(
        job.user, job.fingerprint, job.request.gpus, ran, job.request.time_limit_seconds, job.expect_seconds, so_far, ended
    )
