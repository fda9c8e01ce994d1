"""Where state lies if the home cannot hold it: each call judges what leads there, and leaves nothing in what others made."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from world import OTHER_UID

from gpuwrap.errors import StateFolderError
from gpuwrap.state import paths


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A /var/tmp of the test's own, and no home that could hold state."""
    with tempfile.TemporaryDirectory(prefix="gr-root-", dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        monkeypatch.delenv("GPURUN_DIR", raising=False)
        monkeypatch.setattr(paths, "FALLBACK_ROOT", folder)
        monkeypatch.setattr(paths, "home_of_user", lambda: None)
        yield Path(folder)


def ours(root: Path) -> Path:
    return root / f"gpurun-{os.geteuid()}"


def opened(*, create: bool = True) -> str | None:
    folder = paths.open_folder(None, create=create)
    if folder is None:
        return None
    os.close(folder.fd)
    return folder.path


def everything(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


def test_one_that_is_not_there_is_made_and_found_again(root: Path) -> None:
    assert opened(create=False) is None
    made = opened()
    assert made == opened(create=False) == opened() == str(ours(root) / paths.world_name(None))
    assert [each.stat().st_mode & 0o7777 for each in everything(root)] == [0o700, 0o700]


def open_to_all(root: Path) -> None:
    ours(root).mkdir()
    ours(root).chmod(0o777)


def of_another(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    ours(root).mkdir(0o700)
    os.chown(ours(root), OTHER_UID, OTHER_UID)


def a_link(root: Path) -> None:
    (root / "elsewhere").mkdir(0o700)
    ours(root).symlink_to("elsewhere")


@pytest.mark.parametrize("prepared", [open_to_all, of_another, a_link], ids=lambda prepared: prepared.__name__)
def test_what_another_may_have_made_first_is_never_accepted_and_nothing_is_left_in_it(root: Path, prepared: object) -> None:
    prepared(root)  # type: ignore[operator]
    before = everything(root)
    for create in (True, True, False):
        with pytest.raises(StateFolderError, match="not a private folder of ours") as refused:
            opened(create=create)
        assert refused.value.hint == "set GPURUN_DIR to a private folder on a local disk"
        assert everything(root) == before
    inner = ours(root) / paths.world_name(None)
    inner.mkdir(0o700)  # as an earlier gpurun has left it
    for create in (True, False):
        with pytest.raises(StateFolderError, match="not a private folder of ours"):
            opened(create=create)


def test_it_keeps_nobody_from_a_home_that_can_hold_state(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all(root)
    monkeypatch.setattr(paths, "home_of_user", lambda: str(tmp_path))
    monkeypatch.setattr(paths, "LOCAL_FILESYSTEMS", {paths.filesystem_of(str(tmp_path))})
    assert opened(create=False) is None
    assert opened() == opened(create=False) == str(tmp_path / ".local/state/gpurun" / paths.world_name(None))


def test_a_root_in_which_others_may_exchange_it_is_refused(root: Path) -> None:
    for there in (False, True):
        root.chmod(0o777)
        with pytest.raises(StateFolderError, match="others may exchange"):
            opened()
        assert everything(root) == [] or there
        root.chmod(0o1777)
        opened()


def test_so_is_a_folder_of_another_that_is_open_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    tmp_path.chmod(0o777)
    monkeypatch.setenv("GPURUN_DIR", str(tmp_path))
    os.chown(tmp_path, OTHER_UID, OTHER_UID)
    with pytest.raises(StateFolderError, match="is another user's, and open to all"):
        opened()
    assert everything(tmp_path) == []
    os.chown(tmp_path, 0, 0)
    assert opened() == str(tmp_path / paths.world_name(None)), "as root wishes"
