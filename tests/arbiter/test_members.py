"""All of a job in one census, and who beside it is left alone."""

from dataclasses import replace

import pytest
from family import Member, Tree, kin_of
from views import running, share

from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers
from gpuwrap.arbiter.kin.members import NOBODY, OTHERS, Kinship, Members
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host.census import Census
from gpuwrap.host.devices import Look
from gpuwrap.host.processes import Lineages
from gpuwrap.lifecycle import JobState
from gpuwrap.model import GpuProcess, GpuSample, Identity, Job
from gpuwrap.state.mirror import Mirror
from gpuwrap.units import GIB


class Setting:
    """Jobs in a tree; `members` tells about them."""

    def __init__(self, tree: Tree) -> None:
        self.shell = tree.root()
        self.jobs, self.known = Mirror(), Known()
        self.leaders: dict[int, int] = {}
        self.computing: list[int] = []
        walk = Walk(self.leaders)
        self.links = Links(self.known, walk, Markers(None))
        self.members = Members(self.jobs, self.known, walk, self.links, self.leaders, Lineages(), self.holders)

    def holders(self, _job: Job) -> list[tuple[int, int | None]]:
        return [(pid, None) for pid in self.computing]

    def add(self, job: Job, leader: Member) -> Job:
        job = replace(job, identity=leader.identity)
        self.jobs.put(job)
        self.leaders[leader.pid] = job.id
        return job

    def census(self, *jobs: Job) -> Kinship:
        return self.members.in_census(jobs, Census())

    def found(self, kinship: Kinship, job: Job) -> list[int]:
        members = kinship.members(kinship.census.stats.values())
        return sorted(stat.pid for stat in members.get(job.id, ()))

    def tree(self, job: Job) -> list[int]:
        return sorted(stat.pid for stat in self.members.tree(job))


@pytest.fixture
def setting(tree: Tree) -> Setting:
    return Setting(tree)


def pids(*members: Member) -> list[int]:
    return sorted(member.pid for member in members)


def identities(*members: Member) -> list[Identity]:
    return [member.identity for member in members]


