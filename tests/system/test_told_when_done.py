"""Told when it is done: the command of `on_end`, and `wait --bell`."""

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from terminal import Terminal
from waiting import let_pass, wait_until
from world import World

from gpuwrap.arbiter.telling import ends
from gpuwrap.commands.ringing import sequence

MakeWorld = Callable[..., World]


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A command that writes down what it was told, a file for each time, and its folder."""
    folder = tmp_path / "told"
    folder.mkdir()
    script = tmp_path / "tell.sh"
    script.write_text(f'#!/bin/sh\ncd "{folder}" && env > .$$ && echo "ARGS=$*" >> .$$ && mv .$$ $$\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


def settings(world: World, command: list[str], after: str = "0s") -> None:
    words = ", ".join(f"'{word}'" for word in command)
    (world.directory / "settings.toml").write_text(f'on_end = [{words}]\non_end_after = "{after}"\n')


def heard(script: Path) -> list[dict[str, str]]:
    """What was told so far, by the job's number."""
    found = []
    for path in (script.parent / "told").glob("[0-9]*"):
        pairs = (line.partition("=") for line in path.read_text(errors="surrogateescape").splitlines())
        found.append({name: value for name, _, value in pairs})
    return sorted(found, key=lambda each: int(each["GPURUN_END_JOB"]))


def test_a_command_is_told_of_each_end(world: World, told: Path) -> None:
    settings(world, [str(told), "a b", "$HOME"])
    world.run("-N", "good", "-o", "/dev/null", "sleep", "0.2")
    world.run("sh", "-c", "exit 3")
    world.run("sh", "-c", "kill -9 $$")
    wait_until(lambda: len(heard(told)) == 3, "three ends to be told")
    good, bad, killed = heard(told)
    assert good["ARGS"] == "a b $HOME", "no shell has read it"
    assert (good["GPURUN_END_NAME"], good["GPURUN_END_RESULT"], good["GPURUN_END_SUCCESS"]) == ("good", "exit 0", "1")
    assert good["GPURUN_END_COMMAND"] == "sleep 0.2"
    assert re.fullmatch(r"job 1 good \(sleep 0\.2\): exit 0 after \d s", good["GPURUN_END_TEXT"])
    assert (bad["GPURUN_END_CODE"], bad["GPURUN_END_SUCCESS"]) == ("3", "0")
    assert (killed["GPURUN_END_RESULT"], killed["GPURUN_END_SIGNAL"]) == ("SIGKILL", "9")
    assert "GPURUN_JOB" not in good, "or it would be taken for a process of that job"


def test_only_those_that_ran_for_long_are_told(world: World, told: Path) -> None:
    settings(world, [str(told)], after="1s")
    world.run("true")
    world.run("sleep", "1.3")
    wait_until(lambda: heard(told), "the end of the second")
    blocker = world.start("-q", "-g", "2", "sleep", "600")
    wait_until(lambda: world.state(3) == "running", "the GPUs to be taken")
    assert world.run("-w", "1s", "true").returncode == 124
    blocker.kill()
    wait_until(lambda: world.state(3) == "ended", "the end to be noted")
    wait_until(lambda: len(heard(told)) == 2, "the end of the third")
    assert [each["GPURUN_END_JOB"] for each in heard(told)] == ["2", "3"]


def test_a_command_that_hangs_holds_nobody_up(world: World, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = tmp_path / "hang.sh"
    script.write_text(f"#!/bin/sh\necho $$ >> {pids}\nexec sleep 600\n")
    script.chmod(0o755)
    settings(world, [str(script)])
    begun = time.monotonic()
    for _ in range(ends.AT_ONCE + 3):
        assert world.run("true").returncode == 0
    assert time.monotonic() - begun < 20
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == ends.AT_ONCE, "as many to run as may")
    let_pass(0.5, "no more to be started")
    assert len(pids.read_text().split()) == ends.AT_ONCE
    for pid in map(int, pids.read_text().split()):
        os.kill(pid, 9)
    wait_until(lambda: len(pids.read_text().split()) == ends.AT_ONCE + 3, "the others to follow")
    for pid in map(int, pids.read_text().split()[ends.AT_ONCE :]):
        os.kill(pid, 9)
    wait_until(lambda: "ended with 137" in world.last_words() or "ended with -9" in world.last_words(), "the log to tell")


