"""Who is at the other end of a Unix socket, as the kernel says it.

1. uid and groups are those at the moment of the connect. Names are for showing, and are looked up elsewhere.
2. The process is known by a pidfd: SO_PEERPIDFD (Linux 6.5), else one opened when the peer is let in, and believed only if the
   process's real uid is the peer's and it was started before. A pid is reused, and its next owner is nobody's word.
3. A uid means that user only in our own user namespace, and, for what is done to others' jobs, in our own pid namespace: to
   the kernel user 1002 of a container is our user 1002.
"""

import errno
import os
import socket
import struct
from typing import NamedTuple

from . import processes

_SO_PEERGROUPS, _SO_PEERPIDFD = 59, 77  # [include/uapi/asm-generic/socket.h]; Python 3.11 has no names for them
MOST_GROUPS = 65536  # [limits.h, NGROUPS_MAX]
_MOST_BYTES = 1024


class Peer(NamedTuple):
    """Who connected."""

    pid: int
    uid: int
    groups: frozenset[int]
    pidfd: int
    """Of the process that connected; -1 if it is not known for sure which that was."""


class Asker(NamedTuple):
    """Who asks for something."""

    uid: int
    groups: frozenset[int]
    is_at_home: bool
    """Whether the process lives in our user and pid namespaces: only then its uid is that user's."""


class Refused(Exception):
    """A peer that cannot be told apart from others; the text says why."""


def peer_of(sock: socket.socket) -> Peer:
    """Return who connected; the pidfd is the caller's to close. Raises Refused; OSError if no descriptor is left."""
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid == 0:
        raise Refused("it lives in a pid namespace that is not below this one: ask from the machine itself")
    pidfd = _pidfd_of(sock, pid, uid)
    return Peer(pid, uid, groups_of(sock) | {gid}, pidfd)


def groups_of(sock: socket.socket) -> frozenset[int]:
    """Return the peer's supplementary groups [socket(7), SO_PEERGROUPS, Linux 4.13]; none where the kernel does not say."""
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES)
    except OSError as err:
        if err.errno != errno.ERANGE:
            return frozenset()
        found = _many_groups(sock)
    return frozenset(struct.unpack(f"{len(found) // 4}I", found))


def _many_groups(sock: socket.socket) -> bytes:
    """Ask for more than Python's own getsockopt has room for."""
    import ctypes

    room = ctypes.create_string_buffer(4 * MOST_GROUPS)
    size = ctypes.c_uint(len(room))
    if ctypes.CDLL(None).getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(size)):
        return b""
    return room.raw[: size.value]


def _pidfd_of(sock: socket.socket, pid: int, uid: int) -> int:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as err:
        if err.errno in (errno.EMFILE, errno.ENFILE):
            raise
        if err.errno != errno.ENOPROTOOPT:
            return -1  # it has gone for good
    return pidfd_before(pid, uid)


def pidfd_before(pid: int, uid: int) -> int:
    """Open a pidfd of a process that is taken to be a peer, on a kernel that does not say. Raises Refused."""
    now = _uptime_ticks()
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    stat, who = processes.read_stat(pid), processes.uids_of(pid)
    if stat is None or who is None:
        os.close(pidfd)
        return -1
    if who.real != uid or stat.start_ticks > now:
        os.close(pidfd)
        raise Refused("the process that connected has gone, and another has its pid")
    return pidfd


def _uptime_ticks() -> float:
    with open("/proc/uptime", "rb", buffering=0) as file:
        return float(file.read(64).split()[0]) * processes.CLOCK_TICKS


def is_of_our_namespaces(pid: int) -> tuple[bool, bool]:
    """Whether a process lives in our user and in our pid namespace; what cannot be seen counts as no."""
    found = []
    for kind in ("user", "pid"):
        try:
            theirs, ours = os.stat(f"/proc/{pid}/ns/{kind}"), os.stat(f"/proc/self/ns/{kind}")
        except OSError:
            found.append(False)
        else:
            found.append(theirs.st_ino == ours.st_ino)
    return found[0], found[1]


def login_uid(pid: int) -> int | None:
    """Return as whom the person logged in who is behind a process [proc(5), loginuid]; None if the kernel does not say."""
    text = processes.read_file(f"/proc/{pid}/loginuid")
    return int(text) if text.isdigit() and int(text) != 0xFFFFFFFF else None
