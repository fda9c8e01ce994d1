"""What the tests of the arbiter's parts get: a small tree of real processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from family import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    made.close()
