"""The stub: a program behind it is as the program alone, and can be ended and run again.

What is compared with a bare start is compared as in `fidelity`; only what a parent in between must change is left out.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from fidelity import OURS, Case, Counted, Run, check, environment, launch, outcome, probe, probe_all
from shells import SCENARIOS, SHELLS, Terminal
from waiting import let_pass, wait_until
from world import World

MakeWorld = Callable[..., World]
OPTIONS = ["-r"]
FILE = b"GPURUN_PREEMPT_FILE"
shells = pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in SHELLS])


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def python(code: str, *words: str) -> list[str]:
    return [sys.executable, "-c", code, *words]


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def names_below(pid: int) -> set[str]:
    names = set()
    for process in below(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.add(process.name())
    return names


def requeue(world: World, job: int) -> None:
    done = world.run("kill", "--requeue", str(job))
    assert (done.returncode, done.stderr) == (0, ""), done


# As the program alone


def test_every_exit_status_is_mirrored(warm: World, counted: Counted) -> None:
    codes = [code for code in range(256) if code not in (75, 99)]  # those ask to be run again
    pairs = launch(warm, [Case(str(code), ["/bin/sh", "-c", f"exit {code}"]) for code in codes], options=OPTIONS)
    assert [pair.bare.status for pair in pairs] == [code << 8 for code in codes]
    check(counted, pairs)


def test_death_and_stop_by_every_signal_is_mirrored(warm: World, counted: Counted) -> None:
    numbers = [*range(1, 32), *range(34, 65)]
    steps = [["group"], ["limit", "RLIMIT_CORE", 1 << 41, 1 << 41]]
    pairs = launch(
        warm, [Case(f"{n}", ["/bin/sh", "-c", 'kill -"$0" $$', str(n)], steps) for n in numbers], options=OPTIONS
    )
    assert [pair.name for pair in pairs if pair.bare.stops] == ["19", "20", "21", "22"]
    check(counted, pairs)


def inside(run: Run) -> dict[str, Any]:
    """What the probe found, but for what a parent in between changes: pids, its group, and that it dies with it."""
    assert run.report is not None, outcome(run)
    found = {name: value for name, value in run.report.items() if name not in ("pid", "alarm_left")}
    entries = [entry.encode("latin-1") for entry in run.report["environ"]]
    found["environ"] = [entry for entry in environment(entries) if not entry.startswith(FILE + b"=")]
    found["stat"] = {name: found["stat"][name] for name in found["stat"] if name not in ("ppid", "pgrp", "session", "tpgid")}
    found["controls"] = {**found["controls"], "pdeathsig": 0}
    return {**outcome(run), **found}


def test_what_the_program_finds_is_the_callers(warm: World, counted: Counted) -> None:
    strange = [b"=odd", b"X-Y=3", b"EMPTY=", b"TWICE=1", b"TWICE=2", b"BYTES=\xff\xfe", b"PYTHONPATH=/nowhere"]
    base = [os.fsencode(f"{name}={value}") for name, value in warm.env.items()]
    cases = [
        probe(warm, "plain"),
        probe(warm, "strange environment", env=[*base, *strange]),
        probe(warm, "no PATH", env=[entry for entry in base if not entry.startswith(b"PATH=")]),
        probe(warm, "C locale", env=[*base, b"LC_ALL=C"]),
        probe(warm, "descriptors", ["hold", 7, "/dev/null", os.O_RDWR, True], ["hold", 99, "/dev/null", os.O_RDONLY, True]),
        probe(warm, "descriptors closed", ["close", [0]]),
        probe(warm, "ignored", ["ignore", [1, 2, 3, 13, 15, 17, 20, 25]]),
        probe(warm, "blocked", ["block", [1, 10, 12, 15, 17, 34]]),
        probe(warm, "pending", ["block", [10]], ["pend", 10, False]),
        probe(warm, "folder, umask", ["chdir", "/usr"], ["umask", 0o27]),
        probe(warm, "limits", ["limit", "RLIMIT_NOFILE", 100, 100], ["nice", 3]),
        probe(warm, "affinity", ["affinity", [0]]),
        probe(warm, "group", ["group"]),
        probe(warm, "session", ["session"]),
        probe(warm, "a timer", ["timer", signal.ITIMER_REAL, 500.0]),
    ]
    pairs = probe_all(warm, cases, options=OPTIONS)
    for pair in pairs:
        assert pair.under.report is not None, pair.under
        names = [entry.encode("latin-1").partition(b"=")[0] for entry in pair.under.report["environ"]]
        assert sorted(name for name in names if name in OURS | {FILE}) == sorted(OURS | {FILE})
    # A signal that was pending for gpurun itself is sent on.
    check(counted, pairs, inside)


def test_a_pipe_passes_through(world: World) -> None:
    done = world.run(*OPTIONS, "sh", "-c", "cat; echo err >&2", input="x" * 300_000)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 300_000, "err\n")


@pytest.mark.parametrize("number", [1, 2, 3, 10, 12, 14, 15, 34], ids=str)
def test_a_signal_sent_to_the_stub_reaches_the_program_once(world: World, tmp_path: Path, number: int) -> None:
    log = tmp_path / "log"
    code = (
        "import signal, sys, time\n"
        f"def hit(n, f): open({str(log)!r}, 'a').write(f'{{n}}\\n')\n"
        f"signal.signal({number}, hit)\n"
        f"open({str(log)!r}, 'a').write('runs\\n')\n"
        "while True: signal.pause()"
    )
    stub = world.start(*OPTIONS, *python(code))
    wait_until(lambda: lines(log) == ["runs"], "the program to run")
    for count in (1, 2):
        stub.send_signal(number)
        wait_until(lambda c=count: lines(log) == ["runs"] + [str(number)] * c, f"signal {count}")
    stub.kill()
    assert lines(log) == ["runs", str(number), str(number)]


def test_what_the_program_sends_to_its_group_comes_back_to_nobody(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = (
        "import os, signal, time\n"
        f"signal.signal(10, lambda n, f: open({str(log)!r}, 'a').write('hit\\n'))\n"
        "os.kill(0, 10); time.sleep(0.3)"
    )
    assert world.run(*OPTIONS, *python(code), start_new_session=True).returncode == 0
    assert lines(log) == ["hit"]


# Terminals


class StubTerminal(Terminal):
    """Compares what the user sees: state, foreground, session; not whose child the program is."""

    def stat(self, pid: int) -> dict[str, Any]:
        found = super().stat(pid)
        return {name: found[name] for name in found if name not in ("group is its pid", "parent is the shell")}


PLAYED = [scene for scene in SCENARIOS if scene.__name__ not in ("in_background", "tty_facts")]


@shells
@pytest.mark.parametrize("scenario", PLAYED, ids=lambda scenario: scenario.__name__)
def test_on_a_terminal(warm: World, counted: Counted, tmp_path: Path, shell: str, scenario: Any) -> None:
    def play(prefix: str) -> list[Any]:
        terminal = StubTerminal(shell, warm, tmp_path / "here", prefix)
        # `RUN cat` looks for a child of the shell.
        terminal.child = lambda name: below_shell(terminal, name)  # type: ignore[method-assign]
        try:
            return list(scenario(terminal))
        finally:
            terminal.close()
            shutil.rmtree(tmp_path / "here")

    bare, under = play(""), play(f"{warm.command} -r")
    counted([f"{scenario.__name__} {number}" for number in range(len(bare))], bare, under)


def below_shell(terminal: Terminal, name: str) -> int:
    def look() -> int | None:
        for process in below(terminal.screen.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.name() == name and terminal.stat(process.pid).get("foreground"):
                    return process.pid
        return None

    return wait_until(look, f"{name} to run")


def vim(t: Terminal) -> list[Any]:
    t.type("RUN vim -u NONE -N -n -i NONE story.txt")
    pid = below_shell(t, "vim")
    wait_until(lambda: not cooked(t), "vim to take the terminal")
    t.screen.send("ihello\x1b")
    t.screen.send("\x1a")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status(), cooked(t)]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    wait_until(lambda: not cooked(t), "vim to take the terminal again")
    t.screen.send("\x1b:wq\r")
    t.becomes(pid, state="gone")
    return [*found, t.status(), (t.folder / "story.txt").read_text(), cooked(t)]


def pdb(t: Terminal) -> list[Any]:
    (t.folder / "prog.py").write_text("x = 20\ny = 22\nprint('sum', x + y)\n")
    t.type(f"RUN {sys.executable} -m pdb prog.py")
    t.screen.expect_exact("(Pdb) ")
    t.screen.send("next\n")
    t.screen.expect_exact("(Pdb) ")
    t.screen.send("p x * 2 + 2\n")
    found: list[Any] = [t.shown(r"\r\n(42)\r\n")]
    t.screen.expect_exact("(Pdb) ")
    t.screen.send("continue\n")
    found.append(t.shown("(sum 42)"))
    t.screen.expect_exact("(Pdb) ")
    t.screen.send("quit\n")
    return [*found, t.status(), cooked(t)]


def inner_bash(t: Terminal) -> list[Any]:
    t.type("RUN bash --norc --noprofile --noediting -i")
    inner = below_shell(t, "bash")
    # Until it has its own process group it may still be changing the terminal's modes.
    wait_until(lambda: os.getpgid(inner) == inner, "the inner bash to have the terminal")
    t.screen.send("echo in''side $((6 * 7))\n")
    found: list[Any] = [t.shown(r"(inside 42)\r\n")]
    t.screen.send("sleep 500\n")
    pid = below_shell(t, "sleep")
    t.key("z")
    found.append(t.becomes(pid, state="T", foreground=False))
    t.screen.send("fg\n")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    t.becomes(pid, state="gone")
    t.screen.send("exit 7\n")
    wait_until(lambda: "bash" not in names_below(t.screen.pid), "the inner bash to end")
    return [*found, t.status(), cooked(t)]


def cooked(t: Terminal) -> bool:
    import termios

    return bool(termios.tcgetattr(t.screen.child_fd)[3] & termios.ICANON)


@shells
@pytest.mark.needs("vim")
@pytest.mark.parametrize("scenario", [vim, pdb, inner_bash], ids=lambda scenario: scenario.__name__)
def test_a_program_that_takes_the_terminal(
    warm: World, counted: Counted, tmp_path: Path, shell: str, scenario: Any
) -> None:
    played = []
    for prefix in ("", f"{warm.command} -r"):
        terminal = StubTerminal(shell, warm, tmp_path / "here", prefix)
        try:
            played.append(list(scenario(terminal)))
        finally:
            terminal.close()
            shutil.rmtree(tmp_path / "here")
    counted([f"{scenario.__name__} {number}" for number in range(len(played[0]))], *played)


@pytest.mark.needs("bash")
def test_an_evicted_program_is_told_of_once_and_leaves_the_terminal_usable(
    fresh: Callable[..., World], tmp_path: Path
) -> None:
    world = fresh("1x24G")
    terminal = StubTerminal("bash", world, tmp_path / "here", f"{world.command} -r --signal TERM:1")
    try:
        code = "import signal, sys, termios, time, tty; signal.signal(15, signal.SIG_IGN); tty.setraw(0); time.sleep(600)"
        (terminal.folder / "raw.py").write_text(code)
        terminal.type(f"RUN {sys.executable} raw.py")
        wait_until(lambda: world.state(1) == "running" and not cooked(terminal), "the program to take the terminal")
        taker = world.start("sleep", "600")
        wait_until(lambda: world.state(2) == "waiting", "another to wait")
        assert world.run("renice", "9", "2").returncode == 0
        requeue(world, 1)
        terminal.screen.expect_exact("gpurun: job 1 gave way, waits to run again\r\n")
        wait_until(lambda: cooked(terminal), "the terminal to be as before")
        assert world.state(1) == "waiting"
        assert world.state(2) == "running"
        terminal.key("c")
        assert terminal.status() == "130"
        assert world.job(1)["result"]["kind"] == "cancelled"
        taker.kill()
    finally:
        terminal.close()


# What is left


TREE = """\
import os, subprocess, sys, time
folder = sys.argv[1]
def note(): open(os.path.join(folder, str(os.getpid())), "w").close()
def worker(detach):
    if os.fork() == 0:
        if detach:
            os.setsid()
            if os.fork(): os._exit(0)
        note()
        if detach:
            os.execve("/bin/sleep", ["renamed", "600"], {})
        time.sleep(600)
        os._exit(0)
