"""Who is asked when a job is asked to end: the training in a script as well, and nobody twice while it saves.

`kill`, a time limit and an eviction ask alike, with a stub in between or without.
"""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from world import World

# Says that it was asked, and saves for so long; the log has `asked` as often as it was.
TRAIN = """
import signal, sys, time
log, seconds = open(sys.argv[1], "a", buffering=1), float(sys.argv[2])
asked = 0
def save(number, frame):
    global asked
    asked += 1
    print("asked", file=log)
    if asked == 1:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)
        print("a line of output", flush=True)
        print("saved", file=log)
        sys.exit(3)
signal.signal(signal.SIGTERM, save)
print("ready", file=log)
time.sleep(100)
"""
FORWARDS = """
import signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(child.wait())
"""
TELLS_NOBODY = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: print("asked"))
sys.exit(subprocess.run(sys.argv[1:]).returncode)
"""
# Its workers would notice; it saves by itself, and then has them end.
WITH_WORKERS = """
import signal, subprocess, sys, time
workers = [subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2], "0"]) for _ in range(2)]
def save(number, frame):
    time.sleep(float(sys.argv[3]))
    print("a line of output", flush=True)
    print("saved", file=open(sys.argv[2], "a"))
    for worker in workers:
        worker.kill()
    sys.exit(3)
signal.signal(signal.SIGTERM, save)
time.sleep(100)
"""
FORMS = pytest.mark.parametrize("form", [(), ("-r",)], ids=["exec", "stub"])


class Script:
    """A script around trainings, and what those were asked."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        (folder / "train.py").write_text(TRAIN)
        self.log = folder / "log"

    def train(self, seconds: float) -> str:
        return f"{sys.executable} {self.folder}/train.py {self.log} {seconds}"

    def write(self, text: str) -> str:
        path = self.folder / f"script-{len(list(self.folder.iterdir()))}"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def lines(self) -> list[str]:
        return self.log.read_text().split("\n")[:-1] if self.log.exists() else []

    def start(self, *words: str, ready: int = 1, **popen: object) -> "subprocess.Popen[str]":
        child = self.world.start(*words, **popen)
        wait_until(lambda: self.lines().count("ready") == ready, "the training to run")
        return child


@pytest.fixture
def script(world: World, tmp_path: Path) -> Script:
    return Script(world, tmp_path)


