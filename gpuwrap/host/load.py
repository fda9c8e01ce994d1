"""What a GPU is doing at a moment, as NVML tells: for people to see; nothing is decided by it."""

from typing import Any, Protocol

from ..model import Load

# The sensor on the GPU itself [nvml.h, nvmlTemperatureSensors_t].
GPU_SENSOR = 0


class Ask(Protocol):
    """Calls an NVML function; None if it gives no answer."""

    def __call__(self, name: str, *arguments: Any) -> Any: ...


def load_of(ask: Ask, handle: Any) -> Load:
    """Read the load of a whole GPU; instances have no sensors of their own. Raises Fault if the GPU turns out to be broken.

    NVML tells power in mW, over the last second or at this moment, and the fan as a part of its full speed, which may be
    more than 100 [nvml.h, nvmlDeviceGetPowerUsage, nvmlDeviceGetFanSpeed].
    """
    watts = [_watts(ask(name, handle)) for name in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetEnforcedPowerLimit")]
    return Load(
        temperature_celsius=ask("nvmlDeviceGetTemperature", handle, GPU_SENSOR),
        power_watts=watts[0],
        power_limit_watts=watts[1],
        fan_percent=ask("nvmlDeviceGetFanSpeed", handle),
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000
