"""Pausing whole trees in a cgroup, keeping a pause against others and against crashes, and leaving nothing behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pauses import (
    GIB,
    OTHER_UID,
    Desk,
    OrdinaryWorld,
    Stage,
    become,
    cgroup_root,
    frozen,
    group_of,
    groups_go_with_their_world,
    groups_of,
    may_freeze,
    no_group_left,
    nobody_left_standing,
    stands,
)
from test_crash import fill, kill_everything, small_disk
from waiting import wait_until
from world import SUPPORT, World

__all__ = ["groups_go_with_their_world", "small_disk"]
pytestmark = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")

SOURCE = SUPPORT / "tree.c"
# How long a frozen job with a signal pending is left so, at most: it is looked at each half second.
THAW_SECONDS = 1.0


@pytest.fixture(scope="session")
def tree_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("no C compiler (cc)")
    program = tmp_path_factory.mktemp("tree") / "tree"
    subprocess.run([compiler, "-O1", "-Wall", "-Werror", "-pthread", "-o", program, SOURCE], check=True)
    return program


@pytest.fixture
def stage(make_world: Callable[..., World], tmp_path: Path) -> Iterator[Stage]:
    """One card of 80 GB. Afterwards nobody stands still and no group is left."""
    world = make_world("1x80G")
    stage = Stage(world, tmp_path)
    yield stage
    ended = [row["pid"] for row in world.rows("SELECT pid FROM job")]
    (tmp_path / "over").touch()
    stage.open_all()
    world.run("kill", "-9", "--all", "-y")
    wait_until(lambda: not world.live(), "all jobs to end", 15)
    nobody_left_standing(ended)
    no_group_left(world)


class Tree:
    """A job of tree.c."""

    def __init__(self, stage: Stage, program: Path, *kinds: str) -> None:
        self.stage, self.until = stage, stage.folder / "over"
        self.tags = ["leader", *(kind.partition("=")[0] for kind in kinds if kind != "bare")]
        self.client = stage.world.start(str(program), str(stage.beats.path), str(self.until), *kinds)
        for tag in self.tags:
            stage.until_running(tag)

    def pause(self) -> int:
        """Pause it by hand; the moment at which it was said to be paused."""
        done = self.stage.world.run("pause", "1")
        now = time.monotonic_ns()
        assert (done.returncode, done.stdout) == (0, "job 1: paused\n"), done
        return now

    def resume(self) -> int:
        now = time.monotonic_ns()
        done = self.stage.world.run("resume", "1")
        assert done.returncode == 0, done
        return now

    def is_still(self) -> bool:
        return all(self.stage.beats.stands_still(tag) for tag in self.tags)

    def until_all_go_on(self, since_ns: int) -> None:
        def gone_on() -> list[str]:
            return [tag for tag in self.tags if self.stage.beats.last(tag).at_ns < since_ns]

        wait_until(lambda: not gone_on(), f"all of {self.tags} to go on", 10)

    def pause_and_resume(self) -> None:
        """Prove that nobody makes a step meanwhile and everybody goes on."""
        begun = self.pause()
        wait_until(self.is_still, f"all of {self.tags} to stand still", 5)
        ended = self.resume()
        self.until_all_go_on(ended)
        faults = [fault for tag in self.tags for fault in self.stage.beats.steps_between(tag, begun, ended)]
        assert faults == []

    def pids(self) -> set[int]:
        return {line.pid for line in self.stage.beats.lines(what="beat")}

    def is_gone(self) -> bool:
        program = self.client.args[1]
        return not [p for p in psutil.process_iter(["cmdline"]) if str(program) in (p.info["cmdline"] or [])]


# Whole trees


def test_workers_threads_and_those_in_sessions_of_their_own_stand_still_together(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "worker=3", "setsid", "renamed", "thread")
    tree.pause_and_resume()
    assert len(groups_of(stage.world)) == 1
    stage.beats.until_beats("leader")
    # Once more, from the group that it has by now.
    tree.pause_and_resume()
    tree.until.touch()
    assert tree.client.wait(30) == 7
    no_group_left(stage.world)


def test_a_daemon_that_forked_twice_before_the_pause_stands_still_too(stage: Stage, tree_program: Path) -> None:
    """By the marker in its environment: it has no parent, group or session in common with the job."""
    Tree(stage, tree_program, "daemon").pause_and_resume()


def test_a_daemon_without_an_environment_is_in_the_group_that_it_was_born_in(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "worker", "bare")
    tree.pause_and_resume()
    Path(f"{tree.until}.bare").touch()
    stage.until_running("bare")
    tree.tags.append("bare")
    tree.pause_and_resume()


def test_fifty_children_that_fork_all_the_time_are_caught(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "forker=50")
    tree.pause_and_resume()
    tree.pause_and_resume()


def test_generations_that_run_away_from_their_parents_are_caught(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "runner=20")
    tree.pause_and_resume()


def test_an_urgent_job_pauses_a_tree_too(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "worker=3", "setsid", "thread")
    stage.running("infer", under=["-p", "urgent"])
    started = stage.beats.first("infer", "start").at_ns
    wait_until(tree.is_still, "the tree to stand still", 5)
    stage.open("infer")
    stage.until_state(2, "ended")
    ended = stage.beats.last("infer", "end").at_ns
    tree.until_all_go_on(ended)
    assert [fault for tag in tree.tags for fault in stage.beats.steps_between(tag, started, ended)] == []


# Ends of paused jobs


@pytest.mark.parametrize("how", [[], ["-9"]], ids=["TERM", "KILL"])
def test_kill_of_a_paused_job_ends_all_of_it(stage: Stage, tree_program: Path, how: list[str]) -> None:
    tree = Tree(stage, tree_program, "worker=2", "setsid", "thread")
    tree.pause()
    wait_until(tree.is_still, "the tree to stand still", 5)
    assert stage.world.run("kill", *how, "1").returncode == 0
    assert tree.client.wait(30) == (-9 if how else -15)
    wait_until(tree.is_gone, "its workers to end too", 15)
    no_group_left(stage.world)


def test_kill_lets_a_paused_job_do_what_it_does_on_term(stage: Stage) -> None:
    job = stage.running("train", "catch=15", "exit=3")
    stage.world.run("pause", "1")
    stage.until_state(1, "paused")
    stage.world.run("kill", "1")
    assert job.wait(30) == 3
    assert [line.value for line in stage.beats.lines("train", "signal")] == ["15"]


def test_workers_of_a_paused_job_whose_leader_is_killed_do_not_stay_frozen(stage: Stage, tree_program: Path) -> None:
    tree = Tree(stage, tree_program, "worker=2", "setsid")
    tree.pause()
    wait_until(tree.is_still, "the tree to stand still", 5)
    os.kill(tree.client.pid, signal.SIGKILL)
    assert tree.client.wait(30) == -9
    # As if it had not been paused: they run on.
    tree.tags.remove("leader")
    tree.until_all_go_on(time.monotonic_ns())
    nobody_left_standing(tree.pids())


# Signals that wait


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(number, id=number.name, marks=[pytest.mark.long] if number in (signal.SIGHUP, signal.SIGQUIT) else [])
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    ],
)
def test_a_handled_signal_reaches_a_frozen_job_soon(stage: Stage, number: signal.Signals) -> None:
    catch = "1,2,3,15"
    job = stage.running("train", f"catch={catch}")
    stage.running("infer", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    stage.beats.until_still("train")
    sent = time.monotonic_ns()
    job.send_signal(number)
    wait_until(lambda: stage.beats.has("train", "signal"), "the signal to arrive", 10)
    line = stage.beats.first("train", "signal")
    print(f"{number.name} arrived after {(line.at_ns - sent) / 1e9:.3f} s")
    assert int(line.value) == number
    assert line.at_ns - sent < THAW_SECONDS * 1e9
    if number == signal.SIGTERM:
        assert job.wait(30) == 0
        assert stage.world.state(2) == "running"
    else:
        # It goes on, and that is said.
        stage.beats.until_beats("train")
        assert stage.whys(1, "running")[-1] == "a signal waits for it"


def test_a_signal_with_its_default_action_ends_a_frozen_job_at_once(stage: Stage) -> None:
    for number, code in ((signal.SIGTERM, -15), (signal.SIGKILL, -9)):
        tag, job_id = f"train{code}", len(stage.world.jobs()) + 1
        job = stage.running(tag)
        stage.world.run("pause", str(job_id))
        stage.until_state(job_id, "paused")
        job.send_signal(number)
        assert job.wait(2) == code
        stage.until_state(job_id, "ended")
        assert stage.world.job(job_id)["result"]["signal"] == -code


BLOCKED = """
import _signal, os, sys
_signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGTERM])
os.kill(os.getpid(), _signal.SIGTERM)
sys.argv = sys.argv[1:]
exec(open(sys.argv[0]).read())
"""


def test_a_signal_that_was_blocked_and_pending_before_does_not_end_a_pause(stage: Stage) -> None:
    words = stage.words("train", f"take={GIB}")
    at = words.index(str(stage.program))
    stage.world.start("--", *words[:at], "-c", BLOCKED, *words[at:])
    stage.until_running("train")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    stage.beats.until_beats("infer", 200)
    assert stage.world.state(1) == "paused"
    assert stage.beats.stands_still("train")
    stage.open("infer")
    stage.until_state(1, "running")


def test_a_job_that_survives_a_signal_is_paused_again_for_its_newcomer(stage: Stage) -> None:
    (stage.world.directory / "settings.toml").write_text('min_return = "2s"\n')
    job = stage.running("train", f"take={20 * GIB}", "catch=2")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    job.send_signal(signal.SIGINT)
    wait_until(lambda: stage.beats.has("train", "signal"), "the signal to arrive", 10)
    stage.until_state(1, "running")
    stage.until_state(1, "paused")
    stage.beats.until_still("train")
    assert stage.whys(1, "paused") == ["for job 2 (freeze)", "again for job 2 (freeze)"]
    stage.open("infer")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")


# A pause undone by others


def test_a_pause_undone_by_others_is_renewed_once_and_then_given_up(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    (group,) = groups_of(stage.world)
    (group / "cgroup.freeze").write_text("0")
    stage.beats.until_beats("train", 1)
    wait_until(lambda: frozen(group), "the pause to be renewed", 5)
    assert stage.world.state(1) == "paused"
    stage.beats.until_still("train")
    (group / "cgroup.freeze").write_text("0")
    stage.until_state(1, "running")
    stage.beats.until_beats("train", 20)
    assert not frozen(group)
    assert stage.whys(1, "running")[-1] == "somebody let it go on"
    # The newcomer runs on, and the next one is told why it must wait.
    assert stage.world.state(2) == "running"
    stage.open("infer")
    stage.until_state(2, "ended")
    stage.start("next", under=["-p", "urgent"])
    stage.until_state(3, "waiting")
    reason = "somebody lets it go on whenever it is paused"
    wait_until(lambda: f"job 1 {reason}" in stage.text("why", "3"), "the reason to be told", 5)
    # Who asks by hand is believed to know better.
    assert stage.world.run("pause", "1").returncode == 0
    stage.until_state(1, "paused")
    stage.beats.until_still("train")
    assert frozen(group)


# Crashes


def kill(*pids: int | None) -> None:
    for pid in pids:
        assert pid is not None
        os.kill(pid, signal.SIGKILL)


def paused_for_another(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    stage.beats.until_still("train")


def assert_it_comes_back(stage: Stage, started_ns: int) -> None:
    stage.open("infer")
    stage.until_state(2, "ended")
    stage.beats.until_beats("train")
    faults = stage.beats.steps_between("train", started_ns, stage.beats.last("infer", "end").at_ns)
    assert faults + stage.beats.lost_steps("train") + stage.beats.too_much_memory(80 * GIB) == []
    assert [row["to_state"] for row in stage.world.events() if row["job_id"] == 1] == [
        "waiting", "granted", "running", "paused", "running",
    ]  # fmt: skip


def test_the_successor_of_a_killed_arbiter_keeps_the_pause_and_ends_it(stage: Stage) -> None:
    paused_for_another(stage)
    arbiter = stage.world.arbiter_pid()
    kill(arbiter)
    wait_until(lambda: stage.world.arbiter_pid() not in (None, arbiter), "the keeper to become the arbiter", 10)
    stage.beats.until_still("train")
    assert stage.world.state(1) == "paused"
    assert_it_comes_back(stage, stage.beats.first("infer", "start").at_ns)


def test_an_arbiter_killed_while_it_pauses_leaves_nobody_standing(stage: Stage) -> None:
    """Whatever was done and not written down is undone or done again: the urgent job runs, and then the victim."""
    stage.running("train", f"take={20 * GIB}")
    for number in range(3):
        arbiter = stage.world.arbiter_pid()
        stage.start(f"infer{number}", under=["-p", "urgent", "-w", "20s"])
        kill(arbiter)
        wait_until(lambda a=arbiter: stage.world.arbiter_pid() not in (None, a), "the next arbiter", 10)  # type: ignore[misc]
        stage.open(f"infer{number}")
    stage.world.run("ls")
    stage.until_state(1, "running", within=20)
    stage.beats.until_beats("train")
    assert stage.beats.lost_steps("train") == []


def test_with_arbiter_and_keeper_killed_the_next_command_repairs_it(stage: Stage) -> None:
    """The newcomer has ended meanwhile, and nobody was there to see it."""
    paused_for_another(stage)
    kill(stage.world.keeper_pid(), stage.world.arbiter_pid())
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to be gone")
    stage.open("infer")
    wait_until(lambda: stage.beats.has("infer", "end"), "the newcomer to end")
    assert stage.beats.stands_still("train") or not stage.beats.until_still("train")
    stage.text("ls")
    stage.until_state(1, "running", within=2)
    stage.beats.until_beats("train")
    assert stage.beats.lost_steps("train") == []


def test_with_arbiter_and_keeper_killed_the_pause_is_kept_while_the_newcomer_runs(stage: Stage) -> None:
    paused_for_another(stage)
    kill(stage.world.keeper_pid(), stage.world.arbiter_pid())
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to be gone")
    stage.text("ls")
    stage.beats.until_still("train")
    assert_it_comes_back(stage, stage.beats.first("infer", "start").at_ns)


def test_the_third_start_by_a_keeper_within_a_minute_thaws_everybody(stage: Stage) -> None:
    paused_for_another(stage)
    arbiter = stage.world.arbiter_pid()
    for _ in range(2):
        kill(arbiter)
        before = arbiter
        wait_until(lambda b=before: stage.world.arbiter_pid() not in (None, b), "the next arbiter", 10)  # type: ignore[misc]
        arbiter = stage.world.arbiter_pid()
        wait_until(stage.world.keeper_pid, "its keeper", 10)
    stage.beats.until_still("train")
    kill(arbiter)
    # Nobody asks anything meanwhile.
    stage.beats.until_beats("train")
    rows = stage.world.rows("SELECT state FROM job WHERE id = 1")
    assert rows == [{"state": "running"}]
    assert [group for group in groups_of(stage.world) if frozen(group)] == []


def test_an_arbiter_summoned_inside_a_job_is_not_frozen_with_it(stage: Stage) -> None:
    """By then the job has a group of its own, and whoever is started inside is born in it."""
    script = f"""
{" ".join(stage.words("train"))} &
while [ ! -e {stage.folder}/go ]; do sleep 0.02; done
{stage.world.command} ls > {stage.folder}/inside
wait
"""
    stage.world.start("sh", "-c", script)
    stage.until_running("train")
    for verb in ("pause", "resume"):
        assert stage.world.run(verb, "1").returncode == 0
    kill(stage.world.keeper_pid(), stage.world.arbiter_pid())
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to be gone")
    (stage.folder / "go").touch()
    wait_until(lambda: (stage.folder / "inside").exists() and stage.world.arbiter_pid(), "ls to summon another", 10)
    arbiter, keeper = stage.world.arbiter_pid(), wait_until(stage.world.keeper_pid, "its keeper")
    assert arbiter is not None
    assert "gpurun-" not in group_of(arbiter) + group_of(keeper)
    done = stage.world.run("pause", "1", timeout=10)
    assert done.returncode == 0
    stage.beats.until_still("train")
    assert not stands(arbiter)
    assert stage.world.run("resume", "1", timeout=10).returncode == 0
    stage.beats.until_beats("train")


def test_a_group_that_was_made_and_never_written_down_is_removed_too(stage: Stage) -> None:
    """The arbiter is killed between the two, and nobody asks for the pause again."""
    stage.running("train", f"take={GIB}")
    arbiter = stage.world.arbiter_pid()
    asking = stage.world.start("pause", "1")
    deadline = time.monotonic() + 10
    while not groups_of(stage.world) and time.monotonic() < deadline:
        pass  # a moment later it would be written down
    asking.kill()
    kill(arbiter)
    wait_until(lambda: stage.world.arbiter_pid() not in (None, arbiter), "the next arbiter", 10)
    stage.text("ls")
    if stage.world.state(1) == "paused":
        stage.world.run("resume", "1")
    stage.beats.until_beats("train")
    stage.open("train")
    stage.until_state(1, "ended")
    no_group_left(stage.world)


def test_a_group_in_which_a_daemon_lives_on_is_removed_by_a_later_arbiter(stage: Stage) -> None:
    daemon = f"setsid {' '.join(stage.words('daemon'))} >/dev/null 2>&1 </dev/null &"
    stage.world.start("sh", "-c", f"{daemon} exec {' '.join(stage.words('train'))}")
    for tag in ("train", "daemon"):
        stage.until_running(tag)
    for verb in ("pause", "resume"):
        assert stage.world.run(verb, "1").returncode == 0
    stage.open("train")
    stage.until_state(1, "ended")
    assert len(groups_of(stage.world)) == 1
    kill(stage.world.keeper_pid(), stage.world.arbiter_pid())
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to be gone")
    stage.open("daemon")
    wait_until(lambda: stage.beats.has("daemon", "end"), "the daemon to end")
    stage.running("other")
    no_group_left(stage.world)
    assert stage.world.rows("SELECT * FROM setting WHERE name LIKE 'group %'") == []


@pytest.mark.parametrize("small_disk", ["tmpfs"], indirect=True)
def test_a_pause_that_cannot_be_written_down_leaves_nobody_frozen(small_disk: World, tmp_path: Path) -> None:
    stage = Stage(small_disk, tmp_path)
    stage.running("train", f"take={GIB}")
    filler = fill(small_disk)
    refused = [small_disk.run("pause", "1") for _ in range(2)]
    assert [done.returncode for done in refused] == [1, 1]
    stage.beats.until_beats("train")
    nobody_left_standing([stage.beats.first("train", "start").pid])
    filler.unlink()
    wait_until(lambda: small_disk.run("pause", "1").returncode == 0, "the pause to be written")
    stage.beats.until_still("train")
    assert small_disk.run("resume", "1").returncode == 0
    stage.beats.until_beats("train")
    assert stage.beats.lost_steps("train") == []
    stage.open("train")
    stage.until_state(1, "ended")
    no_group_left(small_disk)


# What is no part of the job


@pytest.mark.needs("tmux")
def test_what_is_asked_for_in_a_tmux_of_the_job_is_inside_it(stage: Stage) -> None:
    """The tmux lives in a session that the job created: the newcomer shares the job's grant, and makes nobody give way."""

    def tmux(*words: str) -> "subprocess.CompletedProcess[str]":
        name = f"gpurun-spared-{os.getpid()}"
        return subprocess.run(["tmux", "-f", "/dev/null", "-L", name, *words], capture_output=True, text=True, timeout=10)

    (stage.world.directory / "settings.toml").write_text('min_return = "0s"\n')
    name = f"gpurun-spared-{os.getpid()}"
    server = f"tmux -f /dev/null -L {name} new-session -d -x 200 -y 50 'bash --norc --noprofile'"
    stage.world.start("sh", "-c", f"{server}; {' '.join(stage.words('train'))}", extra={"TERM": "dumb"})
    try:
        stage.until_running("train")
        for verb in ("pause", "resume"):  # so that the server lives in the job's group
            assert stage.world.run(verb, "1").returncode == 0
        tmux("send-keys", " ".join([stage.world.command, "-p", "urgent", "--", *stage.words("inside")]), "Enter")
        stage.until_running("inside")
        assert stage.world.rows("SELECT parent_id FROM job WHERE id = 2") == [{"parent_id": 1}]
        assert stage.world.state(1) == "running"
        stage.beats.until_beats("inside", 100)
        stage.beats.until_beats("train")
        assert tmux("list-sessions").returncode == 0
        stage.open("inside")
        stage.until_state(2, "ended")
    finally:
        tmux("kill-server")


