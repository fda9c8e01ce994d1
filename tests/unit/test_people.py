"""The users of the machine's queue: who may do what, what they have used, names that hang, and what of a job each may see."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from views import NOW, gpus, running, share, waiting
from waiting import wait_until

from gpuwrap.arbiter.people import names as names_module
from gpuwrap.arbiter.people.crowd import Crowd, Used
from gpuwrap.arbiter.people.names import Names
from gpuwrap.arbiter.people.showing import HIDDEN, Showing
from gpuwrap.host import hidepid
from gpuwrap.host.peers import Asker
from gpuwrap.model import Job
from gpuwrap.state.machine import split
from gpuwrap.state.paths import Folder

ANNA, BOB, CARLA = 1001, 1002, 1003
PEOPLE = {ANNA: "anna", BOB: "bob", CARLA: "carla"}
OPERATORS = 2001


class Notes:
    """As much of a store as notes need."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def note(self, name: str) -> str:
        return self.texts.get(name, "")

    def notes_of(self, word: str) -> dict[int, str]:
        return {int(name.split()[-1]): text for name, text in self.texts.items() if name.startswith(f"{word} ")}

    def put_note(self, name: str, text: str) -> None:
        self.texts[name] = text


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_module, "_user", lambda uid: PEOPLE.get(uid, str(uid)))
    monkeypatch.setattr(names_module, "_uid", {name: uid for uid, name in PEOPLE.items()}.get)
    monkeypatch.setattr(names_module, "_gid", {"operators": OPERATORS, "students": 2002}.get)


def crowd(*, notes: Notes | None = None, **table: object) -> Crowd:
    known = Names()
    made = Crowd(split(table)[0], known, notes or Notes())
    for uid in PEOPLE:
        made.caps_of(uid)
    made.is_admin(asker(ANNA))
    wait_until(lambda: all(known.user(uid) for uid in PEOPLE), "names")
    for group in (*made.rules.groups, *filter(None, [made.rules.admin_group])):
        wait_until(lambda group=group: known.gid(group) is not None, "groups")  # type: ignore[misc]
    made.answered()
    return made


def asker(uid: int, *groups: int, at_home: bool = True) -> Asker:
    return Asker(uid, frozenset(groups), at_home)


def of(uid: int, job: Job) -> Job:
    return replace(job, uid=uid, user=PEOPLE[uid])


# Who may do what


def test_who_may_change_what_becomes_of_a_job() -> None:
    plain, job = crowd(), of(ANNA, waiting(1))
    assert plain.may(asker(ANNA), job)
    assert not plain.may(asker(BOB, OPERATORS), job), "nobody is an administrator but root, unless the file says so"
    assert plain.may(asker(0), job)
    admins = crowd(admin_group="operators")
    assert admins.may(asker(BOB, OPERATORS), job)
    assert not admins.may(asker(BOB, 2002), job)
    assert admins.is_admin(asker(BOB, OPERATORS))


def test_a_uid_of_another_namespace_is_not_that_user() -> None:
    made, job = crowd(), of(ANNA, waiting(1))
    assert not made.may(asker(0, at_home=False), job), "root of a container"
    assert not made.is_admin(asker(0, at_home=False))


