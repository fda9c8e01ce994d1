"""The table of requests: each field of each kind has a reader, which refuses what makes no sense and says what it must be."""

import pytest

from gpuwrap.arbiter.answers.table import KINDS, MOST_SHOWN, read, shown, version_of
from gpuwrap.model import GiveWay
from gpuwrap.policy.refused import Refused

HUGE = "9" * 5000
NUMBERS = ["", "x", "nan", "inf", "-inf", "1e999", " 1", "1 ", "1_0", "٣", "0x1", "1,2", "--1", "\udcff", "\x1b[2J", HUGE]
# Every field that reads a number, and what each of them is.
WHOLE = [
    (kind, field)
    for kind, known in KINDS.items()
    for field in known.fields
    if field in ("row", "index", "count", "limit", "job", "status", "attempt", "child", "offset", "script", "retries", "tty",
                 "failures", "reruns", "short", "signal",
                 "running", "first", "last")
]  # fmt: skip
REAL = [
    (kind, field)
    for kind, known in KINDS.items()
    for field in known.fields
    if field in ("seconds", "rests", "percent", "since")
]
FLAGS = [
    (kind, field)
    for kind, known in KINDS.items()
    for field in known.fields
    if field in ("auto", "exclusive", "stub", "detach", "waiting", "held", "asked", "interrupted", "failed", "requeue",
                 "drained", "listed", "plain", "ended")
]  # fmt: skip


def needs(kind: str) -> dict[str, str]:
    """What a kind must have beside."""
    good = {"key": "a", "jobs": "1", "priority": "1", "status": "0", "failed": "0", "attempt": "1", "indices": "1", "row": "1",
            "index": "1", "count": "1", "text": "x", "list": "0", "drained": "1", "job": "1", "what": "names"}  # fmt: skip
    return {need.partition("|")[0]: good[need.partition("|")[0]] for need in KINDS[kind].needs}


def why(kind: str, **sent: str) -> str:
    """Why a request is refused."""
    with pytest.raises(Refused) as refused:
        read(kind, needs(kind) | sent)
    text = refused.value.error.text
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 200
    return text


@pytest.mark.parametrize(("kind", "field"), WHOLE)
def test_a_whole_number_is_nothing_else(kind: str, field: str) -> None:
    for wrong in [*NUMBERS, "0.5", "1e3"]:
        assert f"cannot {kind}: {field} " in why(kind, **{field: wrong})
        assert "must be a whole number from " in why(kind, **{field: wrong})
    assert read(kind, needs(kind) | {field: "1"})[field] == 1


@pytest.mark.parametrize(("kind", "field"), REAL)
def test_a_number_is_nothing_else(kind: str, field: str) -> None:
    for wrong in [each for each in NUMBERS if each != "1e999"] + ["-1", "1e999"]:
        assert "must be a number from " in why(kind, **{field: wrong})
    assert read(kind, needs(kind) | {field: "2.5"})[field] == 2.5


@pytest.mark.parametrize(("kind", "field"), FLAGS)
def test_a_flag_is_1_or_0(kind: str, field: str) -> None:
    for wrong in ("", "2", "yes", "true", "01", "-1"):
        assert "must be 0 or 1" in why(kind, **{field: wrong})
    assert read(kind, needs(kind) | {field: "1"})[field] is True
    assert read(kind, needs(kind) | {field: "0"})[field] is False


@pytest.mark.parametrize("kind", [kind for kind, known in KINDS.items() if known.needs])
def test_what_a_kind_needs_is_missed_by_name(kind: str) -> None:
    for need in KINDS[kind].needs:
        sent = {name: value for name, value in needs(kind).items() if name not in need.split("|")}
        with pytest.raises(Refused) as refused:
            read(kind, sent)
        assert refused.value.error.text == f"cannot {kind}: {need.replace('|', ' or ')} is missing"


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_with_what_it_needs_is_read_and_what_is_unheard_of_is_left_out(kind: str) -> None:
    assert read(kind, needs(kind) | {"colour": "red"}).keys() == needs(kind).keys()


