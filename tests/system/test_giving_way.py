"""The story of giving way, with default options: no setting, no option but -p.

A small training is paused for an urgent job and goes on by itself; one that fills the card is not, and both screens say
what would help. What the programs saw is proven from their own log (`beat.py`).
"""

import contextlib
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest
from pauses import (
    GIB,
    PROMISED_SECONDS,
    Desk,
    Stage,
    cgroup_root,
    group_of,
    groups_go_with_their_world,
    may_freeze,
    names_of,
)
from waiting import wait_until
from world import World

MakeStage = Callable[..., Stage]

__all__ = ["groups_go_with_their_world"]
pytestmark = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")


@pytest.fixture
def stage_of(make_world: Callable[..., World], tmp_path: Path) -> MakeStage:
    return lambda spec="1x80G": Stage(make_world(spec), tmp_path)


@pytest.fixture
def stage(stage_of: MakeStage) -> Stage:
    """One card of 80 GB."""
    return stage_of()


@pytest.fixture
def on_a_terminal(stage: Stage) -> Iterator[Callable[..., "pexpect.spawn[str]"]]:
    """Start `gpurun WORDS` alone on a terminal of its own."""
    with contextlib.ExitStack() as screens:

        def start(*words: str) -> "pexpect.spawn[str]":
            screen = pexpect.spawn(
                stage.world.command, list(words), env=stage.world.env, dimensions=(24, 200), encoding="utf-8", timeout=15
            )
            screens.callback(screen.close, force=True)
            return screen

        yield start


# The story


def test_an_urgent_job_runs_at_once_beside_a_small_training_which_then_goes_on(
    stage: Stage, record_property: Callable[[str, object], None]
) -> None:
    beats, world = stage.beats, stage.world
    training = stage.running("train", f"take={20 * GIB}")
    beats.until_beats("train", 20)
    submitted = time.monotonic_ns()
    urgent = stage.start("infer", "take=granted", under=["-p", "urgent"])
    stage.until_running("infer")
    # As it stands now.
    (victim,) = [job for job in world.jobs() if job["id"] == 1]
    assert (victim["state"], victim["times_given_way"], victim["devices"][0]["index"]) == ("paused", 1, 0)
    assert re.search(r"paused for job 2, \d+ s", stage.text("ls")), stage.text("ls")
    beats.until_still("train")
    stage.open("infer")
    _, told = urgent.communicate(timeout=20)
    assert urgent.returncode == 0
    assert told == "gpurun: job 2 runs on GPU 0 beside paused job 1: 60 of 80G are free\n"
    beats.until_beats("train", 20)
    assert world.state(1) == "running"
    stage.open("train")
    assert training.wait(30) == 0
    started, ended = beats.first("infer", "start").at_ns, beats.last("infer", "end").at_ns
    back = next(line.at_ns for line in beats.lines("train", "beat") if line.at_ns > ended)
    first, again = (started - submitted) / 1e9, (back - ended) / 1e9
    faults = beats.steps_between("train", started, ended) + beats.lost_steps("train") + beats.too_much_memory(80 * GIB)
    assert faults == []
    # It took all that it was granted: the two together fill the card.
    assert beats.first("infer", "take").value == str(60 * GIB)
    steps = len(beats.lines("train", "beat"))
    record_property("counted", f"start {first:.2f} s, back {again:.2f} s")
    print(f"first instruction {first:.3f} s after submit; back {again:.3f} s after the end; {steps} steps, none lost")
    assert first < PROMISED_SECONDS
    assert again < PROMISED_SECONDS


