"""Settings that are changed under a running arbiter."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from standin import GIB
from truth import Machine
from waiting import let_pass, wait_until
from world import World

from gpuwrap.arbiter.tuning import ASLEEP_SECONDS, CHECK_SECONDS
from gpuwrap.wire import PROTOCOL, pack

MakeWorld = Callable[..., World]
# From the change to the plan: two looks, and what wakes the arbiter to them; the rest is for a busy machine.
SOON_SECONDS = 15


@pytest.fixture
def machine(tmp_path: Path, make_world: MakeWorld) -> Machine:
    return Machine(tmp_path, make_world)


def write(world: World, text: str) -> None:
    (world.directory / "settings.toml").write_text(text)


def until_state(world: World, job: int, state: str) -> None:
    wait_until(lambda: world.state(job) == state, f"job {job} to be {state}", SOON_SECONDS)


def share(world: World, size: str, job: int, state: str) -> "subprocess.Popen[Any]":
    child = world.start("-m", size, "sleep", "600")
    until_state(world, job, state)
    return child


def said(world: World) -> list[str]:
    """What the arbiter's log says of settings."""
    return [line.partition("settings: ")[2] for line in world.last_words().splitlines() if " settings: " in line]


def test_a_job_starts_once_more_may_share_a_gpu(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    write(world, "jobs_per_gpu = 1\n")
    share(world, "1G", 1, "running")
    arbiter = world.arbiter_pid()
    share(world, "1G", 2, "waiting")
    wait_until(lambda: "a larger jobs_per_gpu" in world.run("why", "2").stdout, "the setting to be named")
    write(world, "jobs_per_gpu = 2\n")
    until_state(world, 2, "running")
    # A file that has gone leaves the defaults, which know no limit.
    share(world, "1G", 3, "waiting")
    (world.directory / "settings.toml").unlink()
    until_state(world, 3, "running")
    # And one that comes holds for who comes next; who is there already stays.
    write(world, "jobs_per_gpu = 3\n")
    wait_until(lambda: len(said(world)) == 3, "the arbiter to have read it", SOON_SECONDS)
    share(world, "1G", 4, "waiting")
    assert [world.state(job) for job in (1, 2, 3)] == ["running"] * 3
    assert said(world) == [f"now jobs_per_gpu = {number}" for number in (2, 0, 3)]
    assert world.arbiter_pid() == arbiter


def test_a_job_starts_once_less_is_kept_free(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    write(world, 'keep_free = "8G"\n')
    share(world, "10G", 1, "running")
    share(world, "10G", 2, "waiting")
    # As most editors save: another file takes its place.
    (world.directory / "new").write_text('keep_free = "1G"\n')
    os.rename(world.directory / "new", world.directory / "settings.toml")
    until_state(world, 2, "running")


@pytest.mark.parametrize("broken", ["jobs_per_gpu = \n", "jobs_per_gpu = 2\nkeep_free = 1\n"])
def test_a_broken_file_changes_nothing_and_is_told_by_doctor(make_world: MakeWorld, broken: str) -> None:
    world = make_world("1x24G")
    write(world, "jobs_per_gpu = 1\n")
    share(world, "1G", 1, "running")
    share(world, "1G", 2, "waiting")
    write(world, broken)
    wait_until(lambda: said(world), "the arbiter to have read it", SOON_SECONDS)
    done = world.run("doctor")
    assert done.returncode == 1
    assert f"bad       settings      {world.directory}/settings.toml: " in done.stdout
    goes_on = "note      settings      the arbiter goes on with what it read before, until that is mended\n"
    assert goes_on in done.stdout
    let_pass(2 * CHECK_SECONDS, "what was read is not read again")
    (line,) = said(world)
    assert str(world.directory / "settings.toml") in line
    assert line.endswith("what was read before stays")
    assert world.state(2) == "waiting"
    write(world, "jobs_per_gpu = 2\n")
    until_state(world, 2, "running")
    assert goes_on not in world.run("doctor").stdout


def test_a_broken_file_costs_nobody_a_place_when_the_arbiter_dies(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    write(world, "jobs_per_gpu = 1\n")
    holder = share(world, "1G", 1, "running")
    waiter = share(world, "1G", 2, "waiting")
    write(world, "jobs_per_gpu = \n")
    before = world.arbiter_pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: world.arbiter_pid() not in (None, before), "the next arbiter", SOON_SECONDS)
    assert world.run("ls").returncode == 0
    # Where the client's summons was faster than the keeper, the claim is only free once that has seen it.
    wait_until(lambda: "a larger jobs_per_gpu" in world.run("why", "2").stdout, "the setting to hold", SOON_SECONDS)
    assert [line.endswith("what was read before stays") for line in said(world)] == [True]
    holder.kill()
    until_state(world, 2, "running")
    assert waiter.poll() is None
    # Mended, it is taken as ever.
    write(world, "jobs_per_gpu = 2\n")
    share(world, "1G", 3, "running")


def test_a_broken_file_is_refused_where_nobody_would_lose_by_it(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    write(world, "jobs_per_gpu = 1\n")
    assert world.run("true").returncode == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as newer:  # an arbiter makes room for newer clients' own
        newer.connect(str(world.folder / "bell"))
        newer.send(pack("ping", version=PROTOCOL + 1))
        wait_until(lambda: world.arbiter_pid() is None, "the arbiter to leave", SOON_SECONDS)
    write(world, "jobs_per_gpu = \n")
    done = world.run("true")
    assert done.returncode == 125
    assert f"cannot use settings: {world.directory}/settings.toml: " in done.stderr


def test_a_path_that_leads_nowhere_changes_nothing_until_it_has_gone(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    write(world, "jobs_per_gpu = 1\n")
    share(world, "1G", 1, "running")
    share(world, "1G", 2, "waiting")
    file = world.directory / "settings.toml"
    (world.directory / "new").symlink_to(file.name)
    os.rename(world.directory / "new", file)
    wait_until(lambda: said(world), "the arbiter to have seen it", SOON_SECONDS)
    assert said(world) == [f"cannot read settings: {file}: too many levels of symbolic links; what was read before stays"]
    assert world.state(2) == "waiting"
    file.unlink()
    until_state(world, 2, "running")


def test_who_is_ignored_from_now_on_does_not_count(machine: Machine) -> None:
    pid = machine.stranger(4 * GIB)
    waits = machine.start("sleep", "1001")
    assert f"pid {pid}" in machine.why(waits, "foreign")
    write(machine.world, 'ignore = ["sleep 1000"]\n')
    machine.until_running(waits)
    assert machine.gpu()["foreign"] == []
    (machine.world.directory / "settings.toml").unlink()
    wait_until(lambda: [each["pid"] for each in machine.gpu()["foreign"]] == [pid], "the stranger to count again", 15)


def test_after_a_sleep_the_first_plan_is_made_by_what_the_file_says_then(machine: Machine) -> None:
    machine.stranger(4 * GIB)
    assert machine.world.run("-n", "--", "true").returncode == 124
    arbiter = machine.world.arbiter_pid()
    let_pass(CHECK_SECONDS + ASLEEP_SECONDS + 2, "the arbiter sleeps: no job is there")
    write(machine.world, 'ignore = ["sleep 1000"]\n')
    assert machine.world.run("-n", "--", "true").returncode == 0
    assert machine.world.arbiter_pid() == arbiter


def test_who_uses_too_much_already_is_evicted_once_the_setting_says_so(machine: Machine) -> None:
    job = machine.run_job("-m", "2G", "-r", "sleep", "1001")
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children")
    program = int(wait_until(children.read_text, "the program below the stub").split()[0])
    machine.box.allocate(0, program, 3 * GIB)
    wait_until(lambda: "more than its -m 2G" in machine.text("ls"), "it to be seen to use more")
    write(machine.world, 'over_memory = "evict"\n')
    wait_until(lambda: machine.job_of(job)["attempt"] == 2, "it to run again", 30)
