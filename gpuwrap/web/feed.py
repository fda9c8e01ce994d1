"""What pages are told as it happens: the whole once, then what has changed.

1. Nothing is looked at while nobody listens.
2. What is sent is made once, whoever many listen. A listener that does not read what it was sent is dropped: it comes back by
   itself, and begins anew. Nothing is kept for it.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from ..clocks import wall_at

Facts = dict[str, Any]
"""What there is to tell, by section; the section `jobs` holds the jobs by number."""
Look = Callable[[bool], Coroutine[Any, Any, Facts | None]]
"""Looks at the world, anew or only if something has changed; None if there is nothing new."""

LOOK_SECONDS = 0.5
# Of all time so much is spent on looking, at most; but one that waited in vain for an answer is soon followed by another.
BUSY_PART, MOST_REST_SECONDS = 0.1, 3.0
MOST_LISTENERS = 32
MOST_PENDING = 16
# How often a listener that is told nothing gets a line: proxies and tunnels close what is silent.
ALIVE_SECONDS = 15.0


class Full(Exception):
    """So many listen already."""


def event(kind: str, content: object) -> bytes:
    """Write one server-sent event [HTML, 9.2]."""
    return f"event: {kind}\ndata: {json.dumps(content, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


def changes(before: Facts, now: Facts) -> Facts:
    """Return the sections that are new, and of the jobs those that are; a job that is no more is None."""
    found = {name: value for name, value in now.items() if name != "jobs" and before.get(name) != value}
    old, new = before.get("jobs", {}), now.get("jobs", {})
    jobs = {number: job for number, job in new.items() if old.get(number) != job}
    jobs |= {number: None for number in old if number not in new}
    return found | ({"jobs": jobs} if jobs else {})


class Feed:
    """Looks at the world while somebody listens, and tells everybody what has changed."""

    def __init__(self, look: Look, rest: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`rest` is called when nobody listens any more."""
        self._look, self._rest = look, rest
        self._facts: Facts = {}
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._somebody = asyncio.Event()
        self.sent = 0
        """How many changes were told so far."""

    async def run(self) -> None:
        """Look, as often as is good for everybody, until cancelled."""
        while True:
            await self._somebody.wait()
            begun = time.monotonic()
            found = await self._look(not self._facts)
            if found is not None:
                self._tell(found)
            spent = time.monotonic() - begun
            await asyncio.sleep(max(LOOK_SECONDS, min(spent / BUSY_PART - spent, MOST_REST_SECONDS)))
            if not self._listeners:
                self._somebody.clear()
                self._facts = {}
                await self._rest()

    def _tell(self, found: Facts) -> None:
        new = changes(self._facts, found)
        is_first, self._facts = not self._facts, found
        if not new:
            return
        self.sent += 1
        packet = event("all" if is_first else "change", new | {"now": wall_at()})
        for queue in list(self._listeners):
            try:
                queue.put_nowait(packet)
            except asyncio.QueueFull:
                self._listeners.discard(queue)
                with contextlib.suppress(asyncio.QueueEmpty):
                    while True:
                        queue.get_nowait()
                queue.put_nowait(None)

    async def listen(self) -> AsyncGenerator[bytes, None]:
        """Yield what there is to tell, the whole first. Ends if it is not read fast enough. Raises Full."""
        if len(self._listeners) >= MOST_LISTENERS:
            raise Full
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(MOST_PENDING)
        if self._facts:
            queue.put_nowait(event("all", self._facts | {"now": wall_at()}))
        self._listeners.add(queue)
        self._somebody.set()
        try:
            while True:
                try:
                    packet = await asyncio.wait_for(queue.get(), ALIVE_SECONDS)
                except TimeoutError:
                    packet = b": still here\n\n"
                if packet is None:
                    return
                yield packet
        finally:
            self._listeners.discard(queue)
