"""The proofs themselves: each is shown a log that must pass and logs that must not."""

import fcntl
import os
import socket
import sqlite3
import subprocess
from pathlib import Path

import pytest
from proof import (
    GIB,
    MAYBE,
    NEVER,
    Asked,
    Life,
    Move,
    bells_that_answer,
    build_work,
    claims_on,
    each_ran_as_asked,
    granted_in_order,
    left_over,
    locks_in,
    no_gpu_is_given_twice,
    processes_of,
    read_log,
    rows_left,
    taken_once,
)
from waiting import wait_until


def line(at: int, what: str, tag: str, *, job: object = 1, devices: str = "0", granted: str = "8", pid: int = 100) -> str:
    return f"{at} {what} tag={tag} job={job} devices={devices} uuids=U granted={granted} pid={pid}\n"


def life(tag: str, start: int, end: int | None, *, devices: tuple[int, ...] = (0,), granted: int = 8, job: int = 1) -> Life:
    pid = 100 + job
    return Life(tag, job, pid, devices, ("U",) * len(devices), (granted,) * len(devices), start, end)


# The log


def test_the_program_writes_a_log_that_can_be_read(tmp_path: Path) -> None:
    work, log = build_work(tmp_path), tmp_path / "log"
    (tmp_path / "alloc" / "1").mkdir(parents=True)
    environment = {"GPURUN_JOB": "7", "CUDA_VISIBLE_DEVICES": "1", "GPURUN_GPU_UUIDS": "U1", "GPURUN_GRANTED": "100"}
    done = subprocess.run([work, log, "a", "for=20", "take=50", f"alloc={tmp_path}/alloc", "exit=3"], env=environment)
    assert done.returncode == 3
    (one,) = read_log(log.read_text())
    assert (one.tag, one.job, one.devices, one.uuids, one.granted) == ("a", 7, (1,), ("U1",), (100,))
    assert one.end_ns is not None
    assert 20_000_000 <= one.end_ns - one.start_ns < 5_000_000_000
    assert list((tmp_path / "alloc" / "1").iterdir()) == []


def test_the_program_says_its_end_when_it_is_asked_to_end(tmp_path: Path) -> None:
    work, log = build_work(tmp_path), tmp_path / "log"
    child = subprocess.Popen([work, log, "a", "for=60000"])
    try:
        wait_until(lambda: log.exists() and log.read_text(), "the program to start")
        child.terminate()
        assert child.wait(30) == -15
    finally:
        child.kill()
        child.wait()
    assert read_log(log.read_text())[0].end_ns is not None


def test_lines_of_a_log_become_lives() -> None:
    text = line(5, "start", "a", devices="0,2", granted="8") + line(9, "end", "a", devices="0,2", granted="8")
    assert read_log(text) == [Life("a", 1, 100, (0, 2), ("U",), (8, 8), 5, 9)]


def test_variables_that_are_not_set_are_told_from_empty_ones() -> None:
    (one,) = read_log(line(5, "start", "a", job="-", devices="", granted="-"))
    assert (one.job, one.devices, one.granted, one.end_ns) == (None, (), (), None)


@pytest.mark.parametrize(
    "text",
    [
        line(5, "end", "a"),
        line(5, "start", "a") + line(6, "end", "a") + line(7, "end", "a"),
        line(5, "begin", "a"),
        "nonsense\n",
    ],
    ids=["end alone", "two ends", "other word", "nonsense"],
)
def test_a_log_that_is_not_sound_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any will do)
        read_log(text)


# Each ran as asked


def test_a_good_crowd_has_no_faults() -> None:
    asked = [Asked("a"), Asked("b", memory=4), Asked("c", starts=NEVER), Asked("d", starts=MAYBE)]
    lives = [life("a", 0, 10), life("b", 10, 20, granted=4, job=2)]
    assert each_ran_as_asked(asked, lives) == []
    assert no_gpu_is_given_twice(asked, lives, 8) == []
    moves = [Move(1, 0, "granted", "running"), Move(2, 1, "granted", "running")]
    assert taken_once(moves, lives) == []


@pytest.mark.parametrize(
    ("lives", "fault"),
    [
        ([], "ran 0 times"),
        ([life("a", 0, 1), life("a", 5, 6, job=2)], "ran 2 times"),
        ([life("a", 0, None)], "never ended"),
        ([life("a", 0, 1, devices=(0, 1))], "asked for 1 GPUs"),
        ([life("a", 0, 1, devices=())], "asked for 1 GPUs"),
        ([life("a", 0, 1, granted=7)], "granted (7,)"),
        ([Life("a", None, 9, (0,), ("U",), (8,), 0, 1)], "without a job number"),
        ([Life("a", 1, 9, (0,), ("U",), (), 0, 1)], "bytes for 0"),
        ([life("a", 0, 1), life("z", 0, 1, job=2)], "nobody asked"),
    ],
    ids=["never", "twice", "no end", "two GPUs", "no GPU", "less memory", "no number", "no bytes", "stranger"],
)
def test_a_program_that_did_not_run_as_asked_is_found(lives: list[Life], fault: str) -> None:
    (found,) = each_ran_as_asked([Asked("a", memory=8)], lives)
    assert fault in found


