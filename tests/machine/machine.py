"""A Debian machine booted by systemd, in a container on this kernel: PID 1, logind, user managers, sshd, two users.

    with Machine(folder) as machine:
        machine.install(command)
        machine.run("ana", "gpurun ls")               in a login session that ends with the command
        ana = machine.log_in("ana"); ana.do("gpurun python x.py &"); ana.log_out()

1. It is built once, into `folder` (a tar, some 200 MB, by mmdebstrap from the package source that this Debian uses), and
   unpacked anew for each `Machine`. Nothing of this machine is changed; nothing listens outside of the container, whose
   network is its own: ssh enters its namespaces.
2. Its GPUs are the stand-in NVML library. `gpujob` (gpujob.py) is what computes on them.
3. Not as on a real machine: there is no memory controller, and a reboot changes the pid namespace (see `reboot`).
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from standin import GIB, Gpu, build
from waiting import wait_until

TOOLS = ("mmdebstrap", "systemd-nspawn", "ssh", "ssh-keygen", "nsenter", "unshare", "gcc")
USERS = {"ana": 1001, "ben": 1002, "carla": 1003}
SUITE = "trixie"
PACKAGES = "systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,polkitd,openssh-server,python3,python3-venv,procps,"
PACKAGES += "util-linux,sudo"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GPU_FOLDER, BEATS = "/opt/gpus", "/var/tmp/beats"
# Put in place of what it says while the machine is up.
LOGIND = "/etc/systemd/logind.conf.d/test.conf"
BOOT = """
umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup || exit 1
exec env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -q --boot --register=no --keep-unit --console=pipe \\
    -D "$1" -M gpubox --private-network --capability=all
