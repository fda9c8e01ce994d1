"""The fixtures of the tests that compare a program bare and under gpurun (`fidelity`)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from fidelity import SIMULATED, STAND_IN, Counted, WarmWorld, differences
from world import World


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Counted:
    """Assert that two lists of named findings are equal, and record "n of n equal"."""

    def count(names: Sequence[str], bare: Sequence[Any], under: Sequence[Any]) -> None:
        assert len(names) == len(bare) == len(under)
        assert names, "nothing was compared"
        wrong = [f"{name}: {differences(b, u)}" for name, b, u in zip(names, bare, under, strict=True) if b != u]
        text = f"{len(names) - len(wrong)} of {len(names)} equal"
        record_property("counted", text)
        assert not wrong, "\n  ".join([text, *wrong[:20], *(["…"] if len(wrong) > 20 else [])])

    return count


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    world = WarmWorld()
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def warm(shared_world: World) -> World:
    """One world for all tests of this file, its arbiter up."""
    started = shared_world.run("true")
    assert started.returncode == 0, started.stderr + shared_world.last_words()
    if not STAND_IN:
        assert shared_world.arbiter_pid() is not None
    return shared_world


@pytest.fixture
def fresh() -> Iterator[Callable[..., World]]:
    """Make worlds that have no arbiter yet."""
    made: list[World] = []

    def make(spec: str = SIMULATED, **variables: str) -> World:
        made.append(WarmWorld(spec, **variables))
        return made[-1]

    yield make
    for world in made:
        world.close()
