"""Two worlds on one machine never give the same GPU: two users, and two state folders of one user (claims).

Over one stand-in driver, since simulated GPUs belong to one folder. The programs allocate late, so that for a while
nothing but the claim tells the other world that a GPU is taken.
"""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd
from proof import Asked, Faults, build_work, claims_on, each_ran_as_asked, no_gpu_is_given_twice, read_log
from standin import Box, Gpu, NoCompiler, build
from waiting import wait_until
from world import OTHER_UID, World

MakeWorld = Callable[..., World]


class OtherUsersWorld(World):
    """A world whose every command is run by another uid."""

    def start(self, *arguments: Any, **settings: Any) -> "subprocess.Popen[Any]":
        return super().start(*arguments, user=OTHER_UID, group=OTHER_UID, extra_groups=[], **settings)


@pytest.fixture
def box(open_folder: Path) -> Box:
    """A driver with two GPUs that no other test has: claims are machine-wide."""
    try:
        return build(open_folder / "driver", *(Gpu(uuid=f"GPU-{uuid.uuid4()}") for _ in range(2)))
    except NoCompiler as missing:
        pytest.skip(str(missing))


KINDS = ("two uids", "two folders")


@pytest.fixture(params=KINDS)
def crowds(request: pytest.FixtureRequest, make_world: MakeWorld, box: Box, open_folder: Path) -> Iterator[tuple[Crowd, Crowd]]:
    """A crowd in each of two worlds; their programs write one log."""
    first = make_world(None, **box.environment)
    if request.param == "two uids":
        second: World = OtherUsersWorld(None, command=request.getfixturevalue("everybodys_command"), **box.environment)
        os.chown(second.directory, OTHER_UID, OTHER_UID)
    else:
        second = make_world(None, **box.environment)
    work = build_work(open_folder)
    both = Crowd(first, work, open_folder), Crowd(second, work, open_folder)
    both[0].log.chmod(0o666)
    yield both
    second.close()


def one_by_default(kind: str) -> list[Any]:
    """Both kinds of worlds, one of them only in long runs: these tests must wait for 5 s."""
    return [pytest.param(one, id=one, marks=[] if one == kind else [pytest.mark.long]) for one in KINDS]


def start(crowd: Crowd, box: Box, tag: str, *words: str, gpus: int = 1) -> None:
    crowd.start(Asked(tag, gpus=gpus), *words, f"alloc={box.folder}/alloc", cwd="/")


def prove(crowds: tuple[Crowd, Crowd], box: Box) -> None:
    faults = Faults()
    lives = read_log(crowds[0].log.read_text())
    for crowd in crowds:
        own = [life for life in lives if life.tag in crowd.asked]
        faults.add(each_ran_as_asked(list(crowd.asked.values()), own))
        faults.add(
            f"{tag}: exit status {client.returncode}"
            for tag, client in crowd.clients.items()
            if client.returncode != crowd.expected_status[tag]
        )
        faults.add(crowd.settle())
    asked = [one for crowd in crowds for one in crowd.asked.values()]
    faults.add(no_gpu_is_given_twice(asked, lives, 24 * 2**30))
    assert {life.tag for life in lives} == {one.tag for one in asked}
    faults.add(f"claim {claim} is held" for claim in claims_on(str(gpu.uuid) for gpu in box.gpus))
    faults.check("two worlds")


