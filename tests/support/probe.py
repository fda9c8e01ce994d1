"""A program that writes down everything about itself that a launcher could have changed, into a file.

Run as `python -I -S probe.py REPORT [ARG]...`. It reads the kernel's record, not Python's copy of it: Python drops
environment entries, and ignores SIGPIPE for itself (so signals are looked at with `cat /proc/self/status` instead).
The report is a Python literal, its texts are bytes read as Latin-1. Nothing is read from standard input or printed.

It is started hundreds of times, so it imports little: `_signal` instead of `signal`, no json, no contextlib.
"""

import _signal
import ctypes
import errno
import fcntl
import os
import struct
import sys
import termios

Facts = dict[str, object]

# From linux/prctl.h: name, number, whether the value comes back through a pointer.
PRCTL = (
    ("pdeathsig", 2, True),
    ("dumpable", 3, False),
    ("keepcaps", 7, False),
    ("timing", 13, False),
    ("seccomp", 21, False),
    ("securebits", 27, False),
    ("timerslack", 30, False),
    ("mce_kill", 34, False),
    ("subreaper", 37, True),
    ("no_new_privs", 39, False),
    ("thp_disable", 42, False),
)

# Those of /proc/self/status that say what a process inherited, not what it used.
STATUS = (
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "Kthread",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "THP_enabled",
    "Cpus_allowed_list",
    "Mems_allowed_list",
)

FILES = (
    "limits",
    "cgroup",
    "oom_score_adj",
    "personality",
    "coredump_filter",
    "loginuid",
    "sessionid",
    "comm",
)

# Fields of /proc/self/stat (proc(5)), counted from 1.
STAT = {"ppid": 4, "pgrp": 5, "session": 6, "tty_nr": 7, "tpgid": 8, "priority": 18, "nice": 19, "exit_signal": 38}
STAT |= {"rt_priority": 40, "policy": 41}


def read(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return file.read().decode("latin-1")
    except OSError as failure:
        return f"({errno.errorcode[failure.errno or 0]})"


def descriptors() -> Facts:
    """Number to target, position and flags; the one that lists the folder has gone when it is asked for."""
    found: Facts = {}
    for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
        try:
            target = os.readlink(f"/proc/self/fd/{number}".encode()).decode("latin-1")
        except OSError:
            pass
        else:
            info = (read(f"/proc/self/fdinfo/{number}") or "").split("\n")
            found[str(number)] = [target, *(line for line in info if line.startswith(("pos:", "flags:")))]
    return found


def io_priority() -> int:
    number = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
    return -1 if number is None else int(ctypes.CDLL(None).syscall(number, 1, 0))


def controls() -> dict[str, int]:
    libc = ctypes.CDLL(None)
    found = {}
    for name, number, by_pointer in PRCTL:
        value = ctypes.c_int(0)
        if by_pointer:
            libc.prctl(number, ctypes.byref(value), 0, 0, 0)
            found[name] = value.value
        else:
            found[name] = libc.prctl(number, 0, 0, 0, 0)
    return found


def terminal() -> Facts:
    found: Facts = {
        "isatty": [os.isatty(number) for number in range(3)],
    }
    sizes, modes = [], []
    for number in range(3):
        try:
            sizes.append(struct.unpack("4H", fcntl.ioctl(number, termios.TIOCGWINSZ, b"\0" * 8)))
            modes.append(repr(termios.tcgetattr(number)))
        except (OSError, termios.error):
            continue
    found |= {"size": sizes, "modes": modes}
    try:
        descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError as failure:
        found["controlling"] = errno.errorcode[failure.errno or 0]
    else:
        found["controlling"] = os.ttyname(descriptor)
        found["foreground"] = os.tcgetpgrp(descriptor) == os.getpgrp()
        os.close(descriptor)
    return found


def children() -> str:
    try:
        return f"there is a child: {os.waitpid(-1, os.WNOHANG | os.WUNTRACED)}"
    except ChildProcessError:
        return "ECHILD"


def facts() -> Facts:
    """Everything, by name."""
    # First of all, before anything of ours opens one.
    found: Facts = {"descriptors": descriptors()}
    stat = (read("/proc/self/stat") or "").rpartition(")")[2].split()
    status = dict(line.split(":\t", 1) for line in (read("/proc/self/status") or "").split("\n") if ":\t" in line)
    found["pid"] = os.getpid()
    found["argv"] = (read("/proc/self/cmdline") or "").split("\0")[:-1]
    found["environ"] = (read("/proc/self/environ") or "").split("\0")[:-1]
    found["stat"] = {name: stat[number - 3] for name, number in STAT.items()}
    found["process"] = {name: status.get(name) for name in STATUS}
    found["children"] = children()
    found["children_listed"] = read(f"/proc/self/task/{os.getpid()}/children")
    found["threads"] = len(os.listdir("/proc/self/task"))
    for name in ("exe", "cwd", "root"):
        found[name] = os.readlink(f"/proc/self/{name}".encode()).decode("latin-1")
    for name in os.listdir("/proc/self/ns"):
        found[f"namespace {name}"] = os.readlink(f"/proc/self/ns/{name}")
    for name in FILES:
        found[name] = read(f"/proc/self/{name}")
    # Seconds left; the case that sets one says how much may have passed.
    found["timers"] = [bool(_signal.getitimer(which)[0]) for which in range(3)]
    found["alarm_left"] = _signal.getitimer(_signal.ITIMER_REAL)[0]
    found["io_priority"] = io_priority()
    found["affinity"] = sorted(os.sched_getaffinity(0))
    found["scheduler"] = [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority]
    found["controls"] = controls()
    found["terminal"] = terminal()
    try:
        found["getcwd"] = os.getcwdb().decode("latin-1")
    except OSError as failure:
        found["getcwd"] = errno.errorcode[failure.errno or 0]
    return found


def main() -> None:
    found = facts()
    half_written = sys.argv[1] + ".half"
    with open(half_written, "w", encoding="ascii") as file:
        file.write(ascii(found))
    os.rename(half_written, sys.argv[1])


if __name__ == "__main__":
    main()
