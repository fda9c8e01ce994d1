"""Where a launch is to run: on this machine, or handed to Slurm (`--on`, GPURUN_ON, the setting `on`; the first that is there).

1. What is simulated, and what is asked for inside a running job of Slurm's, runs here unless `--on slurm` itself is given.
2. The files of settings are parsed only if one of them seems to set it: a launch pays for three files that are not there.

The launch path imports this module.
"""

import os

from ..errors import UsageError
from ..state.paths import home_of_user
from .request import Given

HERE, SLURM = "here", "slurm"
SYSTEM_SETTINGS = "/etc/xdg/gpurun/settings.toml"


def is_for_slurm(given: Given) -> bool:
    """Whether a launch is handed to Slurm. Raises UsageError."""
    word = given.get("on")
    if isinstance(word, str):
        return _read(word, "--on") == SLURM
    if "slurm" in given:
        raise UsageError("--slurm: only with --on slurm")
    if given.get("sim") or os.environ.get("GPURUN_SIM") or _is_inside():
        return False
    word = os.environ.get("GPURUN_ON")
    if word:
        return _read(word, "GPURUN_ON") == SLURM
    return _settings_mention_it() and _from_settings() == SLURM


def _is_inside() -> bool:
    if "SLURM_JOB_ID" not in os.environ:
        return False
    from ..state.allocation import suffix_here

    return suffix_here() != ""


def _read(word: str, what: str) -> str:
    if word not in (HERE, SLURM):
        raise UsageError(f"{what} {word}: here or slurm")
    return word


def _settings_mention_it() -> bool:
    paths = [SYSTEM_SETTINGS]
    chosen = os.environ.get("GPURUN_DIR")
    if chosen:
        paths.append(f"{chosen}/settings.toml")
    home = home_of_user()
    if home is not None:
        paths.append(f"{home}/.config/gpurun/settings.toml")
    return any(_mentions_it(path) for path in paths)


def _mentions_it(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        text = os.read(fd, 1 << 16)
    except OSError:
        return False
    finally:
        os.close(fd)
    return any(line.partition(b"=")[0].strip() in (b"on", b'"on"', b"'on'") for line in text.split(b"\n"))


def _from_settings() -> str:
    from ..state.settings import read_settings

    settings = read_settings()
    return str(settings["on"])
