"""A real pseudo-terminal with a program in it, and what a person would see on it (pyte draws it)."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from typing import Any

import pyte
from waiting import wait_until
from world import World


class Terminal:
    """A program, leader of its own session, on a terminal of a given size; `close` of the world ends it."""

    def __init__(
        self,
        world: World,
        argv: Sequence[str],
        *,
        columns: int = 80,
        lines: int = 24,
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self.raw = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))
        self.before = termios.tcgetattr(slave)
        self.child: subprocess.Popen[bytes] = subprocess.Popen(
            argv,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**world.env, "TERM": "xterm-256color", **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            **popen,
        )
        world.adopt(self.child)
        self._slave = slave

    def text(self) -> str:
        """The screen as text, without the empty end of lines and of the screen."""
        while select.select([self._master], [], [], 0)[0]:
            try:
                piece = os.read(self._master, 65536)
            except OSError:
                break
            if not piece:
                break
            self.raw += piece
            self._stream.feed(piece)
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip()

    def await_text(self, text: str, within: float = 15) -> str:
        """Wait until a text stands on the screen; returns the screen."""
        wait_until(lambda: text in self.text(), f"{text!r} on the screen, which shows:\n{self.text()}\n", within)
        return self.text()

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int = 24) -> None:
        """Change the size; the kernel sends SIGWINCH. Like most terminals of today, pyte's is then as if text had moved."""
        self.text()
        self._screen.resize(lines, columns)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def attributes(self) -> list[Any]:
        """The terminal's modes now."""
        return termios.tcgetattr(self._slave)

    def entered_and_left(self) -> tuple[int, int]:
        """How often the other screen was entered and left; AssertionError if cursor and wrapping did not go with it."""
        self.text()
        modes = (b"1049", b"25", b"7")
        counts = [[self.raw.count(b"\x1b[?%s%s" % (mode, end)) for end in (b"h", b"l")] for mode in modes]
        assert counts[0] == counts[1][::-1] == counts[2][::-1], counts
        return counts[0][0], counts[0][1]

    def finish(self, within: float = 15) -> int:
        """Wait for the program's end and return its status."""
        wait_until(lambda: self.text() is not None and self.child.poll() is not None, "the program to end", within)
        self.text()
        status: int = self.child.returncode
        return status

    def hang_up(self) -> None:
        """Close the terminal, as a lost connection does."""
        os.close(self._slave)
        os.close(self._master)
