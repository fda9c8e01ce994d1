"""What systemd gives to a service, and hears from it [sd_listen_fds(3), sd_notify(3)]: bell, claims, and that we are ready.

The claims lie in its descriptor store: bound without a gap while the service is killed and started anew.
"""

import contextlib
import os
import socket

FIRST_FD = 3
CLAIM = "claim-"


class Given:
    """The descriptors that came with us, by name."""

    def __init__(self) -> None:
        count = int(os.environ.get("LISTEN_FDS", "0")) if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
        names = os.environ.get("LISTEN_FDNAMES", "").split(":")
        self.bell: socket.socket | None = None
        self.claims: dict[str, socket.socket] = {}
        for at in range(count):
            sock = socket.socket(fileno=FIRST_FD + at)
            sock.set_inheritable(False)
            name = names[at] if at < len(names) else ""
            if name.startswith(CLAIM):
                self.claims[name.removeprefix(CLAIM)] = sock
            elif self.bell is None:
                self.bell = sock
            else:
                sock.close()
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            os.environ.pop(name, None)


def notify(text: str, fds: tuple[int, ...] = ()) -> bool:
    """Tell systemd something; false if none is there to hear it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.connect(address)
        if fds:
            socket.send_fds(sock, [text.encode()], list(fds))
        else:
            sock.send(text.encode())
        return True
    return False


class DescriptorStore:
    """Keeps the claims' sockets where they outlive us: in place of the pouch that a keeper holds."""

    def __init__(self) -> None:
        self._kept: set[str] = set()

    def fill(self, claims: dict[str, socket.socket]) -> None:
        """Hold exactly these sockets, by GPU UUID."""
        for uuid in self._kept - set(claims):
            notify(f"FDSTOREREMOVE=1\nFDNAME={CLAIM}{uuid}")
        for uuid in set(claims) - self._kept:
            notify(f"FDSTORE=1\nFDNAME={CLAIM}{uuid}", (claims[uuid].fileno(),))
        self._kept = set(claims)
