"""Pauses by SIGSTOP, as an ordinary user without a cgroup of his own has them: who is stopped, who is told, who goes on."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from pauses import OTHER_UID, SLACK, Desk, Stage, become, groups_go_with_their_world
from test_pause import ordinary
from waiting import wait_until

__all__ = ["groups_go_with_their_world", "ordinary"]
# What a whole plan may take to stop its victims: nobody else is served meanwhile.
STOP_SECONDS = 0.5


def paused_for_another(stage: Stage, job: int = 1) -> None:
    stage.running("infer", under=["-p", "urgent"], start_new_session=True)
    stage.until_state(job, "paused")


# Behind a stub


@pytest.mark.parametrize("form", [["-r"], ["-d"], ["--retries", "2"]], ids=" ".join)
def test_a_stub_does_not_take_our_stop_for_its_owners(ordinary: Stage, form: list[str]) -> None:
    client = ordinary.start("train", under=form, start_new_session=True)
    ordinary.until_running("train")
    paused_for_another(ordinary)
    assert ordinary.whys(1, "paused") == ["for job 2 (stop)"]
    ordinary.beats.until_still("train")
    stub = psutil.Process(ordinary.world.job(1)["pid"])
    assert stub.status() != psutil.STATUS_STOPPED
    ordinary.open("infer")
    ordinary.until_state(1, "running")
    ordinary.beats.until_beats("train")
    assert ordinary.beats.lost_steps("train") == []
    ordinary.open("train")
    assert client.wait(30) == 0
    ordinary.until_state(1, "ended")
    assert ordinary.world.job(1)["result"]["code"] == 0


def test_a_nested_stub_is_paused_alone_and_with_the_job_around_it(ordinary: Stage) -> None:
    line = f"{ordinary.world.command} -r -m 1G -- {' '.join(ordinary.words('inner'))}"
    outer = ordinary.world.start("sh", "-c", f"{line}; echo $?", start_new_session=True)
    ordinary.until_running("inner")
    for job in ("2", "1", "2", "1"):
        assert ordinary.world.run("pause", job).returncode == 0
        ordinary.beats.until_still("inner")
        assert ordinary.world.run("resume", job).returncode == 0
        ordinary.beats.until_beats("inner")
    ordinary.open("inner")
    assert outer.communicate(timeout=20)[0] == "0\n"


def test_a_stub_below_a_script_with_job_control_is_left_alone(ordinary: Stage) -> None:
    """Once the script ends, the kernel hangs up a group that has a stopped member."""
    line = " ".join([ordinary.world.command, "-r", "-m", "1G", *ordinary.words("train")])
    gate = ordinary.folder / "leave"
    script = ordinary.world.adopt(
        subprocess.Popen(
            ["bash", "-c", f"set -m; {line} & while [ ! -e {gate} ]; do sleep 0.05; done"], env=ordinary.world.env,
            cwd="/", stdin=subprocess.DEVNULL, preexec_fn=become(OTHER_UID), start_new_session=True,
        )
    )  # fmt: skip
    ordinary.until_running("train")
    done = ordinary.world.run("pause", "1")
    assert (done.returncode, "below a shell with job control no pause goes unnoticed\n" in done.stderr) == (1, True), done
    gate.touch()
    assert script.wait(30) == 0
    ordinary.beats.until_beats("train")
    wait_until(lambda: ordinary.world.run("pause", "1").returncode == 0, "the orphaned job to be paused", 5)
    ordinary.beats.until_still("train")
    assert ordinary.world.run("resume", "1").returncode == 0
    ordinary.beats.until_beats("train")


@pytest.mark.needs("bash")
@pytest.mark.parametrize("options", [[], ["catch=20"]], ids=["default", "caught"])
def test_ctrl_z_behind_a_stub_is_kept_until_the_pause_is_over(ordinary: Stage, open_folder: Path, options: list[str]) -> None:
    found = []
    for tag in ("calm", "paused"):
        command = ordinary.world.command + " -r -m 1G"
        desk = Desk("bash", ordinary.world, open_folder / f"desk-{tag}", command, uid=OTHER_UID, python=ordinary.python)
        try:
            desk.type("RUN " + " ".join(ordinary.words(tag, *options)))
            ordinary.until_running(tag)
            job = max(job["id"] for job in ordinary.world.jobs())
            stub, child = psutil.Process(ordinary.world.job(job)["pid"]), psutil.Process(ordinary.beats.first(tag, "start").pid)
            if tag == "paused":
                paused_for_another(ordinary, job)
                assert ordinary.whys(job, "paused") == [f"for job {job + 1} (stop behind the stub)"]
            desk.key("z")
            if not options:
                desk.prompt()
            if tag == "paused":
                ordinary.open("infer")
                ordinary.until_state(job, "running")
            if options:
                wait_until(lambda tag=tag: ordinary.beats.has(tag, "signal"), "the signal to arrive")  # type: ignore[misc]
                ordinary.beats.until_beats(tag)
            else:
                wait_until(lambda s=stub, c=child: s.status() == c.status() == "stopped", "both to stand still")  # type: ignore[misc]
                ordinary.beats.until_still(tag)
                desk.type("fg")
            ordinary.beats.until_beats(tag)
            stopped = {process.status() == "stopped" for process in (stub, child)}
            signals = [line.value for line in ordinary.beats.lines(tag, "signal")]
            desk.key("c")
            desk.prompt()
            found.append((stopped, signals, desk.status()))
        finally:
            desk.close()
    assert found[0] == found[1] == ({False}, ["20"] if options else [], "130")


ASKER = """
import os, socket, sqlite3, sys, time
folder, wanted = sys.argv[1:]
bell = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
bell.connect(folder + "/bell")
rows = sqlite3.connect(f"file:{folder}/state.db?mode=ro", uri=True)
print("ready", flush=True)
until = time.monotonic() + 20
while time.monotonic() < until:
    if rows.execute("SELECT state FROM job WHERE id = ?", (wanted,)).fetchone() == ("running",):
        break
