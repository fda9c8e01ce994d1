"""The terminal of a stub: as it was before a run, and whether it may be written to between two.

Who is not in the foreground changes nothing, and says nothing there.
"""

import os


class Terminal:
    """The terminal as it was before a run: one that is killed in raw mode would leave no Ctrl-C to the wait."""

    def __init__(self) -> None:
        self.modes: list[object] | None = None
        try:
            if os.isatty(2) and os.tcgetpgrp(2) == os.getpgrp():
                import termios

                self.modes = termios.tcgetattr(2)
        except (OSError, ImportError):
            self.modes = None

    def restore(self) -> None:
        """Put the modes back, and take the foreground from a group that has gone; all only if we had it before."""
        if self.modes is None:
            return
        import termios

        try:
            group = os.tcgetpgrp(2)
            if group != os.getpgrp() and not _exists(group):
                os.tcsetpgrp(2, os.getpgrp())  # all signals are blocked: no SIGTTOU
            if os.tcgetpgrp(2) == os.getpgrp():
                termios.tcsetattr(2, termios.TCSADRAIN, self.modes)  # type: ignore[arg-type]
        except (OSError, termios.error):
            return

    def can_be_told(self) -> bool:
        """Whether a line on stderr hurts nobody: a terminal whose foreground we are, in cooked mode."""
        try:
            if not os.isatty(2) or os.tcgetpgrp(2) != os.getpgrp():
                return False
            import termios

            return bool(termios.tcgetattr(2)[3] & termios.ICANON)
        except (OSError, ImportError):
            return False


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
