"""When a changed settings file is taken, and what may hang meanwhile."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import let_pass, wait_until

from gpuwrap.arbiter import tuning
from gpuwrap.arbiter.tuning import ASLEEP_SECONDS, CHECK_SECONDS, SETTLE_SECONDS, Tuning
from gpuwrap.state import settings
from gpuwrap.state.notes import Kept
from gpuwrap.state.settings import marks_of, read_settings


class Fake:
    """As much of an arbiter as is tuned, with a clock and one file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "settings.toml"
        self.now = 100.0
        self.planned = 0
        self.crowd = None
        self.deciding = self.turn = self
        self.known: dict[str, str] = {}
        store: Any = SimpleNamespace(note=lambda name: self.known.get(name, ""), put_note=self.known.__setitem__)
        self.notes = Kept(store)
        self.looks = 0
        monkeypatch.setattr(tuning, "files", lambda: [str(self.file)])
        monkeypatch.setattr(settings, "files", lambda: [str(self.file)])
        monkeypatch.setattr(tuning, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(tuning, "marks_of", self._marks_of)
        self.settings: Any = read_settings()
        self.bounds: Any = None
        self.observer = SimpleNamespace(strangers=SimpleNamespace(ignored=()))
        self.tuning = Tuning(self)  # type: ignore[arg-type]

    def _marks_of(self, paths: list[str]) -> Any:
        self.looks += 1
        return marks_of(paths)

    def replan(self) -> None:
        self.planned += 1

    def after(self, seconds: float) -> int:
        """Be awake after a while: the limit that holds then."""
        self.now += seconds
        self.tuning.check()
        return int(self.settings["jobs_per_gpu"])


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    return Fake(tmp_path, monkeypatch)


def test_the_files_are_looked_at_every_two_seconds_however_often_it_wakes(fake: Fake) -> None:
    for _ in range(1000):
        fake.after(0.01)
    assert fake.looks in (4, 5)
    assert fake.planned == 0


def test_a_file_that_is_being_written_is_not_believed_before_it_stays_as_it_is(fake: Fake) -> None:
    fake.file.write_text("jobs_per_gpu = 3\n")
    assert fake.after(CHECK_SECONDS) == 0
    assert fake.after(SETTLE_SECONDS) == 3
    fake.file.write_text("")
    assert fake.after(CHECK_SECONDS) == 3
    fake.file.write_text("jobs_per_gpu = 4\n")
    assert fake.after(SETTLE_SECONDS) == 3
    assert fake.after(SETTLE_SECONDS) == 4
    assert fake.planned == 2


def test_who_has_slept_believes_what_it_sees_at_once(fake: Fake) -> None:
    fake.file.write_text("jobs_per_gpu = 3\n")
    assert fake.after(CHECK_SECONDS + ASLEEP_SECONDS + 1) == 3
    assert fake.bounds.jobs_per_gpu == 3


def test_a_change_that_changes_no_value_makes_no_plan(fake: Fake) -> None:
    fake.file.write_text("jobs_per_gpu = 0\n")
    for _ in range(3):
        fake.after(CHECK_SECONDS)
    assert fake.settings.sources == {"jobs_per_gpu": str(fake.file)}
    assert fake.planned == 0


def spoil(file: Path) -> None:
    file.chmod(0o400)


def write_in_place(file: Path) -> None:
    """As much as before, and as old: `cp -p`."""
    facts = file.stat()
    let_pass(0.05, "the kernel's clock to tick")
    file.write_text("jobs_per_gpu = 2\n")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def replace(file: Path) -> None:
    other = file.with_name("other")
    other.write_text("jobs_per_gpu = 2\n")
    other.rename(file)


@pytest.mark.parametrize("change", [spoil, write_in_place, replace, Path.unlink])
def test_a_change_is_seen_whatever_it_is(fake: Fake, change: Callable[[Path], None]) -> None:
    fake.file.write_text("jobs_per_gpu = 1\n")
    before = marks_of([str(fake.file)])
    change(fake.file)
    assert marks_of([str(fake.file)]) != before


def test_a_network_filesystem_that_hangs_keeps_nobody_waiting(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, looks = threading.Event(), 0

    def hanging(paths: list[str]) -> Any:
        nonlocal looks
        looks += 1
        goes_on.wait()
        return marks_of(paths)

    monkeypatch.setattr(tuning, "LOCAL_FILESYSTEMS", frozenset())
    monkeypatch.setattr(tuning, "marks_of", hanging)
    fake.file.write_text("jobs_per_gpu = 3\n")
    for _ in range(10):
        assert fake.after(CHECK_SECONDS) == 0
    assert looks == 1
    goes_on.set()
    wait_until(lambda: fake.after(CHECK_SECONDS) == 3, "the answer to be taken", 15)
