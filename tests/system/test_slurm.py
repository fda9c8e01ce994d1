"""`--on slurm` against a real Slurm: two machines with four GPUs each. What is said of Slurm was seen on 22.05."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import Cluster
from terminal import Terminal
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


def listed(world: World) -> list[dict[str, Any]]:
    """Slurm's jobs as `ls` has them now: what squeue said before is forgotten."""
    for path in world.directory.glob("slurm/*/squeue"):
        path.unlink(missing_ok=True)
    done = world.run("ls", "--json")
    assert done.returncode == 0, done.stderr
    jobs: list[dict[str, Any]] = json.loads(done.stdout).get("slurm", [])
    return jobs


def fill(cluster: Cluster, seconds: int = 600) -> None:
    """Have somebody else hold every GPU."""
    for _ in range(cluster.nodes):
        cluster.run("sbatch", "--parsable", "-o", "/dev/null", f"--gres=gpu:{cluster.gpus}", f"--wrap=exec sleep {seconds}")
    wait_until(lambda: list(cluster.states().values()) == ["RUNNING"] * cluster.nodes, "all GPUs to be held")


def running(world: World, *words: str, **popen: Any) -> "subprocess.Popen[Any]":
    """Start a program that says `ready` when it runs."""
    child = world.start("--on", "slurm", *words, **popen)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready", child.stderr and child.stderr.read()
    return child


# --- what is equal to a plain run --------------------------------------------------------------------------------

SHOW = """
import json, os, sys
data = sys.stdin.buffer.read() if len(sys.argv) > 1 and sys.argv[1] == "stdin" else b""
def tty(fd):
    return os.isatty(fd)
json.dump({
    "argv": [os.fsencode(word).hex() for word in sys.argv[1:]],
    "cwd": os.getcwdb().hex(),
    "umask": os.umask(0o22),
    "stdin": len(data), "sum": sum(data),
    "ttys": [tty(fd) for fd in (0, 1, 2)],
    "env": {name.hex(): value.hex() for name, value in os.environb.items() if name.startswith(b"FID_")},
    "nice": os.nice(0),
}, sys.stdout)
sys.stderr.write("on stderr\\n" + os.environ.get("FID_ERR", ""))
"""
ODD = [b"", b"a b", b"'\"\\$`", b"\xff\xfe", b"new\nline", b"-x", b"--", b"*?[", b"\r\n", "größe".encode(), b"a=b"]
ODD.append(b"x" * 60_000)
PROBES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "odd arguments": {"argv": ODD},
    "odd variables": {"env": {"FID_A": "a b\n'\"\\", "FID_B": "\udcff\udcfe", "FID_EMPTY": ""}},
    "stdin of 10 MB": {"argv": [b"stdin"], "input": bytes(range(256)) * 40_000},
    "no stdin": {"argv": [b"stdin"], "input": b""},
    "another folder": {"cwd": "odd folder \udcff"},
    "a mask of 077": {"umask": 0o077},
    "a line without end": {"env": {"FID_ERR": "no newline"}},
    "a line like srun's": {"env": {"FID_ERR": "srun: error: mine\nsru"}},
    "a long line": {"env": {"FID_ERR": "x" * 90_000}},
}
ENDS = ["exit 0", "exit 1", "exit 3", "exit 42", "exit 124", "exit 125", "exit 130", "exit 143", "exit 255"]
DEATHS = ["TERM", "KILL", "INT", "HUP", "SEGV", "USR1", "QUIT", "ABRT", "PIPE", "ALRM"]
MISSING = [["no-such-program"], ["./no-such-program"], ["/etc/passwd"], ["/"]]
# What Slurm keeps otherwise, each seen below: its name, and what it is there.
EXCEPTIONS = {
    "a variable that is no name for a shell, with -d": "sh(1) drops it",
    "descriptors above 2": "only stdin, stdout and stderr lead there",
    "SIGSTOP of gpurun itself": "the program goes on",
    "closing the terminal while gpurun is killed": "the job is killed, not hung up",
}


