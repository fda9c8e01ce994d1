"""Our own record of what was handed to Slurm: a small file for each job, in `slurm/` beside the worlds' folders.

1. It may lie on a network filesystem, since jobs are submitted from any login machine: no SQLite, no locks; a file is written
   under another name and renamed.
2. It is a record, no truth: what Slurm says comes first, and what nobody knows any more is `unknown`.
3. Jobs of one cluster are kept apart from those of another (by SLURM_CONF, and `-M`).
"""

import os

from ..clocks import wall_at
from ..errors import GpurunError
from ..state.paths import slurm_folder

KEPT_JOBS = 2000


class Entry:
    """What is known of one job: `values` are text by name; argv and the log's path are bytes."""

    __slots__ = ("argv", "job", "log", "values")

    def __init__(self, job: str, values: dict[str, str], argv: list[bytes], log: bytes | None) -> None:
        self.job, self.values, self.argv, self.log = job, values, argv, log

    def number(self, name: str) -> float | None:
        """Return a value that is a number, None if it is not there."""
        try:
            return float(self.values[name])
        except (KeyError, ValueError):
            return None


def root() -> str:
    """Return the folder of all records."""
    return slurm_folder()


def is_used() -> bool:
    """Whether anything was ever handed over: verbs look no further if not."""
    return os.path.isdir(root())


def cluster_key() -> str:
    """Name the cluster that Slurm's programs would speak to."""
    chosen = os.environ.get("SLURM_CONF", "")
    safe = "".join(letter if letter.isalnum() else "-" for letter in chosen.strip("/"))
    return safe[-100:] or "default"


def folder() -> str:
    """Return the folder of this cluster's records, made on first use. Raises GpurunError."""
    path = os.path.join(root(), cluster_key())
    try:
        os.makedirs(os.path.join(path, "logs"), 0o700, exist_ok=True)
    except OSError as err:
        raise GpurunError(f"cannot make: {path}: {str(err.strerror).lower()}") from err
    return path


def write(entry: Entry) -> None:
    """Write a job's file; nothing is lost but the record where it cannot be written."""
    lines = [f"{name} {value}".encode("utf-8", "surrogateescape") for name, value in entry.values.items()]
    if entry.log is not None:
        lines.append(b"log " + _escaped(entry.log))
    lines += [b"argv " + _escaped(word) for word in entry.argv]
    try:
        path = os.path.join(folder(), entry.job)
        with open(f"{path}.{os.getpid()}~", "wb") as file:
            file.write(b"\n".join(lines) + b"\n")
        os.rename(f"{path}.{os.getpid()}~", path)
    except (OSError, GpurunError):
        return


def note(job: str, **values: object) -> None:
    """Add to what is known of a job, if it has a file."""
    entry = read(job)
    if entry is not None:
        entry.values |= {name: str(value) for name, value in values.items() if value is not None}
        write(entry)


def read(job: str) -> Entry | None:
    """Read a job's file, None if there is none."""
    try:
        with open(os.path.join(root(), cluster_key(), job), "rb") as file:
            content = file.read()
    except OSError:
        return None
    values: dict[str, str] = {}
    argv: list[bytes] = []
    log: bytes | None = None
    for line in content.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == b"argv":
            argv.append(_plain(value))
        elif name == b"log":
            log = _plain(value)
        elif name:
            values[name.decode("ascii", "replace")] = value.decode("utf-8", "surrogateescape")
    return Entry(job, values, argv, log)


def jobs() -> list[str]:
    """Return the jobs that have a file, in order of their numbers."""
    try:
        names = os.listdir(os.path.join(root(), cluster_key()))
    except OSError:
        return []
    return sorted((name for name in names if name.isdigit()), key=int)


def prune() -> None:
    """Forget the oldest, with their logs; called at a submission."""
    known = jobs()
    for job in known[: max(0, len(known) - KEPT_JOBS)]:
        path = os.path.join(root(), cluster_key())
        for name in (job, f"logs/{job}.log"):
            try:
                os.unlink(os.path.join(path, name))
            except OSError:
                continue


def new(job: str, argv: list[bytes], log: bytes | None = None, **values: object) -> Entry:
    """Return an entry of a job that was just submitted."""
    known = {"submitted": f"{wall_at():.0f}"} | {name: str(value) for name, value in values.items() if value is not None}
    return Entry(job, known, argv, log)


def _escaped(raw: bytes) -> bytes:
    return raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")


def _plain(text: bytes) -> bytes:
    return b"\\".join(part.replace(b"\\n", b"\n") for part in text.split(b"\\\\"))
