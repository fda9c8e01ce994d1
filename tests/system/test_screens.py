"""What people see, compared whole with the files in `expected/`: terminals of 80 and 200 columns, pipes, and cron."""

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from equipment import find_tool, missing_gpu
from screens import USER, expect, said, shown
from terminal import Terminal
from waiting import wait_until
from world import World

from gpuwrap.widths import columns as columns_of

MakeWorld = Callable[..., World]


def on_terminal(world: World, *words: str, columns: int = 80, env: dict[str, str] | None = None) -> str:
    """The screen after a command."""
    terminal = Terminal(world, [world.command, *words], columns=columns, lines=40, env={"NO_COLOR": "1", **(env or {})})
    terminal.finish()
    return terminal.text()


@pytest.fixture
def world(make_world: MakeWorld, tmp_path: Path) -> World:
    """One GPU, and a folder with a program called t.py."""
    made = make_world("1x24G")
    (tmp_path / "t.py").write_text("import sys, time\ntime.sleep(600)\n")
    for name in ("python", "train"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 600\n")
        (tmp_path / name).chmod(0o755)
    made.env["PATH"] = f"{tmp_path}:{made.env['PATH']}"
    return made


def queue(world: World, *words: str) -> int:
    """Start a job and return its number once it is registered."""
    known = {job["id"] for job in world.jobs()}
    world.start("-q", *words)
    return int(wait_until(lambda: next((job["id"] for job in world.jobs() if job["id"] not in known), None), "a job"))


def running(world: World, *words: str) -> int:
    number = queue(world, *words)
    wait_until(lambda: world.state(number) == "running", f"job {number} to run")
    return number


def sim_folder(world: World) -> Path:
    """Where simulated programs take memory."""
    done = world.run("sh", "-c", "echo $GPURUN_SIM_DIR")
    return Path(done.stdout.strip())


# --- situations 1, 2, 7, 8, 25, 30: words ---------------------------------------------------------------------------

WORDS = {
    "alias": "train-alias x",
    "assignment": "LR=1 python t.py",
    "another-tools-verb": "cancel 14",
    "verb-mistyped": "renize 5 3",
    "nothing": "",
    "memory-without-unit": "-m 8 true",
    "memory-foreign-unit": "-m 8Go true",
    "memory-too-large": "-m 200G true",
    "time-without-unit": "-w 60 true",
    "priority-too-large": "-p 200 true",
    "priority-mistyped": "-p hihg true",
    "name-is-number": "-N 4 true",
    "gres": "--gres=gpu:2 python t.py",
    "option-mistyped": "--memroy 8G true",
    "too-many-gpus": "-g 2 true",
    "no-such-gpu": "-i 7 true",
    "verb-option-mistyped": "ls --jsno",
    "verb-option-unknown": "kill --frobnicate 3",
    "signal-mistyped": "kill -s TREM 3",
    "renice-swapped-words": "renice lr-1 high",
    "renice-mistyped": "renice hihg 3",
    "renice-no-such-job": "renice 14 10",
    "kill-no-such-job": "kill 99",
    "drain-mistyped": "gpus darin 0",
    "drain-which": "gpus drain",
    "why-nothing-waits": "why",
    "ls-empty": "ls",
    "gpus-free": "gpus",
    "dry-run": "--dry-run -m 8G python t.py",
    "drain-unknown-gpu": "gpus drain 3",
    "drain-all": "gpus drain all",
    "time-limit-without-unit": "-t 60 true",
    "verb-as-option": "--lsit",
    "json-as-option": "--jsno true",
    "another-tools-verb-mistyped": "statu",
    "slurm-verb": "sbatch job.sh",
    "verb-behind-an-option": "--sim 1x24G doctor",
}


@pytest.fixture
def few_programs(world: World, tmp_path: Path) -> World:
    """The world on a machine where no other queue is installed: what is not found must not be there by chance."""
    for tool in ("sh", "true", "sleep"):
        (tmp_path / tool).symlink_to(str(find_tool(tool)))
    world.env["PATH"] = str(tmp_path)
    return world


@pytest.mark.parametrize("name", WORDS)
def test_words(few_programs: World, name: str) -> None:
    expect(name, said(few_programs.run(*shlex.split(WORDS[name]))))


def test_without_a_gpu_the_demo_is_named(make_world: MakeWorld) -> None:
    if missing_gpu() != "no NVIDIA driver (libnvidia-ml.so.1)":
        pytest.skip("here is a driver")
    world = make_world(None)
    expect("no-gpu", said(world.run("python", "t.py")) + said(world.run("gpus")))


def test_a_free_gpu_is_given_without_a_word(world: World) -> None:
    assert said(world.run("true")) == "exit 0\n"
    assert on_terminal(world, "true") == ""


def test_verbose_tells_what_was_granted(world: World) -> None:
    expect("verbose", said(world.run("-v", "-m", "8G", "true")))


# --- situations 2, 3, 13, 15, 16, 19: the waiting line --------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 200])
def test_the_waiting_line_tells_who_holds_the_gpu_and_goes_before_the_program_starts(world: World, columns: int) -> None:
    first = running(world, "python", "train.py")
    terminal = Terminal(world, ["sh", "-c", f"echo before; {world.command} -- sh -c 'echo started'"], columns=columns)
    terminal.await_text("waits for a GPU")
    expect(f"two-terminals-{columns}", terminal.text())
    world.run("kill", str(first))
    assert terminal.finish() == 0
    assert terminal.text() == "before\nstarted"


@pytest.mark.parametrize("columns", [80, 200])
def test_a_strangers_process_is_named_with_what_to_do(world: World, columns: int) -> None:
    folder = sim_folder(world)
    stranger = world.adopt(subprocess.Popen(["sleep", "600"]))
    (folder / "0" / str(stranger.pid)).write_text(str(1200 * 2**20))
    terminal = Terminal(world, [world.command, "true"], columns=columns)
    terminal.await_text("share the GPU with -m")
    expect(f"stranger-{columns}", terminal.text())
    expect("stranger-gpus", said(world.run("gpus")))
    stranger.kill()
    stranger.wait()
    assert terminal.finish() == 0
    assert terminal.text() == ""


def test_one_waiter_of_a_terminal_draws_and_counts_the_others(world: World, tmp_path: Path) -> None:
    first = running(world, "python", "t.py")
    (tmp_path / "Makefile").write_text(f"all: a b c d e f\na b c d e f:\n\t@{world.command} -- echo $@ >> log\n")
    terminal = Terminal(world, ["make", "-sj8"], cwd=tmp_path)
    terminal.await_text("6 jobs wait")
    expect("make-j8", terminal.text())
    world.run("kill", str(first))
    assert terminal.finish() == 0
    assert terminal.text() == ""
    assert sorted((tmp_path / "log").read_text().split()) == list("abcdef")


@pytest.mark.parametrize("first_to_die", [2, 7], ids=["the one that draws", "another"])
def test_an_interrupted_make_leaves_nothing_of_the_line(world: World, tmp_path: Path, first_to_die: int) -> None:
    """make writes as soon as one recipe has died; the others, stopped here, come too late to clean up for it."""
    running(world, "python", "t.py")
    (tmp_path / "Makefile").write_text(f"all: a b c d e f\na b c d e f:\n\t@{world.command} -- echo $@\n")
    terminal = Terminal(world, ["sh", "-c", "trap : INT; make -sj8; echo over"], cwd=tmp_path)
    terminal.await_text("6 jobs wait for a GPU, first is 2")
    pids = {job["id"]: job["pid"] for job in world.jobs(all=False)}
    late = [pid for number, pid in pids.items() if number not in (1, first_to_die)]
    for pid in late:
        os.kill(pid, signal.SIGSTOP)
    terminal.send("\x03")
    # Whether make says which recipe was interrupted depends on what it learns first, the signal or the death.
    wait_until(lambda: not Path(f"/proc/{pids[first_to_die]}").exists(), "the first to die")
    for pid in late:
        os.kill(pid, signal.SIGCONT)
    terminal.await_text("over")
    for line in terminal.text().splitlines():
        assert not line or line.startswith(("^C", "make: ", "over")), terminal.text()
        assert not line.startswith("make: ") or line.endswith(("Interrupt", "Stop.", "jobs....")), terminal.text()
        assert "gpurun" not in line, terminal.text()
        assert "for a GPU" not in line, terminal.text()


@pytest.mark.parametrize("kind", ["dumb", ""])
def test_on_a_terminal_that_cannot_move_its_cursor_one_plain_line_is_printed(world: World, kind: str) -> None:
    first = running(world, "python", "train.py")
    terminal = Terminal(world, [world.command, "echo", "it runs"], columns=200, env={"TERM": kind})
    terminal.await_text("waits for a GPU")
    world.run("kill", str(first))
    assert terminal.finish() == 0
    assert b"\x1b" not in terminal.raw
    lines = terminal.text().splitlines()
    assert len(lines) == 2, lines
    assert lines[1] == "it runs"


def test_the_waiting_line_survives_smaller_and_larger_terminals(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, ["sh", "-c", f"echo before; {world.command} true"], columns=120)
    terminal.await_text("so far) has GPU 0")
    for columns in (40, 100):
        terminal.resize(columns)
        wanted = "…" if columns == 40 else "so far) has GPU 0"
        terminal.await_text(wanted)
        lines = terminal.text().splitlines()
        assert lines[0] == "before"
        assert len(lines) == 2, lines
        assert len(lines[1]) < columns, lines


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_the_waiting_line_is_erased_before_a_signal_kills(world: World, number: signal.Signals) -> None:
    running(world, "python", "train.py")
    # The shell keeps the terminal: when a session's leader ends, what was written last may be lost.
    terminal = Terminal(world, ["sh", "-c", f"trap : INT; {world.command} true; echo status $?"])
    terminal.await_text("waits for a GPU")
    if number is signal.SIGINT:
        terminal.send("\x03")
    else:
        os.kill(world.job(2)["pid"], number)
    assert terminal.finish() == 0
    assert "waits" not in terminal.text()
    assert f"status {128 + number}" in terminal.text()
    wait_until(lambda: len(world.live()) == 1, "the waiting job to leave the line")


def test_a_hang_up_takes_a_waiting_job_out_of_the_line(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, [world.command, "true"])
    terminal.await_text("waits for a GPU")
    terminal.hang_up()
    wait_until(lambda: len(world.live()) == 1, "the waiting job to leave the line")


def test_stopped_in_the_shell_it_keeps_its_place_and_is_drawn_again(world: World) -> None:
    first = running(world, "python", "train.py")
    terminal = Terminal(world, ["bash", "--norc", "-i"], columns=100, env={"PS1": "$ "})
    terminal.await_text("$")
    terminal.send(f"{world.command} sh -c 'echo it runs'\n")
    terminal.await_text("waits for a GPU")
    terminal.send("\x1a")
    terminal.await_text("Stopped")
    assert "waits for" not in terminal.text()
    rules = {job["state"]: job["why"] and job["why"]["rule"] for job in world.jobs(all=False)}
    assert rules == {"running": None, "waiting": "stopped"}
    expect("stopped-ls", world.run("ls").stdout)
    terminal.send("clear; bg\n")
    terminal.await_text("has GPU 0")
    terminal.send("clear; fg\n")
    terminal.await_text("waits for a GPU, 1st in line")
    world.run("kill", str(first))
    terminal.await_text("\nit runs")  # not the shell's word of what it brought to the front
    assert "waits for" not in terminal.text()
    terminal.send("exit\n")
    terminal.finish()


def test_in_the_background_one_plain_line_is_printed_even_under_tostop(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, ["bash", "--norc", "-i"], columns=200, env={"PS1": "$ "})
    terminal.send(f"stty tostop; {world.command} true & sleep 1; jobs; echo END$?\n")
    terminal.await_text("END0")
    text = terminal.text()
    assert text.count("waits for a GPU") == 1, text
    assert "Running" in text, text
    assert "Stopped" not in text, text


def test_a_loop_in_the_background_is_told_of_in_one_line_and_runs_in_its_order(world: World, tmp_path: Path) -> None:
    """Situation 41. What has the GPU first is a job of its own, or the race for it would be the first of the loop's."""
    first = running(world, "python", "train.py")
    terminal = Terminal(world, ["bash", "--norc", "-i"], columns=200, env={"PS1": "$ "}, cwd=tmp_path)
    loop = f"for i in $(seq 40); do {world.command} -- sh -c 'echo $0 >> log' $i & done 2> /dev/tty\n"
    terminal.send(loop)
    terminal.await_text("40 jobs wait for a GPU, first is 2", 60)
    lines = [line for line in terminal.text().splitlines() if "gpurun:" in line]
    expect("loop-40", "\n".join(line.removeprefix("$ ") for line in lines))
    world.run("kill", str(first))
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and len(log.read_text().split()) == 40, "all to have run", 90)
    assert log.read_text().split() == [str(number) for number in range(1, 41)]
    assert terminal.text().count("wait for a GPU") == 1


