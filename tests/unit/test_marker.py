"""The marker in an environment counts for processes of our own user alone: anybody can set variables."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from views import running, share
from waiting import wait_until
from world import OTHER_UID

from gpuwrap.arbiter.kin.known import Known
from gpuwrap.arbiter.kin.links import Links
from gpuwrap.arbiter.kin.marker import Markers, marker_of_grant
from gpuwrap.arbiter.kin.walk import Walk
from gpuwrap.host import processes

JOB = running(7, share(0), share(1))
LINKS = Links(Known(), Walk({}), Markers(None))
MARKED = {"PATH": os.environ["PATH"], "GPURUN_JOB": "7", "GPURUN_GPU_UUIDS": "GPU-0,GPU-1"}


@contextmanager
def process(environment: dict[str, str], uid: int) -> Iterator[int]:
    other = {} if uid == os.geteuid() else {"user": uid, "group": uid, "extra_groups": []}
    with subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True, cwd="/", **other) as child:  # type: ignore[call-overload]
        try:
            wait_until(lambda: processes.command_line(child.pid)[:1] == (b"sleep",), "it to be the program")
            yield child.pid
        finally:
            child.kill()


def is_marked(pid: int) -> bool:
    stat = processes.read_stat(pid)
    assert stat is not None
    return LINKS.is_marked(stat, JOB, processes.environment(pid))


def test_it_is_known_by_both_variables_together() -> None:
    for lacking in ("", "GPURUN_JOB", "GPURUN_GPU_UUIDS"):
        with process({name: value for name, value in MARKED.items() if name != lacking}, os.geteuid()) as pid:
            assert is_marked(pid) == (not lacking)


def test_forged_by_another_user_it_means_nothing() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may run something as another user")
    with process(MARKED, OTHER_UID) as pid:
        assert marker_of_grant(JOB).is_in(processes.environment(pid)), "root can read it"
        assert not is_marked(pid)
