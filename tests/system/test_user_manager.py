"""Jobs of a login session are frozen below their user's manager, where he lingers: nobody had to think of it at launch.

All but the last tests have a stand-in for the manager; the last have one of systemd's own, and do without PID 1.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from manager import Manager, Mounts, Refusal, Session, SessionWorld, a_session
from pauses import GIB, OTHER_UID, Stage, cgroup_root, frozen, group_of, groups_of, may_freeze, nobody_left_standing
from test_freezer import tree_program
from waiting import wait_until

__all__ = ["tree_program"]
pytestmark = [
    pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make another user's login session"),
    pytest.mark.needs("unshare"),
]
# The manager is given a second, twice if it has moved the leader; on a busy machine a process may get it late.
BOUND_SECONDS = 3.0


@pytest.fixture
def session() -> Iterator[Session]:
    root = cgroup_root()
    assert root is not None
    with a_session(root) as session:
        yield session


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    mounts = Mounts()
    if not mounts.usable:
        mounts.close()
        pytest.skip("no mount namespace can be made here")
    yield mounts
    mounts.close()


@pytest.fixture
def manager(session: Session, open_folder: Path) -> Iterator[Manager]:
    manager = Manager(session, open_folder)
    yield manager
    manager.close()
    assert manager.faults == []


@pytest.fixture
def stage(everybodys_command: str, open_folder: Path, session: Session, mounts: Mounts, manager: Manager) -> Iterator[Stage]:
    """The other user's world in a session of his. He lingers; his manager is the stand-in."""
    mounts.linger()
    with logged_in(everybodys_command, open_folder, session, mounts) as stage:
        stage.world.env["PATH"] = f"{manager.bin}:{os.environ['PATH']}"
        yield stage


@contextlib.contextmanager
def logged_in(command: str, folder: Path, session: Session, mounts: Mounts) -> Iterator[Stage]:
    os.chown(folder, OTHER_UID, OTHER_UID)
    with SessionWorld("1x80G", command=command) as world:
        os.chown(world.directory, OTHER_UID, OTHER_UID)
        world.mounts, world.scope = mounts, session.scope
        stage = Stage(world, folder, ["/usr/bin/python3", "-I", "-S"])
        yield stage
        (folder / "over").touch()
        stage.open_all()
        ended = [row["pid"] for row in world.rows("SELECT pid FROM job")]
        world.run("kill", "-9", "--all", "-y")
        wait_until(lambda: not world.live(), "all jobs to end", 15)
        nobody_left_standing(ended)
        wait_until(lambda: not job_groups(stage), "the groups of its jobs to be removed", 15)


@contextlib.contextmanager
def on_a_terminal(stage: Stage, *words: str) -> "Iterator[pexpect.spawn[str]]":
    """`gpurun WORDS` as all that runs on a terminal of that session: without a cgroup of its own it cannot be paused."""
    world = stage.world
    assert isinstance(world, SessionWorld)
    screen = pexpect.spawn(
        world.command, list(words), env=world.env, preexec_fn=world.log_in, encoding="utf-8", timeout=15, dimensions=(24, 200)
    )
    try:
        yield screen
    finally:
        screen.close(force=True)


def job_groups(stage: Stage) -> list[Path]:
    """The groups of its jobs; the scopes that they lie in are the manager's."""
    return [group for group in groups_of(stage.world) if group.suffix != ".scope"]


def lives_in(pid: int) -> str:
    return os.path.basename(group_of(pid))


# With a manager that does what it is asked


