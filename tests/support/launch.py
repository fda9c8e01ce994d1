"""A launcher that starts a program bare and then behind a prefix, from exactly the same state, and tells the outcome.

Run as `python -I -S launch.py`, a JSON order on standard input, a JSON answer on standard output; bytes are written as
Latin-1 text. The order: `prefix` and `bare` (words in front of one and the other), `workers` (how many cases at once)
and `cases`, each with `argv`, `env`
(raw entries, anything but NUL), `steps` (what the child does to itself before it execs, see `STEPS`), `folder` (its
files). Environment and arguments go to execvp(3) of the C library as they are: Python's own calls refuse some.

Both runs of a case have the same parent, the same files under the same names, and follow one another.
"""

import ast
import contextlib
import ctypes
import fcntl
import json
import os
import platform
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIMIT_SECONDS = 20
# After so many runs that were not over in time a worker tries no more: the test has failed, let it say so soon.
PATIENCE = 3

LATE = "not over in time"
NOT_TRIED = {"pid": 0, "parent": 0, "status": "not tried", "stops": [], "out": "", "err": "", "report": None}

Order = dict[str, Any]


def exec_raw(argv: list[bytes], env: list[bytes]) -> None:
    """execvp(3) with an environment that may be anything: PATH is that of `env`, a script without #! runs by sh."""
    arguments = (ctypes.c_char_p * (len(argv) + 1))(*argv, None)
    entries = (ctypes.c_char_p * (len(env) + 1))(*env, None)
    ctypes.c_void_p.in_dll(LIBC, "environ").value = ctypes.addressof(entries)
    LIBC.execvp(argv[0], arguments)
    # Only reached when it failed; 126 and 127 as shells say it.
    os._exit(127 if ctypes.get_errno() == 2 else 126)


def limit(name: str, soft_less: int, hard_less: int) -> None:
    """Lower a limit; unlimited becomes a large number first."""
    which = getattr(resource, name)
    large = 1 << 40
    soft, hard = (large if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(which))
    hard = max(hard - hard_less, 0)
    resource.setrlimit(which, (min(max(soft - soft_less, 0), hard), hard))


def deleted_cwd(folder: str) -> None:
    gone = tempfile.mkdtemp(dir=folder)
    # The same name in both runs.
    there = os.path.join(folder, "gone")
    os.rename(gone, there)
    os.chdir(there)
    os.rmdir(there)


def hold(number: int, path: str, flags: int, inheritable: bool) -> None:
    """Have `path` open as descriptor `number`."""
    descriptor = os.open(path, flags, 0o600)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.set_inheritable(number, inheritable)


def hold_socket(number: int) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        os.dup2(made.fileno(), number)


def close(numbers: list[int]) -> None:
    for number in numbers:
        with contextlib.suppress(OSError):
            os.close(number)


def io_priority(value: int) -> None:
    LIBC.syscall({"x86_64": 251, "aarch64": 30}[platform.machine()], 1, 0, value)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def pend(number: int, to_thread: bool) -> None:
    """Leave a signal pending; it must be blocked."""
    if to_thread:
        import threading

        signal.pthread_kill(threading.get_ident(), number)
    else:
        os.kill(os.getpid(), number)


def disposition(numbers: list[int], ignored: bool) -> None:
    # sigaction itself: Python's signal() knows neither 32 nor 33, which the C library keeps for itself.
    for number in numbers:
        LIBC.signal(number, ctypes.c_void_p(1 if ignored else 0))


def block(numbers: list[int]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def nonblocking(number: int) -> None:
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    fcntl.fcntl(number, fcntl.F_SETFL, flags | os.O_NONBLOCK)


STEPS: dict[str, Callable[..., Any]] = {
    "chdir": os.chdir,
    "deleted cwd": deleted_cwd,
    "umask": os.umask,
    "limit": limit,
    "nice": os.nice,
    "io priority": io_priority,
    "scheduler": lambda policy, priority: os.sched_setscheduler(0, policy, os.sched_param(priority)),
    "affinity": lambda cpus: os.sched_setaffinity(0, cpus),
    "hold": hold,
    "hold socket": hold_socket,
    "close": close,
    "nonblocking": nonblocking,
    "seek": lambda number, where: os.lseek(number, where, os.SEEK_SET),
    "ignore": lambda numbers: disposition(numbers, True),
    "block": block,
    "pend": pend,
    "group": lambda: os.setpgid(0, 0),
    "session": os.setsid,
    "alarm": lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds),
    "timer": lambda which, seconds: signal.setitimer(which, seconds),
    "prctl": lambda number, value: LIBC.prctl(number, value, 0, 0, 0),
    "personality": lambda value: LIBC.personality(ctypes.c_ulong(value)),
    "write": write,
    "groups": os.setgroups,
}


