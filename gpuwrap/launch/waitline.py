"""The waiting line on the terminal.

1. It is drawn in place only while we are in the foreground of a terminal that can move its cursor; else one plain line is
   printed, with SIGTTOU blocked, since `stty tostop` would stop a background writer otherwise [run].
2. It never wraps: what would help stands on a line of its own below. It is erased before the program starts, and before we
   die of a signal or stop. The cursor rests on its first column: after a resize, which may have wrapped it, everything from
   there on is ours to erase, whether the terminal moves text or not.
3. Of several waiters of a terminal one draws, and each erases: whoever dies or starts its program first makes others write
   (make says which recipe was interrupted), and the one that draws may come too late.
4. Text from commands and names was made harmless by the arbiter; here only its width is cut.
"""

import _signal
import os

from ..widths import columns as width_of
from ..widths import cut

FATAL = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT)


class Line:
    """The line of one waiting job; `drawn` while it stands on the screen."""

    def __init__(self) -> None:
        self.text = ""
        self._shorter: tuple[str, ...] = ()
        self.drawn = False
        self._hushed = False
        self._told = False
        self._caught = False

    def show(self, text: str, *shorter: str, plain: bool) -> None:
        """Draw the line in place, or print it once as a plain line if we cannot or must not draw.

        `shorter` say less, for terminals that have no room for all of `text`.
        """
        self.text, self._shorter = text, shorter
        if plain or not _can_draw() or not in_foreground():
            if not self._told:
                self._told = True
                write("gpurun: " + text.replace("\n", "; ") + "\n")
            return
        self._hushed = False
        self._catch()
        self._draw()

    def hush(self) -> None:
        """Another waiter of this terminal draws the line from now on."""
        self.erase()
        self.text = ""
        if _can_draw():
            self._hushed = True
            self._catch()

    def redraw(self) -> None:
        """Draw again after a stop or a resize, if we are in the foreground."""
        if self.text and self._caught and in_foreground():
            self._draw()

    def erase(self) -> None:
        """Leave the screen as it was, whoever drew the line."""
        if self.drawn or (self._hushed and in_foreground()):
            self.drawn = False
            write("\r\x1b[J")

    def _draw(self) -> None:
        try:
            columns = os.get_terminal_size(2).columns or 80
        except OSError:
            columns = 80
        first, _, second = f"gpurun: {self.text}".partition("\n")
        for shorter in self._shorter:
            if width_of(first) >= columns:
                first, _, second = f"gpurun: {shorter}".partition("\n")
        text = cut(first, columns - 1)  # the last column stays empty: there terminals differ
        if second:
            text += "\n" + cut(second, columns - 1) + "\x1b[A"
        self.drawn = True  # before it is: a signal between the two must erase it
        write(f"\r\x1b[J{text}\r")

    def _catch(self) -> None:
        """From the first line on, die of a signal only after erasing. What we inherited as ignored stays ignored."""
        if self._caught:
            return
        self._caught = True
        for number in FATAL:
            if _signal.getsignal(number) == _signal.SIG_DFL:
                _signal.signal(number, self._die)
        if _signal.getsignal(_signal.SIGTSTP) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGTSTP, self._stop)
        if _signal.getsignal(_signal.SIGWINCH) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGWINCH, self._resized)

    def _resized(self, _number: int, _frame: object) -> None:
        if self.drawn:
            self.redraw()

    def _die(self, number: int, _frame: object) -> None:
        self.erase()
        _signal.signal(number, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)

    def _stop(self, number: int, _frame: object) -> None:
        """Ctrl-Z: leave a clean line to the shell, stop as if we had no handler, and catch the next one again."""
        self.erase()
        _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        _signal.signal(number, self._stop)


def _can_draw() -> bool:
    """Whether the terminal knows how to move its cursor; Emacs' shell and some of CI's terminals do not."""
    return os.environ.get("TERM", "dumb") not in ("", "dumb")


def in_foreground() -> bool:
    """Whether stderr is a terminal whose foreground process group is ours."""
    try:
        return os.tcgetpgrp(2) == os.getpgrp()
    except OSError:
        return False


def write(text: str) -> None:
    """Write to the terminal without ever being stopped for it."""
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTTOU,))
    try:
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:
        return  # the terminal has gone: the hang-up is on its way
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