def test_a_job_is_moved_when_it_is_paused_and_not_before(stage: Stage, manager: Manager, session: Session) -> None:
    job = stage.running("train", f"take={20 * GIB}")
    assert lives_in(job.pid) == "session-7.scope"
    assert manager.calls == []
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    assert stage.whys(1, "paused") == ["for job 2 (freeze)"]
    (group,) = job_groups(stage)
    assert frozen(group)
    assert group.parent.parent == session.service / "app.slice"
    assert manager.started() == [group.name + ".scope"] == [group.parent.name]
    stage.beats.until_still("train")
    started = stage.beats.first("infer", "start").at_ns
    stage.open("infer")
    stage.until_state(2, "ended")
    stage.beats.until_beats("train")
    faults = stage.beats.steps_between("train", started, stage.beats.last("infer", "end").at_ns)
    assert faults + stage.beats.lost_steps("train") == []
    # The next pause needs nobody.
    calls = len(manager.calls)
    assert stage.world.run("pause", "1").returncode == 0
    stage.beats.until_still("train")
    assert len(manager.calls) == calls
    assert stage.world.run("resume", "1").returncode == 0
    stage.open("train")
    assert job.wait(30) == 0
    wait_until(lambda: not job_groups(stage), "its group to be removed")
    manager.collect()
    assert not [path for path in (session.service / "app.slice").iterdir() if path.is_dir()]


def test_on_a_terminal_nobody_notices(stage: Stage) -> None:
    with on_a_terminal(stage, "--", *stage.words("train", "catch=2")) as screen:
        stage.until_running("train")
        assert stage.world.run("pause", "1").returncode == 0
        screen.expect_exact("gpurun: job 1 paused by hand")
        stage.beats.until_still("train")
        assert stage.world.run("resume", "1").returncode == 0
        screen.expect_exact("gpurun: job 1 goes on after")
        stage.beats.until_beats("train")
        screen.sendintr()
        wait_until(lambda: stage.beats.has("train", "signal"), "Ctrl-C to arrive")


def test_a_whole_tree_is_moved_while_it_forks(stage: Stage, tree_program: Path) -> None:
    tags = ["leader", "worker", "setsid", "runner"]
    program = stage.folder / "tree"
    program.write_bytes(tree_program.read_bytes())
    program.chmod(0o755)
    over = stage.folder / "over"
    stage.world.start(str(program), str(stage.beats.path), str(over), "worker=8", "setsid", "runner=5")
    for tag in tags:
        stage.until_running(tag)
    done = stage.world.run("pause", "1")
    paused = time.monotonic_ns()
    assert (done.returncode, done.stdout) == (0, "job 1: paused\n"), stage.said()
    wait_until(lambda: all(stage.beats.stands_still(tag) for tag in tags), "all to stand still", 5)
    resumed = time.monotonic_ns()
    assert stage.world.run("resume", "1").returncode == 0
    for tag in tags:
        stage.beats.until_beats(tag)
    assert [fault for tag in tags for fault in stage.beats.steps_between(tag, paused, resumed)] == []


def test_an_older_manager_is_asked_again_without_what_it_does_not_know(stage: Stage, manager: Manager) -> None:
    manager.knows.discard("ManagedOOMPreference")
    stage.running("train")
    assert stage.world.run("pause", "1").returncode == 0
    stage.beats.until_still("train")
    assert len(manager.started()) == 2
    assert stage.world.run("resume", "1").returncode == 0


def test_a_job_that_was_moved_out_of_its_scope_is_brought_back(stage: Stage, manager: Manager, session: Session) -> None:
    job = stage.running("train")
    for verb in ("pause", "resume"):
        assert stage.world.run(verb, "1").returncode == 0
    (session.scope / "cgroup.procs").write_text(str(job.pid))
    assert stage.world.run("pause", "1").returncode == 0, stage.said()
    stage.beats.until_still("train")
    assert "gpurun-" in lives_in(job.pid)
    assert stage.world.run("resume", "1").returncode == 0


def test_a_successor_knows_the_group_of_a_job_that_was_moved(stage: Stage) -> None:
    stage.running("train", f"take={20 * GIB}")
    stage.running("infer", "take=granted", under=["-p", "urgent"])
    stage.until_state(1, "paused")
    for pid in (stage.world.keeper_pid(), stage.world.arbiter_pid()):
        assert pid is not None
        os.kill(pid, 9)
    wait_until(lambda: stage.world.arbiter_pid() is None, "the arbiter to be gone")
    stage.open("infer")
    stage.text("ls")
    stage.until_state(1, "running")
    stage.beats.until_beats("train")
    assert stage.beats.lost_steps("train") == []


