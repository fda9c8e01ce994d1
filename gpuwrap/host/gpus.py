"""The NVIDIA driver's GPUs: the only place that knows NVML (pynvml).

1. A GPU that hangs hides no other, and a look is over after LOOK_SECONDS at most, whatever hangs (`looking`).
2. What the driver does not say is None, never 0. What it says of a broken GPU is not used: the sample has a `fault`. One
   that answers but should not be used (`health`) has a `fault` beside its figures.
3. One NVML session stays open until `close`: while nobody has one, the driver forgets its state, and the next nvmlInit
   takes 1 to 3 s per GPU [NVIDIA driver persistence]. A failed nvmlInit is tried again INIT_RETRY_SECONDS later.
4. Facts that stand still are read once, those that change rarely every SLOW_SECONDS; a look asks for the rest.
"""

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..model import ComputeMode, GpuProcess, GpuSample
from .connections import Place, address_of, links, numa_node
from .devices import Look
from .health import Xids, ecc_fault
from .looking import Looker

LOOK_SECONDS = 2.0
INIT_RETRY_SECONDS = 30.0
SLOW_SECONDS = 30.0

NO_ANSWER = "the driver does not answer"
NO_DRIVER_ANSWER = "the NVIDIA driver does not answer"
GONE = "the NVIDIA driver has gone away"
UNKNOWN_NAME = "unknown GPU"
OPENING = "opening the driver"
EVENTS = "events"

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

# 1, exclusive thread, is no longer supported and was the stricter form of 3 [nvidia-ml-py, NVML_COMPUTEMODE_*].
COMPUTE_MODES = {1: ComputeMode.EXCLUSIVE_PROCESS, 2: ComputeMode.PROHIBITED, 3: ComputeMode.EXCLUSIVE_PROCESS}

# The kernel's limit for pids (PID_MAX_LIMIT, proc_sys_kernel(5)).
LARGEST_PID = 2**22


class Fault(Exception):
    """A GPU, or with `gone` the whole driver, cannot be used; the text says why to people."""

    def __init__(self, text: str, *, gone: bool = False) -> None:
        self.gone = gone
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

    def ask(self, name: str, *arguments: Any, vital: bool = False) -> Any:
        """Call an NVML function; None if it gives no answer. Raises Fault if the answer means a broken GPU.

        `vital`: every working GPU answers this call, so that any error but "not supported" is a Fault.
        """
        call = getattr(self.nvml, name, None)  # older nvidia-ml-py lacks some
        if call is None:
            return None
        try:
            return call(*arguments)
        except self.nvml.NVMLError as err:
            self._judge(err, vital)
            return None

    def need(self, name: str, *arguments: Any) -> Any:
        """Call an NVML function without whose answer the GPU cannot be used. Raises Fault."""
        try:
            return getattr(self.nvml, name)(*arguments)
        except self.nvml.NVMLError as err:
            raise fault_of(err) from err

    def processes(self, handle: Any) -> tuple[GpuProcess, ...] | None:
        """Who computes on a GPU (MPS clients too) and who only draws; None if the driver does not tell. Raises Fault.

        A process that does both is in both lists, with the same figure [wookayin/gpustat core.py].
        """
        found: dict[int, GpuProcess] = {}
        for kind in ("Compute", "MPSCompute", "Graphics"):
            entries = self._list(kind, handle)
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

    def _list(self, kind: str, handle: Any) -> list[tuple[int, int | None]] | None:
        """One process list, by the newest entry point that the driver has (v3: R510, v2: R450)."""
        for version in self._list_versions:
            found, code = self._call_list(kind, version, handle)
            if code == INSUFFICIENT_SIZE:  # more processes than a moment before
                found, code = self._call_list(kind, version, handle)
            if code == FUNCTION_NOT_FOUND:
                continue
            if version == "_v3" and any(not 0 < pid <= LARGEST_PID for pid, _ in found or ()):
                # Drivers 535.43 to 535.86 fill v3 with longer entries than they promised [XuehaiPan/nvitop#79].
                self._list_versions = ("_v2", "")
                return self._list(kind, handle)
            return found
        return None

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


@dataclass(frozen=True, slots=True)
class Device:
    """A handle and what stands still about it: a whole GPU or a MIG instance."""

    handle: Any
    sample: GpuSample


