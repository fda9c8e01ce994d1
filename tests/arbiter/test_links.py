"""What links a process that has lost its parents to a job: session, group, what was created below it, the marker; and whom."""

import os
from dataclasses import replace

import pytest
from family import Member, Tree
from views import running, share
from waiting import wait_until
from world import OTHER_UID

from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host import processes
from gpuwrap.model import Identity, Job


class Setting:
    """A job whose leader is the first of a tree, below a shell; what is known of it."""

    def __init__(self, tree: Tree) -> None:
        self.shell = tree.root()
        self.leader = self.shell.child(session=True)
        self.job = job_of(7, self.leader)
        self.known, self.leaders = Known(), {self.leader.pid: 7}
        self.known.of(7).ancestors = (self.shell.identity, Identity("boot", 1, os.getpid(), 1))
        self.links = Links(self.known, Walk(self.leaders), Markers(None))

    def links_to(self, member: Member, *jobs: Job) -> int:
        found = self.links.find(member.stat(), jobs or (self.job,))
        return found.id if found is not None else 0


def job_of(number: int, leader: Member) -> Job:
    return replace(running(number, share(0)), identity=leader.identity)


def marker(number: int) -> dict[str, str]:
    return {"GPURUN_JOB": str(number), "GPURUN_GPU_UUIDS": "GPU-0"}


@pytest.fixture
def setting(tree: Tree) -> Setting:
    return Setting(tree)


def test_the_session_of_the_leader_links(setting: Setting) -> None:
    between = setting.leader.child()
    left = between.child()
    between.kill()
    assert setting.links_to(left) == 7
    assert setting.links_to(setting.shell) == setting.links_to(setting.leader) == 0


def test_the_rest_of_a_pipeline_is_in_the_leaders_group_and_not_linked_nor_what_it_starts(tree: Tree) -> None:
    """A shell gives the whole pipeline the number of its first process as group: `gpurun x | consumer`."""
    shell, leader, consumer = tree.pipeline()
    child = consumer.child()
    known, job = Known(), job_of(7, leader)
    known.of(7).ancestors = (shell.identity, Identity("boot", 1, os.getpid(), 1))
    links = Links(known, Walk({}), Markers(None))
    assert {leader.stat().group, consumer.stat().group, child.stat().group} == {leader.pid}
    assert links.find(consumer.stat(), (job,)) is None
    assert links.find(child.stat(), (job,)) is None
    between = leader.child()
    left = between.child()
    between.kill()
    assert left.stat().group == leader.pid
    assert links.find(left.stat(), (job,)) == job, "an orphan in the group"


def test_a_session_created_below_the_job_links_while_it_is_the_same(setting: Setting) -> None:
    daemon = setting.leader.child(session=True)
    left = daemon.child()
    assert setting.links_to(left) == 0
    heads = setting.known.of(7).heads
    heads[daemon.pid] = daemon.identity.start_ticks
    assert setting.links_to(left) == 7
    heads[daemon.pid] = 1
    assert setting.links_to(left) == 0, "its number was taken again"
    heads[daemon.pid] = 0
    daemon.kill()
    setting.leader.tell(f"wait {daemon.pid}")
    wait_until(lambda: processes.read_stat(daemon.pid) is None, "it to be waited for")
    assert setting.links_to(left) == 7, "nobody can take it as long as somebody is there"


def test_the_marker_links_wherever_it_is(setting: Setting) -> None:
    marked = setting.shell.child(session=True, **marker(7))
    other = setting.shell.child(session=True, **marker(8))
    assert setting.links_to(marked) == 7
    assert setting.links_to(other) == 0
    assert marked.pid in [stat.pid for stat in setting.links.marked(setting.job)]


def test_who_was_there_before_the_leader_is_not_linked(setting: Setting) -> None:
    marked = setting.shell.child(session=True, **marker(7))
    late = replace(setting.job, identity=replace(setting.job.identity, start_ticks=marked.identity.start_ticks + 1))
    assert setting.links_to(marked, late) == 0


def test_of_several_jobs_the_first_that_is_asked_about_has_it(setting: Setting) -> None:
    """The marker of the job inside stands beside the session of the one around it: the inner is asked about first."""
    inner = job_of(8, setting.leader)
    left = setting.leader.child(**marker(8))
    inner = replace(inner, identity=replace(inner.identity, pid=1))
    assert setting.links_to(left, inner, setting.job) == 8
    assert setting.links_to(left, setting.job) == 7


def test_an_arbiter_and_the_leader_of_another_job_are_not_linked(setting: Setting) -> None:
    arbiter = setting.leader.child(program="gpurun-arbiter", **marker(7))
    client = setting.leader.child(**marker(7))
    assert setting.links_to(client) == 7
    setting.leaders[client.pid] = 9
    assert setting.links_to(arbiter) == setting.links_to(client) == 0
    assert setting.links.trace(arbiter.stat(), (setting.job,)) == setting.job
    assert not {arbiter.pid, client.pid} & {stat.pid for stat in setting.links.marked(setting.job)}


def test_nothing_links_a_process_of_another_user(setting: Setting) -> None:
    """Session, group and marker can be forged, or are kept by a set-user-ID program's heirs."""
    if os.geteuid() != 0:
        pytest.skip("only root may run something as another user")
    in_session = setting.leader.child(uid=OTHER_UID)
    marked = setting.shell.child(session=True, uid=OTHER_UID, **marker(7))
    assert setting.links.is_grouped(setting.leader.child().stat(), setting.job)
    assert not setting.links.is_grouped(in_session.stat(), setting.job)
    setting.known.of(7).heads[marked.pid] = marked.identity.start_ticks
    assert b"GPURUN_JOB=7" in processes.environment(marked.pid)
    assert setting.links_to(in_session) == setting.links_to(marked) == 0
    assert marked.pid not in [stat.pid for stat in setting.links.marked(setting.job)]
    below = [stat.pid for stat in Walk(setting.leaders).below([setting.leader.pid])]
    assert in_session.pid in below, "parentage crosses users"
