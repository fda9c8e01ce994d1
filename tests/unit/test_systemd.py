"""What is asked of systemd, and what is made of its answers; without any."""

import os
import pwd

import pytest

from gpuwrap.arbiter import lodging, shutdown
from gpuwrap.host import bus, logind, units
from gpuwrap.model import Result, ResultKind

USER = pwd.getpwuid(os.geteuid()).pw_name
SLICE = f"/sys/fs/cgroup/user.slice/user-{os.geteuid()}.slice"
MANAGER = f"{SLICE}/user@{os.geteuid()}.service"


@pytest.mark.parametrize(
    ("folder", "unit"),
    [
        ("/sys/fs/cgroup/system.slice/cron.service", (False, "cron.service")),
        (f"{SLICE}/session-c7.scope", (False, "session-c7.scope")),
        (f"{MANAGER}/app.slice/short1.service/gpurun-1.2-3", (True, "short1.service")),
        (f"{MANAGER}/init.scope", (True, "init.scope")),
        (MANAGER, (False, f"user@{os.geteuid()}.service")),
        ("/sys/fs/cgroup", None),
    ],
)
def test_the_unit_is_the_outermost_that_ends_with_all_that_lives_in_it(folder: str, unit: tuple[bool, str] | None) -> None:
    assert units.unit_of(folder) == unit


def test_a_unit_is_asked_for_by_its_escaped_name() -> None:
    words = units.state_words(True, "1a-b@c.service")
    assert words[0] == "--user"
    assert "/org/freedesktop/systemd1/unit/_31a_2db_40c_2eservice" in words


@pytest.mark.parametrize(
    ("every", "only", "exclude", "kills"),
    [
        ("true", [], ["nobody-else"], True),
        ("false", [], ["nobody-else"], False),
        ("true", [], [USER], False),
        ("false", [USER], ["nobody-else"], True),
        ("true", ["nobody-else"], ["nobody-else"], False),
    ],
)
def test_what_a_logout_ends_is_read_as_logind_reads_it(every: str, only: list[str], exclude: list[str], kills: bool) -> None:
    lists = [" ".join(["as", str(len(names)), *(f'"{name}"' for name in names)]) for names in (only, exclude)]
    assert logind.kills("\n".join([f"b {every}", *lists])) is kills


@pytest.mark.parametrize("answer", ["", "b maybe\nas 0\nas 1 \"x\"", "as 0\nas 0", "Call failed: no such thing"])
def test_what_is_no_answer_says_nothing(answer: str) -> None:
    with pytest.raises(bus.Refused):
        logind.kills(answer)


@pytest.mark.parametrize(
    ("folder", "uid", "lingers", "kills", "moves"),
    [
        ("session", 1000, True, False, True),
        ("session", 1000, False, True, True),
        ("session", 1000, False, False, False),
        ("manager", 1000, False, False, True),
        ("system", 1000, True, False, True),
        ("system", 1000, False, True, False),
        ("system", 0, False, False, True),
    ],
)
def test_an_arbiter_is_moved_only_to_what_lives_as_long(
    monkeypatch: pytest.MonkeyPatch, folder: str, uid: int, lingers: bool, kills: bool, moves: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr("gpuwrap.host.usermanager.has_manager", lambda: True)
    monkeypatch.setattr("gpuwrap.host.usermanager.lingers", lambda: lingers)
    place = {
        "session": f"/user.slice/user-{uid}.slice/session-1.scope",
        "manager": f"/user.slice/user-{uid}.slice/user@{uid}.service/app.slice/x.service",
        "system": "/system.slice/cron.service",
    }[folder]
    assert (lodging.why_not_moved(place, lambda: kills) is None) is moves


@pytest.mark.parametrize(
    ("result", "lost"),
    [
        (Result(ResultKind.SIGNAL, signal=15), True),
        (Result(ResultKind.SIGNAL, signal=15, text="killed"), False),
        (Result(ResultKind.SIGNAL, signal=11), False),
        (Result(ResultKind.UNKNOWN, text="nobody saw how it ended"), True),
        (Result(ResultKind.CANCELLED, text="its gpurun ended while it waited"), True),
        (Result(ResultKind.EXIT, code=0), False),
    ],
)
def test_what_ends_with_the_machine_is_lost_but_not_what_ended_by_itself(result: Result, lost: bool) -> None:
    ending = shutdown.Shutdown(None, None, None)  # type: ignore[arg-type]
    assert ending.judge(result) == result
    ending.has_begun = True
    assert (ending.judge(result).kind is ResultKind.LOST) is lost
