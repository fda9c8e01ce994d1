"""How a program ends, and what goes through its pipes, is as without gpurun."""

import hashlib
import os
import random
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fidelity import PYTHON, Case, Counted, check, launch
from waiting import wait_until
from world import World

# Ends


def test_every_exit_status_is_the_programs(warm: World, counted: Counted) -> None:
    pairs = launch(warm, [Case(str(code), ["/bin/sh", "-c", f"exit {code}"]) for code in range(256)])
    assert [pair.bare.status for pair in pairs] == [code << 8 for code in range(256)]
    check(counted, pairs)


def test_death_and_stop_by_every_signal_is_the_programs(warm: World, counted: Counted) -> None:
    numbers = [*range(1, 32), *range(34, 65)]
    itself = "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"
    # A group of its own, whose parent is of the same session: in an orphaned one TSTP, TTIN and TTOU do nothing.
    steps = [["group"], ["limit", "RLIMIT_CORE", 1 << 41, 0]]
    dies = [Case(f"by itself {n}", ["/bin/sh", "-c", 'kill -"$0" $$', str(n)], steps) for n in numbers]
    # Python's own handlers are out of the way: this is about signals that a program handles and sends on.
    reset = f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); {itself}"
    dies += [Case(f"from Python {n}", [*PYTHON, "-c", reset, str(n)], steps) for n in (1, 2, 6, 9, 11, 13, 15, 25)]
    pairs = launch(warm, dies)
    stopped = [pair.name for pair in pairs if pair.bare.stops]
    assert stopped == [f"by itself {n}" for n in (19, 20, 21, 22)]
    assert sum(os.WIFSIGNALED(pair.bare.status) for pair in pairs) > 50
    check(counted, pairs)


def test_a_signal_sent_to_the_pid_of_gpurun_reaches_the_program(warm: World, counted: Counted, tmp_path: Path) -> None:
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGALRM, 64]

    def end(words: list[str], number: int) -> tuple[int, bool]:
        sign = tmp_path / "running"
        sign.unlink(missing_ok=True)
        script = f'echo $$ > "{sign}.half"; mv "{sign}.half" "{sign}"; exec sleep 1000'
        child = warm.adopt(subprocess.Popen([*words, "/bin/sh", "-c", script], env=warm.env, stdin=subprocess.DEVNULL))
        wait_until(sign.exists, "the program to run")
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n", "sleep to run in the same pid")
        child.send_signal(number)
        return child.wait(30), int(sign.read_text()) == child.pid

    bare = [end([], number) for number in numbers]
    under = [end([warm.command], number) for number in numbers]
    assert bare == [(-number, True) for number in numbers]
    counted([str(number) for number in numbers], bare, under)


# Pipes


def hash_of(words: Sequence[str], world: World, source: Callable[[Any], None] | None) -> tuple[str, int, int]:
    """Feed a program by `source`, return the digest and length of what it wrote, and its status."""
    digest, length = hashlib.blake2b(), 0
    with world.adopt(
        subprocess.Popen(words, env=world.env, stdin=subprocess.PIPE if source else subprocess.DEVNULL, stdout=-1)
    ) as child:
        if source:
            threading.Thread(target=source, args=(child.stdin,), daemon=True).start()
        while block := child.stdout.read(1 << 20):
            digest.update(block)
            length += len(block)
        return digest.hexdigest(), length, child.wait()


def test_100_megabytes_pass_through_a_pipe_both_ways(warm: World, counted: Counted, tmp_path: Path) -> None:
    block = random.Random(2).randbytes(1 << 20)
    size = 100 << 20
    stored = tmp_path / "data"
    with stored.open("wb") as file:
        for number in range(100):
            file.write(number.to_bytes(8) + block[8:])

    def pour(stream: Any) -> None:
        with stream:
            for number in range(100):
                stream.write(number.to_bytes(8) + block[8:])

    def findings(prefix: list[str]) -> list[tuple[str, int, int]]:
        through = hash_of([*prefix, "/bin/cat"], warm, pour)
        out = hash_of([*prefix, "/bin/cat", str(stored)], warm, None)
        summed = hash_of([*prefix, "/usr/bin/sha256sum"], warm, pour)
        return [through, out, summed]

    bare, under = findings([]), findings([warm.command])
    assert [length for _, length, _ in bare[:2]] == [size, size]
    assert bare[0] == bare[1]
    counted(["in and out", "out", "in"], bare, under)


@pytest.mark.needs("bash")
def test_a_closed_pipe_ends_the_program_as_ever(warm: World, counted: Counted) -> None:
    lines = {
        "default": 'RUN yes | head -1; echo "${PIPESTATUS[@]}"',
        "ignored by the shell": "trap '' PIPE; RUN yes | head -1; echo \"${PIPESTATUS[@]}\"",
        "ignored by a parent": "trap '' PIPE; bash -c 'RUN yes | head -1; echo \"${PIPESTATUS[@]}\"'",
        "in the middle": 'yes | RUN cat | head -1; echo "${PIPESTATUS[@]}"',
        "reader first": 'yes | RUN head -1; echo "${PIPESTATUS[@]}"',
        "size limit": "trap - XFSZ; ulimit -f 1; RUN head -c 100000 /dev/zero > big; echo $?; stat -c %s big",
        "size limit ignored": "trap '' XFSZ; ulimit -f 1; RUN head -c 100000 /dev/zero > big; echo $?; stat -c %s big",
    }

    def say(line: str, prefix: str) -> tuple[str, str, int]:
        done = subprocess.run(
            ["bash", "--norc", "-c", line.replace("RUN", prefix)],
            env=warm.env, cwd=warm.scratch, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        # bash names a killed child by its command line.
        errors = re.sub(r"line 1: +\d+ ", "", done.stderr.replace(f"{prefix} ", "" if prefix else " "))
        return done.stdout, errors, done.returncode

    bare = [say(line, "") for line in lines.values()]
    under = [say(line, warm.command) for line in lines.values()]
    assert bare[0][0] == "y\n141 0\n"
    assert bare[1][0] == "y\n1 0\n"
    counted(list(lines), bare, under)
