"""doctor: is everything here that gpurun needs, and what to do about what is not.

Each line begins with `ok`, `note` (works, but you may want to know), `bad` (something does not work), `unproven` (cannot
be seen from here) or `mended`. A bad one is followed by what to do. It starts nothing but a look at the GPUs; only where
somebody stands still whom gpurun has forgotten is the arbiter asked, which lets him go on.
"""

import contextlib
import json
import os
import select
import socket
import sys
from collections.abc import Callable, Iterator

from .. import __version__
from ..arbiter.pausing import forgotten
from ..arbiter.seeing import strangers
from ..client.call import Call, knock
from ..errors import SOME_FAILED, GpurunError, UsageError
from ..host import bus, inherited, processes
from ..host.devices import Devices, Look
from ..host.simulated import sim_root_of
from ..launch.request import DRIVER, simulated, stray_simulation
from ..lifecycle import JobState
from ..model import GpuProcess
from ..state import paths, settings
from ..state.reading import Reader
from ..state.trial import LEAST_BYTES, database_bytes, why_unwritable
from ..units import format_size
from ..wire import PROTOCOL, pack
from . import whereabouts
from .asking import Given
from .finding import Finding
from .replayed import MOST_JOBS, advice

LOOK_SECONDS = 5.0
# Less than this on the state folder's disk and registering may soon fail.
LOW_BYTES = 64 * 2**20


def main(given: Given, operands: list[str]) -> int:
    """Check everything; exit 1 if something is bad."""
    if operands:
        raise UsageError(f"{operands[0]}: doctor takes no operand")
    sim = simulated(given)
    checks: list[Callable[[], Iterator[Finding]]] = [
        _program,
        lambda: _driver(sim),
        lambda: _gpus(sim),
        lambda: _state(sim),
        lambda: _forgotten(sim),
        lambda: _limits(sim),
        lambda: _settings(sim),
        lambda: _order(sim),
        _claims,
        _exit_status,
        whereabouts.freezing,
        whereabouts.logouts,
        lambda: whereabouts.residence(_arbiter_pid(sim)),
    ]
    bad, told = False, set()
    for check in checks:
        for found in _guarded(check):
            if found in told:
                continue  # what stands in the way of many checks is one thing
            told.add(found)
            bad |= found.verdict == "bad"
            print(f"{found.verdict:<8}  {found.subject:<12}  {found.text}")
            if found.help:
                print(f"{'':<24}{found.help}")
            sys.stdout.flush()
    return SOME_FAILED if bad else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """One check that fails must not hide the others."""
    try:
        yield from check()
    except GpurunError as err:
        yield Finding("bad", "gpurun", err.text, err.hint or "")
    except bus.Refused as refused:
        yield Finding("unproven", "logout", f"nobody knows what a logout ends: logind {refused.text}")
    except OSError as err:
        yield Finding("bad", "gpurun", str(err))


def _program() -> Iterator[Finding]:
    yield Finding("ok", "gpurun", f"{__version__}, Python {sys.version.split()[0]}, {os.path.dirname(sys.executable)}")
    marker = os.environ.get("GPURUN_JOB")
    if marker:
        yield Finding("note", "gpurun", f"GPURUN_JOB={marker}: started inside a job, or in what it left (tmux, at)")


def _driver(sim: str | None) -> Iterator[Finding]:
    if sim is not None:
        stray = stray_simulation({}) if os.environ.get("GPURUN_SIM") == sim else None
        yield Finding("note", "driver", f"not asked: simulated GPUs ({sim})", stray or "")
        return
    try:
        with open(DRIVER) as file:
            line = file.readline().strip().removeprefix("NVRM version: ")
    except OSError:
        help = "install NVIDIA's driver, or try gpurun demo; in a container: --gpus all"
        yield Finding("bad", "driver", f"no NVIDIA kernel module is loaded ({DRIVER})", help)
        return
    yield Finding("ok", "driver", " ".join(line.split()))


