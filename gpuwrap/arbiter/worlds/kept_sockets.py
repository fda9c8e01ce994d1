"""A pouch that outlives its arbiter: the claims' sockets, in the queue of a socket that the keeper holds too.

A descriptor that was sent over a Unix socket and not yet received stays open for as long as the receiving end does
[unix(7), SCM_RIGHTS]. So when the arbiter is killed, the names of its claims stay bound: no other world can come between,
and the keeper, which becomes the next arbiter, takes the sockets out again.
"""

import contextlib
import socket

_LONGEST_NAME = 200


class Pouch:
    """Both ends are ours; `inner` is inherited by the keeper."""

    def __init__(self) -> None:
        self._outer, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._outer.setblocking(False)

    def fill(self, claims: dict[str, socket.socket]) -> None:
        """Hold exactly these sockets, by GPU UUID."""
        for left in empty(self.inner).values():
            left.close()
        for uuid, claim in claims.items():
            # Full or out of descriptors: then a crash has the gap that it would have without the pouch.
            with contextlib.suppress(OSError):
                socket.send_fds(self._outer, [uuid.encode()], [claim.fileno()])


def empty(inner: socket.socket) -> dict[str, socket.socket]:
    """Take everything out of a pouch, ours or a predecessor's."""
    found: dict[str, socket.socket] = {}
    inner.setblocking(False)  # recv_fds of Python 3.11 ignores its flags
    while True:
        try:
            name, fds, _flags, _address = socket.recv_fds(inner, _LONGEST_NAME, 1)
        except OSError:
            return found
        if not name:
            return found
        for fd in fds:
            found[name.decode()] = socket.socket(fileno=fd)

