"""One queue for everybody on a machine booted by systemd, under the units as `gpurun machine on` writes them.

Run by hand, as root on Debian: `python -m pytest -m machine tests/machine/test_booted_queue.py`.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import ROOT, Machine, why_not
from waiting import let_pass, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.limit(300)]

FOLDER, SOURCE = "GPURUN_TEST_MACHINE", "GPURUN_TEST_SOURCE"
SETTINGS = "/etc/gpurun/settings.toml"
# What somebody sends who does not use our client.
SEND = """
import socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.connect("/run/gpurun/bell"); sock.settimeout(5)
for words in sys.argv[1:]:
    sock.send(words.replace("|", "\\0").encode())
    try: print(sock.recv(65536).replace(b"\\0", b"|").decode())
    except OSError as err: print("nothing:", type(err).__name__)
"""
FLOOD = """
import select, socket, sys, time
socks, until = [], time.time() + float(sys.argv[2])
for _ in range(int(sys.argv[1])):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); sock.connect("/run/gpurun/bell"); sock.setblocking(False)
    socks.append(sock)
print("connected", flush=True)
sent = 0
while time.time() < until:
    for sock in socks:
        try: sock.send(b"nonsense\\0x=y"); sent += 1; sock.recv(65536)
        except OSError: pass
