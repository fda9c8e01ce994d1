"""The NVIDIA driver's GPUs, as NVML tells of them (`nvml`).

1. A GPU that hangs hides no other, and a look is over after LOOK_SECONDS at most, whatever hangs (`looking`).
2. What the driver does not say is None, never 0. What it says of a broken GPU is not used: the sample has a `fault`. One
   that answers but should not be used (`health`) has a `fault` beside its figures.
3. One NVML session stays open until `close`: while nobody has one, the driver forgets its state, and the next nvmlInit
   takes 1 to 3 s per GPU [NVIDIA driver persistence]. A failed nvmlInit is tried again INIT_RETRY_SECONDS later.
4. Facts that stand still are read once, those that change rarely every SLOW_SECONDS; a look asks for the rest, and for all
   that decides whether a GPU may be used at all: an administrator changes the modes while jobs run.
"""

import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..model import ComputeMode, GpuSample
from .connections import Place, address_of, links, numa_node
from .devices import Look
from .health import Xids, ecc_fault
from .load import load_of
from .looking import Looker
from .nvml import GONE, Driver, Fault

LOOK_SECONDS = 2.0
INIT_RETRY_SECONDS = 30.0
SLOW_SECONDS = 30.0

NO_ANSWER = "the driver does not answer"
NO_DRIVER_ANSWER = "the NVIDIA driver does not answer"
UNKNOWN_NAME = "unknown GPU"
OPENING = "opening the driver"
EVENTS = "events"

# 1, exclusive thread, is no longer supported and was the stricter form of 3 [nvidia-ml-py, NVML_COMPUTEMODE_*].
COMPUTE_MODES = {1: ComputeMode.EXCLUSIVE_PROCESS, 2: ComputeMode.PROHIBITED, 3: ComputeMode.EXCLUSIVE_PROCESS}


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
    _is_mig: bool = False
    _told: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # by UUID; "" is the GPU itself
    _facts_mono: float = 0.0
    _linked: set[str] = field(default_factory=set)
    _relink_mono: float = 0.0  # what failed is asked again from then on
    _ecc_fault: str | None = None

    def read(self) -> tuple[GpuSample, ...]:
        """Look at it, or at its instances if it is divided by MIG. Raises Fault; the next look reads all anew then."""
        try:
            is_old = self._handle is None or time.monotonic() - self._facts_mono > SLOW_SECONDS
            if is_old or self._mig_is_on() is not self._is_mig:
                self._read_facts()
            mode = self.driver.ask_steadily(self._told[""], "nvmlDeviceGetComputeMode", self._handle)
            mode = COMPUTE_MODES.get(mode, ComputeMode.DEFAULT)
            samples = tuple(replace(self._read_device(device), compute_mode=mode) for device in self._devices)
            return samples if self._ecc_fault is None else tuple(self._troubled(samples))
        except Exception:
            self._handle = None
            raise

    def unlinked(self, others: Iterable[Place]) -> list[Place]:
        """Those of the others to which its links are not known yet."""
        if self.place is None or time.monotonic() < self._relink_mono:
            return []
        return [other for other in others if other.uuid != self.place.uuid and other.uuid not in self._linked]

    def read_links(self, others: Iterable[Place]) -> None:
        """Find out how well it is connected to others: once, if the driver answers. Raises Fault."""
        mine, others, trouble = self.place, list(others), list[int]()
        self._relink_mono = time.monotonic() + SLOW_SECONDS
        if mine is None:
            return
        self.links = self.links | links(self.driver.ask, mine, others, trouble)
        if not trouble and mine.address:
            self._relink_mono = 0.0
            self._linked |= {other.uuid for other in others if other.address}

    def _read_facts(self) -> None:
        ask, need = self.driver.ask, self.driver.need
        self._facts_mono = time.monotonic()
        handle = self._handle = self._handle or need("nvmlDeviceGetHandleByIndex", self.index)
        uuid = need("nvmlDeviceGetUUID", handle)
        name = ask("nvmlDeviceGetName", handle) or UNKNOWN_NAME
        sample = GpuSample(uuid, self.index, name)
        self.last = self.last or (sample,)
        address = address_of(ask("nvmlDeviceGetPciInfo_v3", handle))
        sample = replace(sample, numa_node=numa_node(ask, handle, address))
        self._ecc_fault = ecc_fault(ask, handle, self._ecc_fault)
        is_mig = self._is_mig = self._mig_is_on()
        self.place = None if is_mig else Place(uuid, handle, address)
        self._devices = tuple(self._instances(sample)) if is_mig else (Device(handle, sample),)
        self.last = tuple(device.sample for device in self._devices) or (sample,)
        if not self._devices:
            raise Fault("MIG is on, but the GPU has no instances")

    def _mig_is_on(self) -> bool:
        mig = self.driver.ask_steadily(self._told[""], "nvmlDeviceGetMigMode", self._handle)
        return bool(mig and mig[0])

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
            processes = self.driver.processes(handle, self._told[device.sample.uuid])
            # Instances have none [XuehaiPan/nvitop#5].
            rates = None if device.sample.is_mig else ask("nvmlDeviceGetUtilizationRates", handle)
            load = None if device.sample.is_mig else load_of(ask, handle)
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
            load=load,
        )


