"""`kill -9` of arbiter, keeper and stub between every two steps of every move of giving way.

Each story is told once for each step: at it somebody is killed, and the story must end as undisturbed: the newcomer runs,
meanwhile its victim makes no step, the victim comes back exactly once and with all its progress, and nobody is left
stopped, frozen or holding a GPU. `pytest -m long tests/system/test_steps.py` takes all steps of all stories, each with
arbiter, keeper, both and stub, in half an hour; without it steps and victims are drawn by chance.
"""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pytest
from pauses import GIB, Stage, alive, groups_go_with_their_world, groups_of, may_freeze, nobody_left_standing
from steps import arm, build, disarm, is_armed, steps_made
from test_crash import seeded
from waiting import wait_until
from world import World

__all__ = ["groups_go_with_their_world"]

# A story in which nobody dies has some ten steps at least.
FEWEST_STEPS = 8
MOST_STEPS = 200
# An offer that nobody hears of is withdrawn after 5 s, a claim of a dead arbiter counts for 5 s; a job that stood in a
# system call and could not be stopped in time is left alone for 30 s.
PATIENCE_SECONDS = 60
WITHOUT_CGROUPS = ("unshare", "--mount", "sh", "-c", 'umount -a -l -t cgroup2; exec "$@"', "sh")


@dataclass
class Play:
    """One telling of a story. `started` is what the victims' owners started; where there is a stub it leads job 1."""

    stage: Stage
    who: str
    started: list[Any] = field(default_factory=list)
    steps: int = 15
    """Of the urgent job, of 10 ms each."""
    mortal: int | None = None
    """The stub of job 1, if it may die."""
    gate: Callable[[], None] = lambda: None

    def until(self, condition: Callable[[], Any], what: str, *, of_victim: bool = False) -> Any:
        """With everything of gpurun killed somebody must come by, as the next command would."""

        def look() -> Any:
            if of_victim and self.mortal is not None and not alive(self.mortal):
                raise Dead
            if self.who == "both" and self.stage.world.arbiter_pid() is None:
                self.stage.world.run("ls")
            return condition()

        try:
            return wait_until(look, what, PATIENCE_SECONDS)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n{self.stage.said()}") from None

    def urgent(self, *options: str) -> None:
        """An urgent job comes and goes."""
        client = self.stage.start("infer", "take=granted", f"steps={self.steps}", under=["-p", "urgent", *options])
        self.until(lambda: client.poll() is not None, "the urgent job to end")
        assert client.returncode == 0, client.communicate()

    def overlaps(self, *victims: str) -> list[str]:
        """What victims did while the newcomer ran."""
        beats = self.stage.beats
        started, ended = beats.first("infer", "start").at_ns, beats.last("infer", "end").at_ns
        return [fault for tag in victims for fault in beats.steps_between(tag, started, ended)]

    def comes_back(self, *tags: str) -> None:
        """The victims make steps again, and end with status 0."""
        beats = self.stage.beats
        after = beats.last("infer", "end").at_ns
        for tag in tags:
            self.until(lambda tag=tag: beats.last(tag).at_ns > after, f"{tag} to go on", of_victim=True)  # type: ignore[misc]
            self.stage.open(tag)
        for client in self.started:
            self.ends_well(client)

    def ends_well(self, client: Any) -> None:
        self.until(lambda: over(client), "a victim to end", of_victim=True)
        if status(client) and self.mortal is not None and not alive(self.mortal):
            raise Dead
        assert status(client) == 0


class Dead(Exception):
    """The stub has died, and its job with it: nothing more is to come of that."""


def over(client: Any) -> bool:
    return not client.isalive() if isinstance(client, pexpect.spawn) else client.poll() is not None


def status(client: Any) -> Any:
    if isinstance(client, pexpect.spawn):
        return client.exitstatus if client.signalstatus is None else -client.signalstatus
    return client.returncode


# The stories: each is prepared up to its `yield`, where somebody is doomed


def freeze(play: Play) -> Iterator[None]:
    """A pause by the freezer, and the return."""
    play.started += [play.stage.running("train", f"take={20 * GIB}")]
    yield
    play.urgent()
    play.comes_back("train")
    assert play.overlaps("train") + play.stage.beats.lost_steps("train") == []


def freeze_two(play: Play) -> Iterator[None]:
    """Two victims for one newcomer, all or none."""
    tags = ["one", "two"]
    play.started += [play.stage.running(tag, f"take={20 * GIB}") for tag in tags]
    yield
    play.urgent("-g", "2")
    play.comes_back(*tags)
    assert play.overlaps(*tags) + [fault for tag in tags for fault in play.stage.beats.lost_steps(tag)] == []


