"""gpus: what the GPUs are, who uses them, and whether they may be used; `drain` keeps new jobs off some of them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UsageError
from ..options import nearest
from ..render import gpu_as_json, gpus_as_table
from ..tables import Screen
from .asking import Given, World

USAGE = "usage: gpurun gpus [--json], gpurun gpus drain|undrain LIST"


def main(given: Given, operands: list[str]) -> int:
    """Show the GPUs, or drain some."""
    if operands:
        return _drain(given, operands)
    world = World(given, create=True)
    gpus = world.ask("gpus")
    if "json" in given:
        print(json.dumps({"gpus": [gpu_as_json(gpu) for gpu in gpus]}))
    else:
        print("\n".join(table(gpus, Screen.of_stdout())))
    return 0


def table(gpus: Sequence[Mapping[str, Any]], screen: Screen, *, brief: bool = False, bars: bool = False) -> list[str]:
    """Return the lines to show of what the arbiter told; `brief`: one for each GPU; `bars`: drawn, and without names."""
    return gpus_as_table(gpus, screen, brief=brief, bars=bars) if gpus else ["no GPUs"]


def _drain(given: Given, operands: list[str]) -> int:
    word, *lists = operands
    if word not in ("drain", "undrain"):
        near = nearest(word, ["drain", "undrain"])
        raise UsageError(f"{word}: " + (f"did you mean {near}?" if near else "drain or undrain"), hint=USAGE)
    if not lists:
        raise UsageError(f"{word}: which GPUs?", hint=USAGE)
    world = World(given, create=True)
    for index, _done, text in world.ask("drain", list=",".join(lists), drained=word == "drain"):
        print(f"GPU {index}: {text}")
    return 0
