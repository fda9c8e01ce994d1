"""Interactive shells on a terminal of their own, a program that says what reaches it, and what people do with it there."""

import ast
import contextlib
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from fidelity import (
    PROBE,
    PYTHON,
)
from waiting import wait_until
from world import World

SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "--noediting", "-i"],
    "zsh": ["zsh", "-f", "-o", "nobanghist", "-i"],
    "fish": ["fish", "--no-config", "--private", "-i"],
}
STATUS = {"bash": "$?", "zsh": "$?", "fish": "$status"}
LAST = {"bash": "$!", "zsh": "$!", "fish": "$last_pid"}
# A program in one file: says that it runs (its pid, in a file), then does what it is told.
VICTIM = """\
import os, sys, termios, tty
import _signal as signal

sign, what = sys.argv[1:3]
hits = 0

def say(text):
    with open(sign + ".half", "w") as file:
        file.write(text)
    os.rename(sign + ".half", sign)

def hit(number, frame):
    global hits
    hits += 1
    say(f"{os.getpid()} {hits}")

if what == "sleep":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
elif what == "count":
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGWINCH, signal.SIGHUP):
        signal.signal(number, hit)
    # Python acts on what came just before it began to read only once the read is over, or interrupted.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
elif what == "raw":
    before = termios.tcgetattr(0)
    tty.setraw(0)
say(f"{os.getpid()} 0")
if what == "sleep":
    while True:
        signal.pause()
elif what == "count":
    for line in sys.stdin:
        if line == "size\\n":
            print("<<", *os.get_terminal_size(0), ">>", flush=True)
        elif line == "end\\n":
            print(f"<<hits {hits}>>", flush=True)
            break
elif what == "raw":
    typed = b""
    while len(typed) < 4:
        typed += os.read(0, 4)
    termios.tcsetattr(0, termios.TCSADRAIN, before)
    print("<<", typed.hex(), ">>")
sys.exit(23)
"""


