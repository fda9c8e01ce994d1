"""What is known of live jobs' processes: what was seen below a leader stays its job's, whatever becomes of what is between.

It is kept as long as the job is live. After the end of the leader it is what outlived that.
"""

from dataclasses import dataclass, field

from ...host.processes import Stat
from ...model import Identity


@dataclass(slots=True)
class Kin:
    """What is known of one job."""

    processes: dict[int, Identity] = field(default_factory=dict)
    """Its processes by pid, besides its leader; after its end the survivors."""
    heads: dict[int, int] = field(default_factory=dict)
    """Sessions and groups created below the leader, by id, with the start of the process they are named after; 0: not seen."""
    ancestors: tuple[Identity, ...] = ()
    """The leader's, its parent first: those who may adopt what it leaves behind. None where they are not known."""

    def has(self, stat: Stat) -> bool:
        """Whether a process is known."""
        found = self.processes.get(stat.pid)
        return found is not None and found.start_ticks == stat.start_ticks


class Known:
    """What is known of all live jobs."""

    def __init__(self) -> None:
        self._kin: dict[int, Kin] = {}

    def of(self, job_id: int) -> Kin:
        """Return what is known of a live job, to be added to."""
        return self._kin.setdefault(job_id, Kin())

    def seen(self, job_id: int) -> Kin:
        """Return what is known of any job, to be read."""
        return self._kin.get(job_id) or Kin()

    def forget(self, job_id: int) -> None:
        """The job is live no more."""
        self._kin.pop(job_id, None)
