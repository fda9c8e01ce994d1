"""wait --bell: ring the terminal, and have it show a notification, also through tmux and screen.

There is no common sequence: OSC 9 is understood by iTerm2, kitty, WezTerm, ghostty and Windows Terminal's kin, OSC 777 by rxvt,
foot and the VTE of some distributions; what a terminal does not know it ignores [ECMA-48, 5.6]. tmux hands a sequence on that
is wrapped (`set -g allow-passthrough on`, since 3.3), screen since always.
"""

import contextlib
import os
import signal

from ..policy.words import safe

LENGTH = 200


def ring(text: str) -> None:
    """Ring and notify on our terminal; without one nobody hears it."""
    with contextlib.suppress(OSError):
        fd = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        # From the background, too, where that stops others (stty tostop).
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            os.write(fd, sequence(text, dict(os.environ)).encode())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(fd)


def sequence(text: str, environment: dict[str, str]) -> str:
    """Return what to write: the bell, and what the terminal, as far as it is known, shows as a notification."""
    text = safe(text, LENGTH).replace(";", ",")
    term = environment.get("TERM", "")
    osc_9, osc_777 = f"\x1b]9;{text}\x07", f"\x1b]777;notify;gpurun;{text}\x07"
    if term.startswith(("tmux", "screen")):  # which terminal there is outside, nobody tells
        return "\a" + "".join(_wrapped(each, environment) for each in (osc_9, osc_777))
    return "\a" + (osc_777 if term.startswith(("rxvt", "foot")) or "VTE_VERSION" in environment else osc_9)


def _wrapped(inner: str, environment: dict[str, str]) -> str:
    if "TMUX" in environment:
        return "\x1bPtmux;" + inner.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return f"\x1bP{inner}\x1b\\"
