"""What signals do to a process, and what it does: as the kernel shows it [proc(5)]."""

import os
import signal

from ..model import Identity
from ..policy.asking import BOTH_INTERRUPTS, Standing
from .processes import cpu_seconds, every_child, read_file, read_stat, send_signal

# A script is run by one of these, whatever it is called itself.
SHELLS = frozenset(("sh", "bash", "dash", "zsh", "ksh", "ksh93", "mksh", "yash", "fish", "csh", "tcsh", "ash", "busybox"))

_LOST_BY_SIGCONT = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_KCMP = {"x86_64": 312, "aarch64": 272}


def pending_signals(pid: int) -> tuple[int, int]:
    """Return the masks of signals that wait for a process or its main thread, and of those no thread would take.

    A signal that waits for the process goes to any thread that does not block it [proc(5): SigPnd, ShdPnd, SigBlk].
    """
    masks = _masks(f"/proc/{pid}/status")
    waiting, blocked = masks.get(b"SigPnd", 0) | masks.get(b"ShdPnd", 0), masks.get(b"SigBlk", 0)
    if waiting & blocked:
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            threads = []
        for thread in threads:
            blocked &= _masks(f"/proc/{pid}/task/{thread}/status").get(b"SigBlk", 0)
    return waiting, blocked


def resume(identity: Identity) -> None:
    """Continue a stopped process. Raises PermissionError.

    A Ctrl-Z that came while it stood still is repeated: SIGCONT throws it away [signal(7)].
    """
    pending, _blocked = pending_signals(identity.pid)
    if send_signal(identity, signal.SIGCONT):
        for number in _LOST_BY_SIGCONT:
            if pending & 1 << (number - 1):
                send_signal(identity, number)


def standing(pid: int) -> Standing | None:
    """Look at what a process does; None if it has ended."""
    stat, used = read_stat(pid), cpu_seconds(pid)
    if stat is None or used is None or stat.state in "ZX":
        return None
    masks = _masks(f"/proc/{pid}/status")
    try:
        program = os.path.basename(os.readlink(f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        program = ""
    ignores = masks.get(b"SigIgn", 0)
    return Standing(
        pid, stat.start_ticks, sleeps=stat.state == "S", waits=read_file(f"/proc/{pid}/wchan").startswith(b"do_wait"),
        is_shell=program in SHELLS, cpu_seconds=used, catches=masks.get(b"SigCgt", 0) | masks.get(b"SigBlk", 0),
        ignores=ignores, children=tuple(every_child(pid)),
        shares_stdin=ignores & BOTH_INTERRUPTS == BOTH_INTERRUPTS and _have_one_stdin(stat.parent, pid),
    )  # fmt: skip


def _have_one_stdin(pid: int, other: int) -> bool:
    """Whether two processes have the same open file as standard input; no if the kernel does not tell [kcmp(2)]."""
    import ctypes  # the only way, and seldom needed

    number = _KCMP.get(os.uname().machine)
    return number is not None and ctypes.CDLL(None).syscall(number, pid, other, 0, 0, 0) == 0


def _masks(path: str) -> dict[bytes, int]:
    lines = [line.partition(b":") for line in read_file(path).splitlines() if line.startswith((b"Sig", b"ShdPnd"))]
    return {name: int(mask, 16) for name, _colon, mask in lines if name != b"SigQ"}
