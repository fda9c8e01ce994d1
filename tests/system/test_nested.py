"""gpurun inside gpurun: inner jobs take turns on the outer grant or share it, whatever the nesting, and nobody is stuck."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from standin import EXCLUSIVE_PROCESS, GIB, PROHIBITED, Gpu
from truth import Machine
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world("24G")


def worker(folder: Path) -> str:
    """A program that writes when it began and ended, with its GPU."""
    code = f"""
        import os, sys, time
        begun = time.monotonic_ns()
        time.sleep(float(sys.argv[2]))
        with open({str(folder / "lives")!r}, "a") as file:
            file.write(f"{{sys.argv[1]}} {{begun}} {{time.monotonic_ns()}} {{os.environ['CUDA_VISIBLE_DEVICES']}}\\n")
    """
    path = folder / "worker.py"
    path.write_text(textwrap.dedent(code))
    return f"{sys.executable} {path}"


def lives(folder: Path) -> list[tuple[str, int, int, str]]:
    found = []
    for line in (folder / "lives").read_text().splitlines():
        name, begun, ended, gpu = line.split(" ")
        found.append((name, int(begun), int(ended), gpu))
    return sorted(found, key=lambda life: life[1])


def most_at_once(found: list[tuple[str, int, int, str]]) -> int:
    return max(sum(begun <= at < ended for _, begun, ended, _ in found) for _, at, _, _ in found)


def shell(world: World, script: str, *options: str, **popen: Any) -> "subprocess.Popen[Any]":
    return world.start(*options, "--", "sh", "-c", script, **popen)


@pytest.mark.needs("make")
@pytest.mark.parametrize(("option", "at_once"), [("", 1), ("-m 6G", 4)], ids=["whole", "shared"])
def test_jobs_of_a_parallel_make_take_turns_or_share(world: World, tmp_path: Path, option: str, at_once: int) -> None:
    program = worker(tmp_path)
    names = [f"t{number}" for number in range(8)]
    rules = "".join(f"{name}:\n\t{world.command} {option} -- {program} {name} 0.4\n" for name in names)
    (tmp_path / "Makefile").write_text(f"all: {' '.join(names)}\n{rules}")
    done = world.run("--", "make", "-j8", "-s", cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stderr
    found = lives(tmp_path)
    assert sorted(name for name, *_ in found) == names
    assert {gpu for *_, gpu in found} == {"0"}
    assert most_at_once(found) <= at_once
    if at_once > 1:
        assert most_at_once(found) > 1


def test_the_outer_queue_and_the_inner_one_do_not_wait_for_each_other(world: World, tmp_path: Path) -> None:
    program = worker(tmp_path)
    outer = shell(world, f"{world.command} {program} inner1 0.5; {world.command} {program} inner2 0.5")
    wait_until(lambda: world.state(1) == "running", "the outer job to run")
    following = world.start("--", *program.split(), "following", "0")
    assert outer.wait(60) == 0
    assert following.wait(60) == 0
    assert [name for name, *_ in lives(tmp_path)] == ["inner1", "inner2", "following"]


def test_more_than_the_grant_holds_is_an_error_at_once(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    done = world.run("--", world.command, "-g", "2", "true")
    assert done.returncode == 125
    assert "inside which it runs" in done.stderr
    done = world.run("-m", "4G", "--", world.command, "-m", "5G", "true")
    assert done.returncode == 125
    assert "inside which it runs, has 4G" in done.stderr


def test_three_levels_never_block_each_other(world: World, tmp_path: Path) -> None:
    """Whole in whole in whole, twice at the innermost; sharing ones in a share of a share."""
    program = worker(tmp_path)
    run = world.command
    innermost = f"{run} {program} a 0.2 & {run} {program} b 0.2 & wait"
    assert world.run("--", "sh", "-c", f'{run} sh -c "{run} sh -c \\"{innermost}\\""', timeout=60).returncode == 0
    assert most_at_once(lives(tmp_path)) == 1
    (tmp_path / "lives").unlink()
    sharing = f"{run} -m 2G {program} a 1 & {run} -m 2G {program} b 1 & wait"
    assert world.run("-m", "12G", "--", "sh", "-c", f'{run} -m 5G sh -c "{sharing}"', timeout=60).returncode == 0
    assert len(lives(tmp_path)) == 2


def foreground(run: str, script: str) -> str:
    return f"{run} -- sh -c {quote(script)}"


def background(run: str, script: str) -> str:
    return f"n=$({run} -d -- sh -c {quote(script)}) && {run.split()[0]} wait $n"


def own_session(run: str, script: str) -> str:
    return f"setsid -w {foreground(run, script)}"


def below_a_session(run: str, script: str) -> str:
    return f"setsid -w sh -c {quote(foreground(run, script))}"


LEVELS = [
    (background, background),
    (foreground, background),
    (background, foreground),
    (own_session, below_a_session),
    (own_session, background),
]


@pytest.mark.parametrize("options", ["", "-m 4G", "-g 2"], ids=["whole", "shared", "two GPUs"])
@pytest.mark.parametrize("levels", LEVELS, ids=lambda levels: " in ".join(level.__name__ for level in reversed(levels)))
def test_no_nesting_of_three_levels_is_stuck(
    make_world: MakeWorld, tmp_path: Path, levels: tuple[Callable[[str, str], str], ...], options: str
) -> None:
    world = make_world("2x24G" if options == "-g 2" else "24G")
    script = f"echo done > {tmp_path}/done"
    for level in reversed(levels):
        script = level(f"{world.command} {options}".strip(), script)
    done = world.run(*options.split(), "--", "sh", "-c", script, timeout=40)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").read_text() == "done\n"
    assert [row["parent_id"] for row in world.rows("SELECT parent_id FROM job ORDER BY id")] == [None, 1, 2]


@pytest.mark.parametrize("how", ["exec ", ""], ids=["it leads the session", "it is in the session"])
def test_what_runs_in_a_session_that_was_seen_before_has_its_own_queue(world: World, how: str) -> None:
    """The outer job's look sees the session first; what the inner job asks for is asked inside that all the same."""
    late = f"sleep 1.5; {how}{world.command} -- sh -c {quote(world.command + ' -- true; true')}; exit $?"
    done = world.run("--", "sh", "-c", f"setsid -w sh -c {quote(late)}; exit $?", timeout=15)
    assert done.returncode == 0, done.stderr


