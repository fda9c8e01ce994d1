"""What came from a job and lost its parents, and inside which job a client asks."""

from dataclasses import replace

import pytest
from family import Member, Tree
from views import running, share, waiting

from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers
from gpuwrap.arbiter.kin.orphans import Orphans
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host.processes import Lineages
from gpuwrap.lifecycle import JobState
from gpuwrap.model import Job
from gpuwrap.state.mirror import Mirror


class Setting:
    """Jobs in a tree; `orphans` tells about them."""

    def __init__(self, tree: Tree) -> None:
        self.shell = tree.root()
        self.jobs, self.known = Mirror(), Known()
        self.leaders: dict[int, int] = {}
        walk = Walk(self.leaders)
        links = Links(self.known, walk, Markers(None))
        self.orphans = Orphans(self.jobs, self.known, walk, links, self.leaders, Lineages())

    def add(self, job: Job, leader: Member) -> Job:
        job = replace(job, identity=leader.identity)
        self.jobs.put(job)
        self.leaders[leader.pid] = job.id
        self.orphans.remember_ancestors(job)
        return job

    def known_of(self, job: Job) -> list[int]:
        return sorted(self.known.seen(job.id).processes)

    def survivors(self, job: Job) -> list[int]:
        return sorted(self.orphans.survivors(job))

    def inside(self, client: Member) -> int | None:
        found = self.orphans.job_of_client(client.pid)
        return found.id if found is not None else None


@pytest.fixture
def setting(tree: Tree) -> Setting:
    return Setting(tree)


def pids(*members: Member) -> list[int]:
    return sorted(member.pid for member in members)


def test_what_hangs_below_a_job_is_remembered_but_for_the_jobs_inside(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    child, client = leader.child(), leader.child()
    grandchild, inner = child.child(), client.child()
    setting.add(replace(running(2, share(0)), parent_id=1), client)
    setting.orphans.look_below(1)
    assert setting.known_of(job) == pids(child, grandchild)
    child.kill()
    setting.orphans.look_below(1)
    assert setting.known_of(job) == pids(grandchild), "it was seen, whoever is its parent now"
    setting.orphans.look_below(2)
    assert setting.known_of(setting.jobs.live[2]) == pids(inner)


def test_who_was_seen_before_it_was_a_job_or_an_arbiter_is_kin_no_more(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    client, becoming = leader.child(), leader.child()
    setting.orphans.look_below(1)
    assert setting.known_of(job) == pids(client, becoming)
    setting.leaders[client.pid] = 2
    becoming.rename("gpurun-arbiter")
    setting.orphans.look_below(1)
    assert setting.known_of(job) == []


def test_sessions_and_groups_created_below_are_remembered(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    daemon = leader.child(session=True)
    late = daemon.child()
    setting.orphans.look_below(1)
    assert setting.known.of(1).heads == {daemon.pid: daemon.identity.start_ticks}
    daemon.kill()
    other = late.child()
    late.kill()
    assert setting.survivors(setting.jobs.live[1]) == pids(other)


def test_a_leader_that_has_ended_changes_nothing_of_what_was_seen(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    child = leader.child()
    setting.orphans.look_below(1)
    leader.kill()
    setting.orphans.look_below(1)
    assert setting.known_of(job) == setting.survivors(job) == pids(child)


def test_survivors_are_found_that_were_never_seen(setting: Setting) -> None:
    leader = setting.shell.child(session=True, GPURUN_JOB="1", GPURUN_GPU_UUIDS="GPU-0")
    job = setting.add(running(1, share(0)), leader)
    in_session, elsewhere = leader.child(), leader.child(session=True)
    below = elsewhere.child()
    client = leader.child()
    arbiter = leader.child(program="gpurun-arbiter")
    setting.add(replace(waiting(2), parent_id=1), client)
    leader.kill()
    assert setting.survivors(job) == pids(in_session, elsewhere, below)
    assert arbiter.pid not in setting.survivors(job)


def test_a_client_is_inside_the_innermost_job_that_has_gpus_to_give(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    client = leader.child()
    assert setting.inside(client) == 1
    assert setting.inside(setting.shell) is None
    inner = leader.child()
    setting.add(replace(running(2, share(0)), parent_id=1), inner)
    assert setting.inside(inner.child()) == 2
    without = inner.child()
    setting.add(replace(running(3), parent_id=2), without)
    assert setting.inside(without.child()) == 2


def test_jobs_that_have_not_started_or_have_ended_give_nothing(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    client = leader.child()
    for state in (JobState.GRANTED, JobState.ENDED):
        setting.add(replace(running(1, share(0)), state=state), leader)
        assert setting.inside(client) is None


def test_an_orphan_asks_inside_the_job_that_it_was_seen_in(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    between = leader.child(session=True)
    client = between.child(session=True)
    setting.orphans.look_below(1)
    between.kill()
    assert setting.inside(client) == 1


def test_an_orphan_that_was_not_seen_asks_inside_the_job_of_its_sessions_leader(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    between = leader.child()
    client = between.child()
    between.kill()
    assert setting.inside(client) == 1


def test_a_marker_alone_puts_nobody_inside(setting: Setting) -> None:
    """A tmux server that was started in the job keeps it for all that it ever starts."""
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    marker = {"GPURUN_JOB": "1", "GPURUN_GPU_UUIDS": "GPU-0"}
    assert setting.inside(setting.shell.child(session=True, **marker)) is None


def test_with_a_marker_who_was_adopted_from_the_jobs_control_groups_asks_inside_it(setting: Setting) -> None:
    leader = setting.shell.child()
    setting.add(running(1, share(0)), leader)
    between = leader.child()
    marked, bare = between.child(GPURUN_JOB="1", GPURUN_GPU_UUIDS="GPU-0"), between.child()
    between.kill()
    assert setting.inside(marked) == 1
    assert setting.inside(bare) is None
