"""On a machine booted by systemd: what ends as a unit leaves nobody stopped, no GPU without its claim, and no stop that waits.

Run by hand, as root on Debian: `python -m pytest -m machine`. It builds a machine first, which takes a minute or two and
500 MB in /var/tmp (or in GPURUN_TEST_MACHINE), once.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from machine import ROOT, Machine, Session, why_not
from waiting import let_pass, wait_until

pytestmark = [pytest.mark.machine, pytest.mark.limit(300)]

# Where it is built and kept; and another checkout to be installed on it, to try the tests on another build.
FOLDER, SOURCE = "GPURUN_TEST_MACHINE", "GPURUN_TEST_SOURCE"
# No stop of anything takes longer.
STOP_SECONDS = 2.0
QUIET = ">/dev/null 2>&1"


@pytest.fixture(scope="module")
def started() -> Iterator[Machine]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Machine(Path(os.environ.get(FOLDER) or "/var/tmp/gpurun-test-machine")) as machine:
        machine.install(Path(os.environ.get(SOURCE) or ROOT))
        yield machine


@pytest.fixture
def machine(started: Machine) -> Machine:
    """Nobody is logged in or lingers, no job was ever there, and a logout ends nothing."""
    started.clear()
    started.kill_user_processes(False)
    return started


def jobs(machine: Machine, user: str) -> dict[str, dict[str, Any]]:
    """All jobs of a user, by name."""
    found = json.loads(machine.run(user, "gpurun ls -a --json").stdout)["jobs"]
    return {job["name"]: job for job in found}


def history(machine: Machine, user: str) -> dict[str, str]:
    """How jobs ended, by name, as history tells it."""
    found = json.loads(machine.run(user, "gpurun history --json").stdout)["jobs"]
    return {job["name"]: said(job["result"]) for job in found}


def said(result: dict[str, Any]) -> str:
    return " ".join(str(result[key]) for key in ("kind", "code", "signal", "text") if result[key] is not None)


def seconds_to(machine: Machine, script: str) -> float:
    """How long a script of root takes, by the machine's own clock."""
    told = machine.run("root", f"begun=$(date +%s.%N); {script}; echo $begun $(date +%s.%N)", timeout=200).stdout.split()
    return float(told[-1]) - float(told[-2])


def low_is_frozen_for_urgent(machine: Machine, session: Session, seconds: float) -> None:
    """`low` gives way to `urg`, which computes for so long."""
    session.do(f"gpurun -i 0 -N low gpujob low 100 {QUIET} &")
    machine.until_running("low")
    session.do(f"gpurun -i 0 -p urgent -N urg gpujob urg {seconds} {QUIET} &")
    machine.until_running("urg")
    machine.until_still("low")


# Units that end


@pytest.mark.parametrize("linger", [True, False], ids=["lingers", "does not linger"])
def test_a_unit_that_brought_the_arbiter_ends_and_nobody_stays_frozen(machine: Machine, linger: bool) -> None:
    machine.linger("ana", linger)
    ana = machine.log_in("ana")
    ana.do("systemd-run --user -q --unit=short gpurun -i 1 -N short gpujob short 6")
    machine.until_running("short")
    if linger:
        low_is_frozen_for_urgent(machine, ana, 9)
    else:  # nobody can be frozen in a session then, but below the manager
        ana.do("systemd-run --user -q --unit=low gpurun -i 0 -N low gpujob low 100")
        machine.until_running("low")
        ana.do("systemd-run --user -q --unit=urg gpurun -i 0 -p urgent -N urg gpujob urg 9")
        machine.until_running("urg")
        machine.until_still("low")
    wait_until(lambda: machine.run("root", "pgrep -x gpujob | wc -l").stdout.strip() == "1", "short and urg to end", 40)
    machine.until_beats("low")
    assert history(machine, "ana") == {"short": "exit 0", "urg": "exit 0"}
    assert machine.stopped() == ""


def test_the_claim_of_a_running_job_outlives_the_unit_that_brought_the_arbiter(machine: Machine) -> None:
    ana = machine.log_in("ana")
    ana.do("systemd-run --user -q --unit=short gpurun -i 1 -N short gpujob short 4")
    machine.until_running("short")
    ana.do(f"gpurun -i 0 -N loading gpujob loading 60 0 {QUIET} &")
    machine.until_running("loading")
    assert machine.run("ben", "gpurun -n -i 0 true", check=False).returncode == 124
    wait_until(lambda: history(machine, "ana") == {"short": "exit 0"}, "short to end", 20)
    let_pass(6, "a holder that crashed is given 5 s")
    assert machine.run("ben", "gpurun -n -i 0 true", check=False).returncode == 124