def test_a_training_that_fills_the_card_is_left_alone_and_both_screens_say_what_would_help(
    stage: Stage, on_a_terminal: Callable[..., "pexpect.spawn[str]"]
) -> None:
    training = stage.running("train", f"take={78 * GIB}")
    screen = on_a_terminal("-p", "urgent", *stage.words("infer"))
    stage.until_state(2, "waiting")
    sentence = "job 1 holds 78 of 80G and may not be restarted (-r)"
    screen.expect_exact(f"job 2 waits for GPU 0: {sentence}")
    assert sentence in stage.text("why", "2")
    assert sentence in stage.text("ls")
    (reason,) = [job["why"] for job in stage.world.jobs() if job["id"] == 2]
    assert sentence in reason["text"]
    # The victim's own screen: it runs, and was never touched.
    assert "running" in stage.text("ls", "1")
    assert stage.world.job(1)["times_given_way"] == 0
    stage.beats.until_beats("train", 10)
    stage.open("train")
    assert training.wait(30) == 0
    stage.until_running("infer")
    stage.open("infer")
    screen.expect(pexpect.EOF)
    assert stage.beats.lost_steps("train") == []
    assert {row["to_state"] for row in stage.world.events() if row["job_id"] == 1} == {"waiting", "granted", "running", "ended"}


def test_a_job_with_a_known_need_is_told_that_it_does_not_fit(stage: Stage) -> None:
    stage.running("train", f"take={50 * GIB}")
    stage.start("infer", under=["-p", "urgent", "-m", "40G"])
    stage.until_state(2, "waiting")
    wait_until(lambda: "job 1 holds 50 of 80G" in stage.text("why", "2"), "the reason to be told", 10)
    # What would fit is behind it in line, and a pause of job 1 would not bring job 2 any nearer.
    stage.start("fits", under=["-p", "urgent", "-m", "30G"])
    stage.until_state(3, "waiting")
    assert stage.world.state(1) == "running"
    stage.world.run("kill", "2")
    stage.until_running("fits")
    assert stage.world.state(1) == "paused"


# Priorities


