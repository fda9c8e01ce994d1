"""completion: print a shell's completion; the same files lie in the installation's share/.

The shells' scripts ask this verb for what lives: `completion jobs [VERB]`, `names`, `gpus`, each a line of word, tab and
description. A Tab waits for it, so nothing heavy is imported and no arbiter is asked.
"""

import os
import sys

from ..errors import FAILED, GpurunError, UsageError, printable
from ..options import nearest

Given = dict[str, str | bool]
FILES = {"bash": "gpurun.bash", "zsh": "_gpurun", "fish": "gpurun.fish"}
# Which states a verb can do something about; the others take all that live.
STATES = {"resume": ("held", "paused"), "why": ("waiting", "held")}
# Verbs for jobs that have ended, and those for both.
OF_ENDED, OF_BOTH = ("again", "history"), ("logs", "wait")
LENGTH = 50


def main(given: Given, operands: list[str]) -> int:
    """Print what is asked for."""
    word, *rest = operands or [""]
    if word in ("jobs", "names"):
        _print_jobs(given, word, rest[0] if rest else "")
    elif word == "gpus":
        _print_gpus(given)
    elif word in FILES:
        sys.stdout.write(script(word))
    else:
        near = nearest(word, list(FILES))
        meant = f": did you mean {near}?" if near else ": bash, zsh or fish"
        raise UsageError(f"shell {word}{meant}" if word else "SHELL missing", hint="usage: gpurun completion bash|zsh|fish")
    return 0


def script(shell: str) -> str:
    """Return a shell's completion script, shipped beside the package (in a checkout: beside its folder)."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for folder in (package, os.path.dirname(package)):
        try:
            with open(os.path.join(folder, "completions", FILES[shell]), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            continue
    raise GpurunError(f"cannot print completion: {FILES[shell]}: not in this installation", status=FAILED)


def _print_jobs(given: Given, kind: str, verb: str) -> None:
    from ..client.call import open_queue
    from ..state.glance import glance

    folder = open_queue(_simulated(given), create=False)
    if folder is None:
        return
    seen = set()
    ended = verb in OF_ENDED or verb in OF_BOTH
    for number, name, state, argv in glance(folder, live=verb not in OF_ENDED, ended=ended):
        if verb in STATES and state not in STATES[verb]:
            continue
        text = _shown(b" ".join(argv.split(b"\0")).decode("utf-8", "replace"))
        if kind == "jobs":
            print(f"{number}\t{text}  {state}")
        elif name is not None and name not in seen and name.isprintable():
            seen.add(name)
            print(f"{name}\t{number}  {text}  {state}")


def _simulated(given: Given) -> str | None:
    return str(given.get("sim") or os.environ.get("GPURUN_SIM") or "") or None


def _print_gpus(given: Given) -> None:
    """Indices and models, without the driver: the kernel module lists its GPUs in bus order, which is NVML's order."""
    sim = _simulated(given)
    if sim is not None:
        from ..units import format_size, parse_simulated

        for index, size in enumerate(parse_simulated(sim)):
            print(f"{index}\tSimulated {format_size(size)}")
        return
    root = "/proc/driver/nvidia/gpus"
    for index, bus in enumerate(sorted(os.listdir(root)) if os.path.isdir(root) else []):
        with open(f"{root}/{bus}/information") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("Model:")), "")
        print(f"{index}\t{_shown(model)}")


def _shown(text: str) -> str:
    text = printable(text)
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"
