"""Every kind of request that comes over the bell: its fields, and what becomes of it if its batch is lost.

1. Nothing of a request reaches who answers it but what is listed here, read once, with its type and within its range.
2. A field that is wrong or missing refuses its own request, before anything is done for anybody.
3. Fields that are not listed are not looked at: clients that are newer may say more than we know.
"""

import math
import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from ...errors import printable
from ...model import GiveWay
from ...policy.refused import Refused
from ...restarts import EVERYBODY, MOST_RETRIES, MOST_SIGNALS, NOT_TO_BE_CAUGHT, stored_signals
from ...sweeps import MOST_INDEX, MOST_ROWS, argv_of, from_words
from ...units import PRIORITY_HIGHEST, PRIORITY_LOWEST

Values = dict[str, Any]
"""What was read, by name; a field that was not sent is not there."""
Reader = Callable[[str], Any]
"""Reads one field. Raises ValueError with what it must be."""

MOST_NUMBER = 2**63 - 1
MOST_SIGNAL = 64
MOST_SECONDS = 2.0**31
# So much of what is wrong is repeated to who sent it.
MOST_SHOWN = 40
# What can be asked about the jobs of a queue whose database one cannot read (`reading`).
QUESTIONS = ("jobs", "listed", "history", "by_number", "latest_named", "names", "rows_named", "has_live", "unended", "holding")


class Lost(Enum):
    """What becomes of a request whose batch could not be committed."""

    REFUSE = "who asked is told why"
    AGAIN = "who asked keeps its place, and will be offered again"
    DROP = "who said so loses the connection, comes back and says so again"
    REPEAT = "it wrote nothing: it is answered once more"
    NOTHING = "nobody waits for an answer"


class Who(Enum):
    """Who may ask for something in a queue that many share; in one's own there is nobody else."""

    ANYBODY = "anybody"
    SELF = "only the process whose job it is: its client, its stub, its sweep"
    OWNER = "the owner of each job, and administrators"
    ADMIN = "administrators"


class Kind(NamedTuple):
    """One kind of request. `needs` are the fields without which it says nothing (`a|b`: one of them)."""

    fields: Mapping[str, Reader] = {}
    needs: tuple[str, ...] = ()
    lost: Lost = Lost.NOTHING
    who: Who = Who.ANYBODY


def version_of(kind: str, sent: Mapping[str, str]) -> int:
    """Read which protocol a request was written in: what else it holds may mean something else there. Raises Refused."""
    return int(_field(kind, "version", whole(0), sent.get("version", "0")))


def read(kind: str, sent: Mapping[str, str]) -> Values:
    """Read the fields of a request. Raises Refused."""
    if kind not in KINDS:
        raise Refused(f"the arbiter does not know {shown(kind)}")
    fields, needs = KINDS[kind].fields, KINDS[kind].needs
    values = {name: _field(kind, name, reader, sent[name]) for name, reader in fields.items() if name in sent}
    for need in needs:
        if values.keys().isdisjoint(need.split("|")):
            raise Refused(f"cannot {kind}: {need.replace('|', ' or ')} is missing")
    return values


def _field(kind: str, name: str, reader: Reader, sent: str) -> Any:
    try:
        return reader(sent)
    except ValueError as err:
        raise Refused(f"cannot {shown(kind)}: {name} {shown(sent)}: must be {err}") from None


