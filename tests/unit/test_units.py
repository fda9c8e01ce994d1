"""Sizes, durations and priorities as people type them, and as they read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuwrap.errors import UsageError
from gpuwrap.units import (
    GIB,
    KIB,
    MIB,
    format_duration,
    format_limit,
    format_of,
    format_size,
    parse_duration,
    parse_integer,
    parse_priority,
    parse_run,
    parse_simulated,
    parse_size,
    split_jobs,
)

SIZES = {
    "8G": 8 * GIB, "8g": 8 * GIB, "8GB": 8 * GIB, "8GiB": 8 * GIB, "8Gi": 8 * GIB, "500M": 500 * MIB, "1.5G": 3 * GIB // 2,
    "1T": 1024 * GIB, "4K": 4 * KIB, ".5G": GIB // 2,
}  # fmt: skip


@pytest.mark.parametrize("text", SIZES)
def test_a_size_has_base_1024_whatever_its_case_and_ending(text: str) -> None:
    assert parse_size(text) == (SIZES[text], None)


def test_a_size_may_be_a_part_of_the_card() -> None:
    assert parse_size("50%") == (None, 50.0)
    assert parse_size("100%") == (None, 100.0)


BAD_SIZES = {
    "8": "unit missing: 8G or 8M?", "8Go": "unknown unit", "G": "not a size", "": "not a size", "0G": "more than nothing",
    "-1G": "not a size", "101%": "more than 100%", "8 G": "unknown unit", "1e3G": "unknown unit", "9999999999T": "out of range",
    f"{10**400}G": "out of range",
    "８G": "not a size", "1..5G": "unknown unit", "50%%": "unknown unit",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_SIZES)
def test_a_size_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="memory") as refused:
        parse_size(text)
    assert BAD_SIZES[text] in refused.value.text


DURATIONS = {"90s": 90, "15m": 900, "1.5h": 5400, "1h30m": 5400, "1d": 86400, "0:01:30": 90, "100:00:00": 360000, "2H": 7200}


@pytest.mark.parametrize("text", DURATIONS)
def test_a_duration_needs_a_unit_or_colons(text: str) -> None:
    assert parse_duration(text) == DURATIONS[text]


BAD_DURATIONS = {
    "60": "unit missing: 60s or 60m?", "1h30": "unit missing", "": "missing", "h": "not a duration", "1w": "unknown unit",
    "1:30": "H:MM:SS", "0:60:00": "H:MM:SS", "-5m": "not a duration", "99999999999d": "out of range", "1:2:x": "H:MM:SS",
}  # fmt: skip


@pytest.mark.parametrize("text", BAD_DURATIONS)
def test_a_duration_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="time") as refused:
        parse_duration(text)
    assert BAD_DURATIONS[text] in refused.value.text


PRIORITIES = {"low": -10, "normal": 0, "HIGH": 10, "urgent": 50, "-100": -100, "+7": 7, "100": 100}


@pytest.mark.parametrize("text", PRIORITIES)
def test_a_priority_is_a_word_or_a_number(text: str) -> None:
    assert parse_priority(text) == PRIORITIES[text]


@pytest.mark.parametrize(
    ("text", "why"), [("101", "higher runs first"), ("hihg", "did you mean high?"), ("1.5", "-100 to 100"), ("", "a number")]
)
def test_a_priority_that_is_none_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_priority(text)
    assert why in refused.value.text


@pytest.mark.parametrize("text", ["1_0", " 1", "1 ", "١", "0x1", "", "-", "1" * 19, "1.0"])
def test_what_int_takes_beyond_decimals_is_no_number(text: str) -> None:
    assert parse_integer(text) is None


def test_simulated_gpus_are_a_sum() -> None:
    assert parse_simulated("2x24G") == [24 * GIB] * 2
    assert parse_simulated("24G") == [24 * GIB]
    assert parse_simulated("1x24G+2x80G") == [24 * GIB, 80 * GIB, 80 * GIB]
    for spec in ("", "x", "0x24G", "2x", "2x50%", "65x1G", "40x1G+40x1G", "2y24G"):
        with pytest.raises(UsageError):
            parse_simulated(spec)


@given(st.integers(1, 2**50))
def test_what_is_written_of_a_size_can_be_typed_and_is_near(size: int) -> None:
    read, _ = parse_size(format_size(max(size, KIB)))
    assert read is not None
    assert abs(read - max(size, KIB)) <= 0.051 * max(size, KIB)


@given(st.integers(0, 10**7))
def test_what_is_written_of_a_limit_means_the_same(seconds: int) -> None:
    assert parse_duration(format_limit(seconds)) == seconds


def test_sizes_and_durations_as_people_say_them() -> None:
    assert [format_size(size) for size in (8 * GIB, int(79.6 * GIB), 500 * MIB, 1536 * GIB)] == ["8G", "79.6G", "500M", "1536G"]
    assert format_of(8 * GIB, int(79.6 * GIB)) == "8 of 79.6G"
    assert format_of(500 * MIB, 24 * GIB) == "500M of 24G"
    spans = {-1: "0 s", 59.9: "59 s", 60: "1 min", 3599: "59 min", 3660: "1 h 1 min", 36000: "10 h", 200000: "2 d"}
    assert {seconds: format_duration(seconds) for seconds in spans} == spans


RUNS = {"14": (14, 14), "14-53": (14, 53), "-5": (-5, -5), "5--3": None, "5-": None, "-": None, "": None, "lr-1": None,
        "1,2": None, "1_0": None}  # fmt: skip


@pytest.mark.parametrize("word", RUNS)
def test_a_run_of_jobs_is_a_number_or_a_range(word: str) -> None:
    assert parse_run(word) == RUNS[word]


def test_only_numbers_and_ranges_make_a_list() -> None:
    assert split_jobs("1,3-4,7") == ["1", "3-4", "7"]
    assert [split_jobs(word) for word in ("1", "1,", "lr-1,2", "a,b", "")] == [["1"], ["1,"], ["lr-1,2"], ["a,b"], [""]]
