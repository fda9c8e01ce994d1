"""Settings: the arbiter's limits, never launch options.

Three files may set them, the later winning: the system's, the user's (where platformdirs says, from the password entry's
home, which the arbiter has as HOME), and `settings.toml` in GPURUN_DIR. An unknown key is an error with the nearest name.
The arbiter reads them when it starts, and anew when a file has come, changed or gone (arbiter/tuning).
"""

import contextlib
import json
import os
import stat
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import GpurunError, UsageError
from ..options import nearest
from ..units import parse_duration, parse_size

FILE = "settings.toml"

Marks = tuple[tuple[int, int, int, int] | int, ...]
"""What is seen of each file without reading it; they differ if one has come, changed or gone."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: how its value is read, its default as one would write it, and what it is for."""

    read: Callable[[Any], Any]
    default: Any
    help: str


def _duration(value: Any) -> float:
    return parse_duration(_text(value), "duration")


def _duration_or_never(value: Any) -> float | None:
    return None if value == "never" else _duration(value)


def _size(value: Any) -> int:
    size, _percent = parse_size(_text(value)) if value not in (0, "0") else (0, None)
    if size is None:
        raise UsageError(f"{value}: a size, not a percentage")
    return size


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise UsageError(f"{value}: a count, 0 for no limit")
    return value


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise UsageError(f"{value}: one of {', '.join(words)}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{value}: true or false")
    return value


def _ignored(value: Any) -> tuple[int | str, ...]:
    words = value if isinstance(value, list) else [value]
    if not all(_is_pid(word) or (isinstance(word, str) and word != "") for word in words):
        raise UsageError(f"{value}: a list of pids, users and globs of commands")
    return tuple(words)


def _argv(value: Any) -> tuple[str, ...]:
    words = value if isinstance(value, list) else None
    if words is None or not all(isinstance(word, str) and word and "\0" not in word for word in words):
        raise UsageError(f'{value}: a command and its arguments: ["COMMAND", "ARGUMENT"]')
    return tuple(words)


def _is_pid(word: Any) -> bool:
    return isinstance(word, int) and not isinstance(word, bool) and abs(word) < 1 << 31


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{value}: text in quotes, with a unit")
    return value


