"""How long one plan takes: python tests/bench/plan.py

Two queues: a sweep with every GPU held (equal requests), and one in which no two requests are equal and the first few
can start. Then the grants that are hardest to place, victims for urgent jobs, and what all sentences cost.
"""

import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[2]))

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, GiveWay, Gpu, Identity, Job, Request, Share, View, Yielding
from gpuwrap.policy.plan import plan
from gpuwrap.policy.reasons import Teller
from gpuwrap.units import GIB, MIB

NOW, DATE = 500_000.0, 1_700_000_000.0


def job(number: int, request: Request, shares: tuple[Share, ...] = ()) -> Job:
    state = JobState.RUNNING if shares else JobState.WAITING
    who = Identity("boot", 1, number, number)
    return Job(
        number, str(number), None, "anna", state, 0, request, who, (b"python",), b"/", DATE, shares, DATE,
        granted_mono=NOW, started_mono=NOW,
    )  # fmt: skip


def view(gpus: int, waiting: int, distinct: bool) -> View:
    cards = tuple(
        Gpu(f"GPU-{i}", i, "card", 80 * GIB, 78 * GIB if distinct else 20 * GIB, used={i + 1: 60 * GIB}) for i in range(gpus)
    )
    held = [job(i + 1, Request(memory_bytes=60 * GIB), (Share(f"GPU-{i}", i, 60 * GIB, False),)) for i in range(gpus)]
    line = [
        job(100 + i, Request(memory_bytes=(30 * GIB + i * MIB) if distinct else None, gpus=1 + i % 2 if distinct else 1))
        for i in range(waiting)
    ]
    return View(cards, tuple(held + line), bounds=Bounds(300 * MIB))


def uneven(gpus: int, wanted: int) -> View:
    def links(i: int) -> dict[str, int]:
        return {f"GPU-{j}": (i * j) % 7 + (j * i) % 3 for j in range(gpus) if j != i}

    cards = tuple(Gpu(f"GPU-{i}", i, "card", 80 * GIB, 79 * GIB, links=links(i)) for i in range(gpus))
    return View(cards, (job(100, Request(gpus=wanted)),))


def outranked(gpus: int, waiting: int, wanted: int, per_gpu: int, fits: bool) -> View:
    """Every GPU full of low jobs that may be paused or evicted, and a line of urgent ones in front of a long sweep."""
    size = 72 * GIB // per_gpu
    ways, held = GiveWay.REQUEUE if fits else GiveWay.PAUSE, []
    for i in range(gpus * per_gpu):
        asked = Request(memory_bytes=size, give_way=ways)
        held.append(
            replace(job(i + 1, asked, (Share(f"GPU-{i // per_gpu}", i // per_gpu, size, False),)), started_mono=NOW - 900)
        )
    used = [{each.id: size for each in held if each.shares[0].index == i} for i in range(gpus)]
    cards = tuple(Gpu(f"GPU-{i}", i, "card", 80 * GIB, 8 * GIB, used=used[i]) for i in range(gpus))
    line = [job(1000 + i, Request(gpus=wanted, memory_bytes=(40 + i) * GIB)) for i in range(10)]
    line = [replace(each, priority=50) for each in line] + [job(2000 + i, Request()) for i in range(waiting)]
    return View(cards, (*held, *line), yielding={each.id: Yielding(14400.0, can_evict=fits) for each in held})


def best_of(seen: View, rounds: int = 7) -> float:
    times = []
    for _ in range(rounds):
        begun = perf_counter()
        plan(seen, NOW)
        times.append(perf_counter() - begun)
    return min(times) * 1000


def main() -> None:
    for distinct in (False, True):
        print("distinct requests" if distinct else "equal requests", "(ms; columns: waiting jobs)")
        print("GPUs".rjust(6), *(str(n).rjust(8) for n in (1, 10, 100, 1000, 2000)))
        for gpus in (1, 2, 4, 8, 16):
            row = (best_of(view(gpus, waiting, distinct)) for waiting in (1, 10, 100, 1000, 2000))
            print(str(gpus).rjust(6), *(f"{ms:8.2f}" for ms in row))
    for gpus, wanted in ((8, 4), (16, 4), (16, 8)):
        print(f"grant of {wanted} of {gpus} unevenly linked GPUs: {best_of(uneven(gpus, wanted)):.2f} ms")
    for gpus, wanted, per_gpu in ((1, 1, 1), (8, 1, 1), (16, 1, 4), (16, 8, 1), (16, 8, 8)):
        found, none = (best_of(outranked(gpus, 2000, wanted, per_gpu, fits), 3) for fits in (True, False))
        print(
            f"{wanted} of {gpus} GPUs with {per_gpu} lower jobs each: {found:.1f} ms if they can be evicted, {none:.1f} if not"
        )
    seen = view(16, 2000, False)
    made, teller = plan(seen, NOW), Teller(seen, NOW, DATE)
    begun = perf_counter()
    for each in seen.jobs[16:]:
        teller.sentence(made.reasons[each.id], each)
    print(f"2000 sentences: {(perf_counter() - begun) * 1000:.1f} ms")


if __name__ == "__main__":
    main()