def _gpus(sim: str | None) -> Iterator[Finding]:
    look = _look(sim)
    if look is None:
        yield Finding("bad", "NVML", f"the driver does not answer within {LOOK_SECONDS:.0f} s", "try nvidia-smi; then reboot")
        return
    if look.fault is not None:
        yield Finding("bad", "NVML", look.fault, "nvidia-smi must work first; gpurun demo needs no GPU")
        return
    for sample in look.samples:
        name = f"GPU {sample.index}"
        size = "memory unknown" if sample.total_bytes is None else format_size(sample.total_bytes)
        if sample.fault is not None:
            yield Finding("bad", name, f"{sample.name}: {sample.fault}", f"meanwhile: gpurun gpus drain {sample.index}")
        elif sample.processes is None:
            help = "gpurun cannot see who computes there, and counts it as taken"
            yield Finding("bad", name, f"{sample.name}, {size}: the driver does not name its processes", help)
        else:
            yield Finding("ok", name, f"{sample.name}, {size}")
            yield from _blind_spots(name, sample.processes)
    if not look.samples:
        yield Finding("bad", "NVML", "the driver has no GPU", "nvidia-smi -L must list one")


def _blind_spots(name: str, found: tuple[GpuProcess, ...]) -> Iterator[Finding]:
    """What the driver leaves out of its list: memory on WSL2 and elsewhere, and in containers who it is about."""
    if any(strangers.means_nothing_here(process) for process in found):
        help = "only the memory in all counts; start the container with --pid host to see who computes"
        yield Finding("note", name, "the driver names processes that cannot be seen from this container", help)
    if any(process.bytes is None for process in found):
        yield Finding("note", name, "the driver does not say how much each process holds: only the memory in all counts")


def _look(sim: str | None) -> Look | None:
    devices: Devices
    if sim is not None:
        from ..host.simulated import SimulatedDevices

        folder = paths.open_folder(sim)
        assert folder is not None
        devices = SimulatedDevices(sim, folder.path, os.fstat(folder.fd).st_ino)
    else:
        from ..host.gpus import NvidiaDevices

        devices = NvidiaDevices()
    try:
        devices.begin_look()
        ready, _, _ = select.select([devices.fileno()], [], [], LOOK_SECONDS)
        return devices.finish_look() if ready else None
    except BlockingIOError:
        return None
    finally:
        devices.close()


def _state(sim: str | None) -> Iterator[Finding]:
    try:
        folder = paths.open_folder(sim, create=True)
    except GpurunError as err:
        yield Finding("bad", "state", err.text, err.hint or paths.ELSEWHERE)
        return
    assert folder is not None
    kind = paths.filesystem_of(folder.path)
    if kind not in paths.LOCAL_FILESYSTEMS:
        yield Finding("bad", "state", f"{folder.path}: {kind} is no local filesystem", "set GPURUN_DIR to a local folder")
    elif not os.environ.get("GPURUN_DIR") and folder.path.startswith(paths.FALLBACK_ROOT):
        text = f"{folder.path} ({kind}), since the home folder is not local or not writable"
        yield Finding("note", "state", text, "GPURUN_DIR moves it; all of your shells and cron need the same one")
    else:
        yield Finding("ok", "state", f"{folder.path} ({kind})")
    space = os.statvfs(folder.path)
    if space.f_bavail * space.f_frsize < LOW_BYTES:
        yield Finding("bad", "disk", f"{format_size(space.f_bavail * space.f_frsize)} left", "free some space")
    refused = why_unwritable(folder)
    if refused is not None:
        help = "running jobs are not affected; no job starts or ends in the queue until it can be written again"
        yield Finding("bad", "database", f"cannot be written: {refused}", help)
    try:
        reader = Reader(folder)
        live = len(reader.jobs(ended=False))
        yield Finding("ok", "database", f"version {reader.version}, {live} live job{'' if live == 1 else 's'}")
    except FileNotFoundError:
        live = 0
        yield Finding("ok", "database", "none yet: the first job makes it")
    sock = knock(folder, 5.0)
    if sock is not None:
        sock.close()
        yield Finding("ok", "arbiter", "is up")
    elif live:
        yield Finding("bad", "arbiter", "none is up although jobs are there", "gpurun ls starts one, which repairs")
    else:
        yield Finding("ok", "arbiter", "none is up, none is needed: no job is there")


