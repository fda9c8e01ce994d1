"""Nobody is harmed by a pause: what shells, terminals, make and others see is what they see of a job that is not paused.

Every story is played twice by the same script, once calm and once with pauses in it, both under gpurun; what came of
them is compared. Root has the freezer; an ordinary user without a cgroup of his own shows the other cases.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pauses import (
    OTHER_UID,
    Desk,
    OrdinaryWorld,
    Stage,
    alive,
    become,
    groups_go_with_their_world,
    may_freeze,
    nobody_left_standing,
    stands,
)
from shells import SHELLS
from waiting import wait_until
from world import World

__all__ = ["groups_go_with_their_world"]
freezing = pytest.mark.skipif(not may_freeze(), reason="no cgroup v2 tree that may be written here")
NOTICE = re.compile(r"gpurun: job \d+ (paused|goes on)[^\r\n]*\r?\n")


# On terminals


class Pauser:
    """Pauses the job of a process, by hand or for an urgent job; in a calm run it does nothing."""

    def __init__(self, world: World, how: str) -> None:
        self.world, self.how, self.job = world, how, 0
        self.urgent: subprocess.Popen[Any] | None = None
        self.pids: list[int] = []

    def pause(self, pid: int) -> None:
        self.pids.append(pid)
        if self.how == "calm":
            return
        self.job = self.world.rows("SELECT max(id) AS id FROM job WHERE pid = ?", pid)[0]["id"]
        if self.how == "by hand":
            done = self.world.run("pause", str(self.job))
            assert done.returncode == 0, done.stderr
        else:
            self.urgent = self.world.start("-p", "urgent", "--", "cat", stdin=subprocess.PIPE)
            wait_until(lambda: self.state() == "paused", f"job {self.job} to be paused")
        assert stands(pid), f"job {self.job} is said to be paused, but nothing of it stands still"

    def resume(self) -> None:
        if self.how == "by hand" and self.state() == "paused":
            self.world.run("resume", str(self.job))
        elif self.urgent is not None:
            self.finish()
            wait_until(lambda: self.state() != "paused", f"job {self.job} to go on")

    def finish(self) -> None:
        if self.urgent is not None:
            self.urgent.communicate("", timeout=20)
            self.urgent = None

    def state(self) -> str:
        return str(self.world.rows("SELECT state FROM job WHERE id = ?", self.job)[0]["state"])


def say(desk: Desk, line: str) -> str:
    """What a command line prints, without gpurun's notices, numbers made alike."""
    desk.type(f"{line}; echo en''ded")
    desk.screen.expect("(?<!echo )ended\r\n")
    text = NOTICE.sub("", desk.screen.before)
    desk.prompt()
    return re.sub(r"\d+", "N", text.rpartition("en''ded")[2])


