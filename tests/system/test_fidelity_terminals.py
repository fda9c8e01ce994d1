"""On a terminal, in bash, zsh and fish, keys, jobs and modes work as without gpurun."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fidelity import Counted, only_gpurun
from shells import SCENARIOS, Terminal, shells
from waiting import wait_until
from world import World


@shells
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_on_a_terminal(warm: World, counted: Counted, tmp_path: Path, shell: str, scenario: Any) -> None:
    def play(prefix: str, folder: Path) -> list[Any]:
        terminal = Terminal(shell, warm, folder, prefix)
        try:
            return scenario(terminal)
        finally:
            terminal.close()

    # The folder's name is part of what is compared, so both are called the same.
    bare = play("", tmp_path / "here")
    shutil.rmtree(tmp_path / "here")
    under = play(warm.command, tmp_path / "here")
    assert len(bare) == len(under)
    counted([f"{scenario.__name__} {number}" for number in range(len(bare))], bare, under)


@shells
@only_gpurun
def test_ctrl_c_while_waiting_ends_the_wait(fresh: Callable[..., World], tmp_path: Path, shell: str) -> None:
    world = fresh("1x24G")
    world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    terminal = Terminal(shell, world, tmp_path / "here", world.command)
    try:
        terminal.type("RUN VICTIM sleep")
        wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
        terminal.key("c")
        wait_until(lambda: world.state(2) == "ended", "job 2 to end")
        assert terminal.status() == "130"
        assert world.job(2)["result"]["kind"] == "cancelled"
        assert not terminal.sign.exists()
        assert world.state(1) == "running"
    finally:
        terminal.close()


@shells
@only_gpurun
def test_stopped_while_waiting_it_keeps_its_place_and_starts_after_fg(
    fresh: Callable[..., World], tmp_path: Path, shell: str
) -> None:
    world = fresh("1x24G")
    holder = world.start("sleep", "1000")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    terminal = Terminal(shell, world, tmp_path / "here", world.command)
    try:
        terminal.type("RUN VICTIM sleep")
        wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
        pid = world.job(2)["pid"]
        terminal.key("z")
        terminal.becomes(pid, state="T", foreground=False)
        terminal.status()
        holder.kill()
        # It is passed over: somebody behind it runs first.
        behind = world.run("true")
        assert behind.returncode == 0
        assert world.state(2) == "waiting"
        assert not terminal.sign.exists()
        terminal.type("fg")
        assert terminal.pid() == pid
        terminal.becomes(pid, state="S", foreground=True)
        assert world.state(2) == "running"
        terminal.key("z")
        terminal.becomes(pid, state="T", foreground=False)
        terminal.type("fg")
        terminal.becomes(pid, state="S", foreground=True)
        terminal.key("c")
        terminal.becomes(pid, state="gone")
        # fish does not say how a job ended that was brought back.
        assert terminal.status() == ("0" if shell == "fish" else "130")
    finally:
        terminal.close()


@pytest.mark.needs("bash")
def test_nothing_is_drawn_when_a_job_starts_at_once(warm: World, counted: Counted, tmp_path: Path) -> None:
    """The terminal gets the same bytes; also on a terminal that stops background writers, and after it is hung up."""

    def play(prefix: str) -> list[Any]:
        folder = tmp_path / "here"
        terminal = Terminal("bash", warm, folder, prefix)
        try:
            terminal.type("PS1=; stty -echo; echo beg''un")
            terminal.screen.expect_exact("begun\r\n")
            found: list[Any] = []
            for line in ("RUN printf 'a\\nb'", "RUN true", "RUN sh -c 'echo err >&2'", "RUN cat </dev/null"):
                terminal.type(f"{line}; echo en''ded")
                terminal.screen.expect_exact("ended\r\n")
                found.append(terminal.screen.before)
            terminal.type("stty tostop")
            pid = terminal.start("{ RUN VICTIM sleep; } &")
            terminal.type("kill %1; wait; stty -tostop; echo en''ded")
            terminal.becomes(pid, state="gone")
            terminal.screen.expect_exact("ended\r\n")
            pid = terminal.start("RUN VICTIM sleep")
            # Only the window: the program must be hung up by that alone.
            terminal.screen.ptyproc.fileobj.close()
            terminal.becomes(pid, state="gone")
            return found
        finally:
            terminal.close()
            shutil.rmtree(folder)

    bare = play("")
    under = play(warm.command)
    counted([str(number) for number in range(len(bare))], bare, under)