@pytest.fixture
def plain_folder(tmp_path: Path) -> Path:
    (tmp_path / "show.py").write_text(SHOW)
    (tmp_path / os.fsdecode(b"odd folder \xff")).mkdir()
    return tmp_path


def outcome(command: list[bytes | str], probe: dict[str, Any], world: World, folder: Path) -> tuple[Any, ...]:
    mask = probe.get("umask", 0o22)
    done = subprocess.run(
        command, input=probe.get("input", b""), capture_output=True, timeout=60, cwd=folder / probe.get("cwd", "."),
        env=world.env | probe.get("env", {}), umask=mask, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_program_on_slurm_is_told_what_it_is_told_here(
    on_slurm: World, plain_folder: Path, record_property: Callable[[str, object], None]
) -> None:
    """Arguments, variables, folder, mask, stdin, output, and how it ends: n of n equal."""
    front: list[bytes | str] = [on_slurm.command, "--on", "slurm", "-q", "--"]
    equal, unequal = 0, []
    program: list[bytes | str] = [sys.executable, str(plain_folder / "show.py")]
    cases: list[tuple[str, list[bytes | str], dict[str, Any]]] = [
        (name, [*program, *probe.get("argv", [])], probe) for name, probe in PROBES.items()
    ]
    cases += [(end, ["sh", "-c", end], {}) for end in ENDS]
    cases += [(name, ["sh", "-c", f"kill -{name} $$"], {}) for name in DEATHS]
    cases += [(words[0], list(words), {}) for words in MISSING]
    for name, command, probe in cases:
        if name in ("no-such-program", "./no-such-program", "/etc/passwd", "/"):
            here: tuple[Any, ...] = (127 if "no-such" in name else 126,)
            there: tuple[Any, ...] = outcome([*front, *command], probe, on_slurm, plain_folder)[:1]
        else:
            here = outcome(command, probe, on_slurm, plain_folder)
            there = outcome([*front, *command], probe, on_slurm, plain_folder)
        equal += here == there
        if here != there:
            unequal.append((name, here, there))
    record_property("counted", f"{equal} of {len(cases)} equal")
    assert not unequal, unequal[:3]


def test_on_a_terminal_it_has_a_terminal_of_that_size(on_slurm: World) -> None:
    says = "test -t 0 && test -t 1 && test -t 2 && echo three; stty size; read x; echo got $x; "
    says += "until test \"$(stty size)\" = '33 100'; do sleep 0.05; done; echo resized; exit 7"
    terminal = Terminal(on_slurm, [on_slurm.command, "--on", "slurm", "sh", "-c", says], columns=90, lines=30)
    terminal.await_text("30 90")
    assert "three" in terminal.text()
    terminal.send("hello\r")
    terminal.await_text("got hello")
    terminal.resize(100, 33)
    terminal.await_text("resized")
    assert terminal.finish() == 7


def test_ctrl_c_reaches_the_program_once(on_slurm: World) -> None:
    says = "trap 'echo caught' INT; echo ready; sleep 0.1; while ! read x; do :; done; echo bye; exit 5"
    terminal = Terminal(on_slurm, [on_slurm.command, "--on", "slurm", "sh", "-c", says])
    terminal.await_text("ready")
    terminal.send("\x03")
    terminal.await_text("caught")
    terminal.send("x\r")
    terminal.await_text("bye")
    assert terminal.finish() == 5
    assert terminal.text().count("caught") == 1


CATCH = """
import signal, sys, time
def take(number, frame):
    print(signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM:
        time.sleep(0.5)
        sys.exit(61)
for number in (1, 2, 3, 10, 12, 15):
    signal.signal(number, take)
print("ready", flush=True)
while True:
    time.sleep(0.1)
"""


@pytest.fixture
def catcher(tmp_path: Path) -> list[str]:
    (tmp_path / "catch.py").write_text(CATCH)
    return [sys.executable, str(tmp_path / "catch.py")]


def test_signals_reach_the_program_as_they_are_and_its_own_end_counts(on_slurm: World, catcher: list[str]) -> None:
    """Two INT within a second, HUP and QUIT would have made srun kill it."""
    child = running(on_slurm, *catcher)
    assert child.stdout is not None
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        child.send_signal(number)
        assert child.stdout.readline().strip() == number.name
    child.send_signal(signal.SIGTERM)
    assert child.stdout.readline().strip() == "SIGTERM"
    assert child.wait(20) == 61


def test_what_a_group_is_sent_does_not_reach_srun(on_slurm: World, catcher: list[str]) -> None:
    """timeout(1) signals its whole group: the program gets one TERM, and has its time."""
    child = on_slurm.start("--on", "slurm", *catcher, prefix=("timeout", "600"))
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGTERM)  # which it passes to gpurun, and then to all of its group
    assert child.communicate(timeout=30) == ("SIGTERM\n", "")
    assert child.returncode == 61


