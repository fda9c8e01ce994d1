"""Jobs, GPUs and views for the tests of the policy, in few words."""

from dataclasses import replace

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Evict, ForeignProcess, Gpu, Grant, Identity, Job, Pause, Plan, Request, Resume, Share, View
from gpuwrap.units import GIB

# This moment on the clock that decides, and as a date.
NOW, DATE = 500_000.0, 1_700_000_000.0
TOTAL = 24 * GIB
HEADROOM = GIB // 2


def gpu(index: int = 0, **changes: object) -> Gpu:
    """An idle GPU of 24 GiB."""
    idle = Gpu(f"GPU-{index}", index, "card", TOTAL, TOTAL)
    return replace(idle, **changes)  # type: ignore[arg-type]


def gpus(count: int, **changes: object) -> tuple[Gpu, ...]:
    return tuple(gpu(index, **changes) for index in range(count))


def share(index: int, size: int = TOTAL, whole: bool = True) -> Share:
    return Share(f"GPU-{index}", index, size, whole)


def waiting(number: int, count: int = 1, priority: int = 0, **request: object) -> Job:
    """A waiting job; what is left over describes its request. `m` is its memory in GiB."""
    if "m" in request:
        request["memory_bytes"] = int(request.pop("m") * GIB)  # type: ignore[operator]
    asked = Request(gpus=count, **request)  # type: ignore[arg-type]
    who = Identity("boot", 1, 1000 + number, number)
    argv = (b"/usr/bin/python", b"train.py")
    job = Job(number, f"key {number}", None, "anna", JobState.WAITING, priority, asked, who, argv, b"/home/anna", DATE)
    return replace(job, submitted_mono=NOW)


def running(number: int, *shares: Share, since: float = 7200, **request: object) -> Job:
    """A job that runs since two hours."""
    return replace(
        waiting(number, len(shares), **request),  # type: ignore[arg-type]
        state=JobState.RUNNING,
        shares=shares,
        granted_mono=NOW - since,
        started_at=DATE - since,
        started_mono=NOW - since,
    )


def in_state(job: Job, state: JobState, **changes: object) -> Job:
    return replace(job, state=state, **changes)  # type: ignore[arg-type]


def foreign(pid: int = 991, size: int | None = 31 * GIB, **changes: object) -> ForeignProcess:
    return replace(ForeignProcess(pid, "bob", "python", size), **changes)  # type: ignore[arg-type]


def applied(view: View, made: Plan, now_mono: float = NOW) -> View:
    """The view once the plan was carried out, before anything has allocated or ended."""
    jobs = {job.id: job for job in view.jobs}
    for action in made.actions:
        job = jobs[action.job_id]
        match action:
            case Grant():
                jobs[job.id] = in_state(job, JobState.GRANTED, shares=action.shares, granted_mono=now_mono)
            case Pause():
                assert job.state is JobState.RUNNING
                jobs[job.id] = in_state(job, JobState.PAUSED, yields_to=action.newcomer_id, paused_mono=now_mono)
            case Resume():
                assert job.state is JobState.PAUSED
                jobs[job.id] = in_state(job, JobState.RUNNING, yields_to=None, paused_mono=None, returned_mono=now_mono)
            case Evict():
                assert job.state in (JobState.RUNNING, JobState.PAUSED)
                jobs[job.id] = in_state(job, JobState.STOPPING, yields_to=action.newcomer_id)
    return replace(view, jobs=tuple(jobs.values()))
