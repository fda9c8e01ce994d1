"""What is sent over the bell: each field of each request is read, and a mistake refuses its own request and nothing else."""

import ast
import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pauses import stands
from waiting import wait_until
from world import World

import gpuwrap
from gpuwrap.arbiter.answers.table import KINDS
from gpuwrap.wire import PACKET, unpack

# What sends, and which of its arguments says the kind.
SENDERS = {
    "pack": 0, "ask": 0, "_ask": 0, "ask_ahead": 0, "ask_about": 0, "say": 0, "_is_looked_at": 0, "ask_within": 1,
}  # fmt: skip
# What is said through a pipe of gpurun's own, between a launch in the background and who started it, or an arbiter and its
# summoner.
NOT_OVER_THE_BELL = {"job", "refused", "over", "failed", "ready"}
HUGE = "9" * 5000
WRONG = ["", "x", "-3", "nan", "inf", "1e999", " 1", "1_0", "٣", "0x1", "\udcff", "\x1b[2J", "1 x", "1-", "3-1", "1,,2", HUGE]
RIGHT = ["0", "1", "2", "7", "100", "100000", "2147483648", str(2**63 - 1), str(2**63), "0.5", "-100", "all", "none", "whole"]


def line_to(world: World) -> socket.socket:
    """A connection to the arbiter."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(30)
    folder = os.open(world.folder, os.O_PATH)
    try:
        line.connect(f"/proc/self/fd/{folder}/bell")
    finally:
        os.close(folder)
    return line


def answer(line: socket.socket) -> tuple[str, dict[str, str]]:
    packet = line.recv(PACKET)
    assert packet, "the arbiter broke the connection"
    return unpack(packet)


@pytest.fixture
def busy(world: World) -> World:
    """A world with a job that has both GPUs and one that waits for them."""
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    return world


@pytest.mark.parametrize("packet", [b"kill\0jobs=" + b"1 " * PACKET, b"ping\0version", b"\xff" * 10 + b"\0\xff"])
def test_who_sends_what_no_client_can_have_made_loses_the_connection_and_nobody_else(busy: World, packet: bytes) -> None:
    arbiter = busy.arbiter_pid()
    with line_to(busy) as mad:
        mad.send(packet)
        assert mad.recv(PACKET) == b""
    assert busy.arbiter_pid() == arbiter
    assert [job["state"] for job in busy.jobs()] == ["running", "waiting"]


# --- the table and who sends ----------------------------------------------------------------------------------------


def sent() -> Iterator[tuple[str, str, set[str]]]:
    """Each kind that our own code sends, where, and with which fields."""
    package = Path(gpuwrap.__file__).parent
    folders = [package / name for name in ("client", "commands", "launch")]
    single = [package / "block.py", package / "state" / "asked.py"]
    for path in [*single, *(path for folder in folders for path in sorted(folder.glob("*.py")))]:
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name not in SENDERS or len(call.args) <= SENDERS[name]:
                continue
            first = call.args[SENDERS[name]]
            words = [first] if not isinstance(first, ast.IfExp) else [first.body, first.orelse]
            for word in words:
                if isinstance(word, ast.Constant) and isinstance(word.value, str) and word.value.isidentifier():
                    yield word.value, path.name, {each.arg for each in call.keywords if each.arg is not None}


def test_each_kind_that_can_be_sent_is_in_the_table_and_the_other_way_round() -> None:
    kinds = {kind for kind, _path, _fields in sent()}
    assert kinds - NOT_OVER_THE_BELL <= KINDS.keys() <= kinds


def test_each_field_that_is_sent_is_read() -> None:
    unread = {
        (kind, field)
        for kind, path, fields in sent()
        for field in fields - {"version"}
        if kind in KINDS and path not in ("detach.py", "background.py") and field not in KINDS[kind].fields
    }
    assert unread == {("become", "wait"), ("pending", "signal")}, "nobody needs to know"


# --- anything at all ------------------------------------------------------------------------------------------------

# The one who sends is a process of its own: what it registers it may kill.
SENDER = """
import os, socket, sys
def connect():
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(30)
    line.connect(sys.argv[1])
    return line
for text in sys.stdin:
    line = connect()
    try:
        for word in text.split():
            line.send(bytes.fromhex(word))
    except OSError:
        pass
    line.close()
    line = connect()
    line.send(b"ping")
    print(line.recv(65536)[:4].decode(), flush=True)
    line.close()
