"""machine: the queue of the whole machine, switched on once by its administrator.

1. What is written is said, file by file; nothing else is changed.
2. Root never starts what another could exchange: the installation is looked through first, and the first fault is named with
   its remedy.
3. `off` ends no job and leaves nobody standing: while jobs run it refuses, unless it is forced, and then they run on.
"""

import os
import shutil
import subprocess
import sys

from ..errors import GpurunError, UsageError
from ..state import paths
from .machine_units import FOLDER, SERVICE_UNIT, SOCKET_UNIT, texts

Given = dict[str, str | bool]

USAGE = "usage: gpurun machine on|off|status|run"
MARKER_TEXT = (
    "# This machine has one queue, that of gpurun.service: see gpurun-machine(8). `gpurun machine off` removes this.\n"
)
SYSTEMD = "/run/systemd/system"
# Nothing of ours takes as long.
SYSTEMCTL_SECONDS = 60.0


def main(given: Given, operands: list[str]) -> int:
    """Do one of the four."""
    if operands == ["run", "keeper"]:  # what a keeper becomes
        return _run(given, operands[1:])
    if len(operands) != 1 or operands[0] not in _DOES:
        raise UsageError(f"{operands[0]}: one of on, off, status, run" if operands else "on, off, status or run", hint=USAGE)
    if "force" in given and operands[0] != "off":
        raise UsageError("--force goes with off alone", hint=USAGE)
    return _DOES[operands[0]](given)


def _on(_given: Given) -> int:
    _require_root("on")
    python = sys.executable
    refuse_installation()
    print(f"wrote {_write(paths.MACHINE, MARKER_TEXT)}")
    if not os.path.isdir(SYSTEMD):
        print("no systemd runs here: have your supervisor (runit, s6, a terminal) run, as root,")
        print(f"    {python} -I -m gpuwrap machine run")
        return 0
    for name, text in texts(python, paths.MACHINE_BELL).items():
        print(f"wrote {_write(os.path.join(FOLDER, name), text)}")
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", SOCKET_UNIT)
    print(f"started {SOCKET_UNIT}: everybody's gpurun asks {paths.MACHINE_BELL} from now on")
    print("what is in a queue of somebody's own stays there, and both are right")
    return 0


def _off(given: Given) -> int:
    _require_root("off")
    if not os.path.exists(paths.MACHINE):
        print("it is off")
        return 0
    running = _jobs_that_run()
    if running and "force" not in given:
        raise GpurunError(
            f"off: {running} {'job runs' if running == 1 else 'jobs run'}",
            hint="wait for them, or --force: they run on, and nobody orders them any more",
        )
    os.unlink(paths.MACHINE)  # from now on nobody new comes
    print(f"removed {paths.MACHINE}")
    if os.path.isdir(SYSTEMD):
        _systemctl("disable", "--now", SOCKET_UNIT, check=False)
        _systemctl("stop", SERVICE_UNIT, check=False)
    for name in (SOCKET_UNIT, SERVICE_UNIT):
        path = os.path.join(FOLDER, name)
        if os.path.exists(path):
            os.unlink(path)
            print(f"removed {path}")
    if os.path.isdir(SYSTEMD):
        _systemctl("daemon-reload")
        _systemctl("reset-failed", SERVICE_UNIT, SOCKET_UNIT, check=False)
    for path in (paths.MACHINE_RUN, os.path.dirname(paths.MACHINE)):
        try:
            os.rmdir(path)
        except OSError:
            continue
    if os.path.isdir(paths.MACHINE_STATE):
        print(f"{paths.MACHINE_STATE} stays: it has the history; rm -r removes it")
    return 0


def _status(_given: Given) -> int:
    is_on = os.path.exists(paths.MACHINE)
    print(f"{'on' if is_on else 'off'}: {paths.MACHINE} is {'there' if is_on else 'not there'}")
    if not is_on:
        return 0
    print(f"bell: {paths.MACHINE_BELL}: {_bell_says()}")
    if os.path.isdir(SYSTEMD):
        for name in (SOCKET_UNIT, SERVICE_UNIT):
            done = subprocess.run(["systemctl", "is-active", name], capture_output=True, text=True, check=False)
            print(f"{name}: {done.stdout.strip() or 'unknown'}")
    return 0


def _run(_given: Given, words: list[str] | None = None) -> int:
    _require_root("run")
    refuse_installation()
    from ..arbiter.machine import serve_machine

    serve_machine(words or [])
    return 0


_DOES = {"on": _on, "off": _off, "status": _status, "run": _run}


def refuse_installation() -> None:
    """Raise GpurunError if somebody but root could change what root is about to run."""
    from importlib import import_module

    from ..host import installation

    for name in ("arbiter.machine", "host.gpus", "host.simulated"):
        import_module(f"gpuwrap.{name}")
    for name in ("psutil", "filelock", "platformdirs", "pynvml"):
        import_module(name)
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    fault = installation.first_fault(installation.parts(package, list(sys.modules.values())))
    if fault is not None:
        raise GpurunError(f"not run as root from here: {fault.path}: {fault.reason}", hint=fault.remedy)


def _require_root(what: str) -> None:
    if os.geteuid() != 0:
        raise GpurunError(f"{what}: only root can", hint=f"sudo gpurun machine {what}")


def _write(path: str, text: str) -> str:
    """Write a file of root's at once or not at all, and return its path."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    part = f"{path}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(fd, "w") as file:
        os.fchmod(fd, 0o644)
        file.write(text)
    os.rename(part, path)
    return path


def _systemctl(*words: str, check: bool = True) -> None:
    if shutil.which("systemctl") is None:
        raise GpurunError("cannot find systemctl")
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS, check=False)
    if check and done.returncode:
        cause = (done.stderr.strip().splitlines() or ["it does not say why"])[0]
        raise GpurunError(f"systemctl {' '.join(words)}: {cause}")


def _bell_says() -> str:
    """Say whether somebody listens, without waiting for anybody."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        try:
            sock.connect(paths.MACHINE_BELL)
        except BlockingIOError:
            return "busy"
        except FileNotFoundError:
            return "not there: nobody is served until the service, or its socket, is started"
        except ConnectionRefusedError:
            return "nobody listens: nobody is served until the service is started"
        except OSError as err:
            return str(err.strerror).lower()
    return "there"


def _jobs_that_run() -> int:
    """Count the jobs that run by the machine's queue, by its database, which only root can read."""
    from ..state.reading import Reader

    folder = paths.machine_state(create=False)
    try:
        reader = Reader(folder) if folder is not None else None
    except FileNotFoundError:
        return 0
    return len(reader.holding_ids()) if reader is not None else 0
