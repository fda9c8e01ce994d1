"""The page in a real Chromium: what it shows, what it does, and that nothing hostile is ever more than text."""

import os
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from page import BROWSER, DRIVER, Browser, Page
from waiting import wait_until
from world import World

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")
pytest.importorskip("selenium", reason="selenium is not installed")
pytestmark = [pytest.mark.needs(BROWSER, DRIVER), pytest.mark.limit(180)]

Served = Callable[..., Page]
# Where pictures of the page are put, to be looked at.
PICTURES = os.environ.get("GPURUN_TEST_PICTURES")


@pytest.fixture(scope="module")
def shared_browser() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser: Browser) -> Iterator[Browser]:
    """The browser of this module, as large as a desk's, on no page."""
    shared_browser.resize(1280, 1000)
    yield shared_browser
    shared_browser.driver.get("about:blank")


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    pages: list[Page] = []

    def start(*words: str) -> Page:
        pages.append(Page(world, *words))
        return pages[-1]

    yield start
    for page in pages:
        if page.child.poll() is None:
            page.close()


def picture(browser: Browser, name: str) -> None:
    if PICTURES:
        browser.resize(browser.js("innerWidth"), min(3000, browser.js("document.documentElement.scrollHeight")))
        browser.driver.save_screenshot(f"{PICTURES}/{name}.png")


def test_the_page_shows_what_happens_as_it_happens(world: World, served: Served, browser: Browser) -> None:
    browser.open(served())
    browser.shows("no job runs or waits")
    assert browser.text("#gpus").count("GPU ") == 2
    picture(browser, "nobody")
    world.start("-q", "-N", "holds", "-g", "2", "sleep", "600")
    browser.shows(r"1\s+running\s+0\s+0,1\s+whole.*\s+holds sleep 600", "#jobs")
    world.start("-q", "-N", "waits", "true")
    browser.shows(r"2\s+waiting 1st(.|\n)*waits true\n.*job 1", "#jobs")
    browser.shows(r"1 runs, 1 waits", "#sums")
    world.run("kill", "1")
    browser.shows(r"2\s+exit 0(.|\n)*1\s+SIGTERM", "#ended")
    browser.shows("no job runs or waits")
    assert browser.js("document.querySelectorAll('#day a').length") >= 2
    assert not browser.complaints()


def test_a_job_is_killed_from_the_page_and_not_without_control(world: World, served: Served, browser: Browser) -> None:
    for number, how in enumerate(([], ["--control"]), 1):
        world.start("-q", "-N", f"job-{number}", "sleep", "600")
        wait_until(lambda number=number: world.state(number) == "running", "the job to run")
        browser.open(served(*how))
        browser.click(f"a[data-job='{number}']")
        browser.shows(f"job {number} job-{number} running", "#job-title")
        browser.until("!!document.querySelector('#job-events tr')", "all about the job")
        if not how:
            assert browser.js("document.querySelectorAll('#job-control button').length") == 0
            assert browser.js("document.getElementById('job-control').hidden")
            continue
        browser.click("button[data-verb=kill]")
        assert browser.shows(r"End job 2, job-2\?", "#sure")
        browser.press("\ue004\ue00d" if browser.js("document.activeElement.value") == "no" else "\ue00d")
        wait_until(lambda: world.state(2) == "ended", "the job to be killed")
        browser.shows(r"job 2 job-2 SIGTERM", "#job-title")
    assert world.state(1) == "running"


def test_nothing_hostile_is_more_than_text(world: World, served: Served, browser: Browser, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'`</title></pre><svg onload=alert(3)>"
    path = tmp_path / "log"
    world.start("-q", "-N", evil, "-o", path, "sh", "-c", "cat; sleep 600", evil, stdin=_read_end(f"{evil}\n"))
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "-g", "2", "-N", f"behind {evil}", evil, stderr=None)
    world.run("-N", evil, "sh", "-c", "exit 1", evil)
    browser.open(served("--control"))
    browser.shows("<img src=x onerror=alert", "#jobs")
    browser.shows("<script>alert", "#ended")
    browser.driver.execute_script("location.hash = '#/job/1'")
    browser.shows("<svg onload=alert", "#log")
    browser.shows("<img src=x onerror", "#job-title")
    assert browser.js("document.querySelectorAll('img, main script, main svg[onload], iframe').length") == 0
    assert not browser.complaints(), "not even the policy had to forbid anything"
    assert browser.driver.title.startswith("gpurun ")


