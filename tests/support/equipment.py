"""What this machine has of what some tests need."""

import ctypes
import functools
import shutil

# Where Debian keeps daemons and tools for root; not on every user's PATH.
EXTRA_PATH = "/usr/sbin:/sbin:/usr/local/sbin"


def find_tool(tool: str) -> str | None:
    """The absolute path of a command, looked for in the system folders too."""
    return shutil.which(tool) or shutil.which(tool, path=EXTRA_PATH)


@functools.cache
def missing_gpu() -> str | None:
    """Why `gpu` tests cannot run here; None if they can."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return "no NVIDIA driver (libnvidia-ml.so.1)"
    if nvml.nvmlInit_v2() != 0:
        return "the NVIDIA driver does not answer (nvmlInit)"
    count = ctypes.c_uint(0)
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return None if count.value else "no NVIDIA GPU"