def test_the_order_of_a_loop_is_that_of_its_starts_also_for_the_next_arbiter(world: World, tmp_path: Path) -> None:
    """All that tells an order tells the same one: the echo of renice, why, and who is served."""
    first = running(world, "python", "train.py")
    loop = f"for i in $(seq 20); do {world.command} -q -- sh -c 'echo $0 $GPURUN_JOB >> log' $i & done; wait"
    shell = world.adopt(subprocess.Popen(["sh", "-c", loop], cwd=tmp_path, env=world.env))
    wait_until(lambda: len(world.live()) == 21, "all to wait", 60)
    before = world.arbiter_pid()
    assert before
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: world.arbiter_pid() not in (None, before), "the next arbiter", 15)
    echoed = world.run("renice", "--by", "1", "2-21").stdout
    places = {int(number): int(place) for number, place in re.findall(r"job (\d+): .*, (\d+)\w\w of 20", echoed)}
    why = world.run("why").stdout
    assert why.startswith(f"job {min(places, key=lambda number: places[number])} ")
    world.run("kill", str(first))
    assert shell.wait(60) == 0
    ran = [[int(word) for word in line.split()] for line in (tmp_path / "log").read_text().splitlines()]
    assert [row for row, _number in ran] == list(range(1, 21))
    assert [number for _row, number in ran] == sorted(places, key=lambda number: places[number])


