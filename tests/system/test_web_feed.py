"""What the page is told: as it happens, to those who read, and at no cost to those who do not look."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from page import Facts, Page
from waiting import let_pass, wait_until
from world import World

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

Served = Callable[..., Page]


@pytest.fixture
def served(world: World) -> Iterator[Served]:
    """Start servers of the test's world; all are ended after it."""
    pages: list[Page] = []

    def start(*words: str, **popen: object) -> Page:
        pages.append(Page(world, *words, **popen))
        return pages[-1]

    yield start
    for page in pages:
        if page.child.poll() is None:
            page.close()


def test_a_page_is_told_what_changes_and_only_that(world: World, served: Served) -> None:
    page = served()
    with page.events() as told:
        facts = Facts(told)
        facts.until(lambda each: each.facts.get("gpus"), "the GPUs, though no job is there")
        assert not facts.jobs
        world.start("-q", "-N", "first", "-g", "2", "sleep", "600")
        facts.until(lambda each: each.jobs.get("1", {}).get("state") == "running", "job 1 to be told as running")
        assert facts.jobs["1"]["devices"] == [0, 1]
        world.start("-q", "-N", "second", "true")
        facts.until(lambda each: each.jobs.get("2", {}).get("why"), "the reason of job 2")
        assert facts.jobs["2"]["place"] == 1
        assert "job 1" in facts.jobs["2"]["why"]
        world.run("kill", "1")
        facts.until(lambda each: "1" not in each.jobs and "2" not in each.jobs, "both to have gone")
        facts.until(lambda each: {job["id"] for job in each.facts["ended"]} == {1, 2}, "both to be told as ended")


