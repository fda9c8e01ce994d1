"""How verbs on many jobs report: what was done on stdout, what could not be done on stderr, then 1 if anything failed.

A pipe gets a line for each job; on a terminal as many as `TOGETHER` in a row that went alike share one.
"""

import os
import sys
from itertools import groupby
from typing import Any

from ..errors import SOME_FAILED, NoSuchJob
from ..sweeps import in_words

TOGETHER = 4


def report(verb: str, done: list[Any], missing: list[NoSuchJob]) -> int:
    """Print what happened. `done` holds [number, whether it was done, what was done or why not]."""
    for line in _lines([(job_id, text) for job_id, well, text in done if well], together=os.isatty(1)):
        print(line)
    sys.stdout.flush()
    failed = [(job_id, text) for job_id, well, text in done if not well]
    for line in [*_lines(failed, together=os.isatty(2)), *(err.text for err in missing)]:
        sys.stderr.write(f"gpurun: {verb}: {line}\n")
    return SOME_FAILED if failed or missing else 0


def _lines(done: list[tuple[int, str]], *, together: bool) -> list[str]:
    lines: list[str] = []
    for text, group in groupby(done, key=lambda each: each[1]):
        numbers = [number for number, _ in group]
        if together and len(numbers) >= TOGETHER:
            # "has already ended", "is paused" of one
            several = text.replace("has ", "have ", 1) if text.startswith("has ") else text
            lines.append(f"jobs {in_words(sorted(numbers))} ({len(numbers)}): {several}")
        else:
            lines += [f"job {number}: {text}" for number in numbers]
    return lines