@dataclass
class Gpu:
    """One physical GPU, asked by one thread at a time. `last`: what is told of it while it cannot be read."""

    driver: Driver
    index: int
    last: tuple[GpuSample, ...] = ()
    links: dict[str, int] = field(default_factory=dict)
    place: Place | None = None  # None: divided by MIG, which has no links, or not read
    _handle: Any = None
    _devices: tuple[Device, ...] = ()
    _facts_mono: float = 0.0
    _linked: set[str] = field(default_factory=set)
    _ecc_fault: str | None = None

    def read(self) -> tuple[GpuSample, ...]:
        """Look at it, or at its instances if it is divided by MIG. Raises Fault; the next look reads all anew then."""
        try:
            if self._handle is None or time.monotonic() - self._facts_mono > SLOW_SECONDS:
                self._read_facts()
            samples = tuple(self._read_device(device) for device in self._devices)
            return samples if self._ecc_fault is None else tuple(self._troubled(samples))
        except Exception:
            self._handle = None
            raise

    def unlinked(self, others: Iterable[Place]) -> list[Place]:
        """Those of the others to which its links were not asked yet."""
        if self.place is None:
            return []
        return [other for other in others if other.uuid != self.place.uuid and other.uuid not in self._linked]

    def read_links(self, others: Iterable[Place]) -> None:
        """Find out how well it is connected to others, once. Raises Fault."""
        others = list(others)
        self._linked |= {other.uuid for other in others}
        if self.place:
            self.links = self.links | links(self.driver.ask, self.place, others)

    def _read_facts(self) -> None:
        ask, need = self.driver.ask, self.driver.need
        self._facts_mono = time.monotonic()
        handle = self._handle = self._handle or need("nvmlDeviceGetHandleByIndex", self.index)
        uuid = need("nvmlDeviceGetUUID", handle)
        name = ask("nvmlDeviceGetName", handle) or UNKNOWN_NAME
        sample = GpuSample(uuid, self.index, name)
        self.last = self.last or (sample,)
        mode = COMPUTE_MODES.get(ask("nvmlDeviceGetComputeMode", handle), ComputeMode.DEFAULT)
        address = address_of(ask("nvmlDeviceGetPciInfo_v3", handle))
        sample = replace(sample, compute_mode=mode, numa_node=numa_node(ask, handle, address))
        self._ecc_fault = ecc_fault(ask, handle)
        mig = ask("nvmlDeviceGetMigMode", handle, vital=True)
        is_mig = bool(mig and mig[0])
        self.place = None if is_mig else Place(uuid, handle, address)
        self._devices = tuple(self._instances(sample)) if is_mig else (Device(handle, sample),)
        self.last = tuple(device.sample for device in self._devices) or (sample,)
        if not self._devices:
            raise Fault("MIG is on, but the GPU has no instances")

    def _troubled(self, samples: Iterable[GpuSample]) -> Iterator[GpuSample]:
        self._facts_mono = 0.0  # so that the look after its reset sees it well
        for sample in samples:
            yield replace(sample, fault=sample.fault or self._ecc_fault)

    def _instances(self, parent: GpuSample) -> Iterator[Device]:
        ask = self.driver.ask
        for number in range(ask("nvmlDeviceGetMaxMigDeviceCount", self._handle) or 0):
            handle = ask("nvmlDeviceGetMigDeviceHandleByIndex", self._handle, number)
            uuid = handle and ask("nvmlDeviceGetUUID", handle)
            if uuid:
                name = ask("nvmlDeviceGetName", handle) or f"{parent.name} MIG"
                yield Device(handle, replace(parent, uuid=uuid, name=name, is_mig=True))

    def _read_device(self, device: Device) -> GpuSample:
        ask, handle = self.driver.ask, device.handle
        try:
            # v1: whether v2's `used` includes what is reserved, the documents disagree; free and total are the same.
            memory = ask("nvmlDeviceGetMemoryInfo", handle, vital=True)
            processes = self.driver.processes(handle)
            # Instances have none [XuehaiPan/nvitop#5].
            rates = None if device.sample.is_mig else ask("nvmlDeviceGetUtilizationRates", handle)
        except Fault as fault:
            if not device.sample.is_mig or fault.gone:
                raise
            self._facts_mono = 0.0  # the instance may have been destroyed
            return replace(device.sample, fault=str(fault))
        return replace(
            device.sample,
            total_bytes=memory.total if memory else None,
            free_bytes=memory.free if memory else None,
            processes=processes,
            utilization_percent=rates.gpu if rates else None,
        )


