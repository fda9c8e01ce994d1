"""The one walk below processes: all that lives there, but for arbiters, leaders of other jobs, and what is below these."""

from dataclasses import replace

from family import Member, Tree
from views import running, share

from gpuwrap.arbiter.kin.walk import Walk, by_pid, identity_at, identity_of, living
from gpuwrap.model import Job
from gpuwrap.state.mirror import Mirror, around

ARBITER = "gpurun-arbiter"


def job_of(number: int, leader: Member, parent: int | None = None) -> Job:
    return replace(running(number, share(0)), identity=leader.identity, parent_id=parent)


def pids(*members: Member) -> list[int]:
    return sorted(member.pid for member in members)


def below(walk: Walk, *roots: Member, jobs: tuple[int, ...] = (), spared: tuple[int, ...] = ()) -> list[int]:
    return sorted(stat.pid for stat in walk.below([root.pid for root in roots], jobs, spared))


def test_all_that_is_below_is_found_parents_before_children(tree: Tree) -> None:
    leader = tree.root()
    first, second = leader.child(), leader.child(session=True)
    third = first.child()
    found = [stat.pid for stat in Walk({}).below([leader.pid])]
    assert sorted(found) == pids(first, second, third)
    assert found.index(first.pid) < found.index(third.pid)
    assert below(Walk({}), first) == pids(third)
    assert below(Walk({}), leader, first) == pids(second, third)


def test_who_has_ended_is_not_found(tree: Tree) -> None:
    leader = tree.root()
    child = leader.child()
    child.kill()
    assert below(Walk({}), leader) == []


def test_an_arbiter_is_never_met_nor_what_is_below_it(tree: Tree) -> None:
    leader = tree.root()
    arbiter = leader.child(program=ARBITER, session=True)
    keeper, other = arbiter.child(), leader.child()
    walk = Walk({})
    assert below(walk, leader) == pids(other)
    assert below(walk, arbiter) == []
    assert walk.is_other(arbiter.pid)
    assert not walk.is_other(keeper.pid), "it is known by what it is below"


def test_leaders_of_other_jobs_are_passed_with_all_that_is_below_them(tree: Tree) -> None:
    leader = tree.root()
    nested, mine = leader.child(), leader.child()
    inner = nested.child()
    deepest = inner.child()
    walk = Walk({leader.pid: 1, nested.pid: 2, deepest.pid: 3})
    assert below(walk, leader) == pids(mine)
    assert below(walk, leader, jobs=(1, 2)) == pids(nested, mine, inner)
    assert below(walk, leader, jobs=(1, 2, 3)) == pids(nested, mine, inner, deepest)
    assert walk.is_other(leader.pid)
    assert not walk.is_other(leader.pid, {1})


def test_who_is_spared_is_left_out_with_all_that_is_below(tree: Tree) -> None:
    leader = tree.root()
    server, mine = leader.child(), leader.child()
    server.child()
    assert below(Walk({}), leader, spared=(server.pid,)) == pids(mine)


def test_a_process_is_known_by_its_start_too(tree: Tree) -> None:
    leader = tree.root()
    job, stat = job_of(1, leader), leader.stat()
    assert living(leader.identity) == stat
    assert living(replace(leader.identity, start_ticks=1)) is None
    assert identity_of(job, stat) == identity_at(job, stat.pid, stat.start_ticks) == leader.identity
    assert by_pid(job, [stat]) == {leader.pid: leader.identity}
    leader.handle.kill()
    tree.reap()
    assert living(leader.identity) is None


def test_jobs_around_a_job_and_inside_it_are_told_by_the_mirror() -> None:
    mirror = Mirror()
    for number, parent in ((1, None), (2, 1), (3, 2), (4, 1), (5, None), (6, 9)):
        mirror.put(replace(running(number, share(0)), parent_id=parent))
    live = mirror.live
    assert [outer.id for outer in mirror.around(live[3])] == [2, 1]
    assert [outer.id for outer in around(live, live[6])] == [], "who is not live any more is around nobody"
    assert sorted(mirror.family(live[1])) == [1, 2, 3, 4]
    assert list(mirror.family(live[5])) == [5]
    assert mirror.is_inside(3, 1)
    assert mirror.is_inside(3, 3)
    assert not mirror.is_inside(1, 3)
    assert not mirror.is_inside(4, 2)
    assert not mirror.is_inside(9, 1)
