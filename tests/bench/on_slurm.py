"""`python -m tests.bench.on_slurm`: what `gpurun --on slurm` costs over bare srun, and `ls` over 500 jobs of a real Slurm.

It starts a Slurm of its own (root, slurm-wlm, munge); one of each in turn, medians. Figures are printed, never judged.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from cluster import Cluster

from .benchworld import BenchWorld


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.on_slurm")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each, in turn (30)")
    parser.add_argument("--jobs", type=int, default=500, help="jobs that wait while ls is timed (500)")
    options = parser.parse_args()
    cluster = Cluster(nodes=1, lines=("MaxJobCount=10000",))
    try:
        with tempfile.TemporaryDirectory(prefix="gpurun-bench-") as folder, BenchWorld(Path(folder)) as world:
            environment = world.on_slurm(cluster.env)
            forms = {
                "srun true": ["srun", "-Q", "-N1", "-n1", "--gres=gpu:1", "true"],
                "gpurun --on slurm true": [world.command, "--on", "slurm", "true"],
            }
            show(in_turn(forms, environment, options.rounds))
            for _ in range(options.jobs):
                words = [world.command, "--on", "slurm", "-d", "-g", "4", "sleep", "600"]
                subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
            cold = {"squeue": ["squeue", "-h"], f"gpurun ls, {options.jobs} jobs": [world.command, "ls"]}
            show(in_turn(cold, environment, max(5, options.rounds // 4), forget=Path(environment["GPURUN_DIR"])))
    finally:
        cluster.close()


def in_turn(
    forms: dict[str, list[str]], environment: dict[str, str], rounds: int, forget: Path | None = None
) -> dict[str, list[float]]:
    """Milliseconds of each; `forget`: below which what squeue said before is removed each time."""
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, words in forms.items():
            for path in forget.rglob("squeue") if forget is not None else ():
                path.unlink()
            begun = time.perf_counter()
            subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            taken[name].append((time.perf_counter() - begun) * 1000)
    return taken


def show(taken: dict[str, list[float]]) -> None:
    """Print least, median and most, and what the second takes beyond the first."""
    for name, values in taken.items():
        print(f"{name:<28} {min(values):6.0f} {statistics.median(values):6.0f} {max(values):6.0f} ms")
    first, second = taken.values()
    pairs = statistics.median(b - a for a, b in zip(first, second, strict=True))
    print(f"{'the second over the first':<28} {min(second) - min(first):6.0f} {pairs:6.0f}        ms (least, median of pairs)")


if __name__ == "__main__":
    main()
