"""A grant is true: what a job leaves behind and what strangers do, over the stand-in driver through real nvidia-ml-py."""

import contextlib
import os
import pwd
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import EXCLUSIVE_PROCESS, GIB, MIB, PROHIBITED, Gpu, Instance
from truth import Machine
from waiting import let_pass, wait_until
from world import World, start_ticks

from gpuwrap.arbiter.jobs.enforce import STALE_SECONDS

MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(tmp_path: Path, make_world: Callable[..., World]) -> MakeMachine:
    return lambda *gpus, settings="": Machine(tmp_path, make_world, *gpus, settings=settings)


@pytest.fixture
def machine(make_machine: MakeMachine) -> Machine:
    return make_machine()


def leaving(tmp_path: Path, *, wipe: bool = False, session: bool = False) -> list[str]:
    """A program that leaves a process behind, writes its pid to `left`, and ends once `go` is there.

    The process it leaves ends when `end` is there. `wipe`: with an environment of its own, as tools with titles have.
    """
    code = f"""
        import os, subprocess, sys, time
        env = {{"PATH": os.environ["PATH"]}} if {wipe} else None
        wait = "while not os.path.exists({str(tmp_path / "end")!r}): time.sleep(0.02)"
        worker = subprocess.Popen([sys.executable, "-c", "import os, time\\n" + wait], env=env, start_new_session={session})
        with open({str(tmp_path / "left.new")!r}, "w") as file:
            file.write(str(worker.pid))
        os.rename({str(tmp_path / "left.new")!r}, {str(tmp_path / "left")!r})
        while not os.path.exists({str(tmp_path / "go")!r}):
            time.sleep(0.02)
    """
    return [sys.executable, "-c", textwrap.dedent(code)]


def left_pid(tmp_path: Path) -> int:
    return int(wait_until(lambda: (tmp_path / "left").exists() and (tmp_path / "left").read_text(), "the worker", 15))


# Leftovers


def test_a_leftover_keeps_the_gpu_and_is_named_and_ended_by_kill(machine: Machine, tmp_path: Path) -> None:
    job = machine.run_job(*leaving(tmp_path))
    pid = left_pid(tmp_path)
    machine.box.allocate(0, pid, 5 * GIB)
    (tmp_path / "go").touch()
    assert job.wait(30) == 0
    following = machine.start("--", "true")
    text = machine.why(following, "leftover")
    assert f"pid {pid}" in text
    assert "left by job 1" in text
    (ended,) = [each for each in machine.jobs() if each["state"] == "ended"]
    assert ended["why"]["rule"] == "leftover"
    assert f"pid {pid}" in ended["why"]["text"]
    for words in (("ls",), ("gpus",), ("why", "1"), ("why", "2")):
        assert f"pid {pid}" in machine.text(*words), words
    assert "5G" in machine.gpus_text()
    assert f"pid {pid}" in machine.text("kill", "1")
    assert following.wait(30) == 0


def test_a_leftover_that_frees_its_memory_late_is_waited_for(machine: Machine, tmp_path: Path) -> None:
    """The driver still counts memory of a process that has gone, and names nobody for it."""
    job = machine.run_job("sleep", "1000")
    machine.box.allocate(0, job.pid, 8 * GIB)
    following = machine.start("--", "true")
    machine.why(following, "busy")
    machine.box.set(0, free=14 * GIB)
    machine.end(job.pid)
    job.wait(30)
    text = machine.why(following, "unexplained")
    assert "held by nobody the driver names" in text
    machine.box.set(0, free=None)
    assert following.wait(30) == 0


def test_a_leftover_holds_while_the_driver_names_it_and_not_longer(machine: Machine, tmp_path: Path) -> None:
    """An old leftover that lets go of its memory lets go of the GPU, though it lives on."""
    job = machine.run_job(*leaving(tmp_path, session=True))
    pid = left_pid(tmp_path)
    machine.box.allocate(0, pid, GIB)
    (tmp_path / "go").touch()
    job.wait(30)
    following = machine.start("--", "true")
    assert f"pid {pid}" in machine.why(following, "leftover")
    machine.box.release(0, pid)
    assert "left by job 1" in machine.why(following, "leftover")  # younger than a minute: it may still be importing
    (tmp_path / "end").touch()
    assert following.wait(30) == 0