def test_a_nested_job_that_is_paused_by_hand_stays_so_when_the_outer_one_goes_on(stage: Stage) -> None:
    line = f"{stage.world.command} -m 1G -- {' '.join(stage.words('inner'))}"
    stage.world.start("sh", "-c", f"{line} & {' '.join(stage.words('outer'))}")
    for tag in ("inner", "outer"):
        stage.until_running(tag)
    for job in ("2", "1"):
        assert stage.world.run("pause", job).returncode == 0
    for tag in ("inner", "outer"):
        stage.beats.until_still(tag)
    assert stage.world.run("resume", "1").returncode == 0
    begun = time.monotonic_ns()
    stage.beats.until_beats("outer", 100)
    assert stage.beats.steps_between("inner", begun, time.monotonic_ns()) == []
    assert stage.world.state(2) == "paused"
    assert stage.world.run("resume", "2").returncode == 0
    stage.beats.until_beats("inner")


def test_who_leaves_the_frozen_group_is_brought_back(stage: Stage) -> None:
    """As systemd-run and cgexec move processes about."""
    job = stage.running("train", f"take={GIB}")
    assert stage.world.run("pause", "1").returncode == 0
    stage.beats.until_still("train")
    (group,) = groups_of(stage.world)
    (group.parent / "cgroup.procs").write_text(str(job.pid))
    wait_until(lambda: group_of(job.pid).endswith(group.name), "it to be brought back", 10)
    stage.beats.until_still("train")
    assert stage.world.state(1) == "paused"