worker(False); worker(True); worker(False); worker(True)
note()
if len(sys.argv) > 2: import signal; signal.signal(15, signal.SIG_IGN)
time.sleep(600)
"""


def tree(folder: Path) -> list[int]:
    """Pids of the five processes of TREE, once all are there."""
    folder.mkdir(exist_ok=True)
    return [int(path.name) for path in wait_until(lambda: len(list(folder.iterdir())) == 5 and list(folder.iterdir()), "5")]


def alive(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("gpus", ["1", "0"])
def test_kill_9_of_the_stub_leaves_nothing(world: World, tmp_path: Path, gpus: str) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    stub = world.start("-r", "-g", gpus, *python(TREE, str(folder)))
    pids, unseen = tree(folder), []
    wait_until(lambda: world.state(1) == "running", "the job to run")
    if gpus == "1":
        # Two have no environment, no group and no session of the job's: the arbiter has seen them below the stub.
        let_pass(2.5, "a sample")
    else:
        unseen = [psutil.Process(pid) for pid in pids if not psutil.Process(pid).environ()]
        pids = [pid for pid in pids if pid not in {process.pid for process in unseen}]
    stub.kill()
    wait_until(lambda: not alive(pids), "all to be gone")
    for process in unseen:
        process.kill()
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    assert world.job(1)["result"]["signal"] == 9
    assert world.run("-g", "2", "-w", "5s", "true").returncode == 0


def test_kill_9_of_a_stub_leaves_the_job_of_that_number_in_another_world_alone(make_world: MakeWorld) -> None:
    """Without GPUs, whose names are nobody else's, both have the same number and no more."""
    here, there = make_world("1x24G"), make_world("1x24G")
    words = ("-r", "-g", "0", "sh", "-c", "echo on; sleep 60 & wait")
    mine, other = here.start(*words), there.start(*words)
    assert [stub.stdout.readline() for stub in (mine, other)] == ["on\n"] * 2
    theirs = below(other.pid)
    mine.kill()
    wait_until(lambda: here.state(1) == "ended", "the job to end")
    let_pass(1.5, "who is looked for again to be found")
    assert all(process.is_running() for process in theirs)
    assert there.state(1) == "running"
    assert other.poll() is None