def test_the_arbiter_and_its_keeper_live_in_a_scope_of_their_own(
    stage: Stage, manager: Manager, session: Session, mounts: Mounts
) -> None:
    """What brought them may end, and all that lives in it."""
    bus = mounts.root / f"run/user/{OTHER_UID}/bus"
    bus.parent.mkdir()
    bus.touch()
    stage.running("train")
    arbiter, keeper = stage.world.arbiter_pid(), stage.world.keeper_pid()
    assert arbiter is not None
    assert keeper is not None
    wait_until(lambda: lives_in(arbiter).startswith("gpurun-arbiter-"), "the arbiter to be moved")
    assert lives_in(keeper) == lives_in(arbiter) == manager.lodged[0]
    assert str(session.service).endswith(group_of(arbiter).partition("/app.slice/")[0])
    # Who comes after them lives there already.
    for killed in (keeper, arbiter):
        os.kill(killed, 9)
        wait_until(lambda: stage.world.keeper_pid() not in (None, keeper), "another keeper")
    wait_until(lambda: stage.world.arbiter_pid() not in (None, arbiter), "another arbiter")
    wait_until(lambda: stage.world.keeper_pid(), "its keeper")
    for pid in (stage.world.arbiter_pid(), stage.world.keeper_pid()):
        assert pid is not None
        assert lives_in(pid) == manager.lodged[0]
    assert len(manager.lodged) == 1
    stage.beats.until_beats("train")


# Where it does not


def seconds_waited(stage: Stage, step: str) -> float:
    """For how long the arbiter served nobody else, by its own log."""
    (told,) = re.findall(rf"\b{step}\b.*, (\d+\.\d) ms", stage.world.last_words())
    return float(told) / 1000


def refuse(_method: str) -> None:
    raise Refusal("Access denied")


def test_without_lingering_nobody_is_moved_and_why_says_what_would_help(
    everybodys_command: str, open_folder: Path, session: Session, mounts: Mounts, manager: Manager
) -> None:
    with logged_in(everybodys_command, open_folder, session, mounts) as stage:
        stage.world.env["PATH"] = f"{manager.bin}:{os.environ['PATH']}"
        with on_a_terminal(stage, "--", *stage.words("train")):
            stage.until_running("train")
            stage.start("infer", under=["-p", "urgent"])
            wait_until(lambda: "loginctl enable-linger" in stage.text("why", "2"), "why to say what would help")
            done = stage.world.run("pause", "1")
            assert done.returncode == 1
            assert "loginctl enable-linger would let it be frozen" in done.stderr
            assert manager.calls == []
            assert stage.world.state(1) == "running"
        stage.open("infer")


CASES = {
    "refuses": "the user manager refuses: Call failed: Access denied",
    "hangs": "the user manager does not answer",
    "does nothing": "the user manager has not moved the job's process",
    "missing": "the user manager cannot be asked: busctl: no such file or directory",
    "no bus": "the user manager refuses: ",
}


def spoil(case: str, manager: Manager, stage: Stage) -> None:
    """Have the manager fail in one way."""
    if case == "refuses":
        manager.behave = refuse
    elif case == "hangs":
        over = threading.Event()
        manager.behave = lambda method: (over.wait(60), None)[1]
    elif case == "does nothing":
        manager.moves = lambda pid: False
    elif case == "missing":
        (manager.bin / "busctl").unlink()
        stage.world.env["PATH"] = str(manager.bin)
    elif case == "no bus":
        stage.world.env["PATH"] = os.environ["PATH"]