def test_a_jobs_are_its_leader_those_below_and_the_jobs_inside(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    child, inner_leader = leader.child(), leader.child()
    inner = setting.add(replace(running(2, share(0)), parent_id=1), inner_leader)
    below_inner = inner_leader.child()
    assert setting.tree(job) == pids(leader, child, inner_leader, below_inner)
    assert setting.tree(inner) == pids(inner_leader, below_inner)
    kinship = setting.census(job)
    assert setting.found(kinship, job) == setting.tree(job)
    assert kinship.refusal(job) is None
    assert kinship.owner(setting.shell.pid) == NOBODY


def test_jobs_that_stop_together_are_told_apart(setting: Setting) -> None:
    first, second = setting.shell.child(session=True), setting.shell.child(session=True)
    jobs = [setting.add(running(number, share(0)), leader) for number, leader in ((1, first), (2, second))]
    below = second.child()
    kinship = setting.census(*jobs)
    assert setting.found(kinship, jobs[0]) == pids(first)
    assert setting.found(kinship, jobs[1]) == pids(second, below)


def test_the_census_shows_orphans_too_and_they_are_known_then(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    between = leader.child()
    left = between.child()
    below = left.child()
    between.kill()
    assert setting.tree(job) == pids(leader), "it was not seen"
    assert setting.found(setting.census(job), job) == pids(leader, left, below)
    assert setting.tree(job) == pids(leader, left, below)


def test_the_orphan_of_a_job_inside_is_known_as_that_jobs(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    inner_leader = leader.child()
    setting.add(replace(running(2, share(0)), parent_id=1), inner_leader)
    between = inner_leader.child()
    left = between.child(GPURUN_JOB="2", GPURUN_GPU_UUIDS="GPU-0")
    between.kill()
    assert setting.found(setting.census(job), job) == pids(leader, inner_leader, left)
    assert list(setting.known.seen(2).processes) == pids(left)
    assert not setting.known.seen(1).processes


def test_who_comes_later_is_found_among_the_news(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    kinship = setting.census(job)
    late = leader.child()
    found = kinship.members(kinship.census.news())
    assert [stat.pid for stat in found[1]] == [late.pid]


def test_an_arbiter_below_a_job_is_no_part_of_it_nor_is_its_keeper(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    arbiter = leader.child(program="gpurun-arbiter")
    keeper = arbiter.child()
    kinship = setting.census(job)
    assert setting.found(kinship, job) == setting.tree(job) == pids(leader)
    assert kinship.owner(arbiter.pid) == kinship.owner(keeper.pid) == OTHERS
    elsewhere = setting.shell.child(program="gpurun-arbiter")
    assert setting.census(job).owner(elsewhere.pid) == OTHERS, "it may have been born in the job's control group"


def test_a_job_with_another_below_its_leader_is_not_paused(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1), leader)
    setting.add(running(2, share(0)), leader.child())
    kinship = setting.census(job)
    assert kinship.refusal(job) == "has job 2 below it, which is no part of it"
    assert setting.tree(job) == pids(leader)


def test_a_program_whose_block_is_asked_of_the_queue_around_it_is_not_paused_as_if_alone(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1), leader)
    setting.add(running(2, share(0)), leader)
    assert setting.tree(job) == pids(leader)
    assert setting.census(job).refusal(job) == "has job 2 below it, which is no part of it"


def test_a_server_that_another_job_hangs_below_is_spared_with_all_that_is_below_it(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    between = leader.child()
    server = between.child(session=True)
    setting.known.of(1).processes[server.pid] = server.identity
    between.kill()
    window = server.child(session=True)
    other = window.child()
    setting.add(running(2, share(0)), other)
    own = leader.child()
    kinship = setting.census(job)
    assert setting.found(kinship, job) == pids(leader, own)
    assert kinship.spared[1] == {server.pid, window.pid} & kinship.spared[1]
    assert kinship.refusal(job) is None
    assert sorted(stat.pid for stat in setting.members.tree(job, {server.pid})) == pids(leader, own)
    setting.computing = [window.pid]
    assert "beside which another job runs" in str(setting.census(job).refusal(job))


def test_of_what_is_ended_a_server_that_keeps_anothers_terminal_is_left_out_unless_it_computes(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    between = leader.child()
    server = between.child(session=True)
    between.kill()
    window = server.child(session=True)
    other = window.child()
    setting.add(running(2, share(0)), other)
    own = leader.child()
    found = identities(server, window, own)
    assert setting.members.without_others(job, found) == identities(own)
    setting.computing = [server.pid]
    assert setting.members.without_others(job, found) == identities(server, own)
    setting.jobs.put(replace(setting.jobs.live[2], parent_id=1))
    setting.computing = []
    assert setting.members.without_others(job, found) == found, "of a job inside it nothing is kept"


def test_of_what_is_ended_an_arbiter_is_left_out(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(replace(running(1, share(0)), state=JobState.ENDED), leader)
    arbiter, own = leader.child(program="gpurun-arbiter"), leader.child()
    assert setting.members.without_others(job, identities(arbiter, own)) == identities(own)


# --- whose a GPU process is


def look_at(*members: Member, index: int = 0) -> Look:
    named = tuple(GpuProcess(member.pid, GIB) for member in members)
    return Look((GpuSample(f"GPU-{index}", index, "card", 24 * GIB, 20 * GIB, named),), 1.0)


def test_a_gpu_process_is_that_of_the_innermost_job_above_it(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    job = setting.add(running(1, share(0)), leader)
    inner_leader = leader.child()
    inner = setting.add(replace(running(2, share(0)), parent_id=1), inner_leader)
    mine, its, stranger = leader.child(), inner_leader.child(), setting.shell.child(session=True)
    known, owners = kin_of(setting.jobs.live, setting.jobs.holding)
    look = look_at(mine, its, stranger)
    assert owners.of(look) == {mine.pid: 1, its.pid: 2, stranger.pid: None}
    assert owners.used_by(look) == {1: {"GPU-0": 2 * GIB}, 2: {"GPU-0": GIB}}
    assert owners.holders(look, job) == [(mine.pid, GIB)]
    assert owners.holders(look, inner) == [(its.pid, GIB)]
    assert [each.pid for each in owners.processes_on(look, "GPU-0", 1)] == [mine.pid, its.pid]
    assert list(known.seen(1).processes) == [mine.pid], "it stays known"
    leader.kill()
    setting.jobs.put(replace(job, state=JobState.ENDED))
    assert owners.of(look)[mine.pid] == 1


def test_a_gpu_process_without_parents_is_known_by_its_session_or_marker_or_those_above_it(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    between = leader.child()
    left = between.child()
    container = setting.shell.child(session=True, GPURUN_JOB="1", GPURUN_GPU_UUIDS="GPU-0").child(GPURUN_JOB="")
    between.kill()
    _known, owners = kin_of(setting.jobs.live, setting.jobs.holding)
    assert owners.of(look_at(left, container)) == {left.pid: 1, container.pid: 1}


def test_a_process_that_leads_several_jobs_is_on_each_gpu_that_of_the_latest_with_a_share_of_it(setting: Setting) -> None:
    leader = setting.shell.child(session=True)
    setting.add(running(1, share(0)), leader)
    setting.add(running(2, share(1)), leader)
    _known, owners = kin_of(setting.jobs.live, setting.jobs.holding)
    assert owners.of(look_at(leader)) == {leader.pid: 2}
    assert owners.on("GPU-0", 2) == 1
    assert owners.on("GPU-1", 2) == 2
    assert owners.on("GPU-2", 2) == 2
