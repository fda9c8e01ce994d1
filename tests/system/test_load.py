"""What GPUs are doing, as far as the driver tells: utilisation, temperature, power, fan; what it does not tell is a dash."""

from collections.abc import Callable
from pathlib import Path

import pytest
from standin import TIMEOUT, Gpu
from truth import Machine
from waiting import wait_until
from world import World

MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(tmp_path: Path, make_world: Callable[..., World]) -> MakeMachine:
    return lambda *gpus: Machine(tmp_path, make_world, *gpus)


def test_the_load_of_each_gpu_is_told_and_a_dash_is_what_the_driver_does_not_tell(make_machine: MakeMachine) -> None:
    hot = {"temperature": 61, "power": 310400, "power_limit": 450000, "fan": 104}
    silent = dict.fromkeys(("temperature", "power", "power_limit", "fan"))
    machine = make_machine(Gpu(utilization=97, facts=hot), Gpu(utilization=None, facts=silent))
    header, first, second, *_ = machine.gpus_text().splitlines()
    assert "LOAD" in header
    assert "97% 61° 310/450W fan 104%" in first
    assert "- - - -" in second
    assert machine.gpu(0)["load"] == {
        "utilization_percent": 97, "temperature_celsius": 61, "power_watts": 310.4, "power_limit_watts": 450.0,
        "fan_percent": 104,
    }  # fmt: skip
    assert set(machine.gpu(1)["load"].values()) == {None}


def test_a_sensor_that_fails_makes_no_gpu_ill(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(facts={"fan": None}))
    for name in ("nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage"):
        machine.box.fail(name, TIMEOUT, 0)
    wait_until(lambda: machine.gpu()["load"]["temperature_celsius"] is None, "the sensor to fail")
    assert machine.gpu()["state"] == "free"
    assert "0% - - -" in machine.gpus_text()
    assert machine.world.run("--", "true").returncode == 0


def test_a_gpu_that_gets_warmer_is_nothing_new_to_decide_about(make_machine: MakeMachine) -> None:
    """Or each look at a machine where somebody waits would be followed by a plan."""
    from gpuwrap.model import GpuSample, Load

    assert GpuSample("u", 0, "n", load=Load(40)) == GpuSample("u", 0, "n", load=Load(41))
