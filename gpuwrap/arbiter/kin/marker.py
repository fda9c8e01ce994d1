"""What links an orphan to a job: entries that its program was given, and that all it starts inherits.

1. Numbers are per world, GPUs' UUIDs are not: a job's number together with those of its grant is nobody else's.
2. The number of a job without GPUs is another world's as well: there the environment must lead to this world too. Who
   spells GPURUN_DIR in another way than the arbiter that was summoned leaves no such trace.
3. A marker proves where something came from, not that it belongs there: tmux servers and at(1) keep it.
4. Who can set an environment can set this one: whose processes it counts for says `links`.
"""

import os
from typing import NamedTuple

from ...model import Job

_FOLDER, _SIMULATED = b"GPURUN_DIR", b"GPURUN_SIM_DIR"


class Marker(NamedTuple):
    """Entries (NAME=VALUE) that are in an environment, and names that are not."""

    entries: tuple[bytes, ...]
    absent: tuple[bytes, ...] = ()

    def is_in(self, environment: bytes) -> bool:
        """Whether an environment, as `processes.environment` returns it, has the marker."""
        return all(b"\0" + entry + b"\0" in environment for entry in self.entries) and not any(
            b"\0" + name + b"=" in environment for name in self.absent
        )


def value_of(environment: bytes, name: bytes) -> bytes:
    """Return the value of a variable in an environment, as `processes.environment` returns it; empty if it is not there."""
    return environment.partition(b"\0" + name + b"=")[2].partition(b"\0")[0]


def marker_of_grant(job: Job) -> Marker:
    """Return the marker of a job with GPUs."""
    uuids = ",".join(share.uuid for share in job.shares)
    return Marker((f"GPURUN_JOB={job.id}".encode(), f"GPURUN_GPU_UUIDS={uuids}".encode()))


class Markers:
    """The markers of one world's jobs."""

    def __init__(self, sim_root: str | None) -> None:
        folder = os.environb.get(_FOLDER)
        if sim_root is not None:
            self._world = Marker((_SIMULATED + b"=" + os.fsencode(sim_root),))
        elif folder:
            self._world = Marker((_FOLDER + b"=" + folder,), (_SIMULATED,))
        else:
            self._world = Marker((), (_FOLDER, _SIMULATED))

    def of(self, job: Job) -> Marker:
        """Return a job's marker."""
        marker = marker_of_grant(job)
        return marker if job.shares else Marker(marker.entries + self._world.entries, self._world.absent)
