"""Who is at the other end of a socket, what a user could signal himself, and whose terminal is written to."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from gpuwrap.host import peers, processes

ANNA, BOB = 1001, 1002
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[socket.socket]:
    os.chmod(tmp_path, 0o755)
    for folder in tmp_path.parents:
        if os.stat(folder).st_uid == os.geteuid() and str(folder).startswith("/tmp/pytest"):
            os.chmod(folder, 0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(tmp_path / "bell"))
        os.chmod(tmp_path / "bell", 0o666)
        sock.listen(8)
        sock.settimeout(10)
        yield sock


def connected(
    bell: socket.socket, then: str = "import time; time.sleep(60)", uid: int = 0, groups: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    """A process that connects; `uid`: as whom, with which groups (the interpreter itself may be root's alone)."""
    as_whom = f"os.setgroups({groups!r}); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid});" if uid else ""
    connect = f"s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect({bell.getsockname()!r})"
    return subprocess.Popen([sys.executable, "-c", f"import os, socket; {as_whom} {connect}; {then}"])


@as_root
def test_uid_groups_and_process_are_what_the_kernel_says(bell: socket.socket) -> None:
    child = connected(bell, uid=ANNA, groups=(2001, 2002))
    try:
        sock, _ = bell.accept()
        peer = peers.peer_of(sock)
        assert (peer.pid, peer.uid) == (child.pid, ANNA)
        assert peer.groups == {ANNA, 2001, 2002}
        signal.pidfd_send_signal(peer.pidfd, signal.SIGTERM)
        assert child.wait(10) == -signal.SIGTERM
        os.close(peer.pidfd)
        sock.close()
    finally:
        child.kill()
        child.wait()


def test_more_groups_than_fit_at_first_are_all_told() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        assert peers.groups_of(here) == set(os.getgroups())
    if os.geteuid() == 0:
        code = (
            "import os, socket; os.setgroups(range(3000, 3500)); from gpuwrap.host import peers;"
            "here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET); print(len(peers.groups_of(here)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "500\n"


def test_a_peer_that_has_gone_is_known_by_uid_and_has_no_process_of_another(bell: socket.socket) -> None:
    """It connects, forks, and ends: the socket lives on in the child."""
    child = connected(bell, "os.fork() and os._exit(0); import time; time.sleep(3)")
    sock, _ = bell.accept()
    child.wait(10)
    peer = peers.peer_of(sock)
    assert peer.uid == os.geteuid()
    if peer.pidfd >= 0:  # of the dead process, and of no other
        assert select.select([peer.pidfd], [], [], 0)[0]
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(peer.pidfd, 0)
        os.close(peer.pidfd)
    sock.close()


@as_root
def test_on_an_older_kernel_a_process_of_another_uid_is_not_taken_for_the_peer() -> None:
    child = subprocess.Popen(["sleep", "60"], user=BOB)
    try:
        wait_until(lambda: processes.name(child.pid) == b"sleep", "the child to run")
        with pytest.raises(peers.Refused, match="another has its pid"):
            peers.pidfd_before(child.pid, ANNA)
        pidfd = peers.pidfd_before(child.pid, BOB)
        assert pidfd >= 0
        os.close(pidfd)
    finally:
        child.kill()
        child.wait()
    assert peers.pidfd_before(child.pid, BOB) == -1


@as_root
def test_a_process_is_signalled_only_if_its_owner_could(tmp_path: Path) -> None:
    code = "import os, sys, time; os.setresuid(*map(int, sys.argv[1:])); print(1, flush=True); time.sleep(60)"
    for uids, anna, bob in (
        ((ANNA, ANNA, ANNA), True, False),
        ((ANNA, 0, 0), True, False),  # sudo(8), passwd(1) run by her: real uid hers
        ((0, 0, 0), False, False),
        ((BOB, ANNA, BOB), False, True),  # acts for her, and is his
        ((0, 0, ANNA), True, False),
    ):
        child = subprocess.Popen([sys.executable, "-c", code, *map(str, uids)], stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert (processes.could_signal(ANNA, child.pid), processes.could_signal(BOB, child.pid)) == (anna, bob), uids
            assert processes.could_signal(0, child.pid)
            # What the kernel itself says.
            tried = subprocess.run(["kill", "-0", str(child.pid)], user=ANNA, stderr=subprocess.DEVNULL, check=False)
            assert (tried.returncode == 0) == anna, uids
        finally:
            child.kill()
            child.communicate()


@as_root
def test_a_process_of_another_user_or_pid_namespace_is_told_apart() -> None:
    assert peers.is_of_our_namespaces(os.getpid()) == (True, True)
    for words, told in ((["--user"], (False, True)), (["--pid", "--fork"], (True, False))):
        child = subprocess.Popen(["unshare", *words, "sleep", "60"])
        try:
            inner = child.pid
            if "--fork" in words:
                wait_until(lambda outer=child.pid: processes.children(outer), "the child to fork")  # type: ignore[misc]
                inner = processes.children(child.pid)[0]
            wait_until(lambda pid=inner: processes.name(pid) == b"sleep", "sleep to run")  # type: ignore[misc]
            assert peers.is_of_our_namespaces(inner) == told
        finally:
            for pid in (*processes.children(child.pid), child.pid):
                os.kill(pid, signal.SIGKILL)
            child.wait()
