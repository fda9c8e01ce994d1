"""One queue for three users, without systemd: `gpurun machine run`, and each of them with the command as it is installed."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from box import USERS, Box, why_not
from waiting import wait_until

pytestmark = pytest.mark.limit(120)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    for folder in [tmp_path, *tmp_path.parents]:
        if str(folder).startswith("/tmp/pytest"):
            os.chmod(folder, 0o755)
    with Box(tmp_path) as made:
        made.settings('[users.carla]\nmay_interrupt = "others"')
        made.switch_on()
        yield made


def jobs(box: Box, user: str = "root", words: str = "-a") -> dict[str, dict[str, Any]]:
    found = json.loads(box.run(user, f"gpurun ls --json {words}").stdout)["jobs"]
    return {job["name"] or str(job["id"]): job for job in found}


def state(box: Box, name: str) -> str:
    return str(jobs(box)[name]["state"])


def until(box: Box, name: str, wanted: str) -> None:
    wait_until(lambda: state(box, name) == wanted, f"{name} to be {wanted}", 30)


def test_a_job_runs_as_its_own_user_in_the_machine_s_queue(box: Box) -> None:
    told = box.run("anna", "gpurun -v -N mine id -u; echo $?")
    assert told.stdout == f"{USERS['anna']}\n0\n"
    found = jobs(box, "bob")["1"]
    assert (found["user"], found["argv"], found["cwd"]) == ("anna", ["-"], ""), "what has ended is told without words"
    assert jobs(box, "anna")["mine"]["argv"] == ["id", "-u"]
    assert not Path("/etc/gpurun/machine").exists(), "outside nothing has changed"


def test_the_next_user_s_first_job_starts_next_and_not_behind_the_line(box: Box) -> None:
    box.run("anna", "for i in 0 1 2 3 4 5; do gpurun -d -N a$i sleep 4; done")
    until(box, "a1", "running")
    box.run("bob", "gpurun -d -N b sleep 1")
    until(box, "b", "ended")
    found = jobs(box)
    came, went = found["b"]["submitted_at"], found["b"]["started_at"]
    before = [name for name in ("a2", "a3", "a4", "a5") if came < (found[name]["started_at"] or "") < went]
    assert before == []
    assert re.search(
        r"bob has used less this week|job \d+ has GPU", box.run("anna", "gpurun ls; gpurun why", check=False).stdout
    )


def test_only_who_may_interrupts_others_and_their_job_comes_back(box: Box) -> None:
    box.run("anna", "gpurun -d -i 0 -N low sleep 100; gpurun -d -i 1 -N other sleep 100")
    until(box, "other", "running")
    assert box.run("bob", "gpurun -n -p urgent true", check=False).returncode == 124
    begun = time.monotonic()
    box.run("carla", "gpurun -p urgent -N c -i 0 -m 1G true")
    assert time.monotonic() - begun < 5, "some of it is the namespace's"
    until(box, "low", "running")
    found = jobs(box)
    assert found["c"]["result"]["code"] == 0
    assert re.search(r"pause: job \d+: .*, for job \d+", box.log())


def test_what_is_another_s_is_refused_and_root_may(box: Box) -> None:
    box.run("anna", "gpurun -d -N one sleep 60; gpurun -d -N two sleep 60; gpurun -d -N three sleep 60")
    until(box, "two", "running")
    for words in ("kill 1 2 3", "kill -9 1 2 3", "pause 1 2 3", "renice 50 1 2 3", "resume 1 2 3", "set -t 1h 1 2 3"):
        done = box.run("bob", f"gpurun {words}", check=False)
        assert (done.returncode, done.stderr.count(": is anna's\n")) == (1, 3), done.stderr
    for words in ("kill one", "kill 'o*'", "gpus drain 0", "-n -a one true"):
        assert box.run("bob", f"gpurun {words}", check=False).returncode
    box.run("bob", "gpurun kill --all", check=False)
    assert [job["state"] for job in jobs(box, "anna").values()] == ["running", "running", "waiting"]
    assert box.run("bob", "gpurun -g 0 --once k true; gpurun -g 0 -d --once k sleep 5").returncode == 0
    assert box.run("anna", "gpurun -g 0 --once k true").returncode == 0, "a key is each user's own"
    box.run("root", "gpurun kill 1 2 3; gpurun gpus drain 1; gpurun gpus undrain 1")
    until(box, "two", "ended")


def test_who_forges_another_s_marker_stays_a_stranger_and_is_not_signalled(box: Box) -> None:
    box.run("anna", "gpurun -d -i 0 -N hers sh -c 'env >seen; exec sleep 60'")
    until(box, "hers", "running")
    wait_until(lambda: "GPURUN_GPU_UUIDS" in box.run("anna", "cat seen", check=False).stdout, "her job to begin")
    marker = " ".join(line for line in box.run("anna", "cat seen").stdout.splitlines() if line.startswith("GPURUN_"))
    forger = box.start("bob", f"exec env {marker} sleep 61")
    wait_until(lambda: (Path(f"/proc/{forger.pid}/comm").read_text()) == "sleep\n", "the forger to run")
    box.nvml.allocate(0, forger.pid, 9 << 30)

    def told() -> dict[str, Any]:
        return dict(json.loads(box.run("root", "gpurun gpus --json").stdout)["gpus"][0])

    wait_until(lambda: [each["pid"] for each in told()["foreign"]] == [forger.pid], "the forger to be seen", 20)
    assert told()["foreign"][0]["user"] == "bob"
    box.run("anna", "gpurun pause hers; gpurun resume hers; gpurun kill -9 hers")
    until(box, "hers", "ended")
    assert forger.poll() is None
    assert jobs(box)["hers"]["peak_bytes"] in (None, 0)
    box.nvml.allocate(0, forger.pid, 0)


def test_caps_lower_refuse_and_hold_back(box: Box) -> None:
    box.settings('[default]\nmax_gpus = 1\nmax_priority = "high"\nmax_time = "1h"\n[users.carla]\nmax_gpus = "all"')
    wait_until(
        lambda: "what is said about people has changed" in box.log() or not box.run("bob", "gpurun ls"),
        "the file to be read",
        20,
    )
    refused = box.run("bob", "gpurun -g 2 true", check=False)
    assert refused.returncode == 125
    assert refused.stderr.endswith("more than you may have: max_gpus is 1\nset by [default] in /etc/gpurun/settings.toml\n")
    assert "max_time is 1 h" in box.run("bob", "gpurun -t 2h true", check=False).stderr
    assert box.run("carla", "gpurun -g 2 true").returncode == 0
    box.run("bob", "gpurun -p urgent -N urgent true; gpurun -d -N one sleep 20")
    assert jobs(box)["urgent"]["priority"] == 10
    until(box, "one", "running")
    box.run("bob", "gpurun -d -N two sleep 1")
    assert jobs(box)["two"]["state"] == "waiting"
    assert jobs(box)["two"]["why"]["text"] == "its turn: bob may have a GPU at once, and has 1 (max_gpus)"
    assert box.run("anna", "gpurun -n true").returncode == 0, "nothing is kept for bob"


def test_a_newer_client_is_refused_and_the_queue_stays(box: Box) -> None:
    pids = box.arbiters()
    send = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('/run/gpurun/bell');"
        "s.send(b'ping\\0version=99'); print(s.recv(9999))"
    )
    told = box.run("bob", f'/usr/bin/python3 -c "{send}"').stdout
    assert "and older than yours" in told
    assert box.arbiters() == pids


def test_its_arbiter_is_killed_and_each_program_runs_once(box: Box) -> None:
    box.run("anna", "for i in 0 1 2 3; do gpurun -d -N k$i sh -c 'echo x >>ran; sleep 1'; done")
    for _ in range(2):
        for pid in box.arbiters():
            os.kill(pid, 9)
        wait_until(box.arbiters, "its keeper to become the next", 20)
    until(box, "k3", "ended")
    assert box.run("anna", "cat ran").stdout == "x\n" * 4


def test_without_an_arbiter_one_waits_for_the_machine_s_and_makes_none_of_one_s_own(box: Box) -> None:
    box.run("root", "rm /run/gpurun/bell")
    for pid in box.arbiters():
        os.kill(pid, 15)
    wait_until(lambda: not box.arbiters(), "it to leave", 20)
    assert box.run("bob", "gpurun -n true", check=False).returncode == 124
    waiting = box.start("bob", "gpurun true")
    box.start_arbiter()
    assert waiting.wait(30) == 0


def test_who_opts_out_has_a_queue_of_his_own(box: Box) -> None:
    box.run("bob", "mkdir -p .config/gpurun; echo 'machine = false' >.config/gpurun/settings.toml; gpurun -g 0 -N own true")
    assert "own" in jobs(box, "bob")
    assert "own" not in jobs(box, "root")


def test_a_step_of_a_job_begun_before_is_asked_of_the_queue_that_the_job_is_in(tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    for folder in [tmp_path, *tmp_path.parents]:
        if str(folder).startswith("/tmp/pytest"):
            os.chmod(folder, 0o755)
    with Box(tmp_path) as box:
        library = box.nvml.environment["LD_LIBRARY_PATH"]
        step = "echo up; while ! test -e go; do sleep 0.1; done; gpurun true"
        outer = box.start("anna", f"export LD_LIBRARY_PATH={library}; gpurun -g 2 sh -c '{step}'")
        assert outer.stdout is not None
        assert outer.stdout.readline() == "up\n"
        box.switch_on()
        box.run("anna", "touch go")
        assert outer.wait(30) == 0
