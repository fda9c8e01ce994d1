"""GPUs that exist as files, behind the same interface as the driver's (`devices`).

A simulated program takes memory by a file `$GPURUN_SIM_DIR/<index>/<pid>` that holds a byte count; a dead pid counts
nothing. Their UUIDs contain the inode of the state folder, so that the GPUs of two folders are different GPUs.
"""

import os
import time

from ..model import GpuProcess, GpuSample
from ..units import format_size, parse_integer, parse_simulated
from .devices import Look
from .processes import read_stat


def sim_root_of(folder_path: str) -> str:
    """Return what programs of a world of simulated GPUs see as GPURUN_SIM_DIR."""
    return os.path.join(folder_path, "sim")


class SimulatedDevices:
    """The simulated GPUs of one state folder; a look is over as soon as it is begun."""

    def __init__(self, spec: str, folder_path: str, inode: int) -> None:
        self._sizes = parse_simulated(spec)
        self._root = sim_root_of(folder_path)
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._look: Look | None = None
        sizes = enumerate(self._sizes)
        self._names = [(f"GPU-sim-{inode:x}-{index}", f"Simulated {format_size(size)}") for index, size in sizes]
        self._folders = [os.path.join(self._root, str(index)) for index in range(len(self._sizes))]
        for folder in self._folders:
            os.makedirs(folder, 0o700, exist_ok=True)

    @property
    def root(self) -> str:
        """What the program sees as GPURUN_SIM_DIR."""
        return self._root

    def begin_look(self) -> None:
        """Read all files."""
        if self._look is None:
            begun = time.monotonic()
            self._look = Look(tuple(self._sample(index) for index in range(len(self._sizes))), begun)
            os.eventfd_write(self._event, 1)

    def fileno(self) -> int:
        """Return the descriptor that is readable once a look is over."""
        return self._event

    def finish_look(self) -> Look:
        """Return the look. Raises BlockingIOError if none was begun."""
        if self._look is None:
            raise BlockingIOError
        os.eventfd_read(self._event)
        look, self._look = self._look, None
        return look

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._event)

    def _sample(self, index: int) -> GpuSample:
        total, (uuid, name) = self._sizes[index], self._names[index]
        processes = tuple(self._processes(self._folders[index]))
        used = sum(process.bytes or 0 for process in processes)
        known = all(process.bytes is not None for process in processes)
        return GpuSample(
            uuid=uuid,
            index=index,
            name=name,
            total_bytes=total,
            free_bytes=max(0, total - used) if known else None,
            processes=processes,
        )

    def _processes(self, folder: str) -> list[GpuProcess]:
        found: list[GpuProcess] = []
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return found  # with the state folder, which was removed or moved away
        for name in names:
            pid = parse_integer(name)
            if pid is None:
                continue  # written beside and renamed
            path = os.path.join(folder, name)
            stat = read_stat(pid)
            if stat is None or stat.state in "ZX":
                _forget(path)
                continue
            size = _read_size(path)
            if size != 0:
                found.append(GpuProcess(pid, size))
        return found


def _read_size(path: str) -> int | None:
    """Return the byte count in a file; None, unknown, while it is no number yet; 0 once it has gone."""
    try:
        with open(path, "rb", buffering=0) as file:
            text = file.read(64).strip().decode("ascii", "replace")
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    size = parse_integer(text)
    return size if size is not None and size >= 0 else None


def _forget(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return  # somebody else's to remove; a dead pid counts nothing anyway
