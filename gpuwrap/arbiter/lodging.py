"""Where the arbiter lives: not in what somebody started it from, which ends when it likes, and with all that lives in it.

1. Right after it is ready, and never before, the user manager (for root: the system's) is asked to move the arbiter and its
   keeper into a scope of their own. A keeper that becomes the arbiter, and one that is started later, live there already.
2. A user's manager ends with his last logout unless he lingers. So whoever lives elsewhere is only moved to one that lives
   as long: he lingers, or what we live in ends with the manager too, or with its session.
3. Who cannot move stays, and asks whether what it lives in is just being stopped: then it was summoned too late, and leaves.

Nothing here waits.
"""

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..host import bus, logind, units, usermanager
from ..host.freezer import folder_of, world_key
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter

# The first client is served before.
FIRST_SECONDS = 0.1
# A user may come to linger, or log in.
AGAIN_SECONDS = 60.0
# The reply says that the move is queued: so long it is looked for.
ARRIVAL_SECONDS = 2.0
LOOK_SECONDS = 0.02
PREFIX = "gpurun-arbiter-"
# Nothing of ours takes time to end.
_STOP = ("TimeoutStopUSec", "t", "2000000")


def is_own_scope(folder: str) -> bool:
    """Whether a cgroup is a scope that was made for an arbiter."""
    name = os.path.basename(folder)
    return name.startswith(PREFIX) and name.endswith(".scope")


def why_not_moved(folder: str, kills_at_logout: Callable[[], bool]) -> str | None:
    """Say why an arbiter that lives in a cgroup cannot be given a scope of its own that lives as long; None if it can."""
    if not usermanager.has_manager():
        return "its user has no manager that is up" if bus.is_there() else "no systemd runs here"
    if os.geteuid() == 0 or usermanager.lingers() or usermanager.is_below_manager(folder):
        return None
    if not logind.is_in_session_scope(folder):
        return "its user's manager ends with his last logout"
    return None if kills_at_logout() else "its user's manager ends with his last logout, and his sessions' processes do not"


class Lodging:
    """Moves the arbiter and its keeper to where nobody else's end is theirs."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._errands, self._timers = arbiter.errands, arbiter.timers
        self._scope = f"{PREFIX}{world_key(arbiter.folder.fd)}-{os.getpid()}.scope"
        self._kills_at_logout: bool | None = None
        self._begun_mono = 0.0
        self._said = ""

    def settle(self) -> None:
        """Move soon, if it is of any use."""
        if bus.is_there():
            self._timers.after(FIRST_SECONDS, self._move)

    def _move(self) -> None:
        folder = folder_of(os.getpid())
        if folder is None or is_own_scope(folder):
            return
        self._begun_mono = time.monotonic()
        unknown = self._kills_at_logout is None
        why_not = why_not_moved(folder, lambda: unknown or bool(self._kills_at_logout))
        if why_not is not None:
            self._stay(why_not)
        elif unknown and os.geteuid() and not usermanager.lingers() and not usermanager.is_below_manager(folder):
            self._errands.ask(logind.QUESTION, self._heard_of_logout)
        else:
            self._ask(usermanager.UNTOUCHED, _STOP)

    def _heard_of_logout(self, answer: str | bus.Refused) -> None:
        try:
            self._kills_at_logout = logind.kills(answer) if isinstance(answer, str) else False
        except bus.Refused:
            self._kills_at_logout = False
        self._move()

    def _ask(self, *properties: tuple[str, ...]) -> None:
        pids = [pid for pid in (os.getpid(), self._arbiter.keeper.pid) if pid]
        words = usermanager.start_words(self._scope, pids, *properties)
        self._errands.ask(words, lambda answer: self._asked(answer, properties))

    def _asked(self, answer: str | bus.Refused, properties: tuple[tuple[str, ...], ...]) -> None:
        if not isinstance(answer, bus.Refused):
            self._look()
        elif usermanager.is_too_old(answer) and usermanager.UNTOUCHED in properties:
            self._ask(_STOP)
        else:
            self._stay(f"the manager {answer.text}")

    def _look(self) -> None:
        """See whether we have arrived."""
        seconds = time.monotonic() - self._begun_mono
        if is_own_scope(folder_of(os.getpid()) or ""):
            log("lodging", f"moved to {self._scope}, {seconds * 1000:.1f} ms")
        elif seconds < ARRIVAL_SECONDS:
            self._timers.after(LOOK_SECONDS, self._look)
        else:
            self._stay("the manager has not moved it")

    def _stay(self, why: str) -> None:
        folder = folder_of(os.getpid()) or ""
        if self._said != why:
            log("lodging", f"stays in {folder}: {why}")
        self._said = why
        self._timers.after(AGAIN_SECONDS, self._move)
        unit = units.unit_of(folder)
        if unit is not None:
            self._errands.ask(units.state_words(*unit), self._heard_of_unit)

    def _heard_of_unit(self, answer: str | bus.Refused) -> None:
        if answer == units.STOPPING:
            self._arbiter.farewell.begin("what it lives in is being stopped")
