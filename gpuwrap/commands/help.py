"""help and --help, made from the tables in options: one screen for daily use, `--help all` for the rest."""

from ..errors import UsageError
from ..options import LAUNCH, VERBS, Option, nearest

Given = dict[str, str | bool]

WIDTH = 24
VERB_WIDTH = 36


def main(_given: Given, operands: list[str]) -> int:
    """Print the help of a verb, or as --help does."""
    if len(operands) > 1:
        raise UsageError(f"{operands[1]}: one VERB at a time", hint="usage: gpurun help [VERB|all]")
    word = operands[0] if operands else None
    if word in VERBS:
        return print_verb_help(str(word))
    if word not in (None, "all"):
        near = nearest(str(word), list(VERBS))
        raise UsageError(f"{word}: no such verb" + (f": did you mean {near}?" if near else ""), hint="gpurun help lists them")
    return print_help(word)


def print_help(topic: str | None) -> int:
    """Print the launch form's help; `all` adds the options that are not of daily use."""
    if topic not in (None, "all"):
        raise UsageError(f"--help {topic}: --help or --help all")
    everything = topic == "all"
    print("usage: gpurun [OPTION]... [--] PROGRAM [ARG]...")
    print("       gpurun VERB [OPTION]... [JOB]...")
    print()
    print("Run PROGRAM exactly as the shell would, once a GPU is really free for it.")
    print()
    for option in LAUNCH:
        if option.daily or everything:
            print(_option_line(option))
    print()
    for name, verb in VERBS.items():
        print(f"  {'gpurun ' + name + ' ' + verb.operands:<{VERB_WIDTH - 2}}{verb.summary}")
    print()
    if everything:
        print("JOB is a number, a range 14-53, a list 1,3-4, a name or a glob. A verb is one")
        print("only as the very first word: gpurun -- ls runs ls(1). Exit status: the program's")
        print("own; 124 not started within the wait limit, 125 gpurun failed, 126 the program")
        print("cannot be run, 127 it was not found.")
    else:
        print("More options: gpurun --help all. See it: gpurun demo. Manual: man gpurun.")
    return 0


def print_verb_help(name: str) -> int:
    """Print one verb's help."""
    verb = VERBS[name]
    print(f"usage: gpurun {name} [OPTION]... {verb.operands}".rstrip())
    print()
    print(verb.summary[0].upper() + verb.summary[1:] + ".")
    print()
    for option in verb.options:
        print(_option_line(option))
    return 0


def _option_line(option: Option) -> str:
    names = ", ".join(option.names)
    if option.metavar:
        names += f" {option.metavar}"
    if len(names) > WIDTH - 3:
        return f"  {names}\n{'':<{WIDTH}}{option.help}"
    return f"  {names:<{WIDTH - 2}}{option.help}"
