"""Who may come in: the holder of the token, from a page of this server, asking for this host.

1. On a machine that is shared, loopback is everybody's: without the token nothing is told, not even a name.
2. The token is typed once, in a link; after that a cookie stands for it. The cookie belongs to a path that nobody else knows:
   browsers send cookies to every port of a host, and another user may listen on another port.
3. The Host header must name this server, or a page elsewhere could reach it under a name of its own (DNS rebinding).
4. What changes anything needs, beside the cookie, a word that only a page of this server can read.
"""

import hmac
import os
import secrets
import stat
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs

from ..errors import GpurunError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN_BYTES, LEAST_TOKEN, MOST_TOKEN = 24, 16, 4096
CSRF_HEADER = b"x-gpurun-csrf"
SAFE = {
    # Nothing from elsewhere, nothing written into the page, no frame around it.
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    b" base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
REFUSED = "gpurun: open the link that gpurun web has printed\n"


def read_token(path: str) -> str:
    """Read a token from a file that only we can read; one that is not there is made, with a new token. Raises GpurunError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return _make_token(path)
    except OSError as err:
        raise _bad(path, str(err.strerror).lower()) from err
    facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        os.close(fd)
        raise _bad(path, "not a regular file")
    with os.fdopen(fd, "rb") as file:
        if facts.st_uid != os.geteuid():
            raise _bad(path, "not yours")
        if facts.st_mode & 0o077:
            raise _bad(path, "others may read or write it", f"chmod 600 {path}")
        text = file.read(MOST_TOKEN + 1).decode("ascii", "replace").strip()
    if not LEAST_TOKEN <= len(text) <= MOST_TOKEN or not text.isprintable() or not text.isascii() or " " in text:
        raise _bad(path, f"a token is one line of {LEAST_TOKEN} letters or more", f"rm {path}; a new one is made")
    return text


def _make_token(path: str) -> str:
    token = new_token()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as err:
        raise _bad(path, str(err.strerror).lower()) from err
    with os.fdopen(fd, "w") as file:
        file.write(token + "\n")
    return token


def _bad(path: str, cause: str, hint: str | None = None) -> GpurunError:
    return GpurunError(f"cannot use token file: {path}: {cause}", hint=hint, status=1)


def new_token() -> str:
    """Draw a token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


class Gate:
    """Stands before an application and lets in who may."""

    def __init__(self, app: App, token: str, hosts: Iterable[str]) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self.prefix = "/" + _derived(token, "path")[:16]
        self._cookie = _derived(token, "cookie")
        self.csrf = _derived(token, "csrf")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if not self._knows_host(headers.get(b"host", b"")):
            await _refuse(send, 421, "gpurun: this is not the host that was asked for\n")
        elif self._typed_token(scope):
            await self._let_in(send)
        elif not self._has_cookie(headers):
            await _refuse(send, 403, REFUSED)
        elif not scope["path"].startswith(self.prefix + "/"):
            await _redirect(send, self.prefix + "/")
        elif scope["method"] not in ("GET", "HEAD") and not self._is_from_here(headers):
            await _refuse(send, 403, "gpurun: only a page of this server may ask for that\n")
        else:
            inside = {**scope, "path": scope["path"][len(self.prefix) :], "root_path": ""}
            await self._app(inside, receive, _with_headers(send))

    def _knows_host(self, value: bytes) -> bool:
        """Whether a Host header names this server. The port is not looked at: a tunnel of ssh has another."""
        text = value.decode("latin-1").lower()
        name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        return name in self._hosts

    def _typed_token(self, scope: Scope) -> bool:
        if scope["method"] not in ("GET", "HEAD") or not scope["query_string"]:
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    def _has_cookie(self, headers: dict[bytes, bytes]) -> bool:
        wanted = f"gpurun={self._cookie}".encode()
        pieces = headers.get(b"cookie", b"").split(b";")
        return any([hmac.compare_digest(piece.strip(), wanted) for piece in pieces[:64]])

    def _is_from_here(self, headers: dict[bytes, bytes]) -> bool:
        """Whether a page of this server asks: its word is there, and the browser names no other origin."""
        if not hmac.compare_digest(headers.get(CSRF_HEADER, b""), self.csrf.encode()):
            return False
        if headers.get(b"sec-fetch-site", b"same-origin") != b"same-origin":
            return False
        origin = headers.get(b"origin")
        return origin is None or origin.partition(b"://")[2] == headers.get(b"host")

    async def _let_in(self, send: Send) -> None:
        # Lax: a link in a mail works too; what changes anything needs more than the cookie.
        cookie = f"gpurun={self._cookie}; Path={self.prefix}/; HttpOnly; SameSite=Lax"
        await _redirect(send, self.prefix + "/", (b"set-cookie", cookie.encode()))


def _derived(token: str, use: str) -> str:
    return hmac.new(token.encode(), use.encode(), sha256).hexdigest()


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *SAFE.items()]}
        await send(message)

    return sending


async def _redirect(send: Send, where: str, *more: tuple[bytes, bytes]) -> None:
    await _answer(send, 303, b"", (b"location", where.encode()), *more)


async def _refuse(send: Send, status: int, text: str) -> None:
    await _answer(send, status, text.encode(), (b"content-type", b"text/plain; charset=utf-8"))


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    all_headers = [*headers, *SAFE.items(), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