def test_without_a_terminal_waiting_is_silent(world: World) -> None:
    running(world, "python", "train.py")
    aloud = world.start("-v", "true")
    wait_until(lambda: len(world.live()) == 2, "one to wait")
    quiet = world.start("true")
    wait_until(lambda: len(world.live()) == 3, "two to wait")
    assert aloud.stderr is not None
    line = aloud.stderr.readline()
    expect("verbose-waiting", line)
    quiet.terminate()
    assert quiet.communicate()[1] == ""


def test_cancelled_by_somebody_it_says_by_whom_and_dies_of_term(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, [world.command, "true"])
    terminal.await_text("waits for a GPU")
    expect("kill-waiting", said(world.run("kill", "2")))
    assert terminal.finish() == -signal.SIGTERM
    expect("killed-waiting", terminal.text())


def test_two_gpus_behind_small_ones_are_kept(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    running(world, "-m", "8G", "sleep", "600")
    terminal = Terminal(world, [world.command, "-g", "2", "true"], columns=120)
    terminal.await_text("kept free for it")
    expect("kept", terminal.text())
    expect("kept-gpus", on_terminal(world, "gpus"))
    expect("kept-why", said(world.run("why")))


# --- situations 4, 9, 11, 27, 29: lists -------------------------------------------------------------------------------


@pytest.fixture
def sweep(world: World) -> World:
    """One runs, a sweep of twelve waits, and three others. No priority is a step higher: nobody is made to give way."""
    running(world, "python", "train.py")
    for number in range(12):
        queue(world, "-N", f"lr-{number}", "python", "t.py", "--lr", str(number))
    queue(world, "-p", "5", "-m", "8G", "python", "paper.py", "--with", "many arguments", "that", "make", "it long")
    queue(world, "-N", "bad\x1b]31m\u202ename", "sh", "-c", "echo \x1b]0;title\x07 日本語")
    queue(world, "-N", "日本語", "python", "t.py", "日本語", "日本語日本語日本語")
    return world


def test_lists(sweep: World) -> None:
    """One world for many screens: starting sixteen processes takes longer than looking."""
    for columns in (80, 200):
        expect(f"ls-{columns}", on_terminal(sweep, "ls", columns=columns))
        assert all(columns_of(line) <= columns for line in on_terminal(sweep, "ls", columns=columns).splitlines())
    expect("ls-120", on_terminal(sweep, "ls", columns=120))
    expect("ls-narrow", on_terminal(sweep, "ls", columns=40))
    expect("ls-pipe", said(sweep.run("ls")))
    cron = {"PATH": "/usr/bin:/bin", "HOME": "/", "SHELL": "/bin/sh"}
    kept = {name: sweep.env[name] for name in ("GPURUN_DIR", "GPURUN_SIM")}
    plain = subprocess.run([sweep.command, "ls"], env=cron | kept, capture_output=True, text=True, check=True)
    assert shown(said(plain)) == shown(said(sweep.run("ls")))
    expect("ls-named", said(sweep.run("ls", "2-4")))
    expect("ls-user", said(sweep.run("ls", "-u", "nobody")))
    expect("why-first", on_terminal(sweep, "why"))
    expect("why-second", said(sweep.run("why", "lr-3")))
    expect("why-running", said(sweep.run("why", "1")))
    expect("renice", said(sweep.run("renice", "9", "lr-3")))
    expect("renice-by", said(sweep.run("renice", "--by", "-5", "lr-3", "lr-4", "99")))
    expect("pause", said(sweep.run("pause", "lr-5", "99")))
    expect("resume", said(sweep.run("resume", "lr-5")))
    expect("drain", said(sweep.run("gpus", "drain", "0")) + said(sweep.run("gpus")))
    expect("undrain", said(sweep.run("gpus", "undrain", "0")) + said(sweep.run("gpus", "undrain", "0")))
    raw = Terminal(sweep, [sweep.command, "ls", "-a"], columns=200)
    raw.finish()
    for poison in (b"\x1b[31mname", b"\x1b]0", b"\x07", "\u202e".encode()):
        assert poison not in raw.raw
    told = json.loads(sweep.run("ls", "--json").stdout)["jobs"]
    assert [job["id"] for job in told] == list(range(1, 17)), "JSON is never folded"
    expect("kill-sweep", said(sweep.run("kill", "lr-*")).split("\n")[0])
    expect("ls-ended", said(sweep.run("ls", "-a")))


def test_colour_only_on_a_terminal_that_wants_it(world: World) -> None:
    running(world, "python", "train.py")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        terminal = Terminal(world, [world.command, "ls"], env=env)
        terminal.finish()
        terminal.text()
        assert (b"\x1b[" in terminal.raw) is coloured, env
    assert "\x1b" not in world.run("ls").stdout


def test_kill_all_asks_on_a_terminal_when_more_than_one_runs(make_world: MakeWorld) -> None:
    world = make_world("2x24G")
    for _ in range(2):
        running(world, "sleep", "600")
    terminal = Terminal(world, [world.command, "kill", "--all"])
    terminal.await_text("[y/N]")
    expect("kill-all-asks", terminal.text())
    terminal.send("n\n")
    assert terminal.finish() == 1
    assert [job["state"] for job in world.jobs(all=False)] == ["running", "running"]
    expect("kill-all-yes", on_terminal(world, "kill", "--all", "-y"))
    wait_until(lambda: not world.live(), "both to end")


@pytest.mark.parametrize("word", ["-9", "-KILL", "-SIGKILL", "-s9", "--signal=KILL"])
def test_kill_takes_signals_as_kill_does(world: World, word: str) -> None:
    number = running(world, "python", "train.py")
    assert said(world.run("kill", word, str(number))) == f"job {number}: killed (KILL)\nexit 0\n"
    wait_until(lambda: world.job(number)["result"], "its end")
    assert world.job(number)["result"]["signal"] == 9


# --- situations 17, 18, 21, 22, 28: giving way, leftovers, reboot, yesterday ------------------------------------------

TRAINING = """\
import os, sys, time
for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(","):
    with open(f"{os.environ['GPURUN_SIM_DIR']}/{gpu}/{os.getpid()}", "w") as memory:
        memory.write(str(int(sys.argv[1].removesuffix("G")) * 2**30))
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
"""


@pytest.fixture
def big(make_world: MakeWorld, tmp_path: Path) -> World:
    """A card of 80 GB, and a training that holds as much as it is told until a file is there."""
    world = make_world("1x80G")
    (tmp_path / "train.py").write_text(TRAINING)
    (tmp_path / "python").symlink_to(sys.executable)
    world.env["PATH"] = f"{tmp_path}:{world.env['PATH']}"
    return world


def holds(world: World, number: int, size: int) -> None:
    """Wait until the arbiter has seen what a job holds."""
    wait_until(lambda: (world.job(number)["peak_bytes"] or 0) >= size * 2**30, f"job {number} to be seen holding {size}G")


def test_both_terminals_tell_of_a_pause(big: World, tmp_path: Path) -> None:
    first = Terminal(big, [big.command, "-r", "python", "train.py", "20G", "end-1"], columns=80, cwd=tmp_path)
    wait_until(lambda: big.state(1) == "running", "job 1 to run")
    holds(big, 1, 20)
    second = Terminal(big, [big.command, "-p", "urgent", "python", "train.py", "4G", "end-2"], columns=120, cwd=tmp_path)
    wait_until(lambda: big.state(1) == "paused", "job 1 to give way")
    first.await_text("goes on by itself")
    second.await_text("are free")
    (tmp_path / "end-2").touch()
    assert second.finish() == 0
    first.await_text("goes on after")
    (tmp_path / "end-1").touch()
    assert first.finish() == 0
    expect("paused-terminal", first.text())
    expect("urgent-terminal", second.text())


def test_an_urgent_job_that_cannot_interrupt_says_why(big: World, tmp_path: Path) -> None:
    first = Terminal(big, [big.command, "python", "train.py", "78G", "end-1"], cwd=tmp_path)
    wait_until(lambda: big.state(1) == "running", "job 1 to run")
    holds(big, 1, 78)
    second = Terminal(big, [big.command, "-p", "urgent", "true"], columns=120)
    second.await_text("may not be restarted")
    expect("urgent-waits", second.text())
    (tmp_path / "end-1").touch()
    assert (first.finish(), second.finish()) == (0, 0)


def test_a_leftover_is_named_with_what_ends_it(big: World, tmp_path: Path) -> None:
    left = "python train.py 20G end-1 > /dev/null 2>&1 < /dev/null & while ! ls $GPURUN_SIM_DIR/0/$!; do :; done"
    assert big.run("sh", "-c", left, cwd=tmp_path).returncode == 0
    wait_until(lambda: "left by job 1" in big.run("gpus").stdout, "the leftover to be found")
    terminal = Terminal(big, [big.command, "true"], columns=120)
    terminal.await_text("ends it")
    waits = terminal.text()
    expect("leftover", waits)
    expect("leftover-gpus", said(big.run("gpus")))
    assert big.run("kill", "1").returncode == 0
    assert terminal.finish() == 0


def test_after_a_restart_of_the_machine(world: World) -> None:
    number = running(world, "-N", "nightly", "python", "train.py")
    killed = [psutil.Process(pid) for pid in (world.keeper_pid(), world.arbiter_pid(), world.job(number)["pid"]) if pid]
    for process in killed:
        process.kill()
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to be gone")
    with contextlib.closing(sqlite3.connect(world.database)) as database:
        database.execute("UPDATE job SET boot_id = '00000000-0000-0000-0000-000000000001'")
        database.commit()
    expect("reboot-ls", said(world.run("ls", "-a")))
    again = world.start("again", str(number))
    wait_until(lambda: world.state(number + 1) == "running", "it to run again")
    again.kill()


def test_yesterdays_log(world: World, tmp_path: Path) -> None:
    assert world.run("-d", "-N", "nightly", "sh", "-c", "echo first").returncode == 0
    assert world.run("wait", "1").returncode == 0
    assert world.run("-d", "-N", "nightly", "sh", "-c", "echo second; exit 3").returncode == 0
    assert world.run("wait", "2").returncode == 3
    Terminal(world, [world.command, "echo", "kept nowhere"]).finish()
    wait_until(lambda: world.job(3)["result"], "job 3 to end")
    expect("history", said(world.run("history", "--since", "yesterday")))
    expect("history-80", on_terminal(world, "history", "--since", "yesterday"))
    expect("history-narrow", on_terminal(world, "history", columns=50))
    expect("logs-nightly", said(world.run("logs", "nightly")))
    expect("logs-not-kept", said(world.run("logs", "3")))


# --- gpus ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def claimed(uuid: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(b"\0gpurun/" + uuid.encode())
        sock.listen(8)
        yield


def test_gpus_tells_claims_jobs_and_the_frozen_keys(make_world: MakeWorld) -> None:
    world = make_world("3x24G")
    running(world, "-i", "0", "-m", "8G", "sleep", "600")
    first = json.loads(world.run("gpus", "--json").stdout)["gpus"]
    keys = ["index", "uuid", "name", "total_bytes", "free_bytes", "state", "jobs", "foreign", "claim", "load"]
    assert [list(gpu) for gpu in first] == [keys] * 3
    assert [gpu["state"] for gpu in first] == ["used", "free", "free"]
    assert first[0]["jobs"] == [1]
    with claimed(first[2]["uuid"]):
        told = json.loads(world.run("gpus", "--json").stdout)["gpus"][2]
        assert told["state"] == "claimed"
        assert told["claim"] == {"pid": os.getpid(), "user": USER}
        for columns in (80, 200):
            expect(f"gpus-{columns}", on_terminal(world, "gpus", columns=columns))
        expect("gpus-pipe", said(world.run("gpus")))


def test_a_drained_gpu_stays_drained_when_the_arbiter_is_another(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    assert world.run("gpus", "drain", "0").returncode == 0
    pid = world.arbiter_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: world.arbiter_pid() not in (None, pid), "another arbiter, by the keeper")
    assert world.run("-n", "true").returncode == 124
    expect("drained-wait", said(world.run("-v", "-w", "1s", "true")))
    assert world.run("gpus", "undrain", "0").returncode == 0
    assert world.run("-n", "true").returncode == 0


# --- ls -w --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["q", "ctrl-c", "TERM", "HUP"])
def test_ls_w_stays_and_leaves_the_terminal_as_it_was(world: World, end: str) -> None:
    number = running(world, "python", "train.py")
    terminal = Terminal(world, [world.command, "ls", "-w"], lines=10)
    terminal.await_text("train.py")
    queue(world, "-N", "new", "python", "t.py")
    terminal.await_text("new: python t.py")
    expect("ls-w", terminal.text())
    world.run("kill", "-9", str(number))
    wait_until(lambda: "train.py" not in terminal.text(), "the ended job to go from the screen")
    if end == "q":
        terminal.send("q")
    elif end == "ctrl-c":
        terminal.send("\x03")
    else:
        terminal.child.send_signal(signal.Signals["SIG" + end])
    expected = {"q": 0, "ctrl-c": -signal.SIGINT, "TERM": -signal.SIGTERM, "HUP": -signal.SIGHUP}[end]
    assert terminal.finish() == expected
    assert terminal.attributes() == terminal.before
    assert terminal.entered_and_left() == (1, 1)
    frames = terminal.raw.split(b"\x1b[?2026h")[1:]
    assert frames
    assert not any(b"\x1b[2J" in frame for frame in frames), "a frame is drawn over the last one"


def states_of_children(terminal: Terminal) -> list[str]:
    """The states of what a shell has started."""
    shell = terminal.child.pid
    children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in children]


