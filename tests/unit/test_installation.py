"""What root's service runs must be root's alone: interpreter, search path, files, links, and every folder that leads there."""

import os
import sys
from pathlib import Path

import pytest

from gpuwrap.host import installation
from gpuwrap.host.installation import Fault, first_fault, parts, steps

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what is root's only root can make")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that root alone can write, as all are that lead to it (/tmp is sticky)."""
    root = tmp_path / "opt" / "gpurun" / "bin"
    root.mkdir(parents=True)
    (root / "python").write_text("")
    for path in (root / "python", root, root.parent, root.parent.parent):
        path.chmod(0o755)
    return root


def fault(path: Path) -> Fault | None:
    return first_fault([str(path)])


def test_what_is_root_s_alone_is_sound(place: Path) -> None:
    assert fault(place / "python") is None
    assert fault(place / "not there") is None


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("at", ["opt/gpurun/bin/python", "opt/gpurun/bin", "opt/gpurun", "opt"])
def test_whoever_may_write_a_file_or_a_folder_on_the_way_is_found(tmp_path: Path, place: Path, at: str, mode: int) -> None:
    os.chown(tmp_path / at, 0, 50)
    (tmp_path / at).chmod(mode)
    found = fault(place / "python")
    assert found is not None
    assert found.path == str(tmp_path / at)
    assert "may write it" in found.reason
    os.chown(tmp_path / at, 1001, 0)
    (tmp_path / at).chmod(0o755)
    found = fault(place / "python")
    assert found is not None
    assert found.reason == "belongs to uid 1001"


def test_links_are_followed_and_the_folders_that_they_stand_in_count(tmp_path: Path, place: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "python3").symlink_to(place / "python")
    (place / "python3").symlink_to("../../../home/python3")
    assert fault(place / "python3") is None
    os.chown(home, 1001, 1001)
    found = fault(place / "python3")
    assert found is not None
    assert found.path == str(home)
    os.chown(home, 0, 0)
    os.lchown(home / "python3", 1001, 1001)
    found = fault(place / "python3")
    assert found is not None
    assert found.path == str(home / "python3")


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(list(steps(str(tmp_path / "a")))) < 200


def test_interpreter_search_path_pth_files_and_modules_are_all_looked_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = place.parent / "site-packages"
    (site / "gpuwrap" / "host").mkdir(parents=True)
    (site / "gpuwrap" / "host" / "x.py").write_text("")
    (site / "evil.pth").write_text("import evil")
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    found = list(parts(str(site / "gpuwrap"), [installation]))
    for path in (place / "python", site, site / "evil.pth", site / "gpuwrap/host/x.py", Path(installation.__file__)):
        assert str(path) in found
