"""One NVML session: the only place that calls pynvml, and that knows what its return codes mean.

1. What the driver does not say is None, never 0.
2. An answer that means a broken GPU, or a driver that has gone, is a Fault, whatever was asked.
3. A driver that never tells something (`SILENT` from the first time on) is none that fails this time: what decides whether a
   GPU is free, and cannot be had this time, is a Fault.
"""

from dataclasses import replace
from typing import Any

from ..model import GpuProcess

GONE = "the NVIDIA driver has gone away"

# NVML return codes [nvidia-ml-py, NVML_ERROR_*]; numbers, because pynvml is imported late.
UNINITIALIZED, NOT_SUPPORTED, NO_PERMISSION, INSUFFICIENT_SIZE = 1, 3, 4, 7
INSUFFICIENT_POWER, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND = 8, 9, 12, 13
GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH = 15, 16, 18
NO_DATA, ARGUMENT_VERSION_MISMATCH, DEPRECATED, GPU_NOT_FOUND, UNKNOWN = 21, 25, 26, 28, 999

MISMATCH = "the driver was upgraded under us: reload it or reboot"
INIT_FAULTS = {
    LIBRARY_NOT_FOUND: "no NVIDIA driver: libnvidia-ml.so.1 not found",
    DRIVER_NOT_LOADED: "no NVIDIA driver: not loaded",
    LIB_RM_VERSION_MISMATCH: MISMATCH,
}
# Whatever call says this, the GPU must not be used.
DEADLY = {
    UNINITIALIZED: GONE,
    DRIVER_NOT_LOADED: GONE,
    GPU_IS_LOST: "the GPU is lost (fell off the bus)",
    RESET_REQUIRED: "the GPU needs a reset",
    LIB_RM_VERSION_MISMATCH: MISMATCH,
    GPU_NOT_FOUND: "the driver does not find the GPU any more",
}
# From a call that every working GPU answers.
VITAL_FAULTS = {
    NO_PERMISSION: "no permission to use the GPU",
    INSUFFICIENT_POWER: "the GPU has no external power: check its cables",
    UNKNOWN: "the driver reports an unknown error on the GPU",
}
# "I cannot tell you" rather than "something is wrong".
SILENT = (NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, NO_DATA, ARGUMENT_VERSION_MISMATCH, DEPRECATED)

# The kernel's limit for pids (PID_MAX_LIMIT, proc_sys_kernel(5)).
LARGEST_PID = 2**22