def test_it_stands_still_with_the_program_and_goes_on_with_it(on_slurm: World, tmp_path: Path) -> None:
    ticks = tmp_path / "ticks"
    child = running(on_slurm, "sh", "-c", f"echo ready; while :; do echo >> {ticks}; sleep 0.05; done")
    child.send_signal(signal.SIGTSTP)
    gpurun = psutil.Process(child.pid)
    wait_until(lambda: gpurun.status() == psutil.STATUS_STOPPED, "gpurun to stand still")
    programs = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() == "sh" and str(ticks) in " ".join(each.cmdline()):
                programs.append(each)
    wait_until(lambda: psutil.STATUS_STOPPED in {each.status() for each in programs}, "the program to stand still")
    child.send_signal(signal.SIGCONT)
    wait_until(lambda: psutil.STATUS_STOPPED not in {each.status() for each in programs}, "the program to go on")
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == -signal.SIGTERM


def test_killed_it_leaves_no_job_behind(on_slurm: World, cluster: Cluster) -> None:
    child = running(on_slurm, "sh", "-c", "echo ready; exec sleep 600")
    assert list(cluster.states().values()) == ["RUNNING"]
    child.kill()
    child.wait(10)
    wait_until(lambda: not cluster.states(), "the job to end", within=20)


# --- waiting ------------------------------------------------------------------------------------------------------


def test_n_and_w_give_up_with_124_and_leave_nothing_in_the_line(on_slurm: World, cluster: Cluster) -> None:
    fill(cluster)
    for words in (("-n",), ("-w", "1s")):
        done = on_slurm.run("--on", "slurm", *words, "true")
        assert (done.returncode, done.stdout, done.stderr) == (124, "", ""), done
    assert on_slurm.run("--on", "slurm", "-n", "-E", "9", "true").returncode == 9
    done = on_slurm.run("--on", "slurm", "-v", "-w", "1s", "true")
    assert "not started within the wait limit" in done.stderr
    assert len(cluster.states()) == cluster.nodes


def test_a_signal_while_it_waits_takes_it_out_of_the_line(on_slurm: World, cluster: Cluster) -> None:
    fill(cluster)
    for number in (signal.SIGINT, signal.SIGTERM):
        child = on_slurm.start("--on", "slurm", "true")
        wait_until(lambda: "PENDING" in cluster.states().values(), "the job to wait")
        child.send_signal(number)
        assert child.wait(20) == -number
        wait_until(lambda: "PENDING" not in cluster.states().values(), "the job to be gone")


def test_the_waiting_line_says_why_and_is_gone_before_the_program_writes(on_slurm: World, cluster: Cluster) -> None:
    fill(cluster)
    terminal = Terminal(on_slurm, [on_slurm.command, "--on", "slurm", "echo", "started"])
    terminal.await_text("waits in Slurm's line: ")
    cluster.done("scancel", "--state=RUNNING", "--me")
    terminal.await_text("started")
    terminal.finish()
    assert terminal.text() == "started"


# --- what it needs ------------------------------------------------------------------------------------------------