def test_gpurun_that_execs_gpurun_is_two_jobs_of_one_process(world: World) -> None:
    done = world.run("--", world.command, "--", world.command, "sh", "-c", "echo $GPURUN_JOB", timeout=30)
    assert (done.returncode, done.stdout) == (0, "3\n")


def test_a_stale_marker_is_ignored(world: World, tmp_path: Path) -> None:
    """As in a tmux server or an at(1) job that kept the environment of a job."""
    gate = tmp_path / "gate"
    first = shell(world, f"env > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/env; while ! test -e {gate}; do sleep 0.1; done")
    wait_until((tmp_path / "env").exists, "the outer job to run")
    lines = (tmp_path / "env").read_text().splitlines()
    kept = dict(line.split("=", 1) for line in lines if line.startswith(("GPURUN_", "CUDA_")))
    following = world.start("--", "true", extra=kept, start_new_session=True)
    wait_until(lambda: world.state(2) == "waiting", "the job outside to wait for the outer queue")
    (row,) = world.rows("SELECT parent_id FROM job WHERE id = 2")
    assert row["parent_id"] is None
    gate.touch()
    assert first.wait(30) == 0
    assert following.wait(30) == 0


def test_a_marker_of_a_job_that_has_ended_is_ignored(world: World) -> None:
    assert world.run("--", "true").returncode == 0
    done = world.run("--", "sh", "-c", "echo $GPURUN_JOB", extra={"GPURUN_JOB": "1"})
    assert (done.returncode, done.stdout) == (0, "2\n")


