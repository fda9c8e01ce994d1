"""The page's feed, its responses and the pieces of logs, without a network."""

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from pathlib import Path
from typing import Any

import pytest

from gpuwrap.web import feed
from gpuwrap.web.feed import MOST_PENDING, Facts, Feed, changes
from gpuwrap.web.logs import PIECE, read_before, read_end, read_on

app = pytest.importorskip("gpuwrap.web.app", reason="starlette is not installed")


def test_of_what_changed_only_that_is_told() -> None:
    before = {"gpus": [1], "users": [2], "jobs": {"1": {"state": "waiting"}, "2": {"state": "running"}, "3": {}}}
    now = {"gpus": [1], "users": [3], "jobs": {"1": {"state": "running"}, "2": {"state": "running"}, "4": {}}}
    assert changes(before, now) == {"users": [3], "jobs": {"1": {"state": "running"}, "3": None, "4": {}}}
    assert changes(now, now) == {}


class Looked:
    """A world that changes at each look, and counts what is asked of it."""

    def __init__(self) -> None:
        self.looks = self.rests = 0

    async def look(self, _anew: bool) -> Facts:
        self.looks += 1
        return {"count": self.looks}

    async def rest(self) -> None:
        self.rests += 1


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


def test_who_does_not_read_is_dropped_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LOOK_SECONDS", 0.0)

    async def story() -> None:
        world = Looked()
        told = Feed(world.look, world.rest)
        running = asyncio.create_task(told.run())
        deaf, keen = told.listen(), told.listen()
        first = await anext(deaf)  # and then nothing more
        assert first.startswith(b"event: all\n")
        heard = 0
        while heard < 3 * MOST_PENDING:
            await anext(keen)
            heard += 1
        assert [packet async for packet in deaf] == [], "what was kept for it is gone, and it has ended"
        await keen.aclose()
        await until(lambda: world.rests == 1)
        looks = world.looks
        for _ in range(100):
            await asyncio.sleep(0)
        assert world.looks == looks, "while nobody listens nobody looks"
        running.cancel()

    asyncio.run(story())


def test_a_packet_that_nobody_takes_ends_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "SEND_SECONDS", 0.05)
    closed = []

    async def packets() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
        finally:
            closed.append(True)

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()  # a socket that is full

    async def receive() -> MutableMapping[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("never")

    asyncio.run(asyncio.wait_for(app.Events(packets())({}, receive, send), 20))
    assert closed == [True]


def test_pieces_of_a_log_follow_each_other_and_cut_no_letter(tmp_path: Path) -> None:
    path = tmp_path / "log"
    text = "é€😀x" * 40_000
    path.write_text(text)
    name = str(path).encode()
    chunk = read_end(name)
    found = chunk.text
    while chunk.begin:
        before = read_before(name, chunk.begin)
        assert before.end == chunk.begin
        assert len(before.text.encode()) <= PIECE
        chunk, found = before, before.text + found
    assert found == text


def test_a_letter_that_is_not_written_yet_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"ab\xe2\x82")
    name = str(path).encode()
    first = read_end(name)
    assert (first.text, first.end) == ("ab", 2)
    with path.open("ab") as file:
        file.write(b"\xac!")
    second = read_on(name, first.end, first.inode)
    assert second.text == "€!"


def test_another_file_of_that_name_is_shown_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old old old")
    name = str(path).encode()
    first = read_end(name)
    (tmp_path / "new").write_text("new new new new")
    (tmp_path / "new").rename(path)
    assert read_on(name, first.end, first.inode).text == "new new new new"