def test_worlds_whose_folders_have_the_same_inode_have_groups_of_their_own(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """On a filesystem of its own each: there inodes begin anew."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    stages = []
    for number in range(2):
        world = make_world("1x80G")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", world.directory], check=True)
        (tmp_path / str(number)).mkdir()
        stages.append(Stage(world, tmp_path / str(number)))
    try:
        for number, stage in enumerate(stages):
            stage.start(str(number), under=["-g", "0"])
            stage.until_running(str(number))
        assert len({os.stat(stage.world.folder).st_ino for stage in stages}) == 1
        for verb in ("pause", "resume"):
            for stage in stages:
                assert stage.world.run(verb, "1").returncode == 0
        assert stages[0].world.run("pause", "1").returncode == 0
        stages[0].beats.until_still("0")
        stages[1].beats.until_beats("1", 50)
        assert stages[0].world.run("resume", "1").returncode == 0
    finally:
        for stage in stages:
            stage.open_all()
            try:
                wait_until(lambda each=stage: not each.world.live(), "its job to end", 15)  # type: ignore[misc]
                no_group_left(stage.world)
            finally:
                kill_everything(stage.world)
                subprocess.run(["umount", stage.world.directory], check=True)


# An ordinary user with a part of the tree of his own


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A part of the cgroup v2 tree that is the other uid's, as a user manager makes it."""
    root = cgroup_root()
    if os.geteuid() != 0 or root is None:
        pytest.skip("only root may give a part of the cgroup v2 tree to another user")
    folder = root / f"gpurun-tests-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    for path in (folder, folder / "cgroup.procs", folder / "cgroup.threads", folder / "cgroup.subtree_control"):
        os.chown(path, OTHER_UID, OTHER_UID)
    try:
        yield folder
    finally:
        (folder / "cgroup.kill").write_text("1")

        def removed() -> bool:
            for path, _, _ in os.walk(folder, topdown=False):
                try:
                    os.rmdir(path)
                except OSError:
                    return False
            return True

        wait_until(removed, "the delegated part of the tree to be removed", 10)


@pytest.fixture
def ordinary(everybodys_command: str, open_folder: Path, delegated: Path) -> Iterator[Stage]:
    """The other user's world; the commands live in his part of the tree, as in a session of his."""
    os.chown(open_folder, OTHER_UID, OTHER_UID)
    home = delegated / "session"
    home.mkdir()
    for path in (home, home / "cgroup.procs", home / "cgroup.threads", home / "cgroup.subtree_control"):
        os.chown(path, OTHER_UID, OTHER_UID)
    with OrdinaryWorld("1x80G", command=everybodys_command) as world:
        os.chown(world.directory, OTHER_UID, OTHER_UID)
        world.group = home
        stage = Stage(world, open_folder, ["/usr/bin/python3", "-I", "-S"])
        yield stage
        stage.open_all()
        wait_until(lambda: not world.live(), "all jobs to end", 15)
        no_group_left(world)


def test_an_ordinary_user_freezes_in_his_part_of_the_tree(ordinary: Stage, delegated: Path) -> None:
    job = ordinary.running("train", f"take={20 * GIB}")
    assert psutil.Process(job.pid).uids().real == OTHER_UID
    ordinary.running("infer", "take=granted", under=["-p", "urgent"])
    ordinary.until_state(1, "paused")
    assert ordinary.whys(1, "paused") == ["for job 2 (freeze)"]
    (group,) = groups_of(ordinary.world)
    assert group.parent == delegated / "session"
    assert frozen(group)
    ordinary.beats.until_still("train")
    started = ordinary.beats.first("infer", "start").at_ns
    ordinary.open("infer")
    ordinary.until_state(2, "ended")
    ordinary.beats.until_beats("train")
    faults = ordinary.beats.steps_between("train", started, ordinary.beats.last("infer", "end").at_ns)
    assert faults + ordinary.beats.lost_steps("train") == []


@pytest.mark.needs("bash")
def test_on_an_ordinary_users_terminal_nobody_notices(ordinary: Stage, delegated: Path, open_folder: Path) -> None:
    desk = Desk(
        "bash", ordinary.world, open_folder / "desk", ordinary.world.command,
        uid=OTHER_UID, group=ordinary.world.group, python=ordinary.python,  # type: ignore[attr-defined]
    )  # fmt: skip
    try:
        pid = desk.start("RUN VICTIM sleep")
        desk.becomes(pid, state="S", foreground=True)
        assert ordinary.world.run("pause", "1").returncode == 0
        assert stands(pid)
        desk.screen.expect_exact("gpurun: job 1 paused by hand")
        assert desk.stat(pid)["foreground"]
        assert ordinary.world.run("resume", "1").returncode == 0
        desk.screen.expect_exact("gpurun: job 1 goes on after")
        desk.key("c")
        desk.becomes(pid, state="gone")
        assert desk.status() == "130"
    finally:
        desk.close()


def test_groups_are_removed_though_the_arbiter_lives_elsewhere(ordinary: Stage, delegated: Path) -> None:
    """The arbiter was summoned from one session, the job runs in another."""
    ordinary.world.run("true")
    arbiter = ordinary.world.arbiter_pid()
    assert arbiter is not None
    other = delegated / "other"
    other.mkdir()
    for path in (other, other / "cgroup.procs", other / "cgroup.threads", other / "cgroup.subtree_control"):
        os.chown(path, OTHER_UID, OTHER_UID)
    ordinary.running("train", preexec_fn=become(OTHER_UID, other))
    assert group_of(arbiter).endswith("/session")
    assert ordinary.world.run("pause", "2").returncode == 0
    ordinary.beats.until_still("train")
    (group,) = groups_of(ordinary.world)
    assert group.parent == other
    assert ordinary.world.run("resume", "2").returncode == 0
    ordinary.beats.until_beats("train")
    ordinary.open("train")
    ordinary.until_state(2, "ended")
    no_group_left(ordinary.world)


@pytest.fixture
def unit() -> Iterator[Path]:
    """A group as a unit of systemd has one. Whoever is left in it goes on, and up."""
    root = cgroup_root()
    assert root is not None
    folder = root / group_of(os.getpid()).lstrip("/") / f"train-{os.getpid()}.service"
    folder.mkdir()
    yield folder
    (folder / "cgroup.freeze").write_text("0")

    def has_gone() -> bool:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (folder.parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            folder.rmdir()
        return not folder.exists()

    wait_until(has_gone, "the group to go")


def test_a_job_that_somebody_else_has_frozen_is_named_and_its_end_says_so(world: World, unit: Path) -> None:
    world.run("-g", "0", "true")  # brings the arbiter, which shall not stand in the unit
    saves = "trap 'exit 3' TERM; while :; do sleep 0.1; done"  # who does nothing about a signal dies of it at once
    client = world.start("-t", "4s", "sh", "-c", saves, preexec_fn=become(None, unit))
    wait_until(lambda: world.state(2) == "running", "job 2 to run")
    assert "frozen" not in world.run("ls").stdout
    (unit / "cgroup.freeze").write_text("1")
    wait_until(lambda: frozen(unit), "the unit to stand still")
    assert world.run("ls").stdout.splitlines()[1].endswith(f"frozen by others ({unit.name}), keeps its GPUs")
    assert world.run("why", "2").stdout.splitlines()[1] == (
        f"frozen by others ({unit.name}), keeps its GPUs; systemctl thaw {unit.name} lets it go on."
    )
    assert world.job(2)["why"]["rule"] == "frozen"
    wait_until(lambda: world.state(2) == "stopping", "its limit to pass")
    assert f"asked to end, but frozen by others ({unit.name})" in world.run("ls").stdout
    (unit / "cgroup.freeze").write_text("0")
    assert client.wait(30) == 3
    wait_until(lambda: world.state(2) == "ended", "its end to be known")
    assert world.job(2)["result"]["text"] == f"time limit of 4s, frozen by others ({unit.name})"


def test_one_that_waits_and_is_frozen_is_passed_over_and_named(world: World, unit: Path) -> None:
    first = world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    client = world.start("-g", "2", "true", preexec_fn=become(None, unit))
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    (unit / "cgroup.freeze").write_text("1")
    wait_until(lambda: frozen(unit), "the unit to stand still")
    first.kill()
    says = f"frozen by others ({unit.name}), keeps its place"
    wait_until(lambda: world.run("ls").stdout.rstrip().endswith(says), "it to be seen to take no offer")
    assert world.run("why", "2").stdout.startswith(f"job 2: {says}.\n")
    assert f"systemctl thaw {unit.name} lets it go on" in world.run("why", "2").stdout
    assert world.run("-n", "true").returncode == 0
    (unit / "cgroup.freeze").write_text("0")
    assert client.wait(30) == 0


def test_a_job_that_we_have_frozen_is_not_frozen_by_others(stage: Stage) -> None:
    """Neither it nor one inside it."""
    stage.world.start("sh", "-c", f"{stage.world.command} -- sleep 600; true", start_new_session=True)
    wait_until(lambda: stage.world.state(2) == "running", "the inner job to run")
    assert stage.world.run("pause", "1").returncode == 0
    wait_until(lambda: stage.world.state(1) == "paused", "job 1 to be paused")
    assert all(frozen(group) for group in groups_of(stage.world)), "by a group of its own"
    assert "by others" not in stage.world.run("ls").stdout
