"""What this arbiter has done since it came: plans and how long they took, and batches that could not be committed."""


class Figures:
    """Counts; nothing is decided by them, and they end with us."""

    def __init__(self) -> None:
        self.plans = 0
        self.plan_seconds = 0.0
        self.commit_failures = 0

    def planned(self, seconds: float) -> None:
        """A plan was made, and carried out."""
        self.plans += 1
        self.plan_seconds += seconds

    def not_committed(self) -> None:
        """A batch could not be committed."""
        self.commit_failures += 1

    def as_json(self) -> dict[str, float]:
        """Write them for who asks."""
        return {"plans": self.plans, "plan_seconds": self.plan_seconds, "commit_failures": self.commit_failures}
