"""Which form a launch has: one that becomes its program, one that keeps a parent, one in the background, or a sweep.

The program is looked up before anything is asked for: what cannot run never waits.

Every program is started through here: only builtin and `_`-modules are imported, the rest where it is needed.
"""

import sys

from ..client.call import open_queue
from ..errors import ProgramNotFound, UsageError
from ..options import number_for_program
from .launch import Launch, warn
from .program import find_program, program_argv
from .request import Given, read_request, simulated


def run(given: Given, words: list[str]) -> None:
    """Run the program `words` under the options `given`. Returns only if it never started; raises GpurunError."""
    if "each" in given or "array" in given:
        from .sweep import run_sweep

        run_sweep(given, words)
        return
    request = read_request(given)
    if not words:
        raise UsageError("program missing: gpurun [OPTION]... PROGRAM [ARG]...")
    argv, offset = program_argv(len(words))
    try:
        path = find_program(argv[0])
    except ProgramNotFound as err:
        raise number_for_program(sys.argv[-len(words) - 1] if len(sys.argv) > len(words) + 1 else "", words[0]) or err from None
    sim = simulated(given)
    warn(given)
    if "detach" in request:
        from .background import fill_closed_descriptors

        fill_closed_descriptors()
    folder = open_queue(sim)
    assert folder is not None
    launch = _form(request)(folder, sim, given, request, path, argv, offset)
    rehearsed = bool(given.get("dry_run"))
    if "output" in request:
        from .output import Output

        launch.output = Output(str(request["output"]))
        (launch.output.look if rehearsed else launch.output.try_out)()
    if rehearsed:
        launch.rehearse()
        return
    launch.start()


def _form(request: dict[str, object]) -> "type[Launch]":
    """The form follows from the options alone: only what may be run again, or is in the background, keeps a parent."""
    if "stub" not in request:
        return Launch
    if "detach" in request:
        from .detach import Detached

        return Detached
    from .stub import Stub

    return Stub