SETTINGS: dict[str, Setting] = {
    "min_run": Setting(_duration, "5m", "how long a job runs at least before it is evicted"),
    "min_return": Setting(_duration, "5m", "how long a job runs at least after a pause before it is paused again"),
    "order": Setting(
        _one_of("arrival", "shortest", "fair"), "arrival", "who of equal priority is first: who came first, or who needs least"
    ),
    "due_after": Setting(_duration, "3d", "with another order than arrival: after how long nobody passes a job any more"),
    "min_run_among_equals": Setting(
        _duration, "2m", "with another order than arrival: how long a job with -r runs before it gives way to a shorter one"
    ),
    "pause_limit": Setting(_duration, "4h", "how long a job is paused at most in 24 hours"),
    "gang_pause_limit": Setting(_duration, "5m", "the same for a job of several CUDA processes, and each time"),
    "eviction_limit": Setting(_count, 100, "how often a job is evicted for others at most; 0: no limit"),
    "jobs_per_gpu": Setting(_count, 0, "how many jobs share a GPU at most; 0: as many as fit"),
    "keep_free": Setting(_size, "0", "memory kept free on every GPU that jobs share"),
    "end_leftovers": Setting(_duration_or_never, "never", "when what a job left behind on its GPUs is ended"),
    "ignore": Setting(_ignored, [], "processes that do not count as computing: pids, users, globs of commands"),
    "over_memory": Setting(
        _one_of("warn", "evict"), "warn", "who uses more than its -m: warn it, or evict it if it may be restarted (-r)"
    ),
    "keep_history": Setting(_count, 10000, "how many ended jobs are remembered; 0: all"),
    "keep_logs": Setting(_duration, "30d", "how long logs of -d are kept after they were last written"),
    "keep_logs_size": Setting(_size, "10G", "how large logs of -d may be together; the oldest go first"),
    "on": Setting(_one_of("here", "slurm"), "here", "where jobs run if --on does not say: here, or handed to Slurm"),
    "on_end": Setting(_argv, [], "a command that is told of the end of each of your jobs that ran for long"),
    "on_end_after": Setting(_duration, "10m", "how long a job ran at least for its end to be told"),
    "machine": Setting(_flag, True, "whether the machine's queue is asked, where there is one; false: one's own"),
    "without_gpu": Setting(_one_of("refuse", "run"), "refuse", "without a driver: refuse, or run after one line of warning"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """All values, as one would write them, too, for each that a file sets the file, and how the files were marked then."""

    values: dict[str, Any]
    written: dict[str, Any]
    sources: dict[str, str]
    marks: Marks
    people: dict[str, Any] = field(default_factory=dict)
    """What the machine's file says about people, as it is written there; elsewhere nothing."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def text(self) -> str:
        """Write down what files set, for `remembered`."""
        people = {"people": self.people} if self.people else {}
        return json.dumps({name: self.written[name] for name in self.sources} | people)


# The one file of the machine's queue, and what reads it: then no other counts. Set before anything is read.
_machine: tuple[str, Callable[[str], tuple[dict[str, Any], dict[str, Any]]]] | None = None


def use_machine_file(path: str, read: Callable[[str], tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Have one file count, and no other; `read` returns what it says about people, and the rest."""
    global _machine
    _machine = path, read


def files() -> list[str]:
    """Return the files that may exist, in the order in which they are read."""
    if _machine is not None:
        return [_machine[0]]
    import platformdirs  # 16 ms: only the arbiter and doctor pay for it

    folders = [
        platformdirs.site_config_dir("gpurun", appauthor=False),
        platformdirs.user_config_dir("gpurun", appauthor=False),
    ]
    chosen = os.environ.get("GPURUN_DIR")
    if chosen:
        folders.append(os.path.abspath(chosen))
    return [os.path.join(folder, FILE) for folder in folders]


def marks_of(paths: list[str]) -> Marks:
    """Look at files without reading them: some µs."""
    return tuple([_mark(path) for path in paths])


def _mark(path: str) -> tuple[int, int, int, int] | int:
    try:
        facts = os.stat(path)
    except OSError as err:
        return err.errno or 0
    # Not the time of modification, which anybody may set back (cp -p, rsync). The mode: it may be changed within a tick.
    return facts.st_ctime_ns, facts.st_size, facts.st_ino, facts.st_mode


def _defaults() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return all values where no file says anything, and as one would write them."""
    written = {name: setting.default for name, setting in SETTINGS.items()}
    return {name: SETTINGS[name].read(default) for name, default in written.items()}, written


def read_settings() -> Settings:
    """Read all files. Raises GpurunError that names file and setting."""
    values, written = _defaults()
    sources: dict[str, str] = {}
    paths = files()
    marks = marks_of(paths)  # before they are read: what changes meanwhile is read once more, not missed
    people: dict[str, Any] = {}
    for path in paths:
        people, table = ({}, read_toml(path)) if _machine is None else _machine[1](path)
        for name, value in table.items():
            setting = SETTINGS.get(name)
            if setting is None:
                near = nearest(name, list(SETTINGS))
                raise GpurunError(f"cannot use settings: {path}: {name}: unknown", hint=near and f"did you mean {near}?")
            try:
                values[name] = setting.read(value)
            except (ValueError, OverflowError) as err:  # of more than 4300 digits nothing is written, no message either
                raise GpurunError(f"cannot use settings: {path}: {name}: too large") from err
            except UsageError as err:
                raise GpurunError(f"cannot use settings: {path}: {name}: {err.text}") from err
            written[name], sources[name] = value, path
    return Settings(values, written, sources, marks, people)


def remembered(text: str, marks: Marks) -> Settings:
    """Return the settings that `Settings.text` wrote down; what is none any more is left out.

    `marks` are those of the files as they are now: once they differ, the files are read.
    """
    values, written = _defaults()
    sources = {}
    table = json.loads(text)
    people = table.pop("people", {})
    for name, value in table.items():
        with contextlib.suppress(KeyError, UsageError, ValueError, OverflowError):
            values[name] = SETTINGS[name].read(value)
            written[name], sources[name] = value, "remembered"
    return Settings(values, written, sources, marks, people)


def read_toml(path: str) -> dict[str, Any]:
    """Read a file of settings; one that is not there says nothing. Raises GpurunError that names it."""
    try:
        # A pipe of that name would keep the arbiter waiting for somebody who writes.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise GpurunError(f"cannot read settings: {path}: not a regular file")
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise GpurunError(f"cannot read settings: {path}: {str(err.strerror).lower()}") from err
    except tomllib.TOMLDecodeError as err:
        raise GpurunError(f"cannot use settings: {path}: {err}") from err
    except UnicodeDecodeError as err:
        raise GpurunError(f"cannot use settings: {path}: byte {err.start} is not UTF-8") from err
    except ValueError as err:  # nor reads it
        raise GpurunError(f"cannot use settings: {path}: a number is too large") from err
    except RecursionError as err:
        raise GpurunError(f"cannot use settings: {path}: nested too deeply") from err