@pytest.mark.parametrize("case", CASES)
def test_a_manager_that_does_not_help_costs_a_second_and_a_sentence(stage: Stage, manager: Manager, case: str) -> None:
    if case == "no bus" and not os.path.exists("/usr/bin/busctl"):
        pytest.skip("no busctl here")
    spoil(case, manager, stage)
    with on_a_terminal(stage, "--", *stage.words("train")):
        stage.until_running("train")
        done = stage.world.run("pause", "1")
        assert seconds_waited(stage, "scope") < BOUND_SECONDS
        assert done.returncode == 1
        assert CASES[case] in done.stderr, done.stderr
        assert re.search("-r can be, in the foreground", done.stderr), done.stderr
        # It is left alone for a while, and nothing has happened to the job.
        calls = len(manager.calls)
        assert stage.world.run("pause", "1").returncode == 1
        assert len(manager.calls) == calls
        stage.beats.until_beats("train")
        assert stage.world.state(1) == "running"


def test_a_restartable_job_is_stopped_behind_its_stub_if_the_manager_does_not_help(stage: Stage, manager: Manager) -> None:
    manager.behave = refuse
    with on_a_terminal(stage, "-r", "--", *stage.words("train")):
        stage.until_running("train")
        assert stage.world.run("pause", "1").returncode == 0
        stage.beats.until_still("train")
        assert stage.whys(1, "paused")[-1].endswith("(stop behind the stub)")
        assert stage.world.run("resume", "1").returncode == 0
        stage.beats.until_beats("train")


def test_a_tree_of_which_a_part_is_moved_goes_on_whole(stage: Stage, manager: Manager, tree_program: Path) -> None:
    """One worker the manager never moves: then nobody stands still."""
    tags = ["leader", "worker"]
    program = stage.folder / "tree"
    program.write_bytes(tree_program.read_bytes())
    program.chmod(0o755)
    stage.world.start(str(program), str(stage.beats.path), str(stage.folder / "over"), "worker=4")
    for tag in tags:
        stage.until_running(tag)
    workers = sorted({line.pid for line in stage.beats.lines("worker", "beat")})
    manager.moves = lambda pid: pid != workers[-1]
    done = stage.world.run("pause", "1")
    assert seconds_waited(stage, "stop") < BOUND_SECONDS
    assert done.returncode == 1
    assert f"could not be frozen whole: pid {workers[-1]}: may not be moved" in done.stderr
    for tag in tags:
        stage.beats.until_beats(tag, 20)
    nobody_left_standing(workers)


def test_what_lives_in_no_session_of_ours_is_never_moved(stage: Stage, manager: Manager, session: Session) -> None:
    """A step of Slurm's, a service: who leaves it leaves its bounds."""
    service = session.root / "system.slice" / "step.scope"
    service.mkdir(parents=True)
    world = stage.world
    assert isinstance(world, SessionWorld)
    world.scope = service
    with on_a_terminal(stage, "--", *stage.words("train")):
        stage.until_running("train")
        assert world.run("pause", "1").returncode == 1
        assert manager.calls == []


def test_doctor_says_whether_jobs_of_a_session_can_be_frozen(stage: Stage, manager: Manager, mounts: Mounts) -> None:
    def freezer() -> str:
        return next(line for line in stage.text("doctor").splitlines() if line[10:].startswith("freezer"))

    assert freezer().startswith(
        "ok        freezer       the user manager is asked to let jobs of this session be frozen, by busctl"
    )
    stage.world.env["PATH"] = str(manager.bin)
    (manager.bin / "busctl").unlink()
    assert freezer().startswith("note      freezer       jobs started here cannot be frozen: no busctl is found")
    next((mounts.root / "var/lib/systemd/linger").iterdir()).unlink()
    assert "jobs started here cannot be frozen: not ours to write" in freezer()
    assert "loginctl enable-linger nobody" in stage.text("doctor")


# systemd's own user manager


