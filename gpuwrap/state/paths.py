"""Where a world's state lies. The only place that decides it, and the importer of platformdirs.

1. The folder does not depend on HOME or XDG_*: cron, make, sudo -E and a shell agree on it, because the password entry
   decides [run]. `GPURUN_DIR` alone moves it.
2. It lies on a local filesystem from a list (WAL is corrupted by network ones [SQLite, "WAL does not work over a network
   filesystem"]), is mode 0700 and owned by the effective uid, or it is refused.
3. World = machine, pid namespace, Slurm allocation, user (the folder is the user's); simulated GPUs are a world of
   their own.
4. Each call judges what leads to it, before anything is looked for or made there: who made a folder below /var/tmp first,
   or may exchange what is in one, would choose what we find.

The launch path imports this module: outside libraries are imported inside functions.
"""

import os
import stat

from ..errors import StateFolderError

LOCAL_FILESYSTEMS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "tmpfs", "ramfs", "overlay")
)
FALLBACK_ROOT = "/var/tmp"
ELSEWHERE = "set GPURUN_DIR to a private folder on a local disk"

DATABASE = "state.db"
BELL = "bell"
SUMMON = "summon"
LOCK = "arbiter.lock"
LOG = "arbiter.log"

# The machine's queue, where an administrator has switched one on: the mark that says so, where its bell stands, and its state.
MACHINE = "/etc/gpurun/machine"
MACHINE_RUN = "/run/gpurun"
MACHINE_BELL = f"{MACHINE_RUN}/{BELL}"
MACHINE_STATE = "/var/lib/gpurun"


class Folder:
    """A world's open state folder: `fd` addresses what is in it whatever the length of `path`.

    `machine_bell`: where the bell of the machine's queue stands, which is asked then; the folder is the client's own.
    """

    __slots__ = ("fd", "machine_bell", "path")

    def __init__(self, path: str, fd: int, machine_bell: str | None = None) -> None:
        self.path = path
        self.fd = fd
        self.machine_bell = machine_bell

    def inside(self, name: str) -> str:
        """Path of a file in the folder, short enough for a socket address [run: 108 bytes is all there is]."""
        return f"/proc/self/fd/{self.fd}/{name}"

    def bell(self) -> str:
        """Path of the bell to ring."""
        return self.machine_bell or self.inside(BELL)


def world_name(sim: str | None) -> str:
    """Name the world this process lives in. `sim` is the simulated GPUs' spec, if any."""
    name = f"{_machine_id()}-{os.stat('/proc/self/ns/pid').st_ino}"
    if "SLURM_JOB_ID" in os.environ:
        from .allocation import suffix_here

        name += suffix_here()
    if sim:
        name += "-sim-" + "".join(letter if letter.isalnum() or letter in ".-+" else "_" for letter in sim)
    return name


def _machine_id() -> str:
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(path, "rb", buffering=0) as file:
                text = file.read(64).strip().decode("ascii", "replace")
        except OSError:
            continue
        if text.isalnum():
            return text[:12]
    return os.uname().nodename.replace("/", "_")[:40] or "machine"


def open_folder(sim: str | None, *, create: bool = True) -> Folder | None:
    """Open the world's state folder, made on first use; None if it does not exist and `create` is false.

    Raises StateFolderError, with the remedy as its hint where there is one.
    """
    world = world_name(sim)
    chosen = os.environ.get("GPURUN_DIR")
    if chosen:
        path = os.path.join(os.path.abspath(chosen), world)
        return _open(path) or (_make(path, chosen) if create else None)
    home = home_of_user()
    path = os.path.join(home or "/nonexistent", ".local/state/gpurun", world)
    private = f"{FALLBACK_ROOT}/gpurun-{os.geteuid()}"
    folder = _open(path)
    fault = _fault_of_private(private) if folder is None else None
    if folder is None and fault is None:
        folder = _open(f"{private}/{world}")
    if folder is not None:
        return folder
    if home is not None and _may_hold_state(home, path):  # whatever others have put below /var/tmp
        return _make(path, home) if create else None
    if fault is not None:
        raise StateFolderError(private, fault, hint=ELSEWHERE)
    return _make(f"{private}/{world}", FALLBACK_ROOT) if create else None


def slurm_folder() -> str:
    """Return the folder of what was handed to Slurm, which is there once something was: beside the worlds, since in none."""
    chosen = os.environ.get("GPURUN_DIR")
    if chosen:
        return os.path.join(os.path.abspath(chosen), "slurm")
    return os.path.join(home_of_user() or "/nonexistent", ".local/state/gpurun/slurm")


def machine_is_on() -> bool:
    """Whether the machine's queue is the one to ask, as far as the surroundings say: one look at one name."""
    if os.environ.get("GPURUN_DIR") or os.environ.get("SLURM_JOB_ID"):
        return False
    try:
        os.stat(MACHINE)
    except OSError:
        return False
    return True


