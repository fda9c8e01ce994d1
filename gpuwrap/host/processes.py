"""Processes as the kernel shows them, and the only importer of psutil.

1. A process is pid plus start time plus boot plus pid namespace. Nothing is ever signalled by a bare pid.
2. In doubt a process is alive and not ours.
3. What is read often (one stat line costs 24 µs [tested]) is read here by hand; psutil describes strangers, rarely.
"""

import errno
import fcntl
import os
import pwd
import signal
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ..clocks import boot_id as boot_id
from ..model import ForeignProcess, Identity

# PIDFD_GET_INFO: _IOWR(0xFF, 11, 64 bytes), Linux 6.15 for the exit status [include/uapi/linux/pidfd.h].
_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3
_EXIT_CODE_OFFSET = 60

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
# That a file cannot be opened for want of a descriptor does not mean that the process has gone.
_NO_DESCRIPTOR_LEFT = (errno.EMFILE, errno.ENFILE)
_PIECE = 8192


class Stat(NamedTuple):
    """One line of /proc/PID/stat [proc(5)]. `exit_code` is a wait(2) status, right only for a zombie (state Z)."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    tty: int
    foreground: int
    start_ticks: int
    exit_code: int


def read_stat(pid: int) -> Stat | None:
    """Read one process; None if there is none."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in _NO_DESCRIPTOR_LEFT:
            raise
        return None
    try:
        line = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The name stands in parentheses and may hold anything, parentheses too.
    fields = line[line.rindex(b")") + 2 :].split()
    parent, group, session, tty, foreground = map(int, fields[1:6])
    return Stat(pid, fields[0].decode(), parent, group, session, tty, foreground, int(fields[19]), int(fields[49]))


def is_in_container() -> bool:
    """Whether our pids are not the machine's: the first pid namespace has a fixed inode [include/linux/proc_ns.h]."""
    return pid_namespace() != 0xEFFFFFFC


@lru_cache(maxsize=1)
def pid_namespace() -> int:
    """Return the inode of our pid namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process."""
    stat = read_stat(pid)
    return identity_of(stat) if stat else None


def identity_of(stat: Stat) -> Identity:
    """Return the identity of a process that was read here and now."""
    return Identity(boot_id(), pid_namespace(), stat.pid, stat.start_ticks)


def is_same_process(seen: Identity) -> bool:
    """Tell whether the process recorded as `seen` still exists (a zombie has ended).

    Pids are reused, so the start time decides.
    """
    if seen.boot_id != boot_id():
        return False
    if seen.pid_namespace != pid_namespace():
        return True  # not to be seen from here: waiting too long is better than treating a live job as gone
    stat = read_stat(seen.pid)
    return stat is not None and stat.start_ticks == seen.start_ticks and stat.state not in "ZX"


def open_pidfd(identity: Identity) -> int | None:
    """Open a pidfd on exactly this process, None if it has gone. The start time is compared after opening.

    Raises OSError if no descriptor is left.
    """
    if identity.boot_id != boot_id() or identity.pid_namespace != pid_namespace():
        return None
    try:
        pidfd = os.pidfd_open(identity.pid)
    except OSError as err:
        if err.errno in _NO_DESCRIPTOR_LEFT:
            raise
        return None
    try:
        stat = read_stat(identity.pid)
    except OSError:
        os.close(pidfd)
        raise
    if stat is None or stat.start_ticks != identity.start_ticks:
        os.close(pidfd)
        return None
    return pidfd


