"""What each user of a shared machine may have, and what each has had of it: the records that settings and policy share.

A world of one user has none of this. Names are for showing; who is who is decided by uid alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from .units import PRIORITY_HIGHEST


class Between(Enum):
    """What decides between the jobs of different users, as the setting `between_users` has it."""

    FAIR = "fair"
    PRIORITY = "priority"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class Caps:
    """What one user may have; None: no limit."""

    weight: float = 1.0
    """His use counts divided by this: with 2 he gets twice the share of one with 1."""
    max_priority: int = PRIORITY_HIGHEST
    may_interrupt: bool = False
    """Whether his urgent jobs pass those of others, and make them give way."""
    may_refuse: bool = True
    """Whether his `--give-way never` holds against others' jobs."""
    max_gpus: int | None = None
    """How many GPUs his jobs have at once; paused ones do not count."""
    max_jobs: int | None = 5000
    """How many of his jobs stand in line."""
    default_time_seconds: float | None = None
    """The time limit of his jobs that say none."""
    max_time_seconds: float | None = None
    leave_free: int = 0
    """His jobs start only while so many GPUs stay free."""


ORDINARY = Caps()


@dataclass(frozen=True, slots=True)
class People:
    """The users of one queue, as a plan sees them."""

    between: Between = Between.FAIR
    owners: Mapping[int, int] = field(default_factory=dict)
    """The uid of each job's owner, by the job's number."""
    caps: Mapping[int, Caps] = field(default_factory=dict)
    """By uid; `ORDINARY` where one is missing."""
    used: Mapping[int, float] = field(default_factory=dict)
    """GPU-seconds that have not faded yet, by uid; what runs now counts as far as it has run."""
    names: Mapping[int, str] = field(default_factory=dict)
    """By uid; the number where one is missing."""

    def caps_of(self, uid: int | None) -> Caps:
        """Return what a user may have."""
        return ORDINARY if uid is None else self.caps.get(uid, ORDINARY)

    def name_of(self, uid: int) -> str:
        """Return a user's name, the number as text if it is not known (yet)."""
        return self.names.get(uid, str(uid))
