"""web: a page for the browser, with the GPUs, the jobs, the last day and logs; served to whoever holds its token."""

import ipaddress
import socket
import sys

from ..errors import UsageError
from ..exports.lacking import lacking
from ..units import parse_integer
from ..web.gate import LOOPBACK, Gate, new_token, read_token
from ..web.serve import listen, serve
from .asking import Given, World
from .onlooker import Onlooker

PORT, ADDRESS = 8600, "127.0.0.1"


def main(given: Given, operands: list[str]) -> int:
    """Serve until Ctrl-C."""
    if operands:
        raise UsageError(f"{operands[0]}: web takes no operand")
    try:
        from ..web.app import Site
    except ImportError as err:
        raise lacking("web", "web", err) from err
    port, address = _port(given), _address(given)
    token = read_token(str(given["token_file"])) if "token_file" in given else new_token()
    world = World(given, create=True)
    site = Site(Onlooker(world), csrf=lambda: gate.csrf, control="control" in given)
    gate = Gate(site.application(), token, _hosts(address))
    sock = listen(address, port)
    link = f"http://{_in_link(address)}:{sock.getsockname()[1]}/?token={token}"
    try:
        serve(sock, gate, lambda: _tell(link, address, sock.getsockname()[1]))
    except ImportError as err:
        raise lacking("web", "web", err) from err
    finally:
        sock.close()
    return 0


def _tell(link: str, address: str, port: int) -> None:
    print(link, flush=True)
    if address in LOOPBACK and sys.stderr.isatty():
        there = socket.gethostname()
        sys.stderr.write(f"from elsewhere: ssh -L {port}:localhost:{port} {there}, then the same link; Ctrl-C ends it\n")


def _port(given: Given) -> int:
    port = parse_integer(str(given.get("port", PORT)))
    if port is None or not 0 <= port < 65536:
        raise UsageError(f"port {given['port']}: 0 to 65535")
    return port


def _address(given: Given) -> str:
    """Return where to listen. Raises UsageError for what others can reach, unless the token comes from a file."""
    text = str(given.get("bind", ADDRESS))
    try:
        address = ipaddress.ip_address(ADDRESS if text == "localhost" else text)
    except ValueError:
        raise UsageError(f"bind {text}: not an address: 127.0.0.1, ::1 or one of this machine") from None
    if not address.is_loopback and "token_file" not in given:
        hint = "over ssh: ssh -L 8600:localhost:8600 HOST, and the link that gpurun web prints there"
        raise UsageError(f"bind {text}: others can reach it: --token-file FILE", hint=hint)
    return str(address)


def _hosts(address: str) -> list[str]:
    """By which names the server may be asked for."""
    if ipaddress.ip_address(address).is_loopback:
        return [*LOOPBACK, address]
    names = [*LOOPBACK, address, socket.gethostname(), socket.getfqdn()]
    if ipaddress.ip_address(address).is_unspecified:
        names += _own_addresses()
    return names


def _own_addresses() -> list[str]:
    """The addresses that this machine's name has."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)]
    except OSError:
        return []


def _in_link(address: str) -> str:
    return f"[{address}]" if ":" in address else address