"""
INSTALL = f"""
set -e; rm -rf /opt/gpurun; mkdir -p /opt/gpurun {GPU_FOLDER} {BEATS}; cd /opt/gpurun; tar -xf -
python3 -m venv venv; venv/bin/pip install -q --no-index --find-links wheels ./src
ln -sf /opt/gpurun/venv/bin/gpurun /usr/local/bin/gpurun; install gpujob.py /usr/local/bin/gpujob
cp -r gpus/. {GPU_FOLDER}; echo {GPU_FOLDER} >/etc/ld.so.conf.d/gpus.conf; ldconfig
chmod -R a+rX /opt; chmod 1777 {GPU_FOLDER}/alloc/* {BEATS}
"""


def why_not() -> str | None:
    """Why no machine can be had here; None if one can."""
    if os.geteuid() != 0:
        return "only root can start a machine"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


class Machine:
    """One machine, up between `__enter__` and `__exit__`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / f"root-{os.getpid()}"
        self._container: subprocess.Popen[bytes] | None = None
        self._sessions: list[Session] = []

    # --- building, starting, stopping ---------------------------------------------------------------------------

    def __enter__(self) -> "Machine":
        try:
            self._build()
            self.root.mkdir()
            subprocess.run(["tar", "-C", self.root, "-xpf", self.folder / "root.tar", "--numeric-owner"], check=True)
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._container is not None:
            if self._container.poll() is None and self.init_pid() is not None:
                self.run("root", "systemctl poweroff", check=False)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._container.wait(120)
            if self._container.poll() is None:
                self._container.kill()  # the container's namespace ends with it
                self._container.wait()
        shutil.rmtree(self.root, ignore_errors=True)

    def _build(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not (self.folder / "key").exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / "key"], check=True)
        if (self.folder / "root.tar").exists():
            return
        key = self.folder / "key.pub"
        homes = " ".join(f"home/{user}" for user in USERS)
        hooks = [
            *(f'chroot "$1" useradd -m -u {uid} -s /bin/bash {user}' for user, uid in USERS.items()),
            f'for home in root {homes}; do mkdir -p -m 700 "$1/$home/.ssh"; cp {key} "$1/$home/.ssh/authorized_keys"; done',
            *(f'chroot "$1" chown -R {user}:{user} /home/{user}' for user in USERS),
            'echo gpubox >"$1/etc/hostname"; echo "127.0.0.1 localhost gpubox" >"$1/etc/hosts"',
            'echo "MaxStartups 100" >"$1/etc/ssh/sshd_config.d/tests.conf"; chroot "$1" systemctl enable ssh',
        ]  # fmt: skip
        words = [f"--customize-hook={hook}" for hook in hooks]
        made = self.folder / "root.part.tar"
        options = ["--quiet", "--variant=minbase", f"--include={PACKAGES}", *words]
        subprocess.run(["mmdebstrap", *options, SUITE, str(made), package_source()], check=True, timeout=900)
        made.rename(self.folder / "root.tar")

    def _start(self) -> None:
        log = (self.folder / "nspawn.log").open("ab")
        with log:
            self._container = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "--cgroup", "sh", "-c", BOOT, "boot", self.root],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.until_up()

    def until_up(self) -> None:
        wait_until(lambda: self.run("root", "true", check=False).returncode == 0, "the machine to be up", 60)

    def init_pid(self) -> int | None:
        """The container's first process, as seen from here: the child of systemd-nspawn."""
        assert self._container is not None
        for pid in [self._container.pid, *children(self._container.pid)]:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text() == "systemd-nspawn\n":
                    return next(iter(children(pid)), None)
        return None

    def reboot(self) -> None:
        """Reboot; returns once it is up again.

        The first pid namespace of a real machine is the same at each boot, and so is the name of a world's folder. A
        container's is not, so its folders are given the name that they would have kept.
        """
        assert self._container is not None
        names = self._world_ends()
        self.run("root", "systemctl reboot", check=False)
        self._container.wait(100)
        self._start()
        for user, folders in names.items():
            world = self.run(user, f"{PYTHON} -c '{WORLD_NAME}'").stdout.strip()
            for folder in folders:
                if os.path.basename(folder) != world:
                    self.run("root", f"mv -T {folder} {os.path.dirname(folder)}/{world}")

    def _world_ends(self) -> dict[str, list[str]]:
        return {
            user: self.run("root", f"ls -d /home/{user}/.local/state/gpurun/* 2>/dev/null", check=False).stdout.split()
            for user in USERS
        }

    def install(self, source: Path = ROOT) -> None:
        """Install gpurun and what it needs (as wheels: there is no network), GPUs and gpujob for everybody."""
        work = self.folder / f"install-{os.getpid()}"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            subprocess.run(["git", "clone", "-q", source, work / "src"], check=True)
            version = self.run("root", "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'").stdout.strip()
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", f"--python-version={version}",
                 "-d", work / "wheels", "setuptools", "wheel", "hatchling", *dependencies(work / "src")],
                check=True, timeout=300,
            )  # fmt: skip
            (work / "gpus").mkdir()
            build(work / "gpus", Gpu(total=80 * GIB, reserved=0), Gpu(total=80 * GIB, reserved=0))
            shutil.copy(HERE / "gpujob.py", work)
            packed = subprocess.run(["tar", "-C", work, "-cf", "-", "."], check=True, capture_output=True).stdout
            self.run("root", INSTALL, input=packed, timeout=300)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # --- what is done on it -------------------------------------------------------------------------------------

    def words(self, user: str) -> list[str]:
        """The command line of an ssh into it."""
        pid = self.init_pid()
        given = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10", "ServerAliveInterval=3")
        options = [word for option in given for word in ("-o", option)]
        key = str(self.folder / "key")
        return ["nsenter", "-t", str(pid), "-n", "ssh", "-q", *options, "-i", key, f"{user}@127.0.0.1"]

    def run(
        self, user: str, script: str, *, check: bool = True, input: bytes = b"", timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script of bash in a login session, which is over when it is."""
        if self.init_pid() is None:
            return subprocess.CompletedProcess([], 255, "", "the machine is down")
        done = subprocess.run([*self.words(user), script], input=input, capture_output=True, timeout=timeout, check=False)
        result = subprocess.CompletedProcess(script, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert not check or done.returncode == 0, f"{user}: {script}: exit {done.returncode}: {result.stdout}{result.stderr}"
        return result

    def log_in(self, user: str) -> "Session":
        """Open a login session that stays."""
        self._sessions.append(Session(self, user))
        return self._sessions[-1]

    def kill_user_processes(self, value: bool) -> None:
        """Set what a logout ends."""
        text = f"[Login]\\nKillUserProcesses={'yes' if value else 'no'}\\n"
        self.run("root", f"mkdir -p {os.path.dirname(LOGIND)}; printf '{text}' >{LOGIND}; systemctl restart systemd-logind")

    def linger(self, user: str, value: bool) -> None:
        self.run("root", f"loginctl {'enable' if value else 'disable'}-linger {user}")

    def clear(self) -> None:
        """Have nobody be logged in or linger, no job be known and no unit of a test be left."""
        for session in self._sessions:
            session.log_out()
        self._sessions.clear()
        slices = " ".join(f"user-{uid}.slice" for uid in USERS.values())
        script = f"""
            loginctl disable-linger {" ".join(USERS)}
            systemctl kill -s KILL {slices} 'test-*'
            systemctl stop {slices} 'test-*'
            systemctl reset-failed
            rm -rf /home/*/.local/state/gpurun /root/.local/state/gpurun {BEATS}/* {GPU_FOLDER}/alloc/*/*
        """
        self.run("root", script, check=False)

    # --- what is seen -------------------------------------------------------------------------------------------

    def beats(self, tag: str) -> list[str]:
        """What a gpujob wrote: a line for each step, and one for each signal that reached it."""
        return self.run("root", f"cat {BEATS}/{tag} 2>/dev/null", check=False).stdout.split("\n")[:-1]

    def until_beats(self, tag: str, count: int = 3) -> None:
        """Wait until it makes steps, from now on."""
        before = len(self.beats(tag))
        wait_until(lambda: len(self.beats(tag)) >= before + count, f"{tag} to make steps", 30)

    def stands_still(self, tag: str) -> bool:
        """Whether it makes no step for a third of a second."""
        counted = self.run("root", f"wc -l <{BEATS}/{tag}; sleep 0.3; wc -l <{BEATS}/{tag}").stdout.split()
        return counted[0] == counted[1]

    def until_still(self, tag: str) -> None:
        wait_until(lambda: self.stands_still(tag), f"{tag} to stand still", 30)

    def arbiter_of(self, user: str) -> str:
        """The cgroup that the user's arbiter lives in; empty without one."""
        script = f"pid=$(pgrep -u {user} -x gpurun-arbiter) && grep ^0:: /proc/$pid/cgroup"
        return self.run("root", script, check=False).stdout.strip()

    def until_moved(self, user: str) -> None:
        """Wait until the user's arbiter lives in a scope of its own."""
        wait_until(lambda: "/gpurun-arbiter-" in self.arbiter_of(user), f"the arbiter of {user} to move", 20)

    def until_running(self, tag: str) -> None:
        wait_until(lambda: self.beats(tag), f"{tag} to run", 30)

    def stopped(self) -> str:
        """Processes that stand stopped, and groups that are frozen, in words; empty if there are none."""
        script = "ps -eo stat=,pid=,args= | grep ^T; grep -rl 'frozen 1' /sys/fs/cgroup --include=cgroup.events"
        return self.run("root", script, check=False).stdout