def test_ls_w_in_the_background_stops_and_leaves_the_screen_alone(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, ["bash", "--norc", "-i"], env={"PS1": "$ "})
    terminal.await_text("$")
    terminal.send(f"{world.command} ls -w &\n")
    terminal.await_text("[1]")
    wait_until(lambda: states_of_children(terminal) == ["T"], "the list to stop")
    terminal.send("jobs\n")
    terminal.await_text("Stopped")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")
    assert terminal.entered_and_left() == (0, 0)
    terminal.send("fg\n")
    wait_until(lambda: terminal.entered_and_left() == (1, 0), "the list to come with fg")
    terminal.send("q")
    wait_until(lambda: terminal.entered_and_left() == (1, 1), "it to leave")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")
    terminal.send("clear; echo all $((3 + 4))\n")
    terminal.await_text("all 7")


def test_ls_w_is_stopped_sent_to_the_background_and_brought_back(world: World) -> None:
    running(world, "python", "train.py")
    terminal = Terminal(world, ["bash", "--norc", "-i"], env={"PS1": "$ "})
    terminal.await_text("$")
    terminal.send(f"{world.command} ls -w\n")
    wait_until(lambda: terminal.entered_and_left() == (1, 0), "the list")
    terminal.send("\x1a")
    terminal.await_text("Stopped")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")  # what is typed before is lost
    assert terminal.entered_and_left() == (1, 1)
    terminal.send("clear; bg; echo typed $((3 + 4))\n")
    terminal.await_text("typed 7")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")
    wait_until(lambda: states_of_children(terminal) == ["T"], "the list to stop")
    terminal.send("clear; jobs\n")
    terminal.await_text("Stopped")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")
    assert terminal.entered_and_left() == (1, 1)
    terminal.send("clear; fg\n")
    wait_until(lambda: terminal.entered_and_left() == (2, 1), "the list to come back")
    terminal.send("q")
    wait_until(lambda: terminal.entered_and_left() == (2, 2), "it to leave")
    wait_until(lambda: terminal.text().endswith("$"), "the prompt")
    terminal.send("clear; stty -a | grep -o ' icanon'; stty -a | grep -o ' echo '\n")
    terminal.await_text(" icanon")


