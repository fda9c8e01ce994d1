"""Who could change what a service of root runs: the interpreter, what it imports, and every folder that leads there.

A link counts twice: the folder that it stands in, and what it leads to. A folder that all may write is sound only where nobody
may exchange what others own there (the sticky bit), for what is root's.
"""

import os
import stat
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import NamedTuple

ROOT = 0
MOST_LINKS = 40


class Fault(NamedTuple):
    """What somebody but root can change, why, and what would help."""

    path: str
    reason: str
    remedy: str


def first_fault(paths: Iterable[str], seen: set[str] | None = None) -> Fault | None:
    """Return the first of what these paths lead through that somebody but root can change; None if there is nothing."""
    seen = set() if seen is None else seen
    for path in paths:
        for step in steps(path):
            if step not in seen:
                seen.add(step)
                fault = fault_of(step)
                if fault is not None:
                    return fault
    return None


def steps(path: str) -> Iterator[str]:
    """Yield `/`, each folder and each link on the way, and at last what a path leads to."""
    rest, at, links = [part for part in os.path.abspath(path).split("/") if part][::-1], "/", 0
    yield "/"
    while rest:
        part = rest.pop()
        if part == "..":
            at = os.path.dirname(at)
            continue
        at = os.path.join(at, part)
        yield at
        try:
            target = os.readlink(at)
        except OSError:
            continue
        links += 1
        if links > MOST_LINKS:
            return
        rest += [part for part in target.split("/") if part not in ("", ".")][::-1]
        at = "/" if target.startswith("/") else os.path.dirname(at)


def fault_of(path: str) -> Fault | None:
    """Say who but root can change what stands at a path itself; None if nobody can, or nothing is there."""
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    if facts.st_uid != ROOT:
        return Fault(path, f"belongs to uid {facts.st_uid}", _INSTALL)
    if stat.S_ISLNK(facts.st_mode):
        return None
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
    if facts.st_mode & stat.S_IWOTH and not sticky:
        return Fault(path, "others may write it", f"chmod o-w {path}")
    if facts.st_mode & stat.S_IWGRP and facts.st_gid != ROOT and not sticky:
        return Fault(path, f"its group may write it (gid {facts.st_gid})", f"chmod g-w {path}")
    return None


_INSTALL = "install it as root: python3 -m venv /opt/gpurun && /opt/gpurun/bin/pip install gpuwrap"


def parts(package: str, modules: Iterable[ModuleType]) -> Iterator[str]:
    """Yield what a Python process of ours runs: its interpreter, its search path, our files, and those of some modules."""
    yield sys.executable
    yield os.path.join(sys.prefix, "pyvenv.cfg")
    for entry in sys.path:
        if entry:
            yield entry
            yield from _links(entry)
    yield from files_below(package)
    for module in modules:
        file = getattr(module, "__file__", None)
        if file is not None:
            yield file


def _links(entry: str) -> Iterator[str]:
    """Yield the files that add to the search path [site: .pth]."""
    try:
        names = os.listdir(entry)
    except OSError:
        return
    for name in sorted(names):
        if name.endswith((".pth", ".egg-link")):
            yield os.path.join(entry, name)


def files_below(folder: str) -> Iterator[str]:
    """Yield every file and folder below one."""
    for where, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            yield os.path.join(where, name)
