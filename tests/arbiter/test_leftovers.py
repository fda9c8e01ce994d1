"""What outlives a leader: whether it holds the job's GPUs, whose end is awaited, what is kept of it, and how it is named."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from family import Member, Tree
from views import running, share, waiting

from gpuwrap.arbiter.bell.room import Room
from gpuwrap.arbiter.kin import leftovers
from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.leftovers import Leftovers, Survivors
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers
from gpuwrap.arbiter.kin.owners import Owners
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host.devices import Look
from gpuwrap.lifecycle import JobState
from gpuwrap.model import GpuProcess, GpuSample, Job
from gpuwrap.state.mirror import Mirror
from gpuwrap.state.notes import Kept
from gpuwrap.units import GIB


class Paper:
    """A store's notes."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def note(self, name: str) -> str:
        return self.texts.get(name, "")

    def notes_of(self, word: str) -> dict[int, str]:
        return {int(name.split()[1]): text for name, text in self.texts.items() if name.startswith(f"{word} ")}

    def put_note(self, name: str, text: str) -> None:
        self.texts[name] = text


class Setting:
    """Ended jobs in a tree, and what the driver names."""

    def __init__(self, tree: Tree) -> None:
        self.shell = tree.root()
        self.jobs, self.known, self.paper = Mirror(), Known(), Paper()
        self.leaders: dict[int, int] = {}
        self.holding_on: set[int] = set()
        self.ends: list[int] = []
        self.watched: dict[int, Callable[[int], None]] = {}
        self.look: Look | None = Look((), 1.0)
        links = Links(self.known, Walk(self.leaders), Markers(None))
        owners = Owners(self.jobs.live, self.jobs.holding, self.known, links)
        self.leftovers = Leftovers(
            self.jobs, self.holding_on, self.known, links, owners, Kept(self.paper).kin, lambda: self.look
        )
        self.survivors = Survivors(self.known, self.holders, self.leaders, self, Room(), self.ends.append)

    def holders(self, job: Job) -> list[tuple[int, int | None]]:
        named = self.look.samples[0].processes or () if self.look and self.look.samples else ()
        return [(process.pid, process.bytes) for process in named]

    def watch(self, fd: int, callback: Callable[[int], None], events: int = 0) -> None:
        self.watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        del self.watched[fd]

    def ended(self, number: int, *left: Member, ago: float = 5.0) -> Job:
        """A job whose leader has gone, with what is known to have outlived it."""
        job = replace(running(number, share(0)), state=JobState.ENDED, ended_mono=time.monotonic() - ago)
        job = replace(job, identity=replace(self.shell.identity, pid=1, start_ticks=1))
        self.jobs.put(job)
        self.known.of(number).processes = {member.pid: member.identity for member in left}
        self.holding_on.add(number)
        return job

    def named(self, *members: Member) -> None:
        processes = tuple(GpuProcess(member.pid, 5 * GIB) for member in members)
        self.look = Look((GpuSample("GPU-0", 0, "card", 24 * GIB, 20 * GIB, processes),), 1.0)


@pytest.fixture
def setting(tree: Tree) -> Setting:
    return Setting(tree)


