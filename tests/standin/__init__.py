"""GPUs without a GPU: builds the stand-in libnvidia-ml.so.1 (nvml.c) and writes the world that it tells.

The real nvidia-ml-py loads it when LD_LIBRARY_PATH names its folder:

    box = build(tmp_path, Gpu(), Gpu(processes=[Process(1234, 5 * GIB)]))
    subprocess.run([...], env={**os.environ, **box.environment})
    box.set(0, utilization=40)                        one fact of one GPU, seen by the next call of every program
    box.fail("nvmlDeviceGetMemoryInfo", GPU_IS_LOST, 1)
    box.allocate(0, pid, 2 * GIB)                     what a program under test does itself: a file alloc/0/PID

1. The folder's place is all the library needs: it finds world.txt and alloc/ beside itself, whatever the environment.
2. The world is replaced whole (written aside, then renamed), so that no program sees half of it.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

MIB = 1024**2
GIB = 1024**3

LIBRARY = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("nvml.c")

# NVML's return codes [nvidia-ml-py, NVML_ERROR_*].
UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 1, 2, 3, 4
NOT_FOUND, INSUFFICIENT_SIZE, INSUFFICIENT_POWER, DRIVER_NOT_LOADED, TIMEOUT = 6, 7, 8, 9, 10
FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED, LIB_RM_VERSION_MISMATCH = 13, 15, 16, 18
ERROR_UNKNOWN = 999

EXCLUSIVE_THREAD, PROHIBITED, EXCLUSIVE_PROCESS = 1, 2, 3


class NoCompiler(Exception):
    """Neither gcc nor cc is installed; tests skip with this text."""

    def __init__(self) -> None:
        super().__init__("gcc is not installed")


@dataclass(frozen=True)
class Process:
    """A process on a GPU; the pid need not exist. `bytes` None: not told. Kinds: compute, graphics, mps."""

    pid: int
    bytes: int | None
    kind: str = "compute"


@dataclass(frozen=True)
class Instance:
    """A MIG instance."""

    uuid: str
    total: int = 10 * GIB
    name: str = "NVIDIA A100-SXM4-40GB MIG 1g.10gb"
    processes: list[Process] = field(default_factory=list)


@dataclass(frozen=True)
class Gpu:
    """One GPU. None for a figure: its call says "not supported". `mig` None: no such mode; a list: MIG is on.

    `free` overrides what follows from total, reserved and processes. `facts` are further keys of nvml.c (temperature,
    power, ecc …), `uuid` is made from the index if it is not given.
    """

    uuid: str | None = None
    name: str = "NVIDIA GeForce RTX 4090"
    total: int | None = 24 * GIB
    reserved: int = 512 * MIB
    free: int | None = None
    processes: list[Process] = field(default_factory=list)
    utilization: int | None = 0
    compute_mode: int | None = 0
    mig: list[Instance] | None = None
    numa: int | None = None
    bus: str | None = None
    facts: dict[str, object] = field(default_factory=dict)


def uuid_of(index: int) -> str:
    """The UUID of a GPU that was not given one."""
    return f"GPU-57a4d14e-0000-0000-0000-{index:012x}"


@dataclass
class Box:
    """A folder with a stand-in library and the world it tells. Change it by the methods, or its fields and `write()`.

    `errors` and `hangs` are (function, where, code or seconds), where an index, "INDEX:N" for a MIG instance or "*";
    `nvlinks` (a, b or "switch", number of links); `topology` (a, b, NVML level); `xids` (index, code) in order.
    """

    folder: Path
    gpus: list[Gpu]
    driver: str = "580.65.06"
    session: int = 0
    wide: bool = False
    errors: list[tuple[str, int | str, int]] = field(default_factory=list)
    hangs: list[tuple[str, int | str, float]] = field(default_factory=list)
    nvlinks: list[tuple[int, int | str, int]] = field(default_factory=list)
    topology: list[tuple[int, int, int]] = field(default_factory=list)
    xids: list[tuple[int, int]] = field(default_factory=list)

    @property
    def library_folder(self) -> str:
        """What LD_LIBRARY_PATH must name."""
        return str(self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to see these GPUs."""
        return {"LD_LIBRARY_PATH": self.library_folder}

    def write(self) -> None:
        """Make the world what the fields say, at once for all programs."""
        for index, gpu in enumerate(self.gpus):
            self._allocations(index)
            for number in range(len(gpu.mig or ())):
                self._allocations(f"{index}:{number}")
        _replace(self.folder / "world.txt", "".join(f"{line}\n" for line in self._lines()))

    def set(self, index: int, **changes: Any) -> None:
        """Change fields of one GPU: `box.set(0, utilization=40, processes=[])`."""
        self.gpus[index] = replace(self.gpus[index], **changes)
        self.write()

    def fail(self, function: str, code: int, where: int | str = "*") -> None:
        """Have an entry point (all its versions, unless one is named) return `code`; "*" means all of them."""
        self.errors.insert(0, (function, where, code))
        self.write()

    def hang(self, function: str, seconds: float = 30, where: int | str = "*") -> None:
        """Have an entry point hang, until `mend` at most."""
        self.hangs.insert(0, (function, where, seconds))
        self.write()

    def mend(self) -> None:
        """End every error and hang."""
        self.errors, self.hangs = [], []
        self.write()

    def forget_sessions(self) -> None:
        """As if the driver was reloaded: every program gets "uninitialized" until its next nvmlInit."""
        self.session += 1
        self.write()

    def send_xid(self, index: int, code: int) -> None:
        """Deliver an Xid to the event sets that exist and registered for this GPU."""
        self.xids.append((index, code))
        self.write()

    def allocation(self, index: int | str, pid: int, kind: str = "compute") -> Path:
        """The file by which a process takes memory; any uid may write it."""
        suffix = {"compute": "", "graphics": ".g", "mps": ".m"}[kind]
        return self._allocations(index) / f"{pid}{suffix}"

    def allocate(self, index: int | str, pid: int, amount: int | None, kind: str = "compute") -> None:
        """Have a living process hold `amount` bytes (None: the driver does not say how much)."""
        _replace(self.allocation(index, pid, kind), "?" if amount is None else str(amount))

    def release(self, index: int | str, pid: int, kind: str = "compute") -> None:
        """Have a process hold nothing any more."""
        self.allocation(index, pid, kind).unlink(missing_ok=True)

    def _allocations(self, index: int | str) -> Path:
        folder = self.folder / "alloc" / str(index)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            folder.chmod(0o1777)
        return folder

    def _lines(self) -> Iterator[str]:
        yield f"driver {self.driver}"
        yield f"nvml 13.{self.driver}"
        yield "cuda 13000"
        yield f"session {self.session}"
        if self.wide:
            yield "wide 1"
        for index, gpu in enumerate(self.gpus):
            yield from _gpu_lines(index, gpu)
        for word, entries in (
            ("error", self.errors),
            ("hang", self.hangs),
            ("nvlink", self.nvlinks),
            ("topology", self.topology),
            ("xid", self.xids),
        ):
            for entry in entries:
                yield " ".join([word, *map(str, entry)])