# What is told of a limit, or of what else was inherited, and what comes of it.
_LACKS: dict[str, tuple[Callable[[float], str], str]] = {
    "Max file size": (lambda n: f"no file may grow over {format_size(int(n))} (ulimit -f)", "nor may the queue's database"),
    "Max cpu time": (lambda n: f"{n:.0f} s of processor time at most (ulimit -t)", "then it is killed"),
    "Max address space": (lambda n: f"{format_size(int(n))} of addresses (ulimit -v)", "the driver's library may not fit"),
    "Max data size": (lambda n: f"{format_size(int(n))} of data (ulimit -d)", "the driver's library may not fit"),
    "Max open files": (lambda n: f"{n:.0f} descriptors (ulimit -n)", "who waits beyond that is not let in yet"),
    "Max processes": (lambda n: f"{n:.0f} processes (ulimit -u)", "it may lack a keeper, or threads to look at the GPUs"),
    "niceness": (lambda n: f"niceness {n:.0f}", "it is slow to answer while others compute"),
    "policy": (lambda n: f"scheduling policy {n:.0f} (chrt -p)", "it is slow to answer while others compute"),
    "oom_score_adj": (lambda n: f"oom_score_adj {n:.0f}", "it is among the first to be killed when memory runs out"),
}


def _limits(sim: str | None) -> Iterator[Finding]:
    """What the living arbiter got from whoever came first, and what one would get from this shell."""
    folder = paths.open_folder(sim, create=False)
    well = True
    if pid := _arbiter_pid(sim):
        for found in _lacks(pid, f"the arbiter (pid {pid})", "a gpurun from where that is not so has it replaced", folder):
            well = False
            yield found
    for found in _lacks(os.getpid(), "this shell", "an arbiter that is started here has it, too", folder):
        well = False
        yield found
    if well:
        yield Finding("ok", "limits", "none of this shell or of an arbiter is in the way")


def _lacks(pid: int, whose: str, help: str, folder: paths.Folder | None) -> Iterator[Finding]:
    used = database_bytes(folder) if folder is not None else 0
    for name, value in inherited.lacking(pid):
        words, outcome = _LACKS[name]
        is_full = name == "Max file size" and used + LEAST_BYTES > value
        if is_full:
            outcome = f"the queue's database has {format_size(used)}, and cannot be written"
        yield Finding("bad" if is_full else "note", "limits", f"{whose}: {words(value)}: {outcome}", help)


def _forgotten(sim: str | None) -> Iterator[Finding]:
    """Whoever stands still because of us, and no row knows why."""
    folder = paths.open_folder(sim, create=False)
    found = [(each, each.who()) for each in _who_stands_still(folder, sim)] if folder is not None else []
    if folder is None or not found:
        return
    Call(folder, sim).ask(pack("mend", version=PROTOCOL))
    still = {each.stat.pid for each in _who_stands_still(folder, sim)}
    for each, who in found:
        job = f"job {each.job_id}"
        if each.stat.pid in still:
            help = f"{folder.path}/{paths.LOG} may tell why"
            yield Finding("bad", job, f"{who} stands still for a job that has ended, and cannot be let go", help)
        elif not each.is_still():
            yield Finding("mended", job, f"{who} {forgotten.WORDS}")


