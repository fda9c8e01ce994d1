"""What `kill` ends beside the leader of a job, and what it leaves alone."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pauses import GIB, Stage, alive
from waiting import wait_until
from world import OTHER_UID, World

Tmux = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def stage(make_world: Callable[..., World], tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(make_world("1x80G"), tmp_path)
    yield stage
    stage.open_all()


@pytest.fixture
def tmux(stage: Stage) -> Iterator[Tmux]:
    """A tmux of the test's own; its server is started by whoever comes first."""
    socket = str(stage.world.directory / "tmux")

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        words = ("tmux", "-f", "/dev/null", "-S", socket, *words)
        return subprocess.run(words, capture_output=True, text=True, timeout=10, env={**os.environ, "TERM": "dumb"})

    yield run
    run("kill-server")


def server_line(stage: Stage) -> str:
    socket = stage.world.directory / "tmux"
    return f"tmux -f /dev/null -S {socket} new-session -d -x 200 -y 50 'bash --norc --noprofile'"


def start_in_tmux(stage: Stage, tmux: Tmux, *words: str) -> None:
    tmux("send-keys", " ".join([stage.world.command, *words]), "Enter")


@pytest.mark.needs("tmux")
@pytest.mark.parametrize("direct", [False, True], ids=["in its shell", "as its command"])
def test_a_tmux_server_on_which_another_job_runs_is_left_alone(stage: Stage, tmux: Tmux, direct: bool) -> None:
    done = stage.world.run("-g", "0", "sh", "-c", server_line(stage), extra={"TERM": "dumb"})
    assert done.returncode == 0
    words = ["--", *stage.words("other")]
    if direct:
        tmux("new-window", " ".join([stage.world.command, *words]))
    else:
        start_in_tmux(stage, tmux, *words)
    stage.until_running("other")
    server = int(tmux("display-message", "-p", "#{pid}").stdout)
    done = stage.world.run("kill", "1")
    if direct:  # the shell of the first window is ended: nobody is on its terminal
        assert (done.returncode, str(server) in done.stdout) == (0, False)
    else:
        assert done.returncode == 1
        assert "what it left behind has other jobs on its terminals and is left alone" in done.stderr
    stage.beats.until_beats("other", 50)
    assert alive(server)
    stage.open("other")
    stage.until_state(2, "ended")
    if not direct:
        assert stage.world.run("kill", "1").returncode == 0
    wait_until(lambda: not alive(server), "the server to end", 20)


@pytest.mark.needs("tmux", "setsid")
def test_what_holds_the_gpu_is_ended_and_the_tmux_server_of_another_job_is_not(stage: Stage, tmux: Tmux) -> None:
    worker = " ".join(stage.words("worker", f"take={GIB}"))
    gate = stage.gate("leader")
    script = f"{server_line(stage)}; setsid {worker} & while [ ! -e {gate} ]; do sleep 0.05; done"
    stage.world.start("sh", "-c", script, extra={"TERM": "dumb"})
    stage.until_running("worker")
    stage.open("leader")
    stage.until_state(1, "ended")
    start_in_tmux(stage, tmux, "-g", "0", "--", *stage.words("other"))
    stage.until_running("other")
    server = int(tmux("display-message", "-p", "#{pid}").stdout)
    done = stage.world.run("kill", "1")
    assert done.returncode == 0, done
    pid = stage.beats.first("worker", "start").pid
    wait_until(lambda: not alive(pid), "the worker to end", 15)
    stage.beats.until_beats("other", 50)
    assert alive(server)
    assert stage.world.state(2) == "running"


def test_kill_of_a_script_ends_what_waits_in_it_for_a_job_of_its_own_session(stage: Stage) -> None:
    """As make does: else the script would go on once that job has ended."""
    line = f"{stage.world.command} -- {' '.join(stage.words('inner'))}; touch {stage.folder}/went-on"
    outer = stage.world.start("-g", "0", "sh", "-c", f"sh -c '{line}' & wait")
    stage.until_running("inner")
    found = [process for process in stage.world.processes() if "went-on" in " ".join(process.cmdline())]
    shell = [process for process in found if process.pid != outer.pid]
    assert shell
    assert stage.world.run("kill", "1").returncode == 0
    assert outer.wait(10) == -15
    wait_until(lambda: not [each for each in shell if alive(each.pid)], "the shell in between to end", 15)
    stage.open("inner")
    assert not (stage.folder / "went-on").exists()


