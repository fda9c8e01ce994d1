"""A screen that stays: redrawn in place each second, and the terminal left as it was, however we end (but by KILL).

1. One write a frame, over the old one: nothing is cleared first, so nothing flickers.
2. Whatever was changed about the terminal (other screen, cursor, echo) is undone before we stop or die of a signal.
3. It draws and reads only in the foreground; in the background it stops, as others that want the terminal do.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable

from ..errors import GpurunError, UsageError
from ..policy.words import safe
from ..stdout import put
from ..tables import Screen
from .browsing import Browser, Page, keys_in

SECONDS = 1.0
# Of a log's line so much is shown.
MOST_COLUMNS = 1000
# The title, and an empty line below it.
HEAD_LINES = 2
# The alternate screen, no cursor, no wrapping; and back [xterm, Control Sequences].
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l", "\x1b[?7h\x1b[?25h\x1b[?1049l"
# Terminals that know synchronized updates show a frame at once; others ignore it.
BEGIN, END = "\x1b[?2026h", "\x1b[?2026l"
FATAL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)


def require_terminal(asked_by: str = "") -> None:
    """Raise UsageError where no screen can stay; `asked_by` stands before the reason, if an option wants one."""
    if not os.isatty(1):
        raise UsageError(f"{asked_by}needs a terminal on standard output")
    if os.environ.get("TERM", "dumb") in ("", "dumb"):
        raise UsageError(f"{asked_by}needs a terminal that can move its cursor: TERM is dumb or not set")


def watch(page: Callable[[Screen], Page], title: str, verb: Callable[[list[str]], str], asked_by: str = "") -> None:
    """Show a page until `q` is typed; dies of the signal that ends it. Needs what `require_terminal` looks for.

    It is asked for anew each second; between that keys act on the one that is there. `verb` runs a verb for a key.
    """
    browser, shown, due_mono, size = Browser(verb), Page([]), 0.0, (0, 0)
    with _Terminal(asked_by) as terminal:
        while True:
            terminal.take()
            rows = os.get_terminal_size(1).lines or 24
            screen = Screen.of_stdout()
            width = (screen.width or 80) - 1  # erasing beyond the last column takes it along
            screen = Screen(width, screen.colour, max(rows - HEAD_LINES, 0))
            if time.monotonic() >= due_mono or (width, rows) != size:
                shown, size = page(screen), (width, rows)
                due_mono = time.monotonic() + SECONDS
            if not terminal.draw(_frame(browser.frame(shown, width, rows, f"{title}  {time.strftime('%H:%M:%S')}"))):
                due_mono = 0.0
                continue
            typed = terminal.typed_within(max(0.0, due_mono - time.monotonic()))
            if typed is None:
                due_mono = 0.0  # a new size, or we have just been brought back
            elif not all(browser.key(key) for key in keys_in(typed)):
                return


def _frame(lines: list[str]) -> str:
    body = "\x1b[K\r\n".join(lines)
    return f"{BEGIN}\x1b[H{body}\x1b[K\x1b[J{END}"


def run_verb(sim: str | None) -> Callable[[list[str]], str]:
    """Return what runs a verb in a world as the command line does, and returns what it says."""

    def run(words: list[str]) -> str:
        verb, *rest = words
        argv = [sys.executable, "-m", "gpuwrap", verb, *(["--sim", sim] if sim is not None else []), *rest]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        return "\n".join(safe(line.expandtabs(), MOST_COLUMNS) for line in text.splitlines()) or "nothing is said"

    return run


class _Terminal:
    """The terminal while it is ours."""

    def __init__(self, asked_by: str) -> None:
        self._asked_by = asked_by
        self._saved: list[object] | None = None
        self._entered = False
        self._continued = False
        self._wake_reading, self._wake_writing = os.pipe()
        os.set_blocking(self._wake_writing, False)

    def __enter__(self) -> "_Terminal":
        for number in FATAL:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._die)
        for number in STOPS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCONT, self._go_on)
        signal.signal(signal.SIGWINCH, lambda *_: self._wake())
        return self

    def __exit__(self, *_: object) -> None:
        self._leave()

    def take(self) -> None:
        """Make the terminal ours, if it is not; in the background stop until somebody brings us to the foreground."""
        while not self._in_foreground():
            if self._entered:  # stopped by a signal that cannot be caught, and not brought back
                self._entered, self._saved = False, None  # its modes are the shell's now
                self._write_anyhow(LEAVE)
            self._continued = False
            os.kill(0, signal.SIGTTOU)  # all of us, as the kernel does to those that read
            if not self._continued:  # nobody could continue us, so nothing has stopped us [termios(3): orphaned groups]
                raise GpurunError(f"{self._asked_by}not in the foreground of its terminal")
        if not self._entered:
            self._enter()

    @staticmethod
    def _in_foreground() -> bool:
        try:
            return os.tcgetpgrp(1) == os.getpgrp()
        except OSError:
            return True  # not our controlling terminal: nobody else is

    def draw(self, frame: str) -> bool:
        """Draw a frame, unless the terminal has become another's: we may have been stopped while it was made."""
        if not self._entered or not self._in_foreground():
            return False
        self._write(frame)
        return True

    @staticmethod
    def _write(text: str) -> None:
        put(text.encode("utf-8", "replace"))

    def typed_within(self, seconds: float) -> str | None:
        """Wait for keys, or until it is time for the next frame; None if something else has woken us."""
        watched = [self._wake_reading]
        if self._saved is not None:
            watched.append(0)
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._wake_reading in ready:
            os.read(self._wake_reading, 4096)
            return None
        if 0 in ready:
            typed = os.read(0, 4096)
            if not typed:
                raise SystemExit(0)  # the terminal has gone
            return typed.decode("utf-8", "replace")
        return ""

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_writing, b"w")

    def _enter(self) -> None:
        self._entered = True  # before it is: a signal meanwhile must undo what is done
        if os.isatty(0) and self._in_foreground():
            self._saved = termios.tcgetattr(0)
            mode = termios.tcgetattr(0)
            mode[3] &= ~(termios.ICANON | termios.ECHO)
            termios.tcsetattr(0, termios.TCSADRAIN, mode)
        self._write(ENTER)

    def _leave(self) -> None:
        if not self._entered:
            return
        self._entered = False
        with contextlib.suppress(OSError):
            self._write(LEAVE)
        if self._saved is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]
        sys.stdout.flush()

    @staticmethod
    def _write_anyhow(text: str) -> None:
        """Write from the background, even where that stops others (stty tostop)."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        with contextlib.suppress(OSError):
            os.write(1, text.encode())
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _go_on(self, _number: int, _frame: object) -> None:
        self._continued = True
        self._wake()

    def _die(self, number: int, _frame: object) -> None:
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _stop(self, number: int, _frame: object) -> None:
        self._leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._stop)
        self._wake()  # the next frame finds out whether the terminal is ours again
