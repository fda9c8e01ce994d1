"""What the machine's queue is told by its administrator: `/etc/gpurun/settings.toml`, and where that queue lies.

1. The file is root's and nobody else can write it, nor exchange it in its folder; else it is not read at all.
2. Beside the settings of every queue it has what is about people: `[default]`, `[groups.NAME]`, `[users.NAME]` with caps, and
   a few settings of the whole. Of several groups of one user the first in the file counts; the user's own table comes last.
3. Names are looked up elsewhere, and aside: here they stay names.
"""

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import GpurunError, UsageError
from ..options import nearest
from ..people import ORDINARY, Between, Caps
from ..units import PRIORITY_HIGHEST, PRIORITY_LOWEST, parse_duration
from . import settings

FOLDER = "/etc/gpurun"
SETTINGS = f"{FOLDER}/settings.toml"
STATE = "/var/lib/gpurun"
ROOT = 0


def _number(least: float, most: float, what: str) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise UsageError(f"{value}: {what}")
        return float(value)

    return read


def _count_or_all(value: Any) -> int | None:
    return None if value == "all" else _whole(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 31:
        raise UsageError(f"{value}: a count")
    return value


def _priority(value: Any) -> int:
    from ..units import PRIORITY_WORDS

    if isinstance(value, str) and value in PRIORITY_WORDS:
        return PRIORITY_WORDS[value]
    if isinstance(value, bool) or not isinstance(value, int) or not PRIORITY_LOWEST <= value <= PRIORITY_HIGHEST:
        raise UsageError(f"{value}: a priority from {PRIORITY_LOWEST} to {PRIORITY_HIGHEST}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{value}: true or false")
    return value


def _others(value: Any) -> bool:
    if value not in ("own", "others"):
        raise UsageError(f"{value}: one of own, others")
    return bool(value == "others")


def _duration(value: Any) -> float | None:
    if value == "none":
        return None
    if not isinstance(value, str):
        raise UsageError(f"{value}: text in quotes, with a unit")
    return parse_duration(value, "duration")


def _name(value: Any) -> str | None:
    if not isinstance(value, str):
        raise UsageError(f"{value}: the name of a group")
    return value or None


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise UsageError(f"{value}: one of {', '.join(words)}")
        return str(value)

    return read


# What a table about people may say: how it is read, the field of `Caps`, and what it is for.
CAPS: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "weight": (_number(0.01, 1000, "a weight from 0.01 to 1000"), "weight", "his use counts divided by this"),
    "max_priority": (_priority, "max_priority", "a higher one is lowered to this"),
    "may_interrupt": (_others, "may_interrupt", "whose jobs his urgent ones make give way: own, or others"),
    "may_refuse": (_flag, "may_refuse", "whether his --give-way never holds against others"),
    "max_gpus": (_count_or_all, "max_gpus", "GPUs at once"),
    "max_jobs": (_whole, "max_jobs", "jobs in line"),
    "default_time": (_duration, "default_time_seconds", "the time limit of jobs that say none"),
    "max_time": (_duration, "max_time_seconds", "the longest time limit"),
    "leave_free": (_whole, "leave_free", "his jobs start only while so many GPUs stay free"),
}
# Settings of one user: in the machine's file they would run commands as root, or send everybody elsewhere.
OF_ONE_USER = ("on", "on_end", "on_end_after", "machine")
# What is said once for all: how it is read, and its default.
WHOLE: dict[str, tuple[Callable[[Any], Any], Any, str]] = {
    "own_queues": (_one_of("last"), "last", "queues of users' own beside this one: served last"),
    "between_users": (_one_of(*(each.value for each in Between)), "fair", "what decides between users"),
    "admin_group": (_name, "", "the group whose members may do what root may"),
    "show_commands": (_one_of("own", "all"), "all", "whose command lines are shown, where the kernel shows them"),
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the file says about people. Tables hold the fields of `Caps` that they set."""

    own_queues: str = "last"
    between: Between = Between.FAIR
    admin_group: str | None = None
    show_commands: str = "all"
    default: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """In the order of the file."""
    users: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def caps_of(self, user: str | None, groups: frozenset[str]) -> Caps:
        """Return what a user may have; `user` is None while his name is not known."""
        changes = dict(self.default)
        changes |= next((table for name, table in self.groups.items() if name in groups), {})
        changes |= self.users.get(user, {}) if user is not None else {}
        return replace(ORDINARY, **changes) if changes else ORDINARY

    def says_who(self, cap: str, user: str | None, groups: frozenset[str]) -> str:
        """Say which table sets a cap for a user: `[users.anna]`, or that it is the default of gpurun."""
        set_by = CAPS[cap][1]
        if user is not None and set_by in self.users.get(user, {}):
            return f"[users.{user}]"
        group = next((name for name in self.groups if name in groups), None)
        if group is not None and set_by in self.groups[group]:
            return f"[groups.{group}]"
        return "[default]" if set_by in self.default else "the default"


def split(table: Mapping[str, Any], path: str = SETTINGS) -> tuple[Rules, dict[str, Any]]:
    """Read what is about people, and return the rest, which is about every queue. Raises GpurunError."""
    rest = {name: value for name, value in table.items() if name not in (*WHOLE, "default", "groups", "users")}
    for name in rest:
        if name in OF_ONE_USER:
            raise GpurunError(f"cannot use settings: {path}: {name}: each user sets it for himself")
        if name not in settings.SETTINGS:
            near = nearest(name, [*settings.SETTINGS, *WHOLE, "default", "groups", "users"])
            raise GpurunError(f"cannot use settings: {path}: {name}: unknown", hint=near and f"did you mean {near}?")
    whole = {name: _read(f"{path}: {name}", read, table.get(name, default)) for name, (read, default, _help) in WHOLE.items()}
    rules = Rules(
        whole["own_queues"],
        Between(whole["between_users"]),
        whole["admin_group"],
        whole["show_commands"],
        _caps(table.get("default", {}), f"{path}: [default]"),
        _tables(table.get("groups", {}), f"{path}: [groups"),
        _tables(table.get("users", {}), f"{path}: [users"),
    )
    return rules, rest


def _tables(found: Any, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict):
        raise GpurunError(f"cannot use settings: {where}]: a table for each name")
    return {name: _caps(table, f"{where}.{name}]") for name, table in found.items()}


def _caps(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise GpurunError(f"cannot use settings: {where}: a table")
    changes = {}
    for name, value in table.items():
        if name not in CAPS:
            near = nearest(name, list(CAPS))
            raise GpurunError(f"cannot use settings: {where} {name}: unknown", hint=near and f"did you mean {near}?")
        read, set_by, _help = CAPS[name]
        changes[set_by] = _read(f"{where} {name}", read, value)
    return changes


def _read(where: str, read: Callable[[Any], Any], value: Any) -> Any:
    try:
        return read(value)
    except UsageError as err:
        raise GpurunError(f"cannot use settings: {where}: {err.text}") from err
    except (ValueError, OverflowError) as err:
        raise GpurunError(f"cannot use settings: {where}: too large") from err


def read_parts(path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the file says about people, as it is written there, and the rest. Raises GpurunError."""
    table = read_file(path)
    _rules, rest = split(table, path)
    return {name: value for name, value in table.items() if name not in rest}, rest


def read_file(path: str = SETTINGS, owner: int = ROOT) -> dict[str, Any]:
    """Return what a file says that only its owner can write; nothing if there is none. Raises GpurunError."""
    for part in (os.path.dirname(path), path):
        fault = fault_of(part, owner)
        if fault is not None:
            raise GpurunError(f"cannot use settings: {part}: {fault}", hint=f"chown root {part}; chmod go-w {part}")
    return settings.read_toml(path)


def fault_of(path: str, owner: int = ROOT) -> str | None:
    """Say why what stands at a path may be another's word; None if it is its owner's alone, or not there."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    if facts.st_uid not in (ROOT, owner):
        return f"belongs to uid {facts.st_uid}"
    mode = stat.S_IMODE(facts.st_mode)
    if mode & stat.S_IWOTH and not (stat.S_ISDIR(facts.st_mode) and mode & stat.S_ISVTX):
        return "others may write it"
    if mode & stat.S_IWGRP and facts.st_gid != ROOT:
        return "its group may write it"
    return None
