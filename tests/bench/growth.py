"""`python -m tests.bench.growth`: how cost grows with the queue and with the GPUs, as a Markdown table and a plot.

The table goes to stdout; with `--plot FILE` the plot is drawn (needs matplotlib). Ten minutes on two cores, most of them
spent in starting 2,000 clients. What the interpreter alone costs stands in a line of its own, measured in the same run.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .__main__ import timed
from .benchworld import BenchWorld
from .plan import best_of, view

QUEUES = (1, 10, 100, 1000, 2000)
GPUS = (1, 2, 4, 8, 16)
ROUNDS = 9


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth")
    parser.add_argument("--plot", type=Path, help="draw the table here (png, svg)")
    plot = parser.parse_args().plot
    rows = with_waiting()
    print(table("waiting jobs", QUEUES, rows))
    print(table("GPUs, 2,000 waiting", GPUS, {"plan, equal requests": plans(False), "plan, all distinct": plans(True)}))
    print("interpreter alone:", ", ".join(f"{what} {took:.1f} ms" for what, took in floors().items()))
    if plot is not None:
        draw(rows, plot)


def with_waiting() -> dict[str, list[float]]:
    """Milliseconds and MiB with so many jobs waiting on four GPUs that one job holds."""
    rows: dict[str, list[float]] = {
        "start of a job without GPUs, ms": [],
        "hand-off, ms": [],
        "`ls`, ms": [],
        "plan, ms": [],
        "arbiter, MiB": [],
    }
    starting, handing, listing, planning, memory = rows.values()
    with tempfile.TemporaryDirectory(prefix="gpurun-bench-") as folder, BenchWorld(Path(folder)) as world:
        world.block()
        for count in QUEUES:
            world.wait_behind(count)
            starting.append(median(lambda: world.run("-g", "0", "true")))
            handing.append(1000 * statistics.median(world.hand_offs(ROUNDS)))
            listing.append(median(lambda: world.run("ls", stdout=subprocess.DEVNULL)))
            planning.append(best_of(view(4, count, False)))
            memory.append(world.pss(world.arbiter_pid()))
    return rows


def plans(distinct: bool) -> list[float]:
    """Milliseconds of one plan with 2,000 waiting, by the number of GPUs."""
    return [best_of(view(gpus, 2000, distinct)) for gpus in GPUS]


def floors() -> dict[str, float]:
    """What a start costs before gpurun does anything."""
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -I -S -c pass": [sys.executable, "-I", "-S", "-c", "pass"],
        "true": [shutil.which("true") or "/bin/true"],
    }
    return {what: median(partial(subprocess.run, command, check=True)) for what, command in commands.items()}


def median(action: Callable[[], object]) -> float:
    """Milliseconds."""
    return 1000 * statistics.median(timed(action) for _ in range(ROUNDS))


def table(corner: str, columns: tuple[int, ...], rows: dict[str, list[float]]) -> str:
    """A Markdown table."""
    lines = [f"| {corner} | " + " | ".join(f"{count:,}" for count in columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |" for name, values in rows.items()]
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, list[float]], path: Path) -> None:
    """One line for each row that is in milliseconds, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, values in rows.items():
        if name.endswith(", ms"):
            axes.plot(QUEUES, values, marker="o", label=name.removesuffix(", ms"))
    axes.set(xscale="log", yscale="log", xlabel="waiting jobs", ylabel="milliseconds (median)")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
