"""The socket and the server; the only importer of uvicorn."""

import contextlib
import socket
from collections.abc import Callable

from ..errors import GpurunError
from .gate import Gate

# Who neither reads nor acknowledges for so long is cut off by the kernel, and what was kept for him is freed [tcp(7)].
UNREAD_MILLISECONDS = 30_000
# Who connects and asks nothing is not even let in; whoever asks slowly is one of so many at most.
SILENT_SECONDS = 10
MOST_AT_ONCE = 100
TCP_DEFER_ACCEPT, TCP_USER_TIMEOUT = 9, 18
# What the kernel keeps for one who does not read; by itself it would keep 4 MB [tcp(7), tcp_wmem].
UNREAD_BYTES = 1 << 18


def listen(address: str, port: int) -> socket.socket:
    """Listen, on a free port if that is 0. Raises GpurunError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
        for option, value in ((TCP_DEFER_ACCEPT, SILENT_SECONDS), (TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)  # those that are let in have it from here
        sock.bind((address, port))
        sock.listen(MOST_AT_ONCE)
    except (OSError, OverflowError) as err:
        sock.close()
        cause = str(getattr(err, "strerror", None) or err).lower()
        hint = "another port: --port N, 0 for any that is free" if "in use" in cause else None
        raise GpurunError(f"cannot listen: {address}:{port}: {cause}", hint=hint, status=1) from err
    return sock


def serve(sock: socket.socket, gate: Gate, ready: Callable[[], None]) -> None:
    """Serve until a signal comes; `ready` is called when connections are answered. Needs the extra; raises ImportError."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            ready()

    config = uvicorn.Config(
        gate, loop="asyncio", http="h11", ws="none", lifespan="on", log_level="critical", access_log=False,
        server_header=False, proxy_headers=False, limit_concurrency=MOST_AT_ONCE, timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    Server(config).run(sockets=[sock])
