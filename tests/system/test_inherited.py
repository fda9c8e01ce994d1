"""What an arbiter was given by whoever came first, and what it cannot have: given up, lived with, or named."""

import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pauses import become
from truth import Machine
from waiting import wait_until
from world import World

# Nobody else's, no other test's at the same time either, so that what it has running is what a test has started.
UID = 50_000 + os.getpid() % 10_000


class TheirWorld(World):
    """A world of a user who is not root: limits hold for him."""

    limits: tuple[tuple[int, int], ...] = ()
    """Hard limits of what is started from now on."""

    def start(self, *arguments: Any, **settings: Any) -> "subprocess.Popen[Any]":
        given, limits = settings.pop("preexec_fn", None), self.limits

        def prepare() -> None:
            (given or become(UID))()
            for limit, value in limits:
                resource.setrlimit(limit, (value, value))

        return super().start(*arguments, **{"preexec_fn": prepare, "cwd": "/", **settings})

    def prlimit(self, pid: int, **limits: str) -> None:
        """Change a process's limits, as its owner may."""
        words = [f"--{name}={value}" for name, value in limits.items()]
        subprocess.run(["prlimit", "--pid", str(pid), *words], check=True, preexec_fn=become(UID))


@pytest.fixture
def make_theirs(everybodys_command: str) -> Iterator[Callable[..., TheirWorld]]:
    made: list[TheirWorld] = []

    def make(spec: str | None = "2x24G", **variables: str) -> TheirWorld:
        made.append(TheirWorld(spec, command=everybodys_command, **variables))
        os.chown(made[-1].directory, UID, UID)
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def theirs(make_theirs: Callable[..., TheirWorld]) -> TheirWorld:
    return make_theirs()


def pids_of(world: World) -> tuple[int, int]:
    """The arbiter and its keeper."""
    arbiter = wait_until(world.arbiter_pid, "an arbiter")
    return arbiter, wait_until(world.keeper_pid, "its keeper")


# What cannot be had


@pytest.mark.needs("prlimit")
def test_an_arbiter_that_cannot_fork_lives_without_a_keeper_until_it_can(theirs: TheirWorld) -> None:
    theirs.start("-g", "2", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    arbiter, keeper = pids_of(theirs)
    theirs.prlimit(arbiter, nproc="1:")
    os.kill(keeper, signal.SIGKILL)
    wait_until(lambda: "keeper: none can be started for now" in theirs.last_words(), "the lack of a keeper to be said", 10)
    assert theirs.arbiter_pid() == arbiter
    theirs.prlimit(arbiter, nproc="1000:")
    assert wait_until(theirs.keeper_pid, "another keeper", 10) != keeper
    assert theirs.arbiter_pid() == arbiter
    assert theirs.last_words().count("keeper: none can be started") == 1


def count_of(uid: int) -> int:
    """How many processes and threads a user has, as the kernel counts them for his limit."""
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found += len(os.listdir(f"/proc/{name}/task"))
            except FileNotFoundError:
                continue
    return found


@pytest.mark.needs("prlimit", "gcc")
def test_a_successor_without_threads_has_gpu_jobs_wait_and_looks_again(
    make_theirs: Callable[..., TheirWorld], open_folder: Path
) -> None:
    machine = Machine(open_folder, make_theirs)
    world = machine.world
    assert isinstance(world, TheirWorld)
    idle = [world.adopt(subprocess.Popen(["sleep", "600"], preexec_fn=become(UID))) for _ in range(6)]
    running = machine.run_job("-g", "0", "--", "sleep", "600")
    arbiter, keeper = pids_of(world)
    # The keeper becomes the arbiter, and its own keeper is the last process that there is room for.
    wait_until(lambda: count_of(UID) >= len(idle) + 3, "everybody to be there")
    without = len(idle) + len([running, keeper]) + 1
    world.prlimit(keeper, nproc=f"{without}:{without}")
    os.kill(arbiter, signal.SIGKILL)
    wait_until(lambda: world.arbiter_pid() == keeper, "the keeper to be the arbiter", 15)
    world.limits = ((resource.RLIMIT_NPROC, without),)  # or it would leave to one that is better off
    done = world.run("-n", "-q", "--", "true")
    assert (done.returncode, done.stderr) == (124, ""), "it waits, and is not refused"
    waiting = world.start("-q", "--", "sh", "-c", "exit 3")
    wait_until(lambda: "waiting" in world.states(), "a job to wait", 10)
    for child in idle:
        child.kill()
        child.wait()
    assert waiting.wait(30) == 3


# What is given up


def limits_of(pid: int) -> dict[str, tuple[str, str]]:
    rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {row[:26].strip(): (row[26:].split()[0], row[26:].split()[1]) for row in rows}


def test_an_arbiter_gives_up_what_the_first_to_come_was_given(theirs: TheirWorld) -> None:
    def burdened() -> None:
        for name, value in (("oom_score_adj", "300"), ("timerslack_ns", "777777")):
            Path(f"/proc/self/{name}").write_text(value)
        become(UID)()
        for limit, value in ((resource.RLIMIT_FSIZE, 300_000), (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CPU, 1000)):
            resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)

    theirs.start("-g", "2", "sleep", "600", preexec_fn=burdened)
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    for pid in pids_of(theirs):
        limits = limits_of(pid)
        for name in ("Max file size", "Max open files", "Max cpu time"):
            assert limits[name] == limits_of(os.getpid())[name][1:] * 2, name
        assert os.sched_getaffinity(pid) == os.sched_getaffinity(os.getpid())
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        assert psutil.Process(pid).ionice().ioclass == psutil.IOPRIO_CLASS_NONE
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
        assert Path(f"/proc/{pid}/timerslack_ns").read_text() == "50000\n"
    job = theirs.job(1)["pid"]
    assert limits_of(job)["Max file size"][0] == "300000", "the program keeps what is its own"
    assert psutil.Process(job).ionice().ioclass == psutil.IOPRIO_CLASS_IDLE