def test_ls_w_that_was_stopped_while_it_asked_draws_nothing_in_the_background(world: World) -> None:
    running(world, "python", "train.py")
    arbiter = world.arbiter_pid()
    assert arbiter is not None
    terminal = Terminal(world, ["bash", "--norc", "-i"], env={"PS1": "$ "})
    terminal.await_text("$")
    os.kill(arbiter, signal.SIGSTOP)  # so it asks, and is not answered
    try:
        terminal.send(f"{world.command} ls -w\n")
        wait_until(lambda: terminal.entered_and_left() == (1, 0), "the list")
        terminal.send("\x1a")
        terminal.await_text("Stopped")
        wait_until(lambda: terminal.text().endswith("$"), "the prompt")
        terminal.send("clear; bg; echo typed $((3 + 4))\n")
        terminal.await_text("typed 7")
    finally:
        os.kill(arbiter, signal.SIGCONT)
    wait_until(lambda: states_of_children(terminal) == ["T"], "the list to stop")
    assert "typed 7" in terminal.text()
    assert terminal.raw.count(b"\x1b[?2026h") == 0, "no frame was drawn"
    terminal.send("fg\n")
    terminal.await_text("train.py")
    terminal.send("q")
    wait_until(lambda: terminal.entered_and_left() == (2, 2), "it to leave")