def test_a_killed_one_that_ran_after_all_is_found() -> None:
    assert each_ran_as_asked([Asked("a", starts=NEVER)], [life("a", 0, 1)]) == ["a: ran 1 times, not 0 to 0"]


def test_one_number_for_two_programs_is_found() -> None:
    faults = each_ran_as_asked([Asked("a"), Asked("b")], [life("a", 0, 1), life("b", 2, 3)])
    assert faults == ["job 1: the number of ['a', 'b']"]


def test_a_program_that_the_test_killed_needs_no_end() -> None:
    assert each_ran_as_asked([Asked("a", starts=MAYBE)], [life("a", 0, None)], killed_ns={101: 5}) == []


# No GPU twice

WHOLE, SHARED, OTHER = Asked("w"), Asked("s", memory=4), Asked("t", memory=4)


@pytest.mark.parametrize(
    "lives",
    [
        [life("w", 0, 10), life("v", 9, 20, job=2)],
        [life("w", 0, 10, devices=(0, 1)), life("v", 5, 6, devices=(1,), job=2)],
        [life("s", 0, 10, granted=4), life("w", 5, 20, job=2)],
        [life("w", 0, 10), life("s", 5, 20, granted=4, job=2)],
        [life("w", 0, None), life("v", 50, 60, job=2)],
        [life("w", 0, 0), life("v", 0, 0, job=2)],
    ],
    ids=["whole", "on one of two", "whole after shared", "shared after whole", "no end", "no time at all"],
)
def test_a_gpu_that_is_given_twice_is_found(lives: list[Life]) -> None:
    assert len(no_gpu_is_given_twice([WHOLE, Asked("v"), SHARED], lives, 8)) == 1


def test_shared_promises_above_the_memory_are_found() -> None:
    lives = [life("s", 0, 10, granted=4), life("t", 2, 10, granted=4, job=2), life("u", 4, 6, granted=1, job=3)]
    asked = [SHARED, OTHER, Asked("u", memory=1)]
    (fault,) = no_gpu_is_given_twice(asked, lives, 8)
    assert "9 bytes promised of 8" in fault
    assert no_gpu_is_given_twice(asked, lives, 9) == []


def test_what_touches_does_not_overlap() -> None:
    lives = [life("w", 0, 10), life("v", 10, 20, job=2), life("x", 0, 20, devices=(1,), job=3)]
    assert no_gpu_is_given_twice([WHOLE, Asked("v"), Asked("x")], lives, 8) == []


def test_a_killed_program_ends_when_it_was_killed() -> None:
    lives = [life("w", 0, None), life("v", 50, 60, job=2)]
    assert no_gpu_is_given_twice([WHOLE, Asked("v")], lives, 8, killed_ns={101: 50}) == []
    assert len(no_gpu_is_given_twice([WHOLE, Asked("v")], lives, 8, killed_ns={101: 51})) == 1


# Order


def moves(*steps: str) -> list[Move]:
    """`"1+"` job 1 comes, `"1!"` it is granted, `"1<"` the offer is withdrawn, `"1."` it ends."""
    words = {
        "+": (None, "waiting"),
        "!": ("waiting", "granted"),
        "<": ("granted", "waiting"),
        ".": ("running", "ended"),
    }
    return [Move(int(step[:-1]), float(at), *words[step[-1]]) for at, step in enumerate(steps)]


def test_equal_priority_out_of_arrival_is_found() -> None:
    asked = {1: Asked("a"), 2: Asked("b")}
    assert granted_in_order(moves("1+", "2+", "1!", "2!"), asked) == []
    assert len(granted_in_order(moves("1+", "2+", "2!", "1!"), asked)) == 1


def test_lower_priority_first_is_found() -> None:
    asked = {1: Asked("a"), 2: Asked("b", priority=1)}
    assert granted_in_order(moves("1+", "2+", "2!", "1!"), asked) == []
    assert len(granted_in_order(moves("1+", "2+", "1!", "2!"), asked)) == 1


def test_whose_turn_it_is_is_not_a_matter_of_numbers() -> None:
    asked = {2: Asked("b"), 1: Asked("a")}
    assert granted_in_order(moves("1+", "2+", "2!", "1!"), asked) == []
    assert len(granted_in_order(moves("1+", "2+", "1!", "2!"), asked)) == 1


