"""Real work: a Makefile, cron and a shell train on the same GPUs, in one queue, in the right order.

cron itself runs in a mount namespace with spool and crontab of its own, so that the machine's cron jobs are neither
seen nor run; it fires at full minutes, so those tests are `long`. cron's environment is tried by default too.
"""

import contextlib
import importlib.util
import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd
from proof import GIB, Asked, build_work, processes_of, rows_left
from waiting import wait_until
from world import SUPPORT, World, clean_environment, installed_command

MakeWorld = Callable[..., World]

TRAIN = SUPPORT / "train_digits.py"
# What cron gives to a job [crontab(5) of Debian].
CRON_PATH = "/usr/bin:/bin"

needs_sklearn = pytest.mark.skipif(not importlib.util.find_spec("sklearn"), reason="scikit-learn is not installed")

MAKEFILE = """\
jobs = $(whole) $(shared)
all: $(jobs)
$(whole): ; @$(gpurun) -p $(call rank,$@) -- $(train) $(log) $@
$(shared): ; @$(gpurun) -m 6G -p $(call rank,$@) -- $(train) $(log) $@
rank = $(lastword $(subst -, ,$@))
"""


@pytest.fixture
def crowd(make_world: MakeWorld, tmp_path: Path) -> Crowd:
    return Crowd(make_world("2x24G"), build_work(tmp_path), tmp_path)


