"""Names of users and groups, asked of the password database aside: it may lie on a network, and hang.

1. Nobody waits: until an answer is there, and if none ever comes, a number is shown, and what hangs on a name does not hold.
2. A few threads ask, each one question at a time; one that hangs costs its thread. When all hang nothing more is asked, and
   the loop goes on as before.
"""

import contextlib
import grp
import os
import pwd
import queue
import signal
import threading
from collections.abc import Callable

THREADS = 4
# No crowd of numbers fills our memory.
MOST_NAMES = 10_000


class Names:
    """Knows names, and asks for those that it does not know."""

    def __init__(self, on_answer: Callable[[], None] | None = None) -> None:
        """`on_answer` is called by `heard`, in the loop's own thread, once `fileno` can be read."""
        self._on_answer = on_answer
        self._users: dict[int, str] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._asked: set[object] = set()
        self._questions: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads = 0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return what can be read once there are answers."""
        return self._bell

    def heard(self) -> None:
        """Take in that there are answers."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if self._on_answer is not None:
            self._on_answer()

    def user(self, uid: int) -> str | None:
        """Return a user's name; None while it is not known, and the number as text if he has none."""
        if uid not in self._users and len(self._users) < MOST_NAMES:
            self._ask(uid, lambda: self._users.__setitem__(uid, _user(uid)))
        return self._users.get(uid)

    def shown(self, uid: int) -> str:
        """Return what to call a user."""
        return self.user(uid) or str(uid)

    def uid(self, name: str) -> int | None:
        """Return the number of a user whom the settings name; None while it is not known, or if there is none."""
        return self._number("user", name, _uid)

    def gid(self, group: str) -> int | None:
        """Return the number of a group; None while it is not known, or if there is none."""
        return self._number("group", group, _gid)

    def _number(self, kind: str, name: str, look: Callable[[str], int]) -> int | None:
        key = kind, name
        if key not in self._numbers:
            self._ask(key, lambda: self._numbers.__setitem__(key, look(name)))
        found = self._numbers.get(key, -1)
        return None if found < 0 else found

    def _ask(self, what: object, question: Callable[[], None]) -> None:
        if what in self._asked:
            return
        self._asked.add(what)
        self._questions.put(question)
        if self._threads < THREADS:
            self._threads += 1
            threading.Thread(target=self._work, daemon=True).start()  # one that hangs must not keep us from leaving

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._questions.get()()
            with contextlib.suppress(OSError):
                os.eventfd_write(self._bell, 1)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, OSError):
        return -1


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OSError):
        return -1