def test_who_came_later_was_not_passed_over() -> None:
    assert granted_in_order(moves("1+", "1!", "2+", "2!"), {1: Asked("a"), 2: Asked("b", priority=5)}) == []


def test_a_withdrawn_offer_waits_again_in_its_place() -> None:
    asked = {1: Asked("a"), 2: Asked("b")}
    assert len(granted_in_order(moves("1+", "2+", "1!", "1<", "2!", "1!"), asked)) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Asked("a", gpus=2), Asked("b")),
        (Asked("a"), Asked("b", memory=4)),
        (Asked("a", memory=8), Asked("b", memory=4)),
        (Asked("a", memory=4), Asked("b")),
    ],
    ids=["fewer GPUs", "shared before whole", "less memory", "whole before shared"],
)
def test_what_is_easier_to_place_may_pass(first: Asked, second: Asked) -> None:
    assert granted_in_order(moves("1+", "2+", "2!", "1!"), {1: first, 2: second}) == []


def test_what_is_no_easier_to_place_may_not_pass() -> None:
    asked = {1: Asked("a", memory=4), 2: Asked("b", memory=8)}
    assert len(granted_in_order(moves("1+", "2+", "2!", "1!"), asked)) == 1


def test_a_stopped_job_may_be_passed_over_and_nothing_is_sure_after_a_kill() -> None:
    asked = {1: Asked("a"), 2: Asked("b")}
    wrong = moves("1+", "2+", "2!", "1!")
    assert granted_in_order(wrong, asked, excused=[1]) == []
    assert granted_in_order(wrong, asked, unsure=[(1.5, 2.5)]) == []
    assert len(granted_in_order(wrong, asked, unsure=[(2.5, 3)])) == 1


def test_a_job_taken_twice_or_never_is_found() -> None:
    twice = [Move(1, 0, "granted", "running"), Move(1, 1, "granted", "running")]
    assert taken_once(twice, [life("a", 0, 1)]) == ["job 1: became running 2 times"]
    assert taken_once([], [life("a", 0, 1)]) == ["job 1: ran, but was never taken"]


# Nothing left over


def make_database(folder: Path, state: str, granted: bool) -> None:
    with sqlite3.connect(folder / "state.db") as database:
        database.execute("CREATE TABLE job (id, state)")
        database.execute("CREATE TABLE share (job_id, gpu_index)")
        database.execute("INSERT INTO job VALUES (4, ?)", (state,))
        if granted:
            database.execute("INSERT INTO share VALUES (4, 1)")
    database.close()


def test_an_empty_world_has_nothing_left_over(tmp_path: Path) -> None:
    make_database(tmp_path, "ended", granted=False)
    assert left_over(tmp_path, ["GPU-none"]) == []


def test_a_live_row_and_a_grant_are_found(tmp_path: Path) -> None:
    make_database(tmp_path, "granted", granted=True)
    assert rows_left(tmp_path) == ["job 4 is granted", "job 4 still has GPU 1"]


@pytest.mark.parametrize("where", ["environment", "arguments"])
def test_a_process_is_found(tmp_path: Path, where: str) -> None:
    words, variables = ([], {"GPURUN_DIR": str(tmp_path)}) if where == "environment" else ([str(tmp_path)], {})
    child = subprocess.Popen(
        ["sh", "-c", "echo; read _; :", "sh", *words], env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout
        assert child.stdin
        child.stdout.readline()
        assert child.pid in processes_of(tmp_path)
        assert any(f"process {child.pid} lives" in fault for fault in left_over(tmp_path))
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert processes_of(tmp_path) == {}
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_a_claim_is_found_while_somebody_listens() -> None:
    uuid = f"GPU-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as holder:
        holder.bind(f"\0gpurun/{uuid}")
        holder.listen()
        assert claims_on([uuid, "GPU-other"]) == [f"@gpurun/{uuid}"]
        assert claims_on([uuid[:-1]]) == []
    assert claims_on([uuid]) == []


def test_a_bell_is_found_while_it_answers(tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    bell = tmp_path / "world" / "bell"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as arbiter:
        arbiter.bind(str(bell))
        arbiter.listen()
        assert bells_that_answer(tmp_path) == [bell]
    assert bells_that_answer(tmp_path) == []


def test_a_lock_is_found(tmp_path: Path) -> None:
    with (tmp_path / "summon").open("w") as file:
        assert locks_in(tmp_path) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        assert locks_in(tmp_path) == [(os.getpid(), "summon")]
        assert left_over(tmp_path) == [f"summon is locked by {os.getpid()}"]
        assert left_over(tmp_path, idle=[os.getpid()]) == []


def test_the_memory_of_a_card_is_in_bytes() -> None:
    assert 24 * GIB == 25_769_803_776