def test_a_setting_ends_leftovers_after_a_delay(make_machine: MakeMachine, tmp_path: Path) -> None:
    machine = make_machine(settings='end_leftovers = "1s"\n')
    job = machine.run_job(*leaving(tmp_path))
    pid = left_pid(tmp_path)
    machine.box.allocate(0, pid, 5 * GIB)
    (tmp_path / "go").touch()
    job.wait(30)
    assert machine.start("--", "true").wait(30) == 0
    assert not os.path.exists(f"/proc/{pid}/exe")  # a zombie has none either


@pytest.mark.parametrize("wipe", [False, True], ids=["marked", "wiped its marker"])
def test_leftovers_are_found_again_after_a_restart(machine: Machine, tmp_path: Path, wipe: bool) -> None:
    job = machine.run_job(*leaving(tmp_path, wipe=wipe, session=True))
    pid = left_pid(tmp_path)
    machine.box.allocate(0, pid, 5 * GIB)
    wait_until(lambda: machine.job_of(job)["peak_bytes"] == 5 * GIB, "the worker to be seen")
    machine.restart_arbiter()
    (tmp_path / "go").touch()
    job.wait(30)
    following = machine.start("--", "true")
    assert f"pid {pid}" in machine.why(following, "leftover")
    machine.restart_arbiter()
    assert f"pid {pid}" in machine.why(following, "leftover")
    (tmp_path / "end").touch()
    assert following.wait(30) == 0
    assert machine.world.rows("SELECT * FROM setting WHERE name LIKE 'kin %'") == []


# What wiped its environment and left its parents, and how long it and its parents stay.
ALONE = """
    left = leave([sys.executable, "-c", STAY])
"""
TWICE = """
    fork = f"subprocess.Popen([sys.executable, '-c', {STAY!r}], env={{}}, start_new_session=True)"
    code = f"import subprocess, sys, time; print({fork}.pid, flush=True); time.sleep(1.5)"
    left = leave([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pid = int(left.stdout.readline())
    left.wait()
"""
SAME_SESSION = """
    left = leave(["/bin/sh", "-c", f"sleep 1.5; {sys.executable} -c '{STAY}' & echo $!"], stdout=subprocess.PIPE)
    pid = int(left.stdout.readline())
    left.wait()
"""


def leaving_alone(tmp_path: Path, how: str) -> list[str]:
    """A program that leaves a process which nothing shows to be its own but that it was below it, or its session."""
    code = f"""
import os, subprocess, sys, time
STAY = "import time; time.sleep(1000)"
def leave(argv, **options):
    return subprocess.Popen(argv, env={{}}, start_new_session=True, **options)
pid = 0
{textwrap.dedent(how)}
with open({str(tmp_path / "left.new")!r}, "w") as file:
    file.write(str(pid or left.pid))
os.rename({str(tmp_path / "left.new")!r}, {str(tmp_path / "left")!r})
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.02)
time.sleep(float(sys.argv[1]))
"""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("late", [False, True], ids=["before the end", "after the end"])
@pytest.mark.parametrize("how", [ALONE, TWICE, SAME_SESSION], ids=["its own session", "forked twice", "an orphan's session"])
@pytest.mark.parametrize("form", [[], ["-r"]], ids=["exec", "stub"])
def test_a_leftover_without_a_marker_is_known_by_whom_it_came_from(
    machine: Machine, tmp_path: Path, how: str, late: bool, form: list[str]
) -> None:
    """It takes its memory while the leader lives, or only when that has gone."""
    job = machine.run_job(*form, "--", *leaving_alone(tmp_path, how), "1.5" if how == ALONE else "0")
    pid = left_pid(tmp_path)
    try:
        if not late:
            machine.box.allocate(0, pid, 5 * GIB)
        (tmp_path / "go").touch()
        assert job.wait(30) == 0
        assert machine.world.run("-n", "--", "true").returncode == 124
        if late:
            machine.box.allocate(0, pid, 5 * GIB)
        following = machine.start("--", "true")
        assert f"pid {pid}" in machine.why(following, "leftover")
        assert machine.gpu()["foreign"] == []
        assert f"pid {pid}" in machine.text("kill", "1")
        assert following.wait(30) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# Strangers