def child(order: Order, words: list[str], folder: str) -> None:
    """Become the program. A failing step is a failure of the test, told by status 99 and a text."""
    try:
        os.set_inheritable(0, True)
        for number, name in ((1, "out"), (2, "err")):
            hold(number, os.path.join(folder, name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, True)
        hold(0, order.get("input") or "/dev/null", os.O_RDONLY, True)
        # What Python itself has changed.
        disposition([signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGALRM], False)
        for name, *values in order["steps"]:
            STEPS[name](*values)
    except BaseException as failure:
        with contextlib.suppress(OSError):
            os.write(2, f"launch: {failure!r}".encode())
        os._exit(99)
    exec_raw([word.encode("latin-1") for word in words], [entry.encode("latin-1") for entry in order["env"]])


def run(order: Order, prefix: list[str]) -> dict[str, Any]:
    """Start one program, wait for it, and tell: pid, wait status, stops on the way, output, errors, its report."""
    folder = order["folder"]
    names = [os.path.join(folder, name) for name in ("out", "err", "report")]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    pid = os.fork()
    if pid == 0:
        child(order, [*prefix, *order["argv"]], folder)
    stops: list[int] = []
    late = False
    began = time.monotonic()

    def give_up(*_: Any) -> None:
        nonlocal late
        late = True
        os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(LIMIT_SECONDS)
    while True:
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        stops.append(os.WSTOPSIG(status))
        os.kill(pid, signal.SIGCONT)
    signal.alarm(0)
    texts = []
    for name in names:
        try:
            # The program's umask may have left it without any permission.
            os.chmod(name, 0o600)
            with open(name, "rb") as file:
                texts.append(file.read().decode("latin-1"))
        except FileNotFoundError:
            texts.append("")
    return {
        "pid": pid,
        "parent": os.getpid(),
        "status": LATE if late else status,
        "stops": stops,
        "out": texts[0],
        "err": texts[1],
        "report": ast.literal_eval(texts[2]) if texts[2] else None,
        "seconds": time.monotonic() - began,
    }


def both(order: Order, bare: list[str], prefix: list[str]) -> dict[str, Any]:
    os.makedirs(order["folder"], exist_ok=True)
    try:
        return {"bare": run(order, bare), "under": run(order, prefix)}
    finally:
        shutil.rmtree(order["folder"], ignore_errors=True)


def work(orders: list[tuple[int, Order]], bare: list[str], prefix: list[str], answer: int) -> None:
    found = []
    late = 0
    for number, order in orders:
        if late < PATIENCE:
            found.append((number, both(order, bare, prefix)))
            late += LATE in [run["status"] for run in found[-1][1].values()]
        else:
            found.append((number, dict.fromkeys(("bare", "under"), NOT_TRIED)))
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        json.dump(found, file)


def main() -> None:
    task = json.load(sys.stdin)
    orders = list(enumerate(task["cases"]))
    count = max(1, min(task["workers"], len(orders)))
    waiting: dict[int, list[bytes]] = {}
    for share in range(count):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.close(reading)
            with contextlib.suppress(BrokenPipeError):
                work(orders[share::count], task["bare"], task["prefix"], writing)
            os._exit(0)
        os.close(writing)
        waiting[reading] = []
    done: list[Any] = []
    parts = dict(waiting)
    while waiting:
        for ready in select.select(list(waiting), [], [])[0]:
            part = os.read(ready, 1 << 16)
            parts[ready].append(part)
            if not part:
                del waiting[ready]
                done += json.loads(b"".join(parts[ready]) or b"[]")
    done.sort(key=lambda pair: pair[0])
    json.dump([answer for _, answer in done], sys.stdout)


if __name__ == "__main__":
    main()