def shown(text: str) -> str:
    """Repeat what came from outside, as far as it fits into a message."""
    return printable(text if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…") or "''"


# --- readers --------------------------------------------------------------------------------------------------------


def whole(low: int, high: int = MOST_NUMBER) -> Reader:
    """Read a whole number in plain digits."""

    def reader(text: str) -> int:
        digits = text.removeprefix("-")
        number = int(text) if digits.isascii() and digits.isdigit() and len(digits) < 20 else None
        if number is None or not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return reader


def real(low: float, high: float) -> Reader:
    """Read a number as Python writes one."""

    def reader(text: str) -> float:
        plain = len(text) < 40 and not set(text) - set("0123456789.e+-")
        try:
            number = float(text) if plain else math.nan
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return number

    return reader


def either(word: str, reader: Reader) -> Reader:
    """Read a word that stands for itself, or else something."""

    def chosen(text: str) -> Any:
        try:
            return text if text == word else reader(text)
        except ValueError as err:
            raise ValueError(f"{word}, or {err}") from None

    return chosen


def flag(text: str) -> bool:
    """Read 1 or 0."""
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def text(value: str) -> str:
    """Read text that the database and people can have: what is not UTF-8 is none."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("UTF-8") from None
    return value


def word(value: str) -> str:
    """Read text of which there is some."""
    if not value:
        raise ValueError("something")
    return text(value)


def words(sent: str) -> list[str]:
    """Read words between commas: GPUs."""
    return [word(part) for part in sent.split(",")]


def numbers(sent: str) -> list[int]:
    """Read numbers between blanks: jobs."""
    one = whole(0)
    return [one(part) for part in sent.split()]


def indices(sent: str) -> list[int]:
    """Read the indices of a part of a sweep's rows, `1-20,25`."""
    one = whole(0, MOST_INDEX)
    count = 0
    for run in sent.split(",") if sent else ():
        first, _dash, last = run.partition("-")
        count += one(last or first) - one(first) + 1
        if one(last or first) < one(first) or count > MOST_ROWS:
            raise ValueError(f"at most {MOST_ROWS} indices that count upwards")
    return from_words(sent)


def lines(sent: str) -> list[tuple[bytes, ...]]:
    """Read command lines: what each runs."""
    try:
        return [argv_of(line) for line in os.fsencode(sent).split(b"\n")]
    except ValueError as err:
        raise ValueError(f"command lines: {str(err).lower()}") from None


def sizes(sent: str) -> list[int | None]:
    """Read the sizes of scripts, `-` for none."""
    one = whole(0)
    return [None if part == "-" else one(part) for part in sent.split()]


def signals(sent: str) -> str:
    """Read how a job is asked to end, `10:60,15:30`, `all:` in front perhaps; it stays text, as rows have it."""
    number, seconds = whole(1, MOST_SIGNAL), real(0, 7 * 86400)
    pairs = [part.partition(":") for part in sent.removeprefix(EVERYBODY).split(",")]
    if len(pairs) > MOST_SIGNALS or any(number(first) in NOT_TO_BE_CAUGHT for first, _colon, _delay in pairs):
        raise ValueError(f"at most {MOST_SIGNALS} signals that can be caught")
    for _first, _colon, delay in pairs:
        seconds(delay)
    stored_signals(sent)
    return sent


def one_of(*known: str) -> Reader:
    """Read one of some words."""

    def chosen(sent: str) -> str:
        if sent not in known:
            raise ValueError(", ".join(known))
        return sent

    return chosen


def way(sent: str) -> GiveWay:
    """Read how a job may be made to give way."""
    if sent not in (known := [each.value for each in GiveWay]):
        raise ValueError(", ".join(known))
    return GiveWay(sent)


# --- the table ------------------------------------------------------------------------------------------------------

_COUNT = whole(0)
_SECONDS = real(0, MOST_SECONDS)
_ASKED: dict[str, Reader] = {
    "gpus": either("all", _COUNT),
    "memory": whole(1),
    "percent": real(1e-9, 100),
    "auto": flag,
    "exclusive": flag,
    "device": word,
    "not": word,
    "priority": whole(PRIORITY_LOWEST, PRIORITY_HIGHEST),
    "wait": _SECONDS,
    "time": _SECONDS,
    "name": word,
}
_JOB: dict[str, Reader] = {
    **_ASKED,
    "key": word,
    "offset": whole(0, MOST_INDEX),
    "script": _COUNT,
    "visible": str,  # as it is in the environment
    "order": str,
    "seen": words,
    "after": word,
    "once": word,
    "waiting": flag,
    "give_way": way,
    "signals": signals,
    "retries": whole(0, MOST_RETRIES),
    "expect": _SECONDS,
    "stub": flag,
    "output": os.fsencode,
    "detach": flag,
}
_RUN: dict[str, Reader] = {
    "attempt": _COUNT,
    "running": _COUNT,
    "held": flag,
    "rests": _SECONDS,
}
_STATUS = whole(0, 0xFFFF)  # wait(2)
_RUN_OVER: dict[str, Reader] = {
    "attempt": _COUNT,
    "status": _STATUS,
    "seconds": real(0, 2.0**40),
    "asked": flag,
    "interrupted": flag,
    "failures": _COUNT,
    "reruns": _COUNT,
    "short": _COUNT,
}
_CHANGED: dict[str, Reader] = {
    **_ASKED,
    "memory": either("whole", _ASKED["memory"]),
    "wait": either("none", _SECONDS),
    "time": either("none", _SECONDS),
}
_JOBS: dict[str, Reader] = {"jobs": numbers}

KINDS: dict[str, Kind] = {
    # launching
    "register": Kind({**_JOB, **_RUN, "tty": whole(-MOST_NUMBER)}, ("key",), Lost.REFUSE),
    "rehearse": Kind(_JOB, (), Lost.REPEAT),
    "take": Kind(lost=Lost.AGAIN),
    "failed": Kind({"status": whole(0, 255), "cause": text}, ("status",)),
    "release": Kind({"key": word, "failed": flag}, ("key", "failed"), Lost.REFUSE),
    "continued": Kind(),
    # stubs
    "started": Kind({"attempt": _COUNT, "child": _COUNT}, ("attempt",)),
    "ended": Kind(_RUN_OVER, ("attempt", "status"), Lost.DROP),
    "pending": Kind(),
    # sweeps
    "rows": Kind({"indices": indices, "lines": lines, "scripts": sizes}, ("indices",)),
    "sweep": Kind({**_JOB, "count": _COUNT, "limit": whole(1, MOST_INDEX)}, ("key", "count"), Lost.DROP),
    "become": Kind({**_RUN, "row": _COUNT, "key": word}, ("row", "key"), Lost.AGAIN, Who.SELF),
    "row": Kind(
        {"row": _COUNT, "key": word, "index": _COUNT, "status": _STATUS}, ("row", "key", "index", "status"), Lost.DROP, Who.SELF
    ),
    "forsake": Kind({"row": _COUNT, "text": text}, ("text",), Lost.DROP, Who.SELF),
    # verbs
    "kill": Kind({**_JOBS, "signal": whole(1, MOST_SIGNAL), "requeue": flag}, ("jobs",), Lost.REFUSE, Who.OWNER),
    "renice": Kind(
        {**_JOBS, "priority": _ASKED["priority"], "by": whole(-MOST_NUMBER)}, ("jobs", "priority|by"), Lost.REFUSE, Who.OWNER
    ),
    "set": Kind({**_JOBS, **_CHANGED}, ("jobs",), Lost.REFUSE, Who.OWNER),
    "pause": Kind(_JOBS, ("jobs",), Lost.REFUSE, Who.OWNER),
    "resume": Kind(_JOBS, ("jobs",), Lost.REFUSE, Who.OWNER),
    "drain": Kind({"list": word, "drained": flag}, ("list", "drained"), Lost.REFUSE, Who.ADMIN),
    "leave": Kind(lost=Lost.REFUSE, who=Who.ADMIN),
    # what only asks
    "watch": Kind(_JOBS, ("jobs",), Lost.REPEAT),
    "explain": Kind({**_JOBS, "listed": flag, "plain": flag}, ("jobs",), Lost.REPEAT),
    "line": Kind({"bare": flag}, (), Lost.REPEAT),
    "why": Kind({"job": _COUNT}, ("job",), Lost.REPEAT),
    "gpus": Kind(lost=Lost.REPEAT),
    "ping": Kind(lost=Lost.REPEAT),
    "figures": Kind(lost=Lost.REPEAT),
    "mend": Kind(lost=Lost.REPEAT, who=Who.ADMIN),
    "inside": Kind(lost=Lost.REPEAT),
    "jobs": Kind(
        {"what": one_of(*QUESTIONS), "ended": flag, "first": _COUNT, "last": _COUNT, "name": word, "user": word,
         "since": real(0, 2.0**40)},
        ("what",), Lost.REPEAT,
    ),
}