def test_gpus_are_slurms_choice_and_without_any_none_are_seen(on_slurm: World) -> None:
    says = "echo [${CUDA_VISIBLE_DEVICES-all of them}]"
    for words, expected in ((["-g", "2"], "[0,1]\n"), ([], "[0]\n"), (["-g", "0"], "[]\n")):
        done = on_slurm.run("--on", "slurm", *words, "sh", "-c", says, extra={"CUDA_VISIBLE_DEVICES": "5"})
        assert (done.returncode, done.stdout) == (0, expected), done
    done = on_slurm.run("--on", "slurm", "-r", "-g", "0", "sh", "-c", says, extra={"CUDA_VISIBLE_DEVICES": "5"})
    assert (done.returncode, done.stdout) == (0, "[]\n"), done


def test_settings_and_a_variable_send_it_to_slurm_too(on_slurm: World) -> None:
    says = ("sh", "-c", "echo $SLURM_JOB_ID")
    assert on_slurm.run(*says, extra={"GPURUN_ON": "slurm"}).stdout.strip().isdigit()
    (on_slurm.directory / "settings.toml").write_text('on = "slurm"\n')
    assert on_slurm.run(*says).stdout.strip().isdigit()
    assert on_slurm.run("--sim", "1x24G", *says).stdout == "\n"
    done = on_slurm.run("--on", "here", "-g", "0", *says)
    assert (done.returncode, done.stdout) == (0, "\n")


# --- in the background --------------------------------------------------------------------------------------------


def test_a_detached_job_is_listed_its_log_shown_and_its_status_known(on_slurm: World) -> None:
    says = "echo hello; sleep 1; echo err >&2; exit 4"
    done = on_slurm.run("--on", "slurm", "-d", "-N", "train", "-p", "-5", "sh", "-c", says)
    job = done.stdout.strip()
    assert (job[0], job[1:].isdigit()) == ("s", True), done
    (row,) = listed(on_slurm)
    assert (row["id"], row["name"], row["priority"], row["gpus"]) == (job, "train", -5, 1)
    table = on_slurm.run("ls").stdout.splitlines()
    assert "ON" in table[0]
    assert re.search(r" slurm .*train: sh -c", table[1]), table
    assert on_slurm.run("logs", "-f", job).stdout == "hello\nerr\n"
    assert on_slurm.run("wait", job).returncode == 4
    assert listed(on_slurm) == []
    assert "exit 4" in on_slurm.run("history", job).stdout
    assert on_slurm.run("why", job).stdout == f"{job} (train) does not wait: it ended: exit 4.\n"
    assert on_slurm.run("logs", "-n", "1", job).stdout == "err\n"


def test_an_output_file_is_written_where_it_is_said(on_slurm: World, tmp_path: Path) -> None:
    job = on_slurm.run("--on", "slurm", "-d", "-o", f"{tmp_path}/100%%-%j-%x.txt", "echo", "there").stdout.strip()
    assert on_slurm.run("wait", job).returncode == 0
    assert (tmp_path / f"100%-{job[1:]}-%x.txt").read_text() == "there\n"
    assert on_slurm.run("logs", job).stdout == "there\n"
    assert on_slurm.run("--on", "slurm", "-o", f"{tmp_path}/front.txt", "echo", "front").stdout == ""
    assert (tmp_path / "front.txt").read_text() == "front\n"
    done = on_slurm.run("--on", "slurm", "-d", "-o", f"{tmp_path}/no/x", "true")
    assert (done.returncode, "no such file or directory" in done.stderr) == (125, True)


def test_odd_arguments_survive_the_script(on_slurm: World, plain_folder: Path) -> None:
    words: list[bytes | str] = [sys.executable, str(plain_folder / "show.py"), *ODD]
    done = on_slurm.run("--on", "slurm", "-r", "-q", *words, text=False)
    here = subprocess.run(words, capture_output=True, env=on_slurm.env, cwd=os.getcwd(), check=True, stdin=subprocess.DEVNULL)
    assert json.loads(done.stdout.splitlines()[0].partition(b"on stderr")[0])["argv"] == json.loads(here.stdout)["argv"]


