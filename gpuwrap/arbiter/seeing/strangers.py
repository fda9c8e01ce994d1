"""What is known of GPU processes that are no job's: whether they count, how much they ever held, how long they stand idle.

1. Who only draws, display servers (which the driver may list as computing too) and the MPS server while they hold little,
   and whom the setting `ignore` names do not count as computing; their memory stays taken.
2. Peaks are of the processes that are there now, within the last hour, in steps of a minute.
3. A GPU whose utilisation is 0 has nobody computing, so everybody on it stands idle; one figure above 0 ends that for all of
   them, since the driver does not say whose it was. A figure that is missing proves nothing.
4. Since when they stand idle is written down: there is no arbiter overnight. A process that has used next to no processor
   time since then is taken to have stood idle while nobody looked.
5. In a container the driver names pids of the machine, which mean nothing here: such a list is as good as none, and only
   the totals count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from os.path import basename

from ...host import processes
from ...host.devices import Look
from ...host.freezer import standing_still
from ...model import ForeignProcess, GpuProcess
from ...state.notes import IdleStranger, IdleStrangers
from ...units import GIB

HOUR_SECONDS = 3600.0
STEP_SECONDS = 60.0
# "Idle for 3 s" says nothing.
IDLE_SHOWN_SECONDS = 60.0
# A process that waits wakes now and then: a notebook's kernel for its heartbeat.
IDLE_CPU_PART = 0.01
IDLE_CPU_SECONDS = 2.0
MPS_SERVER = "nvidia-cuda-mps-server"
# On drivers that do not list its clients, what they hold shows as the server's.
MPS_SERVER_BYTES = GIB
# What draws the screen; with more than this it computes as well.
DISPLAY_BYTES = GIB
DISPLAYS = (
    "Xorg", "X", "Xwayland", "gnome-shell", "kwin_x11", "kwin_wayland", "plasmashell", "mutter", "muffin", "cinnamon",
    "sway", "weston", "Hyprland", "wayfire", "labwc", "river", "niri", "cosmic-comp", "xfwm4", "picom", "compton",
)  # fmt: skip

Ignored = tuple[int | str, ...]
_Key = tuple[str, int, int]  # UUID, pid, start


@dataclass(slots=True)
class _Past:
    """One process on one GPU: the most it held in each minute, and since when it stands idle."""

    most: dict[int, int] = field(default_factory=dict)
    idle_since: float | None = None
    cpu_seconds: float = 0.0
    """What it had used of the processor by then."""


class Strangers:
    """Remembers GPU processes while they live."""

    def __init__(self, ignored: Ignored = ()) -> None:
        self.ignored = ignored
        self._past: dict[_Key, _Past] = {}
        self._noted_mono = 0.0

    def recall(self, kept: IdleStrangers, now_mono: float) -> None:
        """Know again who stood idle under an earlier arbiter."""
        if kept.boot_id != processes.boot_id():
            return
        for uuid, pid, start, since, used in kept.each:
            stat, cpu = processes.read_stat(pid), processes.cpu_seconds(pid)
            if stat is None or cpu is None or stat.start_ticks != start:
                continue
            if cpu - used <= max(IDLE_CPU_SECONDS, IDLE_CPU_PART * (now_mono - since)):
                self._past[uuid, pid, start] = _Past(idle_since=since, cpu_seconds=used)

    def idle(self) -> IdleStrangers:
        """Return who has stood idle for long enough that it is shown."""
        idle = [
            IdleStranger(uuid, pid, start, past.idle_since, past.cpu_seconds)
            for (uuid, pid, start), past in self._past.items()
            if past.idle_since is not None and self._noted_mono - past.idle_since >= IDLE_SHOWN_SECONDS
        ]
        return IdleStrangers(processes.boot_id(), tuple(idle))

    def note(self, look: Look) -> None:
        """Take in a look, each once; one that is not over yet shows nothing."""
        if look.begun_mono <= self._noted_mono or look.pending:
            return
        self._noted_mono = now_mono = look.begun_mono
        seen: dict[_Key, _Past] = {}
        for sample in look.samples:
            for process in sample.processes or ():
                stat = processes.read_stat(process.pid)
                if stat is None:
                    continue
                key = (sample.uuid, process.pid, stat.start_ticks)
                past = seen[key] = self._past.get(key) or _Past()
                _note_size(past, process.bytes, now_mono)
                if sample.utilization_percent != 0:
                    past.idle_since = None
                elif past.idle_since is None:
                    past.idle_since = now_mono
                    past.cpu_seconds = processes.cpu_seconds(process.pid) or 0.0
        if self._past:
            told = {sample.uuid for sample in look.samples if sample.processes is not None}
            for key, past in self._past.items():
                if key[0] not in told:  # a GPU, or a list, that is not there just now
                    stat = processes.read_stat(key[1])
                    if stat is not None and stat.start_ticks == key[2]:
                        seen[key] = past
        self._past = seen

    def peak_bytes(self, uuid: str, pids: Iterable[int]) -> int | None:
        """Return the most that these processes held on a GPU within the last hour, together; None if it is not known."""
        wanted = set(pids)
        peaks = [
            max(past.most.values())
            for (where, pid, _start), past in self._past.items()
            if where == uuid and pid in wanted and past.most
        ]
        return sum(peaks) if peaks else None

    def describe(self, uuid: str, process: GpuProcess) -> ForeignProcess:
        """Name a process that is no job's."""
        found = processes.describe(process.pid, process.bytes)
        stat = processes.read_stat(process.pid)
        if stat is not None:
            found = replace(found, still=standing_still(stat))
        past = self._past.get((uuid, process.pid, stat.start_ticks)) if stat is not None else None
        if past is None or past.idle_since is None:
            return found
        idle = self._noted_mono - past.idle_since
        if idle < IDLE_SHOWN_SECONDS:
            return found
        return replace(found, idle_seconds=idle)

    def is_bystander(self, process: GpuProcess, found: ForeignProcess) -> bool:
        """Whether a process does not count as computing."""
        program = basename((found.command or "").partition(" ")[0])
        if program == MPS_SERVER and process.bytes is not None and process.bytes <= MPS_SERVER_BYTES:
            return True
        if program in DISPLAYS and process.bytes is not None and process.bytes <= DISPLAY_BYTES:
            return True
        return any(_names(word, found, program) for word in self.ignored)


def _names(word: int | str, found: ForeignProcess, program: str) -> bool:
    if isinstance(word, int):
        return word == found.pid
    return word == found.user or fnmatchcase(program, word) or fnmatchcase(found.command or "", word)


def _note_size(past: _Past, size: int | None, now_mono: float) -> None:
    if size is None:
        return
    step = int(now_mono // STEP_SECONDS)
    past.most[step] = max(size, past.most.get(step, 0))
    oldest = step - int(HOUR_SECONDS // STEP_SECONDS)
    for old in [old for old in past.most if old < oldest]:
        del past.most[old]


def means_nothing_here(process: GpuProcess) -> bool:
    """Whether the driver names a pid of the machine outside of our container."""
    return processes.is_in_container() and processes.read_stat(process.pid) is None
