"""What Prometheus is told; the only importer of prometheus_client.

Labels are bounded: GPUs, states, results, means, and at most `MOST_USERS` users. Never jobs or commands.
Names and units as Prometheus has them: base units, `_total` for what only grows [prometheus.io/docs/practices/naming].
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from ..accounts.totals import BUCKETS, Totals
from ..errors import GpurunError

STATES = ("waiting", "held", "granted", "running", "paused", "suspended", "stopping")
MOST_USERS, OTHERS = 100, "(others)"
# Asked again within this time the answer is the same: whoever may connect may not keep us busy.
FRESH_SECONDS = 2.0


@dataclass
class Sample:
    """The world at a moment. `gpus` is what the arbiter tells of each, None if there is none that does."""

    version: str
    states: Mapping[str, int] = field(default_factory=dict)
    granted: Mapping[str, int] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    arbiter_starts: int = 0
    gpus: list[dict[str, Any]] | None = None
    figures: Mapping[str, float] | None = None


def serve(take: Callable[[], Sample], address: str, port: int) -> None:
    """Serve until we are ended. Raises GpurunError if we cannot listen."""
    try:
        _server, thread = start_http_server(port, address, _registry(take))
    except (OSError, OverflowError) as err:
        cause = str(getattr(err, "strerror", None) or err).lower()
        raise GpurunError(f"cannot listen: {address}:{port}: {cause}", status=1) from err
    while thread.is_alive():
        thread.join(3600)


def write(take: Callable[[], Sample], path: str) -> None:
    """Write a file, aside first and then renamed. Raises GpurunError."""
    try:
        write_to_textfile(path, _registry(take))
    except OSError as err:
        raise GpurunError(f"cannot write: {path}: {str(err.strerror or err).lower()}", status=1) from err


def _registry(take: Callable[[], Sample]) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(take))
    return registry


class _Collector:
    """Takes samples, one at a time."""

    def __init__(self, take: Callable[[], Sample]) -> None:
        self._take, self._lock = take, threading.Lock()
        self._known: Sample | None = None
        self._known_mono = 0.0

    def describe(self) -> Iterable[Metric]:
        """Say nothing beforehand, or a sample would be taken for it."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Return all metrics."""
        with self._lock:
            if self._known is None or time.monotonic() > self._known_mono + FRESH_SECONDS:
                self._known = self._take()
                self._known_mono = time.monotonic()
            sample = self._known
        yield InfoMetricFamily("gpurun", "The gpurun that tells this.", {"version": sample.version})
        yield from _jobs(sample)
        yield from _totals(sample.totals)
        yield from _arbiter(sample)
        yield from _gpus(sample)


def _jobs(sample: Sample) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("gpurun_jobs", "Jobs that have not ended, by state.", labels=["state"])
    for state in STATES:
        jobs.add_metric([state], sample.states.get(state, 0))
    yield jobs


def _totals(totals: Totals) -> Iterator[Metric]:
    ended = CounterMetricFamily("gpurun_jobs_ended", "Jobs that have ended, by how they did.", labels=["result"])
    for result, count in totals.results.items():
        ended.add_metric([result], count)
    yield ended
    counts = list(accumulate(totals.waits))
    buckets = [(f"{bound:.1f}", count) for bound, count in zip(BUCKETS, counts, strict=False)] + [("+Inf", counts[-1])]
    waits = HistogramMetricFamily("gpurun_queue_wait_seconds", "For how long jobs waited for their first start.")
    waits.add_metric([], buckets, totals.waited_seconds)
    yield waits
    use = CounterMetricFamily(
        "gpurun_user_gpu_seconds", "Time that jobs of a user computed, times their GPUs; pauses do not count.", labels=["user"]
    )
    users = list(totals.users.items())
    for user, seconds in users[:MOST_USERS]:
        use.add_metric([user.encode("utf-8", "replace").decode()], seconds)
    if len(users) > MOST_USERS:
        use.add_metric([OTHERS], sum(seconds for _user, seconds in users[MOST_USERS:]))
    yield use
    gave_way = CounterMetricFamily("gpurun_preemptions", "How often jobs gave way to others, by means.", labels=["means"])
    for means, count in totals.means.items():
        gave_way.add_metric([means], count)
    yield gave_way


def _arbiter(sample: Sample) -> Iterator[Metric]:
    text = "Whether an arbiter answers; without jobs there is none."
    yield GaugeMetricFamily("gpurun_arbiter_up", text, sample.gpus is not None)
    yield CounterMetricFamily("gpurun_arbiter_starts", "Arbiters that have started, after crashes too.", sample.arbiter_starts)
    if sample.figures is not None:
        figures = sample.figures
        yield CounterMetricFamily("gpurun_commit_failures", "Batches that the disk refused.", figures["commit_failures"])
        text = "How long this arbiter took to decide."
        yield SummaryMetricFamily("gpurun_plan_seconds", text, int(figures["plans"]), figures["plan_seconds"])


def _gpus(sample: Sample) -> Iterator[Metric]:
    told: dict[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
        "granted_bytes": ("Memory promised to jobs.", lambda gpu: sample.granted.get(gpu["uuid"], 0)),
        "memory_total_bytes": ("Memory of the GPU.", lambda gpu: gpu["total_bytes"]),
        "memory_free_bytes": ("Memory that is free, as the driver tells.", lambda gpu: gpu["free_bytes"]),
        "jobs": ("Jobs that have the GPU, or a part of it.", lambda gpu: len(gpu["jobs"])),
        "foreign_processes": ("Processes on it that are no job of ours.", lambda gpu: len(gpu["foreign"])),
        "healthy": ("Whether it can be used.", lambda gpu: int(gpu["state"] not in ("unhealthy", "prohibited", "unknown"))),
        "drained": ("Whether it takes no new jobs.", lambda gpu: int(gpu["state"] == "drained")),
        "utilization_ratio": ("How busy it is.", lambda gpu: _load(gpu, "utilization_percent", 0.01)),
        "temperature_celsius": ("How warm it is.", lambda gpu: _load(gpu, "temperature_celsius")),
        "power_watts": ("What it draws.", lambda gpu: _load(gpu, "power_watts")),
        "power_limit_watts": ("What it may draw.", lambda gpu: _load(gpu, "power_limit_watts")),
        "fan_ratio": ("How fast its fan is, of its full speed.", lambda gpu: _load(gpu, "fan_percent", 0.01)),
    }
    for name, (text, value_of) in told.items():
        family = GaugeMetricFamily(f"gpurun_gpu_{name}", text, labels=["gpu", "uuid"])
        for gpu in sample.gpus or ():
            if (value := value_of(gpu)) is not None:
                family.add_metric([str(gpu["index"]), gpu["uuid"]], value)
        if family.samples:
            yield family


def _load(gpu: Mapping[str, Any], name: str, factor: float = 1.0) -> float | None:
    value = (gpu.get("load") or {}).get(name)
    return None if value is None else round(value * factor, 6)