# Adopts all orphans below it, and summons the arbiter of another world there.
ADOPTER = """
import ctypes, os, subprocess, sys, time
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
os.environ["GPURUN_DIR"] = sys.argv[2]
subprocess.run([sys.argv[1], "-g", "0", "true"], check=True)
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[3], "w").write(str(child.pid))
time.sleep(60)
"""


@pytest.mark.parametrize("form", [(), ("-r",)], ids=["exec", "stub"])
def test_the_arbiter_of_another_world_that_a_job_adopted_is_left_alone(
    make_world: Callable[..., World], tmp_path: Path, form: tuple[str, ...]
) -> None:
    world, other = make_world("1x80G"), make_world("1x80G")
    told = tmp_path / "told"
    outer = world.start(*form, sys.executable, "-c", ADOPTER, world.command, str(other.directory), str(told))
    wait_until(lambda: told.exists() and told.read_text(), "the other world's arbiter to be there")
    arbiter, keeper = other.arbiter_pid(), other.keeper_pid()
    assert arbiter is not None
    assert keeper is not None
    below = {process.pid for process in psutil.Process(outer.pid).children(recursive=True)}
    assert {arbiter, keeper} <= below, "it was adopted by the job"
    assert world.run("kill", "-9", "1").returncode == 0
    assert outer.wait(20) == -9
    wait_until(lambda: not alive(int(told.read_text())), "the rest of the job to end", 20)
    assert alive(arbiter)
    assert alive(keeper)


@pytest.mark.needs("tmux")
def test_a_stub_that_is_killed_leaves_the_tmux_server_of_another_job_alone(stage: Stage, tmux: Tmux) -> None:
    gate = stage.gate("leader")
    script = f"{server_line(stage)}; while [ ! -e {gate} ]; do sleep 0.05; done"
    stub = stage.world.start("-r", "-g", "0", "sh", "-c", script, extra={"TERM": "dumb"})
    wait_until(lambda: tmux("has-session").returncode == 0, "the server to be there")
    start_in_tmux(stage, tmux, "--", *stage.words("other"))
    stage.until_running("other")
    server = int(tmux("display-message", "-p", "#{pid}").stdout)
    assert stage.world.run("kill", "1").returncode == 0
    assert stub.wait(30) == -15
    stage.beats.until_beats("other", 50)
    assert alive(server)


def test_a_process_of_another_user_that_forges_a_jobs_marker_is_not_ended_with_it(world: World) -> None:
    """The same process of one's own is: that is how what a job left behind is known."""
    if os.geteuid() != 0:
        pytest.skip("only root may run something as another user")
    done = world.run("sh", "-c", "echo $GPURUN_JOB $GPURUN_GPU_UUIDS")
    job, uuids = done.stdout.split()
    marked = {"PATH": os.environ["PATH"], "GPURUN_JOB": job, "GPURUN_GPU_UUIDS": uuids}
    sleep = ["sleep", "600"]
    other = {"user": OTHER_UID, "group": OTHER_UID, "extra_groups": []}
    forged = world.adopt(subprocess.Popen(sleep, env=marked, start_new_session=True, cwd="/", **other))  # type: ignore[call-overload]
    own = world.adopt(subprocess.Popen(sleep, env=marked, start_new_session=True))
    wait_until(lambda: psutil.Process(forged.pid).name() == psutil.Process(own.pid).name() == "sleep", "both to run")
    assert f"to what it left behind (pid {own.pid})" in world.run("kill", job).stdout
    assert own.wait(10) == -15
    assert forged.poll() is None
    assert world.run("kill", job).stderr == f"gpurun: kill: job {job}: has already ended\n"


def test_what_a_job_left_behind_is_sent_the_signal_that_was_asked_for(world: World) -> None:
    left = int(world.run("sh", "-c", "(trap '' TERM; exec sleep 60) > /dev/null 2>&1 & echo $!").stdout)
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    assert world.run("kill", "-9", "1").stdout == f"job 1: had ended; sent KILL to what it left behind (pid {left})\n"
    wait_until(lambda: not alive(left), "it to end at once", 5)


def test_a_chain_is_killed_in_one_word(world: World) -> None:
    """The end of the first cancels the second, which is named as well."""
    assert world.run("-d", "-N", "blocks", "-g", "all", "sleep", "600").returncode == 0
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    assert world.run("-d", "sleep", "600").stdout == "2\n"
    assert world.run("-d", "-a", "ok:2", "sleep", "600").stdout == "3\n"
    done = world.run("kill", "2-3")
    told = "job 2: cancelled while waiting\njob 3: cancelled while waiting\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, told, "")