def test_an_arbiter_that_dies_is_told_and_so_is_the_next(world: World, served: Served) -> None:
    world.start("-q", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    page = served()
    with page.events() as told:
        facts = Facts(told)
        facts.until(lambda each: each.facts.get("arbiter", {}).get("up"), "the arbiter")
        first = facts.facts["arbiter"]["pid"]
        assert first == world.arbiter_pid()
        os.kill(first, signal.SIGSTOP)  # one that hangs does not answer
        facts.until(lambda each: not each.facts["arbiter"]["up"], "it to be said that nobody answers", 30)
        assert "has not answered for 5 s" in facts.facts["arbiter"]["text"]
        assert facts.jobs["1"]["state"] == "running", "what is known stays"
        os.kill(first, signal.SIGKILL)
        facts.until(lambda each: each.facts["arbiter"]["up"], "its successor", 30)
        assert facts.facts["arbiter"]["pid"] == world.arbiter_pid() != first


def test_while_nobody_looks_no_arbiter_is_kept(world: World, served: Served) -> None:
    page = served()
    let_pass(1.0, "the server to be looked at by nobody")
    assert world.arbiter_pid() is None
    with page.events() as told:
        Facts(told).until(lambda each: each.facts.get("gpus"), "the GPUs")
        arbiter = world.arbiter_pid()
        assert arbiter is not None
    wait_until(lambda: not _connections(arbiter), "the server to have hung up", 20)


def _connections(pid: int) -> list[str]:
    """The sockets of a process that are connected to the bell, beside those that listen."""
    return [line.laddr for line in psutil.Process(pid).net_connections("unix") if str(line.laddr).endswith("bell")][1:]


@pytest.mark.long
def test_who_does_not_read_is_dropped_and_nothing_is_kept_for_him(world: World, served: Served) -> None:
    """One listener reads nothing at all while the others are told much."""
    page = served()
    cookie, prefix = page.let_in()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", page.port))
    deaf.sendall(f"GET {prefix}/events HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
    world.run("-d", "-m", "1G", "--array", "1-400", "--", "sleep", "600")
    server = psutil.Process(page.child.pid)
    with page.events() as told:
        facts = Facts(told)
        facts.until(lambda each: len(each.jobs) == 400, "all rows", 60)
        before = server.memory_info().rss
        for turn in range(24):  # each changes 400 rows, some 100 KB
            world.run("renice", str(turn % 2), "sweep-1")
            facts.until(lambda each, wanted=turn % 2: each.jobs["400"]["priority"] == wanted, "the change", 60)
        assert server.memory_info().rss - before < 16 << 20
    deaf.settimeout(60)
    received = 0
    with contextlib.suppress(ConnectionResetError):
        while piece := deaf.recv(1 << 16):
            received += len(piece)
    assert received < 2 << 20, "the connection has ended, and most was never sent"
    deaf.close()


def test_many_listeners_are_as_many_as_there_is_room_for(world: World, served: Served) -> None:
    from gpuwrap.web.feed import MOST_LISTENERS

    page = served()
    cookie, prefix = page.let_in()
    lines = []
    for _ in range(MOST_LISTENERS + 1):
        line = socket.create_connection(("127.0.0.1", page.port), timeout=20)
        line.sendall(f"GET {prefix}/events HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
        lines.append(line)
    heard = []
    for line in lines:
        text = b""
        while b"event: all" not in text and b"event: full" not in text:
            text += line.recv(1 << 16)
        heard.append(b"event: full" in text)
    assert sum(heard) == 1
    for line in lines:
        line.close()


# --- logs ---------------------------------------------------------------------------------------------------------


def log_of(page: Page, job: int, query: str = "") -> dict[str, object]:
    found: dict[str, object] = page.get(f"/jobs/{job}/log{query}")
    return found


def test_of_a_log_of_10_gb_the_end_is_told_and_what_stands_before_it_on_demand(
    world: World, served: Served, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    world.run("-o", path, "true")
    with path.open("r+b") as file:
        file.truncate(10 << 30)  # a sparse file
        file.seek(-180_000, os.SEEK_END)
        file.write("".join(f"line {number:05} äöü\n" for number in range(10_000)).encode())
    page = served()
    end = log_of(page, 1)
    assert end["size"] == 10 << 30
    assert str(end["text"]).endswith("line 09999 äöü\n")
    assert len(str(end["text"]).encode()) <= 65536
    before = log_of(page, 1, f"?before={end['begin']}")
    assert before["end"] == end["begin"]
    whole = str(before["text"]) + str(end["text"])
    assert "�" not in whole, "no letter was cut in two"
    numbers = [int(line.split()[1]) for line in whole.splitlines()[1:]]
    assert numbers == list(range(numbers[0], 10_000))


def test_a_log_may_hold_anything_and_be_gone(world: World, served: Served, tmp_path: Path) -> None:
    path = tmp_path / "log"
    world.run("-o", path, "true")
    page = served()
    path.write_bytes(bytes(range(256)) * 400)
    told = log_of(page, 1)
    assert told["end"] == told["size"] == 102_400
    path.unlink()
    assert log_of(page, 1)["fault"] == "cannot read: no such file or directory"
    os.mkfifo(path)
    assert log_of(page, 1)["fault"] == "cannot read: not a regular file"
    assert log_of(page, 99) == {"fault": "no such job"}
    world.run("true")
    assert "nothing is kept" in str(log_of(page, 2)["fault"])
    assert log_of(page, 1, "?before=x")["fault"]


def test_a_log_is_told_as_it_is_written_and_anew_if_it_was_cut(world: World, served: Served, tmp_path: Path) -> None:
    path = tmp_path / "log"
    world.start("-q", "-o", path, "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    path.write_text("one\n")
    page = served()
    with page.events("/jobs/1/log/events") as told:
        kind, chunk = next(told)
        assert (kind, chunk["text"], chunk["begin"]) == ("log", "one\n", 0)
        with path.open("a") as file:
            file.write("two\n")
        assert next(told)[1]["text"] == "two\n"
        path.write_text("x\n")
        assert (chunk := next(told)[1])["text"] == "x\n"
        assert chunk["begin"] == 0
        with path.open("a") as file:
            file.write("y" * 500_000)
        chunk = next(told)[1]
        assert chunk["begin"] == chunk["end"] - 65536, "who writes faster than is read is not waited for"
        world.run("kill", "-9", "1")
        assert [kind for kind, _ in told][-1] == "over"


def test_what_a_job_is_asked_about_is_told_whole(world: World, served: Served) -> None:
    world.start("-q", "-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "-N", "wide", "-g", "2", "sleep", "1")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    page = served()
    told = page.get("/jobs/2")
    assert told["job"]["id"] == 2
    assert any("1st in line" in text for text in told["why"])
    assert [each["state"] for each in told["events"]] == ["waiting"]
    assert told["mine"]
    assert page.get("/jobs/3") == {"fault": "no such job"}
    assert page.get("/jobs/999999999999999999999") == {"fault": "no such job"}
    told = page.get("/jobs/1")
    assert [each["state"] for each in told["events"]] == ["waiting", "granted", "running"]
    assert told["computed"] > 0


def test_without_control_nothing_is_changed(world: World, served: Served) -> None:
    world.start("-q", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    page = served()
    cookie, prefix = page.let_in()
    with page.events() as told:
        hello = next(told)[1]
    assert hello["control"] is False
    body = json.dumps({"verb": "kill", "job": 1}).encode()
    status, _headers, text = page.ask(prefix + "/act", method="POST", body=body, Cookie=cookie, X_Gpurun_Csrf=hello["csrf"])
    assert (status, "--control" in text) == (403, True)
    assert world.state(1) == "running"