def test_a_stranger_is_waited_for_named_and_left_alone(machine: Machine) -> None:
    pid = machine.stranger(5 * GIB)
    whole = machine.start("--", "true")
    text = machine.why(whole, "foreign")
    assert f"pid {pid}" in text
    assert "sleep 1000" in text
    (seen,) = machine.gpu()["foreign"]
    assert (seen["pid"], seen["command"], seen["bytes"]) == (pid, "sleep 1000", 5 * GIB)
    assert seen["user"]
    shared = machine.run_job("-m", "8G", "sleep", "1000")  # beside it
    machine.end(shared.pid)
    machine.end(pid)
    assert whole.wait(30) == 0


def test_room_is_left_for_what_a_stranger_held_before(machine: Machine) -> None:
    keep = machine.run_job("-m", "1G", "sleep", "1000")
    pid = machine.stranger(10 * GIB)
    wait_until(lambda: machine.gpu()["foreign"], "the stranger to be seen", 10)
    machine.box.allocate(0, pid, 2 * GIB)
    wait_until(lambda: machine.gpu()["foreign"][0]["bytes"] == 2 * GIB, "the stranger to shrink", 10)
    large = machine.start("-m", "18G", "--", "true")
    machine.why(large)
    assert machine.start("-m", "10G", "--", "true").wait(30) == 0
    assert large.poll() is None
    machine.end(pid)
    assert large.wait(30) == 0
    machine.end(keep.pid)


def test_room_is_left_as_a_stranger_grows_beside_a_shared_job(machine: Machine) -> None:
    keep = machine.run_job("-m", "4G", "sleep", "1000")
    machine.box.allocate(0, keep.pid, 4 * GIB)
    pid = machine.stranger(2 * GIB)
    wait_until(lambda: machine.gpu()["foreign"], "the stranger to be seen", 10)
    assert machine.world.run("-n", "-m", "15G", "--", "true").returncode == 0
    for held in (6, 12):  # while jobs come and go
        machine.box.allocate(0, pid, held * GIB)
        room = 19 - held  # of 24 are left to it, 4 are the job's, and the driver keeps some
        assert machine.world.run("-n", "-m", f"{room - 1}G", "--", "true").returncode == 0, held
        assert machine.world.run("-n", "-m", f"{room + 1}G", "--", "true").returncode == 124, held
    assert machine.job_of(keep)["state"] == "running"


def test_a_stranger_that_starts_between_plan_and_grant_is_seen(machine: Machine, tmp_path: Path) -> None:
    """A client that is slow to take its offer, on a machine that thrashes: by then a stranger has come to the GPU."""
    code = f"""
        import os, time
        from gpuwrap import cli
        from gpuwrap.launch import launch as launching

        take = launching.Launch._take

        def take_late(launch):
            open({str(tmp_path / "offered")!r}, "w").close()
            while not os.path.exists({str(tmp_path / "go")!r}):
                time.sleep(0.02)
            return take(launch)

        launching.Launch._take = take_late
        cli.main()
    """
    (tmp_path / "slow.py").write_text(textwrap.dedent(code))
    words = [sys.executable, str(tmp_path / "slow.py"), "--", "touch", str(tmp_path / "started")]
    slow = machine.world.adopt(subprocess.Popen(words, env=machine.world.env))
    wait_until((tmp_path / "offered").exists, "the offer", 15)
    pid = machine.stranger(300 * MIB)
    let_pass(STALE_SECONDS + 0.2, "the look to be too old")
    (tmp_path / "go").touch()
    assert f"pid {pid}" in machine.why(slow, "foreign")
    assert not (tmp_path / "started").exists()
    machine.end(pid)
    assert slow.wait(30) == 0
    assert (tmp_path / "started").exists()