def test_renice_of_a_waiting_job_acts_at_once_and_says_what_it_does(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.start("first", under=["-m", "8G"])
    stage.start("second", under=["-m", "8G"])
    stage.until_state(3, "waiting")
    first, second = (next(j["id"] for j in stage.world.jobs() if tag in j["argv"]) for tag in ("first", "second"))
    begun = time.monotonic_ns()
    echo = stage.text("renice", "urgent", str(second))
    assert echo == f"job {second}: priority 0 → 50, 1st of 2, pauses job 1 (8G beside its 20G on GPU 0)\n"
    stage.until_running("second")
    runs = (stage.beats.first("second", "start").at_ns - begun) / 1e9
    print(f"runs {runs:.3f} s after renice was typed")
    assert runs < PROMISED_SECONDS
    stage.beats.until_still("train")
    # And back: nothing that runs outranks job 1 any more, so it is as if the two had been there before.
    assert f"job {second}: priority 50 → 0" in stage.text("renice", "0", str(second))
    assert stage.world.state(first) == "waiting"
    stage.open("second")
    stage.until_state(second, "ended")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")
    ran = stage.beats.first("second", "start").at_ns, stage.beats.last("second", "end").at_ns
    assert stage.beats.steps_between("train", *ran) == []
    assert stage.world.state(first) == "waiting"


def test_renice_back_of_a_job_that_still_waits_leaves_everybody_as_they_were(stage: Stage) -> None:
    stage.running("train", f"take={78 * GIB}")
    stage.start("infer")
    stage.until_state(2, "waiting")
    echo = stage.text("renice", "urgent", "2")
    assert echo == (
        "job 2: priority 0 → 50, 1st of 1, cannot interrupt job 1: it holds 78 of 80G and may not be restarted (-r)\n"
    )
    assert stage.text("renice", "normal", "2") == "job 2: priority 50 → 0, 1st of 1\n"
    stage.beats.until_beats("train")
    assert (stage.world.state(1), stage.world.state(2)) == ("running", "waiting")


def test_a_job_that_has_just_come_back_is_left_alone_and_the_reason_said(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    for number, tag in enumerate(("once", "twice"), start=2):
        stage.start(tag, under=["-p", "urgent"])
        if tag == "once":
            stage.until_running(tag)
            stage.until_state(1, "paused")
            stage.open(tag)
            stage.until_state(number, "ended")
            stage.until_state(1, "running")
    stage.until_state(3, "waiting")

    def told() -> re.Match[str] | None:
        sentence = r"job 1 was paused a moment ago and may be paused again at \d\d:\d\d \(min_return\)"
        return re.search(sentence, stage.text("why", "3"))

    wait_until(told, "the reason to be told")
    stage.beats.until_beats("train", 20)
    assert (stage.world.state(1), stage.world.state(3)) == ("running", "waiting")
    stage.open("train")
    stage.until_running("twice")


# Several


def test_a_wide_newcomer_takes_several_victims_or_none(stage_of: MakeStage) -> None:
    stage = stage_of("2x80G")
    stage.running("small", f"take={10 * GIB}")
    full = stage.running("full", f"take={79 * GIB}")
    stage.start("wide", "take=granted", under=["-p", "urgent", "-g", "2"])
    stage.until_state(3, "waiting")
    wait_until(lambda: "job 2 holds 79 of 80G" in stage.text("why", "3"), "the reason to be told")
    stage.beats.until_beats("small", 10)
    assert [stage.world.state(job) for job in (1, 2, 3)] == ["running", "running", "waiting"]
    stage.open("full")
    assert full.wait(30) == 0
    stage.until_running("wide")
    assert stage.world.state(1) == "paused"
    started = stage.beats.first("wide", "start").at_ns
    stage.open("wide")
    stage.until_state(3, "ended")
    stage.beats.until_beats("small")
    faults = stage.beats.steps_between("small", started, stage.beats.last("wide", "end").at_ns)
    assert faults + stage.beats.lost_steps("small") + stage.beats.too_much_memory(80 * GIB) == []


def test_nothing_else_is_placed_beside_a_paused_job_and_no_pause_cascades(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", f"take={8 * GIB}", under=["-p", "urgent", "-m", "8G"])
    stage.until_state(1, "paused")
    # They would fit, but the training goes on as soon as the urgent one ends.
    for tag, priority in (("low", "-10"), ("same", "0"), ("near", "9")):
        stage.start(tag, under=["-p", priority, "-m", "8G"])
    stage.until_state(5, "waiting")
    stage.beats.until_still("train")
    assert {stage.world.state(job) for job in (3, 4, 5)} == {"waiting"}
    stage.open("infer")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")
    assert {stage.world.state(job) for job in (3, 4, 5)} == {"waiting"}
    assert stage.whys(1, "paused") == ["for job 2 (freeze)"]


def test_a_request_inside_a_paused_job_waits_until_it_goes_on(stage: Stage) -> None:
    script = f"sleep 1000 & {stage.world.command} {' '.join(stage.words('inner'))}"
    # The inner one asks while its job is paused already: it is held back by a gate of the test's own.
    gated = f"while [ ! -e {stage.folder}/go ]; do sleep 0.02; done; {script.partition('& ')[2]}"
    outer = stage.world.start("sh", "-c", f"{' '.join(stage.words('outer'))} & {gated}")
    stage.until_running("outer")
    (stage.folder / "go").touch()
    stage.until_running("inner")
    stage.running("infer", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    for tag in ("outer", "inner"):
        stage.beats.until_still(tag)
    stage.open("infer")
    for tag in ("outer", "inner"):
        stage.beats.until_beats(tag)
        stage.open(tag)
    assert outer.wait(30) == 0
    assert stage.beats.lost_steps("outer") + stage.beats.lost_steps("inner") == []


# What the victim's terminal shows


def test_the_victims_terminal_is_told_and_goes_on_as_it_was(stage: Stage, tmp_path: Path) -> None:
    desk = Desk("bash", stage.world, tmp_path / "desk", stage.world.command)
    try:
        desk.type("RUN " + " ".join(stage.words("train")))
        stage.until_running("train")
        user = stage.world.job(1)["user"]
        stage.running("infer", under=["-p", "urgent"])
        desk.screen.expect_exact(f"gpurun: job 1 paused for job 2 ({user}, urgent), goes on by itself\r\n")
        stage.open("infer")
        desk.screen.expect(r"gpurun: job 1 goes on after \d+ s\r\n")
        stage.beats.until_beats("train")
        desk.key("c")
        assert desk.status() == "130"
    finally:
        desk.close()


def test_a_terminal_in_raw_mode_is_never_written_to(stage: Stage, tmp_path: Path) -> None:
    desk = Desk("bash", stage.world, tmp_path / "desk", stage.world.command)
    try:
        pid = desk.start("RUN VICTIM raw")
        stage.running("infer", under=["-p", "urgent"])
        stage.until_state(1, "paused")
        stage.open("infer")
        stage.until_state(1, "running")
        desk.screen.send("\x03\x1a\x04\r")
        assert desk.shown("<< (.*) >>") == "031a040d"
        assert "gpurun: job" not in desk.screen.before
        desk.becomes(pid, state="gone")
        assert desk.status() == "23"
    finally:
        desk.close()


# By hand, beside a newcomer


def test_resume_by_hand_does_not_break_the_newcomers_grant(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    done = stage.world.run("resume", "1")
    assert done.returncode == 1
    assert "job 1: cannot go on yet, goes on by itself as soon as there is room: job 2 (" in done.stderr, done.stderr
    stage.beats.until_still("train")
    assert stage.world.state(1) == "paused"
    stage.open("infer")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")


def test_a_job_paused_by_hand_and_let_go_beside_a_newcomer_goes_on_when_there_is_room(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    assert stage.text("pause", "1") == "job 1: paused\n"
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    done = stage.world.run("resume", "1")
    assert done.returncode == 0
    assert done.stdout.startswith("job 1: goes on by itself as soon as there is room: job 2 ("), done
    stage.beats.until_still("train")
    assert stage.world.state(1) == "paused"
    stage.open("infer")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")


def test_jobs_that_share_a_card_are_resumed_by_hand_at_once(stage: Stage) -> None:
    for tag in ("one", "two"):
        stage.running(tag, f"take={GIB}", under=["-m", "8G"])
    assert stage.text("pause", "1") == "job 1: paused\n"
    stage.beats.until_still("one")
    assert stage.text("resume", "1") == "job 1: goes on\n"
    stage.beats.until_beats("one")


# Several victims


def test_of_several_victims_none_is_paused_if_one_cannot_be(stage_of: MakeStage) -> None:
    """The last of them has a group already, in which somebody else's process lives."""
    stage = stage_of("3x80G")
    jobs = [stage.running(f"train{number}", f"take={GIB}") for number in range(3)]
    root = cgroup_root()
    assert root is not None
    (name,) = names_of(stage.world)
    group = root / group_of(jobs[2].pid).lstrip("/") / f"{name}3"
    group.mkdir()
    stranger = stage.world.adopt(subprocess.Popen(["sleep", "600"]))
    (group / "cgroup.procs").write_text(str(stranger.pid))
    try:
        stage.start("wide", under=["-p", "urgent", "-g", "3"])
        stage.until_state(4, "waiting")
        reason = f"job 3 cannot be frozen: pid {stranger.pid} lives in its cgroup and is no part of it"
        wait_until(lambda: reason in stage.text("why", "4"), "the reason to be told")
        for number in range(3):
            stage.beats.until_beats(f"train{number}", 20)
        assert {row["to_state"] for row in stage.world.events() if row["job_id"] < 4} == {"waiting", "granted", "running"}
        assert [job["times_given_way"] for job in stage.world.jobs() if job["id"] < 4] == [0, 0, 0]
    finally:
        stranger.kill()
        stranger.wait(30)
