"""What is served where; the only importer of starlette.

The page is told by server-sent events: it asks for nothing again and again, and whoever does not read is dropped.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .feed import ALIVE_SECONDS, Feed, Full, event
from .logs import Chunk, read_before, read_end, read_on
from .source import Output, Source

STATIC = Path(__file__).parent / "static"
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# A packet that was not taken in that time is not wanted.
SEND_SECONDS = 20.0
LOG_SECONDS = 0.5
MOST_BODY = 4096
MOST_LOGS = 32
# What has fewer digits is a number for SQLite and the kernel.
LONGEST_NUMBER = 19
VERBS = ("kill", "pause", "resume", "renice")
Answer = TypeVar("Answer")


class Events:
    """A response of server-sent events. One that is not read ends."""

    def __init__(self, packets: AsyncGenerator[bytes, None]) -> None:
        self._packets = packets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what there is until the reader has gone, or does not read."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (sending, gone):
                each.cancel()
                with contextlib.suppress(asyncio.CancelledError, TimeoutError, OSError):
                    await each

    async def _send_all(self, send: Send) -> None:
        async with contextlib.aclosing(self._packets) as packets:
            async for packet in packets:
                await asyncio.wait_for(send({"type": "http.response.body", "body": packet, "more_body": True}), SEND_SECONDS)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Site:
    """The routes, and the thread in which the world is looked at."""

    def __init__(self, source: Source, *, csrf: Callable[[], str], control: bool) -> None:
        self._source, self._csrf, self._control = source, csrf, control
        self._thread = ThreadPoolExecutor(1, "world")
        self._files = ThreadPoolExecutor(4, "logs")
        self._logs = 0
        self.feed = Feed(lambda anew: self._in_world(source.look, anew), lambda: self._in_world(source.rest))
        self._static = {path.name: path.read_bytes() for path in STATIC.iterdir() if path.suffix in KINDS}

    def application(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self._page),
            Route("/events", self._events),
            Route("/jobs/{number}", self._job),
            Route("/jobs/{number}/log", self._log),
            Route("/jobs/{number}/log/events", self._log_events),
            Route("/act", self._act, methods=["POST"]),
            Route("/{name}", self._file),
        ]
        return Starlette(routes=routes, lifespan=self._live)

    @contextlib.asynccontextmanager
    async def _live(self, _app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(self.feed.run())
        yield
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _in_world(self, call: Callable[..., Answer], *values: object) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *values)

    async def _in_files(self, call: Callable[..., Chunk], *values: object) -> Chunk:
        return await asyncio.get_running_loop().run_in_executor(self._files, call, *values)

    async def _page(self, _request: Request) -> Response:
        return self._of("index.html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        return self._of(name) if name in self._static else PlainTextResponse("no such page\n", 404)

    def _of(self, name: str) -> Response:
        kind = KINDS[name[name.rindex(".") :]]
        return Response(self._static[name], media_type=kind)

    async def _events(self, _request: Request) -> Events:
        hello = await self._in_world(self._source.hello)
        first = event("hello", hello | {"control": self._control, "csrf": self._csrf()})

        async def packets() -> AsyncGenerator[bytes, None]:
            yield first
            try:
                async with contextlib.aclosing(self.feed.listen()) as told:
                    async for packet in told:
                        yield packet
            except Full:
                yield event("full", {})

        return Events(packets())

    async def _job(self, request: Request) -> Response:
        found = await self._in_world(self._source.job, _number(request))
        return _json(found) if found is not None else _json({"fault": "no such job"}, 404)

    async def _output(self, request: Request) -> Output | None:
        return await self._in_world(self._source.output, _number(request))

    async def _log(self, request: Request) -> Response:
        output = await self._output(request)
        if output is None:
            return _json({"fault": "no such job"}, 404)
        if output.path is None:
            return _json({"fault": output.words})
        text = request.query_params.get("before", "")
        if text.isascii() and text.isdecimal() and len(text) < LONGEST_NUMBER:
            chunk = await self._in_files(read_before, output.path, int(text))
        else:
            chunk = await self._in_files(read_end, output.path)
        return _json(chunk.as_json())

    async def _log_events(self, request: Request) -> Events | Response:
        output = await self._output(request)
        if output is None:
            return _json({"fault": "no such job"}, 404)
        if self._logs >= MOST_LOGS:
            return _json({"fault": "so many logs are open already"}, 503)
        return Events(self._log_packets(_number(request), output))

    async def _log_packets(self, number: int, output: Output) -> AsyncGenerator[bytes, None]:
        """Yield the end of a log, then what is added, until its job has ended and all was told."""
        self._logs += 1
        try:
            told: Chunk | None = None
            quiet = 0.0
            while True:
                if output.path is None:
                    yield event("fault", {"fault": output.words})
                    return
                if told is None or told.fault:
                    chunk = await self._in_files(read_end, output.path)
                else:
                    chunk = await self._in_files(read_on, output.path, told.end, told.inode)
                if told is None or chunk.fault != told.fault or chunk.text:
                    yield event("log", chunk.as_json())
                    told, quiet = chunk, 0.0
                elif output.has_ended:
                    yield event("over", {})
                    return
                await asyncio.sleep(LOG_SECONDS)
                quiet += LOG_SECONDS
                if quiet % ALIVE_SECONDS == 0:
                    yield b": still here\n\n"
                if not output.has_ended:
                    found: Output | None = await self._in_world(self._source.output, number)
                    output = found or output._replace(has_ended=True)
        finally:
            self._logs -= 1

    async def _act(self, request: Request) -> Response:
        if not self._control:
            return _json({"done": False, "text": "this page only shows: gpurun web --control changes things"}, 403)
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > MOST_BODY:
                return _json({"done": False, "text": "too much was sent"}, 413)
        wanted = _read_act(body)
        if wanted is None:
            return _json({"done": False, "text": "not understood"}, 400)
        done, text = await self._in_world(self._source.act, *wanted)
        return _json({"done": done, "text": text}, 200 if done else 409)


def _number(request: Request) -> int:
    """Return the job that a path names; 0, which is none, if it names none."""
    text = request.path_params["number"]
    return int(text) if text.isascii() and text.isdecimal() and len(text) < LONGEST_NUMBER else 0


def _read_act(body: bytes) -> tuple[str, int, str | None] | None:
    """Read `{"verb": "kill", "job": 3}`; None if it is anything else."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(given, Mapping):
        return None
    verb, number, value = given.get("verb"), given.get("job"), given.get("value")
    if verb not in VERBS or not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 1 << 53:
        return None
    return (verb, number, value) if value is None or isinstance(value, str) else None


def _json(content: object, status: int = 200) -> Response:
    text = json.dumps(content, separators=(",", ":"))  # ASCII: bytes that are not UTF-8 stay escaped
    return Response(text, status, media_type="application/json")
