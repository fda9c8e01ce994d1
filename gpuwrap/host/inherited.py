"""What an arbiter was given by whoever came first: given up where it may be, told where not, and weighed against another's.

1. The soft limits are raised to the hard ones. These only root may raise: of two arbiters one may be better off.
2. What can always be given up (CPU affinity, I/O class, memory policy, timer slack) is never told.

The launch path loads this in the child that becomes an arbiter, and nowhere else.
"""

import os
import resource

UNLIMITED = float("inf")
GIB = 2**30
# Hard limits by their names in /proc/PID/limits [proc(5)], the weightiest first: which it is, and what is enough. SQLite and
# NVML fit into the memory; what is over the descriptors waits in the bell's queue.
LIMITS = {
    "Max file size": (resource.RLIMIT_FSIZE, UNLIMITED),
    "Max cpu time": (resource.RLIMIT_CPU, UNLIMITED),
    "Max address space": (resource.RLIMIT_AS, 4 * GIB),
    "Max data size": (resource.RLIMIT_DATA, 4 * GIB),
    "Max open files": (resource.RLIMIT_NOFILE, 4096),
    "Max processes": (resource.RLIMIT_NPROC, 512),
}
# What systemd gives to the processes of a user manager, and less, is nothing to speak of [systemd.exec(5), OOMScoreAdjust=].
ORDINARY_OOM_SCORE = 200
TIMER_SLACK_NS = 50_000
# More than any kernel is built for: what is not there is left out [sched_setaffinity(2)].
MOST_CPUS = 8192
# ioprio_set and set_mempolicy, which no module of Python's own has [arch/*/entry/syscalls; aarch64: asm-generic/unistd.h].
_CALLS = {"x86_64": (251, 238), "aarch64": (30, 237), "ppc64le": (273, 261)}
_THIS_PROCESS = 1  # IOPRIO_WHO_PROCESS

Standing = tuple[float, ...]


def give_up() -> None:
    """Make this process what it would be had nobody in particular started it, as far as it may."""
    for limit, enough in LIMITS.values():
        hard = resource.getrlimit(limit)[1]
        for value in (resource.RLIM_INFINITY, hard if enough == UNLIMITED else max(hard, int(enough)), hard):
            if _has_done(lambda: resource.setrlimit(limit, (value, value))):  # noqa: B023
                break
    _has_done(lambda: os.sched_setaffinity(0, range(MOST_CPUS)))
    _has_done(lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)))
    _has_done(lambda: os.setpriority(os.PRIO_PROCESS, 0, 0))
    _has_done(lambda: _write("/proc/self/oom_score_adj", 0))
    _has_done(lambda: _write("/proc/self/timerslack_ns", TIMER_SLACK_NS))
    _has_done(_give_up_by_number)


def _has_done(act: object) -> bool:
    try:
        act()  # type: ignore[operator]
    except (OSError, ValueError, ImportError):
        return False
    return True


def _write(path: str, value: int) -> None:
    with open(path, "wb", buffering=0) as file:
        file.write(b"%d" % value)


def _give_up_by_number() -> None:
    import ctypes  # 3 ms

    calls = _CALLS.get(os.uname().machine)
    if calls is not None:
        call, zero = ctypes.CDLL(None).syscall, ctypes.c_long(0)
        call(ctypes.c_long(calls[0]), ctypes.c_long(_THIS_PROCESS), zero, zero)  # no class: it follows the niceness
        call(ctypes.c_long(calls[1]), zero, zero, zero)  # MPOL_DEFAULT


def hard_limits(pid: int) -> dict[str, float]:
    """Return a process's hard limits by their names. Raises OSError if they are not to be read."""
    with open(f"/proc/{pid}/limits") as file:
        rows = {line[:26].strip(): line[26:].split() for line in file.read().splitlines()[1:]}
    return {name: UNLIMITED if rows[name][1] == "unlimited" else float(rows[name][1]) for name in LIMITS}


def standing(pid: int) -> Standing:
    """Return how well a process is off, or an arbiter that it starts: the larger the better. Raises OSError."""
    hard = hard_limits(pid)
    limits = [min(hard[name], enough) for name, (_, enough) in LIMITS.items()]
    return (*limits, _policy(pid) == os.SCHED_OTHER, -max(0, os.getpriority(os.PRIO_PROCESS, pid)))


def _policy(pid: int) -> int:
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK


# Nobody needs to be better off.
WELL: Standing = (*[enough for _, enough in LIMITS.values()], True, 0)


def is_better_off(pid: int, than: Standing) -> bool:
    """Whether an arbiter that a process starts would be better off; not if that cannot be found out."""
    try:
        return standing(pid) > than
    except OSError:
        return False


def lacking(pid: int) -> list[tuple[str, float]]:
    """Return what holds back a process, or an arbiter that it starts: limits by their names, and the rest by ours.

    Raises OSError if it cannot be found out.
    """
    hard = hard_limits(pid)
    found = [(name, hard[name]) for name, (_, enough) in LIMITS.items() if hard[name] < enough]
    niceness, policy = os.getpriority(os.PRIO_PROCESS, pid), _policy(pid)
    with open(f"/proc/{pid}/oom_score_adj") as file:
        score = int(file.read())
    rest = (("niceness", niceness, 0), ("policy", policy, os.SCHED_OTHER), ("oom_score_adj", score, ORDINARY_OOM_SCORE))
    return found + [(name, value) for name, value, ordinary in rest if value > ordinary]
