"""What another queue must be able to do so that jobs can be handed to it: behind this a second one could stand beside Slurm."""

from typing import Protocol

from .reading import SlurmJob


class Engine(Protocol):
    """A queue that is not ours."""

    def submit(self, options: list[str], script: bytes) -> str:
        """Hand a script over; returns the job's number. Raises GpurunError."""

    def listed(self, *, fresh: bool = False) -> list[SlurmJob]:
        """Return the jobs of this user that gpurun handed over and that live."""

    def cancel(self, job: str, signal: str | None = None) -> None:
        """End a job, or send it a signal."""

    def renice(self, job: str, priority: int) -> str:
        """Change where a job stands; returns what was done."""

    def hold(self, job: str, held: bool) -> None:
        """Hold a waiting job in line, or let it go."""

    def why(self, job: SlurmJob) -> tuple[list[str], list[str]]:
        """Say in sentences why a job waits, and what would help."""

    def history(self, since: str | None) -> list[SlurmJob]:
        """Return the jobs of this user that gpurun handed over and that have ended."""