def _read_end(text: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


def test_a_log_has_the_colours_that_its_program_gave_it(world: World, served: Served, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "log"
    world.start("-q", "-o", path, "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    path.write_bytes(
        b"plain \x1b[1;31mred\x1b[0m and \x1b[38;5;208morange\x1b[m\n 10%\r 20%\r100%\n"
        b"binary \xff\x00\x07\x1b]0;title\x07 end\n"
    )
    browser.open(served())
    browser.driver.execute_script("location.hash = '#/job/1'")
    browser.shows("plain red and orange", "#log")
    assert browser.text("#log .b.f1") == "red"
    assert browser.js("[...document.querySelectorAll('#log span')].some(each => each.style.color === 'rgb(255, 135, 0)')")
    lines = browser.text("#log").splitlines()
    assert lines[1] == "100%"
    assert "title" not in lines[2]
    assert lines[2].startswith("binary ")
    with path.open("a") as file:
        file.write("more\x1b[3")
    browser.shows("more$", "#log")
    with path.open("a") as file:
        file.write("2m green\n")
    browser.until("(document.querySelector('#log .f2') || {}).innerText === ' green'", "a colour that came in two pieces")
    with path.open("wb") as file:
        file.write(b"".join(b"line %d\n" % number for number in range(40_000)))
    browser.shows("line 39999", "#log")
    browser.until("!document.getElementById('log-earlier').hidden", "more to be there before")
    first = int(re.findall(r"\nline (\d+)\n", browser.text("#log"))[0])
    browser.click("#log-earlier")
    before = "document.getElementById('log').innerText.includes(`line ${arguments[0] - 500}\\n`)"
    browser.until(before, "what stands before", values=(first,))
    numbers = list(map(int, re.findall(r"\nline (\d+)", browser.text("#log"))))
    assert numbers == list(range(numbers[0], 40_000)), "none is missing"
    path.unlink()


def test_it_says_so_when_nobody_answers_and_comes_back(world: World, served: Served, browser: Browser) -> None:
    world.start("-q", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    page = served("--token-file", str(world.directory / "token"))
    browser.open(page)
    os.kill(arbiter := world.arbiter_pid() or 0, signal.SIGSTOP)
    browser.until("!document.getElementById('banner').hidden", "the banner", 30)
    assert "the arbiter has not answered" in browser.text("#banner")
    assert browser.text("#live") == "not live"
    os.kill(arbiter, signal.SIGKILL)
    browser.until("document.getElementById('banner').hidden", "the successor", 30)
    browser.shows("another since", "footer")
    port = page.port
    page.close()
    browser.shows("no connection to gpurun web", "#banner")
    again = world.start("web", "--port", str(port), "--token-file", str(world.directory / "token"))
    browser.until("document.getElementById('live').dataset.state === 'up'", "the next server to be found", 30)
    again.send_signal(signal.SIGINT)
    again.wait(20)


def test_a_phone_a_dark_room_and_a_keyboard(world: World, served: Served, browser: Browser) -> None:
    world.start("-q", "-g", "2", "-N", "a-rather-long-name-of-a-job", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    for number in range(3):
        world.start("-q", "-m", "3G", "-N", f"lr-{number}", "python3", "train.py", "--lr", "x" * 100)
        wait_until(lambda number=number: world.state(number + 2) == "waiting", "it to wait")
    browser.resize(390, 800)
    browser.open(served())
    browser.shows("a-rather-long-name")
    assert browser.js("document.documentElement.scrollWidth") <= 390, "nothing is wider than a phone"
    light = browser.js("getComputedStyle(document.body).backgroundColor")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    dark = browser.js("getComputedStyle(document.body).backgroundColor")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert light != dark
    browser.resize(1280, 1000)
    browser.press("j")
    browser.press("j")
    assert browser.js("document.activeElement.dataset.job") == "2"
    browser.press("\ue007")
    browser.shows("job 2 lr-0 waiting", "#job-title")
    browser.press("\ue00c")
    browser.until("document.getElementById('job').hidden", "to be back")
    browser.press("/")
    browser.until("document.activeElement.id === 'filter'", "the filter to have the focus")
    browser.press("lr-1")
    browser.until("document.querySelectorAll('#jobs tbody tr').length === 1", "one job to be left")


def fill_line(world: World, rows: int) -> None:
    """Have jobs wait of which there is no process: the page only reads."""
    with closing(sqlite3.connect(world.database, timeout=10)) as database, database:
        names = [row[1] for row in database.execute("PRAGMA table_info(job)") if row[1] not in ("id", "key", "name")]
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            f"INSERT INTO job (key, name, {', '.join(names)}) SELECT 'filled ' || i, 'name-' || i, {', '.join(names)} "
            "FROM job, n WHERE id = 2",
            (rows,),
        )


def test_2000_jobs_are_there_within_a_second(
    world: World, served: Served, browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    world.start("-q", "-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    fill_line(world, 2000)
    page = served()
    browser.open(page)  # the server has looked once
    took = []
    for _ in range(3):
        browser.driver.get("about:blank")
        begun = time.monotonic()
        browser.driver.get(page.link)
        browser.until("document.getElementById('sums').textContent === '1 runs, 2001 wait'", "all to be there")
        took.append(time.monotonic() - begun)
    paint = browser.js("performance.getEntriesByType('paint').map(each => Math.round(each.startTime))")
    record_property("counted", f"{min(took):.2f} s, paint {paint[0]} ms")
    assert min(took) < 1.0
    assert browser.js("document.querySelectorAll('#jobs tbody tr').length") == 200
    browser.click("#more")
    browser.until("document.querySelectorAll('#jobs tbody tr').length === 2002", "all rows")
