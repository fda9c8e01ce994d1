"""`history --replay` and what `doctor` says of an order, from a real history."""

from collections.abc import Callable

from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


def test_a_history_is_played_again_in_each_order(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    for _ in range(2):
        assert world.run("-t", "1m", "true").returncode == 0
    wait_until(lambda: [job["state"] for job in world.jobs()] == ["ended", "ended"], "both to be noted")
    lines = world.run("history", "--replay").stdout.splitlines()
    assert lines[0] == "2 jobs on 1 GPU, played again:"
    assert [line.split()[0] for line in lines[1:]] == ["ORDER", "arrival", "shortest", "fair"]
    assert len(world.run("history", "--replay", "--order", "fair").stdout.splitlines()) == 4
    refused = world.run("history", "--order", "fair")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--order: only with --replay" in refused.stderr
    assert world.run("history", "--replay", "--order", "x").returncode == 2
    assert "order" not in [line.split()[1] for line in world.run("doctor").stdout.splitlines() if line[:2] != "  "]


def test_without_a_history_nothing_is_played(make_world: MakeWorld) -> None:
    assert make_world("1x24G").run("history", "--replay").stdout == "no jobs\n"