class Sources:
    """Where jobs come from: make, cron's environment, cron, a shell on a terminal. Tags end in the priority."""

    def __init__(self, crowd: Crowd, folder: Path) -> None:
        self.crowd, self.world, self.folder = crowd, crowd.world, folder
        self.train = f"{sys.executable} {TRAIN}"

    def expect(self, tag: str, memory: int | None = None) -> str:
        """Note that the proof must find this job; returns its tag with its priority."""
        self.crowd.asked[tag] = Asked(tag, memory=memory, priority=int(tag.rpartition("-")[2]))
        return tag

    def make(self, whole: list[str], shared: list[str]) -> "subprocess.Popen[Any]":
        for tag in whole:
            self.expect(tag)
        for tag in shared:
            self.expect(tag, 6 * GIB)
        makefile = self.folder / "Makefile"
        variables = {
            "gpurun": self.world.command, "train": self.train, "log": self.crowd.log,
            "whole": " ".join(whole), "shared": " ".join(shared),
        }  # fmt: skip
        makefile.write_text("".join(f"{name} = {value}\n" for name, value in variables.items()) + MAKEFILE)
        return self.world.adopt(
            subprocess.Popen(
                ["make", "-j8", "-f", makefile, "all"],
                env=self.world.env,
                stdin=subprocess.DEVNULL,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def command(self, tag: str, *options: str) -> str:
        """One line for a shell or a crontab."""
        words = [self.world.command, "-p", tag.rpartition("-")[2], *options, "--", sys.executable, str(TRAIN)]
        return shlex.join([*words, str(self.crowd.log), tag])

    def cron_environment(self, tag: str) -> "subprocess.Popen[Any]":
        """As cron starts it: its four variables, /bin/sh, no terminal, a session of its own."""
        line = f"cd; {self.settings()} {self.command(self.expect(tag))}"
        return self.world.adopt(
            subprocess.Popen(
                ["/bin/sh", "-c", line],
                env=cron_variables(),
                stdin=subprocess.DEVNULL,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def settings(self) -> str:
        return " ".join(f"{name}={self.world.env[name]}" for name in ("GPURUN_DIR", "GPURUN_SIM"))

    def until_in_line(self, count: int) -> None:
        def waiting() -> bool:
            return sum(state == "waiting" for state in self.crowd.states().values()) == count

        wait_until(waiting, f"{count} jobs to stand in line", 30)


def cron_variables() -> dict[str, str]:
    entry = pwd.getpwuid(os.geteuid())
    return {"HOME": entry.pw_dir, "LOGNAME": entry.pw_name, "SHELL": "/bin/sh", "PATH": CRON_PATH}


@contextlib.contextmanager
def interactive_shell(world: World) -> Iterator[Any]:
    """A bash on a terminal of its own; its prompt is `ready$`."""
    pexpect = pytest.importorskip("pexpect")
    shell = pexpect.spawn(
        "bash", ["--norc", "--noprofile", "-i"],
        env={**world.env, "PS1": "ready$ ", "TERM": "xterm"}, encoding="utf-8", timeout=150, dimensions=(40, 200),
    )  # fmt: skip
    try:
        shell.expect_exact("ready$ ")
        yield shell
    finally:
        shell.close(force=True)


@needs_sklearn
@pytest.mark.limit(240)
@pytest.mark.needs("make", "bash")
def test_make_cron_and_a_shell_train_in_one_queue(crowd: Crowd, tmp_path: Path) -> None:
    """All stand in line while one job holds both GPUs; then the log must show priority, then the order of their starts."""
    sources = Sources(crowd, tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("gate", gpus=2, priority=100), f"until={gate}")
    crowd.until_started(1)
    make = sources.make(
        whole=["make-w1-0", "make-w2-3", "make-w3-0"],
        shared=["make-s1-0", "make-s2-0", "make-s3-3", "make-s4-0", "make-s5-0"],
    )
    sources.until_in_line(8)
    crons = [sources.cron_environment(f"cron-{number}-{rank}") for number, rank in enumerate((0, 9))]
    sources.until_in_line(10)
    with interactive_shell(crowd.world) as shell:
        shell.sendline(sources.command(sources.expect("back-1-6"), "-q") + " &")
        sources.until_in_line(11)
        shell.sendline(sources.command(sources.expect("front-1-0")) + "; echo status $?.")
        sources.until_in_line(12)
        ids = [job["id"] for job in crowd.world.jobs(all=False)]
        assert ids == sorted(ids)
        assert len(ids) == 13
        gate.touch()
        shell.expect_exact("status 0.")
    for child in [make, *crons]:
        output, _ = child.communicate(timeout=60)
        assert child.returncode == 0, output
        assert "gpurun" not in output, "without a terminal nothing is said"
    crowd.finish()
    crowd.prove("make, cron and a shell")
    order = [life.tag for life in crowd.lives()]
    assert set(order[1:3]) == {"cron-1-9", "back-1-6"}, order
    print(f"{len(crowd.lives())} programs, in this order: {' '.join(life.tag for life in crowd.lives())}")


@pytest.mark.needs("make")
def test_a_failed_recipe_stops_make_with_the_programs_status(crowd: Crowd, tmp_path: Path) -> None:
    makefile = tmp_path / "Makefile"
    makefile.write_text(f"all: ; @{crowd.world.command} -- sh -c 'exit 7'\n")
    done = subprocess.run(["make", "-f", makefile], env=crowd.world.env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "Error 7" in done.stderr


def test_under_crons_environment_nothing_is_said_and_the_status_is_the_programs(crowd: Crowd) -> None:
    sources = Sources(crowd, crowd.log.parent)
    line = f"{sources.settings()} {crowd.world.command} -- sh -c 'exit 9'"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        env=cron_variables(),
        capture_output=True,
        text=True,
        timeout=30,
        start_new_session=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "", "")


# cron itself

NAMESPACE = """\
set -e
mount --bind {folder}/crontabs /var/spool/cron/crontabs
mount --bind {folder}/cron.d /etc/cron.d
mount --bind {folder}/crontab /etc/crontab
mount -t tmpfs tmpfs /run
exec cron -f
"""
PASSWD = """\
set -e
mount --bind {folder}/passwd /etc/passwd
"""


def in_namespace(script: str, *words: str, **popen: Any) -> list[str]:
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("only root may make a mount namespace")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not permitted")
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *words]


def prepare_cron(folder: Path, crontab: str) -> None:
    (folder / "crontabs").mkdir()
    (folder / "cron.d").mkdir()
    (folder / "crontab").write_text("\n")
    own = folder / "crontabs" / "root"
    own.write_text(crontab)
    own.chmod(0o600)


def end(child: "subprocess.Popen[Any]") -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@needs_sklearn
@pytest.mark.long
@pytest.mark.limit(400)
@pytest.mark.needs("cron", "make", "bash")
def test_debians_cron_itself_queues_with_make_and_a_shell(crowd: Crowd, tmp_path: Path) -> None:
    sources = Sources(crowd, tmp_path)
    gate = tmp_path / "open"
    crowd.start(Asked("gate", gpus=2, priority=100), f"until={gate}")
    crowd.until_started(1)
    tags = ["cron-1-0", "cron-2-9", "cron-3-3"]
    lines = [f"{name}={crowd.world.env[name]}" for name in ("GPURUN_DIR", "GPURUN_SIM")]
    # It fires each minute: once is enough, and what it says is kept.
    for tag in map(sources.expect, tags):
        once = f"mkdir {tmp_path}/{tag} 2>/dev/null && {sources.command(tag)} >{tmp_path}/{tag}/said 2>&1"
        lines.append(f"* * * * * {once}; [ -s {tmp_path}/{tag}/said ] && echo $? >>{tmp_path}/{tag}/status")
    prepare_cron(tmp_path, "\n".join(lines) + "\n")
    cron = crowd.world.adopt(subprocess.Popen(in_namespace(NAMESPACE.format(folder=tmp_path))))
    try:
        make = sources.make(whole=["make-w1-0", "make-w2-3"], shared=[f"make-s{n}-0" for n in range(6)])
        wait_until(lambda: list(crowd.states().values()).count("waiting") == 11, "cron's three jobs and make's", 90)
        with interactive_shell(crowd.world) as shell:
            shell.sendline(sources.command(sources.expect("front-1-6")) + "; echo status $?.")
            sources.until_in_line(12)
            gate.touch()
            shell.expect_exact("status 0.")
        output, _ = make.communicate(timeout=60)
        assert make.returncode == 0, output
        crowd.finish()
        wait_until(lambda: not rows_left(crowd.world.directory), "all to end", 60)
    finally:
        end(cron)
    crowd.prove("make, Debian's cron and a shell")
    for tag in tags:
        said = (tmp_path / tag / "said").read_text()
        assert said.startswith(tag), said
        assert "gpurun" not in said, said
    print(f"{len(crowd.lives())} programs, in this order: {' '.join(life.tag for life in crowd.lives())}")


# One default folder for all of them


@pytest.fixture
def private_home(tmp_path: Path) -> Iterator[Path]:
    """A passwd file in which our home is `tmp_path/home`; whoever lives there at the end is ended."""
    entry = pwd.getpwuid(os.geteuid())
    home = tmp_path / "home"
    home.mkdir()
    lines = Path("/etc/passwd").read_text().splitlines()
    own = f"{entry.pw_name}:x:{entry.pw_uid}:{entry.pw_gid}:{entry.pw_gecos}:{home}:{entry.pw_shell}"
    changed = [own if line.startswith(f"{entry.pw_name}:") else line for line in lines]
    (tmp_path / "passwd").write_text("\n".join(changed) + "\n")
    yield home

    def gone() -> bool:
        left = processes_of(tmp_path)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(gone, "the processes of the private home to end")


def ask_in(tmp_path: Path, variables: dict[str, str], line: str) -> "subprocess.CompletedProcess[str]":
    script = PASSWD.format(folder=tmp_path) + 'exec /bin/sh -c "$1"'
    return subprocess.run(
        in_namespace(script, line), env=variables, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )


def environments(home: Path) -> dict[str, dict[str, str]]:
    shell = {**clean_environment(), "HOME": str(home)}
    elsewhere = str(home.parent / "elsewhere")
    xdg = {name: elsewhere for name in ("XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")}
    return {
        "shell": shell,
        "cron": {**cron_variables(), "HOME": str(home)},
        "faked HOME": {**shell, "HOME": elsewhere},
        "XDG": {**shell, **xdg},
        "nothing at all": {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
    }


def the_one_queue(home: Path, command: str, tmp_path: Path, expected: int) -> None:
    """All jobs so far have consecutive numbers in one database below the home, from wherever one asks."""
    for name, variables in environments(home).items():
        done = ask_in(tmp_path, variables, f"{command} ls -a --json --sim 1x24G")
        assert done.returncode == 0, (name, done.stderr)
        assert [job["id"] for job in json.loads(done.stdout)["jobs"]] == list(range(1, expected + 1)), name
    (database,) = home.rglob("state.db")
    assert database.is_relative_to(home / ".local/state/gpurun")
    assert not (tmp_path / "elsewhere").exists()


def test_shell_and_cron_agree_on_the_default_folder(private_home: Path, tmp_path: Path) -> None:
    command = installed_command()
    kinds = environments(private_home)
    for name, variables in kinds.items():
        done = ask_in(tmp_path, variables, f"{command} --sim 1x24G -- true")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), name
    the_one_queue(private_home, command, tmp_path, len(kinds))


@pytest.mark.long
@pytest.mark.limit(300)
@pytest.mark.needs("cron")
def test_debians_cron_and_a_shell_agree_on_the_default_folder(private_home: Path, tmp_path: Path) -> None:
    command = installed_command()
    variables = environments(private_home)["shell"]
    assert ask_in(tmp_path, variables, f"{command} --sim 1x24G -- true").returncode == 0
    done = tmp_path / "done"
    said = tmp_path / "said"
    prepare_cron(tmp_path, f"* * * * * [ -e {done} ] || {command} --sim 1x24G -- touch {done} >{said} 2>&1\n")
    script = PASSWD.format(folder=tmp_path) + NAMESPACE.format(folder=tmp_path)
    cron = subprocess.Popen(in_namespace(script), env=variables)
    try:
        wait_until(said.exists, "cron to fire", 130)
        wait_until(done.exists, f"cron's job to run: {said.read_text()}", 30)
    finally:
        end(cron)
    the_one_queue(private_home, command, tmp_path, 2)
