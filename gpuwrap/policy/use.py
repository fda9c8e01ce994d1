"""Who has used the GPUs lately: GPU-seconds that fade, and what of them each owner had over an equal part."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

HALF_LIFE_SECONDS = 86400.0
# Who has used nothing yet is not before everybody for that alone.
LEAST_PART = 0.1
NOTHING: Mapping[str, float] = MappingProxyType({})


class Use:
    """Decayed GPU-seconds by owner."""

    def __init__(self, half_life_seconds: float = HALF_LIFE_SECONDS) -> None:
        self._half_life = half_life_seconds
        self._used: dict[str, tuple[float, float]] = {}

    def add(self, owner: str, gpu_seconds: float, now: float) -> None:
        """Count use that has just been made."""
        self._used[owner] = self.of(owner, now) + gpu_seconds, now

    def of(self, owner: str, now: float) -> float:
        """Return what is left by now of all that an owner used."""
        used, then = self._used.get(owner, (0.0, now))
        return float(used * 0.5 ** ((now - then) / self._half_life))

    def burdens(self, owners: Iterable[str], now: float, beside: Mapping[str, float] = NOTHING) -> dict[str, float]:
        """Return of each owner the part that it had, over an equal part of what these owners had together.

        `beside`: GPU-seconds of work that is not over yet.
        """
        used = {owner: self.of(owner, now) + beside.get(owner, 0.0) for owner in owners}
        all_ = sum(used.values())
        return {owner: max(LEAST_PART, each * len(used) / all_) if all_ else 1.0 for owner, each in used.items()}
