"""history: what ran, how long it waited and ran, what it needed, how it ended, and whether its output was kept."""

import contextlib
import json
import os
import sys
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from ..clocks import Now, wall_at
from ..errors import GpurunError, NoSuchJob, UsageError, printable
from ..launch.output import default_output
from ..model import Job, Order
from ..outputs import kept_in
from ..render import history_as_json, history_as_table
from ..tables import Screen
from ..units import parse_duration, parse_run, split_jobs
from .asking import Given, World, read_lines
from .lookback import look_back, looks_back
from .replayed import orders_of, replayed


def main(given: Given, operands: list[str]) -> int:
    """List ended jobs, the latest last; exit 1 if a job was named that is none."""
    since = since_when(str(given["since"]), datetime.fromtimestamp(wall_at())) if "since" in given else None
    most = read_lines(given)
    orders = _orders(given)
    if looks_back(given):
        return look_back(given, operands, since)
    world = World(given)
    with contextlib.suppress(GpurunError):  # what has ended is told anyway
        world.repair()
    user = given.get("user")
    of_user = user if isinstance(user, str) else None
    jobs = world.reader.history(since, of_user, None if operands else most) if world.reader is not None else []
    missing: list[GpurunError] = []
    if operands:
        operands = [part for word in operands for part in split_jobs(word)]
        named = {word: [job for job in jobs if _is_named(job, word)] for word in operands}
        missing = _missing(world, [word for word, found in named.items() if not found])
        wanted = {job.id for found in named.values() for job in found}
        jobs = [job for job in jobs if job.id in wanted]
    if most is not None:
        jobs = jobs[-most:] if most else []
    if orders:
        print("\n".join(replayed(jobs, orders, Screen.of_stdout())))
        return _end(missing)
    logs = {job.id: path for job in jobs if (path := kept_in(job.output, job.id)[0]) is not None and os.path.exists(path)}
    own = None if world.folder is None else os.fsencode(default_output(world.folder))
    if "json" in given:
        print(json.dumps({"jobs": [history_as_json(job, logs.get(job.id)) for job in jobs]}))
    elif jobs:
        places = {job.id: "-d" if job.output == own else _place(logs[job.id]) for job in jobs if job.id in logs}
        print("\n".join(history_as_table(jobs, places, Now.here(), Screen.of_stdout())))
    elif not missing:
        print("no jobs")
    return _end(missing)


def _orders(given: Given) -> list[Order]:
    """Return the orders to replay; none if that is not asked for."""
    if "replay" in given:
        return orders_of(given.get("order"))
    if "order" in given:
        raise UsageError("--order: only with --replay")
    return []


def _end(missing: list[GpurunError]) -> int:
    sys.stdout.flush()
    for err in missing:
        sys.stderr.write(f"gpurun: history: {err.text}\n")
    return 1 if missing else 0


def _place(path: bytes) -> str:
    """Write where a file lies as one would type it from here."""
    text = os.fsdecode(path)
    with contextlib.suppress(FileNotFoundError):  # here is no more
        here = os.getcwd().rstrip("/") + "/"
        home = os.path.expanduser("~").rstrip("/") + "/"
        if text.startswith(here):
            return text[len(here) :]
        return "~/" + text[len(home) :] if home != "/" and text.startswith(home) else text
    return text


def _missing(world: World, words: list[str]) -> list[GpurunError]:
    """Return an error for each word that names no job that ever ended; one that --since or -u leave out is none."""
    ended = world.reader.history(None, None, None) if words and world.reader is not None else []
    missing: list[GpurunError] = []
    for word in words:
        if not any(_is_named(job, word) for job in ended):
            waits, _ = world.select([word])
            missing.append(GpurunError(f"job {printable(word)}: has not ended") if waits else NoSuchJob(word))
    return missing


def _is_named(job: Job, word: str) -> bool:
    run = parse_run(word)
    if run is not None:
        return run[0] <= job.id <= run[1]
    return job.name is not None and fnmatchcase(job.name, word)


def since_when(text: str, now: datetime) -> float:
    """Read a moment: a duration before now, `today`, `yesterday`, `14:30`, `2026-11-20`, or as --json and date(1) write one.

    Raises UsageError.
    """
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if text in ("today", "yesterday"):
        return (midnight - timedelta(days=text == "yesterday")).timestamp()
    if text[:4].isdigit() and text[4:5] == "-":
        try:
            return datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError):
            pass
    try:
        clock = datetime.strptime(text, "%H:%M")
        return midnight.replace(hour=clock.hour, minute=clock.minute).timestamp()
    except ValueError:
        pass
    try:
        return now.timestamp() - parse_duration(text, "since")
    except UsageError:
        raise UsageError(f"since {text}: not understood: 2d, yesterday, 14:30 or 2026-11-20") from None
