"""The bounds of giving way, end to end, with the settings lowered; and newcomers that cannot wait, or only ask."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pauses import GIB, Stage, groups_go_with_their_world, may_freeze
from waiting import let_pass, wait_until
from world import World

MakeStage = Callable[..., Stage]

__all__ = ["groups_go_with_their_world"]
pytestmark = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")
# Between what the arbiter promises to the second, and when it next looks.
LOOK_SECONDS = 1.0


@pytest.fixture
def stage_of(make_world: Callable[..., World], tmp_path: Path) -> MakeStage:
    """A stage whose arbiter has these settings."""

    def make(spec: str = "1x80G", **settings: object) -> Stage:
        world = make_world(spec)
        (world.directory / "settings.toml").write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
        return Stage(world, tmp_path)

    return make


def gang(stage: Stage) -> None:
    """One job of two CUDA processes."""
    both = " & ".join(" ".join(stage.words(tag, f"take={GIB}")) for tag in ("rank0", "rank1"))
    stage.world.start("sh", "-c", f"{both}; wait")
    for tag in ("rank0", "rank1"):
        stage.until_running(tag)
        wait_until(lambda tag=tag: stage.beats.has(tag, "take"), f"{tag} to take its memory")  # type: ignore[misc]


def pauses_of(stage: Stage, job: int) -> list[float]:
    """For how long a job was paused, each time that has ended."""
    found, since = [], None
    for row in stage.world.events():
        if row["job_id"] == job and row["to_state"] == "paused":
            since = row["at"]
        elif row["job_id"] == job and since is not None:
            found.append(row["at"] - since)
            since = None
    return found


# For how long


def test_a_job_is_paused_only_for_as_long_as_it_may_be_in_a_day(stage_of: MakeStage) -> None:
    stage = stage_of(pause_limit="4s", min_return="1s")
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    stage.until_state(1, "running")
    # The newcomer has not ended: both compute from now on, and nobody says that there was room.
    assert stage.world.state(2) == "running"
    assert stage.whys(1, "running")[-1] == "paused for as long as it may be"
    stage.beats.until_beats("train")
    (first,) = pauses_of(stage, 1)
    print(f"paused for {first:.2f} s of 4 s")
    assert 4 <= first < 4 + LOOK_SECONDS
    stage.open("infer")
    stage.until_state(2, "ended")
    # No more of it today, whoever comes; and it is said.
    stage.start("again", under=["-p", "urgent"])
    stage.until_state(3, "waiting")
    wait_until(lambda: "was paused for as long as it may be within a day" in stage.text("why", "3"), "the reason to be told")
    stage.beats.until_beats("train", 100)
    assert len(pauses_of(stage, 1)) == 1
    assert stage.beats.lost_steps("train") == []
    stage.open("train")
    stage.until_running("again")


def test_two_short_pauses_are_counted_together_and_the_rest_is_not_worth_one(stage_of: MakeStage) -> None:
    stage = stage_of(pause_limit="6s", min_return="1s")  # so a pause is worth it if it may last for a second
    stage.running("train", f"take={20 * GIB}")
    stage.running("one", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    let_pass(2, "what is counted is time itself")
    stage.open("one")
    stage.until_state(1, "running")
    stage.beats.until_beats("train", 150)
    stage.running("two", under=["-p", "urgent"])
    stage.until_state(1, "running", within=10)
    assert stage.whys(1, "running")[-2:] == ["there is room again", "paused for as long as it may be"]
    one, two = pauses_of(stage, 1)
    print(f"paused for {one:.2f} and {two:.2f} s of 6 s")
    assert 6 <= one + two < 6 + LOOK_SECONDS
    assert stage.beats.lost_steps("train") == []


def test_a_gang_is_paused_only_for_newcomers_that_are_known_to_be_short_enough(stage_of: MakeStage) -> None:
    stage = stage_of(gang_pause_limit="6s", min_return="1s")
    gang(stage)
    sentence = "it may only be paused for a job with a time limit of 6 s or less (-t)"
    for number, limit in ((2, []), (3, ["-t", "7s"])):
        stage.start(f"long{number}", under=["-p", "urgent", *limit])
        stage.until_state(number, "waiting")
        wait_until(lambda n=number: sentence in stage.text("why", str(n)), f"the reason of job {number}")  # type: ignore[misc]
        stage.world.run("kill", str(number))
    assert stage.world.state(1) == "running"
    # One that asks for exactly what `why` names is taken, at once and for the whole of its time.
    begun = time.monotonic_ns()
    stage.start("short", under=["-p", "urgent", "-t", "6s"])
    stage.until_running("short")
    print(f"runs {(stage.beats.first('short', 'start').at_ns - begun) / 1e9:.3f} s after submit")
    for tag in ("rank0", "rank1"):
        stage.beats.until_still(tag)
    stage.until_state(4, "ended", within=15)
    stage.until_state(1, "running")
    (pause,) = pauses_of(stage, 1)
    assert pause < 6 + LOOK_SECONDS
    assert stage.world.job(1)["times_given_way"] == 1
    ran = stage.beats.last("short").at_ns - stage.beats.first("short", "start").at_ns
    assert ran > 5.5e9, "it had the time that it asked for"
    for tag in ("rank0", "rank1"):
        stage.beats.until_beats(tag)
        assert stage.beats.lost_steps(tag) == []


def test_a_gang_goes_on_at_its_limit_although_the_newcomer_does_not_end(stage_of: MakeStage) -> None:
    stage = stage_of(gang_pause_limit="4s", min_return="1s")
    gang(stage)
    stage.start("short", "catch=12", under=["-p", "urgent", "-t", "3s", "--signal", "USR2:60"])
    stage.until_running("short")
    stage.until_state(1, "paused")
    stage.until_state(1, "running")
    assert stage.beats.has("short", "signal"), "asked to end, and at it for a minute"
    assert stage.whys(1, "running")[-1] == "paused for as long as it may be"
    (pause,) = pauses_of(stage, 1)
    print(f"paused for {pause:.2f} s of 4 s")
    assert 4 <= pause < 4 + LOOK_SECONDS
    for tag in ("rank0", "rank1"):
        stage.beats.until_beats(tag)


def test_the_limit_of_a_job_inside_a_paused_one_counts_no_pause(stage_of: MakeStage) -> None:
    stage = stage_of()
    inner = f"{stage.world.command} -t 3s -- {' '.join(stage.words('inner', 'every=20'))}"
    stage.world.start("sh", "-c", f"{inner}; {' '.join(stage.words('outer'))}")
    stage.until_running("inner")
    assert stage.world.run("pause", "1").returncode == 0
    let_pass(5, "longer than the limit")
    assert stage.world.state(2) == "running"
    assert stage.world.run("resume", "1").returncode == 0
    stage.until_state(2, "ended")
    stood = pauses_of(stage, 1)[0]
    first, last = stage.beats.first("inner", "beat").at_ns, stage.beats.last("inner").at_ns
    computed = (last - first) / 1e9 - stood
    print(f"computed for {computed:.2f} s of 3 s, and stood still for {stood:.2f} s")
    assert 2.5 < computed < 4
    assert stage.world.job(2)["result"]["text"] == "time limit of 3s"
    stage.open("outer")


# Newcomers that cannot wait, or only ask


def test_a_newcomer_that_cannot_wait_pauses_but_evicts_nobody(stage_of: MakeStage) -> None:
    stage = stage_of("2x80G", min_run="0s")
    stage.running("full", f"take={78 * GIB}", "catch=15", "exit=1", under=["-r", "-i", "0"])
    stage.running("small", f"take={20 * GIB}", under=["-i", "1"])
    for patience in (["-n"], ["-w", "1s"]):
        begun = time.monotonic()
        done = stage.world.run(*patience, "-p", "urgent", "-i", "0", "--", "echo", "ran")
        assert (done.returncode, done.stdout) == (124, ""), done
        assert time.monotonic() - begun < 4
    stage.beats.until_beats("full", 20)
    assert stage.whys(1, "stopping") == []
    assert not stage.beats.has("full", "signal")
    assert stage.world.job(1)["attempt"] == 1
    # A pause takes no time: it is as for any other newcomer.
    for patience in (["-n"], ["-w", "1s"]):
        done = stage.world.run(*patience, "-p", "urgent", "-i", "1", "-m", "8G", "--", "echo", "ran")
        assert (done.returncode, done.stdout) == (0, "ran\n"), done
        stage.until_state(2, "running")
        break  # it may not be paused twice within five minutes
    assert stage.whys(2, "running")[-1] == "there is room again"
    assert stage.beats.lost_steps("small") + stage.beats.lost_steps("full") == []


def test_who_waits_longer_than_the_victim_may_take_to_end_has_it_evicted(stage_of: MakeStage) -> None:
    stage = stage_of(min_run="0s")
    stage.running("full", f"take={78 * GIB}", "catch=15", "exit=1", under=["-r", "--signal", "TERM:5"])
    done = stage.world.run("-w", "14s", "-p", "urgent", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (124, ""), done
    assert stage.whys(1, "stopping") == []
    done = stage.world.run("-w", "1m", "-p", "urgent", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done
    assert len(stage.whys(1, "stopping")) == 1


def test_a_rehearsal_tells_who_would_give_way_and_changes_nothing(stage_of: MakeStage) -> None:
    stage = stage_of("2x80G", min_run="0s")
    stage.running("small", f"take={20 * GIB}", under=["-i", "0"])
    stage.running("full", f"take={78 * GIB}", "catch=15", under=["-r", "-i", "1"])

    def told(*words: str) -> str:
        return stage.text("--dry-run", *words, "--", "true")

    wait_until(lambda: "GPU 0" in told("-p", "urgent"), "what train holds to be seen", 5)
    assert told("-p", "urgent") == "would start now: it pauses job 1 (beside its 20G on GPU 0)\n"
    assert told("-n", "-p", "urgent", "-m", "8G") == "would start now: it pauses job 1 (8G beside its 20G on GPU 0)\n"
    assert told("-p", "urgent", "-i", "1") == "would start as soon as others have ended: it evicts job 2\n"
    refused = told("-n", "-p", "urgent", "-i", "1")
    assert refused.startswith("would not start: it waits for GPU 1"), refused
    assert "may take 2 min to end (--signal), and job 3 gives up before (-w)" in refused
    assert told().startswith("would wait for")
    assert [stage.world.state(job) for job in (1, 2)] == ["running", "running"]
    assert {row["to_state"] for row in stage.world.events()} == {"waiting", "granted", "running"}
    assert not stage.beats.has("full", "signal")


# Ranks that change while somebody is paused


def test_a_paused_job_takes_its_gpu_back_once_it_outranks_who_computes_there(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.running("train", f"take={20 * GIB}", under=["-m", "40G", "--exclusive"])
    stage.running("infer", f"take={8 * GIB}", under=["-p", "urgent", "-m", "8G"])
    stage.until_state(1, "paused")
    assert stage.text("renice", "59", "1") == "job 1: priority 0 → 59, stays paused\n"
    assert stage.text("renice", "100", "1") == "job 1: priority 59 → 100, pauses job 2 (40G beside its 8G on GPU 0)\n"
    stage.until_state(1, "running")
    stage.until_state(2, "paused")
    stage.beats.until_beats("train", 20)
    stage.beats.until_still("infer")
    assert re.search(r"paused for job 1, \d+ s", stage.text("ls")), stage.text("ls")
    stage.open("train")
    stage.until_state(1, "ended")
    stage.beats.until_beats("infer")
    assert stage.beats.lost_steps("train") + stage.beats.lost_steps("infer") == []
    assert [stage.world.job(job)["times_given_way"] for job in (1, 2)] == [1, 1]


def test_a_newcomer_that_is_ranked_below_gives_the_gpu_back_if_the_memory_allows_it(stage_of: MakeStage) -> None:
    stage = stage_of("2x80G")
    for number, memory in ((0, ["-m", "40G"]), (1, [])):
        stage.running(f"train{number}", f"take={20 * GIB}", under=["-i", str(number), *memory])
    for number in (0, 1):
        stage.running(f"infer{number}", f"take={50 * GIB}", under=["-p", "urgent", "-i", str(number), "-m", "50G"])
    stage.until_state(1, "paused")
    stage.until_state(2, "paused")
    for number in (0, 1):
        wait_until(lambda n=number: stage.beats.has(f"infer{n}", "take"), "the newcomers to hold their memory")  # type: ignore[misc]
    # 40 of 80G do not fit beside 50, nor does the whole card of one whose need nobody knows.
    for paused, newcomer in ((1, 3), (2, 4)):
        stage.text("renice", "low", str(newcomer))
        sentence = f"job {newcomer} holds 50 of 80G and may not be restarted (-r)"
        wait_until(lambda s=sentence: s in stage.text("ls"), "the reason to be told")  # type: ignore[misc]
        assert stage.world.state(paused) == "paused"
        assert sentence in stage.text("renice", "1", str(paused))
    stage.open("infer0")
    stage.until_state(1, "running")
    stage.beats.until_beats("train0")


def test_a_paused_job_names_who_computes_beside_it_now(stage_of: MakeStage) -> None:
    stage = stage_of()
    stage.running("train", f"take={GIB}")
    stage.running("first", under=["-p", "urgent", "-m", "8G"])
    stage.running("second", under=["-p", "urgent", "-m", "8G"])
    assert re.search(r"paused for job 2, \d+ s", stage.text("ls")), stage.text("ls")
    stage.open("first")
    stage.until_state(2, "ended")
    wait_until(lambda: re.search(r"paused for job 3, \d+ s", stage.text("ls")), "the other to be named")
    assert stage.world.state(1) == "paused"
    stage.open("second")
    stage.until_state(1, "running")