def send_signal(identity: Identity, number: int, owner: int | None = None) -> bool:
    """Signal exactly this process; false if it has gone. Raises PermissionError.

    `owner`: only if this user could have sent it himself, whoever we are; what cannot be sent so is not permitted.
    """
    pidfd = open_pidfd(identity)
    if pidfd is None:
        return False
    try:
        if owner is not None and not could_signal(owner, identity.pid):
            raise PermissionError
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def may_signal(pid: int, owner: int | None = None) -> bool:
    """Whether a process may be signalled by us, on behalf of a user; one that has gone may."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return owner is None or could_signal(owner, pid)


class Uids(NamedTuple):
    """Whom a process acts for [credentials(7)]."""

    real: int
    effective: int
    saved: int


def uids_of(pid: int) -> Uids | None:
    """Return the uids of a process; None if it has gone."""
    for line in read_file(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            real, effective, saved, _fs = map(int, line.split()[1:])
            return Uids(real, effective, saved)
    return None


def could_signal(uid: int, pid: int) -> bool:
    """Whether a user could send a process a signal himself; one that has gone, he could [kill(2)]."""
    if uid == 0:
        return True
    who = uids_of(pid)
    return who is None or uid in (who.real, who.saved)


def owner_name(pid: int) -> str:
    """Return the name of the user a process runs as."""
    try:
        return user_name(os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return "?"


def exit_status(pidfd: int, identity: Identity) -> int | None:
    """Return the wait(2) status of an ended process that is no child of ours, None if nobody can tell any more.

    While it is a zombie, its stat line has the status; after it was reaped, a pidfd opened before has it
    (PIDFD_GET_INFO, and only with the EXIT bit set: before reaping it reads 0 [run]).
    """
    status = _reaped_status(pidfd)  # mostly its parent has waited for it already
    if status is not None:
        return status
    stat = read_stat(identity.pid)
    if stat is not None and stat.start_ticks == identity.start_ticks and stat.state in "ZX":
        return stat.exit_code
    return _reaped_status(pidfd)  # it was reaped between the two


def _reaped_status(pidfd: int) -> int | None:
    reply = bytearray(64)
    reply[0:8] = _PIDFD_INFO_EXIT.to_bytes(8, "little")
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, reply)
    except OSError:
        return None
    if not int.from_bytes(reply[0:8], "little") & _PIDFD_INFO_EXIT:
        return None
    return int.from_bytes(reply[_EXIT_CODE_OFFSET : _EXIT_CODE_OFFSET + 4], "little")


def command_line(pid: int) -> tuple[bytes, ...]:
    """Return a process's argv; empty if it has gone or is a zombie."""
    raw = read_file(f"/proc/{pid}/cmdline")
    return tuple(raw[:-1].split(b"\0")) if raw else ()


def working_folder(pid: int) -> bytes:
    """Return a process's cwd, as the kernel names it (a deleted one ends in " (deleted)"); empty if not to be read."""
    try:
        return os.readlink(f"/proc/{pid}/cwd".encode())
    except OSError:
        return b""


def output_target(pid: int, fd: int = 1) -> bytes | None:
    """Return where a process's stdout leads, None if it is closed: a path, or `pipe:[…]` [proc(5)]."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}".encode())
    except OSError:
        return None


def ancestors(pid: int) -> Iterator[Stat]:
    """Yield a process, its parent, and so on, up to the first process of the pid namespace."""
    while pid > 0:
        stat = read_stat(pid)
        if stat is None:
            return
        yield stat
        pid = stat.parent


class Lineages:
    """Ancestors of many processes that mostly have one parent: a parent's own are remembered for a moment."""

    FRESH_SECONDS = 1.0

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[float, tuple[Stat, ...]]] = {}

    def of(self, pid: int) -> tuple[Stat, ...]:
        """Return a process, its parent and so on."""
        stat = read_stat(pid)
        if stat is None:
            return ()
        parent = read_stat(stat.parent) if stat.parent else None
        if parent is None:
            return (stat,)
        key, now = (parent.pid, parent.start_ticks), time.monotonic()
        until, found = self._known.get(key, (0.0, ()))
        if until < now:
            found = tuple(ancestors(parent.pid))
            self._known = {known: value for known, value in self._known.items() if value[0] >= now}
            self._known[key] = (now + self.FRESH_SECONDS, found)
        return (stat, *found)


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, as far as its main thread forked or adopted them.

    Orphans are adopted by the main thread of init or of a subreaper. Empty where the kernel has no such file.
    """
    return list(map(int, read_file(f"/proc/{pid}/task/{pid}/children").split()))


def groups_of(pid: int) -> bytes:
    """Return the control groups a process lives in, as the kernel lists them; empty if it has gone."""
    return read_file(f"/proc/{pid}/cgroup")


def name(pid: int) -> bytes:
    """Return what the kernel calls a process: the file it runs, up to 15 bytes; empty if it has gone."""
    return read_file(f"/proc/{pid}/comm").rstrip(b"\n")


def is_arbiter(pid: int) -> bool:
    """Whether a process is an arbiter: one summoned inside a job may hang below a subreaper of it, but is no part of it."""
    return name(pid) == b"gpurun-arbiter"


def everybody() -> Iterator[Stat]:
    """Yield every process of the machine that can be seen."""
    for name in os.listdir("/proc"):
        stat = read_stat(int(name)) if name.isdigit() else None
        if stat is not None:
            yield stat


def every_child(pid: int) -> Iterator[int]:
    """Yield the pids of a process's children, those of every thread included."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        yield from map(int, read_file(f"/proc/{pid}/task/{thread}/children").split())