def test_a_sweep_of_200_rows(on_slurm: World, tmp_path: Path) -> None:
    words = ("--array", "1-200", "-g", "0", "-N", "many", "sh", "-c", "echo $GPURUN_INDEX")
    done = on_slurm.run("--on", "slurm", *words, timeout=100)
    assert done.returncode == 0, done.stderr
    assert sorted(map(int, done.stdout.split())) == list(range(1, 201))
    (tmp_path / "rows").write_text("echo 'a b'\n# none\nsh -c 'exit 3'\necho $((2 + 5))\n")
    done = on_slurm.run("--on", "slurm", "--each", str(tmp_path / "rows"), "-g", "0")
    assert (done.returncode, sorted(done.stdout.splitlines())) == (3, ["7", "a b"])


def test_a_makefile_with_eight_at_once(on_slurm: World, tmp_path: Path) -> None:
    recipe = f"\t{on_slurm.command} --on slurm -q sh -c 'echo $@ $$CUDA_VISIBLE_DEVICES > $@'\n"
    targets = [f"r{at}" for at in range(16)]
    (tmp_path / "Makefile").write_text(f"all: {' '.join(targets)}\n" + "".join(f"{target}:\n{recipe}" for target in targets))
    make = ["make", "-s", "-j8"]
    done = subprocess.run(make, cwd=tmp_path, env=on_slurm.env, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for at in range(16):
        target, cards = (tmp_path / f"r{at}").read_text().split()
        assert target == f"r{at}"
        assert cards in "0123"


# --- verbs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(on_slurm: World, cluster: Cluster) -> str:
    """A job that waits, behind others that hold all GPUs."""
    fill(cluster)
    job = on_slurm.run("--on", "slurm", "-d", "-N", "mine", "-p", "-1", "sleep", "600").stdout.strip()
    wait_until(lambda: [row["state"] for row in listed(on_slurm)] == ["waiting"], "the job to wait")
    return job


def test_verbs_change_a_job_that_waits(on_slurm: World, cluster: Cluster, waiting: str) -> None:
    job = waiting
    done = on_slurm.run("renice", "low", job)
    assert (done.returncode, done.stdout) == (0, f"{job}: -1 -> -10: nice 1000 in Slurm\n"), done.stderr
    assert cluster.run("squeue", "-h", "-j", job[1:], "-o", "%y").strip() == "1000"
    assert [row["priority"] for row in listed(on_slurm)] == [-10]
    assert on_slurm.run("renice", "--by", "3", job).stdout.startswith(f"{job}: -10 -> -7")
    assert on_slurm.run("pause", job).stdout == f"{job}: held in Slurm's line\n"
    assert [row["state"] for row in listed(on_slurm)] == ["held"]
    assert "its owner holds it" in on_slurm.run("why", job).stdout
    assert on_slurm.run("completion", "jobs", "resume").stdout == f"{job}\tmine  held on slurm\n"
    assert on_slurm.run("resume", "mine").stdout == f"{job}: let go\n"
    done = on_slurm.run("set", "-g", "2", "-t", "90m", "-N", "other", job)
    assert done.stdout == f"{job}: 2 GPUs, time limit 90 min, name other\n"
    assert cluster.run("squeue", "-h", "-j", job[1:], "-o", "%b %l %j").strip() == "gres:gpu:2 1:30:00 other"
    done = on_slurm.run("set", "-m", "8G", job)
    assert (done.returncode, "only -g, -p, -t and -N can be changed" in done.stderr) == (2, True)
    assert on_slurm.run("kill", job).stdout == f"{job}: taken out of the line\n"
    assert listed(on_slurm) == []
    done = on_slurm.run("kill", job, "s999999")
    assert (done.returncode, done.stderr) == (
        1, f"gpurun: kill: {job}: has already ended\ngpurun: kill: s999999: no such job\n"
    )  # fmt: skip


def test_a_job_that_runs_is_signalled_and_ended_but_not_paused(on_slurm: World, catcher: list[str]) -> None:
    job = on_slurm.run("--on", "slurm", "-d", *catcher).stdout.strip()
    wait_until(lambda: "ready" in on_slurm.run("logs", job).stdout, "the program to run")
    done = on_slurm.run("pause", job)
    assert (done.returncode, "only administrators suspend" in done.stderr) == (1, True)
    assert on_slurm.run("kill", "-USR1", job).stdout == f"{job}: SIGUSR1 sent\n"
    wait_until(lambda: "SIGUSR1" in on_slurm.run("logs", job).stdout, "the program to be signalled")
    assert on_slurm.run("kill", job).returncode == 0
    assert on_slurm.run("wait", job).returncode == 61
    assert "cancelled" in on_slurm.run("history", job).stdout


def test_both_queues_are_listed_together(cluster: Cluster, make_world: MakeWorld) -> None:
    world = make_world("1x24G", **cluster.env)
    world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the job here to run")
    job = world.run("--on", "slurm", "-d", "sleep", "600").stdout.strip()
    wait_until(lambda: [row["state"] for row in listed(world)] == ["running"], "the job there to run")
    lines = world.run("ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["JOB", "1", job]
    assert (" here " in lines[1], " slurm n" in lines[2]) == (True, True)
    done = world.run("kill", "1", job)
    assert done.returncode == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["job 1", job]


def test_after_another_job(on_slurm: World, cluster: Cluster, tmp_path: Path) -> None:
    first = on_slurm.run("--on", "slurm", "-d", "-g", "0", "sh", "-c", "sleep 1; exit 3").stdout.strip()
    done = on_slurm.run("--on", "slurm", "-a", first, "-g", "0", "true")
    assert done.returncode == 0, done.stderr
    done = on_slurm.run("--on", "slurm", "-a", f"ok:{first}", "true")
    assert (done.returncode, f"after ok:{first}: it ended: exit 3" in done.stderr) == (125, True)
    for word, says in (("s999999", "no such job in Slurm"), ("7", "not a job of Slurm's")):
        done = on_slurm.run("--on", "slurm", "-a", word, "true")
        assert (done.returncode, says in done.stderr) == (125, True), done.stderr
    assert on_slurm.run("--on", "slurm", "-a", first, "true").returncode == 0


def test_one_that_waits_for_a_failure_never_starts_and_says_so(on_slurm: World, cluster: Cluster) -> None:
    first = on_slurm.run("--on", "slurm", "-d", "-g", "0", "sh", "-c", "sleep 2; exit 3").stdout.strip()
    second = on_slurm.run("--on", "slurm", "-d", "-g", "0", "-a", f"ok:{first}", "true").stdout.strip()
    assert "it comes after jobs that have not ended" in on_slurm.run("why", second).stdout
    assert on_slurm.run("wait", first).returncode == 3
    done = on_slurm.run("wait", second)
    assert (done.returncode, "cancelled" in done.stderr) == (143, True), done


def test_in_the_foreground_it_ends_with_125(on_slurm: World, cluster: Cluster) -> None:
    first = on_slurm.run("--on", "slurm", "-d", "-g", "0", "sh", "-c", "sleep 1; exit 3").stdout.strip()
    done = on_slurm.run("--on", "slurm", "-g", "0", "-a", f"ok:{first}", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "a job that it comes after failed: it never starts" in done.stderr
    assert cluster.states() == {}


def test_variables_that_change_what_squeue_prints_change_nothing(on_slurm: World, waiting: str) -> None:
    odd = {"SQUEUE_FORMAT": "%i", "SQUEUE_ALL": "1", "SQUEUE_STATES": "COMPLETED", "SLURM_TIME_FORMAT": "relative"}
    for path in on_slurm.directory.glob("slurm/*/squeue"):
        path.unlink()
    done = on_slurm.run("ls", "--json", extra=odd)
    assert [row["id"] for row in json.loads(done.stdout)["slurm"]] == [waiting]


def test_a_name_of_any_text_is_shown_and_breaks_nothing(on_slurm: World, cluster: Cluster) -> None:
    fill(cluster)
    names = ["a|b", "x%y", "größe", "\x1bred", "two\nlines", "-n"]
    jobs = [on_slurm.run("--on", "slurm", "-d", "-N", name, "true").stdout.strip() for name in names]
    assert [row["id"] for row in listed(on_slurm)] == jobs
    assert [row["name"] for row in listed(on_slurm)] == ["a|b", "x%y", "größe", "?red", "two?lines", "-n"]
    assert "\x1b" not in on_slurm.run("ls").stdout