class NvidiaDevices(Looker):
    """The GPUs of the NVIDIA driver on this machine (protocol Devices).

    Whole GPUs have NVML's index, among those that are not forbidden to us: CUDA does not count these either (a cgroup of
    Slurm with ConstrainDevices; NVML may count them and say "no permission"). MIG instances are GPUs of their own, numbered
    on from the number of physical GPUs, and a GPU in MIG mode is not offered itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self._driver: Driver | None = None
        self._shut_fault = NO_DRIVER_ANSWER
        self._retry_mono = 0.0
        self._gpus: list[Gpu] = []
        self._xids: Xids | None = None
        self._forbidden: set[int] = set()
        self._instance_numbers: dict[str, int] = {}

    def look(self, begun_mono: float) -> Look:
        """Ask all GPUs, and begin a new NVML session if the old one turns out to be dead."""
        deadline_mono = begun_mono + LOOK_SECONDS
        for _ in range(2):
            if fault := self._open(deadline_mono):
                return self._without_driver(begun_mono, fault)
            answers = self.ask({gpu.index: gpu.read for gpu in self._gpus}, deadline_mono)
            if not answers or not all(isinstance(answer, Fault) and answer.gone for answer in answers.values()):
                self._read_links(answers, deadline_mono)
                self._note_forbidden(answers)
                well = frozenset(gpu.index for gpu in self._gpus if isinstance(answers.get(gpu.index), tuple))
                if self._xids is not None:
                    self.ask({EVENTS: partial(self._xids.read, well)}, deadline_mono)
                return Look(tuple(self._samples(answers)), begun_mono)
            self._driver = None
        self._shut(GONE)
        return self._without_driver(begun_mono, GONE)

    def _note_forbidden(self, answers: Mapping[Hashable, Any]) -> None:
        """Leave out the GPUs that we were never let to; if that is all of them, they are told with the reason."""
        refused = {gpu.index for gpu in self._gpus if not gpu.last and getattr(answers.get(gpu.index), "forbidden", False)}
        self._forbidden = refused if len(refused) < len(self._gpus) else set()

    def _without_driver(self, begun_mono: float, fault: str) -> Look:
        """What is told while the whole driver is gone: the GPUs as they were, if they were ever seen."""
        seen = any(gpu.last for gpu in self._gpus)
        samples = tuple(self._samples({}, fault)) if seen else ()
        return Look(samples, begun_mono, fault, pending=fault == NO_DRIVER_ANSWER and not seen)

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

    def _samples(self, answers: Mapping[Hashable, Any], why: str = NO_ANSWER) -> Iterator[GpuSample]:
        """One sample for each GPU, or each of its instances; `why` there is none from those that did not answer."""
        for gpu in self._gpus:
            if gpu.index in self._forbidden:
                continue
            answer = answers.get(gpu.index)
            if isinstance(answer, tuple):
                samples = answer
            else:
                unknown = why if answer is None else f"the driver's answer makes no sense: {answer!r}"
                fault = str(answer) if isinstance(answer, Fault) else unknown
                last = gpu.last or (GpuSample(f"unknown-{gpu.index}", gpu.index, UNKNOWN_NAME),)
                samples = tuple(replace(sample, fault=fault) for sample in last)
            for sample in samples:
                trouble = sample.fault or (self._xids.fault(gpu.index) if self._xids is not None else None)
                yield replace(sample, index=self._index(sample), links=gpu.links, fault=trouble)

    def _index(self, sample: GpuSample) -> int:
        if not sample.is_mig:
            return sample.index - sum(index < sample.index for index in self._forbidden)
        return (
            len(self._gpus) - len(self._forbidden) + self._instance_numbers.setdefault(sample.uuid, len(self._instance_numbers))
        )
