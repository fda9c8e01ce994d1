"""Units of systemd, as a process finds them: which one it lives in, and how to ask what becomes of it."""

import os

from .bus import MANAGER

ENDINGS = (".service", ".scope")
STOPPING = 's "deactivating"'


def unit_of(folder: str) -> tuple[bool, str] | None:
    """Return whose unit a cgroup belongs to (true: our user manager's, false: PID 1's) and its name; None if to none.

    A unit ends all that lives in it or below it.
    """
    manager = f"user@{os.geteuid()}.service"
    names = [word for word in folder.split("/") if word.endswith(ENDINGS)]
    if not names:
        return None
    below_manager = names[0] == manager and len(names) > 1
    return below_manager, names[1] if below_manager else names[0]


def state_words(of_manager: bool, unit: str) -> list[str]:
    """Return the bus tool's words that ask in which state a unit is; `STOPPING` is an answer."""
    bus = "--user" if of_manager else "--system"
    path = f"{MANAGER[1]}/unit/{_label(unit)}"
    return [bus, "get-property", MANAGER[0], path, "org.freedesktop.systemd1.Unit", "ActiveState"]


def _label(text: str) -> str:
    """Write a name as a part of a bus path [sd_bus_path_encode(3)]."""
    return "".join(
        letter if letter.isascii() and (letter.isalpha() or (letter.isdigit() and at)) else f"_{ord(letter):02x}"
        for at, letter in enumerate(text)
    )