def test_an_inner_job_that_outlives_the_outer_keeps_the_gpu(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    outer = shell(world, f"{world.command} sh -c 'while ! test -e {gate}; do sleep 0.1; done' & sleep 0.5; exit 0")
    wait_until(lambda: world.state(2) == "running", "the inner job to run")
    assert outer.wait(30) == 0
    following = world.start("--", "true")
    wait_until(lambda: world.state(3) == "waiting", "the next job to wait")
    assert world.state(2) == "running"
    gate.touch()
    assert following.wait(30) == 0
    wait_until(lambda: world.state(2) == "ended", "the inner job to be over")


def test_an_inner_job_that_waits_when_the_outer_ends_goes_outside(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    outer = shell(
        world,
        f"{world.command} sh -c 'while ! test -e {gate}; do sleep 0.1; done' & "
        f"sleep 0.5; {world.command} true & sleep 0.5; exit 0",
    )
    wait_until(lambda: world.state(3) == "waiting", "the second inner job to wait")
    assert outer.wait(30) == 0
    gate.touch()
    wait_until(lambda: world.state(3) == "ended", "the second inner job to run", 20)
    assert world.run("--", "true").returncode == 0


def test_no_inner_job_starts_while_the_outer_is_paused(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"{world.command} sleep 1000 & while ! test -e {gate}; do sleep 0.05; done; {world.command} true & wait"
    outer = shell(world, script, start_new_session=True)
    wait_until(lambda: world.state(2) == "running", "the first inner job to run")
    gate.touch()
    wait_until(lambda: world.state(3) == "waiting", "the second to wait")
    sleeps = next(job for job in world.jobs() if job["argv"][:1] == ["sleep"])
    other = next(job["id"] for job in world.jobs() if job["argv"][:1] == ["true"])
    assert sleeps["state"] == "running"
    done = world.run("pause", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    os.kill(sleeps["pid"], signal.SIGKILL)
    wait_until(lambda: world.state(sleeps["id"]) == "ended", "the inner holder to be gone")
    assert world.run("-n", "--", "true").returncode == 124  # nor does the outer queue get it: a look and a plan later
    assert (world.state(1), world.state(other)) == ("paused", "waiting")
    assert world.run("resume", "1").returncode == 0
    assert outer.wait(30) == 0
    assert world.state(other) == "ended"


def test_inside_a_job_without_gpus_the_outer_queue_is_asked(world: World, tmp_path: Path) -> None:
    program = worker(tmp_path)
    inner = f"{world.command} {program} a 0.3 & {world.command} {program} b 0.3 & wait"
    assert world.run("-g", "0", "--", "sh", "-c", inner, timeout=60).returncode == 0
    assert len(lives(tmp_path)) == 2
    assert most_at_once(lives(tmp_path)) == 1
    assert {row["parent_id"] for row in world.rows("SELECT parent_id FROM job")} == {None}


@pytest.mark.parametrize("how", ["(RUN &); AWAIT", "setsid -w sh -c '(RUN &); AWAIT'"], ids=["its session", "one below it"])
def test_an_orphan_of_a_job_asks_inside_it(world: World, tmp_path: Path, how: str) -> None:
    """The outer job waits for it: outside they would wait for each other for ever."""
    program, done = worker(tmp_path), tmp_path / "lives"
    script = how.replace("RUN", f"{world.command} {program} inner 0")
    outer = shell(world, script.replace("AWAIT", f"while ! test -e {done}; do sleep 0.05; done"))
    assert outer.wait(30) == 0
    assert [name for name, *_ in lives(tmp_path)] == ["inner"]


# RUN is gpurun, UNMARKED a wiped environment; what is asked for creates the file of AWAIT.
APART = {
    "an orphan in a session of its own": "setsid -f RUN; AWAIT",
    "the same below a daemon": "setsid -f sh -c 'RUN & wait'; AWAIT",
    "unmarked, below a daemon that was seen": "setsid -f sh -c 'sleep 3; UNMARKED RUN & wait'; AWAIT",
    "unmarked, in a session that was seen": "setsid sh -c '(sleep 3; UNMARKED RUN) & sleep 2' & AWAIT",
    "inside a job inside a stub": "INNER -- sh -c \"setsid -f RUN; AWAIT\"",
}


@pytest.mark.parametrize("script", APART.values(), ids=APART.keys())
def test_who_left_the_session_of_a_job_asks_inside_it(world: World, tmp_path: Path, script: str) -> None:
    """Each is waited for by the job that holds the GPU: outside it would be waited for for ever."""
    done = tmp_path / "done"
    kept = " ".join(f"{name}={world.env[name]}" for name in ("PATH", "GPURUN_DIR", "GPURUN_SIM"))
    options = ["-r"] if "INNER" in script else []
    script = script.replace("RUN", f"{world.command} touch {done}").replace("UNMARKED", f"env -i {kept}")
    script = script.replace("INNER", world.command).replace("AWAIT", f"until test -e {done}; do sleep 0.05; done")
    # A shell above, as anywhere: who adopts the orphans is not the leader's own parent.
    shell = ["sh", "-c", '"$@"; exit $?', "sh"]
    outer = world.adopt(subprocess.Popen([*shell, world.command, *options, "sh", "-c", script], env=world.env))
    assert outer.wait(40) == 0
    rows = world.rows("SELECT parent_id FROM job ORDER BY id")
    assert [row["parent_id"] for row in rows] == [None, *range(1, len(rows))]


def test_a_pipeline_of_two_jobs_is_not_nested(world: World) -> None:
    script = f"{world.command} -m 1G sh -c 'sleep 0.3; echo text' | {world.command} -m 1G cat"
    done = world.adopt(
        subprocess.Popen(["sh", "-c", script], env=world.env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    )
    assert done.communicate(timeout=60)[0] == "text\n"
    assert {row["parent_id"] for row in world.rows("SELECT parent_id FROM job")} == {None}


# What happens to the GPU itself.


class Inside:
    """A shell that is a job on a machine of the stand-in driver, in which one gpurun after the other is started."""

    def __init__(self, machine: Machine, *options: str) -> None:
        self.machine = machine
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.shell = machine.run_job(*options, "--", "sh", **pipes)

    def start(self, *words: str) -> None:
        """Start a gpurun in the background."""
        self.say(" ".join([self.machine.world.command, *words, "&"]))

    def run(self, *words: str) -> int:
        """Run a gpurun; returns its exit status."""
        self.say(" ".join([self.machine.world.command, *words, "; echo status $?"]))
        return int(self.shell.stdout.readline().removeprefix("status "))

    def say(self, line: str) -> None:
        self.shell.stdin.write(f"{line}\n")
        self.shell.stdin.flush()

    def until_running(self, count: int) -> list[int]:
        """Wait until so many jobs run, the shell included; returns their pids but the shell's."""

        def running() -> list[int] | None:
            pids = [job["pid"] for job in self.machine.jobs() if job["state"] == "running" and job["pid"] != self.shell.pid]
            return pids if len(pids) == count - 1 else None

        found: list[int] = wait_until(running, f"{count} jobs to run", 15)
        return found


@pytest.fixture
def make_inside(tmp_path: Path, make_world: MakeWorld) -> Callable[..., Inside]:
    def make(*options: str, settings: str = "") -> Inside:
        return Inside(Machine(tmp_path, make_world, Gpu(), settings=settings), *options)

    return make


def test_a_compute_mode_holds_inside_a_job_too(make_inside: Callable[..., Inside]) -> None:
    inside = make_inside()
    inside.machine.box.set(0, compute_mode=EXCLUSIVE_PROCESS)
    inside.start("-m", "2G", "sleep", "1000")
    (pid,) = inside.until_running(2)
    assert inside.run("-n", "-m", "2G", "true") == 124
    os.kill(pid, signal.SIGKILL)
    assert inside.run("-w", "15s", "-m", "2G", "true") == 0
    inside.machine.box.set(0, compute_mode=PROHIBITED)
    assert inside.run("-n", "-m", "2G", "true") == 124


def test_a_stranger_that_came_to_a_whole_grant_is_waited_for_inside(make_inside: Callable[..., Inside]) -> None:
    inside = make_inside()
    pid = inside.machine.stranger(14 * GIB)
    assert inside.run("-n", "true") == 124
    assert inside.run("-n", "-m", "12G", "true") == 124
    assert inside.run("-n", "-m", "6G", "true") == 0  # beside it
    inside.machine.end(pid)
    assert inside.run("-w", "15s", "true") == 0
    # The job around holds most of it: its own use is not counted.
    inside.machine.box.allocate(0, inside.shell.pid, 20 * GIB)
    assert inside.run("-n", "-m", "20G", "true") == 0
    assert inside.run("-n", "true") == 0


def test_memory_that_an_inner_job_frees_late_is_waited_for(make_inside: Callable[..., Inside]) -> None:
    inside = make_inside()
    inside.machine.box.set(0, free=14 * GIB)  # nobody is named for the rest
    assert inside.run("-n", "true") == 124
    inside.machine.box.set(0, free=None)
    assert inside.run("-w", "15s", "true") == 0


@pytest.mark.parametrize("options", [("-m", "6G"), ()], ids=["shared", "whole"])
def test_the_headroom_is_kept_once(make_inside: Callable[..., Inside], options: tuple[str, ...]) -> None:
    inside = make_inside(*options, settings='keep_free = "2G"\n')
    assert inside.run("-n", "true") == 0
    inside.start("-m", "3G", "sleep", "1000")
    inside.start("-m", "3G", "sleep", "1000")
    inside.until_running(3)
    assert inside.run("-n", "-m", "1G", "true") == (124 if options else 0)


def test_a_stranger_beside_a_shared_grant_keeps_nobody_inside_waiting(make_inside: Callable[..., Inside]) -> None:
    """It was there when the share was given."""
    inside = make_inside("-m", "6G")
    inside.machine.stranger(10 * GIB)
    assert inside.run("-n", "true") == 0
    inside.start("-m", "3G", "sleep", "1000")
    inside.start("-m", "3G", "sleep", "1000")
    inside.until_running(3)
