"""Who was ended by the kernel for want of memory (not the GPU's): what it tells of each cgroup.

`oom_kill` counts the processes of a cgroup and of all below it that any out-of-memory killer has ended
[kernel, admin-guide/cgroup-v2, memory.events]. Where the memory controller is not on there is no such file.
"""

import os


def kills(folder: str) -> int | None:
    """Return how many processes of a cgroup were ended so, None if the kernel does not tell."""
    for line in _read(folder, "memory.events").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return None


def limit_of(folder: str) -> tuple[int, str] | None:
    """Return the limit in bytes that a cgroup has, and the name of the one that sets it; None if there is none."""
    while folder.strip("/"):
        text = _read(folder, "memory.max").strip()
        if text.isdigit():
            return int(text), os.path.basename(folder)
        folder = os.path.dirname(folder)
    return None


def _read(folder: str, name: str) -> str:
    try:
        with open(f"{folder}/{name}", "rb", buffering=0) as file:
            return file.read(4096).decode("ascii", "replace")
    except OSError:
        return ""
