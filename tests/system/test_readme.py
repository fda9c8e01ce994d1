"""The README's recipes, run as they are written: in a shell, in tmux, by cron's shell, by make and in Python."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import wait_until
from world import World

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAM = "import os, sys\nprint(os.environ['GPURUN_JOB'], *sys.argv[1:], flush=True)\n"


def recipe(name: str) -> str:
    """The first indented block after the paragraph that begins with `name`."""
    section = README[README.index("\n## Recipes") :]
    _, _, text = section[section.index(f"\n{name}") + 1 :].partition("\n\n")
    lines = []
    for line in text.split("\n"):
        if line and not line.startswith("    "):
            break
        lines.append(line[4:])
    return "\n".join(lines).strip("\n") + "\n"


@pytest.fixture
def home(make_world: Callable[..., World], tmp_path: Path) -> tuple[World, Path]:
    """A home folder with a virtual environment and the programs that the recipes start."""
    world = make_world("2x24G")
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "gpurun").symlink_to(world.command)
    (tools / "python").symlink_to(sys.executable)
    for name in ("train.py", "eval.py"):
        (tmp_path / name).write_text(PROGRAM)
    (tmp_path / "update.sh").write_text("#!/bin/sh\necho $GPURUN_JOB >> $HOME/updated\ncat $HOME/gate 2> $HOME/no-gate\n")
    (tmp_path / "update.sh").chmod(0o755)
    world.env |= {"PATH": f"{tools}:{world.env['PATH']}", "HOME": str(tmp_path)}
    return world, tmp_path


def in_shell(world: World, folder: Path, script: str, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**world.env, **more}, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_sweep_in_the_shell(home: tuple[World, Path]) -> None:
    world, folder = home
    done = in_shell(world, folder, recipe("Shell:"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for rate in ("1e-3", "1e-4", "1e-5"):
        assert (folder / f"lr-{rate}.log").read_text().split()[1:] == ["--lr", rate]
    assert sorted(job["name"] for job in world.jobs()) == ["lr-1e-3", "lr-1e-4", "lr-1e-5"]


@pytest.mark.needs("tmux")
def test_a_window_in_tmux(home: tuple[World, Path]) -> None:
    world, folder = home
    socket = str(world.directory / "tmux")
    real = next(f"{each}/tmux" for each in os.environ["PATH"].split(":") if os.access(f"{each}/tmux", os.X_OK))
    (folder / ".venv/bin/tmux").write_text(f'#!/bin/sh\nexec {real} -S {socket} -f /dev/null "$@"\n')
    (folder / ".venv/bin/tmux").chmod(0o755)
    assert in_shell(world, folder, "tmux new-session -d -x 80 -y 20 sh").returncode == 0
    try:
        done = in_shell(world, folder, recipe("tmux:"))
        assert (done.returncode, done.stderr) == (0, "")
        shown = lambda: in_shell(world, folder, "tmux capture-pane -p -t :1").stdout  # noqa: E731
        wait_until(lambda: shown().startswith("1\n"), "the training's output in the new window")
        wait_until(lambda: world.job(1)["result"], "its end")
        assert world.job(1)["result"]["code"] == 0
    finally:
        in_shell(world, folder, "tmux kill-server")


def by_cron(world: World, folder: Path, line: str) -> "subprocess.Popen[str]":
    """Run the command of a crontab's line as cron does."""
    command = line.split(None, 5)[5]
    kept = {name: world.env[name] for name in ("GPURUN_DIR", "GPURUN_SIM")}
    env = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", **kept}
    child = subprocess.Popen(
        ["/bin/sh", "-c", command], cwd="/", env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    world.adopt(child)
    return child


@pytest.mark.parametrize("name", ["cron:", "The same, waiting its turn"])
def test_by_cron_silently_and_never_two_at_a_time(home: tuple[World, Path], name: str) -> None:
    world, folder = home
    os.mkfifo(folder / "gate")
    world.start("-g", "1", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    first = by_cron(world, folder, recipe(name))
    wait_until((folder / "updated").exists, "the first update to run")
    if name == "cron:":
        assert by_cron(world, folder, recipe(name)).communicate(timeout=30) == ("", "")  # both GPUs are taken
    second = by_cron(world, folder, recipe(name))
    assert second.communicate(timeout=30) == ("", "")
    assert second.returncode == 0, "cron sends no mail"
    (folder / "gate").write_text("")
    assert first.communicate(timeout=30) == ("", "")
    assert len((folder / "updated").read_text().split()) == 1


def test_by_make(home: tuple[World, Path]) -> None:
    world, folder = home
    (folder / "Makefile").write_text(recipe("Makefile:"))
    for number in range(5):
        (folder / f"{number}.yaml").touch()
    done = in_shell(world, folder, "make -j64 -s " + " ".join(f"{number}.out" for number in range(5)))
    assert (done.returncode, done.stderr) == (0, "")
    for number in range(5):
        assert (folder / f"{number}.out").read_text().split()[1:] == [f"{number}.yaml"]
    assert {job["memory_bytes"] for job in world.jobs()} == {8 * 2**30}
    (folder / "eval.py").write_text("raise SystemExit(3)\n")
    (folder / "5.yaml").touch()
    failed = in_shell(world, folder, "make -s 5.out")
    assert failed.returncode == 2
    assert "Error 3" in failed.stderr


def test_a_block_in_python(home: tuple[World, Path]) -> None:
    world, folder = home
    done = subprocess.run(
        [sys.executable, "-c", recipe("Python,")],
        env=world.env, cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "job 1 on GPU 0\n"
    assert world.job(1)["priority"] == 5
    assert world.job(1)["memory_bytes"] == 6 * 2**30


def test_the_completion_line(home: tuple[World, Path]) -> None:
    world, folder = home
    done = in_shell(world, folder, recipe("Completion:") + "complete -p gpurun\n")
    assert (done.returncode, done.stdout) == (0, "complete -F _gpurun gpurun\n")


def daily_use() -> list[str]:
    """The commands of "Daily use" that start something, as they stand."""
    section = README[README.index("## Daily use") : README.index("A verb is a verb only")]
    lines = [line.partition(" #")[0].strip() for line in section.split("\n") if line.startswith("    ")]
    return [line for line in lines if "train.py" in line]


def test_every_line_of_daily_use_works_with_the_script_that_it_begins_with(home: tuple[World, Path]) -> None:
    """With fewer and shorter epochs, each line after the other as somebody would type it, and none speaks of an error."""
    world, folder = home
    first, *lines = daily_use()
    assert first.startswith("gpurun demo --script > train.py; ")
    assert in_shell(world, folder, first).stderr == ""
    script = folder / "train.py"
    script.write_text(script.read_text().replace("60)", "2)").replace("sleep(1)", "sleep(0.01)"))
    job = ""
    for line in lines:
        done = in_shell(world, folder, line, job=job)
        assert (done.returncode, done.stderr) == (0, ""), line
        if line.startswith("job=$("):
            job = str(len(world.jobs()))
        else:
            assert done.stdout.strip(), line
    assert len(lines) == 12