def as_in_the_background() -> None:
    """As a script starts what it puts into the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)


DEFERRED = {
    "a command": "trap 'echo asked' TERM\n{train}",
    "a substitution": "trap 'echo asked' TERM\nout=$({train})\nexit $?",
    "a pipeline": "set -o pipefail\ntrap 'echo asked' TERM\n{train} | tee {folder}/told\nexit $?",
    "a shell below a shell": "trap 'echo asked' TERM\nbash -c \"trap 'echo asked' TERM; {train}; exit \\$?\"\nexit $?",
    "ignored": "trap '' TERM\n{train}",
    "dash": "exec dash -c \"trap 'echo asked' TERM; {train}; exit \\$?\"",
    "zsh": "exec zsh -c \"trap 'code=\\$?; echo asked; exit \\$code' TERM; {train}; exit \\$?\"",
    "fish": "exec fish -c 'function f --on-signal TERM; echo asked; end; {train}; exit $status'",
    "beside another": "trap 'code=$?; kill $other; exit $code' TERM\nsleep 60 & other=$!\n{train}\nexit 1",
}


@FORMS
@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=[pytest.mark.needs(how)] if how in ("dash", "zsh", "fish") else []) for how in DEFERRED]
)
def test_a_training_that_a_script_waits_for_is_asked_and_saves(script: Script, form: tuple[str, ...], how: str) -> None:
    text = DEFERRED[how].format(train=script.train(1), folder=script.folder)
    job = script.start(*form, script.write(text))
    assert script.world.run("kill", "1").returncode == 0
    assert job.wait(20) == 3
    assert script.lines() == ["ready", "asked", "saved"]
    if how == "a pipeline":
        told = script.folder / "told"
        wait_until(lambda: told.read_text() == "a line of output\n", "the tee to have told it", 2)


@FORMS
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
def test_at_a_time_limit_it_is_asked_in_good_time(script: Script, form: tuple[str, ...], background: bool) -> None:
    wrapper = script.write(f"trap 'echo asked' TERM\n{script.train(1.5)}")
    start = as_in_the_background if background else None
    job = script.start(*form, "-t", "2s", "--signal", "TERM:4", wrapper, preexec_fn=start)
    assert job.wait(20) == 3
    assert script.lines() == ["ready", "asked", "saved"]


@pytest.mark.parametrize("trap", ["trap 'echo asked' TERM", ""], ids=["trap", "no trap"])
def test_at_an_eviction_it_is_asked_and_then_run_again(script: Script, trap: str) -> None:
    wrapper = script.write(f"{trap}\n{script.train(1.5)}\nexit $?")
    job = script.start("-r", "--signal", "TERM:6", wrapper)
    assert script.world.run("kill", "--requeue", "1").returncode == 0
    wait_until(lambda: script.lines().count("ready") == 2, "it to run again")
    assert script.lines() == ["ready", "asked", "saved", "ready"]
    assert script.world.run("kill", "-9", "1").returncode == 0
    job.wait(20)


@FORMS
@pytest.mark.parametrize("trap", ["", "trap 'rm -f nothing' EXIT\n"], ids=["no trap", "trap at its exit"])
def test_a_script_without_a_trap_for_it_dies_and_the_training_is_asked_at_once(
    script: Script, form: tuple[str, ...], trap: str
) -> None:
    job = script.start(*form, script.write(f"{trap}{script.train(3)}\nexit $?"))
    assert script.world.run("kill", "1").returncode == 0
    wait_until(lambda: "asked" in script.lines(), "the training to be asked", 1.5)
    assert job.wait(20) == -signal.SIGTERM
    wait_until(lambda: script.lines()[-1] == "saved", "it to save", 5)
    assert script.lines() == ["ready", "asked", "saved"]


@FORMS
def test_below_a_script_without_a_trap_what_serves_the_training_is_asked_after_it(
    script: Script, form: tuple[str, ...]
) -> None:
    """Its workers stay until it has saved, and so does the tee that it writes to."""
    save = f"{shlex.join([sys.executable, '-c', WITH_WORKERS, TRAIN, str(script.log), '3'])} | tee {script.folder}/told"
    job = script.start(*form, script.write(f"{save}\nexit $?"), ready=2)
    assert script.world.run("kill", "1").returncode == 0
    job.wait(20)
    wait_until(lambda: "saved" in script.lines(), "it to save", 6)
    assert script.lines() == ["ready", "ready", "saved"]
    told = script.folder / "told"
    wait_until(lambda: told.read_text() == "a line of output\n", "the tee to have told it", 2)


@FORMS
def test_a_signal_that_it_does_not_know_ends_no_training_if_another_follows(script: Script, form: tuple[str, ...]) -> None:
    """The script dies of the first, which is nothing to the training: the next comes at once."""
    job = script.start(*form, "-t", "2s", "--signal", "USR1:20,TERM:10", script.write(f"{script.train(1)}\nexit $?"))
    job.wait(20)
    wait_until(lambda: "saved" in script.lines(), "it to save", 6)
    assert script.lines() == ["ready", "asked", "saved"]


@FORMS
def test_a_step_of_a_loop_that_its_trap_ends_may_be_finished(script: Script, form: tuple[str, ...]) -> None:
    step = f"{sys.executable} -c 'import time; time.sleep(4)' && echo step >> {script.log}"
    loop = f"trap 'stop=1' TERM\necho ready >> {script.log}\nwhile [ -z \"$stop\" ]; do {step}; done"
    job = script.start(*form, script.write(f"{loop}\necho saved >> {script.log}"))
    assert script.world.run("kill", "1").returncode == 0
    assert job.wait(20) == 0
    assert script.lines() == ["ready", "step", "saved"]


def test_behind_a_stub_that_adopted_an_arbiter_the_program_is_found(script: Script) -> None:
    """A stub that waits to run again summons an arbiter, and adopts it, before it starts the program anew."""
    words = [sys.executable, "-c", WITH_WORKERS, TRAIN, str(script.log), "4"]
    gate = script.world.start("-g", "all", "-p", "5", "cat", stdin=subprocess.PIPE)
    wait_until(lambda: script.world.state(1) == "running", "the GPUs to be taken")
    fails = f"test -e {script.folder}/again || {{ touch {script.folder}/again; exit 75; }}; exec \"$@\""
    job = script.world.start("-r", "-p", "9", "sh", "-c", fails, "sh", *words)
    gate.stdin.close()
    wait_until(lambda: script.world.job(2)["attempt"] == 2, "it to fail once")
    for pid in (script.world.keeper_pid(), script.world.arbiter_pid()):
        assert pid
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: script.lines().count("ready") == 2, "it to run again")
    arbiter = script.world.arbiter_pid()
    assert psutil.Process(arbiter).ppid() == job.pid, "it was adopted"
    assert script.world.run("kill", "2").returncode == 0
    assert job.wait(20) == 3
    assert script.lines() == ["ready", "ready", "saved"]


FORWARDING = {
    "in its trap": "trap 'kill -TERM $child; wait $child; exit $?' TERM\n{train} & child=$!\nwait $child",
    "and waits again": "trap 'kill -TERM $child' TERM\n{train} & child=$!\nwait $child\nwait $child\nexit $?",
    "in Python": "exec {python} -c \"$PASSES\" {train}",
    "and exits": "trap 'kill -TERM $child; exit 3' TERM\n{train} & child=$!\nwait $child",
    "timeout": "exec timeout --foreground 100 {train}",  # else it sends it to the child twice itself
}


@FORMS
@pytest.mark.parametrize("background", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("how", FORWARDING)
def test_who_passes_the_signal_on_himself_has_his_child_asked_once(
    script: Script, form: tuple[str, ...], how: str, background: bool
) -> None:
    text = FORWARDING[how].format(train=script.train(3 if how == "and exits" else 5), python=sys.executable)
    start = as_in_the_background if background else None
    job = script.start(*form, script.write(text), extra={"PASSES": FORWARDS}, preexec_fn=start)
    assert script.world.run("kill", "1").returncode == 0
    job.wait(20)
    wait_until(lambda: script.lines()[-1] == "saved", "it to save", 6)
    assert script.lines() == ["ready", "asked", "saved"]


def test_who_can_have_passed_it_on_and_did_not_has_his_child_asked_before_kill(script: Script) -> None:
    job = script.start(sys.executable, "-c", TELLS_NOBODY, *script.train(1).split())
    assert script.world.run("kill", "1").returncode == 0
    assert job.wait(20) == 3
    assert script.lines() == ["ready", "asked", "saved"]


@FORMS
def test_a_program_that_saves_by_itself_keeps_its_workers(script: Script, form: tuple[str, ...]) -> None:
    words = [sys.executable, "-c", WITH_WORKERS, TRAIN, str(script.log), "9"]
    job = script.start(*form, "-t", "2s", "--signal", "TERM:12", *words, ready=2)
    assert job.wait(30) == 3
    assert script.lines() == ["ready", "ready", "saved"]


@FORMS
def test_a_list_for_all_asks_everybody_at_once(script: Script, form: tuple[str, ...]) -> None:
    words = [sys.executable, "-c", WITH_WORKERS, TRAIN, str(script.log), "2"]
    job = script.start(*form, "--signal", "all:TERM:12", *words, ready=2)
    assert script.world.run("kill", "1").returncode == 0
    assert job.wait(20) == 3
    assert sorted(script.lines()) == ["asked"] * 2 + ["ready"] * 2 + ["saved"] * 3


def test_who_says_that_it_is_saving_is_spared(script: Script) -> None:
    saving = "echo saving > $GPURUN_PREEMPT_FILE; echo ready >> {log}; sleep 3; echo saved >> {log}; exit 3"
    inner = script.write("while [ ! -e $GPURUN_PREEMPT_FILE ]; do sleep 0.05; done\n" + saving.format(log=script.log))
    job = script.world.start("-r", "--signal", "TERM:4", script.write(f"trap 'echo asked' TERM\n{inner}\nexit $?"))
    wait_until(lambda: script.world.state(1) == "running", "the script to run")
    assert script.world.run("kill", "--requeue", "1").returncode == 0
    wait_until(lambda: "saved" in script.lines(), "it to save")
    assert script.world.run("kill", "-9", "1").returncode == 0
    job.wait(20)
