"""What people see, compared whole with the files in `tests/system/expected/`.

`GPURUN_WRITE_EXPECTED=1 pytest tests/system/test_screens.py` writes the files anew; look at them before they are committed.
What differs from run to run (durations, pids, the user, folders, hours) is replaced.
"""

import os
import pwd
import re
import subprocess
from pathlib import Path
from typing import Any

EXPECTED = Path(__file__).parents[1] / "system" / "expected"
USER = pwd.getpwuid(os.getuid()).pw_name

REPLACED = [
    (r"\b\d+ s\b *", "N s  "),
    (r"\bpid \d+", "pid N"),
    (r"\b\d\d:\d\d(:\d\d)?\b", "HH:MM"),
    (r"GPU-sim-\d+-", "GPU-sim-N-"),
    (rf"\b{USER}\b", "USER"),
    (r"\[\d+\] \d+", "[N] N"),
]


def shown(text: str) -> str:
    for pattern, replacement in REPLACED:
        text = re.sub(pattern, replacement, text)
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip() + "\n"


def expect(name: str, text: str) -> None:
    """Compare a screen with its file."""
    path = EXPECTED / f"{name}.txt"
    text = shown(text)
    if os.environ.get("GPURUN_WRITE_EXPECTED"):
        path.write_text(text)
    assert path.exists(), f"{path} is missing; the screen was:\n{text}"
    assert text == path.read_text(), f"not as in {path}:\n{text}"


def said(done: "subprocess.CompletedProcess[Any]") -> str:
    """All that a command said through pipes: what stands on stdout, then stderr marked, then the status."""
    errors = "".join(f"2> {line}\n" for line in done.stderr.splitlines())
    return f"{done.stdout}{errors}exit {done.returncode}\n"