def test_what_hangs_on_a_name_does_not_hold_before_the_name_is_known_and_does_after(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(what: object) -> object:
        go.wait(10)
        return PEOPLE[what] if isinstance(what, int) else CARLA

    monkeypatch.setattr(names_module, "_user", slow)
    monkeypatch.setattr(names_module, "_uid", slow)
    rules, known = split({"users": {"carla": {"may_interrupt": "others"}}})[0], Names()
    made = Crowd(rules, known, Notes())
    begun = time.monotonic()
    assert not made.caps_of(CARLA).may_interrupt
    assert known.shown(CARLA) == "1003"
    assert time.monotonic() - begun < 1
    go.set()
    wait_until(lambda: known.user(CARLA) == "carla" and known.uid("carla") == CARLA, "the database to answer")
    made.answered()
    assert made.caps_of(CARLA).may_interrupt
    assert known.shown(CARLA) == "carla"


def test_a_database_that_hangs_costs_a_few_threads_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    monkeypatch.setattr(names_module, "_user", lambda _uid: (go.wait(20), "x")[1])
    known, before, begun = Names(), threading.active_count(), time.monotonic()
    assert [known.shown(uid) for uid in range(5000, 6000)] == [str(uid) for uid in range(5000, 6000)]
    assert time.monotonic() - begun < 2
    assert threading.active_count() - before <= names_module.THREADS
    go.set()


def test_groups_are_those_of_the_last_connection() -> None:
    made = crowd(groups={"students": {"max_gpus": 1}})
    assert made.caps_of(ANNA).max_gpus is None
    made.met(asker(ANNA, 2002))
    assert made.caps_of(ANNA).max_gpus == 1
    assert made.says_who("max_gpus", ANNA) == "[groups.students]"
    made.met(asker(ANNA))
    assert made.caps_of(ANNA).max_gpus is None


def test_each_user_has_so_many_connections_and_no_more() -> None:
    made = crowd(default={"max_jobs": 10})
    assert made.has_room(ANNA, 73)
    assert not made.has_room(ANNA, 74)
    assert made.has_room(0, 10**6)


# What was used


def test_what_runs_counts_as_it_runs_and_is_written_down(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [NOW]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    notes = Notes()
    made = Crowd(split({})[0], Names(), notes)
    jobs = [of(ANNA, running(1, share(0), since=100)), of(BOB, running(2, share(1), since=0)), of(ANNA, waiting(3))]
    made.count(jobs, gpus(2))
    assert made.used(ANNA) == pytest.approx(100)
    clock[0] += 50
    made.count(jobs, gpus(2))
    made.write_down(lambda forget: forget())
    assert made.used(ANNA) == pytest.approx(150, rel=1e-3)
    assert made.used(BOB) == pytest.approx(50, rel=1e-3)
    successor = Crowd(split({})[0], Names(), notes)
    assert successor.used(ANNA) == pytest.approx(150, rel=1e-3)
    clock[0] += 50
    made.count(jobs, gpus(2))
    before = dict(notes.texts)
    made.write_down(lambda _forget: None)
    notes.texts = before  # the turn is lost
    assert made.used(ANNA) == pytest.approx(200, rel=1e-3)


def test_half_is_forgotten_in_a_week_over_a_reboot_too() -> None:
    week = 7 * 86400.0
    used = Used(100.0, 5000.0, "boot", 1_700_000_000.0)
    assert used.now(5000.0 + week, "boot", 0.0) == pytest.approx(50)
    assert used.now(3.0, "another", 1_700_000_000.0 + week) == pytest.approx(50)
    assert used.now(3.0, "another", 1.0) == 100.0, "a clock that was set back brings nothing back"


# What is shown


@pytest.fixture
def showing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Showing]:
    folder = Folder(str(tmp_path), -1)
    monkeypatch.setattr(names_module, "_user", lambda uid: PEOPLE.get(uid, str(uid)))
    return {word: Showing(folder, crowd(show_commands=word)) for word in ("all", "own")}


def test_words_of_others_are_shown_while_the_job_lives_and_if_the_kernel_shows_them(
    showing: dict[str, Showing], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = of(ANNA, replace(waiting(1), name="secret", output=b"/home/anna/x"))
    ended = of(ANNA, replace(running(1, share(0)), name="secret", ended_at=1.0)).changed(state=live.state.ENDED)
    for hides, word, job, who, seen in (
        (False, "all", live, BOB, True),
        (True, "all", live, BOB, False),
        (False, "own", live, BOB, False),
        (False, "all", ended, BOB, False),
        (True, "own", ended, ANNA, True),
        (True, "own", live, ANNA, True),
        (True, "own", ended, 0, True),
    ):
        monkeypatch.setattr("gpuwrap.arbiter.people.showing.hides_processes", lambda _groups, hides=hides: hides)
        told = showing[word].shown(job, asker(who))
        assert (told.argv == job.argv, told.name == "secret", told.cwd == job.cwd) == (seen, seen, seen)
        assert seen or (told.argv, told.output, told.key) == (HIDDEN, None, "")
        assert (told.id, told.user, told.shares, told.priority) == (job.id, job.user, job.shares, job.priority)


@pytest.mark.parametrize(
    ("mount", "groups", "hidden"),
    [
        ("25 30 0:22 / /proc rw,nosuid - proc proc rw", (), False),
        ("25 30 0:22 / /proc rw - proc proc rw,hidepid=2", (), True),
        ("25 30 0:22 / /proc rw - proc proc rw,hidepid=invisible,gid=2001", (), True),
        ("25 30 0:22 / /proc rw - proc proc rw,hidepid=invisible,gid=2001", (2001,), False),
        ("25 30 0:22 / /proc rw - proc proc rw,hidepid=off", (), False),
        ("25 30 0:22 / /srv rw - proc proc rw", (), True),
        ("", (), True),
    ],
)
def test_hidepid_of_the_first_process_s_proc_decides(
    monkeypatch: pytest.MonkeyPatch, mount: str, groups: tuple[int, ...], hidden: bool
) -> None:
    monkeypatch.setattr(hidepid, "read_file", lambda _path: mount.encode())
    assert hidepid.hides_processes(frozenset(groups)) is hidden
