"""What outlives an arbiter beside the jobs' rows, and the only place that knows under which names the database keeps it.

1. Each note is a text in one row; here it gets its type. It is read from the mirror, parsed once for each text it has, and
   goes back with the mirror after a batch that was lost: nobody keeps a copy of his own.
2. Writing what is there already writes nothing; an empty note has no row.
3. What cannot be read, of an earlier version or of somebody's hand, is as good as not there.
"""

from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..accounts.totals import Totals

Value = TypeVar("Value")
Key = TypeVar("Key", int, str)
Starts = dict[int, int]
"""Processes: start times by pid."""

TOTALS = "totals"


class Keeps(Protocol):
    """As much of a store as notes need."""

    def note(self, name: str) -> str:
        """Return a note's text; empty if there is none."""

    def notes_of(self, word: str) -> dict[int, str]:
        """Return the notes called `word N`, by N."""

    def put_note(self, name: str, text: str) -> None:
        """Write a note; without text it goes."""


class IdleStranger(NamedTuple):
    """A process that is no job's and stands idle on a GPU."""

    uuid: str
    pid: int
    start_ticks: int
    since_mono: float
    cpu_seconds: float
    """What it had used of the processor by then."""


class IdleStrangers(NamedTuple):
    """Who stood idle, in one boot."""

    boot_id: str = ""
    each: tuple[IdleStranger, ...] = ()


class Note(Generic[Value]):
    """One thing that is kept."""

    def __init__(self, store: Keeps, name: str, read: Callable[[str], Value], write: Callable[[Value], str]) -> None:
        self._store, self._name, self._read, self._write = store, name, read, write
        self._known: tuple[str, Value] | None = None

    def get(self) -> Value:
        """Return it; what an empty text means if there is none."""
        text = self._store.note(self._name)
        if self._known is None or self._known[0] != text:
            self._known = text, _parsed(self._read, text) or self._read("")
        return self._known[1]

    def put(self, value: Value) -> None:
        """Keep it from now on. Called inside a batch."""
        text = self._write(value)
        if text != self._store.note(self._name):
            self._store.put_note(self._name, text)


class Notes(Generic[Key, Value]):
    """One thing of many: of each job, or of each command."""

    def __init__(self, store: Keeps, word: str, read: Callable[[str], Value], write: Callable[[Value], str]) -> None:
        self._store, self._word, self._read, self._write = store, word, read, write
        self._known: dict[Key, tuple[str, Value | None]] = {}

    def get(self, key: Key) -> Value | None:
        """Return one; None if there is none."""
        text = self._store.note(f"{self._word} {key}")
        if not text:
            self._known.pop(key, None)
            return None
        known = self._known.get(key)
        if known is None or known[0] != text:
            known = self._known[key] = text, _parsed(self._read, text)
        return known[1]

    def has(self, key: Key) -> bool:
        """Whether anything is kept of it."""
        return bool(self._store.note(f"{self._word} {key}"))

    def put(self, key: Key, value: Value) -> None:
        """Keep it from now on. Called inside a batch."""
        name, text = f"{self._word} {key}", self._write(value)
        if text != self._store.note(name):
            self._store.put_note(name, text)

    def drop(self, key: Key) -> None:
        """Keep it no longer. Called inside a batch."""
        self._known.pop(key, None)
        if self.has(key):
            self._store.put_note(f"{self._word} {key}", "")

    def all(self: "Notes[int, Value]") -> dict[int, Value]:
        """Return those of all jobs."""
        found = {key: _parsed(self._read, text) for key, text in self._store.notes_of(self._word).items() if text}
        return {key: value for key, value in found.items() if value is not None}


class Kept:
    """Every note there is."""

    def __init__(self, store: Keeps) -> None:
        self.settings = Note(store, "settings", str, str)
        """What was read last from the settings' files, as `Settings.text` writes it."""
        self.drained: Note[frozenset[str]] = Note(
            store, "drained", lambda text: frozenset(text.split()), lambda uuids: " ".join(sorted(uuids))
        )
        """The UUIDs of the GPUs that take no new job."""
        self.idle_strangers = Note(store, "idle-strangers", _read_idle, _write_idle)
        self.kin: Notes[int, Starts] = Notes(store, "kin", _read_starts, _write_starts)
        """A job's processes that its leader may have lost."""
        self.groups: Notes[int, str] = Notes(store, "group", str, str)
        """The cgroup that was made to freeze a job."""
        self.stopped: Notes[int, Starts] = Notes(store, "stopped", _read_starts, _write_starts)
        """Which of a job's processes we have stopped."""
        self.stood_still: Notes[int, float] = Notes(store, "stood still", float, str)
        """For how many seconds a job stood still for others that have ended since."""
        self.told_over: Notes[int, int] = Notes(store, "told-over", int, str)
        """The attempt in which a job was told that it uses too much memory."""
        self.told_astray: Notes[int, list[str]] = Notes(store, "told-astray", str.split, " ".join)
        """Whom it was told that a job computes where it was granted nothing: `attempt:GPU` itself, `N` another job."""
        self.peak_before: Notes[str, int] = Notes(store, "peak before", int, str)
        """By fingerprint: what a command was known to need before its last runs failed."""
        self.totals = Note(store, TOTALS, Totals.remembered, Totals.text)
        """What jobs came to that are forgotten; who shows totals reads it, too."""


def _parsed(read: Callable[[str], Value], text: str) -> Value | None:
    try:
        return read(text)
    except ValueError:
        return None


def _read_starts(text: str) -> Starts:
    words = (word.partition(":") for word in text.split())
    return {int(pid): int(start) for pid, _, start in words}


def _write_starts(starts: Starts) -> str:
    return " ".join(f"{pid}:{start}" for pid, start in sorted(starts.items()))


def _read_idle(text: str) -> IdleStrangers:
    boot, _, words = text.partition(" ")
    split = [word.rsplit(":", 4) for word in words.split()]
    return IdleStrangers(boot, tuple(
        IdleStranger(uuid, int(pid), int(start), float(since), float(used)) for uuid, pid, start, since, used in split
    ))  # fmt: skip


def _write_idle(idle: IdleStrangers) -> str:
    words = [f"{uuid}:{pid}:{start}:{since:.0f}:{used:.2f}" for uuid, pid, start, since, used in idle.each]
    return " ".join([idle.boot_id, *sorted(words)]) if words else ""