def stop(play: Play) -> Iterator[None]:
    """A pause by SIGSTOP of a program without a terminal."""
    play.started += [play.stage.running("train", f"take={20 * GIB}", start_new_session=True)]
    yield
    play.urgent()
    play.comes_back("train")
    assert play.overlaps("train") + play.stage.beats.lost_steps("train") == []
    assert set(play.stage.whys(1, "paused")) <= {"for job 2 (stop)"}


def stop_detached(play: Play) -> Iterator[None]:
    """The same with a stub."""
    assert play.stage.start("train", f"take={20 * GIB}", under=["-d"]).wait(30) == 0
    play.stage.until_running("train")
    play.started += [play.stage.world.start("wait", "1")]
    yield
    play.urgent()
    play.comes_back("train")
    assert play.overlaps("train") + play.stage.beats.lost_steps("train") == []


def stop_on_a_terminal(play: Play) -> Iterator[None]:
    """A pause by SIGSTOP behind a stub in the foreground of a terminal."""
    world = play.stage.world
    words = [*WITHOUT_CGROUPS, world.command, "-r", "-m", "30G", "--", *play.stage.words("train", f"take={20 * GIB}")]
    screen = pexpect.spawn(words[0], words[1:], env=world.env, encoding="utf-8", timeout=15)
    play.started += [screen]
    play.gate = lambda: screen.close(force=True)
    play.stage.until_running("train")
    yield
    play.urgent()
    play.comes_back("train")
    assert play.overlaps("train") + play.stage.beats.lost_steps("train") == []


def evict(play: Play) -> Iterator[None]:
    """The victim's memory is needed: it ends, and is run again."""
    (play.stage.world.directory / "settings.toml").write_text('min_run = "0s"\n')
    state = play.stage.folder / "state"
    options = [f"take={70 * GIB}", "catch=15", f"state={state}", "steps=1000000"]
    play.started += [play.stage.running("train", *options, under=["-r", "-m", "70G"])]
    yield
    play.urgent("-m", "40G")
    play.comes_back("train")
    beats = play.stage.beats
    assert play.overlaps("train") + beats.too_much_memory(80 * GIB) == []
    assert [line.value for line in beats.lines("train", "attempt")] == ["1", "2"]
    numbers = [int(line.value) for line in beats.lines("train", "beat")]
    assert numbers == list(range(1, len(numbers) + 1))


def back_off(play: Play) -> Iterator[None]:
    """One that fails is tried again after a while."""
    log = play.stage.folder / "tries"
    gate = play.stage.gate("tries")
    script = f"echo $GPURUN_ATTEMPT >> {log}; while [ ! -e {gate} ]; do sleep 0.02; done; [ $GPURUN_ATTEMPT -ge 2 ]"
    play.started += [play.stage.world.start("--retries", "3", "--", "sh", "-c", script)]
    wait_until(log.exists, "the first try")
    yield
    gate.touch()
    play.ends_well(play.started[0])
    assert log.read_text().split() == ["1", "2"]


def hand_off(play: Play) -> Iterator[None]:
    """One ends, and the next in line has its GPU. Whoever waited may be killed itself, and leaves it to the last."""
    play.started += [play.stage.running("first", "take=granted")]
    play.started += [play.stage.start("next", "take=granted", "steps=15")]
    play.stage.until_state(2, "waiting")
    play.started += [play.stage.start("last", "take=granted", "steps=15")]
    play.stage.until_state(3, "waiting")
    yield
    play.stage.open("first")
    first, following, last = play.started
    play.until(lambda: over(following), "the next to end")
    assert status(following) in ((0, -signal.SIGKILL) if play.who == "next" else (0,))
    play.ends_well(first)
    play.ends_well(last)
    beats = play.stage.beats
    turns = ["first", "next", "last"] if beats.has("next", "start") else ["first", "last"]
    assert [line.tag for line in beats.lines(what="start")] == turns
    assert status(following) or turns[1] == "next"
    written = {event["job_id"] for event in play.stage.world.events() if event["to_state"] == "running"}
    assert written >= ({1, 2, 3} if beats.has("next", "start") else {1, 3}), "one ran that nobody had let go"
    for before, after in itertools.pairwise(turns):
        assert beats.last(before).at_ns < beats.first(after, "start").at_ns


@dataclass(frozen=True)
class Story:
    tell: Callable[[Play], Iterator[None]]
    steps: int
    """About so many of the arbiter."""
    spec: str = "1x80G"
    cgroups: bool = True
    stub_steps: int = 0
    """About so many of the stub, if there is one."""