"""


class Sender:
    def __init__(self, world: World) -> None:
        self.world = world
        self.child: subprocess.Popen[str] | None = None

    def say(self, packets: list[bytes]) -> None:
        """Send packets over a connection; then the arbiter answers another."""
        for _ in range(3):
            if self.child is None or self.child.poll() is not None:
                command = [sys.executable, "-c", SENDER, str(self.world.bell)]
                started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                self.child = self.world.adopt(started)
            assert self.child.stdin is not None
            assert self.child.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self.child.stdin.write(" ".join(packet.hex() for packet in packets) + "\n")
                self.child.stdin.flush()
                self._await(self.child)
                if self.child.poll() is None and self.child.stdout.readline() == "done\n":
                    return
        raise AssertionError(f"no answer after {packets}")

    def _await(self, child: "subprocess.Popen[str]") -> None:
        """Wait until it has something to say; who has paused itself never will, and is ended."""
        wait_until(lambda: stands(child.pid) or select.select([child.stdout], [], [], 0)[0], "an answer", 100)
        if stands(child.pid):
            child.kill()
            child.wait()

    def leave(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()


def values_of(field: str) -> st.SearchStrategy[str]:
    """Right and wrong ones, but never another's job, nor a GPU that is there, nor a protocol that is newer."""
    if field in ("jobs", "job", "row", "after"):
        return st.sampled_from([*WRONG, "4000000", "4000000 4000001"])
    if field in ("list", "version"):
        return st.sampled_from(WRONG)
    return st.sampled_from([*WRONG, *RIGHT]) | st.text(max_size=8)


# What a connection begins with in the second kind of story, and then speaks of: rows, a job that waits, one that is granted.
BEGUN = [
    [b"rows\0indices=1-3", b"sweep\0key=s\0count=3\0gpus=0"],
    [b"register\0key=k\0gpus=0\0stub=1"],
    [b"register\0key=k\0gpus=0", b"take"],
    [b"register\0key=k"],
]


def values_of_ones_own(field: str) -> st.SearchStrategy[str]:
    """Right ones, of what the connection has registered itself, and sometimes in the wrong order."""
    if field in ("jobs", "job", "row", "after"):
        return st.integers(3, 40).map(str) | st.sampled_from(["5 6 7 8 9", "4-9", "ok:6"])
    known = {
        "index": ["0", "1", "2", "3"], "indices": ["1-3", "2,4"], "count": ["1", "3"], "gpus": ["0", "0", "1", "all"],
        "key": ["k", "s", "s:1", "k:1"], "signals": ["15:1"], "give_way": ["never", "requeue"], "list": WRONG, "version": WRONG,
    }  # fmt: skip
    return st.sampled_from(known.get(field, ["0", "1", "1", "0.5", *RIGHT]))


@st.composite
def packets(
    draw: Callable[[st.SearchStrategy[object]], object], values_of: Callable[[str], st.SearchStrategy[str]] = values_of
) -> bytes:
    kind = draw(st.sampled_from(sorted(KINDS)))
    fields = draw(st.lists(st.sampled_from([*KINDS[kind].fields, "version", "unheard"]), max_size=6, unique=True))  # type: ignore[index]
    if draw(st.booleans()):
        fields = list({*fields, *(need.partition("|")[0] for need in KINDS[kind].needs)})  # type: ignore[index,misc]
    parts = [kind, *(f"{field}={draw(values_of(field))}" for field in fields)]  # type: ignore[attr-defined]
    packet = "\0".join(parts).encode("utf-8", "surrogatepass")  # type: ignore[arg-type]
    return draw(st.sampled_from([packet, packet, packet, packet[: len(packet) // 2] or b"x"]))  # type: ignore[return-value]


STORIES = {
    "anything": st.lists(packets(), min_size=1, max_size=12),
    "ones own": st.tuples(st.sampled_from(BEGUN), st.lists(packets(values_of_ones_own), min_size=1, max_size=12)).map(
        lambda parts: parts[0] + parts[1]
    ),
}


@pytest.mark.limit(300)
@pytest.mark.parametrize("story", STORIES)
def test_whatever_is_sent_the_arbiter_lives_and_nobody_else_loses_anything(busy: World, story: str) -> None:
    arbiter = busy.arbiter_pid()
    sender = Sender(busy)

    @settings(
        max_examples=120, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(STORIES[story])
    def anything(said: list[bytes]) -> None:
        sender.say(said)
        assert busy.arbiter_pid() == arbiter, said

    anything()
    sender.leave()
    log = (busy.folder / "arbiter.log").read_text()
    assert "request:" not in log, "one of our own mistakes, not of the sender's"
    assert "store:" not in log
    seen = "SELECT state, priority, attempt FROM job WHERE id <= 2 ORDER BY id"
    as_before = [("running", 0, 1), ("waiting", 0, 1)]  # soon: what was asked for may have been urgent
    wait_until(lambda: [tuple(row.values()) for row in busy.rows(seen)] == as_before, "nobody else to have lost anything")
    assert busy.run("kill", "1").returncode == 0
    wait_until(lambda: busy.state(2) == "ended", "job 2 to run")
    assert busy.job(2)["result"]["code"] == 0
