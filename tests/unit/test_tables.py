"""Tables on terminals of any width, and in pipes: every reason is there, and every row says what it is about."""

from collections.abc import Iterable
from dataclasses import replace
from time import localtime, process_time, strftime

import pytest

from gpuwrap.clocks import Now
from gpuwrap.folding import fold
from gpuwrap.lifecycle import JobState
from gpuwrap.listed import Listed
from gpuwrap.listing import jobs_as_table, news, totals
from gpuwrap.model import Identity, Job, Request, Result, ResultKind, Row, Share
from gpuwrap.policy.words import safe
from gpuwrap.render import gpus_as_table, history_as_table
from gpuwrap.standing import Standing
from gpuwrap.tables import Screen, Table, draw
from gpuwrap.widths import columns, cut

NOW = Now(60.0, 60.0, "b")
NOTE = "2 GPUs: GPU 1 is kept free for it, GPU 0 when job 1 ends"


def record(number: int, name: str | None, *argv: str) -> Job:
    words = tuple(word.encode() for word in argv)
    return Job(number, str(number), name, "anna", JobState.WAITING, 0, Request(), Identity("b", 1, number, 1), words, b"/", 0.0)


def job(number: int, name: str | None, *argv: str) -> Listed:
    return Listed.of(record(number, name, *argv))


MIXED = [
    job(1, "a-rather-long-name-of-a-sweep-member", "python3", "-c", "import time; time.sleep(900)", "--config", "x"),
    job(2, "second", "sleep", "5"),
    job(3, "長い名前" * 9, "python", "t.py"),
    job(4, None, "true"),
]
NOBODY_TOLD, PIPE = Standing(), Screen()


def standing(notes: dict[int, tuple[str, str]], line: Iterable[int] = ()) -> Standing:
    made = Standing()
    made.notes, made.places = notes, {number: place for place, number in enumerate(line, 1)}
    return made


def listed(jobs: Iterable[Listed], told: Standing = NOBODY_TOLD, now: Now = NOW, screen: Screen = PIPE) -> list[str]:
    rows = fold(jobs, told)
    return jobs_as_table(rows, told, news(rows, told, {}, now), now, screen)


def drawn(width: int | None, colour: bool = False) -> list[str]:
    rows = [[job] for job in MIXED]
    return jobs_as_table(rows, NOBODY_TOLD, [NOTE, NOTE, NOTE, ""], NOW, Screen(width, colour))


@pytest.mark.parametrize("width", [79, 80, 100, 119, 120, 121, 125, 130, 140, 160, 200, 300])
def test_no_reason_is_cut_on_a_terminal_that_could_hold_it(width: int) -> None:
    lines = drawn(width)
    assert sum(NOTE in line for line in lines) == 3
    assert all(columns(line) <= width for line in lines)
    for name in ("a-rather-long-name", "second: sleep 5", "長い名前", "true"):
        assert sum(name in line for line in lines) == 1, lines


def test_reasons_stand_beside_the_jobs_where_all_of_them_fit() -> None:
    assert len(drawn(80)) == len(drawn(120)) == 1 + 4 + 3
    assert len(drawn(200)) == len(drawn(None)) == 1 + 4
    assert all("…" not in line or "name-of-a-s" in line or "長" in line for line in drawn(None))


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60])
def test_a_narrow_terminal_still_says_what_each_job_is(width: int) -> None:
    lines = drawn(width)
    assert all(columns(line) <= width for line in lines)
    if width >= 36:
        assert "COMMAND" in lines[0]
        for name in ("a-rather", "second: sleep 5", "長い名前", "true"):
            assert any(name in line for line in lines), lines


@pytest.mark.parametrize("width", [1, 2, 5, 10])
def test_nothing_breaks_on_a_terminal_that_is_no_use(width: int) -> None:
    lines = draw(Table(["JOB", "A", "B"], [["1", "x", "y" * 50]], ["31"], notes=["because"]), Screen(width, colour=True))
    assert "\x1b" not in lines[0] or width == 10
    assert lines[1]


def test_colour_adds_nothing_but_colour() -> None:
    import re

    for width in (40, 80, 200):
        plain, coloured = drawn(width), drawn(width, colour=True)
        assert [re.sub(r"\x1b\[\d+m", "", line) for line in coloured] == plain
        assert coloured != plain


def test_two_thousand_alike_jobs_are_one_row() -> None:
    jobs = [job(number, None, "python", "t.py", "--lr", str(number)) for number in range(1, 2001)]
    lines = listed(jobs, screen=Screen(80))
    assert len(lines) == 2
    assert lines[1].startswith("1-2000")
    assert lines[1].endswith("2000×  python t.py --lr …")