MANAGERS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
CLIENT = """
import os, sys, time
from gpuwrap.host import usermanager
leader, other = map(int, sys.argv[1:])
until = time.monotonic() + 10
usermanager.adopt(leader, "gpurun-1.2-3.scope", until)
folder = usermanager.folder_of(leader)
os.mkdir(folder + "/gpurun-1.2-3")
scope = usermanager.scope_of(folder + "/gpurun-1.2-3")
usermanager.attach(*scope, [leader, other], until)
"""


@pytest.fixture
def real(everybodys_command: str, open_folder: Path, session: Session, mounts: Mounts, tmp_path: Path) -> Iterator[Stage]:
    """The same with `systemd --user`. There is no PID 1 that moves processes for it, so the user may do that himself."""
    program = next((path for path in MANAGERS if os.access(path, os.X_OK)), None)
    if program is None or not shutil.which("busctl") or not shutil.which("dbus-daemon"):
        pytest.skip("no systemd, busctl or dbus-daemon here")
    mounts.linger()
    home = mounts.root / f"run/user/{OTHER_UID}"
    home.mkdir(mode=0o700)
    os.chown(home, OTHER_UID, OTHER_UID)
    os.chown(session.slice / "cgroup.procs", OTHER_UID, OTHER_UID)
    with logged_in(everybodys_command, open_folder, session, mounts) as stage:
        world = stage.world
        assert isinstance(world, SessionWorld)
        runtime = f"/run/user/{OTHER_UID}"
        bus = f"unix:path={runtime}/bus"
        environment = {"PATH": os.environ["PATH"], "HOME": runtime, "XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": bus}

        def below_the_manager() -> None:
            world.log_in(session.service)

        def start(*words: str) -> None:
            with (tmp_path / "manager.log").open("ab") as log:
                child = subprocess.Popen(words, env=environment, preexec_fn=below_the_manager, stdout=log, stderr=log)
            world.adopt(child)

        start("dbus-daemon", "--session", f"--address={bus}", "--nofork", "--nopidfile")
        wait_until((home / "bus").exists, "the bus")
        start(program, "--user", "--log-target=console")

        def answers() -> bool:
            words = ["busctl", "--user", "status", "org.freedesktop.systemd1"]
            return not subprocess.run(words, env=environment, preexec_fn=world.log_in, capture_output=True).returncode

        try:
            wait_until(answers, "systemd --user to answer", 20)
        except AssertionError:
            pytest.skip(f"systemd --user does not run here: {(tmp_path / 'manager.log').read_text()[-300:]}")
        yield stage


def test_the_manager_of_systemd_understands_what_it_is_asked(real: Stage, session: Session) -> None:
    job = real.running("train", f"take={20 * GIB}")
    assert lives_in(job.pid) == "session-7.scope"
    real.running("infer", "take=granted", under=["-p", "urgent"])
    real.until_state(1, "paused")
    assert real.whys(1, "paused") == ["for job 2 (freeze)"], real.said()
    (group,) = job_groups(real)
    assert frozen(group)
    assert session.service in group.parents
    assert group.parent.name == group.name + ".scope"
    print(real.world.last_words())
    real.beats.until_still("train")
    real.open("infer")
    real.until_state(2, "ended")
    real.beats.until_beats("train")
    assert real.beats.lost_steps("train") == []
    real.open("train")
    assert job.wait(30) == 0
    wait_until(lambda: not groups_of(real.world), "its group and its scope to be removed", 20)


def test_the_manager_of_systemd_moves_others_into_a_group_below_the_scope(real: Stage) -> None:
    world = real.world
    pids = [real.running(tag, under=["-g", "0"]).pid for tag in ("leader", "other")]
    python = str(Path(world.command).with_name("python"))
    done = subprocess.run(
        [python, "-c", CLIENT, *map(str, pids)],
        env=world.env, preexec_fn=world.log_in, capture_output=True, text=True, timeout=30,  # type: ignore[attr-defined]
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [group_of(pid).partition("/app.slice")[2] for pid in pids] == ["/gpurun-1.2-3.scope/gpurun-1.2-3"] * 2
