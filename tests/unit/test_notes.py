"""Notes: typed, one row each, and back where they were after a batch that was lost."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuwrap.state.notes import IdleStranger, IdleStrangers, Kept
from gpuwrap.state.paths import Folder
from gpuwrap.state.store import Store


class Lost(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield Folder(str(tmp_path), fd)
    os.close(fd)


@pytest.fixture
def store(folder: Folder) -> Iterator[Store]:
    store = Store(folder)
    yield store
    store.close()


def lose(store: Store, write: Callable[[], object]) -> None:
    """Write in a batch that is lost."""
    with contextlib.suppress(Lost), store.batch():
        write()
        raise Lost


def every(kept: Kept) -> list[object]:
    """What each note says."""
    idle = kept.idle_strangers.get()
    return [
        kept.settings.get(), kept.drained.get(), idle, kept.kin.all(), kept.groups.all(), kept.stopped.all(),
        kept.stood_still.all(), kept.told_over.all(), kept.told_astray.all(), kept.peak_before.get("abc:12"),
    ]  # fmt: skip


def write(kept: Kept) -> list[object]:
    """Write every note; what they say from then on."""
    idle = IdleStrangers("boot", (IdleStranger("MIG-1:2", 7, 8, 9.0, 1.25), IdleStranger("GPU-0", 9, 8, 9.0, 0.0)))
    kept.settings.put("over_memory = 'evict'\n")
    kept.drained.put(frozenset({"GPU-1", "GPU-0"}))
    kept.idle_strangers.put(IdleStrangers("boot", idle.each[::-1]))
    kept.kin.put(3, {20: 5, 7: 4})
    kept.groups.put(3, "/sys/fs/cgroup/a b")
    kept.stopped.put(4, {7: 4})
    kept.stood_still.put(5, 2.5)
    kept.told_over.put(6, 2)
    kept.told_astray.put(6, ["1:0", "12"])
    kept.peak_before.put("abc:12", 12345)
    return [
        "over_memory = 'evict'\n", {"GPU-0", "GPU-1"}, IdleStrangers("boot", idle.each[::-1]), {3: {7: 4, 20: 5}},
        {3: "/sys/fs/cgroup/a b"}, {4: {7: 4}}, {5: 2.5}, {6: 2}, {6: ["1:0", "12"]}, 12345,
    ]  # fmt: skip


def test_each_note_is_there_for_a_successor(store: Store, folder: Folder) -> None:
    with store.batch():
        said = write(Kept(store))
    assert every(Kept(store)) == said
    successor = Store(folder)
    assert every(Kept(successor)) == said
    successor.close()


def test_a_lost_batch_takes_its_notes_along(store: Store) -> None:
    kept = Kept(store)
    nothing = every(kept)
    said: list[list[object]] = []

    def change() -> None:
        kept.drained.put(frozenset())
        kept.kin.put(3, {1: 1})
        kept.told_over.drop(6)
        said.append(every(kept))

    lose(store, lambda: said.append(write(kept)))
    assert every(kept) == nothing != said[0]
    with store.batch():
        write(kept)
    lose(store, change)
    assert every(kept) == said[0] != said[1]


def test_writing_what_is_there_already_writes_nothing(store: Store) -> None:
    kept = Kept(store)
    with store.batch():
        write(kept)
    for _ in range(2):
        with store.batch():
            write(kept)
            kept.told_over.drop(99)
        assert not store.has_written


def test_an_empty_note_has_no_row(store: Store) -> None:
    kept = Kept(store)
    with store.batch():
        write(kept)
        kept.kin.put(3, {})
        kept.drained.put(frozenset())
    assert kept.kin.get(3) is None
    rows = store._db.execute("SELECT name FROM setting").fetchall()
    assert not {"kin 3", "drained"} & {name for (name,) in rows}


@pytest.mark.parametrize("text", ["what", "1:", ":", "boot x", "boot GPU-0:1:2:3"])
def test_what_cannot_be_read_is_as_good_as_not_there(store: Store, text: str) -> None:
    with store.batch():
        for name in ("idle-strangers", "kin 1", "stopped 1", "stood still 1", "told-over 1", "peak before abc"):
            store.put_note(name, text)
    kept = Kept(store)
    assert kept.idle_strangers.get().each == ()
    assert (kept.kin.get(1), kept.stopped.all(), kept.stood_still.all(), kept.told_over.get(1)) == (None, {}, {}, None)
    assert kept.peak_before.get("abc") is None


def test_the_texts_are_those_of_earlier_versions(store: Store) -> None:
    """A database outlives the version that wrote it, and is read by an earlier one where somebody goes back."""
    with store.batch():
        write(Kept(store))
    assert dict(store._db.execute("SELECT name, value FROM setting").fetchall()) == {
        "settings": "over_memory = 'evict'\n",
        "drained": "GPU-0 GPU-1",
        "idle-strangers": "boot GPU-0:9:8:9:0.00 MIG-1:2:7:8:9:1.25",
        "kin 3": "7:4 20:5",
        "group 3": "/sys/fs/cgroup/a b",
        "stopped 4": "7:4",
        "stood still 5": "2.5",
        "told-over 6": "2",
        "told-astray 6": "1:0 12",
        "peak before abc:12": "12345",
    }
