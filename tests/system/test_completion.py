"""Completion in the real bash, zsh and fish, typed into through tmux."""

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

COMPLETIONS = Path(__file__).parents[2] / "completions"
SHELLS = {
    "bash": (["bash", "--norc", "--noprofile"], 'PS1="READY "; bind "set show-all-if-ambiguous on"; source {}/gpurun.bash'),
    "zsh": (["zsh", "-f"], 'autoload -U compinit; compinit -u -D; source {}/_gpurun; PS1="READY "'),
    "fish": (["fish", "--no-config"], "source {}/gpurun.fish; function fish_prompt; echo 'READY '; end"),
}


class Shell:
    """A shell on a tmux server of the test's own."""

    def __init__(self, world: World, name: str, folder: Path) -> None:
        self._socket = str(world.directory / "tmux")
        self._world = world
        command, setup = SHELLS[name]
        self._tmux("new-session", "-d", "-x", "120", "-y", "30", "-c", str(folder), *command)
        self._name = name
        self._type(f"{setup.format(COMPLETIONS)}; {OWN[name]}")
        self._tmux("send-keys", "Enter")
        wait_until(lambda: any(line.startswith("READY") for line in self.lines()), f"{name} to be ready", within=30)

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, "-f", "/dev/null", *words]
        env = {**self._world.env, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
        return subprocess.run(command, env=env, capture_output=True, encoding="utf-8", check=True).stdout

    def _type(self, text: str) -> None:
        self._tmux("send-keys", "-l", text)

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._tmux("capture-pane", "-p").splitlines()]

    def complete(self, line: str, wanted: list[str]) -> None:
        """Type a line and Tab; all wanted texts must appear, the first on the line itself unless it begins with a space."""
        self._empty()
        self._type(line)
        wait_until(lambda: line.rstrip() in "\n".join(self.lines()), "the line to be typed")
        self._tmux("send-keys", "Tab")
        wait_until(
            lambda: all(self._stands(text) for text in wanted),
            f"{wanted} after {line!r} and Tab; the screen:\n" + "\n".join(self.lines()),
            within=15,
        )

    def _stands(self, text: str) -> bool:
        """Whether a text stands on the screen; a number and its description as this shell puts them side by side."""
        screen = " ".join(" ".join(self.lines()).split())
        number, _, told = text.partition(": ")
        beside = rf"{re.escape(number)} (-- |\()?{re.escape(told)}"
        return text in screen or bool(told and re.search(beside, screen))

    def _empty(self) -> None:
        """Clear line and screen; a busy shell may take the keys in another order, so they are sent again."""
        for again in (True, True, True, True, False):
            self._tmux("send-keys", *(["C-c"] if self._name == "fish" else ["C-e", "C-u"]))
            self._tmux("send-keys", "C-l")
            try:
                wait_until(lambda: [line for line in self.lines() if line] == ["READY"], "an empty screen", within=3)
                return
            except AssertionError:
                if not again:
                    raise

    def close(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self._tmux("kill-server")


# Typed line, and what must stand on the screen after Tab.
LINES = [
    # Situation 26.
    ("gpurun -m 8G python tr", ["gpurun -m 8G python train.py"]),
    ("gpurun kill ", ["2: sleep 600 running", "3: sleep 601 waiting"]),
    # Verbs, options, values.
    ("gpurun renic", ["gpurun renice"]),
    ("gpurun --conflict", ["gpurun --conflict-exit-code"]),
    ("gpurun -p urg", ["gpurun -p urgent"]),
    ("gpurun --priority=hi", ["gpurun --priority=high"]),
    ("gpurun -i ", ["Simulated 24G"]),
    ("gpurun -i 0,", ["Simulated 24G"]),
    ("gpurun --help ", ["gpurun --help all"]),
    ("gpurun -h ", ["gpurun -h all"]),
    ("gpurun help ki", ["gpurun help kill"]),
    # Jobs in a list, and behind ok:, in every form that the option has.
    ("gpurun -a ok:", ["2: sleep 600 running"]),
    ("gpurun -a 2,", ["3: sleep 601 waiting"]),
    ("gpurun kill 2,", ["3: sleep 601 waiting"]),
    # Those that ended, where they are meant.
    ("gpurun again ea", ["gpurun again early"]),
    ("gpurun logs ea", ["gpurun logs early"]),
    ("gpurun history ea", ["gpurun history early"]),
    # Names that a shell would obey are quoted.
    ("gpurun kill it", ["gpurun kill it\\'s"]),
    ("gpurun kill x", ["gpurun kill x\\;touch\\ y"]),
    ("gpurun kill d", ["gpurun kill d\\$HOME"]),
    ("gpurun ls --js", ["gpurun ls --json"]),
    ("gpurun kill nigh", ["gpurun kill nightly"]),
    ("gpurun gpus undr", ["gpurun gpus undrain"]),
    ("gpurun completion fi", ["gpurun completion fish"]),
    ("gpurun renice urg", ["gpurun renice urgent"]),
    ("gpurun renice 5 ni", ["gpurun renice 5 nightly"]),
    # The wrapped command, wherever it begins.
    ("gpurun -- python tr", ["gpurun -- python train.py"]),
    ("gpurun -g 2 -N x -- cat notes.t", ["gpurun -g 2 -N x -- cat notes.txt"]),
    ("X=1 gpurun python tr", ["X=1 gpurun python train.py"]),
    ("gpurun --memory=8G -n cat notes.t", ["gpurun --memory=8G -n cat notes.txt"]),
    ("gpurun -- our-too", ["gpurun -- our-tool"]),
    # Its own completion.
    ("gpurun -m 8G our-tool --own", ["gpurun -m 8G our-tool --own-option"]),
    ("gpurun our-tool --own", ["gpurun our-tool --own-option"]),
]
OWN = {
    "bash": "complete -W '--own-option' our-tool",
    "zsh": "compdef '_arguments --own-option' our-tool",
    "fish": "complete -c our-tool -l own-option",
}


@pytest.fixture(params=list(SHELLS))
def shell(request: pytest.FixtureRequest, make_world: Callable[..., World], tmp_path: Path) -> Iterator[Shell]:
    name = request.param
    for tool in ("tmux", name):
        if not any(os.access(f"{folder}/{tool}", os.X_OK) for folder in os.environ["PATH"].split(":")):
            pytest.skip(f"{tool} is not installed")
    world = make_world("2x24G")
    for file in ("train.py", "notes.txt"):
        (tmp_path / file).touch()
    tools = world.directory / ".bin"
    tools.mkdir()
    (tools / "our-tool").write_text("#!/bin/sh\n")
    (tools / "our-tool").chmod(0o755)
    world.env["PATH"] = f"{os.path.dirname(world.command)}:{tools}:{world.env['PATH']}"
    world.run("-N", "early", "true", "early")
    world.start("-q", "-g", "2", "sleep", "600")
    wait_until(lambda: world.state(2) == "running", "job 2 to run")
    for number, job in enumerate(("nightly", "it's", "x;touch y", "d$HOME"), 3):
        world.start("-q", "-N", job, "sleep", f"60{number - 2}")
        wait_until(lambda number=number: world.state(number) == "waiting", f"job {number} to wait")
    started = Shell(world, name, tmp_path)
    yield started
    started.close()


def test_completion_in_a_real_shell(shell: Shell) -> None:
    for line, wanted in LINES:
        shell.complete(line, wanted)


def test_what_a_tab_waits_for_is_light(world: World) -> None:
    world.run("true")
    done = world.run("completion", "jobs", extra={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"sqlite3", "dataclasses", "enum", "json", "re", "argparse", "psutil", "pynvml", "filelock", "platformdirs"}
    assert not loaded & heavy


@pytest.mark.needs("fish")
@pytest.mark.parametrize("how", ["sourced", "autoloaded"])
def test_what_fish_makes_of_the_man_page_does_not_stand_beside_ours(
    make_world: Callable[..., World], tmp_path: Path, how: str
) -> None:
    world = make_world("2x24G")
    made = tmp_path / "data/fish/generated_completions"
    own = tmp_path / "config/fish/completions"
    for folder in (made, own):
        folder.mkdir(parents=True)
    (made / "gpurun.fish").write_text("complete -c gpurun -l array -d 'a sweep'\n")
    if how == "autoloaded":
        (own / "gpurun.fish").symlink_to(COMPLETIONS / "gpurun.fish")
    first = f"source {COMPLETIONS}/gpurun.fish; " if how == "sourced" else ""
    homes = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    env = {**world.env, **homes, "PATH": f"{os.path.dirname(world.command)}:{world.env['PATH']}"}
    words = ["fish", "-c", f"{first}complete -C 'gpurun kill --'"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "--all", "--help", "--requeue", "--signal", "--sim", "--yes",
    ]  # fmt: skip
    assert done.stderr == ""
