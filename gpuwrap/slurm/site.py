"""What a site says of its Slurm: `slurm.toml` in /etc/gpurun, then the user's, then the one in GPURUN_DIR; the later wins.

Nothing in it is needed: without any, a job goes to the default partition with what was asked for, and nothing else.
"""

import os

from ..errors import GpurunError, UsageError
from ..options import nearest
from ..state.paths import home_of_user
from ..units import PRIORITY_HIGHEST, PRIORITY_LOWEST, parse_size

TYPE_CHECKING = False  # as type checkers read it; a launch waits for this module, and typing imports much
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SYSTEM = "/etc/gpurun/slurm.toml"
# How much Slurm's nice changes for one step of priority. Its priorities reach to billions, and weights are thousands.
NICE_STEP = 100


class Band:
    """From which priority on jobs go to another QOS, or another partition."""

    __slots__ = ("partition", "qos", "since")

    def __init__(self, since: int, qos: str | None, partition: str | None) -> None:
        self.since, self.qos, self.partition = since, qos, partition


class Site:
    """What the files say. `sources`: those that were there."""

    def __init__(
        self, *, partition: str | None = None, account: str | None = None, qos: str | None = None, gpu: str | None = None,
        nice_step: int = NICE_STEP, shard_bytes: int | None = None, shards_per_gpu: int | None = None,
        constraints: tuple[tuple[int, str], ...] = (), bands: tuple[Band, ...] = (), arguments: tuple[str, ...] = (),
        sources: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        self.partition, self.account, self.qos = partition, account, qos
        self.gpu = gpu
        """The type of GPU that is asked for, as Slurm knows it: `gpu:TYPE:N`."""
        self.nice_step, self.shard_bytes, self.shards_per_gpu = nice_step, shard_bytes, shards_per_gpu
        self.constraints = constraints
        """Which feature GPUs of at least so many bytes have, the smallest first."""
        self.bands = bands
        self.arguments = arguments
        """What every job is submitted with."""
        self.sources = sources

    def band_of(self, priority: int) -> Band | None:
        """Return the band of a priority: the highest that begins at or below it."""
        found = [band for band in self.bands if band.since <= priority]
        return max(found, key=lambda band: band.since) if found else None


def files() -> list[str]:
    """Return the files that may exist, in the order in which they are read."""
    paths = [SYSTEM]
    home = home_of_user()
    if home is not None:
        paths.append(os.path.join(home, ".config/gpurun/slurm.toml"))
    chosen = os.environ.get("GPURUN_DIR")
    if chosen:
        paths.append(os.path.join(os.path.abspath(chosen), "slurm.toml"))
    return paths


def read_site() -> Site:
    """Read all files. Raises GpurunError that names file and key."""
    there = [path for path in files() if os.path.lexists(path)]
    if not there:
        return Site()
    from ..state.settings import read_toml

    values: dict[str, Any] = {}
    sources = []
    for path in there:
        read = read_toml(path)
        if read:
            sources.append(path)
        for name, value in read.items():
            if name not in KEYS:
                near = nearest(name, list(KEYS))
                raise GpurunError(f"cannot use settings: {path}: {name}: unknown", hint=near and f"did you mean {near}?")
            to, reader = KEYS[name]
            try:
                values[to] = reader(value)
            except UsageError as err:
                raise GpurunError(f"cannot use settings: {path}: {name}: {err.text}") from err
    return Site(**values, sources=tuple(sources))


def _word(value: "Any") -> str:
    if not isinstance(value, str) or not value or not value.isprintable() or " " in value:
        raise UsageError(f"{value}: a word in quotes")
    return value


def _words(value: "Any") -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise UsageError(f"{value}: a list of words in quotes")
    return tuple(value)


def _count(value: "Any") -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1_000_000:
        raise UsageError(f"{value}: a count, 1 or more")
    return value


def _size(value: "Any") -> int:
    size, _percent = parse_size(value) if isinstance(value, str) else (None, None)
    if size is None:
        raise UsageError(f"{value}: a size, as in 6G")
    return size


def _constraints(value: "Any") -> tuple[tuple[int, str], ...]:
    if not isinstance(value, dict):
        raise UsageError("a table of sizes and features")
    return tuple(sorted((_size(size), _word(name)) for size, name in value.items()))


def _bands(value: "Any") -> tuple[Band, ...]:
    tables = value if isinstance(value, list) else [value]
    found = []
    for table in tables:
        if not isinstance(table, dict) or set(table) - {"from", "qos", "partition"} or "from" not in table:
            raise UsageError("tables of from, and qos or partition")
        since = table["from"]
        if not isinstance(since, int) or isinstance(since, bool) or not PRIORITY_LOWEST <= since <= PRIORITY_HIGHEST:
            raise UsageError(f"from {since}: -100 to 100")
        qos, partition = table.get("qos"), table.get("partition")
        found.append(Band(since, None if qos is None else _word(qos), None if partition is None else _word(partition)))
    return tuple(found)


KEYS: "dict[str, tuple[str, Callable[[Any], Any]]]" = {
    "partition": ("partition", _word),
    "account": ("account", _word),
    "qos": ("qos", _word),
    "gpu": ("gpu", _word),
    "nice_step": ("nice_step", _count),
    "shard_memory": ("shard_bytes", _size),
    "shards_per_gpu": ("shards_per_gpu", _count),
    "constraints": ("constraints", _constraints),
    "priority": ("bands", _bands),
    "args": ("arguments", _words),
}
