"""Who is probably next is asked before the plan is made (`ahead`): a wrong guess changes nothing for anybody."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import let_pass, wait_until
from world import World

from gpuwrap.arbiter.seeing.sampling import WATCH_SECONDS as LOOK_SECONDS

GIB = 1 << 30
# A client of our own, which writes down each word of the arbiter, and takes what it is offered.
CLIENT = """
    import os, socket, sys, time
    from gpuwrap.wire import PACKET, PROTOCOL, pack, unpack
    folder, log, *gate = sys.argv[1:]
    os.chdir(folder)
    bell = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bell.connect("bell")
    bell.send(pack("register", version=PROTOCOL, key="ours", offset=0, gpus=1))
    with open(log, "a", buffering=1) as file:
        while packet := bell.recv(PACKET):
            kind, _values = unpack(packet)
            if kind in ("offer", "stay", "again", "go"):
                print(kind, file=file)
            if kind == "offer":
                while gate and not os.path.exists(gate[0]):
                    time.sleep(0.01)
                bell.send(pack("take"))
            if kind == "go":
                break
    bell.close()
    time.sleep(600 if gate else 0)
"""


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world("24G")


@pytest.fixture
def stranger(world: World) -> Iterator[Callable[[], Path]]:
    """Comes to the GPU when called, and returns what it leaves by."""
    sleeper = world.adopt(subprocess.Popen(["sleep", "600"]))

    def come() -> Path:
        path = world.folder / "sim" / "0" / str(sleeper.pid)
        path.with_suffix(".new").write_text(str(20 * GIB))
        return path.with_suffix(".new").rename(path)

    yield come
    sleeper.kill()
    sleeper.wait(30)


def start_client(world: World, log: Path, *gate: Path) -> "subprocess.Popen[bytes]":
    """With a gate it takes an offer only once that is there, and then runs for long."""
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), str(world.folder), str(log), *map(str, gate)]
    return world.adopt(subprocess.Popen(command))


def one_waits(world: World, folder: Path) -> "tuple[subprocess.Popen[bytes], subprocess.Popen[bytes], Path]":
    """One job holds the GPU and our client waits; what that hears stands in the file."""
    log = folder / "heard"
    log.touch()
    holder = world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPU to be held")
    client = start_client(world, log)
    wait_until(lambda: world.state(2) == "waiting", "our client to wait")
    return holder, client, log


def come_as_it_ends(world: World, stranger: Callable[[], Path], holder: "subprocess.Popen[bytes]") -> Path:
    """Have the stranger come so late that no plan knows of it before the holder has ended."""
    arbiter = world.arbiter_pid()
    assert arbiter is not None
    os.kill(arbiter, signal.SIGSTOP)
    there = stranger()
    holder.kill()
    os.kill(arbiter, signal.SIGCONT)
    return there


def test_who_is_asked_in_vain_stays_and_is_offered_its_turn_when_it_comes(
    world: World, stranger: Callable[[], Path], tmp_path: Path
) -> None:
    holder, client, log = one_waits(world, tmp_path)
    there = come_as_it_ends(world, stranger, holder)
    wait_until(lambda: log.read_text().split() == ["offer", "stay"], "our client to be asked in vain")
    assert world.state(2) == "waiting"
    let_pass(1.5, "looks at the GPU, which ask nobody")
    assert log.read_text().split() == ["offer", "stay"]
    there.unlink()
    wait_until(lambda: log.read_text().split()[2:] == ["offer", "go"], "its turn")
    client.wait(30)
    wait_until(lambda: world.state(2) == "ended", "its end to be written down")
    assert [event["to_state"] for event in world.events() if event["job_id"] == 2] == ["waiting", "granted", "running", "ended"]


def test_a_gpurun_that_was_asked_in_vain_waits_on_and_hears_signals(world: World, stranger: Callable[[], Path]) -> None:
    holder = world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPU to be held")
    first, second = world.start("true"), world.start("-p", "low", "true")
    wait_until(lambda: [world.state(2), world.state(3)] == ["waiting"] * 2, "two to wait")
    there = come_as_it_ends(world, stranger, holder)
    wait_until(lambda: world.state(1) == "ended", "the holder to have ended")
    wait_until(lambda: _sleeps_unblocked(first.pid), "the first to wait on")
    first.terminate()
    assert first.wait(30) == -signal.SIGTERM
    there.unlink()
    assert second.wait(30) == 0


def _sleeps_unblocked(pid: int) -> bool:
    """Whether a process waits, and blocks no signal."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return status["State"].split()[0] == "S" and int(status["SigBlk"], 16) == 0


