"""Which words of a command line name jobs of Slurm's, and which name jobs here."""

import sys
from collections.abc import Callable

from ..commands.asking import Given
from ..errors import GpurunError
from .engine import Slurm
from .names import Name, read_name
from .reading import SlurmJob

# A verb of this machine.
Local = Callable[[Given, list[str]], int]


def split(operands: list[str], engine: Slurm) -> tuple[list[Name], list[str]]:
    """Tell the words that name jobs of Slurm's from the others: by number, or by the name of one that lives there."""
    names, rest = [], []
    called: dict[str, list[str]] | None = None
    for word in operands:
        parts = [read_name(part) for part in word.split(",")]
        if all(part is not None for part in parts):
            names += [part for part in parts if part is not None]
            continue
        if called is None and not word[:1].isdigit() and not word.startswith("-"):
            called = {}
            for job in live(engine):
                called.setdefault(job.name, []).append(job.base)
        same = (called or {}).get(word)
        if same and not word[:1].isdigit():
            names += [Name(number, "") for number in dict.fromkeys(same)]
        else:
            rest.append(word)
    return names, rest


def live(engine: Slurm) -> list[SlurmJob]:
    """Return the jobs that live; none, and a complaint, where Slurm does not answer."""
    try:
        return engine.listed()
    except GpurunError as err:
        sys.stderr.write(f"gpurun: {err.report()}\n")
        return []