@pytest.mark.parametrize("words", [[], ["-9"]], ids=["TERM", "KILL"])
@pytest.mark.parametrize("ignores", [False, True], ids=["dies", "ignores"])
def test_kill_ends_the_whole_tree_for_good(world: World, tmp_path: Path, words: list[str], ignores: bool) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    stub = world.start("-r", "--retries", "5", *python(TREE, str(folder), *(["ignores"] if ignores else [])))
    pids = tree(folder)
    begun = time.monotonic()
    assert world.run("kill", *words, "1").returncode == 0
    number = signal.SIGKILL if words or ignores else signal.SIGTERM
    assert stub.wait(30) == -number
    took = time.monotonic() - begun
    assert took > 9 if ignores and not words else took < 5
    wait_until(lambda: not alive(pids), "all to be gone")
    assert world.job(1)["attempt"] == 1
    assert world.job(1)["result"]["kind"] == "signal"


def test_the_tree_of_an_evicted_run_is_gone_before_the_next(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    world.start("-r", *python(TREE, str(folder)))
    pids = tree(folder)
    for path in folder.iterdir():
        path.unlink()
    requeue(world, 1)
    again = tree(folder)
    assert not alive(pids)
    assert len(alive(again)) == 5
    assert (world.job(1)["attempt"], world.job(1)["times_given_way"]) == (2, 1)


def test_what_outlives_a_program_that_ends_by_itself_lives_on(world: World) -> None:
    done = world.run("-r", "-g", "0", "sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!")
    assert done.returncode == 0
    pid = int(done.stdout)
    assert alive([pid])
    psutil.Process(pid).kill()


# Giving way


TRAIN = """\
import json, os, signal, sys, time
state, log, steps = sys.argv[1], sys.argv[2], 30
stop = False
def asked(number, frame):
    global stop
    stop = True
signal.signal(signal.SIGTERM, asked)
at, value = json.load(open(state)) if os.path.exists(state) else (0, 1)
def note(text): open(log, "a").write(f"{os.environ.get('GPURUN_ATTEMPT', '1')} {os.getppid()} {text}\\n")
note(f"from {at}")
while at < steps:
    value = (value * 6364136223846793005 + at) % 2**64
    at += 1
    time.sleep(0.1)
    if stop:
        with open(state + ".half", "w") as file: json.dump((at, value), file)
        os.rename(state + ".half", state)
        note(f"saved {at}")
        sys.exit(1)
note(f"result {value}")
"""


def result(log: Path) -> list[str]:
    return [line.split()[3] for line in lines(log) if " result " in line]


def test_evicted_five_times_a_training_comes_to_the_same_result(world: World, tmp_path: Path) -> None:
    calm, log = tmp_path / "calm", tmp_path / "log"
    subprocess.run(python(TRAIN, str(tmp_path / "s1"), str(calm)), check=True)
    stub = world.start("-r", *python(TRAIN, str(tmp_path / "s2"), str(log)))
    for attempt in range(1, 6):
        wait_until(lambda a=attempt: any(line.startswith(f"{a} ") for line in lines(log)), f"attempt {attempt}")
        requeue(world, 1)
        wait_until(lambda a=attempt: any(line.startswith(f"{a} ") and "saved" in line for line in lines(log)), "the save")
    assert stub.wait(30) == 0
    assert result(log) == result(calm)
    starts = [line.split()[0] for line in lines(log) if " from " in line]
    assert starts == ["1", "2", "3", "4", "5", "6"], "each attempt once"
    assert {line.split()[1] for line in lines(log)} == {str(stub.pid)}, "always the child of the same stub"
    job = world.job(1)
    assert (job["attempt"], job["times_given_way"], job["pid"]) == (6, 5, stub.pid)
    assert job["result"] == {"kind": "exit", "code": 0, "signal": None, "text": job["result"]["text"]}


def test_evictions_by_rule_are_bounded_by_a_setting_and_pauses_do_not_count(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    (world.directory / "settings.toml").write_text('min_run = "0s"\nmin_return = "0s"\neviction_limit = 1\n')
    fills = "import os, time; open(f'{os.environ[\"GPURUN_SIM_DIR\"]}/0/{os.getpid()}', 'w').write(str(20 << 30)); "
    stub = world.start("-r", "-m", "20G", *python(fills + "print(1, flush=True); time.sleep(600)"))
    assert stub.stdout.readline() == "1\n"
    for _ in range(2):  # a pause is no eviction
        world.run("pause", "1")
        world.run("resume", "1")
    assert world.run("-p", "urgent", "-m", "10G", "true").returncode == 0
    assert stub.stdout.readline() == "1\n"
    assert world.job(1)["attempt"] == 2
    world.start("-p", "urgent", "-m", "10G", "true")
    sentence = "was restarted once for others (setting eviction_limit)"
    wait_until(lambda: sentence in world.run("why", "3").stdout, "the reason to be told")
    assert (world.state(1), world.state(3), world.job(1)["attempt"]) == ("running", "waiting", 2)
    # By hand its owner may do it again, and it is no failure.
    requeue(world, 1)
    wait_until(lambda: world.job(1)["attempt"] == 3, "it to wait again")


def test_exit_0_after_the_request_means_done(world: World) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print(1, flush=True); signal.pause()"
    stub = world.start("-r", *python(code))
    assert stub.stdout.readline() == "1\n"
    requeue(world, 1)
    assert stub.wait(30) == 0
    assert world.job(1)["attempt"] == 1
    assert world.job(1)["state"] == "ended"


def test_one_that_ignores_the_signal_is_killed_after_its_delay(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = f'echo "$GPURUN_ATTEMPT" >> {log}; [ "$GPURUN_ATTEMPT" = 2 ] && exit 4; trap "" TERM; while :; do sleep 0.05; done'
    stub = world.start("-r", "--signal", "TERM:2", "sh", "-c", script)
    wait_until(lambda: lines(log) == ["1"], "the first run")
    begun = time.monotonic()
    requeue(world, 1)
    assert stub.wait(30) == 4
    assert 2.0 <= time.monotonic() - begun < 4.5
    assert lines(log) == ["1", "2"]


@pytest.mark.parametrize("saving", [False, True])
def test_the_list_of_signals_and_the_file(world: World, tmp_path: Path, saving: bool) -> None:
    """One that says that it is saving is spared the second signal, and has the delays all the same."""
    log = tmp_path / "log"
    code = f"""
import os, signal, stat, sys, time
if os.environ["GPURUN_ATTEMPT"] == "2": sys.exit(0)
file = os.environ["GPURUN_PREEMPT_FILE"]
assert not os.path.exists(file)
def hit(number, frame):
    text = open(file).read().strip()
    mode = stat.S_IMODE(os.stat(file).st_mode)
    open({str(log)!r}, "a").write(f"{{number}} {{text}} {{mode:o}}\\n")
    if {saving}: open(file, "w").write("saving")
signal.signal(10, hit); signal.signal(15, hit)
print(1, flush=True)
end = time.monotonic() + 60
while time.monotonic() < end: time.sleep(0.05)
"""
    stub = world.start("-r", "--signal", "USR1:1,TERM:1.5s", *python(code))
    assert stub.stdout.readline() == "1\n"
    begun = time.monotonic()
    requeue(world, 1)
    assert stub.wait(30) == 0
    assert 2.5 <= time.monotonic() - begun < 5
    assert lines(log) == (["10 requested 600"] if saving else ["10 requested 600", "15 requested 600"])
    assert not list(world.folder.glob("preempt*"))


def test_one_that_fails_by_itself_is_not_run_again(world: World, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert world.run("-r", "sh", "-c", f"echo x >> {log}; exit 3").returncode == 3
    assert lines(log) == ["x"]


@pytest.mark.parametrize("code", [75, 99])
def test_exit_75_and_99_ask_to_be_run_again(world: World, tmp_path: Path, code: int) -> None:
    script = f'echo $GPURUN_ATTEMPT; [ $GPURUN_ATTEMPT = 3 ] && exit 8; exit {code}'
    begun = time.monotonic()
    done = world.run("-r", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (8, "1\n2\n3\n")
    assert time.monotonic() - begun >= 3, "it waits before it is tried again"
    assert world.job(1)["times_given_way"] == 0


def test_retries_wait_longer_each_time_and_end_with_the_last_status(world: World) -> None:
    begun = time.monotonic()
    done = world.run("--retries", "2", "sh", "-c", "echo $GPURUN_ATTEMPT; [ -z $GPURUN_PREEMPT_FILE ] || echo file; exit 6")
    assert (done.returncode, done.stdout, done.stderr) == (6, "1\n2\n3\n", "")
    assert 3 <= time.monotonic() - begun < 10
    assert world.job(1)["attempt"] == 3


def test_the_gpu_is_free_while_a_retry_waits(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    stub = world.start("--retries", "1", "sh", "-c", "exit 6")
    wait_until(lambda: world.rows("SELECT 1 FROM job WHERE attempt = 2"), "the first try to fail")
    assert world.run("-n", "true").returncode == 0
    assert stub.wait(30) == 6


@pytest.mark.needs("bash")
def test_ctrl_c_ends_one_with_retries_for_good(fresh: Callable[..., World], tmp_path: Path) -> None:
    world = fresh("1x24G")
    terminal = StubTerminal("bash", world, tmp_path / "here", f"{world.command} --retries 3")
    try:
        pid = terminal.start("RUN VICTIM sleep")
        terminal.key("c")
        terminal.becomes(pid, state="gone")
        assert terminal.status() == "130"
        assert world.job(1)["attempt"] == 1
    finally:
        terminal.close()


def test_only_a_running_restartable_job_can_be_requeued(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the first to run")
    world.start("-r", "sleep", "600")
    wait_until(lambda: world.state(2) == "waiting", "the second to wait")
    for job, words in ((1, "-r"), (2, "waits already"), (3, "no such job")):
        done = world.run("kill", "--requeue", str(job))
        assert done.returncode == 1
        assert words in done.stderr
    assert world.run("kill", "--requeue", "-s", "TERM", "1").returncode == 2
    assert world.state(1) == "running"


def test_killed_while_it_gives_way_it_does_not_come_back(world: World) -> None:
    stub = world.start("-r", "sh", "-c", 'trap "" TERM; echo 1; while :; do sleep 0.1; done')
    assert stub.stdout.readline() == "1\n"
    requeue(world, 1)
    assert world.run("kill", "-9", "1").returncode == 0
    assert stub.wait(30) == -9
    assert world.job(1)["attempt"] == 1
    assert world.job(1)["state"] == "ended"


def test_a_stop_right_after_going_on_counts_however_late_the_stub_wakes(world: World) -> None:
    """Ctrl-Z, fg, Ctrl-Z: the program is stopped for the second time before the stub has noticed the fg."""
    stub = world.start("-r", "sleep", "60")
    wait_until(lambda: world.state(1) == "running", "the job to run")  # before, there is the child that summons the arbiter
    wait_until(lambda: bool(below(stub.pid)), "the program to start")
    (program,) = below(stub.pid)

    def states() -> tuple[str, str]:
        return psutil.Process(stub.pid).status(), program.status()

    stopped, sleeping = psutil.STATUS_STOPPED, psutil.STATUS_SLEEPING
    program.send_signal(signal.SIGSTOP)
    wait_until(lambda: states() == (stopped, stopped), "both to stop")
    program.send_signal(signal.SIGCONT)
    wait_until(lambda: program.status() == sleeping, "the program to go on")
    program.send_signal(signal.SIGSTOP)
    wait_until(lambda: program.status() == stopped, "the program to stop again")
    woken = psutil.Process(stub.pid).num_ctx_switches().voluntary
    stub.send_signal(signal.SIGCONT)
    wait_until(lambda: psutil.Process(stub.pid).num_ctx_switches().voluntary > woken, "the stub to wake")
    wait_until(lambda: states()[0] == stopped, "the stub to stop with it again")
    assert program.status() == stopped
    program.send_signal(signal.SIGCONT)
    stub.send_signal(signal.SIGCONT)
    wait_until(lambda: states() == (sleeping, sleeping), "both to go on")
    stub.send_signal(signal.SIGTERM)
    assert stub.wait(30) == -signal.SIGTERM


def test_one_that_is_stopped_at_its_terminal_stays_so_after_it_gave_way(
    fresh: Callable[..., World], tmp_path: Path
) -> None:
    world = fresh("1x24G")
    terminal = StubTerminal("bash", world, tmp_path / "here", f"{world.command} -r")
    try:
        first = terminal.start("RUN VICTIM sleep")
        terminal.key("z")
        terminal.becomes(first, state="T", foreground=False)
        terminal.status()
        terminal.sign.unlink()
        requeue(world, 1)
        wait_until(lambda: world.state(1) == "waiting", "it to wait")
        assert world.run("true").returncode == 0
        assert not terminal.sign.exists()
        terminal.type("fg")
        second = terminal.pid()
        assert second != first
        terminal.becomes(second, state="S", foreground=True)
        terminal.key("c")
        assert terminal.status() == "130"
    finally:
        terminal.close()


# Crashes

SLOW = """\
import os, signal, sys, time
log = sys.argv[1]
def note(text): open(log, "a").write(f"{text} {os.environ['GPURUN_ATTEMPT']}\\n")
def asked(number, frame):
    note("asked"); time.sleep(0.6); note("ends"); sys.exit(1)
signal.signal(signal.SIGTERM, asked)
note("starts")
if os.environ["GPURUN_ATTEMPT"] == "2": sys.exit(17)
time.sleep(600)
"""
MOMENTS = ["running", "requested", "asked", "ending", "ended"]


def kill_pids(world: World, who: str) -> None:
    arbiter, keeper = world.arbiter_pid(), world.keeper_pid()
    victims = {"arbiter": [arbiter], "keeper": [keeper], "both": [keeper, arbiter]}[who]
    for pid in victims:
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("who", ["arbiter", "keeper", "both"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_whoever_is_killed_while_it_gives_way_it_runs_again_exactly_once(
    world: World, tmp_path: Path, who: str, moment: str
) -> None:
    log = tmp_path / "log"
    stub = world.start("-r", *python(SLOW, str(log)))
    wait_until(lambda: lines(log) == ["starts 1"], "the first run")
    wait_until(lambda: world.state(1) == "running", "the job to run")
    if moment == "running":
        kill_pids(world, who)
    requeue(world, 1)
    if moment == "requested":
        kill_pids(world, who)
    wait_until(lambda: "asked 1" in lines(log), "the request", 20)
    if moment == "asked":
        kill_pids(world, who)
    if moment == "ending":
        wait_until(lambda: "ends 1" in lines(log), "the end")
        kill_pids(world, who)
    if moment == "ended":
        wait_until(lambda: world.rows("SELECT 1 FROM job WHERE attempt = 2") or "starts 2" in lines(log), "the requeue")
        kill_pids(world, who)
    assert stub.wait(30) == 17
    assert lines(log) == ["starts 1", "asked 1", "ends 1", "starts 2"]
    assert world.run("-g", "2", "-w", "10s", "true").returncode == 0
    assert world.job(1)["attempt"] == 2


@pytest.mark.parametrize("moment", ["running", "requested", "asked", "waiting"])
def test_a_stub_killed_at_any_step_leaves_nothing(world: World, tmp_path: Path, moment: str) -> None:
    log = tmp_path / "log"
    taker = None
    stub = world.start("-r", *python(SLOW, str(log)))
    wait_until(lambda: lines(log) == ["starts 1"], "the first run")
    child = [process.pid for process in below(stub.pid)]
    if moment == "waiting":
        taker = world.start("-g", "2", "-p", "9", "sleep", "600")
        wait_until(lambda: world.state(2) == "waiting", "another to wait")
    if moment != "running":
        requeue(world, 1)
    if moment == "asked":
        wait_until(lambda: "asked 1" in lines(log), "the request")
    if moment == "waiting":
        wait_until(lambda: world.state(1) == "waiting", "it to wait again")
    stub.kill()
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    wait_until(lambda: not alive(child), "the program to be gone")
    if taker is not None:
        taker.kill()
    assert world.run("-g", "2", "-w", "10s", "true").returncode == 0
    assert "starts 2" not in lines(log)
    assert not list(world.folder.glob("preempt*"))


def test_the_program_never_notices_that_arbiters_die(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    stub = world.start("-r", "sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 21")
    wait_until(lambda: world.state(1) == "running", "the job to run")
    child = [process.pid for process in below(stub.pid)]
    for _ in range(3):
        before = world.arbiter_pid()
        kill_pids(world, "both")
        wait_until(lambda b=before: world.arbiter_pid() not in (None, b), "the next arbiter", 15)
        assert world.state(1) == "running"
    assert alive(child)[:1] == child[:1]
    gate.touch()
    assert stub.wait(30) == 21
    assert world.job(1)["result"]["code"] == 21


# Bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--give-way", "maybe"], "--give-way maybe: never, pause, suspend or requeue"),
        (["--give-way", ""], "--give-way : never, pause, suspend or requeue"),
        (["-r", "--give-way", "never"], "-r means --give-way requeue, and --give-way never was given too"),
        (["-r", "--signal", "TERM"], "signal TERM: the seconds to wait after it are missing: TERM:120"),
        (["-r", "--signal", "KILL:3"], "signal KILL: cannot be caught; KILL comes last by itself"),
        (["-r", "--signal", "NOPE:3"], "signal NOPE: no such signal: TERM:120, for example"),
        (["-r", "--signal", ""], "signal : no such signal: TERM:120, for example"),
        (["--retries", "-1"], "retries -1: a count from 0 to 1000"),
        (["--retries", "x"], "retries x: a count from 0 to 1000"),
        (["--retries", "9999999999"], "retries 9999999999: a count from 0 to 1000"),
    ],
    ids=str,
)
def test_bad_options_are_one_line_and_125(world: World, tmp_path: Path, words: list[str], said: str) -> None:
    witness = tmp_path / "ran"
    done = world.run(*words, "touch", witness)
    assert (done.returncode, done.stdout, done.stderr) == (125, "", f"gpurun: {said}\n")
    assert not witness.exists()


@pytest.mark.parametrize("make", ["missing", "not executable", "bad interpreter"])
def test_what_cannot_be_run_is_told_as_without_a_stub(world: World, tmp_path: Path, make: str) -> None:
    path = tmp_path / "program"
    if make != "missing":
        path.write_text("#!/no/such/interpreter\n")
        path.chmod(0o755 if make == "bad interpreter" else 0o644)
    plain, under = (world.run(*options, path) for options in ([], ["-r", "--retries", "3"]))
    assert (plain.returncode, plain.stderr) == (under.returncode, under.stderr)
    assert under.returncode in (126, 127)


def test_the_plain_forms_have_no_stub(world: World) -> None:
    ways = [["--give-way", way] for way in ("never", "pause", "suspend")]
    for words in ([], *ways, ["--signal", "TERM:5"], ["--retries", "0"]):
        done = world.run(*words, "sh", "-c", "echo $$ $GPURUN_PREEMPT_FILE")
        assert int(done.stdout) == world.jobs()[-1]["pid"], words


def test_json_tells_of_it(world: World) -> None:
    world.start("-r", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the job to run")
    assert json.loads(world.run("ls", "--json").stdout)["jobs"][0]["give_way"] == "requeue"


@pytest.mark.parametrize("who", ["arbiter", "keeper", "both"])
def test_arbiters_killed_during_a_back_off_leave_it_waiting_for_its_turn(world: World, who: str) -> None:
    stub = world.start("--retries", "2", "sh", "-c", "exit 4")
    again = "SELECT 1 FROM event WHERE to_state = 'waiting' AND from_state IS NOT NULL"
    wait_until(lambda: world.rows(again), "a retry to wait")
    kill_pids(world, who)
    assert stub.wait(30) == 4
    assert (world.state(1), world.job(1)["attempt"]) == ("ended", 3)


def resting(world: World, *options: str) -> "subprocess.Popen[str]":
    """A job that has failed three times and is tried again in four seconds."""
    stub = world.start(*options, "--retries", "5", "sh", "-c", "exit 4")
    failed = "SELECT 1 FROM event WHERE job_id = 1 AND to_state = 'waiting' AND from_state IS NOT NULL"
    wait_until(lambda: len(world.rows(failed)) == 3, "the third failure", 20)
    return stub


def test_kill_ends_one_in_its_back_off_at_once(world: World) -> None:
    stub = resting(world)
    begun = time.monotonic()
    assert world.run("kill", "1").stdout == "job 1: cancelled while waiting\n"
    assert stub.wait(30) == -signal.SIGTERM
    assert time.monotonic() - begun < 2.5


def test_the_next_arbiter_knows_at_once_of_a_back_off_and_does_not_shorten_it(world: World) -> None:
    stub = resting(world)
    kill_pids(world, "both")
    wait_until(lambda: "next try, in" in world.job(1)["why"]["text"], "the stub to come back", 2.5)
    tries = "SELECT 1 FROM event WHERE to_state = 'granted'"
    wait_until(lambda: len(world.rows(tries)) == 4, "the fourth try", 10)
    events = world.events()
    tried = [event for event in events if event["to_state"] == "granted"][3]
    failed = [event for event in events[: events.index(tried)] if event["to_state"] == "waiting"][-1]
    assert tried["at"] - failed["at"] >= 3.9
    world.run("kill", "1")
    assert stub.wait(30) in (-signal.SIGTERM, 4)


def test_a_stub_killed_in_its_back_off_leaves_nothing_and_its_key_is_free(world: World) -> None:
    stub = resting(world, "--once", "k")
    assert world.run("--once", "k", "true").returncode == 124
    stub.kill()
    wait_until(lambda: world.state(1) == "ended", "the job to end")
    assert world.run("--once", "k", "-g", "2", "-w", "5s", "true").returncode == 0
    assert len(world.rows("SELECT 1 FROM event WHERE job_id = 1 AND to_state = 'running'")) == 3


def test_an_arbiter_is_idle_while_the_leftover_of_a_stubs_job_outlives_the_stub(make_world: MakeWorld) -> None:
    """The end of a process is told by a descriptor for as long as somebody looks at it."""
    world = make_world("1x24G")
    holder = "import os, time; open(os.environ['GPURUN_SIM_DIR'] + f'/0/{os.getpid()}', 'w').write('1'); time.sleep(60)"
    script = 'setsid "$0" -c "$1" >/dev/null 2>&1 </dev/null & echo $!; until [ -e $GPURUN_SIM_DIR/0/$! ]; do sleep 0.02; done'
    done = world.run("-r", "--", "sh", "-c", script, sys.executable, holder)
    leftover = psutil.Process(int(done.stdout))
    try:
        arbiter = psutil.Process(world.arbiter_pid())
        before = sum(arbiter.cpu_times()[:2])
        let_pass(1.0, "to see what the arbiter computes")
        assert sum(arbiter.cpu_times()[:2]) - before < 0.3
        assert world.run("-n", "true").returncode == 124, "the leftover must hold the GPU"
    finally:
        leftover.kill()
