"""What cannot be had for now (a process, a thread) is done without, and tried again."""

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from gpuwrap.arbiter import keeper as keeping
from gpuwrap.arbiter.compose import compose
from gpuwrap.arbiter.keeper import Keeper
from gpuwrap.host.devices import Look
from gpuwrap.host.looking import Looker
from gpuwrap.host.simulated import SimulatedDevices
from gpuwrap.state.paths import Folder
from gpuwrap.state.settings import read_settings
from gpuwrap.state.store import Store

NO_THREAD = "can't start new thread"


class Watched:
    """Who watches descriptors, and does nothing."""

    def watch(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None: ...

    def unwatch(self, fd: int) -> None: ...


def test_an_arbiter_lives_without_a_keeper_and_gets_one_later(monkeypatch: pytest.MonkeyPatch) -> None:
    lacks: list[bool] = []
    keeper = Keeper(Watched(), ["true"], os.open(os.devnull, os.O_RDONLY), lambda: lacks.append(True))
    before = set(os.listdir("/proc/self/fd"))
    for missing in ("pipe", "posix_spawn", "pidfd_open"):
        with monkeypatch.context() as lacking:
            lacking.setattr(keeping.os, missing, lambda *_, **__: (_ for _ in ()).throw(BlockingIOError(11, "None for now")))
            keeper.start()
        assert keeper.pid == 0 or missing == "pidfd_open"
    assert lacks == [True] * 3, "it is told that it must try again"
    assert set(os.listdir("/proc/self/fd")) == before
    keeper.start()
    assert len(lacks) == 3
    wait_until(lambda: Path(f"/proc/{keeper.pid}/comm").read_text() == "sh\n", "the shell", 5)
    keeper.dismiss()
    assert not Path(f"/proc/{keeper.pid}").exists()


class Driver(Looker):
    """A driver of one call."""

    def look(self, begun_mono: float) -> Look:
        answers = self.ask({"name": lambda: "GPU"}, time.monotonic() + 0.1)
        return Look((), begun_mono, fault=answers.get("name", "no answer"))


@pytest.fixture
def driver() -> Iterator[Driver]:
    made = Driver()
    yield made
    made.close()


def look_of(driver: Driver) -> str | None:
    driver.begin_look()
    select.select([driver.fileno()], [], [], 10)
    return driver.finish_look().fault


def refuse(monkeypatch: pytest.MonkeyPatch, borne: int) -> None:
    """Let so many threads start, and no more."""
    begin, left = threading.Thread.start, [borne]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError(NO_THREAD)
        left[0] -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


def test_without_a_thread_no_look_begins_and_a_later_one_does(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as lacking:
        refuse(lacking, 0)
        for _ in range(2):
            with pytest.raises(RuntimeError, match=NO_THREAD):
                driver.begin_look()
        with pytest.raises(BlockingIOError):
            driver.finish_look()
    assert look_of(driver) == "GPU"


def test_without_a_thread_to_walk_the_driver_did_not_answer(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as lacking:
        refuse(lacking, 1)
        assert look_of(driver) == "no answer"
    assert look_of(driver) == "GPU"


class Unready(SimulatedDevices):
    """GPUs that cannot be looked at for now."""

    lacking = True

    def begin_look(self) -> None:
        if self.lacking:
            raise RuntimeError(NO_THREAD)
        super().begin_look()


def test_a_look_that_cannot_be_begun_is_tried_again_and_nobody_is_refused_for_it(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path), os.open(tmp_path, os.O_RDONLY))
    store, devices = Store(folder), Unready("24G", str(tmp_path), 1)
    arbiter = compose(folder, store, devices, read_settings(), ["true"], devices.root)
    for _ in range(3):
        arbiter.deciding.begin_look()
    look = arbiter.deciding.look
    assert look is not None
    assert (look.samples, look.fault, look.pending) == ((), NO_THREAD, True)
    assert 0 < arbiter.timers.timeout() <= 1, "and it wakes for it"
    devices.lacking = False

    def sees() -> bool:
        arbiter.step([])
        return arbiter.deciding.look is not None and len(arbiter.deciding.look.samples) == 1

    wait_until(sees, "the GPU to be seen", 5)
    store.close()
    devices.close()
    os.close(folder.fd)