print(sent)
"""


@pytest.fixture(scope="module")
def started() -> Iterator[Machine]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Machine(Path(os.environ.get(FOLDER) or "/var/tmp/gpurun-test-machine")) as machine:
        machine.install(Path(os.environ.get(SOURCE) or ROOT))
        for name, text in (("send.py", SEND), ("flood.py", FLOOD)):
            machine.run("root", f"cat >/usr/local/bin/{name}", input=text.encode())
        yield machine


@pytest.fixture
def machine(started: Machine) -> Iterator[Machine]:
    """The queue is on, nobody has anything in it, and the file says nothing but that carla may interrupt."""
    started.run("root", "gpurun machine off --force; rm -rf /var/lib/gpurun", check=False)
    started.clear()
    started.run("root", "gpurun machine on")
    settings(started, '[users.carla]\nmay_interrupt = "others"')
    yield started
    started.run("root", "gpurun machine off --force; rm -rf /var/lib/gpurun /etc/gpurun", check=False)


def settings(machine: Machine, text: str) -> None:
    machine.run("root", f"cat >{SETTINGS}; systemctl restart gpurun.service", input=text.encode())


def jobs(machine: Machine, user: str, words: str = "") -> dict[str, dict[str, Any]]:
    found = json.loads(machine.run(user, f"gpurun ls --json {words}").stdout)["jobs"]
    return {job["name"] or str(job["id"]): job for job in found}


def state(machine: Machine, name: str) -> str:
    return str(jobs(machine, "root", "-a")[name]["state"])


def started_first(machine: Machine, *names: str) -> list[str]:
    """These jobs in the order in which they started."""
    found = jobs(machine, "root", "-a")
    return sorted(names, key=lambda name: found[name]["started_at"] or "9")


def queue(machine: Machine, user: str, *jobs: str, options: str = "") -> None:
    """Have jobs `NAME SECONDS` wait in the background."""
    script = "; ".join(f"gpurun -d {options} -N {job.split()[0]} gpujob {job} >/dev/null" for job in jobs)
    machine.run(user, script)


# The story


def test_the_next_user_s_first_job_starts_next_and_not_behind_a_sweep(machine: Machine) -> None:
    queue(machine, "ana", *(f"a{number} 4" for number in range(8)))
    machine.until_running("a1")
    queue(machine, "ben", "b 2")
    found = jobs(machine, "ben", "-a")["b"]
    assert found["place"] == 1 or found["state"] != "waiting"
    wait_until(lambda: state(machine, "b") == "ended", "ben's to end", 40)
    assert started_first(machine, "a0", "a1", "a2", "a3", "b")[2] in ("b", "a2")
    assert started_first(machine, "a3", "b") == ["b", "a3"]


def test_who_may_interrupt_is_granted_within_a_second_and_the_other_comes_back(machine: Machine) -> None:
    ana = machine.log_in("ana")
    for number in (0, 1):
        ana.do(f"gpurun -i {number} -N t{number} gpujob t{number} 30 >/dev/null 2>&1 &")
        machine.until_running(f"t{number}")
    assert machine.run("ben", "gpurun -n -p urgent gpujob b 1", check=False).returncode == 124, "ben may not"
    begun = machine.run("root", "date +%s.%N").stdout
    machine.run("carla", "gpurun -p urgent -N c gpujob c 2")
    done = jobs(machine, "root", "-a")["c"]
    took = machine.run("root", f"date -d '{done['started_at']}' +%s.%N").stdout
    assert float(took) - float(begun) < 1.5, "its second is told without a part, and ssh takes its time"
    machine.until_beats("t0")
    machine.until_beats("t1")
    assert machine.stopped() == ""
    assert "for job" in machine.run("root", "journalctl -u gpurun.service --no-pager").stdout


def test_what_is_another_s_is_refused_and_nothing_happens_and_root_may(machine: Machine) -> None:
    queue(machine, "ana", "run 60", "hold 60", "wait 60")
    machine.until_running("hold")
    ids = " ".join(str(job["id"]) for job in jobs(machine, "ana").values())
    for words in (f"kill {ids}", f"kill -9 {ids}", f"pause {ids}", f"renice 50 {ids}", f"set -t 1s {ids}", f"resume {ids}"):
        done = machine.run("ben", f"gpurun {words}", check=False)
        assert done.returncode == 1
        assert done.stderr.count(": is ana's\n") == 3, done.stderr
    assert machine.run("ben", "gpurun kill --all; gpurun kill wait; gpurun gpus drain 0", check=False).returncode
    assert [job["state"] for job in jobs(machine, "ana").values()] == ["running", "running", "waiting"]
    assert machine.run("ben", "gpurun -n -a wait true", check=False).returncode == 125, "names are each one's own"
    assert machine.run("ben", "gpurun --once k -g 0 sleep 0").returncode == 0
    machine.run("root", "gpurun kill wait; gpurun kill " + ids)
    wait_until(lambda: {state(machine, name) for name in ("run", "hold", "wait")} == {"ended"}, "root's kill to work", 20)


def test_a_forged_packet_harms_nobody_but_who_sent_it(machine: Machine) -> None:
    queue(machine, "ana", "run 60", "more 60", "wait 60")
    machine.until_running("more")
    pid = machine.run("root", "systemctl show -P MainPID gpurun.service").stdout
    ids = {name: job["id"] for name, job in jobs(machine, "ana").items()}
    wait = ids["wait"]
    tried = [
        "ping|version=x",
        "ping|version=99",
        f"ping|version={'9' * 5000}",
        "register|key=k|gpus=x",
        "register|key=k|priority=100000",
        "register|key=k|memory=-1",
        "register|key=k|wait=nan",
        "register|key=k|priority=1e30",
        "leave",
        "mend",
        "drain|list=0|drained=1",
        f"become|row={wait}|key=k|running=1",
        f"row|row={wait}|key=k|index=1|status=0",
        f"forsake|row={wait}|text=x",
        f"kill|jobs={wait}",
        f"set|jobs={wait}|time=1",
        f"renice|jobs={wait}|priority=-100",
        "take",
        "ended|attempt=1|status=0",
        "jobs|what=history|a=x|b=y",
        "jobs|what=by_number|a=-1|b=9999999999999999999999",
        "\x01\x02",
        "",
        "jobs|what=latest_named|a=' OR 1=1 --",
    ]
    for words in tried:
        machine.run("ben", f"python3 /usr/local/bin/send.py '{words}'" if "'" not in words else "true", check=False)
        assert machine.run("root", "systemctl show -P MainPID gpurun.service").stdout == pid, words
    assert [job["state"] for job in jobs(machine, "ana").values()] == ["running", "running", "waiting"]
    assert "older than yours" in machine.run("ben", "python3 /usr/local/bin/send.py 'ping|version=99'").stdout
    assert "Traceback" not in machine.run("root", "journalctl -u gpurun.service --no-pager").stdout


def test_one_user_s_flood_is_noticed_by_nobody(machine: Machine) -> None:
    def hand_offs() -> float:
        script = "for i in $(seq 20); do gpurun -i 0 true; done"
        told = machine.run("ana", f"begun=$(date +%s.%N); {script}; echo $begun $(date +%s.%N)").stdout.split()
        return (float(told[1]) - float(told[0])) / 20

    quiet = min(hand_offs() for _ in range(3))
    flood = machine.log_in("ben")
    flood.do("ulimit -n 4096; python3 /usr/local/bin/flood.py 2000 12 >/tmp/flood 2>&1 &")
    wait_until(lambda: "connected" in machine.run("ben", "cat /tmp/flood", check=False).stdout, "the flood to begin", 20)
    loud = min(hand_offs() for _ in range(3))
    print(f"hand-off: quiet {quiet * 1000:.1f} ms, in the flood {loud * 1000:.1f} ms")
    assert loud < 3 * quiet, "two cores are shared by all, the flood's own too"


def test_killed_five_times_in_a_minute_each_program_runs_once(machine: Machine) -> None:
    queue(machine, "ana", *(f"k{number} 2" for number in range(6)))
    for _ in range(5):
        machine.run("root", "systemctl kill -s KILL gpurun.service")
        let_pass(1.0, "a crash now and then")
    wait_until(lambda: {state(machine, f"k{number}") for number in range(6)} == {"ended"}, "all to end", 60)
    for number in range(6):
        assert machine.beats(f"k{number}").count("1") == 1
        # How one ended that did so while nobody was there, nobody saw.
        assert jobs(machine, "root", "-a")[f"k{number}"]["result"]["kind"] in ("exit", "unknown")


def test_a_claim_stays_bound_while_the_service_is_killed(machine: Machine) -> None:
    queue(machine, "ana", "run 30", options="-i 0")
    machine.until_running("run")
    wait_until(lambda: "@gpurun/" in machine.run("root", "cat /proc/net/unix").stdout, "the claim")
    for _ in range(3):
        machine.run("root", "systemctl kill -s KILL gpurun.service")
        assert machine.run("ben", "GPURUN_DIR=/tmp/own gpurun -n -i 0 true", check=False).returncode == 124
    assert state(machine, "run") == "running"


def test_without_the_service_a_client_waits_says_so_and_is_served_when_it_comes(machine: Machine) -> None:
    machine.run("root", "systemctl stop gpurun.socket gpurun.service")
    assert machine.run("ben", "gpurun -n true", check=False).returncode == 124
    ben = machine.log_in("ben")
    ben.do("gpurun -N late gpujob late 1 >/dev/null 2>&1 &")
    let_pass(0.5, "it waits")
    machine.run("root", "systemctl start gpurun.socket")
    machine.until_running("late")


def test_off_refuses_while_jobs_run_and_leaves_nobody_standing(machine: Machine) -> None:
    queue(machine, "ana", "run 30")
    machine.until_running("run")
    machine.run("ana", "gpurun pause run")
    machine.until_still("run")
    refused = machine.run("root", "gpurun machine off", check=False)
    assert refused.returncode == 1
    assert "1 job runs" in refused.stderr
    machine.run("root", "gpurun machine off --force")
    machine.until_beats("run")
    look = "ls /run/gpurun /etc/systemd/system/gpurun.* /etc/gpurun/machine; systemctl is-active gpurun"
    left = machine.run("root", look, check=False)
    assert left.stdout.strip() == "inactive"
    assert machine.run("ben", "gpurun -v true").returncode == 0, "his own queue"


def test_the_unit_is_hardened(machine: Machine) -> None:
    told = machine.run("root", "systemd-analyze security gpurun.service --no-pager", check=False).stdout
    print(told.splitlines()[-1])
    exposure = re.search(r"Overall exposure level for gpurun.service: ([\d.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) <= 3.0


def test_an_installation_that_others_could_change_is_refused_by_name(machine: Machine) -> None:
    machine.run("root", "gpurun machine off --force")
    site = "$(ls -d /opt/gpurun/venv/lib/python3*/site-packages)"
    for what, told in ((f"chown ana {site}/gpuwrap/wire.py", "wire.py: belongs to uid 1001"),
                       (f"chmod o+w {site}", "site-packages: others may write it"),
                       ("chown ben /opt", "/opt: belongs to uid 1002")):  # fmt: skip
        machine.run("root", what)
        refused = machine.run("root", "gpurun machine on", check=False)
        machine.run("root", "chown -R root: /opt; chmod -R o-w /opt")
        assert refused.returncode == 1, what
        assert told in refused.stderr