def environment(pid: int) -> bytes:
    """Return the environment a process was started with, an entry between any two zero bytes; none if not to be read.

    Tools that rewrite their title (setproctitle) lose it [tested].
    """
    return b"\0" + read_file(f"/proc/{pid}/environ") + b"\0"


def is_ours(pid: int) -> bool:
    """Whether our user started a process: its real uid, which a set-user-ID program keeps; not if it has gone."""
    for line in read_file(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[1]) == os.geteuid()
    return False


def age_seconds(stat: Stat) -> float:
    """Seconds since a process was started."""
    with open("/proc/uptime", "rb", buffering=0) as file:
        uptime = float(file.read(64).split()[0])
    return max(0.0, uptime - stat.start_ticks / CLOCK_TICKS)


def cpu_seconds(pid: int) -> float | None:
    """Return the processor time that a process has used, all its threads together; None if it has gone."""
    line = read_file(f"/proc/{pid}/stat")
    if not line:
        return None
    user, system = line[line.rindex(b")") + 2 :].split()[11:13]
    return (int(user) + int(system)) / CLOCK_TICKS


def has_device_open(pid: int) -> bool:
    """Whether a process has an NVIDIA device file open; what cannot be read counts as no (it is not ours then)."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("/dev/nvidia") and target != "/dev/nvidiactl":
            return True
    return False


def command_text(pid: int) -> str | None:
    """Return a process's command line as text, its name in brackets if it has none; None if it cannot be seen."""
    words = command_line(pid)
    if words:
        return b" ".join(words).decode("utf-8", "surrogateescape")
    called = name(pid)
    return f"[{called.decode('utf-8', 'surrogateescape')}]" if called else None


@lru_cache(maxsize=64)
def user_name(uid: int) -> str:
    """Return a user's name, the uid as text if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@lru_cache(maxsize=256)
def _described(pid: int, start_ticks: int) -> tuple[str | None, str | None, int | None]:
    import psutil  # 30 ms and some MiB: only once a stranger is to be named

    try:
        process = psutil.Process(pid)
        with process.oneshot():
            words = process.cmdline() or [process.name()]
            return process.username(), " ".join(words), process.uids().real
    except psutil.Error:
        return None, None, None


def describe(pid: int, size: int | None) -> ForeignProcess:
    """Name a process that is no job of ours."""
    stat = read_stat(pid)
    if stat is None:
        return ForeignProcess(pid, None, None, size)
    user, command, uid = _described(pid, stat.start_ticks)
    return ForeignProcess(pid, user, command, size, mine=uid == os.getuid())


def read_file(path: str) -> bytes:
    """Read a file of /proc; nothing if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        if err.errno in _NO_DESCRIPTOR_LEFT:
            raise
        return b""
    pieces = []
    try:
        while piece := os.read(fd, _PIECE):
            pieces.append(piece)
    except OSError:
        return b""
    finally:
        os.close(fd)
    return b"".join(pieces)
