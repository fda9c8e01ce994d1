"""`gpurun web` of a test's world: the server, what it answers to plain requests, and a real Chromium that looks at it."""

import contextlib
import http.client
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from waiting import wait_until
from world import World

BROWSER, DRIVER = "chromium", "chromedriver"


class Page:
    """A running server. `link` is what it printed."""

    def __init__(self, world: World, *words: str, **popen: Any) -> None:
        self.world = world
        self.child = world.start("web", "--port", "0", *words, **popen)
        assert self.child.stdout is not None
        self.link = self.child.stdout.readline().strip()
        assert self.link, self.child.stderr and self.child.stderr.read()
        parts = urlsplit(self.link)
        self.host, self.port, self.token = parts.hostname, parts.port, parts.query.removeprefix("token=")

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, host: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """Ask for a path as it stands; returns status, headers and text."""
        line = http.client.HTTPConnection(self.host or "", self.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            named |= {} if host is None else {"Host": host}
            line.request(method, path, body, named)
            answer = line.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode("utf-8")
        finally:
            line.close()

    def let_in(self) -> tuple[str, str]:
        """Use the link once; returns the cookie and the path below which everything lies."""
        status, headers, _text = self.ask(f"/?token={self.token}")
        assert status == 303
        return headers["set-cookie"].partition(";")[0], headers["location"].rstrip("/")

    def get(self, path: str) -> Any:
        """Ask for JSON as the page does."""
        cookie, prefix = self.let_in()
        status, _headers, text = self.ask(prefix + path, Cookie=cookie)
        assert status in (200, 404), text
        return json.loads(text)

    @contextlib.contextmanager
    def events(self, path: str = "/events") -> Iterator[Iterator[tuple[str, Any]]]:
        """Listen to server-sent events: pairs of kind and content."""
        cookie, prefix = self.let_in()
        line = http.client.HTTPConnection(self.host or "", self.port, timeout=40)
        line.request("GET", prefix + path, headers={"Cookie": cookie})
        answer = line.getresponse()
        assert answer.status == 200

        def told() -> Iterator[tuple[str, Any]]:
            kind = ""
            while raw := answer.readline():
                text = raw.decode("utf-8").rstrip("\n")
                if text.startswith("event: "):
                    kind = text[7:]
                elif text.startswith("data: "):
                    yield kind, json.loads(text[6:])

        try:
            yield told()
        finally:
            line.close()

    def close(self) -> None:
        """End the server, as Ctrl-C does."""
        self.child.send_signal(signal.SIGINT)
        self.child.wait(20)


class Facts:
    """What a listener knows by now: the whole, and the changes since."""

    def __init__(self, told: Iterator[tuple[str, Any]]) -> None:
        self._told = told
        self.facts: dict[str, Any] = {}
        self.jobs: dict[str, Any] = {}
        self.hello: dict[str, Any] = {}

    def until(self, condition: Any, what: str, within: float = 20) -> None:
        """Listen until a condition holds."""
        deadline = time.monotonic() + within
        while not condition(self):
            assert time.monotonic() < deadline, f"waited in vain for {what}; jobs: {self.jobs}"
            kind, content = next(self._told)
            if kind == "hello":
                self.hello = content
                continue
            if kind == "all":
                self.jobs = {}
            self.jobs |= content.pop("jobs", {})
            self.jobs = {number: job for number, job in self.jobs.items() if job is not None}
            self.facts |= content


class Browser:
    """A real Chromium without a screen. Closed by `close`, and every process of it ends."""

    def __init__(self, width: int = 1280, height: int = 1000, *, dark: bool = False) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        options = Options()
        options.binary_location = str(shutil.which(BROWSER))
        for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions",
                     "--no-first-run", "--disable-background-networking", "--disable-component-update"):  # fmt: skip
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which(DRIVER)))
        self.resize(width, height)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int) -> None:
        """Be a screen of this size; a narrow one is a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, page: Page) -> None:
        """Open a page by the link that it printed, and see it live."""
        self.driver.get(page.link)
        self.until("document.getElementById('live').dataset.state === 'up'", "the page to be live")

    def js(self, expression: str, *values: object) -> Any:
        """Return what an expression comes to."""
        return self.driver.execute_script(f"return {expression}", *values)

    def until(self, expression: str, what: str, within: float = 20, values: tuple[object, ...] = ()) -> Any:
        """Wait until an expression is true."""
        return wait_until(lambda: self.js(expression, *values), what, within)

    def text(self, selector: str = "main") -> str:
        """What is to be read in an element."""
        return str(self.js("(document.querySelector(arguments[0]) || {}).innerText || ''", selector))

    def shows(self, pattern: str, selector: str = "main", within: float = 20) -> str:
        """Wait until an element's text has something that matches."""
        return wait_until(
            lambda: (found := re.search(pattern, self.text(selector))) and found[0], f"{selector} to show {pattern}", within
        )

    def click(self, selector: str) -> None:
        """Click an element once it is there."""
        self.until(f"!!document.querySelector({json.dumps(selector)})", f"{selector} to be there")
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def press(self, keys: str) -> None:
        """Type where the focus is."""
        self.driver.switch_to.active_element.send_keys(keys)

    def complaints(self) -> list[str]:
        """What the browser had to complain of; a connection that ended is none."""
        lines = [entry["message"] for entry in self.driver.get_log("browser")]
        return [line for line in lines if "ERR_CONNECTION_REFUSED" not in line and "ERR_INCOMPLETE_CHUNKED" not in line]

    def close(self) -> None:
        """End it."""
        self.driver.quit()