def test_who_was_asked_while_it_stood_still_has_its_turn_after_its_late_answer(world: World, tmp_path: Path) -> None:
    holder, client, log = one_waits(world, tmp_path)
    following = world.start("sleep", "600")
    wait_until(lambda: world.state(3) == "waiting", "another to wait")
    client.send_signal(signal.SIGSTOP)
    os.waitpid(client.pid, os.WUNTRACED)
    holder.kill()
    wait_until(lambda: world.state(3) == "running", "the other to run")
    client.send_signal(signal.SIGCONT)
    wait_until(lambda: log.read_text().split() == ["offer", "stay"], "its answer to come too late")
    following.kill()
    wait_until(lambda: log.read_text().split()[2:] == ["offer", "go"], "its turn")
    client.wait(30)


def test_an_urgent_job_that_came_between_grant_and_start_has_room_made_at_once(world: World, tmp_path: Path) -> None:
    """Who has only been granted a GPU cannot make room: it is asked as soon as it runs, not at the next look."""
    log, gate = tmp_path / "heard", tmp_path / "gate"
    world.run("true")  # so that there is an arbiter
    client = start_client(world, log, gate)
    wait_until(lambda: world.state(2) == "granted", "our client to be offered the GPU")
    urgent = world.start("-p", "urgent", "true")
    wait_until(lambda: world.state(3) == "waiting", "the urgent job to wait")
    gate.touch()
    assert urgent.wait(30) == 0
    moments = [event["at"] for event in world.events() if event["job_id"] == 2 and event["to_state"] in ("running", "paused")]
    assert moments[1] - moments[0] < LOOK_SECONDS / 2
    client.kill()


BLOCK = """
    import ctypes, os, sys, threading, time
    import gpuwrap
    flag = sys.argv[1]

    def keep_busy():
        libc = ctypes.PyDLL(None)
        while not os.path.exists(flag):
            time.sleep(0.001)
        open(flag + ".busy", "w").close()
        libc.usleep(600_000)  # no other thread of the program runs

    threading.Thread(target=keep_busy, daemon=True).start()
    with gpuwrap.gpu():
        path = f"{os.environ['GPURUN_SIM_DIR']}/0/{os.getpid()}"
        with open(path + ".new", "w") as file:
            file.write(str(1 << 30))
        os.rename(path + ".new", path)
"""


def test_a_busy_program_asked_twice_takes_once_and_is_told_what_its_block_leaves(
    world: World, stranger: Callable[[], Path], tmp_path: Path
) -> None:
    """Two answers to two takes would leave one to be read at the end of the block, as the answer to that."""
    flag = tmp_path / "flag"
    holder = world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPU to be held")
    command = [sys.executable, "-c", textwrap.dedent(BLOCK), str(flag)]
    block = world.adopt(subprocess.Popen(command, env=world.env, stderr=subprocess.PIPE, text=True))
    wait_until(lambda: world.state(2) == "waiting", "the block to wait")
    flag.touch()
    wait_until((tmp_path / "flag.busy").exists, "the program to be busy")
    there = come_as_it_ends(world, stranger, holder)
    wait_until(lambda: world.state(1) == "ended", "the holder to have ended")
    there.unlink()
    world.run("--dry-run", "true")  # which looks at the GPU at once
    _, told = block.communicate(timeout=30)
    assert "this process still holds 1G" in told, told
