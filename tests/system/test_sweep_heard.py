"""Sweeps whose arbiter does not listen for a while, or dies: nothing that the one told the other is lost."""

import contextlib
import os
import signal
import socket
from collections import Counter
from pathlib import Path

import psutil
from test_sweep import MakeWorld, count, each_ran_once, rows, until
from waiting import wait_until
from world import World

from gpuwrap.sweeps import from_words
from gpuwrap.wire import PACKET, unpack

# More small packets than a socket's send buffer takes, whatever the machine's default.
MANY = int(Path("/proc/sys/net/core/wmem_default").read_text()) // 512


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("\nShdPnd:")[2].split()[0], 16) >> (number - 1) & 1)


def stop_arbiter(world: World) -> int:
    pid = wait_until(world.arbiter_pid, "an arbiter")
    os.kill(pid, signal.SIGSTOP)
    return pid


def rows_behind_a_gate(folder: Path) -> tuple[list[str], Path]:
    """What rows run until the gate is opened, without a step meanwhile."""
    gate = folder / "gate"
    os.mkfifo(gate)
    return ["cat", str(gate)], gate


def let_through(gate: Path, processes: list[psutil.Process]) -> None:
    """Open the gate until all have ended; those who come late to it as well."""

    def have_ended() -> bool:
        with contextlib.suppress(OSError):
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)

    wait_until(have_ended, "all to come through the gate")


def test_what_a_stopped_arbiter_cannot_take_is_told_when_it_goes_on(make_world: MakeWorld, tmp_path: Path) -> None:
    """Whatever fills the connection, here word that it was continued, the ends of rows are not lost."""
    world = make_world("4x24G")
    words, gate = rows_behind_a_gate(tmp_path)
    sweep = world.start("--array", "1-6", *words)
    until(world, "running", 4)
    arbiter = stop_arbiter(world)
    for _ in range(MANY):
        os.kill(sweep.pid, signal.SIGCONT)
        wait_until(lambda: not is_pending(sweep.pid, signal.SIGCONT), "the sweep to take a signal")
    let_through(gate, psutil.Process(sweep.pid).children())
    os.kill(arbiter, signal.SIGCONT)
    wait_until(lambda: count(world, "ended") == 4 and count(world, "running") == 2, "the other rows to run", 20)
    let_through(gate, psutil.Process(sweep.pid).children())
    assert sweep.wait(20) == 0
    each_ran_once(world)


def test_more_rows_than_the_bell_takes_end_at_once(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world("1x24G")
    words, gate = rows_behind_a_gate(tmp_path)
    many = 300
    sweep = world.start("-g", "0", "--array", f"1-{many}%{many}", *words)
    until(world, "running", many, 60)
    arbiter = stop_arbiter(world)
    let_through(gate, psutil.Process(sweep.pid).children())
    os.kill(arbiter, signal.SIGCONT)
    assert sweep.wait(30) == 0
    each_ran_once(world)
    assert Counter((row["result_kind"], row["result_code"]) for row in rows(world)) == {("exit", 0): many}


def test_what_was_given_up_is_told_to_the_next_arbiter(make_world: MakeWorld, tmp_path: Path) -> None:
    """The arbiter never heard of it, and a row ends: nobody may be given its GPU in vain."""
    world = make_world("4x24G")
    script = f"trap 'touch {tmp_path}/asked-$GPURUN_INDEX' TERM; while :; do sleep 0.1; done"
    sweep = world.start("--array", "1-8%4", "sh", "-c", script)
    until(world, "running", 4)
    pids = [row["pid"] for row in rows(world) if row["state"] == "running"]
    keeper = world.keeper_pid()
    arbiter = stop_arbiter(world)
    sweep.terminate()
    wait_until(lambda: len(list(tmp_path.glob("asked-*"))) == 4, "the rows to be asked to end")
    os.kill(arbiter, signal.SIGKILL)
    os.kill(pids[0], signal.SIGKILL)
    assert keeper is not None
    wait_until(lambda: count(world, "ended") == 5, "the rows that wait to be given up", 20)
    assert {row["result_text"] for row in rows(world)[4:]} == {"given up with its sweep: terminated"}
    assert world.run("-w", "10s", "true").returncode == 0
    for pid in pids[1:]:
        os.kill(pid, signal.SIGKILL)
    assert sweep.wait(20) == -signal.SIGTERM


def test_of_a_wide_sweep_few_rows_are_on_offer_at_a_time(make_world: MakeWorld) -> None:
    """Each that is taken over makes room for another: children that come all at once come too late.

    This test is the sweep's process itself.
    """
    world = make_world("1x24G")
    assert world.run("true").returncode == 0
    bell = f"{world.folder}/bell"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(bell)
        line.settimeout(10)

        def hear() -> tuple[str, list[int]]:
            kind, values = unpack(line.recv(PACKET))
            return kind, from_words(values.get("rows", ""))

        line.send(b"rows\0indices=1-40")
        line.send(b"sweep\0version=2\0key=abc\0count=40\0offset=0\0gpus=0")
        assert hear()[0] == "sweep"
        assert hear() == ("offer", list(range(2, 18)))
        until(world, "granted", 40)

        # Its child was too late: it is offered anew, after the word that it is back, and nothing else is.
        line.send(b"row\0row=2\0key=abc\0index=1\0status=0")
        assert hear() == ("back", [1])
        assert hear() == ("offer", [2])
        assert child_asks(bell, b"become\0key=abc:1\0row=2").startswith(b"job\0")
        assert hear() == ("offer", [18])


def child_asks(bell: str, packet: bytes) -> bytes:
    """What the arbiter answers to a child of this process; forked, since a row on offer must be taken over within a second."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
                line.connect(bell)
                line.send(packet)
                os.write(writing, line.recv(PACKET))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with open(reading, "rb") as answer:
        return answer.read()