@pytest.fixture
def grown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts as young."""
    monkeypatch.setattr(leftovers, "YOUNG_SECONDS", 0.0)


def test_a_young_survivor_holds_the_grant_whatever_shows(setting: Setting) -> None:
    job = setting.ended(1, setting.shell.child())
    assert setting.survivors.hold(job, undecided=False)


@pytest.mark.usefixtures("grown_up")
def test_an_old_one_holds_it_where_the_driver_names_it_or_nobody_has_looked(setting: Setting) -> None:
    left, other = setting.shell.child(), setting.shell.child()
    job = setting.ended(1, left, other)
    assert not setting.survivors.hold(job, undecided=False)
    assert setting.survivors.hold(job, undecided=True)
    setting.named(left)
    assert setting.survivors.hold(job, undecided=False)


def test_a_job_without_shares_or_without_survivors_holds_nothing(setting: Setting) -> None:
    assert not setting.survivors.hold(setting.ended(1), undecided=True)
    job = setting.ended(2, setting.shell.child())
    assert not setting.survivors.hold(replace(job, shares=()), undecided=True)


def test_the_end_of_each_survivor_is_awaited_and_it_is_known_no_more(setting: Setting) -> None:
    first, second = setting.shell.child(), setting.shell.child()
    job = setting.ended(1, first, second)
    setting.survivors.hold(job, undecided=False)
    setting.survivors.hold(job, undecided=False)
    assert len(setting.watched) == 2
    first.kill()
    fd = next(iter(setting.watched))
    setting.watched[fd](1)
    assert setting.ends == [1]
    assert list(setting.known.seen(1).processes) == [second.pid]
    assert len(setting.watched) == 1
    setting.survivors.let_go(1)
    assert not setting.watched


def test_who_has_ended_unseen_is_forgotten_at_the_next_question(setting: Setting) -> None:
    left = setting.shell.child()
    job = setting.ended(1, left)
    left.kill()
    assert not setting.survivors.hold(job, undecided=True)
    assert not setting.known.seen(1).processes


def test_more_than_a_few_of_one_job_are_not_awaited(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "MOST_WATCHED", 1)
    job = setting.ended(1, setting.shell.child(), setting.shell.child())
    assert setting.survivors.hold(job, undecided=False)
    assert len(setting.watched) == 1


def test_leftovers_are_overdue_when_the_setting_says_so(setting: Setting) -> None:
    job = setting.ended(1, setting.shell.child(), ago=60.0)
    assert not setting.survivors.is_overdue(job, None)
    assert not setting.survivors.is_overdue(job, 90.0)
    assert setting.survivors.is_overdue(job, 30.0)


def test_a_process_that_has_asked_again_is_not_ended_for_what_its_block_left(setting: Setting) -> None:
    program = setting.shell.child()
    job = setting.ended(1, program, ago=60.0)
    job = replace(job, identity=program.identity)
    setting.leaders[program.pid] = 1
    assert setting.survivors.is_overdue(job, 30.0)
    setting.leaders[program.pid] = 2
    assert not setting.survivors.is_overdue(job, 30.0)


def test_what_stays_is_written_down_and_known_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    stays, job = setting.shell.child(), setting.ended(1)
    runs = replace(job, state=JobState.RUNNING)
    setting.jobs.put(runs)
    setting.known.of(1).processes = {stays.pid: stays.identity}
    setting.leftovers.remember()
    assert setting.paper.note("kin 1") == "", "compilers below make come and go"
    setting.named(stays)
    setting.leftovers.remember()
    assert setting.paper.note("kin 1") == f"{stays.pid}:{stays.identity.start_ticks}"
    setting.known.forget(1)
    setting.leftovers.recall(runs)
    assert setting.known.seen(1).processes == {stays.pid: stays.identity}
    stays.kill()
    setting.known.forget(1)
    setting.leftovers.recall(runs)
    assert not setting.known.seen(1).processes
    setting.leftovers.forget(1)
    assert setting.paper.note("kin 1") == ""


def test_after_a_restart_all_that_is_linked_is_searched_for(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = replace(setting.ended(1), identity=leader.identity)
    setting.jobs.put(job)
    setting.leaders[leader.pid] = 1
    left, client = leader.child(), leader.child()
    marked = setting.shell.child(session=True, GPURUN_JOB="1", GPURUN_GPU_UUIDS="GPU-0")
    setting.leaders[client.pid] = 2
    leader.kill()
    setting.leftovers.search(job)
    assert sorted(setting.known.seen(1).processes) == sorted([left.pid, marked.pid])


def test_who_asks_block_after_block_goes_on_with_what_the_ended_ones_left(setting: Setting) -> None:
    program, worker = setting.shell.child(), setting.shell.child()
    ended = replace(setting.ended(1, program, worker), identity=program.identity, shares=(share(0), share(1)))
    setting.jobs.put(ended)
    asks = replace(waiting(2), identity=program.identity)
    setting.jobs.put(asks)
    assert setting.leftovers.own() == {2: frozenset({1})}
    taken = replace(running(2, share(1)), identity=program.identity)
    setting.jobs.put(taken)
    assert setting.leftovers.take_over(taken) == [(ended, (share(0),))]
    assert list(setting.known.seen(2).processes) == [worker.pid]


def test_leftovers_are_named_the_largest_first(setting: Setting) -> None:
    small, large, third = setting.shell.child(), setting.shell.child(), setting.shell.child()
    job = setting.ended(1, small, large, third, ago=5.5)
    setting.named(large)
    assert next(each.pid for each in setting.leftovers.of(job)) == large.pid
    words = setting.leftovers.words(job)
    assert words is not None
    assert words.startswith("left behind on GPU 0, ")
    assert f" s ago: pid {large.pid} (sh" in words
    assert words.endswith(" and 1 more")
    assert setting.leftovers.is_young()
    assert setting.leftovers.words(setting.ended(2)) is None