@pytest.mark.parametrize("seconds", [0, 3])
def test_a_job_whose_own_unit_brought_the_arbiter_ends_as_it_did(machine: Machine, seconds: int) -> None:
    ana = machine.log_in("ana")
    ana.do(f"systemd-run --user -q --wait --unit=own gpurun -N own gpujob own {seconds}")
    assert history(machine, "ana") == {"own": "exit 0"}
    assert machine.run("ana", "gpurun -a ok:own gpujob after 0").returncode == 0


def test_a_unit_of_a_user_without_a_manager_ends_and_nobody_stays_frozen(machine: Machine) -> None:
    """Two services of ben's, who is not logged in: what they live in is PID 1's."""
    run = "systemd-run -q --uid=ben"
    machine.run("root", f"{run} --unit=test-short gpurun -i 1 -N short gpujob short 4")
    machine.until_running("short")
    machine.run("root", f"{run} -p Delegate=yes --unit=test-low gpurun -i 0 -N low gpujob low 100")
    machine.until_running("low")
    machine.run("root", f"{run} --unit=test-urg gpurun -i 0 -p urgent -N urg gpujob urg 60")
    machine.until_running("urg")
    machine.until_still("low")
    machine.until_beats("low")
    assert machine.arbiter_of("ben") == ""
    assert history(machine, "ben") == {"short": "exit 0"}
    assert machine.stopped() == ""


def test_root_s_arbiter_lives_in_a_scope_of_the_system(machine: Machine) -> None:
    machine.run("root", "systemd-run -q --unit=test-short gpurun -i 1 -N short gpujob short 3")
    machine.until_running("short")
    machine.run("root", "systemd-run -q --unit=test-long gpurun -i 0 -N long gpujob long 60")
    machine.until_running("long")
    machine.until_moved("root")
    assert "/system.slice/gpurun-arbiter-" in machine.arbiter_of("root")
    wait_until(lambda: history(machine, "root") == {"short": "exit 0"}, "short to end", 20)
    assert machine.run("ben", "gpurun -n -i 0 true", check=False).returncode == 124
    machine.run("root", "gpurun kill long; gpurun wait long", check=False)


# Stops


@pytest.mark.parametrize("linger", [True, False], ids=["lingers", "does not linger"])
def test_the_stop_of_a_user_s_slice_is_short_and_a_frozen_job_receives_its_signal(machine: Machine, linger: bool) -> None:
    machine.linger("ana", linger)
    ana = machine.log_in("ana")
    if linger:
        low_is_frozen_for_urgent(machine, ana, 100)
    else:
        ana.do("systemd-run --user -q --unit=low gpurun -i 0 -N low gpujob low 100")
        machine.until_running("low")
        assert ana.do("gpurun pause low").endswith("paused")
        machine.until_still("low")
    ana.do("gpurun -d -i 1 -N det gpujob det 100")
    machine.until_running("det")
    assert seconds_to(machine, "systemctl stop user-1001.slice") < STOP_SECONDS
    assert machine.beats("low")[-1] == machine.beats("det")[-1] == "signal 15"
    found = history(machine, "ana") if linger else {name: said(job["result"]) for name, job in jobs(machine, "ana").items()}
    assert found.pop("urg", "signal 15") == "signal 15"
    assert found == {"low": "signal 15", "det": "signal 15"}


def test_the_stop_of_the_unit_that_a_frozen_job_and_the_arbiter_live_in_is_short(machine: Machine) -> None:
    ana = machine.log_in("ana")
    ana.do("systemd-run --user -q --unit=fz gpurun -i 0 -N low gpujob low 100")
    machine.until_running("low")
    assert ana.do("gpurun pause low").endswith("paused")
    machine.until_still("low")
    script = "sudo -u ana XDG_RUNTIME_DIR=/run/user/1001 systemctl --user stop fz"
    assert seconds_to(machine, script) < STOP_SECONDS
    assert machine.beats("low")[-1] == "signal 15"
    assert history(machine, "ana") == {"low": "signal 15"}


# Logout


