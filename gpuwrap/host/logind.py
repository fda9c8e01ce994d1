"""What a logout ends, as systemd-logind is set: asked, never guessed from its files.

The launch in the background imports this, so there is nothing here that it does not have already.
"""

import os
from itertools import pairwise  # built in

from . import bus

QUESTION = ("get-property", *bus.LOGIN, "KillUserProcesses", "KillOnlyUsers", "KillExcludeUsers")


def is_in_session_scope(cgroup: str) -> bool:
    """Whether a cgroup's path leads into the scope of a login session of ours."""
    words = cgroup.split("/")
    slice_name = f"user-{os.geteuid()}.slice"
    return any(
        outer == slice_name and inner.startswith("session-") and inner.endswith(".scope")
        for outer, inner in pairwise(words)
    )


def are_we_in_session() -> bool:
    """Whether we live in the scope of a login session of ours, which logind may end with the logout."""
    try:
        with open("/proc/self/cgroup", "rb", buffering=0) as file:
            lines = file.read(65536).decode(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("0::") and is_in_session_scope(line) for line in lines)


def kills(answer: str) -> bool:
    """Whether a logout ends what our sessions left, by logind's answer to `QUESTION` [logind.conf(5), manager_shall_kill].

    Raises bus.Refused if that is no answer.
    """
    import pwd

    user = pwd.getpwuid(os.geteuid()).pw_name
    try:
        every, only, exclude = (line.split() for line in answer.splitlines())
        if user in _names(exclude) or (user == "root" and not _names(exclude)):
            return False
        return user in _names(only) if _names(only) else {"true": True, "false": False}[every[1]]
    except (ValueError, LookupError):
        raise bus.Refused("answers what cannot be read") from None


def kills_at_logout(until_mono: float) -> bool:
    """Ask whether a logout ends what our sessions left. Raises bus.Refused."""
    return kills(bus.ask(until_mono, *QUESTION))


def _names(words: list[str]) -> list[str]:
    """Read a list of names as the bus tool writes it: `as 2 "ana" "ben"`."""
    kind, _count, *names = words
    if kind != "as":
        raise ValueError(kind)
    return [name.strip('"') for name in names]