def default_signals() -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A shell on a terminal of its own, and the program started in it."""

    def __init__(
        self, shell: str, world: World, folder: Path, prefix: str, *,
        python: Sequence[str] = PYTHON, uid: int | None = None, become: Callable[[], None] = default_signals,
    ) -> None:  # fmt: skip
        import pexpect

        self.shell, self.world, self.prefix, self.folder, self.python = shell, world, prefix, folder, list(python)
        folder.mkdir()
        (folder / "victim.py").write_text(VICTIM)
        if uid is not None:
            os.chown(folder, uid, uid)
        self.sign = folder / "sign"
        env = {**world.env, "TERM": "dumb", "HOME": str(folder), "PS1": "@@> ", "PS2": "", "LC_ALL": "C.UTF-8"}
        words = [*SHELLS[shell]]
        if shell == "fish":
            # fish asks for its prompt by a function, and greets.
            words += ["-C", "function fish_prompt; echo -n '@@> '; end; function fish_title; end; set -g fish_greeting"]
        self.screen = pexpect.spawn(
            words[0], words[1:], env=env, cwd=str(folder), dimensions=(24, 80), timeout=15, encoding="utf-8",
            codec_errors="replace", preexec_fn=become, echo=True,
        )  # fmt: skip
        self.screen.delaybeforesend = None
        self.prompt()

    def prompt(self) -> None:
        self.screen.expect_exact("@@> ")

    def type(self, line: str) -> None:
        """A command line; RUN is the prefix, VICTIM the program."""
        victim = f"{' '.join(self.python)} {self.folder}/victim.py {self.sign}"
        line = line.replace("VICTIM", victim).replace("RUN ", f"{self.prefix} " if self.prefix else "")
        self.screen.send(line + "\n")

    def start(self, line: str) -> int:
        """Type a line that starts VICTIM; its pid, once it says that it runs."""
        self.sign.unlink(missing_ok=True)
        self.type(line)
        return self.pid()

    def pid(self) -> int:
        wait_until(self.sign.exists, f"the program to run in {self.shell}")
        return int(self.sign.read_text().split()[0])

    def hits(self, count: int) -> None:
        wait_until(lambda: self.sign.read_text().split()[1] == str(count), f"{count} signals")

    def status(self) -> str:
        self.type(f'echo "<<"{STATUS[self.shell]}">>"')
        found = self.shown(r"<<(-?\d+)>>")
        # Until then the shell may still be changing the terminal's modes, which throws away what is typed.
        self.prompt()
        return found

    def shown(self, pattern: str) -> str:
        self.screen.expect(pattern)
        found: str = self.screen.match.group(1)
        return found

    def stat(self, pid: int) -> dict[str, Any]:
        """State, group, session and whether it is in the terminal's foreground."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return {"state": "gone"}
        if fields[0] in "ZX":
            # bash without a line editor leaves it a zombie until the next line is typed.
            return {"state": "gone"}
        ours = os.getpgid(self.screen.pid)
        return {
            "state": "T" if fields[0] == "T" else "S" if fields[0] in "SRD" else fields[0],
            "group is its pid": fields[2] == str(pid),
            "group is the shell's": fields[2] == str(ours),
            "parent is the shell": fields[1] == str(self.screen.pid),
            "session is the shell's": fields[3] == str(self.screen.pid),
            "foreground": fields[5] == fields[2],
        }

    def becomes(self, pid: int, **wanted: Any) -> dict[str, Any]:
        """Wait until the program's stat has these values; the whole of it."""
        seen: dict[str, Any] = {}

        def look() -> bool:
            seen.clear()
            seen.update(self.stat(pid))
            return seen.items() >= wanted.items()

        try:
            wait_until(look, f"the program to become {wanted} in {self.shell}")
        except AssertionError as failure:
            with contextlib.suppress(Exception):
                self.screen.expect("nothing", timeout=0)
            raise AssertionError(f"{failure}; it is {seen}; the screen: {self.screen.before!r}") from None
        return seen

    def child(self, name: str) -> int:
        """The pid of the shell's child that runs `name` by now, in the foreground."""

        def look() -> int | None:
            for process in psutil.Process(self.screen.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.name() == name and self.stat(process.pid).get("foreground"):
                        return process.pid
            return None

        return wait_until(look, f"{name} to run in {self.shell}")

    def kill(self, name: str, pid: int) -> None:
        """By the shell's own kill, of its job where it knows such names."""
        self.type(f"kill -{name} {pid if self.shell == 'fish' else '%1'}")

    def key(self, letter: str) -> None:
        self.screen.sendcontrol(letter)

    def close(self) -> None:
        """Hang up, as when a window is closed; whoever stays is ended."""
        try:
            left = psutil.Process(self.screen.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            left = []
        with contextlib.suppress(OSError):
            self.screen.ptyproc.fileobj.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.screen.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.screen.pid, 0)
        self.screen.closed = self.screen.ptyproc.closed = True
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def interrupt(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    found = [t.becomes(pid, state="S", foreground=True)]
    t.key("c")
    found.append(t.becomes(pid, state="gone"))
    return [*found, t.status()]


def quit(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    t.key("\\")
    return [t.becomes(pid, state="gone"), t.status()]


def stop_and_fg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    found: list[Any] = []
    for _ in range(2):
        t.key("z")
        found += [t.becomes(pid, state="T", foreground=False), t.status()]
        t.type("fg")
        found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def stop_and_bg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep")
    t.key("z")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("bg")
    found += [t.becomes(pid, state="S", foreground=False), t.status()]
    # Not for one in the background.
    t.key("c")
    if t.shell != "fish":
        # The terminal throws away what was typed ahead, so the next line has to wait.
        t.prompt()
    found += [t.stat(pid), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.key("c")
    return [*found, t.becomes(pid, state="gone"), t.status()]


def in_background(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    found: list[Any] = [t.becomes(pid, state="S", foreground=False)]
    t.type(f'echo "<<"{LAST[t.shell]}">>"')
    found.append(t.shown(r"<<(\d+)>>") == str(pid))
    t.kill("USR1", pid)
    return [*found, t.becomes(pid, state="gone")]


def background_and_fg(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep &")
    t.type("fg")
    found = [t.becomes(pid, state="S", foreground=True)]
    t.key("z")
    found.append(t.becomes(pid, state="T", foreground=False))
    t.kill("KILL", pid)
    return [*found, t.becomes(pid, state="gone")]


def caught(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM count")
    for count, key in enumerate("cc\\zc", start=1):
        t.key(key)
        t.hits(count)
    found: list[Any] = [t.stat(pid)]
    t.screen.send("end\n")
    found.append(t.shown("<<hits (.*)>>"))
    return [*found, t.becomes(pid, state="gone"), t.status()]


def resized(t: Terminal) -> list[Any]:
    t.start("RUN VICTIM count")
    t.screen.send("size\n")
    found: list[Any] = [t.shown("<<(.*)>>")]
    t.screen.setwinsize(33, 99)
    t.hits(1)
    t.screen.send("size\n")
    found.append(t.shown("<<(.*)>>"))
    t.screen.send("end\n")
    return [*found, t.shown("<<hits (.*)>>"), t.status()]


def raw_mode(t: Terminal) -> list[Any]:
    t.start("RUN VICTIM raw")
    t.screen.send("\x03\x1a\x04\r")
    return [t.shown("<<(.*)>>"), t.status()]


def reading(t: Terminal) -> list[Any]:
    t.type("RUN cat")
    pid = t.child("cat")
    t.screen.send("first line\n")
    found: list[Any] = [t.shown(r"(first line\r\n(?=.*first line\r\n))")]
    t.key("z")
    found += [t.becomes(pid, state="T", foreground=False), t.status()]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.screen.send("second line\n")
    found.append(t.shown(r"(second line\r\n(?=.*second line\r\n))"))
    t.key("d")
    return [*found, t.status()]


def reading_in_background(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM count &")
    found: list[Any] = [t.becomes(pid, state="T", foreground=False)]
    t.type("fg")
    found.append(t.becomes(pid, state="S", foreground=True))
    t.screen.send("end\n")
    found.append(t.shown("<<(hits .*)>>"))
    return [*found, t.status()]


def in_pipeline(t: Terminal) -> list[Any]:
    pid = t.start("RUN VICTIM sleep | cat")
    found = t.becomes(pid, state="S", foreground=True)
    # The program or cat may be the leader, and in zsh and fish which of them is not a matter of order alone.
    t.key("z")
    stopped = t.becomes(pid, state="T", foreground=False)
    t.type("fg")
    again = t.becomes(pid, state="S", foreground=True)
    t.key("c")
    return [found, stopped, again, t.becomes(pid, state="gone"), t.status()]


def statuses(t: Terminal) -> list[Any]:
    found = []
    for line in ("RUN sh -c 'exit 42'", "RUN true", "RUN false", "RUN sh -c 'kill -TERM $$'", "RUN sh -c 'kill -9 $$'"):
        t.type(line)
        found.append(t.status())
    return found


def tty_facts(t: Terminal) -> list[Any]:
    found = []
    for line in ("RUN PROBE", "RUN PROBE | cat", "cat /dev/null | RUN PROBE", "RUN PROBE &", "RUN PROBE 2>/dev/null"):
        report = t.folder / "report"
        report.unlink(missing_ok=True)
        t.type(line.replace("PROBE", f"{' '.join(PYTHON)} {PROBE} {report}"))
        wait_until(report.exists, f"the probe's report in {t.shell}")
        seen = ast.literal_eval(report.read_text())
        t.status()
        same = {"ppid": str(t.screen.pid), "session": str(t.screen.pid), "pgrp": str(seen["pid"])}
        found.append({
            **{name: seen["stat"][name] == value for name, value in same.items()},
            "tty": seen["stat"]["tty_nr"] != "0",
            "terminal": {**seen["terminal"], "controlling": seen["terminal"]["controlling"].startswith("/dev/pts/")},
            "descriptors": {n: [re.sub(r"\d+", "N", v[0]), v[2]] for n, v in seen["descriptors"].items()},
            "limits": seen["limits"], "children": seen["children"], "threads": seen["threads"], "cwd": seen["cwd"],
        })  # fmt: skip
    return found


SCENARIOS: list[Callable[[Terminal], list[Any]]] = [
    interrupt, quit, stop_and_fg, stop_and_bg, in_background, background_and_fg, caught, resized, raw_mode, reading,
    reading_in_background, in_pipeline, statuses, tty_facts,
]  # fmt: skip

shells = pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in SHELLS])

shells = pytest.mark.parametrize("shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in SHELLS])