def test_who_is_ignored_does_not_count_but_its_memory_does(make_machine: MakeMachine) -> None:
    machine = make_machine(settings='ignore = ["sleep 1000"]\n')
    pid = machine.stranger(8 * GIB)
    assert machine.world.run("--", "true").returncode == 0
    assert machine.gpu()["foreign"] == []
    holder = machine.run_job("-m", "4G", "sleep", "1001")
    large = machine.start("-m", "15G", "--", "true")
    machine.why(large, "memory")
    machine.end(pid)
    assert large.wait(30) == 0
    machine.end(holder.pid)


@pytest.mark.parametrize("how", ["pid", "user"])
def test_who_is_ignored_is_named_by_pid_or_user_too(machine: Machine, how: str) -> None:
    pid = machine.stranger(8 * GIB)
    word = str(pid) if how == "pid" else f'"{pwd.getpwuid(os.getuid()).pw_name}"'
    (machine.world.directory / "settings.toml").write_text(f"ignore = [{word}]\n")
    assert machine.world.run("-n", "--", "true").returncode == 0
    assert machine.gpu()["foreign"] == []
    if how == "pid":
        other = machine.stranger(GIB, 0, "sleep", "1004")
        assert machine.world.run("-n", "--", "true").returncode == 124
        assert [each["pid"] for each in machine.gpu()["foreign"]] == [other]


def end_everything(machine: Machine) -> None:
    """Kill the arbiter and its keeper, as if nobody had asked anything for a while."""
    for pid in (machine.world.keeper_pid(), machine.world.arbiter_pid()):
        assert pid is not None
        machine.end(pid)
    wait_until(lambda: machine.world.arbiter_pid() is None, "the arbiter to be gone")


def test_who_stands_idle_since_yesterday_is_said_so_at_once(machine: Machine) -> None:
    """No arbiter was there overnight: what an earlier one has written down counts."""
    pid = machine.stranger(20 * GIB)
    assert machine.gpu()["foreign"][0]["pid"] == pid
    assert "idle" not in machine.gpus_text()
    uuid = machine.gpu()["uuid"]
    end_everything(machine)
    (row,) = machine.world.rows("SELECT boot_id FROM arbiter LIMIT 1")
    since = time.monotonic() - 20.5 * 3600
    text = f"{row['boot_id']} {uuid}:{pid}:{start_ticks(pid)}:{since:.0f}:0.00"
    with contextlib.closing(sqlite3.connect(machine.world.database)) as database, database:
        database.execute("INSERT INTO setting (name, value) VALUES ('idle-strangers', ?)", (text,))
    assert "idle for 20 h" in machine.gpus_text()
    assert "idle for 20 h" in machine.why(machine.start("--", "true"), "foreign")


@pytest.mark.long
def test_who_stands_idle_is_said_so_after_a_minute_and_by_the_next_arbiter(machine: Machine) -> None:
    machine.stranger(20 * GIB)
    waits = machine.start("--", "true")
    wait_until(lambda: "idle for 1 min" in machine.why(waits, "foreign"), "the stranger to stand idle for a minute", 90)
    assert "idle for 1 min" in machine.gpus_text()
    waits.kill()
    waits.wait(30)
    end_everything(machine)
    assert "idle for 1 min" in machine.gpus_text()
    machine.box.set(0, utilization=30)
    wait_until(lambda: "idle" not in machine.gpus_text(), "it to compute", 15)


def test_display_servers_never_count(machine: Machine) -> None:
    machine.stranger(3 * GIB, 0, "sleep", "1002", kind="graphics")
    assert machine.world.run("--", "true").returncode == 0


