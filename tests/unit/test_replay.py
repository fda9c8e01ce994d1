"""Whole workloads through `plan`, at the moments of their events; `tests/bench/replay.py` does the same with recorded ones."""

import random

import pytest
from bench.replay import CARD_BYTES, Recorded, Replay

from gpuwrap.model import Request


def workload(seed: int, gpus: int, count: int, shared: bool = False, limit_factor: float | None = None) -> list[Recorded]:
    chance = random.Random(seed)
    now, jobs = 0.0, []
    for _ in range(count):
        now += chance.expovariate(gpus / 400)
        seconds = chance.choice((5.0, 60.0, 600.0, 3000.0))
        memory = int(CARD_BYTES * chance.uniform(0.05, 0.6)) if shared and chance.random() < 0.7 else None
        wide = 1 if memory else chance.choice((1, 1, 1, 2, gpus))
        limit = seconds * limit_factor if limit_factor else None
        jobs.append(Recorded(now, seconds, Request(min(wide, gpus), memory, time_limit_seconds=limit)))
    return jobs


def strictly_in_turn(gpus: int, jobs: list[Recorded]) -> list[float]:
    """How long each waits if nobody ever passes anybody."""
    free_at, before, waits = [0.0] * gpus, 0.0, []
    for job in jobs:
        free_at.sort()
        begins = max(job.submit_seconds, before, free_at[job.request.gpus - 1])
        free_at[: job.request.gpus] = [begins + job.duration_seconds] * job.request.gpus
        before = begins
        waits.append(begins - job.submit_seconds)
    return waits


def replayed(gpus: int, jobs: list[Recorded]) -> list[float]:
    replay = Replay(gpus, jobs)
    replay.run()
    return [replay.waited[number] for number in range(1, len(jobs) + 1)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_where_no_end_is_known_whole_gpus_are_given_in_turn(seed: int, gpus: int) -> None:
    jobs = workload(seed, gpus, 120)
    assert replayed(gpus, jobs) == pytest.approx(strictly_in_turn(gpus, jobs))


@pytest.mark.parametrize("seed", range(8))
def test_known_ends_let_others_slip_in_and_delay_no_first_in_line(seed: int) -> None:
    known = sum(replayed(4, workload(seed, 4, 120, limit_factor=1.0)))
    assert known <= sum(replayed(4, workload(seed, 4, 120)))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit_factor", [None, 1.0, 3.0])
def test_shared_gpus_are_never_promised_twice_and_everybody_runs(seed: int, limit_factor: float | None) -> None:
    assert len(replayed(4, workload(seed, 4, 120, shared=True, limit_factor=limit_factor))) == 120
