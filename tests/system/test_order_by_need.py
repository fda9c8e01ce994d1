"""The line in an order that goes by what jobs need: whoever is expected to need least is first, and takes an equal's place."""

import re
from collections.abc import Callable

import pytest
from waiting import let_pass, wait_until
from world import World

MakeWorld = Callable[..., World]


def make(make_world: MakeWorld, text: str, spec: str = "1x24G") -> World:
    world = make_world(spec)
    (world.directory / "settings.toml").write_text(text)
    return world


def until(world: World, job: int, state: str) -> None:
    wait_until(lambda: world.state(job) == state, f"job {job} to be {state}", 20)


def in_line(world: World, job: int, *words: str) -> None:
    world.start(*words)
    until(world, job, "waiting")


@pytest.mark.parametrize("order", ["shortest", "fair"])
def test_who_is_expected_to_need_least_starts_first(make_world: MakeWorld, order: str) -> None:
    world = make(make_world, f'order = "{order}"\n')
    world.start("sleep", "600")
    until(world, 1, "running")
    in_line(world, 2, "--expect", "10h", "sleep", "600")
    in_line(world, 3, "--expect", "10m", "sleep", "600")
    in_line(world, 4, "-t", "5m", "sleep", "600")
    world.run("kill", "1")
    until(world, 4, "running")
    world.run("kill", "4")
    until(world, 3, "running")
    assert world.state(2) == "waiting"


def test_in_order_of_arrival_a_guess_changes_nothing(make_world: MakeWorld) -> None:
    world = make(make_world, "")
    world.start("sleep", "600")
    until(world, 1, "running")
    in_line(world, 2, "--expect", "10h", "sleep", "600")
    in_line(world, 3, "--expect", "1m", "sleep", "600")
    world.run("kill", "1")
    until(world, 2, "running")
    assert world.state(3) == "waiting"


def test_who_may_be_run_again_makes_room_for_a_shorter_equal_once_it_has_run_for_a_while(make_world: MakeWorld) -> None:
    world = make(make_world, 'order = "shortest"\nmin_run_among_equals = "2s"\n')
    world.start("-r", "--expect", "10h", "sleep", "600")
    until(world, 1, "running")
    world.start("--expect", "1m", "sleep", "600")
    until(world, 2, "running")
    assert world.state(1) == "paused"
    assert world.job(1)["times_given_way"] == 1
    begun, given_way = (
        event["mono"] for event in world.events() if event["job_id"] == 1 and event["to_state"] in ("running", "paused")
    )
    assert given_way - begun >= 2.0
    world.run("kill", "2")
    until(world, 1, "running")


def test_nobody_else_makes_room_for_an_equal(make_world: MakeWorld) -> None:
    world = make(make_world, 'order = "shortest"\nmin_run_among_equals = "0s"\nmin_run = "0s"\n')
    world.start("--expect", "10h", "sleep", "600")
    until(world, 1, "running")
    in_line(world, 2, "--expect", "1m", "sleep", "600")
    let_pass(3.0, "several plans")
    assert (world.state(1), world.state(2)) == ("running", "waiting")


def test_an_order_that_is_changed_holds_for_those_who_wait(make_world: MakeWorld) -> None:
    world = make(make_world, "")
    world.start("sleep", "600")
    until(world, 1, "running")
    in_line(world, 2, "--expect", "10h", "sleep", "600")
    in_line(world, 3, "--expect", "1m", "sleep", "600")
    (world.directory / "settings.toml").write_text('order = "shortest"\n')
    wait_until(lambda: "settings: now order = 'shortest'" in world.last_words(), "the setting to be taken", 20)
    world.run("kill", "1")
    until(world, 3, "running")
    assert world.state(2) == "waiting"


def test_why_says_what_a_place_rests_on_and_between_when_it_is_expected_to_start(make_world: MakeWorld) -> None:
    world = make(make_world, 'order = "shortest"\n')
    world.start("-t", "2h", "sleep", "600")
    until(world, 1, "running")
    in_line(world, 2, "--expect", "10h", "sleep", "600")
    in_line(world, 3, "--expect", "1h", "sleep", "600")
    told = world.run("why", "2").stdout
    assert "it is 2nd: expected to need 10 h (--expect); before it: job 3, expected to need less." in told
    assert re.search(r"^expected to start (between .+ and|by) .+, by what these jobs", told, re.MULTILINE)
    assert "it is 1st: expected to need 1 h (--expect)." in world.run("why", "3").stdout
    places = [line.split()[:2] for line in world.run("ls").stdout.splitlines()[1:]]
    assert places == [["1", "running"], ["3", "1st"], ["2", "2nd"]]
    head, *rows = world.run("ls").stdout.splitlines()
    starts = [row[head.index("STARTS") :].split("  ")[0].strip() for row in rows]
    assert starts[0] == ""
    assert all(re.fullmatch(r"~\d+ (h|min|s)( \d+ min)?", each) for each in starts[1:]), starts
    assert "1st of 2" in world.run("renice", "0", "3").stdout