@pytest.mark.long
def test_a_command_that_hangs_is_ended(world: World, tmp_path: Path) -> None:
    """Whether the arbiter is still there or not: it leaves 30 s after the last job."""
    script, pid = tmp_path / "hang.sh", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > {pid}\nwhile :; do sleep 1; done\n")
    script.chmod(0o755)
    settings(world, [str(script)])
    world.run("true")
    limit = ends.LIMIT_SECONDS + ends.KILL_SECONDS + 10
    wait_until(lambda: pid.exists() and pid.read_text().strip(), "it to be run")
    wait_until(lambda: not os.path.exists(f"/proc/{int(pid.read_text())}"), "its end", limit)


@pytest.mark.parametrize(
    "text", ['on_end = "mail"', "on_end = [1]", 'on_end = [""]', 'on_end = ["a\\u0000b"]', 'on_end_after = "10"']
)
def test_what_is_no_command_is_told_by_doctor(world: World, text: str) -> None:
    (world.directory / "settings.toml").write_text(text + "\n")
    done = world.run("doctor")
    assert done.returncode == 1
    assert re.search(r"bad +settings +.*on_end", done.stdout)


def test_a_command_that_is_not_there_is_told_in_the_log(world: World) -> None:
    settings(world, ["/no/such/command"])
    world.run("true")
    wait_until(lambda: "the command that is told of ends ended with 127" in world.last_words(), "the log to tell")


def test_nothing_is_run_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from gpuwrap.host.processes import user_name
    from gpuwrap.lifecycle import JobState
    from gpuwrap.model import Identity, Job, Request, Result, ResultKind

    ran = []

    class Watched:
        def watch(self, fd: int, callback: Callable[[int], None]) -> None:
            os.close(fd)

        def unwatch(self, fd: int) -> None:
            raise AssertionError

    monkeypatch.setattr(ends.subprocess, "Popen", lambda words, **_how: ran.append(words) or Child())

    class Child:
        pid = os.getpid()

    identity = Identity("b", 1, 1, 1)
    job = Job(1, "k", None, "somebody-else", JobState.ENDED, 0, Request(), identity, (b"x",), b"/", 0.0,
              result=Result(ResultKind.EXIT, code=0), started_mono=1.0, ended_mono=1000.0)  # fmt: skip
    told = ends.Ends(Watched())
    told.tell(job, ("tell",), 600.0)
    assert not ran
    told.tell(replace(job, user=user_name(os.geteuid())), ("tell",), 600.0)
    assert [words[-1] for words in ran] == ["tell"]


# --- wait --bell --------------------------------------------------------------------------------------------------


def test_the_terminal_is_rung_and_told(world: World) -> None:
    world.start("-q", "-N", "train;\x1b]evil", "sleep", "1")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    terminal = Terminal(world, [world.command, "wait", "--bell", "1"])
    assert terminal.finish() == 0
    assert b"\a\x1b]9;job 1 train," in terminal.raw
    assert terminal.raw.count(b"\x1b") == 1, "nothing of the name is a sequence of its own"


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm-kitty"}, "\a\x1b]9;x, y\x07"),
        ({"TERM": "foot"}, "\a\x1b]777;notify;gpurun;x, y\x07"),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7000"}, "\a\x1b]777;notify;gpurun;x, y\x07"),
        ({"TERM": "tmux-256color", "TMUX": "x"},
         "\a\x1bPtmux;\x1b\x1b]9;x, y\x07\x1b\\\x1bPtmux;\x1b\x1b]777;notify;gpurun;x, y\x07\x1b\\"),
        ({"TERM": "screen"}, "\a\x1bP\x1b]9;x, y\x07\x1b\\\x1bP\x1b]777;notify;gpurun;x, y\x07\x1b\\"),
    ],
)  # fmt: skip
def test_terminals_are_told_as_they_understand_it(environment: dict[str, str], wanted: str) -> None:
    assert sequence("x; y", environment) == wanted


@pytest.mark.needs("tmux")
def test_tmux_hands_it_on(world: World, tmp_path: Path) -> None:
    world.run("-N", "done", "true")
    wait_until(lambda: world.state(1) == "ended", "it to have ended")
    run = f"{world.command} wait --bell 1; sleep 600"
    tmux = [shutil.which("tmux") or "", "-S", str(tmp_path / "tmux"), "-f", "/dev/null"]
    terminal = Terminal(world, [*tmux, "new", "sleep 600", ";", "set", "-g", "allow-passthrough", "on", ";", "new-window", run])
    try:
        wait_until(
            lambda: terminal.text() is not None and b"\x1b]9;job 1 done: exit 0\x07" in terminal.raw, "it to come through"
        )
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, timeout=20, capture_output=True)