def until_over(machine: Machine, session: Session, seconds: float) -> None:
    """Wait until a session's scope is gone."""
    scope = session.cgroup.partition("::")[2]
    script = f"test -d /sys/fs/cgroup{scope}"
    wait_until(lambda: machine.run("root", script, check=False).returncode, f"{scope} to end", seconds)


@pytest.mark.parametrize("linger", [True, False], ids=["lingers", "does not linger"])
def test_a_logout_that_ends_everything_does_not_wait(machine: Machine, linger: bool) -> None:
    """The first session brought the arbiter and has a job with a stub; the other session's job runs on."""
    machine.linger("ana", linger)
    machine.kill_user_processes(True)
    first, second = machine.log_in("ana"), machine.log_in("ana")
    first.do(f"gpurun -r -i 0 -N first gpujob first 100 {QUIET} &")
    machine.until_running("first")
    second.do(f"gpurun -i 1 -N second gpujob second 100 {QUIET} &")
    machine.until_running("second")
    second.do(f"gpurun -i 0 -N waits gpujob waits 100 {QUIET} &")
    begun = time.monotonic()
    first.log_out()
    until_over(machine, first, 30)
    assert time.monotonic() - begun < STOP_SECONDS + 1  # ssh takes its time
    machine.until_running("waits")
    assert history(machine, "ana") == {"first": "signal 15"}
    assert machine.run("ben", "gpurun -n -i 1 true", check=False).returncode == 124
    machine.until_beats("second")


def test_a_detached_job_survives_logout_where_the_user_lingers(machine: Machine) -> None:
    machine.linger("ana", True)
    machine.kill_user_processes(True)
    ana = machine.log_in("ana")
    assert ana.do("gpurun -d -i 0 -N det gpujob det 100 2>&1") == "1"
    machine.until_running("det")
    ana.do("gpurun -d -i 0 -N next gpujob next 100 2>&1")
    ana.log_out()
    until_over(machine, ana, 30)
    machine.until_beats("det")
    found = jobs(machine, "ana")
    assert (found["det"]["state"], found["next"]["state"]) == ("running", "waiting")
    doctor = machine.run("ana", "gpurun doctor", check=False).stdout
    assert "gpurun -d survives it" in doctor, doctor
    # It can be paused too.
    assert machine.run("ana", "gpurun pause det").stdout == "job 1: paused\n"
    machine.until_still("det")
    assert machine.run("ana", "gpurun resume det").returncode == 0
    machine.until_beats("det")


def test_a_detached_job_that_logout_will_end_is_told_at_once(machine: Machine) -> None:
    machine.kill_user_processes(True)
    ana = machine.log_in("ana")
    told = ana.do("gpurun -d -i 0 -N det gpujob det 100 2>&1 >/dev/null")
    assert told == (
        "gpurun: job 1 will end at logout: logind is set to end what a session leaves (KillUserProcesses)\n"
        "loginctl enable-linger ana lets such jobs stay"
    )
    doctor = machine.run("ana", "gpurun doctor", check=False).stdout
    assert re.search("^note +logout .*KillUserProcesses", doctor, re.M), doctor


def test_where_logout_ends_nothing_a_detached_job_is_told_nothing_and_survives(machine: Machine) -> None:
    ana = machine.log_in("ana")
    assert ana.do("gpurun -d -i 0 -N det gpujob det 100 2>&1") == "1"
    machine.until_running("det")
    ana.log_out()
    machine.until_beats("det")
    assert jobs(machine, "ana")["det"]["state"] == "running"


# The machine


def test_a_reboot_loses_what_ran_and_what_waited_and_says_so(machine: Machine) -> None:
    machine.linger("ana", True)
    ana, other = machine.log_in("ana"), machine.log_in("ana")
    low_is_frozen_for_urgent(machine, ana, 100)
    other.do("gpurun -d -i 1 -N det gpujob det 100; gpurun -d -i 1 -N line gpujob line 100")
    other.do(f"gpurun -i 1 -N late gpujob late 100 {QUIET} &")
    begun = time.monotonic()
    machine.reboot()
    print(f"rebooted in {time.monotonic() - begun:.1f} s")
    found = {name: said(job["result"]) for name, job in jobs(machine, "ana").items()}
    assert found == dict.fromkeys(("low", "urg", "det", "line", "late"), "lost machine restarted")
    assert machine.beats("low")[-1] == "signal 15"