class Session:
    """A login session: a shell that reads what it is told."""

    def __init__(self, machine: Machine, user: str) -> None:
        self._shell = subprocess.Popen(
            [*machine.words(user), "exec bash"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.cgroup = self.do("grep ^0:: /proc/self/cgroup")

    def do(self, script: str) -> str:
        """Run a script in it and return what it says."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{script}\necho; echo =over=\n")
        self._shell.stdin.flush()
        said = []
        for line in self._shell.stdout:
            if line == "=over=\n":
                return "".join(said).strip()
            said.append(line)
        raise AssertionError(f"the session has ended: {''.join(said)}")

    def log_out(self) -> None:
        """As when the connection is cut."""
        self._shell.kill()
        self._shell.wait()
        for stream in (self._shell.stdin, self._shell.stdout):
            if stream is not None:
                stream.close()


PYTHON = "/opt/gpurun/venv/bin/python"
WORLD_NAME = "from gpuwrap.state.paths import world_name; print(world_name(None))"


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def package_source() -> str:
    """Where this Debian has its packages from."""
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for line in path.read_text().splitlines():
            if line.startswith("URIs:"):
                return line.split()[1]
    with contextlib.suppress(OSError):
        for line in Path("/etc/apt/sources.list").read_text().splitlines():
            if line.startswith("deb "):
                return next(word for word in line.split() if "://" in word)
    raise AssertionError("no package source is known: /etc/apt")


def dependencies(source: Path) -> list[str]:
    import tomllib

    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    return [text.replace(" ", "") for text in project["dependencies"]]
