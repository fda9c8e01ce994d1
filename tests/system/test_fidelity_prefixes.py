"""Python's subprocess, other prefix commands and make work with gpurun as with any program."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fidelity import Counted
from world import World


def test_pythons_way_to_start_a_child_makes_no_difference(warm: World, counted: Counted) -> None:
    """subprocess.Popen as people call it, with what it can set."""
    ways: dict[str, dict[str, Any]] = {
        "default": {},
        "descriptors kept": {"close_fds": False},
        "a session": {"start_new_session": True},
        "a group": {"process_group": 0},
        "umask": {"umask": 0o027},
        "cwd": {"cwd": "/usr"},
        "by the shell": {"shell": True},
    }

    def start(prefix: list[str], way: dict[str, Any]) -> tuple[int, str, str]:
        words: Any = [*prefix, "/bin/grep", "-E", "^(Sig[BIC]|Umask|Threads)", "/proc/self/status"]
        if way.get("shell"):
            words = " ".join(f"'{word}'" for word in words)
        done = subprocess.run(words, env=warm.env, capture_output=True, text=True, timeout=30, check=False, **way)
        return done.returncode, done.stdout, done.stderr

    bare = [start([], way) for way in ways.values()]
    assert all(code == 0 for code, _, _ in bare)
    counted(list(ways), bare, [start([warm.command], way) for way in ways.values()])


@pytest.mark.needs("setsid", "timeout", "nohup", "xargs", "nice", "stdbuf", "bash", "setpriv", "prlimit", "ionice")
def test_other_prefix_commands_around_it_work_as_ever(warm: World, counted: Counted) -> None:
    lines = {
        "timeout": "timeout 0.2 RUN sleep 20; echo $?",
        "timeout with a signal": "timeout -s USR1 0.2 RUN sleep 20; echo $?",
        "timeout --foreground": "timeout --foreground -k 1 0.2 RUN sleep 20; echo $?",
        "inside timeout": "RUN timeout 0.2 sleep 20; echo $?",
        "setsid": "setsid -w RUN sh -c 'exit 5'; echo $?",
        "nohup": "nohup RUN grep SigIgn /proc/self/status </dev/null 2>&1; echo $?",
        "xargs": "seq 6 | xargs -n 1 -P 3 RUN sh -c 'exit $0' ; echo $?",
        "xargs with input": "seq 3 | xargs RUN echo",
        "nice": "nice -n 3 RUN nice; echo $?",
        "inside nice": "RUN nice -n 3 nice; echo $?",
        "ionice": "ionice -c 3 RUN ionice; echo $?",
        "env -u": "env -u HOME RUN sh -c 'echo ${HOME-none}'",
        "prlimit": "prlimit --nofile=77:88 RUN sh -c 'ulimit -Sn; ulimit -Hn'",
        "setpriv": "setpriv --pdeathsig TERM --no-new-privs RUN grep NoNew /proc/self/status",
        "subshell": "(RUN sh -c 'exit 3'); echo $?",
        "substitution": "x=$(RUN printf 'a\\n\\n'; echo $?); echo \"[$x]\"",
        "process substitution": "RUN cat <(echo one) <(echo two)",
        "a descriptor by number": "RUN sh -c 'echo three >&3' 3>&1",
        "here text": "RUN cat <<< 'some text'",
        "reading on": "{ RUN head -c 2; cat; } < <(printf abcdef)",
        "closed input": "RUN cat <&-; echo $?",
        "closed output": "RUN /bin/echo x >&-; echo $?",
        "exec": "exec RUN sh -c 'exit 4'",
        "background": "RUN sh -c 'exit 6' & wait $!; echo $?",
        "wait -n": "RUN sh -c 'exit 6' & wait -n; echo $?",
        "the same pid": "RUN sh -c 'echo $$' > pid & wait; [ $! = $(cat pid) ]; echo $?",
        "killed": "RUN sleep 20 & kill -9 $!; wait $!; echo $?",
        "not": "! RUN false; echo $?",
        "errexit": "set -e; RUN false; echo not reached",
        "pipefail": "set -o pipefail; RUN sh -c 'exit 8' | cat; echo $?",
        "ulimit": "ulimit -S -n 99; RUN sh -c 'ulimit -n'",
        "umask": "umask 027; RUN sh -c umask",
        "lone variable": "A='b c' RUN sh -c 'echo \"$A\"'",
        "monitor": "set -m; RUN sleep 0.1 & fg %1 >/dev/null; echo $?",
    }

    def say(line: str, prefix: str) -> tuple[str, str, int]:
        done = subprocess.run(
            ["bash", "--norc", "-c", line.replace("RUN", prefix)],
            env=warm.env, cwd=warm.scratch, capture_output=True, text=True, timeout=40, check=False,
            start_new_session=True,
        )  # fmt: skip
        return (
            done.stdout,
            re.sub(r"line 1: +\d+ ", "", done.stderr.replace(f"{prefix} ", "" if prefix else " ")),
            done.returncode,
        )

    bare = [say(line, "") for line in lines.values()]
    under = [say(line, warm.command) for line in lines.values()]
    counted(list(lines), bare, under)


# make


@pytest.mark.needs("make", "mkfifo", "timeout")
@pytest.mark.parametrize("width", [2, 4])
def test_a_make_below_shares_the_jobserver(warm: World, counted: Counted, tmp_path: Path, width: int) -> None:
    """Two recipes that wait for each other end only if the make below runs both at once, with a token from above."""
    (tmp_path / "Makefile").write_text(
        "all: below other\nbelow:\n\t+$(PREFIX) $(MAKE) --no-print-directory -f inner.mk all\nother:\n\t@true\n",
    )
    (tmp_path / "inner.mk").write_text(
        "all: a b c d\n"
        "a:\n\t@timeout 20 sh -c 'echo met > meeting'\n"
        "b:\n\t@timeout 20 cat meeting\n"
        "c d:\n\t@printf '%s\\n' \"$(filter-out -%auth=%,$(MAKEFLAGS))\" > $@.flags\n"
        ".PHONY: a b c d\n",
    )

    def build(prefix: str) -> tuple[int, str, str, list[str]]:
        os.mkfifo(tmp_path / "meeting")
        child = warm.adopt(
            subprocess.Popen(
                ["make", "-s", f"-j{width}", f"PREFIX={prefix}"],
                cwd=tmp_path, env=warm.env, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True,
            )
        )  # fmt: skip
        out, err = child.communicate(timeout=60)
        (tmp_path / "meeting").unlink()
        flags = [(tmp_path / f"{name}.flags").read_text().replace(prefix, "") for name in "cd"]
        return child.returncode, out, err, flags

    bare, under = build(""), build(warm.command)
    assert bare[:3] == (0, "met\n", "")
    counted([f"make -j{width}"], [bare], [under])
