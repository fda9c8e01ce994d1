"""Settings that change under a running arbiter: it sees that a file has come, changed or gone, and goes on by what it says.

1. Nothing wakes for it: the files are looked at by whatever wakes the arbiter, `CHECK_SECONDS` after the last time at the
   earliest. So what is planned after a long sleep is planned by the settings of that moment.
2. A file is taken when two looks have found it the same: an editor may have emptied it, and be about to write.
3. What cannot be read changes nothing; the log tells of it, once for each change. What was read last is in the database, so
   that this holds for a successor, too.
4. A file on a network filesystem may hang: where one may lie there, a thread looks (`aside`), more rarely, and nobody waits.
"""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import GpurunError
from ..host.aside import Aside
from ..host.processes import boot_id
from ..model import Job
from ..state.machine import Rules, split
from ..state.notes import Kept
from ..state.paths import LOCAL_FILESYSTEMS, filesystem_of
from ..state.settings import Marks, Settings, files, marks_of, read_settings, remembered
from .log import log
from .seeing.views import bounds_of

if TYPE_CHECKING:
    from .loop import Arbiter

CHECK_SECONDS = 2.0
# A thread costs 0.6 ms.
AWAY_CHECK_SECONDS = 10.0
# For how long a file that was seen to change must stay as it is.
SETTLE_SECONDS = 0.25
# A look that is so late comes after a sleep. It is believed at once, as the one at the start: it is alone, not one of many.
ASLEEP_SECONDS = 5.0


class Found(NamedTuple):
    """What a look has found: `read` is None where nothing has changed."""

    marks: Marks
    read: Settings | GpurunError | None


class Tuning:
    """Keeps the arbiter's settings as the files say."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._turn = arbiter.turn
        self._remembered = arbiter.notes.settings
        self._files: list[str] = []
        self._aside: Aside[Found] | None = None
        self._taken = arbiter.settings.marks
        self._coming: Marks | None = None
        self._due_mono = time.monotonic() + CHECK_SECONDS

    def check(self) -> None:
        """Look at the files if it is time to. At each wake: mostly it is not."""
        now = time.monotonic()
        if now < self._due_mono:
            return
        found = self._look()
        slept = self._aside is None and now > self._due_mono + ASLEEP_SECONDS
        if found is None:
            self._due_mono = now + SETTLE_SECONDS  # the thread has been asked, and answers
            return
        self._due_mono = now + (CHECK_SECONDS if self._aside is None else AWAY_CHECK_SECONDS)
        if found.read is None:
            self._coming = None
        elif found.marks != self._coming and not slept:
            self._coming = found.marks
            self._due_mono = now + SETTLE_SECONDS
        else:
            self._coming, self._taken = None, found.marks
            self._take(found.read)

    def remember(self) -> None:
        """Write down, where that has changed, what holds. Called inside a batch."""
        self._remembered.put(self._arbiter.settings.text())

    def _look(self) -> Found | None:
        """Return what the files are like; None while a thread that was asked has not found out."""
        if not self._files:
            self._files = files()
            if not all(filesystem_of(path) in LOCAL_FILESYSTEMS for path in self._files):
                self._aside = Aside()
        paths, taken = self._files, self._taken
        if self._aside is None:
            return _look(paths, taken)
        found = self._aside.answer()
        if found is None:
            self._aside.ask(lambda: _look(paths, taken))
        return found

    def _take(self, new: Settings | GpurunError) -> None:
        if isinstance(new, GpurunError):
            log("settings", f"{new.text}; what was read before stays")
            return
        arbiter, old = self._arbiter, self._arbiter.settings
        changed = [name for name, value in new.values.items() if value != old[name]]
        arbiter.settings = new
        self.remember()
        if arbiter.crowd is not None and new.people != old.people:
            arbiter.crowd.take(rules_of(new.people))
            log("settings", "what is said about people has changed")
            arbiter.turn.replan()
        if not changed:
            return
        log("settings", "now " + ", ".join(f"{name} = {new.written[name]!r}" for name in changed))
        arbiter.bounds = bounds_of(new)
        arbiter.observer.strangers.ignored = new["ignore"]
        if "over_memory" in changed:
            arbiter.memory.judge_again()
        self._turn.replan()


def rules_of(people: dict[str, Any]) -> Rules:
    """Return what is said about people; it was judged when it was read."""
    return split(people)[0]


def settings_at_start(notes: Kept, live: Iterable[Job]) -> Settings:
    """Read the settings. Raises GpurunError if they cannot be read, unless somebody of an earlier arbiter's is left.

    Then what held before goes on: a slip in a file must not cost those in line their places because an arbiter died.
    """
    marks = marks_of(files())
    try:
        return read_settings()
    except GpurunError as err:
        text = notes.settings.get()
        if not text or not any(job.identity.boot_id == boot_id() for job in live):
            raise
        log("settings", f"{err.text}; what was read before stays")
        return remembered(text, marks)


def _look(paths: list[str], taken: Marks) -> Found:
    marks = marks_of(paths)
    if marks == taken:
        return Found(marks, None)
    try:
        return Found(marks, read_settings())
    except GpurunError as err:
        return Found(marks, err)
