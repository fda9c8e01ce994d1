"""A machine of its own as far as files go: a mount namespace with its own /etc, /run, /var/lib and homes, and three users.

    with Box(tmp_path) as box:
        box.switch_on(); box.run("anna", "gpurun -d sleep 5")

1. Nothing outside is changed: what is written lies in memory and goes with the namespace.
2. Processes, sockets without files and GPUs (the stand-in library) are the machine's own: pids and claims are real.
3. The installation under test is made readable for all inside, as one of an administrator's would be.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from standin import GIB, Gpu, build
from waiting import wait_until

USERS = {"root": 0, "anna": 4001, "bob": 4002, "carla": 4003, "dave": 4004}
SETUP = """
set -e
mount -t tmpfs none "$1"; cd "$1"
for folder in /etc /run /var/lib /root; do
    name=$(echo "$folder" | tr / _); mkdir "$name" "$name.work"
    mount -t overlay -o "lowerdir=$folder,upperdir=$1/$name,workdir=$1/$name.work" none "$folder"
done
mount -t tmpfs none /home
chmod 755 /root
while read -r name uid; do
    echo "$name:x:$uid:$uid::/home/$name:/bin/sh" >>/etc/passwd; echo "$name:x:$uid:" >>/etc/group
    mkdir -p "/home/$name"; chown "$uid:$uid" "/home/$name"
done
echo ready
exec sleep 100000
"""


def why_not() -> str | None:
    """Why no such machine can be had here; None if one can."""
    if os.geteuid() != 0:
        return "only root can have users of its own"
    missing = [tool for tool in ("unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "mount -t tmpfs none /mnt && cd /mnt && mkdir a b &&"
             " mount -t overlay -o lowerdir=/etc,upperdir=/mnt/a,workdir=/mnt/b none /etc"]  # fmt: skip
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return "the kernel has no overlay filesystem for us"
    return None


class Box:
    """One machine, there between `__enter__` and `__exit__`."""

    def __init__(self, folder: Path, gpus: int = 2) -> None:
        self.folder = folder
        (folder / "layer").mkdir()
        os.chmod(folder, 0o755)
        self.nvml = build(folder, *(Gpu(total=80 * GIB, reserved=0) for _ in range(gpus)))
        self._holder: subprocess.Popen[str] | None = None
        self._arbiter: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Box":
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", SETUP, "box", str(self.folder / "layer")]
        self._holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write("".join(f"{name} {uid}\n" for name, uid in USERS.items() if uid))
        self._holder.stdin.close()
        assert self._holder.stdout.readline() == "ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run("root", "gpurun machine off --force", check=False)
        for process in self._started:
            process.kill()
            process.wait()
        for pid in self.arbiters():
            os.kill(pid, 15)  # it tells its keeper to go, which would else become the next
        wait_until(lambda: not self.arbiters(), "the arbiter to have left", 20)
        for process in (self._arbiter, self._holder):
            if process is not None:
                process.kill()
                process.wait()

    def words(self, user: str, script: str, **variables: str) -> list[str]:
        """The command line that runs a script as a user inside."""
        assert self._holder is not None
        uid = str(USERS[user])
        path = f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"
        home = "/root" if user == "root" else f"/home/{user}"
        given = [f"{name}={value}" for name, value in {"PATH": path, "HOME": home, **variables}.items()]
        inside = ["nsenter", "-t", str(self._holder.pid), "-m", "--", "env", "-i", *given]
        return [*inside, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "sh", "-c", f"cd; {script}"]

    def run(self, user: str, script: str, *, check: bool = True, **variables: str) -> "subprocess.CompletedProcess[str]":
        """Run a script of a user's to its end, without a terminal, in a session of its own."""
        done = subprocess.run(
            self.words(user, script, **variables), capture_output=True, text=True, timeout=60, check=False,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{user}: {script}: exit {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(self, user: str, script: str, **settings: Any) -> "subprocess.Popen[str]":
        """Start a script of a user's; it is ended with the box."""
        self._started.append(
            subprocess.Popen(
                self.words(user, script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True, **settings,
            )
        )  # fmt: skip
        return self._started[-1]

    def settings(self, text: str) -> None:
        """Write what the administrator says."""
        self.run("root", f"mkdir -p /etc/gpurun; cat >/etc/gpurun/settings.toml <<'END'\n{text}\nEND")

    def switch_on(self) -> None:
        """Have the machine's queue, and its arbiter run in the foreground, as a supervisor would."""
        self.run("root", "gpurun machine on")
        self.start_arbiter()

    def start_arbiter(self) -> None:
        """Start `gpurun machine run`."""
        log = (self.folder / "arbiter.log").open("ab")
        words = self.words("root", "exec gpurun machine run", LD_LIBRARY_PATH=self.nvml.environment["LD_LIBRARY_PATH"])
        self._arbiter = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        log.close()
        wait_until(lambda: self.run("root", "gpurun ls", check=False).returncode == 0, "the machine's arbiter to answer", 20)

    def arbiters(self) -> list[int]:
        """The machine's arbiters inside, by pid: those that have its namespace."""
        assert self._holder is not None
        ours = os.readlink(f"/proc/{self._holder.pid}/ns/mnt") if self._holder.poll() is None else None
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                named = Path(f"/proc/{name}/comm").read_text() == "gpurun-arbiter\n"
                if named and ours is not None and os.readlink(f"/proc/{name}/ns/mnt") == ours:
                    found.append(int(name))
            except OSError:
                continue
        return found

    def log(self) -> str:
        """What the arbiter said."""
        return (self.folder / "arbiter.log").read_text()