def is_opted_out() -> bool:
    """Whether the user's own settings say `machine = false`. Only files that name it are read."""
    path = os.path.join(home_of_user() or "/nonexistent", ".config/gpurun/settings.toml")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return False
    try:
        text = os.read(fd, 1 << 16) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return False
    finally:
        os.close(fd)
    if b"machine" not in text:
        return False
    from .settings import read_toml  # some 15 ms: only for who may have said so

    return read_toml(path).get("machine") is False


def machine_state(*, create: bool = True) -> Folder | None:
    """Open the state of the machine's queue; for root alone."""
    path = os.path.join(MACHINE_STATE, world_name(None))
    return _open(path) or (_make(path, "/var/lib") if create else None)


def home_of_user() -> str | None:
    """Return the home folder of the password entry, None if there is no entry."""
    import pwd  # ~0.2 ms, and only without GPURUN_DIR

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir or None
    except KeyError:
        return None


def _open(path: str) -> Folder | None:
    outer = os.path.dirname(path)
    if _is_exchangeable(outer, (0, os.geteuid())):
        raise StateFolderError(outer, "is another user's, and open to all", hint=ELSEWHERE)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise StateFolderError(path, str(err.strerror).lower()) from err
    facts = os.fstat(fd)
    if facts.st_uid != os.geteuid():
        os.close(fd)
        raise StateFolderError(path, f"belongs to uid {facts.st_uid}", hint=ELSEWHERE)
    if stat.S_IMODE(facts.st_mode) & 0o077:
        os.close(fd)
        raise StateFolderError(path, "others may enter it", hint=f"chmod 700 {path}")
    return Folder(path, fd)


def _make(path: str, root: str) -> Folder:
    """Create the folder and what leads to it from `root` on; the filesystem is judged first."""
    kind = filesystem_of(root)
    if kind not in LOCAL_FILESYSTEMS:
        raise StateFolderError(root, f"{kind} is no local filesystem", hint=ELSEWHERE)
    try:
        if root == FALLBACK_ROOT:
            _refuse_private_root()
            _make_private(os.path.dirname(path))
        else:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        os.mkdir(path, 0o700)
        os.chmod(path, 0o700)  # the umask may have taken more away than we ask for
    except FileExistsError:
        pass  # somebody was quicker; _open judges what is there
    except OSError as err:
        raise StateFolderError(path, str(err.strerror).lower()) from err
    folder = _open(path)
    if folder is None:
        raise StateFolderError(path, "vanished while it was being opened")
    return folder


def _refuse_private_root() -> None:
    """Refuse a root that systemd has made for one unit (PrivateTmp=): a queue in there would be that unit's alone."""
    if "/systemd-private-" in _mount_of(FALLBACK_ROOT)[1]:
        hint = f"{ELSEWHERE}, the same for all of your shells and units"
        raise StateFolderError(FALLBACK_ROOT, "is this unit's own (PrivateTmp=): nobody else would see the queue", hint=hint)


def _make_private(path: str) -> None:
    """Make a folder where anybody may make one; what is there already must be ours alone."""
    if not _is_exchangeable(os.path.dirname(path)):
        try:
            os.mkdir(path, 0o700)
            os.chmod(path, 0o700)
        except FileExistsError:
            pass
    fault = _fault_of_private(path)
    if fault is not None:
        raise StateFolderError(path, fault, hint=ELSEWHERE)


def _fault_of_private(path: str) -> str | None:
    """Say what is wrong with a folder that anybody could have made first; None if it is ours alone, or could be made."""
    if _is_exchangeable(os.path.dirname(path)):
        return "others may exchange it"
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    is_ours = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not stat.S_IMODE(facts.st_mode) & 0o022
    return None if is_ours else "not a private folder of ours"


def _is_exchangeable(path: str, chosen_by: tuple[int, ...] = ()) -> bool:
    """Whether anybody may exchange what is in a folder for his own; not if it is not there, or as some owners wish it."""
    try:
        facts = os.stat(path)
    except OSError:
        return False
    is_open = bool(facts.st_mode & stat.S_IWOTH) and not facts.st_mode & stat.S_ISVTX
    return is_open and facts.st_uid not in chosen_by


def _may_hold_state(home: str, path: str) -> bool:
    existing = path
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    below_home = existing == home or existing.startswith(home.rstrip("/") + "/")
    return below_home and os.access(existing, os.W_OK) and filesystem_of(existing) in LOCAL_FILESYSTEMS


def filesystem_of(path: str) -> str:
    """Name the type of the filesystem that `path` (or its nearest existing parent) lies on, from mountinfo [proc(5)].

    statfs would tell by number, but Python does not offer it. "unknown" if /proc cannot be read.
    """
    return _mount_of(path)[0]


def _mount_of(path: str) -> tuple[str, str]:
    """Return the type of a path's filesystem, and what of it is mounted there."""
    while path != "/" and not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    real = os.path.realpath(path)
    best, found = "", ("unknown", "")
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return found
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].replace("\\040", " ")
        covers = real == point or real.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= len(best):  # of two mounts on one point the later is the visible one
            best, found = point, (rest.split(" ")[0], fields.split(" ")[3])
    return found