@pytest.mark.parametrize(
    ("each", "late_ms", "for_ms"),
    [
        pytest.param(4, 450, 500, id="4 each"),
        pytest.param(12, 2000, 2500, id="12 each", marks=[pytest.mark.long, pytest.mark.limit(300)]),
    ],
)
def test_jobs_of_two_worlds_never_overlap_though_one_arbiter_is_killed(
    crowds: tuple[Crowd, Crowd], box: Box, each: int, late_ms: int, for_ms: int
) -> None:
    for number in range(each):
        for name, crowd in zip("ab", crowds, strict=True):
            start(crowd, box, f"{name}{number:02}", f"for={for_ms}", f"after={late_ms}", f"take={8 * 2**30}")
    crowds[0].until_started(each // 2, within=60)
    arbiter = wait_until(crowds[0].world.arbiter_pid, "the first arbiter to come up")
    os.kill(arbiter, signal.SIGKILL)
    for crowd in crowds:
        crowd.finish(within=200)
    prove(crowds, box)
    lives = read_log(crowds[0].log.read_text())
    seconds = (max(life.end_ns or 0 for life in lives) - lives[0].start_ns) / 1e9
    print(f"{len(lives)} jobs in {seconds:.1f} s: {' '.join(life.tag for life in lives)}")


def test_a_gpu_of_another_world_is_claimed_and_free_as_soon_as_its_job_ends(
    crowds: tuple[Crowd, Crowd], box: Box, open_folder: Path
) -> None:
    mine, theirs = crowds
    gate = open_folder / "open"
    start(mine, box, "mine", f"until={gate}", gpus=2)
    mine.until_started(1)
    assert len(claims_on(str(gpu.uuid) for gpu in box.gpus)) == 2
    begun = time.monotonic()
    assert theirs.world.run("-n", "--", "true", cwd="/").returncode == 124
    assert time.monotonic() - begun < 10
    start(theirs, box, "theirs", "for=10")
    theirs.until_in_line(["theirs"])

    def why() -> dict[str, str] | None:
        (job,) = theirs.world.jobs(all=False)
        return job["why"] if job["why"] and job["why"]["rule"] == "claimed" else None

    reason = wait_until(why, "the claim to be named as the reason")
    arbiter = mine.world.arbiter_pid()
    assert str(arbiter) in reason["text"], reason
    before = time.monotonic_ns()
    gate.touch()
    mine.finish()
    theirs.finish()
    (life,) = [life for life in read_log(mine.log.read_text()) if life.tag == "theirs"]
    # Longer would mean that it was not told, but found out (5 s are waited after a crash only).
    assert (life.start_ns - before) / 1e9 < 4
    prove(crowds, box)


@pytest.mark.parametrize("crowds", one_by_default("two folders"), indirect=True)
def test_a_crashed_world_gives_its_gpus_back(crowds: tuple[Crowd, Crowd], box: Box, open_folder: Path) -> None:
    """Arbiter, keeper and program end together; nobody of that world comes back."""
    mine, theirs = crowds
    gate = open_folder / "never"
    start(mine, box, "mine", f"until={gate}", gpus=2)
    mine.until_started(1)
    start(theirs, box, "theirs", "for=10", gpus=2)
    theirs.until_in_line(["theirs"])
    before = time.monotonic_ns()
    # The program last, or the arbiter would see it end and give its GPUs back in good order.
    for pid in (mine.world.keeper_pid(), mine.world.arbiter_pid()):
        assert pid
        os.kill(pid, signal.SIGKILL)
    mine.kill("mine", signal.SIGKILL)
    theirs.finish()
    (life,) = [life for life in read_log(mine.log.read_text()) if life.tag == "theirs"]
    waited = (life.start_ns - before) / 1e9
    # 5 s for the successor of a crashed arbiter to come first; and the stand-in must see the dead process gone.
    assert 4 < waited < 15
    assert no_gpu_is_given_twice([*mine.asked.values(), *theirs.asked.values()], mine.lives(), 2**40, mine.killed_ns) == []
    print(f"free again after {waited:.1f} s")


@pytest.mark.parametrize("crowds", one_by_default("two uids"), indirect=True)
def test_a_job_of_a_killed_arbiter_keeps_its_gpu_against_the_other_world(
    crowds: tuple[Crowd, Crowd], box: Box, open_folder: Path
) -> None:
    """The successor has the claim again within the 5 s that the others wait; the job never allocates."""
    mine, theirs = crowds
    gate = open_folder / "open"
    start(mine, box, "mine", f"until={gate}", gpus=2)
    mine.until_started(1)
    start(theirs, box, "theirs", "for=10")
    theirs.until_in_line(["theirs"])
    arbiter = mine.world.arbiter_pid()
    mine.kill_of_gpurun([arbiter])
    wait_until(lambda: mine.world.arbiter_pid() not in (None, arbiter), "the keeper to become the arbiter", 10)
    # Both: nobody is left who could come back, but for the next command.
    keeper = wait_until(mine.world.keeper_pid, "the next keeper")
    mine.kill_of_gpurun([keeper, mine.world.arbiter_pid()])
    wait_until(lambda: mine.world.arbiter_pid() is None, "the arbiter to be gone")
    assert [job["state"] for job in mine.world.jobs()] == ["running"]
    deadline = time.monotonic() + 6.5
    wait_until(lambda: theirs.has_started("theirs") or time.monotonic() > deadline, "more than the five seconds to pass", 10)
    assert not theirs.has_started("theirs"), "a GPU in use by another world was granted"
    gate.touch()
    mine.finish()
    theirs.finish()
    prove(crowds, box)