@pytest.mark.parametrize(
    ("field", "sent", "value"),
    [
        ("gpus", "all", "all"), ("gpus", "0", 0), ("gpus", "8", 8), ("memory", "1", 1), ("percent", "100", 100.0),
        ("device", "0,2", "0,2"), ("not", "GPU-1", "GPU-1"), ("priority", "-100", -100), ("priority", "100", 100),
        ("wait", "0", 0.0), ("time", "0.5", 0.5), ("name", "anna’s", "anna’s"), ("give_way", "requeue", GiveWay.REQUEUE),
        ("signals", "10:60,15:30", "10:60,15:30"), ("signals", "all:15:1", "all:15:1"), ("output", "\udcff", b"\xff"),
        ("visible", "", ""), ("visible", "NoDevFiles", "NoDevFiles"), ("seen", "GPU-1,GPU-2", ["GPU-1", "GPU-2"]),
    ],
)  # fmt: skip
def test_what_a_job_asks_for_is_read_with_its_type(field: str, sent: str, value: object) -> None:
    assert read("register", {"key": "a", field: sent})[field] == value


@pytest.mark.parametrize(
    ("field", "sent", "must"),
    [
        ("gpus", "-1", "all, or a whole number from 0 "), ("gpus", "some", "all, or a whole number"),
        ("memory", "0", "a whole number from 1 "), ("percent", "0", "a number from 1e-09 to 100"),
        ("percent", "100.1", "to 100"), ("device", "", "something"), ("not", "", "something"),
        ("priority", "101", "from -100 to 100"), ("priority", "-101", "from -100 to 100"), ("wait", "-1", "a number from 0"),
        ("time", "1e30", "a number from 0"), ("name", "", "something"), ("name", "\udcff", "UTF-8"), ("key", "", "something"),
        ("give_way", "gladly", "never, pause, suspend, requeue"), ("signals", "9:1", "signals that can be caught"),
        ("signals", "19:1", "signals that can be caught"), ("signals", "15", "a number from 0"),
        ("signals", "15:1,", "a whole number from 1 to 64"), ("signals", ",".join(["15:1"] * 9), "at most 8 signals"),
        ("retries", "1001", "from 0 to 1000"), ("after", "", "something"), ("seen", "", "something"),
    ],
)  # fmt: skip
def test_what_a_job_cannot_ask_for_is_refused_with_what_it_must_be(field: str, sent: str, must: str) -> None:
    assert must in why("register", **{field: sent})


@pytest.mark.parametrize(
    ("sent", "value"), [("7", [7]), ("1 2 3", [1, 2, 3]), ("3 1 3", [3, 1, 3]), ("", []), (" 4  5 ", [4, 5])]
)
def test_jobs_are_numbers_between_blanks(sent: str, value: list[int]) -> None:
    assert read("kill", {"jobs": sent})["jobs"] == value


@pytest.mark.parametrize("sent", ["x", "1,2", "1 x", "-1", "1.0", HUGE])
def test_jobs_are_nothing_else(sent: str) -> None:
    assert "cannot kill: jobs " in why("kill", jobs=sent)


@pytest.mark.parametrize(
    ("sent", "value"), [("1-3", [1, 2, 3]), ("2,4-5", [2, 4, 5]), ("0", [0]), ("9-9", [9]), ("1-10000", list(range(1, 10001)))]
)
def test_rows_are_indices_that_count_upwards(sent: str, value: list[int]) -> None:
    assert read("rows", {"indices": sent})["indices"] == value


@pytest.mark.parametrize("sent", ["3-1", "x", "1-20000", "1-999999999999", "-1", "1,,2"])
def test_rows_that_count_otherwise_are_refused(sent: str) -> None:
    assert "cannot rows: indices " in why("rows", indices=sent)


@pytest.mark.parametrize(
    ("field", "sent", "value"),
    [
        ("memory", "whole", "whole"), ("memory", "5", 5), ("wait", "none", "none"), ("wait", "5", 5.0),
        ("time", "none", "none"), ("time", "5", 5.0), ("gpus", "all", "all"), ("priority", "5", 5),
    ],
)  # fmt: skip
def test_set_takes_back_what_was_asked_for(field: str, sent: str, value: object) -> None:
    assert read("set", {"jobs": "1", field: sent})[field] == value


@pytest.mark.parametrize("sent", ["", "x", "-1", HUGE, "1.0"])
def test_a_version_is_a_whole_number(sent: str) -> None:
    with pytest.raises(Refused, match="version"):
        version_of("ping", {"version": sent})
    assert (version_of("ping", {}), version_of("ping", {"version": "3"})) == (0, 3)


@pytest.mark.parametrize("kind", ["", "frobnicate", "\x1b[2J", "x" * 5000])
def test_a_kind_that_is_unknown_is_named_as_far_as_it_can_be_shown(kind: str) -> None:
    with pytest.raises(Refused) as refused:
        read(kind, {})
    assert refused.value.error.text == f"the arbiter does not know {shown(kind)}"
    assert len(shown(kind)) <= MOST_SHOWN * 4 + 1
    assert shown(kind).isprintable()
