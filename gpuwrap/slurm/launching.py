"""The launch form on Slurm: options are read as here, mapped, and handed to srun or sbatch."""

import sys

from ..errors import UsageError
from ..launch.launch import say
from ..launch.program import find_program, program_argv, readable
from ..launch.request import read_request
from .engine import Slurm
from .mapping import Given, Mapped, Request, is_batch, mapped, shown
from .site import read_site


def launch(given: Given, words: list[str]) -> None:
    """Run the program `words` on Slurm. Returns only if it is in the background, or was not to be run; raises GpurunError."""
    if "each" in given and "array" in given:
        raise UsageError("--each and --array: only one of them")
    request = read_request(given)
    if "each" in given:
        if words:
            raise UsageError("--each: takes no program: the lines are the commands")
        argv = [b"sweep"]
    elif not words:
        raise UsageError("program missing: gpurun [OPTION]... PROGRAM [ARG]...")
    else:
        argv, _offset = program_argv(len(words))
    site = read_site()
    after = request.pop("after", None)
    engine = Slurm(site)
    comes_after = None
    if after is not None:
        from .after import dependency

        comes_after = dependency(str(after), engine)
    found = mapped(given, request, argv, site, comes_after)
    quiet = "quiet" in given
    for note in [] if quiet else found.notes:
        say(note)
    if is_batch(given, request):
        from .batch import Batch

        batch = Batch(given, request, found, argv, engine)
        if given.get("dry_run"):
            print(batch.rehearse())
            return
        batch.run()
        return
    _rehearse_or_run(given, request, found, argv, engine)


def _rehearse_or_run(given: Given, request: Request, found: Mapped, argv: list[bytes], engine: Slurm) -> None:
    from .foreground import Foreground, srun_words, wants_pty
    if given.get("dry_run"):
        print(shown(srun_words(given, request, found, argv, "KEY", pty=wants_pty())))
        return
    if None in (sys.stdin, sys.stdout):
        from ..launch.background import fill_closed_descriptors

        fill_closed_descriptors()
    if "quiet" not in given:
        _warn_if_not_here(argv[0])
    Foreground(given, request, found, argv, engine).run()


def _warn_if_not_here(name: bytes) -> None:
    """Say what is probably mistyped before it waits: what is not on this machine may be on the other."""
    from ..errors import GpurunError

    try:
        find_program(name)
    except GpurunError:
        say(f"{readable(name)}: cannot be run on this machine; it is looked for again on Slurm's")
