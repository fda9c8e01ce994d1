"""The command's entry: tells verbs from programs, and is the only place that reports errors and exits.

1. A verb is a verb only as the very first word.
2. Wrong usage is one or two lines on stderr and nothing on stdout; help is the reverse, and exits 0.
3. What the system refuses is one line that names what it was about; a program's own status is never mistaken for that.
4. PYTHONWARNINGS, PYTHONINSPECT and the like are meant for the program: nothing is said or asked here because of them.

Every program is started through here: verbs and help are imported where they are needed.
"""

import os
import sys

from . import stdout
from .errors import FAILED, SOME_FAILED, USAGE, GpurunError
from .options import LAUNCH, VERBS, parse, signals_as_options
from .state.paths import slurm_folder


def main() -> None:
    """Run the command line of this process and exit."""
    words = sys.argv[1:]
    verb = words[0] if words and words[0] in VERBS else None
    stdout.name_errors()
    if sys.warnoptions or sys.flags.warn_default_encoding:
        import warnings

        warnings.simplefilter("ignore")
    try:
        status = run_verb(verb, words[1:]) if verb else launch(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except GpurunError as err:
        complain(err, verb)
        status = err.status
        if verb is None:
            status = FAILED if status == USAGE else status  # a program's own 2 must not be mistaken for ours
        elif status != USAGE:
            status = SOME_FAILED
    except KeyboardInterrupt:
        die_of_interrupt()
    except OSError as err:
        status = refused_by_system(err, verb)
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    if sys.flags.inspect:
        os._exit(status)  # else Python becomes a prompt
    sys.exit(status)


def refused_by_system(err: OSError, verb: str | None) -> int:
    """Report what nobody has translated, and return the status; whoever read our output may have had enough of it."""
    name = os.fsdecode(err.filename) if isinstance(err.filename, str | bytes) else None
    if name == stdout.NAME:
        stdout.abandon()
        if isinstance(err, BrokenPipeError):
            return 0
    what = "cannot go on" if name is None else f"cannot write: {name}" if name == stdout.NAME else f"cannot use: {name}"
    complain(GpurunError(f"{what}: {str(err.strerror or err).lower()}"), verb)
    return SOME_FAILED if verb else FAILED


def launch(words: list[str]) -> int:
    """The launch form. Returns only if the program was not to be started, or could not be."""
    if not words:
        raise_usage()
    given, rest = parse(words, LAUNCH, permute=False)
    if "help" in given:
        from .commands.help import print_help

        return print_help(rest[0] if rest else None)
    if "version" in given:
        from . import __version__

        print(f"gpurun {__version__}")
        return 0
    from .launch.where import is_for_slurm

    if is_for_slurm(given):
        from .slurm.launching import launch as run
    else:
        from .launch.run import run
    run(given, rest)
    return 0


def run_verb(verb: str, words: list[str]) -> int:
    """Run a verb; its module is named like it."""
    from importlib import import_module

    if None in (sys.stdin, sys.stdout, sys.stderr):
        from .launch.background import fill_closed_descriptors

        fill_closed_descriptors()  # who has closed stdout does not want what a verb prints, but what it does
        sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
        sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
    record = VERBS[verb]
    words = signals_as_options(words) if record.signals else words
    given, operands = parse(words, record.options, permute=True, numbers=record.numbers)
    if "help" in given:
        from .commands.help import print_verb_help

        return print_verb_help(verb)
    main = import_module(f"gpuwrap.commands.{verb}").main
    if os.path.isdir(slurm_folder()) or given.get("on"):
        from .slurm.verbs import concerns, run

        if concerns(verb, given):
            return run(verb, given, operands, main)
    status: int = main(given, operands)
    return status


def raise_usage() -> None:
    """gpurun alone: three lines."""
    if sys.stderr is not None:
        sys.stderr.write(
            "usage: gpurun [OPTION]... [--] PROGRAM [ARG]...\n"
            "       gpurun VERB [OPTION]... [JOB]...\n"
            "try:   gpurun --help, or on simulated GPUs: gpurun demo\n"
        )
    sys.exit(FAILED)


def complain(err: GpurunError, verb: str | None) -> None:
    """Report an error: one line, and a second only if it says what to do next; to nobody, where stderr cannot be written."""
    if sys.stderr is not None:
        try:
            os.write(2, f"gpurun: {err.report(verb)}\n".encode("utf-8", "replace"))
        except OSError:
            return


def die_of_interrupt() -> None:
    """Ctrl-C in a verb: die of it, so that loops around us stop too."""
    import _signal

    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    os.kill(os.getpid(), _signal.SIGINT)
