"""What a look is followed by: a plan, unless it shows nothing new and nothing else could have changed."""

from types import SimpleNamespace
from typing import Any

import pytest

from gpuwrap.arbiter.seeing import sampling
from gpuwrap.arbiter.seeing.sampling import REPLAN_SECONDS, Sampling
from gpuwrap.host.devices import Look
from gpuwrap.model import ForeignProcess, Gpu, GpuSample, Pause, Plan, View, Yielding

EMPTY = Gpu("GPU-0", 0, "card", 100, 100, foreign=())
TAKEN = Gpu("GPU-0", 0, "card", 100, 50, foreign=(ForeignProcess(7, "anna", "python", 50),))
UNTOLD = Gpu("GPU-0", 0, "card", 100, 50, foreign=None)


def look(free: int, begun: float = 1.0, fault: str | None = None) -> Look:
    return Look((GpuSample("GPU-0", 0, "card", 100, free, ()),), begun, fault)


class Fake:
    """As much of an arbiter as samples itself: one job waits, and a plan has just said that it must."""

    def __init__(self, view: View, made: Plan, leftovers: frozenset[int]) -> None:
        self.store = SimpleNamespace(in_line={2: None}, holding={}, paused={})
        self.views, self.plans, self.leftovers = {None: view}, {None: made}, leftovers
        self.left_behind = SimpleNamespace(is_young=lambda: False)
        self.pausing = self.reruns = SimpleNamespace(look_after=lambda: None)
        self.timers = SimpleNamespace(after=self._after)
        self.begun: list[str] = []
        self.look = look(100)
        self.deciding = self.turn = self
        self.sampling = Sampling(self)  # type: ignore[arg-type]
        self.sampling.planned()

    def _after(self, _seconds: float, action: Any) -> Any:
        self.due = action
        return SimpleNamespace(is_later_than=lambda _seconds: False, cancel=lambda: None)

    def replan(self) -> None:
        self.begun.append("plan")

    def begin_look(self) -> None:
        self.begun.append("look")

    def plan_from(self, _look: Look) -> None:
        self.begun.append("plan from it")

    def sample(self, now: Look) -> list[str]:
        self.sampling.arm()
        self.due()
        self.sampling.looked(now)
        return self.begun


def fake(gpu: Gpu = EMPTY, made: Plan | None = None, leftovers: frozenset[int] = frozenset(), **more: Any) -> Fake:
    return Fake(View((gpu,), (), **more), made or Plan((), {}, {}), leftovers)


def test_where_nothing_has_changed_no_plan_is_made() -> None:
    assert fake().sample(look(100, begun=2.0)) == ["look"]


def test_what_was_new_in_a_look_that_nobody_planned_from_is_not_missed() -> None:
    """`gpurun gpus` looks too."""
    world = fake()
    world.sampling.looked(look(50))
    assert world.sample(look(50, begun=2.0)) == ["look", "plan from it"]


@pytest.mark.parametrize("now", [look(99), look(100, fault="lost"), Look((), 1.0)])
def test_what_is_new_is_planned_from(now: Look) -> None:
    assert fake().sample(now) == ["look", "plan from it"]


@pytest.mark.parametrize(
    "told",
    [
        {"gpu": TAKEN},
        {"gpu": UNTOLD},
        {"made": Plan((Pause(1, 2),), {}, {})},
        {"leftovers": frozenset({1})},
        {"yielding": {1: Yielding(60.0)}},
    ],
    ids=["a stranger", "nobody knows", "a plan that did something", "a leftover", "somebody who could give way"],
)
def test_what_time_or_a_second_glance_may_change_is_planned_each_time(told: dict[str, Any]) -> None:
    assert fake(**told).sample(look(100)) == ["plan"]


def test_after_a_while_a_plan_is_made_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    world = fake()
    now = sampling.time.monotonic()
    monkeypatch.setattr(sampling, "time", SimpleNamespace(monotonic=lambda: now + REPLAN_SECONDS + 1))
    assert world.sample(look(100)) == ["plan"]
