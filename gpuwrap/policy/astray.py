"""Jobs that compute where they were granted nothing: which, why as far as it can be seen, and how it is said.

1. The program chooses its GPUs by CUDA_VISIBLE_DEVICES, which gpurun sets and anything after it may change: the program, an
   rc file, `env -i`, sudo. Nothing prevents that; it is told to whom it concerns.
2. What a process holds counts for all jobs inside which it runs. Where one process leads several jobs (blocks in Python)
   nobody can tell for which of them it computes: what one was granted is no stray of another.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ..lifecycle import STARTED
from ..model import Job
from ..units import format_size
from .words import gpu_list

VARIABLE = "CUDA_VISIBLE_DEVICES"
SUDO_HELP = f"sudo --preserve-env={VARIABLE},CUDA_DEVICE_ORDER keeps it"


class Cause(Enum):
    """Why a job computes elsewhere, in words about it."""

    SETS = f"it sets {VARIABLE} itself"
    LACKS = f"it was started without {VARIABLE}"
    SUDO = f"sudo drops {VARIABLE}"
    DRAWS = f"it draws, which {VARIABLE} does not govern"
    UNKNOWN = f"does it set {VARIABLE}?"


@dataclass(frozen=True, slots=True)
class Stray:
    """A job on a GPU that it was not granted; `bytes` None: the driver does not say. `granted`: indices of what it was.

    `pid` is the largest of its processes there.
    """

    job_id: int
    uuid: str
    index: int
    bytes: int | None
    granted: tuple[int, ...]
    cause: Cause = Cause.UNKNOWN
    pid: int | None = None


def find(jobs: Mapping[int, Job], used: Mapping[int, Mapping[str, int | None]], indices: Mapping[str, int]) -> list[Stray]:
    """Return who computes where it was granted nothing; `used`: bytes by job and UUID, `indices`: of the GPUs by UUID."""
    found = []
    for job_id, per_gpu in used.items():
        job = jobs[job_id]
        if job.state not in STARTED or per_gpu.keys() <= {share.uuid for share in job.shares}:
            continue
        led = [share for each in jobs.values() if each.identity == job.identity for share in each.shares]
        granted = tuple(sorted(share.index for share in job.shares))
        for uuid in per_gpu.keys() - {share.uuid for share in led}:
            if per_gpu[uuid] != 0:
                found.append(Stray(job_id, uuid, indices[uuid], per_gpu[uuid], granted))
    return sorted(found, key=lambda stray: (stray.job_id, stray.index))


def cause(has_variable: bool | None, below_sudo: bool, draws: bool = False) -> Cause:
    """Say why a process computes elsewhere, by what it was started with (None: that cannot be read) and below whom."""
    if draws:
        return Cause.DRAWS
    if has_variable:
        return Cause.SETS
    if below_sudo:
        return Cause.SUDO
    return Cause.UNKNOWN if has_variable is None else Cause.LACKS


def there(strays: Iterable[Stray]) -> str:
    """Say it of one job: `29.3G on GPU 0, but was granted GPU 1 (it sets CUDA_VISIBLE_DEVICES itself)`."""
    first, *others = strays
    places = ", ".join(f"{_held(each)}on GPU {each.index}" for each in (first, *others))
    return f"{places}, {_granted(first)} ({first.cause.value})"


def here(stray: Stray) -> str:
    """Say it beside a GPU."""
    helps = f"; {SUDO_HELP}" if stray.cause is Cause.SUDO else ""
    return f"job {stray.job_id}: {_held(stray)}here, {_granted(stray)} ({stray.cause.value}{helps})"


def notice(stray: Stray) -> str:
    """Tell its owner, once."""
    because = (Cause.UNKNOWN if stray.cause is Cause.SETS else stray.cause).value
    helps = f": {SUDO_HELP}" if stray.cause is Cause.SUDO else ""
    return f"job {stray.job_id} computes on GPU {stray.index}, it was granted {_gpus(stray)}: {because}{helps}"


def notice_beside(stray: Stray, job: Job) -> str:
    """Tell the owner of a job that was granted that GPU, once."""
    size = "" if stray.bytes is None else f" ({format_size(stray.bytes)})"
    return f"job {job.id}: job {stray.job_id} computes on GPU {stray.index} too{size}, it was granted {_gpus(stray)}"


def _held(stray: Stray) -> str:
    return "" if stray.bytes is None else f"{format_size(stray.bytes)} "


def _granted(stray: Stray) -> str:
    return f"but was granted {_gpus(stray)}"


def _gpus(stray: Stray) -> str:
    return gpu_list(stray.granted) if stray.granted else "none"