def _gpu_lines(index: int, gpu: Gpu) -> Iterator[str]:
    facts: dict[str, object] = {
        "uuid": gpu.uuid or uuid_of(index),
        "name": gpu.name,
        "total": gpu.total,
        "reserved": gpu.reserved,
        "free": gpu.free,
        "utilization": gpu.utilization,
        "compute_mode": gpu.compute_mode,
        "mig": None if gpu.mig is None else 1,
        "numa": gpu.numa,
        "bus": gpu.bus,
        "temperature": 40,
        "power": 30000,
        "power_limit": 450000,
        "fan": 30,
        "persistence": 1,
        "major": 8,
        "minor": 9,
        "ecc": 1,
        "ecc_corrected": 0,
        "ecc_uncorrected": 0,
        "remapped": 0,
    }
    for key, fact in (facts | gpu.facts).items():
        if fact is not None:
            yield f"gpu {index} {key} {fact}"
    yield from _process_lines(str(index), gpu.processes)
    for number, instance in enumerate(gpu.mig or ()):
        where = f"{index}:{number}"
        for key, fact in {"uuid": instance.uuid, "name": instance.name, "total": instance.total}.items():
            yield f"instance {where} {key} {fact}"
        yield f"instance {where} gi {number + 1}"
        yield f"instance {where} ci 0"
        yield from _process_lines(where, instance.processes)


def _process_lines(where: str, processes: list[Process]) -> Iterator[str]:
    for process in processes:
        yield f"process {where} {process.pid} {'?' if process.bytes is None else process.bytes} {process.kind}"


def _replace(path: Path, text: str) -> None:
    # Not a name that the library would take for a pid.
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    os.replace(aside, path)


@functools.cache
def _build_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gpurun-standin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def compiled(old_driver: int = 0) -> Path:
    """Compile the library, once per test run and variant. Raises NoCompiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NoCompiler
    library = _build_folder() / f"standin-{old_driver}.so"
    flags = ["-O1", "-fPIC", "-shared", f"-DOLD_DRIVER={old_driver}", f"-Wl,-soname,{LIBRARY}"]
    subprocess.run([compiler, *flags, "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=60)
    return library


def build(folder: Path, *gpus: Gpu, old_driver: int = 0) -> Box:
    """Put a stand-in driver with these GPUs into `folder` (one GPU if none is named). Raises NoCompiler.

    `old_driver` 1: one without the v3 process lists and memory v2 (R470); 2: also without v2 and MIG (R440).
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    shutil.copy(compiled(old_driver), folder / LIBRARY)
    box = Box(folder, list(gpus or (Gpu(),)))
    box.write()
    return box
