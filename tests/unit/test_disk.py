"""The database's files are damaged while it is open: what memory holds is on the disk again, and history if it can be read."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from earlier import make_version_4
from views import waiting

from gpuwrap.errors import StoreError
from gpuwrap.lifecycle import Event
from gpuwrap.model import Job, Result, ResultKind, Share
from gpuwrap.state.mirror import Known
from gpuwrap.state.notes import Kept
from gpuwrap.state.paths import Folder
from gpuwrap.state.reading import Reader
from gpuwrap.state.rows import row_from_job
from gpuwrap.state.store import Store
from gpuwrap.units import GIB


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield Folder(str(tmp_path), fd)
    os.close(fd)


@pytest.fixture
def store(folder: Folder) -> Iterator[Store]:
    """One job has ended, one runs, three wait; the files hold all of it, the ended one in the database itself."""
    first = Store(folder)
    with first.batch():
        job = granted(first, "ended")
        first.release(first.move(job, Event.END, "ended", result=Result(ResultKind.EXIT, code=3)))
    first.close()
    store = Store(folder)
    with store.batch():
        granted(store, "runs")
        for number in range(3):
            store.register(replace(waiting(0), key=f"waits {number}"))
        Kept(store).groups.put(2, "/sys/fs/cgroup/gpurun-1.2-2")
        Kept(store).drained.put(frozenset({"GPU-1"}))
    assert store.is_in_place()
    yield store
    store.close()


def granted(store: Store, key: str) -> Job:
    job = store.register(replace(waiting(0), key=key))
    job = store.grant(job, (Share("GPU-1", 0, 24 * GIB, True),), "granted")
    return store.move(job, Event.TAKE, "taken")


def known(store: Store) -> Known:
    notes = {name: text for name in ("drained", "group 2") if (text := store.note(name))}
    return Known(dict(store.live), notes, store.next_id() - 1)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def cut(name: str, size: int) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, size)


def exchange(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / "other").write_bytes(b"")
        (folder / "other").rename(folder / name)

    return act


def scribble(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        size = (folder / name).stat().st_size
        (folder / name).write_bytes(os.urandom(size))

    return act


SEEN = {
    "database deleted": remove("state.db"),
    "database emptied": cut("state.db", 0),
    "database cut off": cut("state.db", 4096),
    "database exchanged": exchange("state.db"),
    "log deleted": remove("state.db-wal"),
    "log emptied": cut("state.db-wal", 0),
    "log cut off": cut("state.db-wal", 5000),
    "index deleted": remove("state.db-shm"),
    "log and index deleted": remove("state.db-wal", "state.db-shm"),
    "all deleted": remove("state.db", "state.db-wal", "state.db-shm"),
}


@pytest.mark.parametrize("damage", SEEN.values(), ids=SEEN.keys())
def test_damage_is_seen_and_mended(store: Store, folder: Folder, damage: Callable[[Path], None]) -> None:
    before = known(store)
    damage(Path(folder.path))
    assert not store.is_in_place()
    store.mend()
    assert store.is_in_place()
    all_is_there(store, folder, before)


@pytest.mark.parametrize("name", ["state.db", "state.db-wal", "state.db-shm"])
def test_what_was_overwritten_in_place_is_mended_once_somebody_doubts_it(store: Store, folder: Folder, name: str) -> None:
    before = known(store)
    scribble(name)(Path(folder.path))
    store.mend()
    all_is_there(store, folder, before)


@pytest.mark.parametrize("what", ["log deleted", "index deleted", "log and index deleted", "log emptied"])
def test_history_is_kept_where_the_database_itself_is_sound(store: Store, folder: Folder, what: str) -> None:
    SEEN[what](Path(folder.path))
    store.mend()
    (ended,) = [job for job in Reader(folder).history(None, None, None)]
    assert (ended.id, ended.result) == (1, Result(ResultKind.EXIT, code=3))


def test_history_is_kept_of_a_database_that_an_earlier_version_made(store: Store, folder: Folder) -> None:
    """It has columns that a new one has not."""
    store.close()
    make_version_4(folder.inside("state.db"))
    later = Store(folder)
    with sqlite3.connect(folder.inside("state.db")) as other:
        other.execute("UPDATE job SET priority = 7 WHERE id = 3")  # so that it must be written anew
    other.close()
    assert later.mend()
    assert [job.result for job in Reader(folder).history(None, None, None)] == [Result(ResultKind.EXIT, code=3)]
    assert list(later.live) == [2, 3, 4, 5]
    later.close()


def all_is_there(store: Store, folder: Folder, before: Known) -> None:
    assert known(store) == before
    assert [job.id for job in Reader(folder).jobs(ended=False)] == [2, 3, 4, 5]
    with store.batch():
        assert store.register(replace(waiting(0), key="next")).id == 6
    store.close()
    another = Store(folder)
    assert list(another.live) == [2, 3, 4, 5, 6]
    assert row_from_job(another.live[2]) == row_from_job(before.live[2])
    assert Kept(another).groups.all() == {2: "/sys/fs/cgroup/gpurun-1.2-2"}
    another.close()


def test_nothing_is_written_anew_where_only_somebody_else_has_folded_the_log_back(store: Store, folder: Folder) -> None:
    with sqlite3.connect(Path(folder.path) / "state.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    inode = (Path(folder.path) / "state.db").stat().st_ino
    assert not store.is_in_place()
    assert store.mend() is False
    assert (Path(folder.path) / "state.db").stat().st_ino == inode
    assert store.is_in_place()


def test_a_batch_that_fails_is_put_back_though_the_disk_cannot_be_read(store: Store, folder: Folder) -> None:
    before = known(store)
    for name in ("state.db", "state.db-wal"):
        os.truncate(Path(folder.path) / name, 0)

    def lost_batch() -> None:
        with store.batch():
            store.register(replace(waiting(0), key="lost"))
            store.change(store.live[2], priority=7)
            store.move(store.live[3], Event.HOLD, "held")
            Kept(store).drained.put(frozenset())
            Kept(store).groups.drop(2)
            store.learned_peak("x")
            raise StoreError("write", "state.db", "as if", is_unsound=True)

    with pytest.raises(StoreError) as failed:
        lost_batch()
    assert failed.value.is_unsound
    assert known(store) == before
    assert list(store.in_line) == [3, 4, 5]


def test_who_gives_the_disk_up_goes_on_in_memory(store: Store, folder: Folder) -> None:
    before = known(store)
    store.give_disk_up()
    assert known(store) == before
    for path in Path(folder.path).iterdir():
        path.unlink()
    with store.batch():
        store.move(store.live[3], Event.HOLD, "held")
        assert store.paused_seconds_since([2], 0.0) == 0.0
    assert store.is_in_place()
    assert not list(Path(folder.path).iterdir())