class Fault(Exception):
    """A GPU, or with `gone` the whole driver, cannot be used; the text says why to people. `forbidden`: not by us."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        self.gone = gone
        self.forbidden = False
        super().__init__(text)


def fault_of(err: Any) -> Fault:
    """What an NVMLError means for a GPU."""
    text = DEADLY.get(err.value) or VITAL_FAULTS.get(err.value) or f"the driver says of the GPU: {err}"
    return Fault(text, gone=text is GONE)


class Driver:
    """An open NVML session. All methods may hang; NVML itself may be called from many threads [NVML docs, overview]."""

    def __init__(self) -> None:
        """Open it. Raises Fault, or ImportError without nvidia-ml-py."""
        import pynvml  # type: ignore[import-untyped]  # 15 ms that the arbiter's start need not wait for

        self.nvml: Any = pynvml
        self._list_versions: tuple[str, ...] = ("_v3", "_v2", "")
        try:
            pynvml.nvmlInit()
            self.count: int = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as err:
            raise Fault(INIT_FAULTS.get(err.value) or f"the NVIDIA driver cannot be used: {err}") from err
        if not self.count:
            self.close()
            raise Fault("no NVIDIA GPU: the driver finds none")

    def close(self) -> None:
        """End the session."""
        self.ask("nvmlShutdown")

    def ask(self, name: str, *arguments: Any, vital: bool = False, trouble: list[int] | None = None) -> Any:
        """Call an NVML function; None if it gives no answer. Raises Fault if the answer means a broken GPU.

        `vital`: every working GPU answers this call, so that any error but "not supported" is a Fault. `trouble` gets the
        code of an error that may be none the next time.
        """
        call = getattr(self.nvml, name, None)  # older nvidia-ml-py lacks some
        if call is None:
            return None
        try:
            return call(*arguments)
        except self.nvml.NVMLError as err:
            self._judge(err, vital)
            if trouble is not None and err.value not in SILENT:
                trouble.append(err.value)
            return None

    def ask_steadily(self, told: set[str], name: str, *arguments: Any) -> Any:
        """Call a function that a GPU answers always or never; None if it never did. Raises Fault if it fails this time.

        `told` are the functions that this GPU has answered before.
        """
        try:
            answer = getattr(self.nvml, name)(*arguments)
        except AttributeError:  # older nvidia-ml-py
            return None
        except self.nvml.NVMLError as err:
            self._judge(err, vital=True)
            if name in told:
                raise fault_of(err) from err
            return None
        told.add(name)
        return answer

    def need(self, name: str, *arguments: Any) -> Any:
        """Call an NVML function without whose answer the GPU cannot be used. Raises Fault."""
        try:
            return getattr(self.nvml, name)(*arguments)
        except self.nvml.NVMLError as err:
            fault = fault_of(err)
            fault.forbidden = name == "nvmlDeviceGetHandleByIndex" and err.value == NO_PERMISSION
            raise fault from err

    def processes(self, handle: Any, told: set[str]) -> tuple[GpuProcess, ...] | None:
        """Who computes on a GPU (MPS clients too) and who only draws; None if the driver never tells.

        Raises Fault if it does not this time. `told`: see `ask_steadily`. Who only draws need not be known: what they hold is
        held by nobody then.

        A process that does both is in both lists, with the same figure [wookayin/gpustat core.py].
        """
        found: dict[int, GpuProcess] = {}
        for kind in ("Compute", "MPSCompute", "Graphics"):
            entries = self._list(kind, handle, told)
            if entries is None and kind == "Compute":
                return None
            for pid, amount in entries or ():
                known = found.get(pid)
                if known is None:
                    found[pid] = GpuProcess(pid, amount, graphics=kind == "Graphics")
                elif known.bytes is None and amount is not None:
                    found[pid] = replace(known, bytes=amount)
        return tuple(found.values())

    def _judge(self, err: Any, vital: bool = False) -> None:
        if err.value in DEADLY or (vital and err.value not in SILENT):
            raise fault_of(err) from err

    def _list(self, kind: str, handle: Any, told: set[str]) -> list[tuple[int, int | None]] | None:
        """One process list, by the newest entry point that the driver has (v3: R510, v2: R450)."""
        found, code = None, FUNCTION_NOT_FOUND
        for version in self._list_versions:
            found, code = self._call_list(kind, version, handle)
            if code == INSUFFICIENT_SIZE:  # more processes than a moment before
                found, code = self._call_list(kind, version, handle)
            if code == FUNCTION_NOT_FOUND:
                continue
            if version == "_v3" and any(not 0 < pid <= LARGEST_PID for pid, _ in found or ()):
                # Drivers 535.43 to 535.86 fill v3 with longer entries than they promised [XuehaiPan/nvitop#79].
                self._list_versions = ("_v2", "")
                return self._list(kind, handle, told)
            break
        if found is not None:
            told.add(kind)
        elif kind != "Graphics" and (code not in SILENT or kind in told):
            raise fault_of(self.nvml.NVMLError(code))
        return found

    def _call_list(self, kind: str, version: str, handle: Any) -> tuple[list[tuple[int, int | None]] | None, int]:
        name = f"nvmlDeviceGet{kind}RunningProcesses"
        try:
            if not version:
                return self._call_list_v1(name, handle), 0
            return [(entry.pid, entry.usedGpuMemory) for entry in getattr(self.nvml, name + version)(handle)], 0
        except (AttributeError, self.nvml.NVMLError) as err:
            code = getattr(err, "value", FUNCTION_NOT_FOUND)
            if code != FUNCTION_NOT_FOUND:
                self._judge(err)
            return None, code

    def _call_list_v1(self, name: str, handle: Any) -> list[tuple[int, int | None]]:
        """Call the list that pynvml no longer knows. Its entries are pid and bytes [nvml.h, nvmlProcessInfo_v1_t]."""
        import ctypes  # pynvml has loaded it

        class Entry(ctypes.Structure):
            _fields_ = (("pid", ctypes.c_uint), ("bytes", ctypes.c_ulonglong))

        entries = (Entry * 1024)()
        size = ctypes.c_uint(len(entries))
        code = getattr(self.nvml.nvmlLib, name)(handle, ctypes.byref(size), entries)
        if code:
            raise self.nvml.NVMLError(code)
        unknown = self.nvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value
        return [(entry.pid, None if entry.bytes == unknown else entry.bytes) for entry in entries[: size.value]]
