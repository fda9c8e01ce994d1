"""What must hold for every view: nothing over-promised, settled after one plan, nobody waits for ever."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from views import DATE, GIB, NOW, applied, foreign, gpu, running, share, waiting

from gpuwrap.lifecycle import IN_LINE, JobState
from gpuwrap.model import Bounds, Claim, ComputeMode, ForeignProcess, Gpu, Job, Plan, Rule, View
from gpuwrap.policy.placement import Holder, Room, Shape
from gpuwrap.policy.plan import _Pass, ends_mono, plan
from gpuwrap.policy.reasons import Teller
from gpuwrap.units import MIB

SIZES = st.integers(1, 30).map(lambda n: n * GIB)


def mostly(usual: object, rare: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(st.just(usual), st.just(usual), st.just(usual), rare)


@st.composite
def cards(draw: Callable, index: int) -> Gpu:
    total = draw(st.sampled_from((24 * GIB, 24 * GIB - 300 * MIB, 80 * GIB)))
    sizes = draw(mostly([], st.lists(mostly(4 * GIB, st.none()), max_size=2)))
    strangers: tuple[ForeignProcess, ...] | None = tuple(foreign(900 + i, size) for i, size in enumerate(sizes))
    gone = sum(size or GIB for size in sizes) + draw(st.sampled_from((0, 400 * MIB, 2 * GIB)))
    if not strangers and draw(mostly(False, st.just(True))):
        strangers = None
    return gpu(
        index,
        total_bytes=draw(mostly(total, st.none())),
        free_bytes=draw(mostly(total - gone, st.none())),
        foreign=strangers,
        claim=draw(mostly(None, st.just(Claim(1, "carla")))),
        fault=draw(mostly(None, st.just("lost"))),
        drained=draw(mostly(False, st.just(True))),
        compute_mode=draw(mostly(ComputeMode.DEFAULT, st.sampled_from(ComputeMode))),
        utilization_percent=draw(st.one_of(st.none(), st.integers(0, 100))),
        foreign_peak_bytes=draw(st.one_of(st.none(), SIZES)),
        numa_node=draw(st.one_of(st.none(), st.integers(0, 1))),
        links={f"GPU-{other}": draw(st.integers(0, 2)) for other in range(index)},
    )


@st.composite
def jobs_in_line(draw: Callable, number: int, count: int) -> Job:
    memory = draw(st.sampled_from(("whole", "bytes", "percent", "exclusive")))
    request: dict[str, object] = {}
    if memory in ("bytes", "exclusive"):
        request = {"memory_bytes": draw(SIZES), "exclusive": memory == "exclusive"}
    elif memory == "percent":
        request = {"memory_percent": float(draw(st.integers(1, 100)))}
    if draw(mostly(False, st.just(True))):
        allowed = draw(st.sets(st.integers(0, count - 1)))
        request["allowed"] = frozenset(f"GPU-{index}" for index in allowed)
    limit = draw(st.one_of(st.none(), st.sampled_from((10.0, 1000.0, 9000.0))))
    job = waiting(
        number,
        draw(mostly(1, st.integers(0, count))),
        draw(st.integers(-1, 1)),
        time_limit_seconds=limit,
        **request,
    )
    return replace(job, state=draw(mostly(JobState.WAITING, st.just(JobState.HELD))))


@st.composite
def with_holders(draw: Callable, seen: tuple[Gpu, ...]) -> tuple[tuple[Gpu, ...], list[Job]]:
    """Give some GPUs holders that fit (an arbiter's own grants are always such), with figures or without."""
    holders: list[Job] = []
    found = []
    for card in seen:
        room = Room(replace(card, claim=None, fault=None, drained=False, compute_mode=ComputeMode.DEFAULT), Bounds())
        used: dict[int, int | None] = {}
        taken = 0
        for _ in range(draw(st.integers(0, 2))):
            shape = Shape(1, draw(st.one_of(st.none(), SIZES)), None, False, None, None)
            shape.whole = shape.bytes is None
            if not room.fits(shape):
                continue
            number = 1 + len(holders)
            given_ = room.share(shape)
            limit = draw(st.one_of(st.none(), st.sampled_from((60.0, 9000.0, 20000.0))))
            job = running(number, given_, time_limit_seconds=limit, memory_bytes=shape.bytes)
            state = draw(mostly(JobState.RUNNING, st.sampled_from(("granted", "paused", "stopping", "ended"))))
            holders.append(replace(job, state=JobState(state)))
            use = draw(st.sampled_from((None, 0, given_.bytes // 2, given_.bytes // 2)))
            if use:
                taken += use
            used[number] = use
            break_even = card.free_bytes is not None
            held = replace(card, used=used, free_bytes=card.free_bytes - taken if break_even else None)
            room = Room(replace(held, claim=None, fault=None, drained=False), Bounds())
            if shape.whole or given_.whole:
                break
        free = None if card.free_bytes is None else card.free_bytes - taken
        found.append(replace(card, used=used, free_bytes=free))
    return tuple(found), holders


@st.composite
def views(draw: Callable) -> View:
    count = draw(st.integers(1, 5))
    seen, holders = draw(with_holders(tuple(draw(cards(index)) for index in range(count))))
    line = [draw(jobs_in_line(20 + i, count)) for i in range(draw(st.integers(0, 10)))]
    numbers = st.sets(st.integers(20, 30), max_size=2).map(frozenset)
    return View(
        seen,
        tuple(draw(st.permutations([*holders, *line]))),
        draw(mostly(frozenset(), numbers)),
        draw(mostly(frozenset(), numbers)),
        Bounds(draw(st.sampled_from((0, 500 * MIB))), draw(mostly(None, st.integers(1, 3)))),
    )


def granted(view: View, made: Plan) -> list[tuple[Job, Gpu, object]]:
    jobs = {job.id: job for job in view.jobs}
    by_uuid = {card.uuid: card for card in view.gpus}
    return [(jobs[each.job_id], by_uuid[s.uuid], s) for each in made.actions for s in each.shares]


@given(views())
@settings(max_examples=60, deadline=None)
def test_promises_and_strangers_never_exceed_a_gpus_memory(view: View) -> None:
    made = plan(view, NOW)
    after = applied(view, made)
    for card in {each.uuid: each for _, each, _ in granted(view, made)}.values():
        assert card.total_bytes is not None
        assert card.free_bytes is not None
        held = [s for job in after.jobs for s in job.shares if s.uuid == card.uuid]
        to_come = sum(
            max(0, s.bytes - (card.used.get(job.id) or 0)) for job in after.jobs for s in job.shares if s.uuid == card.uuid
        )
        if not any(s.whole for s in held):
            assert to_come + view.bounds.keep_free_bytes <= card.free_bytes
        assert sum(s.bytes for s in held) <= card.total_bytes


@given(views())
@settings(max_examples=60, deadline=None)
def test_a_whole_grant_is_alone(view: View) -> None:
    made = plan(view, NOW)
    after = applied(view, made)
    for job, card, given_ in granted(view, made):
        others = [other for other in after.jobs if other.id != job.id for s in other.shares if s.uuid == card.uuid]
        whole_others = [s for other in others for s in other.shares if s.uuid == card.uuid and s.whole]
        assert not whole_others
        if given_.whole:
            assert not others
            assert not card.foreign


@given(views())
@settings(max_examples=60, deadline=None)
def test_no_grant_on_a_gpu_that_is_unknown_or_shut(view: View) -> None:
    for job, card, _ in granted(view, plan(view, NOW)):
        assert card.fault is None
        assert not card.drained
        assert card.claim is None
        assert None not in (card.free_bytes, card.total_bytes)
        assert card.compute_mode is not ComputeMode.PROHIBITED
        assert job.request.allowed is None or card.uuid in job.request.allowed
        assert not any(
            s.uuid == card.uuid
            for other in view.jobs
            if other.state in (JobState.PAUSED, JobState.SUSPENDED)
            for s in other.shares
        )


@given(views())
@settings(max_examples=60, deadline=None)
def test_every_job_gets_all_its_gpus_or_a_reason(view: View) -> None:
    made = plan(view, NOW)
    jobs = {job.id: job for job in view.jobs}
    started = {action.job_id: action.shares for action in made.actions}
    assert len(started) == len(made.actions)
    for number, shares in started.items():
        assert jobs[number].state is JobState.WAITING
        assert number not in view.stopped | view.absent
        assert len({s.uuid for s in shares}) == len(shares) == jobs[number].request.gpus
    in_line = {job.id for job in view.jobs if job.state in IN_LINE}
    assert set(made.reasons) | set(started) == in_line
    assert not set(made.reasons) & set(started)
    assert sorted(reason.place for reason in made.reasons.values()) == list(range(1, len(made.reasons) + 1))


@given(views())
@settings(max_examples=60, deadline=None)
def test_the_plan_of_an_applied_plan_is_empty_and_says_the_same(view: View) -> None:
    made = plan(view, NOW)
    again = plan(applied(view, made), NOW)
    assert again.actions == ()
    assert again.kept == made.kept
    assert dict(again.reasons) == dict(made.reasons)


@given(views())
@settings(max_examples=150, deadline=None)
def test_where_the_walk_along_the_line_ends_nothing_would_have_come_of_the_rest(view: View) -> None:
    made = plan(view, NOW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Pass, "_nothing_comes_of_the_rest", lambda *_: False)
        whole = plan(view, NOW)
    assert (made.actions, made.kept, made.stuck) == (whole.actions, whole.kept, whole.stuck)
    assert list(made.reasons.items()) == list(whole.reasons.items())


@given(views())
@settings(max_examples=60, deadline=None)
def test_a_lower_job_never_starts_while_a_higher_one_of_the_same_shape_waits(view: View) -> None:
    made = plan(view, NOW)
    started = {action.job_id for action in made.actions}
    jobs = [job for job in view.jobs if job.state is JobState.WAITING and job.id not in view.stopped | view.absent]
    for job in jobs:
        for other in jobs:
            if job.request == other.request and (-job.priority, job.id) < (-other.priority, other.id):
                assert job.id in started or other.id not in started


@given(views())
@settings(max_examples=60, deadline=None)
def test_at_most_one_job_is_kept_gpus_for_and_it_waits(view: View) -> None:
    made = plan(view, NOW)
    assert len(set(made.kept.values())) <= 1
    for number in made.kept.values():
        reason = made.reasons[number]
        assert len(made.kept) == reason.gpus == len(reason.kept)
        assert reason.rule not in (Rule.HELD, Rule.STOPPED, Rule.ABSENT, Rule.FOREIGN, Rule.CLAIMED, Rule.UNHEALTHY)


@given(views(), st.data())
@settings(max_examples=60, deadline=None)
def test_fits_and_obstacle_agree(view: View, data: st.DataObject) -> None:
    job = data.draw(jobs_in_line(99, len(view.gpus)))
    shape = Shape.of(replace(job.request, allowed=None))
    for card in view.gpus:
        room = Room(card, view.bounds)
        for held in view.jobs:
            for s in held.shares:
                if s.uuid == card.uuid:
                    paused = held.state in (JobState.PAUSED, JobState.SUSPENDED)
                    room.hold(Holder(held.id, s.bytes, s.whole, paused, held.state is JobState.ENDED))
        room.settle()
        assert room.fits(shape) == (room.obstacle(shape) is None)


@given(views(), st.data())
@settings(max_examples=150, deadline=None)
def test_what_its_own_process_holds_is_to_a_job_as_if_it_were_not_there(view: View, data: st.DataObject) -> None:
    ended = [job for job in view.jobs if job.state is JobState.ENDED and job.shares]
    own = {job.id for job in ended if data.draw(st.booleans())}
    places = st.sets(st.integers(0, len(view.gpus) - 1), min_size=1)
    request = {"allowed": frozenset(f"GPU-{index}" for index in data.draw(places))}
    if data.draw(st.booleans()):
        request["memory_bytes"] = data.draw(SIZES)
    asking = waiting(99, len(request["allowed"]), **request)
    jobs = [job for job in view.jobs if job.shares]
    cards, without = view.gpus, []
    for card in cards:
        assume(not any(None in (card.used.get(each, 0), card.free_bytes) for each in own))
        assume(not Room(card, view.bounds).unexplained)
        freed = sum(card.used.get(each) or 0 for each in own)
        used = {job_id: size for job_id, size in card.used.items() if job_id not in own}
        without.append(replace(card, used=used, free_bytes=None if card.free_bytes is None else card.free_bytes + freed))
    with_own = plan(replace(view, jobs=(*jobs, asking), own={99: frozenset(own)}), NOW)
    others = tuple(job for job in jobs if job.id not in own)
    gone = plan(replace(view, gpus=tuple(without), jobs=(*others, asking)), NOW)
    assert with_own.actions == gone.actions
    assert {each.rule for each in with_own.reasons.values()} == {each.rule for each in gone.reasons.values()}


@given(views())
@settings(max_examples=50, deadline=None)
def test_every_reason_is_one_printable_line(view: View) -> None:
    made = plan(view, NOW)
    teller = Teller(applied(view, made), NOW, DATE)
    jobs = {job.id: job for job in view.jobs}
    for number, reason in made.reasons.items():
        lines = [teller.sentence(reason, jobs[number]), *teller.help_lines(reason, jobs[number])]
        assert all(line and line.isprintable() and not line.endswith((" ", ":", ",")) for line in lines)


@given(views())
@settings(max_examples=50, deadline=None)
def test_a_job_is_told_the_same_alone_and_among_many(view: View) -> None:
    """Teller, placement and plan remember what most of a line have in common."""
    made, teller = plan(view, NOW), Teller(view, NOW, DATE)
    jobs = {job.id: job for job in view.jobs}
    for job_id, reason in made.reasons.items():
        job = jobs[job_id]
        assert teller.sentence(reason, job) == Teller(view, NOW, DATE).sentence(plan(view, NOW).reasons[job_id], job)


@given(views())
@settings(max_examples=100, deadline=None)
def test_what_is_said_of_a_size_holds_up_to_the_next_step(view: View) -> None:
    """So that jobs of many sizes can share a verdict."""
    for card in view.gpus:
        room = Room(card, view.bounds)
        for job in view.jobs:
            for each in job.shares:
                if each.uuid == card.uuid:
                    room.hold(Holder(job.id, each.bytes, each.whole, ends_mono=ends_mono(job, NOW)))
        room.settle()
        going = sorted(room.holders, key=lambda holder: holder.ends_mono)
        left = [room.left([holder.job_id for holder in going[:count]]).bytes for count in range(len(going) + 1)]
        figures = {room.usable, room._ceiling, room.available, room._potential - room._margin, room.total(), *left}
        steps, said = sorted(room.steps()), dict[object, object]()
        for size in sorted({max(1, figure + more) for figure in figures for more in (-1, 0, 1)}):
            for whole in (False, True):
                shape = Shape(1, size, None, whole, None, None)
                words = room.need(shape)[1], room.lasting(shape), room.obstacle(shape), room.fits(shape), room.frees_mono(shape)
                assert said.setdefault((bisect_left(steps, size), whole), words) == words


@given(
    st.integers(1, 6),
    st.integers(2, 6),
    st.sampled_from((None, 5, 20)),
    st.booleans(),
    st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_a_wide_job_starts_although_small_ones_keep_coming(
    wanted: int, count: int, memory: int | None, limits: bool, seed: int
) -> None:
    """Small jobs end after 1 to 6 steps; two or more new ones come at each. None is ever short of work."""
    wanted, random = min(wanted, count), Random(seed)
    seen = tuple(gpu(index) for index in range(count))
    wide = waiting(1, wanted) if memory is None else waiting(1, wanted, m=memory)
    ends: dict[int, int] = {}
    jobs: dict[int, Job] = {}
    number = 2
    for index in range(count * 2):
        jobs[number] = replace(running(number, share(index % count, 4 * GIB, whole=False), m=4), started_mono=NOW)
        ends[number] = random.randint(1, 6)
        number += 1
    jobs[1] = wide
    for step in range(60 * count):
        jobs = {key: job for key, job in jobs.items() if ends.get(key, step + 1) > step}
        for _ in range(random.randint(2, 4)):
            limit = {"time_limit_seconds": float(random.choice((10, 60)))} if limits and random.random() < 0.7 else {}
            size = random.choice((1, 2, 6, None))
            jobs[number] = waiting(number, m=size, **limit) if size else waiting(number, **limit)
            number += 1
        view = View(seen, tuple(jobs.values()))
        now = NOW + 10.0 * step
        for action in plan(view, now).actions:
            if action.job_id == 1:
                return
            job = jobs[action.job_id]
            limit_seconds = job.request.time_limit_seconds
            longest = 6 if limit_seconds is None else int(limit_seconds // 10)
            ends[job.id] = step + random.randint(1, longest)
            jobs[job.id] = replace(job, state=JobState.RUNNING, shares=action.shares, started_mono=now, granted_mono=now)
    raise AssertionError("the wide job never started")


@given(st.lists(st.sampled_from((None, 50.0, 150.0)), min_size=1, max_size=12), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_what_slips_in_never_moves_the_time_at_which_the_first_can_start(limits: list[float | None], seed: int) -> None:
    random = Random(seed)
    seen = tuple(gpu(index) for index in range(3))
    holders = [running(i + 1, share(i), since=0, time_limit_seconds=100.0 * (i + 1)) for i in range(2)]
    line = [
        waiting(10 + i, 1, time_limit_seconds=limit, **({"m": random.randint(1, 20)} if random.random() < 0.5 else {}))
        for i, limit in enumerate(limits)
    ]
    jobs = {job.id: job for job in (*holders, waiting(5, 3), *line)}
    for now in (NOW, NOW + 60, NOW + 120, NOW + 200):
        # Everybody uses all of the limit.
        jobs = {
            key: job
            for key, job in jobs.items()
            if job.started_mono is None or job.started_mono + (job.request.time_limit_seconds or 1e9) > now
        }
        for action in plan(View(seen, tuple(jobs.values())), now).actions:
            jobs[action.job_id] = replace(
                jobs[action.job_id], state=JobState.RUNNING, shares=action.shares, started_mono=now, granted_mono=now
            )
    assert jobs[5].state is JobState.RUNNING