def test_who_may_have_a_better_priority_takes_it(world: World) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may")
    assert world.run("--", "true", preexec_fn=lambda: os.nice(15)).returncode == 0
    for pid in pids_of(world):
        assert os.getpriority(os.PRIO_PROCESS, pid) == 0


def test_no_arbiter_dies_of_the_signal_for_files_that_grow_too_large(world: World) -> None:
    assert world.run("--", "true").returncode == 0
    (line,) = [line for line in Path(f"/proc/{pids_of(world)[0]}/status").read_text().splitlines() if "SigIgn" in line]
    assert int(line.split()[1], 16) >> (signal.SIGXFSZ - 1) & 1


# What cannot be given up

FEW_BYTES = 300_000
NARROW = ((resource.RLIMIT_FSIZE, FEW_BYTES),)


def test_an_arbiter_that_is_worse_off_leaves_to_a_better_one(theirs: TheirWorld) -> None:
    theirs.limits = NARROW
    theirs.start("-g", "2", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    narrow, _ = pids_of(theirs)
    assert limits_of(narrow)["Max file size"] == (str(FEW_BYTES), str(FEW_BYTES))
    theirs.limits = ()
    done = theirs.run("-g", "0", "--array", "1-60%8", "--", "true", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    wide, _ = pids_of(theirs)
    assert wide != narrow
    assert limits_of(wide)["Max file size"] == ("unlimited", "unlimited")
    theirs.limits = NARROW
    assert theirs.run("-g", "0", "--", "true").returncode == 0
    assert pids_of(theirs)[0] == wide, "who is worse off has a better one serve it"
    assert theirs.job(1)["state"] == "running"


@pytest.mark.needs("unshare", "mount", "setpriv")
def test_an_arbiter_does_not_leave_to_one_who_can_start_none(theirs: TheirWorld) -> None:
    """Where the state folder can only be read, as in a unit with ProtectHome=read-only, a job runs as long as one is up."""
    theirs.limits = NARROW
    assert theirs.run("-g", "0", "--", "true").returncode == 0
    narrow, _ = pids_of(theirs)
    theirs.limits = ()
    they = f"setpriv --reuid {UID} --regid {UID} --clear-groups"
    seal = f'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec {they} "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", seal, str(theirs.directory))
    child = World.start(theirs, "-g", "0", "--", "echo", "ran", prefix=prefix)
    output, errors = child.communicate(timeout=30)
    if "unshare:" in errors or "mount:" in errors:
        pytest.skip("no mount namespace can be had here (unshare)")
    assert (child.returncode, output, errors) == (0, "ran\n", "")
    assert theirs.arbiter_pid() == narrow


@pytest.mark.needs("unshare", "mount", "setpriv")
def test_a_folder_for_temporary_files_that_is_a_units_own_holds_no_queue(theirs: TheirWorld, open_folder: Path) -> None:
    own = open_folder / "systemd-private-1" / "tmp"
    own.mkdir(parents=True)
    own.chmod(0o1777)
    they = f"setpriv --reuid {UID} --regid {UID} --clear-groups"
    prefix = ("unshare", "--mount", "sh", "-c", f'mount --bind "$0" /var/tmp && exec {they} "$@"', str(own))
    child = World.start(theirs, "--", "true", prefix=prefix, extra={"GPURUN_DIR": ""})
    _, errors = child.communicate(timeout=30)
    if "unshare:" in errors or "mount:" in errors:
        pytest.skip("no mount namespace can be had here (unshare)")
    assert (child.returncode, len(errors.splitlines())) == (125, 2), errors
    assert errors.startswith("gpurun: cannot use state folder: /var/tmp: is this unit's own (PrivateTmp=): "), errors
    assert list(own.iterdir()) == []


def test_an_arbiter_of_a_low_priority_leaves_to_one_of_an_ordinary(theirs: TheirWorld) -> None:
    def nice() -> None:
        become(UID)()
        os.nice(15)

    assert theirs.run("-g", "0", "--", "true", preexec_fn=nice).returncode == 0
    low, keeper = pids_of(theirs)
    assert (os.getpriority(os.PRIO_PROCESS, low), os.getpriority(os.PRIO_PROCESS, keeper)) == (15, 15)
    assert theirs.run("-g", "0", "--", "true").returncode == 0
    ordinary, _ = pids_of(theirs)
    assert os.getpriority(os.PRIO_PROCESS, ordinary) == 0
    assert theirs.run("-g", "0", "--", "true", preexec_fn=nice).returncode == 0
    assert pids_of(theirs)[0] == ordinary


def test_who_is_no_better_off_is_refused_in_one_line_and_nobody_hangs(theirs: TheirWorld) -> None:
    theirs.limits = NARROW
    theirs.start("-g", "2", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    waiting = theirs.start("-q", "--", "true")
    wait_until(lambda: theirs.state(2) == "waiting", "job 2 to wait")

    def refused() -> Any:
        done = theirs.run("-g", "0", "--", "true")
        return done if done.returncode else None

    done = wait_until(refused, "the database to reach the limit", 60)
    cause = "state.db: the arbiter's files may not grow over 293K (ulimit -f)\n"
    for status, errors in ((done.returncode, done.stderr), (waiting.wait(20), waiting.stderr.read() if waiting.stderr else "")):
        assert status == 125
        assert errors.startswith("gpurun: cannot "), errors
        assert cause in errors, errors
        assert len(errors.splitlines()) == 2, errors
    told = theirs.run("doctor").stdout
    assert f"bad       limits        the arbiter (pid {pids_of(theirs)[0]}): no file may grow over 293K (ulimit -f): " in told
    assert "and cannot be written" in told
    theirs.limits = ()
    done = theirs.run("-g", "0", "--", "true")
    assert (done.returncode, done.stderr) == (0, "")
    assert theirs.job(1)["state"] == "running"
    wait_until(lambda: theirs.job(2)["state"] == "ended", "the one that was refused to be written down")
    assert "limits        none of this shell" in theirs.run("doctor").stdout


def test_nobody_is_left_standing_by_one_that_cannot_write_for_its_own_limit(make_theirs: Callable[..., TheirWorld]) -> None:
    world = make_theirs("1x24G")
    world.limits = NARROW
    low = world.start("sleep", "600", start_new_session=True)
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    urgent = world.start("-p", "urgent", "sleep", "600", start_new_session=True)
    wait_until(lambda: world.state(1) == "paused", "job 1 to be paused")
    assert psutil.Process(low.pid).status() == psutil.STATUS_STOPPED
    wait_until(lambda: world.run("-g", "0", "--", "true").returncode, "the database to reach the limit", 60)
    arbiter = world.arbiter_pid()
    urgent.kill()
    wait_until(lambda: psutil.Process(low.pid).status() == psutil.STATUS_SLEEPING, "job 1 to go on", 20)
    wait_until(lambda: world.arbiter_pid() != arbiter, "the arbiter to leave", 10)


def test_a_database_that_is_too_large_for_the_first_to_come_is_said_in_one_line(theirs: TheirWorld) -> None:
    assert theirs.run("-g", "0", "--array", "1-200%8", "--", "true", timeout=60).returncode == 0
    for process in theirs.processes():
        process.kill()
    wait_until(lambda: not theirs.processes(), "the world to be closed")
    theirs.limits = ((resource.RLIMIT_FSIZE, 100_000),)
    for words, status in ((["--", "true"], 125), (["ls"], 0)):
        done = theirs.run(*words)
        assert done.returncode == status, done
        assert len(done.stderr.splitlines()) <= 2
    told = theirs.run("doctor").stdout
    assert "bad       limits        this shell: no file may grow over 97.7K (ulimit -f): " in told, told


# What doctor says


def test_doctor_names_what_holds_back_this_shell_and_the_arbiter(theirs: TheirWorld) -> None:
    def held_back() -> None:
        for limit, value in ((resource.RLIMIT_NOFILE, 256), (resource.RLIMIT_AS, 2**31), (resource.RLIMIT_CPU, 3600)):
            resource.setrlimit(limit, (value, value))
        become(UID)()
        os.nice(7)

    assert "ok        limits        none of this shell or of an arbiter is in the way\n" in theirs.run("doctor").stdout
    assert theirs.run("-g", "0", "--", "true", preexec_fn=held_back).returncode == 0
    lines = theirs.run("doctor").stdout.splitlines()
    whose = f"note      limits        the arbiter (pid {pids_of(theirs)[0]}): "
    assert [line.removeprefix(whose) for line in lines if line.startswith("note      limits")] == [
        "3600 s of processor time at most (ulimit -t): then it is killed",
        "2G of addresses (ulimit -v): the driver's library may not fit",
        "256 descriptors (ulimit -n): who waits beyond that is not let in yet",
        "niceness 7: it is slow to answer while others compute",
    ]
    lines = theirs.run("doctor", preexec_fn=held_back).stdout.splitlines()
    assert sum(line.startswith("note      limits        this shell: ") for line in lines) == 4


# Descriptors

FEW_DESCRIPTORS = 64


def open_at(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_waiting_client_costs_one_descriptor(world: World) -> None:
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    arbiter, _ = pids_of(world)
    before = open_at(arbiter)
    for _ in range(10):
        world.start("-q", "--", "true")
    wait_until(lambda: world.states().count("waiting") == 10, "10 to wait")
    wait_until(lambda: open_at(arbiter) <= before + 10, "one descriptor for each", 10)


@pytest.mark.limit(300)
def test_more_clients_than_there_is_room_for_wait_outside_and_all_are_served(theirs: TheirWorld) -> None:
    theirs.limits = ((resource.RLIMIT_NOFILE, FEW_DESCRIPTORS),)
    first = theirs.start("-g", "2", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    arbiter, _ = pids_of(theirs)
    clients = [theirs.start("-q", "--", "sh", "-c", "exit 3") for _ in range(60)]
    wait_until(lambda: "room: " in theirs.last_words(), "the house to be full", 60)
    assert open_at(arbiter) < FEW_DESCRIPTORS - 16
    first.terminate()
    assert [client.wait(120) for client in clients] == [3] * 60
    assert [client.stderr.read() for client in clients if client.stderr] == [""] * 60
    assert theirs.arbiter_pid() == arbiter
    results = [job["result"]["code"] for job in theirs.jobs() if job["id"] != 1]
    assert results == [3] * 60


def test_an_arbiter_with_next_to_no_room_serves_one_after_another_and_lives(theirs: TheirWorld) -> None:
    theirs.limits = ((resource.RLIMIT_NOFILE, 22),)
    first = theirs.start("-g", "0", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    arbiter, _ = pids_of(theirs)
    clients = [theirs.start("-g", "0", "-q", "--", "sh", "-c", "exit 3") for _ in range(8)]
    assert [client.wait(60) for client in clients] == [3] * 8
    first.terminate()
    assert theirs.arbiter_pid() == arbiter, theirs.last_words()


def test_all_who_wait_inside_may_start_at_once_though_there_is_room_for_few(theirs: TheirWorld) -> None:
    theirs.limits = ((resource.RLIMIT_NOFILE, FEW_DESCRIPTORS),)
    first = theirs.start("-g", "0", "sleep", "600")
    wait_until(lambda: theirs.state(1) == "running", "job 1 to run")
    arbiter, _ = pids_of(theirs)
    clients = [theirs.start("-g", "0", "-a", "1", "-q", "--", "sh", "-c", "exit 3") for _ in range(40)]
    wait_until(lambda: "room: " in theirs.last_words(), "the house to be full", 60)
    first.terminate()
    assert [client.wait(60) for client in clients] == [3] * 40
    assert theirs.arbiter_pid() == arbiter
    assert [job["result"]["code"] for job in theirs.jobs() if job["id"] != 1] == [3] * 40
