"""From looks to grants over random worlds: nothing is promised beyond what is there, and unknown never becomes free.

Real processes of this machine stand for those on the GPUs; which of them are a job's is told by what is known of its kin.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from family import kin_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from views import NOW, applied, running, waiting

from gpuwrap.arbiter.bell.seat import Seat
from gpuwrap.arbiter.seeing.observe import Observer
from gpuwrap.host import processes
from gpuwrap.host.devices import Look
from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, ComputeMode, GpuProcess, GpuSample, Grant, Job, Share, View
from gpuwrap.policy.placement import unexplained_allowance
from gpuwrap.policy.plan import plan
from gpuwrap.state.notes import IdleStrangers
from gpuwrap.units import GIB, MIB

TOTAL = 24 * GIB
COUNT = 8


@pytest.fixture(scope="module")
def pids() -> Iterator[list[int]]:
    children = [subprocess.Popen(["sleep", "1000"]) for _ in range(COUNT)]
    yield [child.pid for child in children]
    for child in children:
        child.kill()
        child.wait()


def observer_of(live: dict[int, Job], holding: dict[int, Job], seats: dict[int, Seat]) -> Observer:
    """An observer; the processes of jobs that have ended live on."""
    known, owners = kin_of(live, holding)
    for job in holding.values():
        if job.state is JobState.ENDED:
            known.of(job.id).processes[job.identity.pid] = job.identity
    return Observer(live, holding, seats, known, owners)


World = tuple[Look, dict[int, Job], dict[int, Seat], dict[str, int]]


@st.composite
def worlds(draw: Callable, pids: list[int]) -> World:
    """GPUs with jobs, their leftovers, strangers and displays; the true use of each GPU comes along."""
    jobs: dict[int, Job] = {}
    seats: dict[int, Seat] = {}
    samples = []
    truth: dict[str, int] = {}
    left = list(pids)
    for index in range(draw(st.integers(1, 3))):
        uuid = f"GPU-{index}"
        named: list[GpuProcess] = []
        held = draw(st.sampled_from((0, 300 * MIB)))  # the driver's own
        promised = 0
        for _ in range(draw(st.integers(0, 2))):
            size = draw(st.integers(1, 10)) * GIB
            if not left or promised + size > 20 * GIB:
                break
            promised += size
            number = 1 + len(jobs)
            job = running(number, Share(uuid, index, size, whole=False), memory_bytes=size)
            state = draw(st.sampled_from((JobState.RUNNING, JobState.RUNNING, JobState.ENDED)))
            identity = processes.identify(left.pop())
            assert identity is not None
            jobs[number] = replace(job, identity=identity, state=state, ended_mono=NOW if state is JobState.ENDED else None)
            seats[number] = Seat(identity.pid)
            use = draw(st.sampled_from((0, size // 2, size)))
            if use:
                held += use
                named.append(GpuProcess(identity.pid, draw(st.sampled_from((use, use, None)))))
        for kind in draw(st.lists(st.sampled_from(("stranger", "display", "gone")), max_size=2)):
            size = draw(st.sampled_from((200 * MIB, 2 * GIB)))
            if held + size > TOTAL - promised or not left:
                continue
            held += size
            pid = left.pop() if kind != "gone" else 4_100_000 + index
            named.append(GpuProcess(pid, draw(st.sampled_from((size, size, None))), graphics=kind == "display"))
        held = min(held, TOTAL)
        truth[uuid] = held
        free = draw(st.sampled_from((TOTAL - held, TOTAL - held, TOTAL - held, None)))
        lists = draw(st.sampled_from((tuple(named), tuple(named), tuple(named), None)))
        fault = draw(st.sampled_from((None, None, None, "it is lost")))
        use = draw(st.sampled_from((0, 50, None)))
        mode = draw(st.sampled_from((ComputeMode.DEFAULT, ComputeMode.DEFAULT, *ComputeMode)))
        samples.append(GpuSample(uuid, index, "card", TOTAL, free, lists, use, mode, fault))
    return Look(tuple(samples), 1.0), jobs, seats, truth


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_no_grant_ever_promises_more_than_there_is(pids: list[int], data: st.DataObject) -> None:
    look, jobs, seats, truth = data.draw(worlds(pids))
    line = {
        100 + number: waiting(100 + number, **({"m": size} if size else {}))
        for number, size in enumerate(data.draw(st.lists(st.sampled_from((None, 1, 3, 8, 20)), max_size=5)))
    }
    live = {**jobs, **line}
    observer = observer_of(live, jobs, {**seats, **{number: Seat(0) for number in line}})
    observer.strangers.note(look)
    view = replace(observer.outer_view(look, {}, frozenset(), Bounds()), absent=frozenset())
    made = plan(view, NOW)
    after: View = applied(view, made)
    samples = {sample.uuid: sample for sample in look.samples}
    for action in made.actions:
        assert isinstance(action, Grant)
        for share in action.shares:
            sample = samples[share.uuid]
            assert sample.fault is None
            assert sample.free_bytes is not None, "unknown became free"
            assert sample.compute_mode is not ComputeMode.PROHIBITED
            assert_fits(after, sample, truth[share.uuid], share)


def assert_fits(after: View, sample: GpuSample, held: int, share: Share) -> None:
    """What is used, and what is promised beyond it, is no more than the GPU has; a whole grant meets nobody who computes."""
    there = [(job, each) for job in after.jobs for each in job.shares if each.uuid == sample.uuid]
    if sample.compute_mode is ComputeMode.EXCLUSIVE_PROCESS:
        assert len(there) == 1
        assert all(process.graphics for process in sample.processes or ())
    if share.whole:
        assert len(there) == 1
        if sample.processes is None:  # only the totals tell of anybody
            assert held <= unexplained_allowance(TOTAL), "a whole grant beside what nobody is named for"
        computing = [process for process in sample.processes or () if not process.graphics]
        assert not computing, "a whole grant beside somebody"
        return
    sizes = {process.pid: process.bytes or 0 for process in sample.processes or ()}
    to_come = sum(max(0, each.bytes - sizes.get(job.identity.pid, 0)) for job, each in there)
    assert held + to_come <= TOTAL


Inside = tuple[Look, Job, dict[int, Job], dict[int, Seat], dict[str, int]]


@st.composite
def insides(draw: Callable, pids: list[int]) -> Inside:
    """A running job with nested jobs, one of which has a nested one itself; who holds how much of its GPU comes along."""
    whole = draw(st.booleans())
    size = TOTAL if whole else draw(st.sampled_from((6, 12, 20))) * GIB
    left = [identity for pid in pids if (identity := processes.identify(pid))]
    held = {"driver": draw(st.sampled_from((0, 300 * MIB))), "own": 0, "nested": 0, "others": 0}
    named: list[GpuProcess] = []

    def hold(who: str, amount: int, pid: int | None) -> None:
        amount = min(amount, TOTAL - sum(held.values()))
        if amount > 0:
            held[who] += amount
            named.extend([GpuProcess(pid, draw(st.sampled_from((amount, amount, amount, None))))] if pid else [])

    outer = replace(running(1, Share("GPU-0", 0, size, whole)), identity=left.pop())
    jobs, promised = {1: outer}, 0
    hold("own", draw(st.sampled_from((0, 0, size // 2))), outer.identity.pid)
    for number in range(2, 2 + draw(st.integers(0, 2))):
        need = draw(st.integers(1, 5)) * GIB
        if promised + need > size:
            break
        promised += need
        share = Share("GPU-0", 0, need, whole=False)
        job = replace(running(number, share, memory_bytes=need), identity=left.pop(), parent_id=1)
        jobs[number] = job
        if draw(st.booleans()):  # what runs inside it holds its memory, or more than that
            jobs[number + 10] = replace(job, id=number + 10, identity=left.pop(), parent_id=number)
        hold("nested", draw(st.sampled_from((0, need // 2, need, 2 * need))), jobs.get(number + 10, job).identity.pid)
    for kind in draw(st.lists(st.sampled_from(("stranger", "nobody")), max_size=2)):
        amount = draw(st.sampled_from((200 * MIB, 3 * GIB, 14 * GIB)))
        hold("others", amount, left.pop().pid if kind == "stranger" and left else None)
    sample = GpuSample(
        "GPU-0",
        0,
        "card",
        TOTAL,
        draw(st.sampled_from((TOTAL - sum(held.values()), TOTAL - sum(held.values()), TOTAL - sum(held.values()), None))),
        draw(st.sampled_from((tuple(named), tuple(named), tuple(named), None))),
        compute_mode=draw(st.sampled_from((ComputeMode.DEFAULT, ComputeMode.DEFAULT, *ComputeMode))),
        fault=draw(st.sampled_from((None, None, None, "it is lost"))),
    )
    seats = {number: Seat(job.identity.pid) for number, job in jobs.items()}
    return Look((sample,), 1.0), outer, jobs, seats, held


@given(st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_no_grant_inside_a_job_promises_more_than_there_is(pids: list[int], data: st.DataObject) -> None:
    look, outer, jobs, seats, held = data.draw(insides(pids))
    line = {
        100 + number: replace(waiting(100 + number, **({"m": size} if size else {})), parent_id=1)
        for number, size in enumerate(data.draw(st.lists(st.sampled_from((None, 1, 3, 8, 20)), max_size=4)))
    }
    keep_free = data.draw(st.sampled_from((0, 2 * GIB)))
    observer = observer_of({**jobs, **line}, jobs, {**seats, **{number: Seat(0) for number in line}})
    view = replace(observer.inner_view(outer, look, Bounds(keep_free)), absent=frozenset())
    made = plan(view, NOW)
    after = applied(view, made)
    (sample,), (promise,) = look.samples, outer.shares
    there = [(job, each) for job in after.jobs for each in job.shares]
    (card,) = view.gpus
    to_come = sum(max(0, each.bytes - (card.used.get(job.id) or 0)) for job, each in there)
    for action in made.actions:
        assert isinstance(action, Grant)
        assert sample.fault is None
        assert sample.free_bytes is not None, "unknown became free"
        assert sample.compute_mode is not ComputeMode.PROHIBITED
        assert sample.compute_mode is ComputeMode.DEFAULT or len(there) == 1
        if action.shares[0].whole:
            assert len(there) == 1
            ours = {job.identity.pid for job in jobs.values()}
            strangers = [process.pid for process in sample.processes or () if process.pid not in ours]
            assert not promise.whole or not strangers
        elif sample.processes is not None:
            assert to_come + held["nested"] <= promise.bytes or held["nested"] != sum(size or 0 for size in card.used.values())
            if not any(process.pid == outer.identity.pid for process in sample.processes):
                assert sum(held.values()) + to_come <= TOTAL


def test_a_job_without_a_seat_or_a_dead_process_harms_nobody() -> None:
    named = (GpuProcess(4_100_000, GIB), GpuProcess(os.getpid(), None))
    look = Look((GpuSample("GPU-0", 0, "card", TOTAL, TOTAL - GIB, named),), 1.0)
    job = waiting(1)
    observer = observer_of({1: job}, {}, {})
    (gpu,) = observer.outer_view(look, {}, frozenset(), Bounds()).gpus
    assert {process.pid for process in gpu.foreign or ()} == {4_100_000, os.getpid()}


def test_what_strangers_held_is_remembered_for_an_hour_and_forgotten_with_them(pids: list[int]) -> None:
    observer = observer_of({}, {}, {})

    def peak_after(size: int | None, at: float) -> int | None:
        named = (GpuProcess(pids[0], size),) if size is not None else ()
        look = Look((GpuSample("GPU-0", 0, "card", TOTAL, TOTAL, named, 0),), at)
        observer.strangers.note(look)
        return observer.outer_view(look, {}, frozenset(), Bounds()).gpus[0].foreign_peak_bytes

    assert peak_after(8 * GIB, 100.0) == 8 * GIB
    assert peak_after(2 * GIB, 1000.0) == 8 * GIB
    assert peak_after(2 * GIB, 5000.0) == 2 * GIB
    assert peak_after(None, 5001.0) is None
    assert peak_after(2 * GIB, 5002.0) == 2 * GIB


def test_a_stranger_is_idle_since_nothing_ran_there(pids: list[int]) -> None:
    observer = observer_of({}, {}, {})

    def idle_after(utilization: int | None, at: float) -> float | None:
        named = (GpuProcess(pids[0], 20 * GIB),)
        look = Look((GpuSample("GPU-0", 0, "card", TOTAL, 4 * GIB, named, utilization),), at)
        observer.strangers.note(look)
        (process,) = observer.outer_view(look, {}, frozenset(), Bounds()).gpus[0].foreign or ()
        return process.idle_seconds

    assert idle_after(0, 100.0) is None
    assert idle_after(0, 110.0) is None  # too short to say
    assert idle_after(0, 4000.0) == 3900.0
    assert idle_after(3, 4001.0) is None
    assert idle_after(0, 4002.0) is None
    assert idle_after(None, 9000.0) is None


def test_who_stood_idle_still_does_under_the_next_arbiter_unless_it_worked(pids: list[int]) -> None:
    first, second, third = observer_of({}, {}, {}), observer_of({}, {}, {}), observer_of({}, {}, {})
    kept, now = IdleStrangers(), 10_000.0  # however long this machine has been up

    def look(at: float, utilization: int = 0, *, there: bool = True) -> Look:
        named = tuple(GpuProcess(pid, 2 * GIB) for pid in (pids[0], os.getpid()))
        sample = GpuSample("GPU-0", 0, "card", TOTAL, 4 * GIB, named if there else None, utilization)
        return Look((sample,), at)

    def idle(observer: Observer, at: Look) -> dict[int, int | None]:
        observer.strangers.note(at)
        nonlocal kept
        kept = observer.strangers.idle()
        found = observer.outer_view(at, {}, frozenset(), Bounds()).gpus[0].foreign or ()
        return {each.pid: round(each.idle_seconds) if each.idle_seconds else None for each in found}

    idle(first, look(now - 4000.0))
    assert idle(first, look(now - 2000.0)) == {pids[0]: 2000, os.getpid(): 2000}
    second.strangers.recall(kept, now - 2.0)
    second.strangers.note(Look((), now - 1.5, pending=True))
    idle(second, look(now - 1.0, there=False))
    assert idle(second, look(now)) == {pids[0]: 4000, os.getpid(): 4000}
    worked = [each._replace(cpu_seconds=-100.0) if each.pid == os.getpid() else each for each in kept.each]
    kept = kept._replace(each=tuple(worked))
    third.strangers.recall(kept, now)
    assert idle(third, look(now + 1.0)) == {pids[0]: 4001, os.getpid(): None}  # it has used 100 s of the processor since
    assert idle(third, look(now + 2.0, 5)) == {pids[0]: None, os.getpid(): None}
    assert kept.each == ()