def test_a_display_server_that_is_listed_as_computing_too_does_not_count(machine: Machine, tmp_path: Path) -> None:
    server = tmp_path / "Xorg"
    server.symlink_to("/bin/sleep")
    pid = machine.stranger(300 * MIB, 0, str(server), "1004")
    machine.box.allocate(0, pid, 300 * MIB, "graphics")
    assert machine.world.run("--", "true").returncode == 0
    machine.box.allocate(0, pid, 6 * GIB)
    assert "Xorg" in machine.why(machine.start("--", "true"), "foreign")


def test_a_request_beyond_what_the_driver_leaves_gets_the_whole_card(machine: Machine) -> None:
    """The stand-in's driver keeps 512 MiB for itself."""
    for size in ("23.5G", "23.6G", "23.9G", "24G"):
        assert machine.world.run("-n", "-m", size, "--", "true").returncode == 0, size


def test_the_mps_server_alone_does_not_count(machine: Machine, tmp_path: Path) -> None:
    server = tmp_path / "nvidia-cuda-mps-server"
    server.symlink_to("/bin/sleep")
    pid = machine.stranger(30 * MIB, 0, str(server), "1003")
    machine.box.set(0, compute_mode=EXCLUSIVE_PROCESS)
    assert machine.world.run("--", "true").returncode == 0
    machine.box.allocate(0, pid, 6 * GIB)
    following = machine.start("--", "true")
    assert "nvidia-cuda-mps-server" in machine.why(following)
    machine.end(pid)
    assert following.wait(30) == 0


def test_a_stranger_on_the_gpu_that_would_be_given_next_is_seen(make_machine: MakeMachine) -> None:
    """Two GPUs; the stranger takes the one that would be given next."""
    machine = make_machine(Gpu(), Gpu())
    first = machine.run_job("sleep", "1000")
    taken = machine.job_of(first)["devices"][0]["index"]
    other = 1 - taken
    machine.stranger(GIB, other)
    following = machine.start("--", "true")
    machine.why(following)
    machine.end(first.pid)
    assert following.wait(30) == 0


@pytest.mark.parametrize(("mode", "text"), [(PROHIBITED, "prohibits"), (EXCLUSIVE_PROCESS, "one process")])
def test_compute_modes_are_respected(machine: Machine, mode: int, text: str) -> None:
    machine.box.set(0, compute_mode=mode)
    first = machine.start("-m", "4G", "sleep", "1000")
    if mode == PROHIBITED:
        assert text in machine.why(first, "compute-mode")
        return
    machine.until_running(first)
    second = machine.start("-m", "4G", "--", "true")
    assert text in machine.why(second, "compute-mode")
    machine.end(first.pid)
    assert second.wait(30) == 0


def test_a_compute_mode_or_mig_mode_that_changes_while_jobs_run_counts_at_once(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(), Gpu())
    runs = machine.run_job("-i", "0", "-m", "4G", "sleep", "1000")
    assert machine.world.run("-n", "-i", "0", "-m", "4G", "--", "true").returncode == 0
    machine.box.set(0, compute_mode=EXCLUSIVE_PROCESS)
    machine.box.set(1, compute_mode=PROHIBITED)
    assert machine.world.run("-n", "-i", "0", "-m", "4G", "--", "true").returncode == 124
    assert machine.world.run("-n", "-i", "1", "--", "true").returncode == 124
    machine.box.set(0, compute_mode=0)
    assert machine.world.run("-n", "-i", "0", "-m", "4G", "--", "true").returncode == 0
    # An administrator divides GPU 1: from now on there are its instances.
    instance = f"MIG-{uuid.uuid4()}"
    machine.box.set(1, compute_mode=0, mig=[Instance(instance)])
    assert machine.world.run("-n", "-i", "1", "--", "true").returncode in (124, 125)
    done = machine.world.run("-n", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert (done.returncode, done.stdout) == (0, f"{instance}\n")
    assert machine.job_of(runs)["state"] == "running"


def test_a_process_without_figures_is_never_taken_for_free(machine: Machine) -> None:
    pid = machine.stranger(None)
    whole = machine.start("--", "true")
    assert f"pid {pid}" in machine.why(whole, "foreign")
    machine.end(pid)
    assert whole.wait(30) == 0