def test_two_thousand_distinct_jobs_have_a_row_each_and_one_reason() -> None:
    """And quickly: the budget is four times what it takes, so that only a mistake breaks it."""
    jobs = [job(number, f"run{number}", "python", f"train{number}.py") for number in range(1, 2001)]
    told = standing({each.id: ("busy", "job 1 has GPU 0") for each in jobs}, range(1, 2001))
    spent = []
    for _ in range(5):
        begun = process_time()
        lines = listed(jobs, told, screen=Screen(80))
        spent.append(process_time() - begun)
    assert min(spent) < 0.12
    assert len(lines) == 1 + 1 + 2000
    assert lines[2] == "        job 1 has GPU 0"
    assert lines[-1].split() == ["2000", "2000th", "0", "any", "whole", "1", "min", "run2000:", "python", "train2000.py"]


def in_line(number: int, priority: int = 0, *argv: str) -> Listed:
    return Listed.of(replace(record(number, None, *(argv or ("python", "t.py"))), priority=priority))


def test_a_list_has_those_that_run_first_and_then_the_line_as_it_is_served() -> None:
    runs = Listed.of(replace(record(9, None, "runs"), state=JobState.RUNNING))
    over = Listed.of(ended(10))
    jobs = [in_line(3, 0, "c"), in_line(4, 0, "a"), in_line(5, 0, "b"), runs, over]
    lines = listed(jobs, standing({}, (4, 5, 3)))
    shown = [" ".join(line.split()[:2]) for line in lines[1:]]
    assert shown == ["10 exit", "9 running", "4 1st", "5 2nd", "3 3rd"]


def test_a_reason_is_told_of_the_first_and_of_who_waits_for_something_else() -> None:
    words = ["AA", "BB", "CC", "DD", "EE", "FF"]
    jobs = [in_line(number, 0, word) for number, word in enumerate(words, 1)]
    one, other = ("busy", "job 9 has GPU 0"), ("busy", "job 8 has GPU 1")
    after, held = ("after", "after 4"), ("held", "gpurun resume 6 lets it go")
    lines = listed(jobs, standing({1: one, 2: one, 3: other, 4: one, 5: after, 6: held}, range(1, 7)))
    assert [line.split()[1] for line in lines[1:]] == ["1st", "2nd", "3rd", "4th", "after", "held"]
    notes = [line.partition(word)[2].strip() for line, word in zip(lines[1:], words, strict=True)]
    assert notes == [one[1], "", other[1], "", "", held[1]]


def test_neighbours_that_differ_in_priority_or_number_share_a_row_with_their_places() -> None:
    jobs = [in_line(1, 5, "first"), *[in_line(number, -number) for number in range(2, 7)]]
    lines = listed(jobs, standing({}, range(1, 7)))
    assert [line.split()[:3] for line in lines[1:]] == [["1", "1st", "5"], ["2-6", "2nd-6th", "≤-2"]]


def test_alike_ones_between_which_others_stand_share_a_row_only_at_one_priority() -> None:
    between = [in_line(number, 0, "python", "abc"[number % 2] + ".py") for number in range(1, 9)]
    lines = listed(between, standing({}, range(1, 9)))
    assert [line.split()[:2] for line in lines[1:]] == [["1,3,5,7", "1st…7th"], ["2,4,6,8", "2nd…8th"]]
    apart = [in_line(1, 9), in_line(2, 5, "other"), in_line(3, 1), in_line(4, 0)]
    assert len(listed(apart, standing({}, range(1, 5)))) == 5


def test_who_waits_for_something_of_its_own_is_in_no_row_of_others() -> None:
    jobs = [in_line(number) for number in range(1, 8)]
    told = standing({4: ("stopped", "stopped at its terminal, keeps its place")}, range(1, 8))
    assert [line.split()[:2] for line in listed(jobs, told)[1:]] == [["1-3,5-7", "1st…7th"], ["4", "stopped"]]


def test_totals_count_what_jobs_do() -> None:
    runs = [Listed.of(replace(record(9, None, "runs"), state=state)) for state in (JobState.RUNNING, JobState.PAUSED)]
    assert totals([in_line(1), in_line(2), *runs]) == "4 jobs: 1 runs, 1 paused, 2 wait"
    assert totals([Listed.of(ended(1))]) == "1 job: 1 has ended"


def test_a_line_is_read_as_the_arbiter_writes_it() -> None:
    text = "queue\t\t4-5,3\t1*0 2*1\nqueue\t9\t7\t1*1\nreason\tbusy\tx\nreason\tmemory\ty\njob\t9\tpaused\tz\nnew\tkind"
    told = Standing.read(text)
    assert told.places == {4: 1, 5: 2, 3: 3, 7: 1}
    assert told.queues == {7: 9}
    assert told.notes == {4: ("busy", "x"), 5: ("memory", "y"), 3: ("memory", "y"), 7: ("memory", "y"), 9: ("paused", "z")}
    assert Standing.read("").notes == {}


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0), ("abc", 3), ("é…×↑", 4), ("日本語", 6), ("กำลังฝึก", 6), ("न्", 1), ("e\u0301", 1), ("⚠\ufe0f", 1),
        ("ｆｕｌｌ", 8),
    ],
)
def test_columns_are_those_of_a_terminal(text: str, width: int) -> None:
    assert columns(text) == width


