"""Notices are written to a terminal of the job's owner, and nothing else is ever opened for them."""

import os
import pty
import select
import shutil
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from views import waiting
from waiting import wait_until
from world import OTHER_UID

from gpuwrap.arbiter.telling.notices import tell
from gpuwrap.host import processes
from gpuwrap.model import Job


@contextmanager
def job_with(stderr: int) -> Iterator[Job]:
    """A job whose program has this as its stderr."""
    with subprocess.Popen(["sleep", "600"], stderr=stderr) as child:
        identity = processes.identify(child.pid)
        assert identity is not None
        try:
            yield replace(waiting(1), identity=identity)
        finally:
            child.kill()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """What is written on it, and the terminal itself."""
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def written(master: int) -> bytes:
    return os.read(master, 4096) if select.select([master], [], [], 0.5)[0] else b""


def test_it_stands_on_the_terminal_of_the_jobs_owner(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    with job_with(slave) as job:
        tell(job, "job 1 paused")
    assert written(master) == b"gpurun: job 1 paused\r\n"


def test_a_terminal_that_draws_for_itself_is_left_alone(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    modes = termios.tcgetattr(slave)
    modes[3] &= ~termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    with job_with(slave) as job:
        tell(job, "job 1 paused")
    assert written(master) == b""


def test_the_terminal_of_another_is_left_alone(terminal: tuple[int, int]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a terminal away")
    master, slave = terminal
    os.fchown(slave, OTHER_UID, -1)
    with job_with(slave) as job:
        tell(job, "job 1 paused")
    assert written(master) == b""


PRETENDS = """
import os, sys
os.mkfifo("/dev/pts/0", 0o600)
os.dup2(os.open("/dev/pts/0", os.O_PATH), 2)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.needs("unshare", "mount")
def test_what_is_only_called_like_a_terminal_is_not_even_opened() -> None:
    """In a mount namespace of its own a program can call anything so; whoever opens a pipe for writing is noticed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    script = f'mount -t tmpfs none /dev/pts && exec "{sys.executable}" -c "$0"'
    words = [str(shutil.which("unshare")), "-m", "sh", "-c", script, PRETENDS]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            pytest.skip("mounting is not permitted")
        identity = processes.identify(child.pid)
        assert identity is not None
        assert os.readlink(f"/proc/{child.pid}/fd/2") == "/dev/pts/0"
        pipe = os.open(Path(f"/proc/{child.pid}/root/dev/pts/0"), os.O_RDONLY | os.O_NONBLOCK)
        try:
            tell(replace(waiting(1), identity=identity), "job 1 paused")
            poll = select.poll()
            poll.register(pipe, select.POLLIN)
            assert poll.poll(0) == []
        finally:
            os.close(pipe)
            child.kill()
    wait_until(lambda: child.poll() is not None, "the child to end")