bell.send(f"pause\\0jobs={wanted}".encode())
print(bell.recv(65536).decode(), flush=True)
"""


def test_a_stub_that_is_just_starting_its_program_is_not_paused_before_it_has(ordinary: Stage) -> None:
    """Asked for as soon as the job is said to run: its stub has not forked by then, or just does."""
    ordinary.running("first", under=["-m", "1G"], start_new_session=True)
    answers = []
    for number in range(2, 8):
        tag = f"train{number}"
        asker = ordinary.world.adopt(
            subprocess.Popen(
                [*ordinary.python, "-c", ASKER, str(ordinary.world.folder), str(number)], stdout=subprocess.PIPE,
                text=True, cwd="/", preexec_fn=become(OTHER_UID),
            )
        )  # fmt: skip
        assert asker.stdout is not None
        assert asker.stdout.readline() == "ready\n"
        ordinary.start(tag, under=["-r", "-m", "1G"], start_new_session=True)
        answers.append(asker.communicate(timeout=20)[0])
        if '"paused"' in answers[-1]:
            time_paused = time.monotonic_ns()
            ordinary.world.run("ls")
            assert ordinary.beats.steps_between(tag, time_paused, time.monotonic_ns()) == []
            assert ordinary.world.run("resume", str(number)).returncode == 0
        ordinary.until_running(tag)
        assert ordinary.world.run("pause", str(number)).returncode == 0
        ordinary.beats.until_still(tag)
        assert ordinary.world.run("resume", str(number)).returncode == 0
        ordinary.open(tag)
    assert [text for text in answers if "is just starting" in text], answers


@pytest.mark.parametrize("form", [[], ["-r"]], ids=["bare", "stub"])
def test_an_arbiter_killed_while_it_stops_a_job_leaves_nobody_stopped(ordinary: Stage, form: list[str]) -> None:
    """Killed as soon as it has left word that it is about to: nothing is written down by then, or all of it."""
    ordinary.start("train", under=form, start_new_session=True)
    ordinary.until_running("train")
    arbiter = ordinary.world.arbiter_pid()
    assert arbiter is not None
    mark = ordinary.world.folder / "pausing-1"
    asking = ordinary.world.start("pause", "1")
    deadline = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < deadline:
        pass
    asking.kill()
    os.kill(arbiter, signal.SIGKILL)
    wait_until(lambda: ordinary.world.arbiter_pid() not in (None, arbiter), "the next arbiter", 10)
    wait_until(lambda: not mark.exists() or ordinary.world.state(1) == "paused", "it to see what was begun", 10)
    if ordinary.world.state(1) == "paused":
        assert ordinary.world.run("resume", "1").returncode == 0
    ordinary.beats.until_beats("train")
    assert ordinary.beats.lost_steps("train") == []
    assert ordinary.world.run("pause", "1").returncode == 0
    ordinary.beats.until_still("train")
    assert ordinary.world.run("resume", "1").returncode == 0
    ordinary.beats.until_beats("train")


# Signals and other users


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_reaches_a_stopped_job_soon(ordinary: Stage, number: signal.Signals) -> None:
    job = ordinary.running("train", start_new_session=True)
    paused_for_another(ordinary)
    sent = time.monotonic()
    job.send_signal(number)
    assert job.wait(30) == -number
    assert time.monotonic() - sent < 1 * SLACK
    ordinary.until_state(1, "ended")


def setuid_python(stage: Stage) -> Path:
    """A program of root's that anybody may run as root: as sudo is."""
    program = stage.folder / "python"
    shutil.copy(os.path.realpath("/usr/bin/python3"), program)
    os.chown(program, 0, OTHER_UID)
    os.chmod(program, 0o4750)
    return program