@pytest.mark.parametrize("text", ["abcdefghij", "日本語日本語", "a日b本c語d", "กำลังฝึกอยู่ที่นี่", "one two three"])
def test_what_is_cut_fits_and_says_so(text: str) -> None:
    for width in range(1, 20):
        short = cut(text, width)
        assert columns(short) <= width
        assert short == text or short.endswith("…")
        assert (short == text) == (columns(text) <= width)


def test_names_are_cut_by_columns_not_letters() -> None:
    assert columns(safe("長" * 30, 30)) <= 30
    assert columns(safe("長" * 30 + "\x1b", 30)) <= 30
    assert safe("a\x1b[31mb", 30) == "a\\x1b[31mb"


def test_ended_jobs_are_folded_whatever_gpu_they_had() -> None:
    def ended(number: int, gpu: int) -> Listed:
        share = Share(f"GPU-{gpu}", gpu, 0, True)
        result = Result(ResultKind.EXIT, 0, None, None)
        return Listed.of(
            replace(record(number, None, "python", "t.py"), state=JobState.ENDED, shares=(share,), result=result)
        )

    line = listed([ended(number, number % 2) for number in range(1, 6)])[1]
    assert line.split() == ["1-5", "exit", "0", "0", "whole", "5×", "python", "t.py"]
    alike = listed([ended(number, 1) for number in range(1, 6)])[1]
    assert alike.split() == ["1-5", "exit", "0", "0", "1", "whole", "5×", "python", "t.py"]


def test_a_row_names_exactly_its_jobs() -> None:
    def numbers(*jobs: Listed) -> list[str]:
        return [line.split()[0] for line in listed(jobs, screen=Screen(80))[1:]]

    alike = [job(number, None, "python", "t.py") for number in (1, 3, 4, 7)]
    other = job(2, None, "python", "other.py")
    assert numbers(*alike, other) == ["1,3-4,7", "2"]
    scattered = [job(number, None, "python", "t.py") for number in range(1, 40, 2)]
    rows = numbers(*scattered)
    assert rows == ["1,3,5,7,9,11,13,15", "17,19,21,23,25,27,29", "31,33,35,37,39"]
    assert numbers(*[replace_id(each, each.id + 10**8) for each in scattered[:3]]) == ["100000001", "100000003", "100000005"]


def replace_id(listed: Listed, number: int) -> Listed:
    listed.id = number
    return listed


def test_a_sweep_is_one_row_however_far_apart_its_jobs_lie() -> None:
    rows = [replace(record(number, "sweep-1", "t"), row=Row(1, number, None)) for number in range(1, 40, 2)]
    lines = listed(map(Listed.of, rows))
    assert [line.split()[0] for line in lines[1:]] == ["1,3,5,7,9,11,13,15,…"]
    assert lines[1].endswith("20×  sweep-1: t")


def ended(number: int, **more: object) -> Job:
    result = Result(ResultKind.EXIT, 1, None, "ended by its limit")
    return replace(record(number, None, "t"), state=JobState.ENDED, result=result, ended_at=60.0, **more)  # type: ignore[arg-type]


def test_what_ended_on_another_day_has_its_date() -> None:
    later = Now(60.0 + 2 * 86400, 60.0, "b")
    for now, date in ((NOW, ""), (later, strftime("%d %b ", localtime(60.0)))):
        lines = listed([Listed.of(ended(1))], now=now)
        assert lines[1].endswith(f"  {date}{strftime('%H:%M', localtime(60.0))} ended by its limit")


def test_history_says_where_a_log_is_and_of_a_long_path_a_terminal_its_end() -> None:
    where = "/home/anna/projects/a-rather-long-one/logs/lr-1e-3.txt"
    assert where in history_as_table([ended(1)], {1: where}, NOW, Screen())[1]
    assert f"  …{where[-23:]}  " in history_as_table([ended(1)], {1: where}, NOW, Screen(120))[1]


def test_history_shows_who_gave_way_only_if_somebody_did() -> None:
    headers = [history_as_table(jobs, {}, NOW, Screen())[0] for jobs in ([ended(1)], [ended(1), ended(2, times_given_way=2)])]
    assert ["GAVE WAY" in header for header in headers] == [False, True]


def test_bars_show_how_full_and_how_busy_a_gpu_is() -> None:
    known = {"utilization_percent": 46, "temperature_celsius": 71, "power_watts": 310, "power_limit_watts": 450}
    gpu = {"index": 0, "uuid": "GPU-0", "name": "A100", "total_bytes": 80 << 30, "free_bytes": 20 << 30, "state": "used"}
    header, line = gpus_as_table([{**gpu, "notes": ["job 1"], "load": known}], Screen(120), bars=True)
    assert header.split() == ["GPU", "MEMORY", "FREE", "LOAD", "USED", "BY"]
    assert line == "  0  [########..]  20 of 80G  [#####.....] 46% 71° 310/450W -  job 1"
    silent = gpus_as_table([{**gpu, "notes": ["job 1"], "free_bytes": None}], Screen(120), bars=True)[1]
    assert "[" not in silent, "what the driver does not tell has no bar"