def test_ls_w_follows_the_size_of_its_terminal(world: World) -> None:
    running(world, "python", "train.py", "--with", "many-arguments")
    terminal = Terminal(world, [world.command, "ls", "-w"], columns=100)
    terminal.await_text("many-arguments")
    terminal.resize(40)
    wait_until(lambda: terminal.text() and b"PRIO" not in terminal.raw.split(b"\x1b[?2026h")[-1], "a narrower table")
    terminal.send("q")
    assert terminal.finish() == 0


def test_ls_w_names_a_job_that_is_none(world: World) -> None:
    terminal = Terminal(world, [world.command, "ls", "-w", "99"])
    terminal.await_text("job 99: no such job")
    terminal.send("q")
    assert terminal.finish() == 0


# What stays on the screen, and what it says first of why it cannot.
STAYING = {"ls -w": "gpurun: ls: --watch: ", "top": "gpurun: top: "}


@pytest.mark.parametrize("kind", ["dumb", ""])
@pytest.mark.parametrize("words", STAYING)
def test_what_stays_needs_a_terminal_that_can_move_its_cursor(world: World, words: str, kind: str) -> None:
    terminal = Terminal(world, [world.command, *words.split()], env={"TERM": kind}, columns=200)
    assert terminal.finish() == 2
    assert b"\x1b" not in terminal.raw
    assert terminal.text() == STAYING[words] + "needs a terminal that can move its cursor: TERM is dumb or not set"


@pytest.mark.parametrize("words", STAYING)
def test_what_stays_ends_in_the_background_where_no_shell_could_bring_it_back(world: World, words: str) -> None:
    terminal = Terminal(world, ["bash", "--norc", "-i"], env={"PS1": "$ "}, columns=100)
    terminal.await_text("$")
    terminal.send(f"({world.command} {words} &)\n")
    terminal.await_text(STAYING[words] + "not in the foreground of its terminal")
    assert terminal.entered_and_left() == (0, 0)


# --- nesting ------------------------------------------------------------------------------------------------------


def test_what_a_nested_request_cannot_have(world: World) -> None:
    done = world.run("-m", "8G", world.command, "-g", "2", "true")
    expect("nested-too-many", said(done))
    assert world.run(world.command, "true").returncode == 0