@pytest.mark.parametrize("below", [True, pytest.param(False, marks=pytest.mark.long)], ids=["below it", "only in its session"])
def test_a_job_with_a_process_of_another_user_is_not_paused_and_nothing_of_it_stays_stopped(
    ordinary: Stage, below: bool
) -> None:
    root, detach = setuid_python(ordinary), "" if below else "os.fork() and os._exit(0); "
    sleep = f"{root} -I -S -c 'import os, time; {detach}os.setresuid(0, 0, 0); time.sleep(60)'"
    line = f"{sleep} & exec {' '.join(ordinary.words('train'))}"
    job = ordinary.world.start("sh", "-c", line, start_new_session=True)
    ordinary.until_running("train")

    def others() -> list[psutil.Process]:
        return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0] == str(root)]

    try:
        wait_until(lambda: [p for p in others() if p.uids().real == 0], "it to be root")
        arbiter = ordinary.world.arbiter_pid()
        done = ordinary.world.run("pause", "1")
        assert done.returncode == 1
        assert "job 1: has a process of another user (root, pid " in done.stderr, done.stderr
        assert psutil.Process(job.pid).status() != psutil.STATUS_STOPPED
        ordinary.start("infer", under=["-p", "urgent"], start_new_session=True)
        ordinary.until_state(2, "waiting")
        wait_until(lambda: "has a process of another user" in ordinary.text("why", "2"), "the reason to be told")
        ordinary.beats.until_beats("train")
        assert ordinary.world.arbiter_pid() == arbiter
        assert ordinary.whys(1, "paused") == []
        sent = ordinary.text("kill", "-CONT", "1")
        assert sent.startswith("job 1: sent CONT; may not signal pid ")
        assert sent.endswith(" (root's python)\n")
    finally:
        for process in others():
            process.kill()
    # With it gone, there is no reason left.
    ordinary.until_state(1, "paused", within=40)
    ordinary.beats.until_still("train")


def test_a_tree_that_forks_all_the_time_is_stopped_or_left_within_a_bound(ordinary: Stage) -> None:
    loops = "for i in 1 2 3 4; do (while :; do /bin/true; done) & done"
    line = f"{loops}; exec {' '.join(ordinary.words('train'))}"
    ordinary.world.start("sh", "-c", line, start_new_session=True)
    ordinary.until_running("train")
    answers = []
    for _ in range(3):
        done = ordinary.world.run("pause", "1")
        answers.append(done.stdout.strip() or done.stderr.strip())
        if done.returncode == 0:
            ordinary.beats.until_still("train")
        ordinary.world.run("resume", "1")
        ordinary.beats.until_beats("train")
    # By its own clock: beside such a tree a client alone takes seconds to start.
    log = (ordinary.world.folder / "arbiter.log").read_text()
    took = [float(text) for text in re.findall(r"stop: .* ([0-9.]+) ms", log)]
    print(answers, took)
    assert len(took) == 3
    assert max(took) < STOP_SECONDS * 1000 * SLACK
    # Beside much other work such a tree may win each time.
    assert set(answers) <= {"job 1: paused", "gpurun: pause: job 1: could not be stopped"}
    ordinary.world.run("kill", "-9", "1")