def _who_stands_still(folder: paths.Folder, sim: str | None) -> list[forgotten.Forgotten]:
    try:
        reader = Reader(folder)
        jobs = {job.id: job for job in reader.jobs(ended=True)}
    except (FileNotFoundError, GpurunError):
        jobs = {}

    def is_paused(job_id: int, _group: str) -> bool:
        return job_id in jobs and jobs[job_id].state in (JobState.PAUSED, JobState.SUSPENDED)

    def is_known(job_id: int, stat: processes.Stat) -> bool:
        return job_id in jobs and jobs[job_id].identity.start_ticks <= stat.start_ticks

    return forgotten.find(folder, sim_root_of(folder.path) if sim is not None else None, is_paused, is_known)


def _settings(sim: str | None) -> Iterator[Finding]:
    """Every value with where it comes from, as a line that a settings file may have."""
    try:
        read = settings.read_settings()
    except GpurunError as err:
        yield Finding("bad", "settings", err.text.removeprefix("cannot use settings: "), err.hint or "mend that line")
        if _arbiter_pid(sim):
            yield Finding("note", "settings", "the arbiter goes on with what it read before, until that is mended")
        return
    yield Finding("ok", "settings", "looked for in " + ", ".join(settings.files()))
    for name, value in read.written.items():
        source = read.sources.get(name, "default")
        yield Finding("ok", "settings", f"{name} = {json.dumps(value, ensure_ascii=False, default=str)} ({source})")


def _order(sim: str | None) -> Iterator[Finding]:
    """What another order would have brought for the latest jobs, if that is much."""
    folder = paths.open_folder(sim, create=False)
    if folder is None or settings.read_settings()["order"] != "arrival":
        return
    with contextlib.suppress(FileNotFoundError):
        text = advice(Reader(folder).history(None, None, MOST_JOBS))
        if text is not None:
            yield Finding("note", "order", text, "gpurun history --replay says more; man gpurun, SETTINGS, what it means")


def _arbiter_pid(sim: str | None) -> int:
    """Return the arbiter's pid, 0 if none is up."""
    folder = paths.open_folder(sim, create=False)
    sock = knock(folder, LOOK_SECONDS) if folder is not None else None
    if sock is None:
        return 0
    pid = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    sock.close()
    return pid


def _claims() -> Iterator[Finding]:
    """Abstract sockets must be there, and how far they reach is worth knowing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.bind(f"\0gpurun/doctor-{os.getpid()}")
        except OSError as err:
            help = "without claims another user's gpurun may take the same GPU: run the queue of one user only"
            yield Finding("bad", "claims", f"abstract sockets cannot be had: {err.strerror}", help)
            return
    held = _claimed()
    namespace = os.readlink("/proc/self/ns/net")
    yield Finding("ok", "claims", f"seen by every user of this network namespace ({namespace}); {held} held now")
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        help = "start it with --network host --pid host, or give each container GPUs of its own"
        yield Finding("note", "claims", "this is a container: gpuruns outside of it are not seen", help)


def _claimed() -> int:
    try:
        with open("/proc/net/unix") as file:
            return len({line.split()[-1] for line in file if "@gpurun/GPU" in line or "@gpurun/MIG" in line})
    except OSError:
        return 0


def _exit_status() -> Iterator[Finding]:
    """Let a child end, reap it, and ask the kernel how it ended, as for a job that is no child of ours."""
    child = os.fork()
    if child == 0:
        os._exit(7)
    pidfd = os.pidfd_open(child)
    identity = processes.identify(child)
    os.waitpid(child, 0)
    status = processes.exit_status(pidfd, identity) if identity is not None else None
    os.close(pidfd)
    if status is not None and os.waitstatus_to_exitcode(status) == 7:
        yield Finding("ok", "exit status", f"this kernel ({os.uname().release}) tells it of every job")
        return
    text = f"this kernel ({os.uname().release}) tells it only of some jobs; others end as unknown"
    yield Finding("note", "exit status", text, "Linux 6.15 tells it of all; the program's own caller always gets it")