class NvidiaDevices(Looker):
    """The GPUs of the NVIDIA driver on this machine (protocol Devices).

    Whole GPUs have NVML's index; MIG instances are GPUs of their own, numbered on from the number of physical GPUs, and
    a GPU in MIG mode is not offered itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._driver: Driver | None = None
        self._shut_fault = NO_DRIVER_ANSWER
        self._retry_mono = 0.0
        self._gpus: list[Gpu] = []
        self._xids: Xids | None = None
        self._instance_numbers: dict[str, int] = {}

    def look(self, begun_mono: float) -> Look:
        """Ask all GPUs, and begin a new NVML session if the old one turns out to be dead."""
        deadline_mono = begun_mono + LOOK_SECONDS
        for _ in range(2):
            if fault := self._open(deadline_mono):
                return Look((), begun_mono, fault, pending=fault == NO_DRIVER_ANSWER)
            answers = self.ask({gpu.index: gpu.read for gpu in self._gpus}, deadline_mono)
            if not answers or not all(isinstance(answer, Fault) and answer.gone for answer in answers.values()):
                self._read_links(answers, deadline_mono)
                if self._xids is not None:
                    self.ask({EVENTS: self._xids.read}, deadline_mono)
                return Look(tuple(self._samples(answers)), begun_mono)
            self._driver = None
        self._shut(GONE)
        return Look((), begun_mono, GONE)

    def let_go(self) -> None:
        """End the NVML session."""
        if self._driver:
            self._driver.close()

    def _open(self, deadline_mono: float) -> str | None:
        """Have an NVML session, or say why there is none. A failed nvmlInit stays failed for a while."""
        if self._driver is None:
            if not self.wait_for(OPENING, deadline_mono):
                return NO_DRIVER_ANSWER
            if self._driver is None and time.monotonic() >= self._retry_mono:
                self.ask({OPENING: self._open_driver}, deadline_mono)
                if not self.wait_for(OPENING, deadline_mono):
                    return NO_DRIVER_ANSWER
        return None if self._driver else self._shut_fault

    def _open_driver(self) -> None:
        try:
            driver = Driver()
        except Exception as err:
            self._shut(str(err) if isinstance(err, Fault) else f"the NVIDIA driver cannot be used: {err!r}")
            return
        known = {gpu.index: gpu.last for gpu in self._gpus}
        self._gpus = [Gpu(driver, index, known.get(index, ())) for index in range(driver.count)]
        self._xids = Xids(driver)
        self._driver = driver

    def _shut(self, fault: str) -> None:
        self._shut_fault = fault
        self._retry_mono = time.monotonic() + INIT_RETRY_SECONDS

    def _read_links(self, answers: Mapping[Hashable, Any], deadline_mono: float) -> None:
        ready = [gpu for gpu in self._gpus if isinstance(answers.get(gpu.index), tuple)]
        places = [gpu.place for gpu in ready if gpu.place]
        missing = [(gpu, gpu.unlinked(places)) for gpu in ready]
        self.ask({gpu.index: partial(gpu.read_links, others) for gpu, others in missing if others}, deadline_mono)

    def _samples(self, answers: Mapping[Hashable, Any]) -> Iterator[GpuSample]:
        for gpu in self._gpus:
            answer = answers.get(gpu.index)
            if isinstance(answer, tuple):
                samples = answer
            else:
                unknown = NO_ANSWER if answer is None else f"the driver's answer makes no sense: {answer!r}"
                fault = str(answer) if isinstance(answer, Fault) else unknown
                last = gpu.last or (GpuSample(f"unknown-{gpu.index}", gpu.index, UNKNOWN_NAME),)
                samples = tuple(replace(sample, fault=fault) for sample in last)
            for sample in samples:
                trouble = sample.fault or (self._xids.fault(gpu.index) if self._xids is not None else None)
                yield replace(sample, index=self._index(sample), links=gpu.links, fault=trouble)

    def _index(self, sample: GpuSample) -> int:
        if not sample.is_mig:
            return sample.index
        return len(self._gpus) + self._instance_numbers.setdefault(sample.uuid, len(self._instance_numbers))
