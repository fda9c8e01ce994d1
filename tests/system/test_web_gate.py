"""Who may see the page: the holder of the token, and nobody else, wherever he comes from."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page import Facts, Page
from waiting import wait_until
from world import OTHER_UID, World

pytest.importorskip("starlette", reason="starlette is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

SECRET = "a-name-that-nobody-may-see"
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


def runs(world: World, *words: str) -> None:
    world.start("-q", *words, "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")


def test_without_the_token_nothing_is_told(world: World, served: Served) -> None:
    runs(world, "-N", SECRET)
    page = served("--control")
    cookie, prefix = page.let_in()
    act = json.dumps({"verb": "kill", "job": 1}).encode()
    below = [prefix + path for path in ("/", "/events", "/jobs/1", "/page.js")]
    for path in ("/", "/?token=", "/?token=" + "x" * 32, *below):
        for given in ("", "gpurun=", "gpurun=" + "0" * 64, cookie[:-1], "other=" + cookie.partition("=")[2]):
            status, headers, text = page.ask(path, Cookie=given)
            assert (status, SECRET in text, "root" in text) == (403, False, False), path
            assert "set-cookie" not in headers
    assert page.ask(prefix + "/act", method="POST", body=act)[0] == 403
    assert world.state(1) == "running"
    assert page.ask(prefix + "/jobs/1", Cookie=cookie)[0] == 200, "and with it all is told"


def test_another_user_gets_nothing_and_sees_no_name(world: World, served: Served) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may run something as another user")
    runs(world, "-N", SECRET)
    page = served()
    _cookie, prefix = page.let_in()
    tries = (
        "import urllib.request, urllib.error, sys\n"
        "for path in sys.argv[2:]:\n"
        "    try: print(urllib.request.urlopen(sys.argv[1] + path, timeout=10).read())\n"
        "    except urllib.error.HTTPError as err: print(err.code, err.read())\n"
    )
    where = f"http://127.0.0.1:{page.port}"
    python = next(path for path in ("/usr/bin/python3", "/usr/local/bin/python3", sys.executable) if os.access(path, os.X_OK))
    done = subprocess.run(
        [python, "-c", tries, where, "/", prefix + "/", prefix + "/events", prefix + "/jobs/1"],
        user=OTHER_UID, group=OTHER_UID, extra_groups=[], cwd="/", capture_output=True, text=True, timeout=60, env={},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line[:3] for line in lines] == ["403"] * 4, done.stderr
    assert SECRET not in done.stdout
    # Nor does the command line of the server tell the token, which everybody can read.
    assert page.token.encode() not in Path(f"/proc/{page.child.pid}/cmdline").read_bytes()


def test_the_host_must_be_the_one_that_is_served(world: World, served: Served) -> None:
    page = served()
    cookie, prefix = page.let_in()
    for host in ("127.0.0.1", "localhost", f"localhost:{page.port}", "127.0.0.1:1", "[::1]:8600"):
        assert page.ask(prefix + "/", host=host, Cookie=cookie)[0] == 200, host
    for host in ("evil.example", f"evil.example:{page.port}", "127.0.0.1.evil.example", "", "[::2]"):
        assert page.ask(prefix + "/", host=host, Cookie=cookie)[0] in (400, 421), host
        assert page.ask(f"/?token={page.token}", host=host)[0] in (400, 421), host


def test_what_changes_something_must_come_from_a_page_of_ours(world: World, served: Served) -> None:
    runs(world, "-N", "x")
    page = served("--control")
    cookie, prefix = page.let_in()
    with page.events() as told:
        facts = Facts(told)
        facts.until(lambda each: each.hello and each.jobs, "the page to be told")
    csrf = facts.hello["csrf"]
    body = json.dumps({"verb": "kill", "job": 1}).encode()
    asked = {
        "no word": {},
        "a wrong word": {"X_Gpurun_Csrf": csrf[:-1] + "x"},
        "another origin": {"X_Gpurun_Csrf": csrf, "Origin": "http://evil.example"},
        "another port": {"X_Gpurun_Csrf": csrf, "Origin": "http://127.0.0.1:1"},
        "another site": {"X_Gpurun_Csrf": csrf, "Sec_Fetch_Site": "same-site"},
    }
    for why, headers in asked.items():
        assert page.ask(prefix + "/act", method="POST", body=body, Cookie=cookie, **headers)[0] == 403, why
    assert world.state(1) == "running"
    status, _headers, text = page.ask(prefix + "/act", method="POST", body=body, Cookie=cookie, X_Gpurun_Csrf=csrf)
    assert (status, json.loads(text)["done"]) == (200, True)
    wait_until(lambda: world.state(1) == "ended", "job 1 to be killed")


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"verb":"leave","job":1}', b'{"verb":"kill","job":true}', b"[" * 4000,
                                  b'{"verb":"kill","job":-1}', b'{"verb":"renice","job":1,"value":[]}'])  # fmt: skip
def test_what_is_no_act_is_refused(world: World, served: Served, body: bytes) -> None:
    page = served("--control")
    cookie, prefix = page.let_in()
    with page.events() as told:
        csrf = next(told)[1]["csrf"]
    assert page.ask(prefix + "/act", method="POST", body=body, Cookie=cookie, X_Gpurun_Csrf=csrf)[0] == 400
    assert page.ask(prefix + "/act", method="POST", body=b" " * 5000, Cookie=cookie, X_Gpurun_Csrf=csrf)[0] == 413


def test_every_answer_forbids_what_a_page_could_be_used_for(served: Served) -> None:
    page = served()
    cookie, prefix = page.let_in()
    for path in ("/", "/page.js", "/jobs/1", "/no-such-page"):
        _status, headers, _text = page.ask(prefix + path, Cookie=cookie)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in headers)
    assert page.ask(prefix + "/../../../etc/passwd", Cookie=cookie)[0] == 404
    assert page.ask(prefix + "/%2e%2e%2fapp.py", Cookie=cookie)[0] == 404


def test_a_token_file_must_be_ones_own_and_private(world: World, served: Served, tmp_path: Path) -> None:
    path = tmp_path / "token"
    first = served("--token-file", str(path))
    assert path.stat().st_mode & 0o777 == 0o600
    assert first.token == path.read_text().strip()
    cookie, _prefix = first.let_in()
    second = served("--token-file", str(path))
    assert (second.token, second.let_in()[0]) == (first.token, cookie), "the same after a restart"
    path.chmod(0o640)
    told = world.run("web", "--token-file", path)
    assert told.returncode == 1
    assert told.stderr == f"gpurun: web: cannot use token file: {path}: others may read or write it\nchmod 600 {path}\n"
    path.chmod(0o600)
    path.write_text("short\n")
    assert "16 letters or more" in world.run("web", "--token-file", path).stderr
    assert "not a regular file" in world.run("web", "--token-file", tmp_path).stderr


def test_beyond_loopback_it_is_served_only_with_a_token_file(world: World, served: Served, tmp_path: Path) -> None:
    told = world.run("web", "--bind", "0.0.0.0")
    assert told.returncode == 2
    assert "bind 0.0.0.0: others can reach it: --token-file FILE" in told.stderr
    assert "not an address" in world.run("web", "--bind", "somewhere").stderr
    page = served("--bind", "0.0.0.0", "--token-file", str(tmp_path / "token"))
    cookie, prefix = page.let_in()
    assert page.ask(prefix + "/", host=socket.gethostname(), Cookie=cookie)[0] == 200
    assert page.ask(prefix + "/", host="evil.example", Cookie=cookie)[0] == 421


def test_a_port_that_is_taken_is_said(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = world.run("web", "--port", str(port))
    assert told.returncode == 1
    first, second = told.stderr.splitlines()
    assert first == f"gpurun: web: cannot listen: 127.0.0.1:{port}: address already in use"
    assert second == "another port: --port N, 0 for any that is free"
    assert "port 70000: 0 to 65535" in world.run("web", "--port", "70000").stderr
