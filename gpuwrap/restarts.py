"""What a job says about being ended and run again: `-r`, `--give-way`, `--signal`, `--retries`.

Loaded on the launch path only if one of them is given. Pure.
"""

from .errors import UsageError
from .units import parse_duration, parse_integer

Given = dict[str, str | bool]
Steps = tuple[tuple[int, float], ...]
"""Signals to be sent one after the other, and the seconds given after each; after the last KILL follows."""

DEFAULT_SIGNALS = "15:120"
MOST_SIGNALS = 8
MOST_RETRIES = 1000
# What waitpid(2) never sees a program do anything about.
NOT_TO_BE_CAUGHT = (9, 19)
EVERYBODY = "all:"
"""In front of a list of signals: not the leader alone, all of the job are sent them at once."""

# Why a job waits again after an eviction, as its events say.
GAVE_WAY = "gave way"
# A program that ends with one of these asks to be run again (EX_TEMPFAIL; Grid Engine).
RERUN_CODES = (75, 99)
MOST_RERUNS = 100
# A run shorter than this makes the next one wait, each time longer, up to the longest.
SHORT_RUN_SECONDS = 10.0
LONGEST_WAIT_SECONDS = 60.0

KNOWN_WAYS = ("never", "pause", "suspend", "requeue")


def read_restarts(given: Given) -> dict[str, object]:
    """Read the options into the fields of a request; `stub` says that a stub is needed. Raises UsageError."""
    request: dict[str, object] = {}
    way = given.get("give_way")
    if way is not None and way not in KNOWN_WAYS:
        raise UsageError(f"--give-way {way}: never, pause, suspend or requeue")
    if given.get("restartable"):
        if way not in (None, "requeue"):
            raise UsageError(f"-r means --give-way requeue, and --give-way {way} was given too")
        way = "requeue"
    request["give_way"] = way
    if "signal" in given:
        text = str(given["signal"])
        everybody = EVERYBODY if asks_everybody(text) else ""
        request["signals"] = everybody + write_signals(read_signals(text.removeprefix(EVERYBODY)))
    retries = 0
    if "retries" in given:
        number = parse_integer(str(given["retries"]))
        if number is None or not 0 <= number <= MOST_RETRIES:
            raise UsageError(f"retries {given['retries']}: a count from 0 to {MOST_RETRIES}")
        retries = number
    if retries:
        request["retries"] = retries
    if way == "requeue" or retries:
        request["stub"] = True
    return request


def read_signals(text: str) -> Steps:
    """Read `USR1:60,TERM:30`: signal and seconds (or a duration with its unit). Raises UsageError."""
    steps = []
    for part in text.split(","):
        name, colon, delay = part.partition(":")
        number = _signal_number(name)
        if number is None:
            raise UsageError(f"signal {name or text}: no such signal: TERM:120, for example")
        if number in NOT_TO_BE_CAUGHT:
            raise UsageError(f"signal {name}: cannot be caught; KILL comes last by itself")
        if not colon or not delay:
            raise UsageError(f"signal {part}: the seconds to wait after it are missing: {name}:120")
        seconds = parse_integer(delay)
        waited = parse_duration(delay, "signal delay") if seconds is None else float(seconds)
        if not 0 <= waited <= 7 * 86400:
            raise UsageError(f"signal delay {delay}: out of range")
        steps.append((number, waited))
    if len(steps) > MOST_SIGNALS:
        raise UsageError(f"signal {text}: at most {MOST_SIGNALS} signals")
    return tuple(steps)


def write_signals(steps: Steps) -> str:
    """Write steps as the request and the database have them: `10:60,15:30`."""
    return ",".join(f"{number}:{seconds:g}" for number, seconds in steps)


def stored_signals(text: str | None) -> Steps:
    """Read what `write_signals` wrote, None for the default."""
    pairs = [part.split(":") for part in (text or DEFAULT_SIGNALS).removeprefix(EVERYBODY).split(",")]
    return tuple((int(number), float(seconds)) for number, seconds in pairs)


def asks_everybody(text: str | None) -> bool:
    """Whether a list of signals is for all of the job."""
    return text is not None and text.startswith(EVERYBODY)


def wait_before(tries: int) -> float:
    """Seconds to wait before the next run, after so many in a row that ended too soon: 1, 2, 4 … 60."""
    return min(LONGEST_WAIT_SECONDS, 2.0 ** min(max(tries - 1, 0), 10))


def _signal_number(name: str) -> int | None:
    import signal

    word = name.upper()
    number = parse_integer(word)
    if number is not None:
        return number if 0 < number < signal.NSIG else None
    try:
        return int(signal.Signals["SIG" + word.removeprefix("SIG")])
    except KeyError:
        return None