def in_front(t: Desk, p: Pauser) -> list[Any]:
    modes = say(t, "stty -a")
    pid = t.start("RUN VICTIM sleep")
    p.pause(pid)
    found: list[Any] = [t.stat(pid)]
    p.resume()
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("z")
    found += [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    found += [t.becomes(pid, state="gone"), t.status(), say(t, "jobs")]
    assert say(t, "stty -a") == modes
    return found


def interrupted(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    p.pause(pid)
    t.key("c")
    return [t.becomes(pid, state="gone"), t.status(), say(t, "jobs")]


def interrupt_caught(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM count")
    p.pause(pid)
    t.key("c")
    t.hits(1)
    found: list[Any] = [t.stat(pid)]
    t.screen.send("end\n")
    found.append(t.shown("<<hits (.*)>>"))
    return [*found, t.becomes(pid, state="gone"), t.status()]


def stopped(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    p.pause(pid)
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status(), say(t, "jobs")]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    wait_until(lambda: not stands(pid), "it to go on")
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def behind(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.prompt()
    p.pause(pid)
    found: list[Any] = [t.stat(pid), say(t, "jobs"), t.status()]
    p.resume()
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def brought_to_front(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.prompt()
    p.pause(pid)
    t.type("fg")
    found: list[Any] = [t.becomes(pid, state="S", foreground=True)]
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def sent_behind(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status()]
    p.pause(pid)
    t.type("bg")
    found.append(t.status())
    p.resume()
    found += [t.becomes(pid, state="S", foreground=False), say(t, "jobs")]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def stopped_before(t: Desk, p: Pauser) -> list[Any]:
    """What its owner has stopped stays stopped when the pause is over."""
    pid = t.start("RUN VICTIM sleep")
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status()]
    p.pause(pid)
    p.resume()
    found += [t.stat(pid), say(t, "jobs"), t.stat(pid)]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def in_pipeline(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep | cat")
    p.pause(pid)
    p.resume()
    found: list[Any] = [t.becomes(pid, state="S", foreground=True)]
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def stopped_in_pipeline(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep | cat")
    p.pause(pid)
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    wait_until(lambda: not stands(pid), "it to go on")
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def until_left(t: Desk) -> None:
    """Leave the shell, twice if it asks about its jobs."""

    def left() -> bool:
        with contextlib.suppress(OSError):
            t.screen.send("exit\n")
        return not alive(t.screen.pid)

    wait_until(left, f"{t.shell} to leave")


def survives(pid: int) -> bool:
    """Whether it is alive once it had time to act on what a leaving shell, or a closing terminal, sent it.

    fish sends SIGHUP and is gone at once; who looks at that moment, calm or paused, sees a process that is about to die.
    """
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not alive(pid), "it to act on a hang-up", 2)
    return alive(pid)


def shell_left(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.prompt()
    p.pause(pid)
    until_left(t)
    p.resume()
    wait_until(lambda: not stands(pid), "it to be ended or to go on")
    return [survives(pid)]


def disowned_and_shell_left(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.prompt()
    t.type("disown" if t.shell == "fish" else "disown %1")
    t.prompt()
    p.pause(pid)
    until_left(t)
    p.resume()
    wait_until(lambda: not stands(pid), "it to be ended or to go on")
    return [survives(pid)]


def window_closed(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    p.pause(pid)
    t.window_closes()
    return [t.becomes(pid, state="gone")]


def window_closed_on_one_that_catches_it(t: Desk, p: Pauser) -> list[Any]:
    """The hang-up waits for it while it stands still; then it reads the end of its input."""
    pid = t.start("RUN VICTIM count")
    p.pause(pid)
    t.window_closes()
    return [t.becomes(pid, state="gone")]


def nohup_and_window_closed(t: Desk, p: Pauser) -> list[Any]:
    pid = t.start("nohup RUN VICTIM sleep &" if t.shell != "fish" else "nohup RUN VICTIM sleep & ")
    p.pause(pid)
    t.window_closes()
    wait_until(lambda: not alive(t.screen.pid), f"{t.shell} to leave")
    p.resume()
    wait_until(lambda: not stands(pid), "it to be ended or to go on")
    return [survives(pid)]


SCENARIOS: list[Callable[[Desk, Pauser], list[Any]]] = [
    in_front, interrupted, interrupt_caught, stopped, behind, brought_to_front, sent_behind, stopped_before,
    in_pipeline, stopped_in_pipeline, shell_left, disowned_and_shell_left, window_closed, window_closed_on_one_that_catches_it,
    nohup_and_window_closed,
]  # fmt: skip
# What differs from shell to shell is tried in all of them; the rest there only in long runs.
EVERYWHERE = (in_front, stopped, shell_left)


def stories() -> list[Any]:
    found = []
    for shell in SHELLS:
        for number, scenario in enumerate(SCENARIOS):
            for how in ("by hand", "urgent"):
                turn = "by hand" if number % 2 else "urgent"
                default = how == turn and (shell == "bash" or scenario in EVERYWHERE)
                marks = [pytest.mark.needs(shell), *([] if default else [pytest.mark.long])]
                found.append(pytest.param(shell, scenario, how, marks=marks, id=f"{shell}-{scenario.__name__}-{how}"))
    return found


@pytest.fixture(scope="module")
def one_card() -> Iterator[World]:
    """One world for all stories on terminals."""
    with World("1x80G") as world:
        assert world.run("true").returncode == 0
        yield world


@pytest.fixture(scope="module")
def calm_runs() -> dict[tuple[str, str], list[Any]]:
    """What came of the calm run of each story: the same for every way to pause."""
    return {}


@freezing
@pytest.mark.parametrize(("shell", "scenario", "how"), stories())
def test_on_a_terminal_nobody_notices(
    one_card: World, calm_runs: dict[tuple[str, str], list[Any]], tmp_path: Path,
    record_property: Callable[[str, object], None], shell: str, scenario: Any, how: str,
) -> None:  # fmt: skip
    def play(how: str) -> list[Any]:
        desk, pauser = Desk(shell, one_card, tmp_path / "here", one_card.command), Pauser(one_card, how)
        try:
            return list(scenario(desk, pauser))
        finally:
            pauser.finish()
            desk.close()
            for pid in pauser.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not one_card.rows("SELECT id FROM job WHERE state <> 'ended'"), "the job to end")
            shutil.rmtree(tmp_path / "here")

    key = shell, scenario.__name__
    if key not in calm_runs:
        calm_runs[key] = play("calm")
    calm, paused = calm_runs[key], play(how)
    record_property("counted", f"{sum(a == b for a, b in zip(calm, paused, strict=True))} of {len(calm)} equal")
    assert paused == calm


# Everywhere else


@pytest.fixture
def stage(make_world: Callable[..., World], tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(make_world("1x80G"), tmp_path)
    yield stage
    stage.open_all()


class Launches:
    """The same program started in many ways at once, each sharing the one card."""

    def __init__(self, stage: Stage, run: str, **popen: Any) -> None:
        self.stage, self.world, self.run, self.popen = stage, stage.world, run, popen
        self.children: dict[str, subprocess.Popen[Any]] = {}

    def line(self, tag: str) -> str:
        return f"{self.run} -m 1G -- {' '.join(self.stage.words(tag, 'exit=3'))}"

    def start(self, tag: str, *words: str, **popen: Any) -> None:
        settings = {
            "env": self.world.env, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT,
            "cwd": self.stage.folder, "text": True, "start_new_session": True, **self.popen, **popen,
        }  # fmt: skip
        self.children[tag] = self.world.adopt(subprocess.Popen(words, **settings))

    def start_all(self) -> None:
        folder, line = self.stage.folder, self.line
        (folder / "Makefile").write_text(
            f"all: one two\none:\n\t@{line('make1')}; test $$? = 3\ntwo:\n\t@{line('make2')}; test $$? = 3; echo made\n"
        )
        self.start("make1", "make", "-j8")
        self.children["make2"] = self.children["make1"]
        self.start("setm", "bash", "-c", f"set -m; {line('setm')} & wait $!; echo $?; jobs")
        self.start("nohup", "nohup", "sh", "-c", f"{line('nohup')}; echo $?")
        self.start("setsid", "sh", "-c", f"setsid -w {line('setsid')}; echo $?", start_new_session=False)
        self.start("script", "script", "-qec", line("script"), "/dev/null")
        self.start("pipe", "bash", "-c", f"{line('pipe')} | cat; echo ${{PIPESTATUS[@]}}")
        self.start("timeout", "sh", "-c", f"timeout 60 {line('timeout')}; echo $?")
        self.start("cron", "/bin/sh", "-c", line("cron"), env={**self.variables(), "SHELL": "/bin/sh", "LOGNAME": "root"})
        self.start("subshell", "sh", "-c", f"(x=$({line('subshell')}); echo $?)")

    def variables(self) -> dict[str, str]:
        """What cron's crontab needs to name in these tests, and nothing else of the environment."""
        kept = ("GPURUN_DIR", "GPURUN_SIM")
        return {"PATH": "/usr/bin:/bin", "HOME": "/"} | {name: self.world.env[name] for name in kept}

    def tags(self) -> list[str]:
        return list(self.children)

    def until_all_run(self) -> None:
        for tag in self.tags():
            self.stage.until_running(tag, within=30)

    def job_of(self, tag: str) -> int:
        pid = self.stage.beats.last(tag).pid
        return int(self.world.rows("SELECT id FROM job WHERE pid = ?", pid)[0]["id"])

    def finish(self) -> dict[str, tuple[Any, ...]]:
        """End the programs; the status and output of each launcher."""
        for tag in self.tags():
            self.stage.open(tag)
        found: dict[str, tuple[Any, ...]] = {}
        for tag, child in self.children.items():
            if tag != "make2":
                out = child.communicate(timeout=30)[0]
                found[tag] = child.returncode, NOTICE.sub("", out)
        return found


def needing(*tools: str) -> pytest.MarkDecorator:
    return pytest.mark.needs(*tools)


def play_launches(launches: Launches, pauses: bool) -> dict[str, tuple[Any, ...]]:
    """Start them all; pause all for one urgent job, then all by hand; end them all."""
    stage, beats = launches.stage, launches.stage.beats
    launches.start_all()
    launches.until_all_run()
    faults: list[str] = []
    if pauses:
        tags, jobs = launches.tags(), [str(launches.job_of(tag)) for tag in launches.tags()]
        stage.running("urgent", under=["-p", "urgent"])
        stage.open("urgent")
        wait_until(lambda: beats.has("urgent", "end"), "the urgent job to end")
        span = beats.first("urgent", "start").at_ns, beats.last("urgent", "end").at_ns
        for tag in tags:
            beats.until_beats(tag, 1)
        done = launches.world.run("pause", *jobs)
        assert done.returncode == 0, done.stderr
        begun = time.monotonic_ns()
        for tag in tags:
            beats.until_still(tag)
        hand = begun, time.monotonic_ns()
        assert launches.world.run("resume", *jobs).returncode == 0
        for tag in tags:
            beats.until_beats(tag, 1)
            faults += beats.steps_between(tag, *span) + beats.steps_between(tag, *hand)
        assert {job["times_given_way"] for job in launches.world.jobs() if str(job["id"]) in jobs} == {1}
    found = launches.finish()
    assert faults + [fault for tag in launches.tags() for fault in beats.lost_steps(tag)] == []
    return found


@freezing
@needing("make", "bash", "nohup", "setsid", "script", "timeout")
def test_wherever_a_job_is_started_its_pause_changes_nothing(
    make_world: Callable[..., World], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    found = []
    for pauses in (False, True):
        folder = tmp_path / "here"
        folder.mkdir()
        with make_world("1x80G") as world:
            found.append(play_launches(Launches(Stage(world, folder), world.command), pauses))
        shutil.rmtree(folder)
    calm, paused = found
    assert {tag: status for tag, (status, _) in calm.items()} == {
        **dict.fromkeys(calm, 0), "script": 3, "cron": 3,
    }  # fmt: skip
    record_property("counted", f"{sum(calm[tag] == paused[tag] for tag in calm)} of {len(calm)} equal")
    assert paused == calm


@freezing
@needing("su")
def test_below_su_a_pause_changes_nothing(stage: Stage) -> None:
    line = " ".join([stage.world.command, *stage.words("su", "exit=3")])
    child = stage.world.adopt(
        subprocess.Popen(["su", "root", "-c", line], env=stage.world.env, stdout=-1, stderr=-1, start_new_session=True)
    )
    stage.until_running("su")
    pause_and_resume(stage, "1", "su")
    stage.open("su")
    assert child.wait(30) == 3


def pause_and_resume(stage: Stage, job: str, tag: str) -> None:
    done = stage.world.run("pause", job)
    assert done.returncode == 0, done.stderr
    begun = time.monotonic_ns()
    stage.beats.until_still(tag)
    ended = time.monotonic_ns()
    assert stage.world.run("resume", job).returncode == 0
    stage.beats.until_beats(tag)
    assert stage.beats.steps_between(tag, begun, ended) + stage.beats.lost_steps(tag) == []


@freezing
@needing("tmux")
@pytest.mark.parametrize(
    "direct", [pytest.param(True, id="direct command"), pytest.param(False, id="in its shell", marks=pytest.mark.long)]
)
def test_in_tmux_a_pause_changes_nothing(stage: Stage, direct: bool) -> None:
    """tmux lets a stopped direct command go on at once: a frozen one it does not see."""

    def tmux(*words: str) -> "subprocess.CompletedProcess[str]":
        name = f"gpurun-{os.getpid()}"
        return subprocess.run(
            ["tmux", "-f", "/dev/null", "-L", name, *words], env={**stage.world.env, "TERM": "dumb"},
            capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    line = " ".join([stage.world.command, *stage.words("inside")])
    try:
        if direct:
            done = tmux("new-session", "-d", "-x", "200", "-y", "50", line)
        else:
            done = tmux("new-session", "-d", "-x", "200", "-y", "50", "bash --norc --noprofile")
            tmux("send-keys", line, "Enter")
        assert done.returncode == 0, done.stderr
        stage.until_running("inside")
        stage.running("urgent", under=["-p", "urgent"])
        stage.until_state(1, "paused")
        stage.beats.until_still("inside")
        stage.open("urgent")
        stage.until_state(1, "running")
        stage.beats.until_beats("inside")
        pause_and_resume(stage, "1", "inside")
        stage.open("inside")
        stage.until_state(1, "ended")
        assert stage.world.job(1)["result"]["code"] == 0
    finally:
        tmux("kill-server")


# An ordinary user, without a cgroup of his own


@pytest.fixture
def ordinary(everybodys_command: str, open_folder: Path) -> Iterator[Stage]:
    os.chown(open_folder, OTHER_UID, OTHER_UID)
    with OrdinaryWorld("1x80G", command=everybodys_command) as world:
        os.chown(world.directory, OTHER_UID, OTHER_UID)
        yield (stage := Stage(world, open_folder, ["/usr/bin/python3", "-I", "-S"]))
        pids = [line.pid for line in stage.beats.lines(what="start")]
        stage.open_all()
        nobody_left_standing(pids)


def test_without_terminal_and_parent_an_ordinary_users_job_is_stopped_and_goes_on(ordinary: Stage) -> None:
    """As cron and services start it: a session of its own whose parent is in another."""
    job = ordinary.running("train", start_new_session=True)
    ordinary.running("infer", under=["-p", "urgent"], start_new_session=True)
    ordinary.until_state(1, "paused")
    assert ordinary.whys(1, "paused") == ["for job 2 (stop)"]
    assert psutil.Process(job.pid).status() == psutil.STATUS_STOPPED
    ordinary.beats.until_still("train")
    started = ordinary.beats.first("infer", "start").at_ns
    ordinary.open("infer")
    ordinary.until_state(1, "running")
    ordinary.beats.until_beats("train")
    faults = ordinary.beats.steps_between("train", started, ordinary.beats.last("infer", "end").at_ns)
    assert faults + ordinary.beats.lost_steps("train") == []
    ordinary.open("train")
    assert job.wait(30) == 0


def test_a_stopped_job_that_others_continue_is_stopped_once_more_and_then_left(ordinary: Stage) -> None:
    job = ordinary.running("train", start_new_session=True)
    assert ordinary.world.run("pause", "1").returncode == 0
    process = psutil.Process(job.pid)
    job.send_signal(signal.SIGCONT)
    ordinary.beats.until_beats("train", 1)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "the pause to be renewed", 5)
    assert ordinary.world.state(1) == "paused"
    job.send_signal(signal.SIGCONT)
    ordinary.until_state(1, "running")
    ordinary.beats.until_beats("train", 20)
    assert ordinary.whys(1, "running")[-1] == "somebody let it go on"


def test_a_stopped_job_whose_leader_is_killed_leaves_nobody_stopped(ordinary: Stage) -> None:
    line = f"{' '.join(ordinary.words('worker'))} & exec {' '.join(ordinary.words('leader'))}"
    job = ordinary.world.start("sh", "-c", line, start_new_session=True)
    for tag in ("leader", "worker"):
        ordinary.until_running(tag)
    assert ordinary.world.run("pause", "1").returncode == 0
    for tag in ("leader", "worker"):
        ordinary.beats.until_still(tag)
    job.kill()
    job.wait(30)
    ordinary.beats.until_beats("worker")


def test_kill_of_a_stopped_job_ends_it(ordinary: Stage) -> None:
    job = ordinary.running("train", "catch=15", "exit=3", start_new_session=True)
    assert ordinary.world.run("pause", "1").returncode == 0
    ordinary.beats.until_still("train")
    assert ordinary.world.run("kill", "1").returncode == 0
    assert job.wait(30) == 3


def cannot(stage: Stage, job: int, because: str) -> None:
    """Neither by hand nor for an urgent job, and both say why."""
    done = stage.world.run("pause", str(job))
    assert done.returncode == 1
    assert because in done.stderr, done.stderr
    urgent = stage.start("urgent", under=["-p", "urgent"], start_new_session=True)
    stage.until_state(job + 1, "waiting")
    wait_until(lambda: because in stage.text("why", str(job + 1)), "the reason to be told")
    assert stage.world.state(job) == "running"
    urgent.kill()
    urgent.wait(30)


IN_A_TERMINAL = "runs in a terminal: no pause goes unnoticed there (-r can be, in the foreground)"


@pytest.mark.parametrize("shell", [pytest.param(name, marks=needing(name)) for name in ("bash",)])
def test_on_an_ordinary_users_terminal_it_cannot_be_paused_and_nothing_is_touched(
    ordinary: Stage, open_folder: Path, shell: str
) -> None:
    desk = Desk(shell, ordinary.world, open_folder / "desk", ordinary.world.command, uid=OTHER_UID, python=ordinary.python)
    try:
        pid = desk.start("RUN VICTIM sleep")
        cannot(ordinary, 1, IN_A_TERMINAL)
        assert desk.stat(pid)["state"] == "S"
        desk.key("z")
        desk.becomes(pid, state="T", foreground=False)
        desk.type("bg")
        desk.becomes(pid, state="S", foreground=False)
        done = ordinary.world.run("pause", "1")
        assert (done.returncode, IN_A_TERMINAL in done.stderr) == (1, True), done.stderr
        desk.type("fg")
        desk.becomes(pid, state="S", foreground=True)
        desk.key("c")
        desk.becomes(pid, state="gone")
        assert desk.status() == "130"
        assert NOTICE.search(desk.screen.before) is None
    finally:
        desk.close()


def test_a_script_with_job_control_would_notice_and_is_left_alone(ordinary: Stage) -> None:
    """No terminal, but the job's group has a parent in its session: once that ends, a stopped job is hung up [kernel]."""
    line = " ".join([ordinary.world.command, *ordinary.words("train")])
    script = ordinary.world.adopt(
        subprocess.Popen(
            ["bash", "-c", f"set -m; {line} & wait"], env=ordinary.world.env, cwd="/", stdin=subprocess.DEVNULL,
            preexec_fn=become(OTHER_UID), start_new_session=True,
        )
    )  # fmt: skip
    ordinary.until_running("train")
    done = ordinary.world.run("pause", "1")
    assert done.returncode == 1
    assert "no pause goes unnoticed" in done.stderr
    ordinary.beats.until_beats("train")
    # The script ends: the job runs on as it would have, and now it can be paused.
    script.kill()
    script.wait(30)
    ordinary.beats.until_beats("train")

    def paused() -> bool:
        return ordinary.world.run("pause", "1").returncode == 0

    wait_until(paused, "the orphaned job to be paused", 5)
    ordinary.beats.until_still("train")
    assert ordinary.world.run("resume", "1").returncode == 0
    ordinary.beats.until_beats("train")


@needing("make", "bash", "nohup", "setsid", "script", "timeout")
def test_wherever_an_ordinary_user_starts_it_what_can_be_paused_is_and_nobody_else_notices(
    everybodys_command: str, open_folder: Path, record_property: Callable[[str, object], None]
) -> None:
    found, refused = [], dict[str, str]()
    for pauses in (False, True):
        folder = open_folder / "here"
        folder.mkdir()
        os.chown(folder, OTHER_UID, OTHER_UID)
        with OrdinaryWorld("1x80G", command=everybodys_command) as world:
            os.chown(world.directory, OTHER_UID, OTHER_UID)
            stage = Stage(world, folder, ["/usr/bin/python3", "-I", "-S"])
            launches = Launches(stage, world.command, preexec_fn=become(OTHER_UID), env={**world.env, "HOME": str(folder)})
            launches.start_all()
            launches.until_all_run()
            if pauses:
                jobs = {tag: str(launches.job_of(tag)) for tag in launches.tags()}
                done = world.run("pause", *jobs.values())
                refused = {tag: job for tag, job in jobs.items() if f"job {job}: paused\n" not in done.stdout}
                for tag in jobs.keys() - refused.keys():
                    stage.beats.until_still(tag)
                world.run("resume", *jobs.values())
                for tag in jobs:
                    stage.beats.until_beats(tag, 1)
            found.append(launches.finish())
            assert [fault for tag in launches.tags() for fault in stage.beats.lost_steps(tag)] == []
        shutil.rmtree(folder)
    calm, paused = found
    # On a terminal of its own (script), and where its process group has a parent in its session (set -m, timeout).
    assert set(refused) == {"script", "setm", "timeout"}, refused
    record_property("counted", f"{sum(calm[tag] == paused[tag] for tag in calm)} of {len(calm)} equal")
    assert paused == calm