STORIES = [
    Story(freeze, 25),
    Story(freeze_two, 37, "2x80G"),
    Story(stop, 19, cgroups=False),
    Story(stop_detached, 23, cgroups=False, stub_steps=10),
    Story(stop_on_a_terminal, 22, cgroups=False, stub_steps=10),
    Story(evict, 23, stub_steps=23),
    Story(back_off, 15, stub_steps=20),
    Story(hand_off, 12),
]
WITH_STUB = [story for story in STORIES if story.stub_steps]


class WithoutCgroups(World):
    """A world that can freeze nobody."""

    def start(self, *words: Any, prefix: tuple[Any, ...] = (), **more: Any) -> "subprocess.Popen[Any]":
        return super().start(*words, prefix=(*prefix, *WITHOUT_CGROUPS), **more)


# Telling them


@pytest.fixture(scope="session")
def counting(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A gpurun whose steps are counted."""
    return build(tmp_path_factory.mktemp("steps"))


def tell(story: Story, command: str, role: str, who: str, *counts: int | str, made: list[str] | None = None) -> bool:
    """Tell a story in which WHO is killed at a step of ROLE; false if it was over before. `made`: gets the steps."""
    if story.cgroups and not may_freeze():
        pytest.skip("no cgroup v2 tree that may be written here")
    if not story.cgroups and os.geteuid() != 0:
        pytest.skip("only root may make a mount namespace without cgroups")
    kind = World if story.cgroups else WithoutCgroups
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gr-story-")))
        world = stack.enter_context(kind(story.spec, command=command, STUB_STEPS="1"))
        play = Play(Stage(world, folder), who)
        stack.callback(play.stage.open_all)
        stack.callback(lambda: play.gate())
        telling = story.tell(play)
        next(telling)
        leader, *others = [row["pid"] for row in world.rows("SELECT pid FROM job ORDER BY id")]
        mortal = who == "stub" or (role, who) == ("stub", "self")
        play.mortal = leader if mortal else None
        doomed = {"stub": leader, "next": others[0] if others else None}
        arm(world, role, str(doomed.get(who, who)), *counts)
        try:
            with contextlib.suppress(Dead):
                for _ in telling:
                    pass
            if mortal:
                mourn(play)
            play.until(lambda: not is_armed(world) or not groups_of(world), "the last steps")
            killed = disarm(world)
            if made is not None:
                made += steps_made(world)
            prove(play)
        except (AssertionError, IndexError) as failure:
            steps = "\n".join(steps_made(world))
            raise AssertionError(f"{who} killed at {counts}: {failure}\n{steps}\n{world.last_words()}") from failure
        return killed


def mourn(play: Play) -> None:
    """With a stub its job is dead, if it had not ended; all others go on."""
    play.until(lambda: play.stage.world.state(1) == "ended", "the job of the stub to end")
    programs = {line.pid for line in play.stage.beats.lines() if line.tag != "infer"}
    play.until(lambda: not [pid for pid in programs if alive(pid)], "its program to be gone")
    if play.stage.beats.has("infer", "start"):
        play.until(lambda: play.stage.beats.has("infer", "end"), "the urgent job to end")


def prove(play: Play) -> None:
    """Nothing is left, and nothing was done twice."""
    world = play.stage.world
    play.until(lambda: not world.jobs(all=False), "all jobs to end")
    nobody_left_standing(line.pid for line in play.stage.beats.lines())
    free = world.run("-g", "all", "-w", "15s", "--", "true")
    assert free.returncode == 0, free.stderr
    # An empty group waits for whichever arbiter lives next, if everything was killed after the end of the last job.
    play.until(lambda: not groups_of(world), "the groups of its jobs to be removed")
    states: dict[int, str | None] = defaultdict(lambda: None)
    for event in world.events():
        assert event["from_state"] == states[event["job_id"]], event
        states[event["job_id"]] = event["to_state"]
    left = [path.name for path in world.folder.iterdir() if path.name.startswith(("pausing", "preempt"))]
    assert left == []
    assert "Traceback" not in world.last_words()


EXPECTED = {
    freeze: {"mark", "make", "_write", "take", "commit", "committed", "unmark", "tell", "_send", "release", "remove"},
    stop: {"mark", "send_signal", "commit", "committed", "unmark"},
}


@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("story", [story for story in STORIES if story.tell in EXPECTED], ids=lambda story: story.tell.__name__)
def test_all_that_changes_the_world_is_a_step(counting: str, story: Story) -> None:
    """Or else nobody would be killed there any more, and nobody would notice."""
    made: list[str] = []
    assert not tell(story, counting, "arbiter", "self", 0, made=made)
    assert EXPECTED[story.tell] <= {line.split()[3] for line in made}


@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.tell.__name__)
def test_killed_at_two_steps_of_the_arbiter(counting: str, story: Story) -> None:
    dice = seeded()
    for who in dice.sample(["self", "both", "keeper"], 2):
        count = dice.randrange(1, story.steps + 1)
        print(f"{who} at {count}")
        tell(story, counting, "arbiter", who, count)


@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("story", WITH_STUB, ids=lambda story: story.tell.__name__)
def test_a_stub_killed_at_a_step_takes_only_its_own_job_along(counting: str, story: Story) -> None:
    dice = seeded()
    role, about, who = dice.choice([("arbiter", story.steps, "stub"), ("stub", story.stub_steps, "self")])
    count = dice.randrange(1, about + 1)
    print(f"{role}: {who} at {count}")
    tell(story, counting, role, who, count)


def test_a_client_killed_at_a_step_of_its_hand_off_leaves_the_gpu_to_the_next(counting: str) -> None:
    count = seeded().randrange(1, 13)
    print(f"next at {count}")
    tell(Story(hand_off, 12), counting, "arbiter", "next", count)


@pytest.mark.long
@pytest.mark.limit(600)
def test_a_client_killed_at_every_step_of_its_hand_off_leaves_the_gpu_to_the_next(counting: str) -> None:
    every(Story(hand_off, 12), counting, "arbiter", "next")


def test_what_a_commit_leaves_to_do_is_done_though_the_next_batch_is_undone(counting: str) -> None:
    """A mistake of ours follows just after the commit by which one job ended and the next was granted, with its answer."""
    with World("1x24G", command=counting) as world:
        gate = world.directory / "gate"
        program = ["sh", "-c", f"until [ -e {gate} ]; do sleep 0.02; done"]
        client = world.start("--", *program)
        wait_until(lambda: world.state(1) == "running", "the job to run")
        following = world.start("--", "true")
        wait_until(lambda: world.state(2) == "waiting", "the next to wait")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as unlucky:
            unlucky.connect(str(world.bell))
            arm(world, "arbiter", "nap", "committed")
            gate.touch()
            wait_until(lambda: not is_armed(world), "the arbiter to nap")
            (world.directory / "mistaken").touch()
            unlucky.send(b"register\0version=1\0key=a")
            assert unlucky.recv(65536).startswith(b"refused\0text=the arbiter cannot register: ")
            (world.directory / "mistaken").unlink()
        assert (client.wait(10), following.wait(10)) == (0, 0)
        wait_until(lambda: "ended: job 1: exit 0" in world.last_words(), "the end to be in the log")


@pytest.mark.needs("unshare", "umount")
def test_a_stub_that_comes_back_slowly_takes_the_next_arbiters_pause_for_no_stop_of_its_owners(counting: str) -> None:
    """It has said that it is there, and heard nothing yet, when its child is stopped."""

    def stop_after_a_crash(play: Play) -> Iterator[None]:
        play.steps = 300  # longer than the nap
        world, rest = play.stage.world, stop_detached(play)
        next(rest)
        yield
        (job,) = world.rows("SELECT pid FROM job")
        os.kill(job["pid"], signal.SIGSTOP)
        before = world.arbiter_pid()
        assert before is not None
        os.kill(before, signal.SIGKILL)
        play.until(lambda: world.arbiter_pid() not in (None, before), "the next arbiter")
        os.kill(job["pid"], signal.SIGCONT)
        yield from rest

    assert tell(Story(stop_after_a_crash, 0, cgroups=False), counting, "stub", "nap", "attend")


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("who", ["self", "both", "keeper"])
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.tell.__name__)
def test_killed_at_every_step_of_the_arbiter(counting: str, story: Story, who: str) -> None:
    every(story, counting, "arbiter", who)


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("role", ["arbiter", "stub"])
@pytest.mark.parametrize("story", WITH_STUB, ids=lambda story: story.tell.__name__)
def test_the_stub_killed_at_every_step(counting: str, story: Story, role: str) -> None:
    every(story, counting, role, "self" if role == "stub" else "stub")


@pytest.mark.long
@pytest.mark.limit(1800)
@pytest.mark.needs("unshare", "umount")
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.tell.__name__)
def test_the_successor_killed_too_while_it_recovers(counting: str, story: Story) -> None:
    """From its second step on: the first is to start its keeper, and before that it is nobody to follow."""
    dice = seeded()
    for count in range(1, story.steps + 1, 2):
        tell(story, counting, "arbiter", "self", count, dice.randrange(2, 9))


def every(story: Story, command: str, role: str, who: str) -> None:
    """Count after count, until a story is over before it comes to it."""
    faults = []
    for count in range(1, MOST_STEPS):
        try:
            if not tell(story, command, role, who, count):
                break
        except AssertionError as failure:
            faults.append(str(failure))
    assert not faults, f"{len(faults)} of {count}\n" + "\n\n".join(faults)
    assert count > FEWEST_STEPS
    print(f"{story.tell.__name__}: {who} killed at {count - 1} steps")
