"""A Slurm of the tests' own: munged, slurmctld and a slurmd for each node, on loopback, with GPUs that are character devices.

1. Nothing below /etc is touched and no systemd is needed; it needs root, and the packages slurm-wlm and munge.
2. Every process is ended by `close`, known by its pid and start time; jobs first, so that no step outlives its node.
3. The GPUs must be character devices: for plain files slurmd sets no CUDA_VISIBLE_DEVICES [run, 22.05].
"""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psutil
from waiting import wait_until

TOOLS = ("munged", "slurmctld", "slurmd", "srun")
# For local and experimental use [Documentation/admin-guide/devices.txt]: no driver is behind it.
MAJOR = 240
EXTRA_PATH = "/usr/sbin:/sbin"


def why_not() -> str | None:
    """Why there can be no cluster here; None if there can."""
    for tool in TOOLS:
        if shutil.which(tool) is None and shutil.which(tool, path=EXTRA_PATH) is None:
            return f"{tool} is not installed (slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "only root may start slurmd"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    """A running cluster; `env` has what its commands need."""

    def __init__(self, *, nodes: int = 2, gpus: int = 4, shards: int = 0, lines: tuple[str, ...] = (), low: str = "",
                 high: str = "") -> None:  # fmt: skip
        self.folder = Path(tempfile.mkdtemp(prefix="gr-slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.nodes, self.gpus, self.shards = nodes, gpus, shards
        self.daemons: dict[str, psutil.Process] = {}
        self._children: list[subprocess.Popen[bytes]] = []
        self.conf = self.folder / "slurm.conf"
        self.env = {"SLURM_CONF": str(self.conf)}
        for name in ("state", "run", "log"):
            (self.folder / name).mkdir()
        try:
            self._write(lines, low, high)
            self._start_munge()
            self.start_controller()
            for node in range(1, nodes + 1):
                self._spawn(f"n{node}", "slurmd", "-D", "-N", f"n{node}")
            wait_until(lambda: self.run("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D").strip() == str(nodes),
                       "the nodes to be idle", within=30)  # fmt: skip
        except BaseException:
            self.close()
            raise

    # Setting up

    def _write(self, lines: tuple[str, ...], low: str, high: str) -> None:
        ports = _free_ports(1 + self.nodes)
        host = socket.gethostname().partition(".")[0]
        plugins = next(iter(glob.glob("/usr/lib/*/slurm-wlm") + glob.glob("/usr/lib/*/slurm") + glob.glob("/usr/lib64/slurm")))
        kinds = "gpu,shard" if self.shards else "gpu"
        gres = f"gpu:fake:{self.gpus}" + (f",shard:{self.gpus * self.shards}" if self.shards else "")
        text = [
            "ClusterName=tests", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={ports[0]}", "SlurmUser=root",
            "AuthType=auth/munge", f"AuthInfo=socket={self.folder}/run/munge", "CryptoType=crypto/munge",
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny", f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool-%n", f"SlurmctldPidFile={self.folder}/run/slurmctld",
            f"SlurmdPidFile={self.folder}/run/%n", f"SlurmctldLogFile={self.folder}/log/slurmctld",
            f"SlurmdLogFile={self.folder}/log/%n", f"PluginDir={plugins}", "PlugStackConfig=/dev/null", "MpiDefault=none",
            "SwitchType=switch/none", "SlurmdParameters=config_overrides", "PropagateResourceLimits=NONE", "ReturnToService=2",
            "KillWait=3", "MinJobAge=300", "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core", f"GresTypes={kinds}",
            "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "AccountingStorageType=accounting_storage/none",
            "JobAcctGatherType=jobacct_gather/none", "JobCompType=jobcomp/none",
            "SchedulerParameters=sched_min_interval=1000,sched_interval=1,bf_interval=1,batch_sched_delay=0", *lines,
        ]  # fmt: skip
        for node in range(1, self.nodes + 1):
            (self.folder / f"spool-n{node}").mkdir()
            text.append(f"NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node]} CPUs=64 RealMemory=8000 "
                        f"Gres={gres} State=UNKNOWN")  # fmt: skip
        text += [
            f"PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 State=UP {low}",
            f"PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10 State=UP {high}",
        ]
        self.conf.write_text("\n".join(text) + "\n")
        cards = ["AutoDetect=off"]
        for node in range(1, self.nodes + 1):
            for card in range(self.gpus):
                os.mknod(self.folder / f"n{node}-gpu{card}", 0o20666, os.makedev(MAJOR, node * 16 + card))
            first = f"{self.folder}/n{node}-gpu"
            files = f"{first}[0-{self.gpus - 1}]" if self.gpus > 1 else f"{first}0"
            cards.append(f"NodeName=n{node} Name=gpu Type=fake File={files} Flags=nvidia_gpu_env")
            for card in range(self.gpus if self.shards else 0):
                cards.append(f"NodeName=n{node} Name=shard Count={self.shards} File={first}{card}")
        (self.folder / "gres.conf").write_text("\n".join(cards) + "\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nConstrainDevices=no\n")

    def _start_munge(self) -> None:
        key = self.folder / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        run = self.folder / "run"
        self._spawn("munged", "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run}/munge",
                    f"--pid-file={run}/munged", f"--log-file={self.folder}/log/munged", f"--seed-file={run}/seed")  # fmt: skip
        wait_until(lambda: self.done("munge", "-n", "-S", f"{run}/munge").returncode == 0, "munged to answer", within=20)

    def start_controller(self) -> None:
        """Start slurmctld, with the state that the last one has left."""
        self._spawn("slurmctld", "slurmctld", "-D")
        wait_until(lambda: "is UP" in self.done("scontrol", "ping").stdout, "slurmctld to answer", within=30)

    def end(self, daemon: str, number: int = signal.SIGKILL) -> None:
        """End one daemon and wait for it."""
        process = self.daemons.pop(daemon)
        process.send_signal(number)
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, f"{daemon} to end", within=20)

    def start_munge(self) -> None:
        """Start munged again."""
        self._start_munge()

    def _spawn(self, name: str, *words: str) -> None:
        tool = shutil.which(words[0]) or shutil.which(words[0], path=EXTRA_PATH)
        assert tool is not None
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            child = subprocess.Popen([tool, *words[1:]], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env=self.environment(), start_new_session=True)  # fmt: skip
        self._children.append(child)
        self.daemons[name] = psutil.Process(child.pid)

    # Speaking to it

    def environment(self) -> dict[str, str]:
        """What Slurm's commands are run with."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SQUEUE", "SBATCH"))}
        return {**kept, **self.env}

    def done(self, *words: str, seconds: float = 20) -> "subprocess.CompletedProcess[str]":
        """Run a command of Slurm's."""
        return subprocess.run(words, env=self.environment(), capture_output=True, text=True, timeout=seconds, check=False)

    def run(self, *words: str, seconds: float = 20) -> str:
        """Run a command of Slurm's that must succeed; its output."""
        done = self.done(*words, seconds=seconds)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def states(self) -> dict[str, str]:
        """The state of every job that Slurm lists."""
        lines = self.run("squeue", "-h", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def empty(self) -> None:
        """End all jobs, and wait until none is left."""
        self.done("scancel", "--me")
        wait_until(self._nothing_runs, "the jobs of the cluster to end", within=40)

    def _nothing_runs(self) -> bool:
        lines = self.run("squeue", "-h", "-o", "%i").split()
        if lines:
            self.done("scancel", "--me")
        idle = self.run("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D").strip()
        return not lines and idle == str(self.nodes)

    # Ending it

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if "slurmctld" in self.daemons:
                self.empty()
        order = sorted(self.daemons, key=lambda name: (name == "munged", name == "slurmctld"))
        for name in order:
            with contextlib.suppress(psutil.NoSuchProcess, AssertionError):
                self.end(name, signal.SIGKILL)
        for child in self._children:
            child.wait(20)
        mark = b"SLURM_CONF=" + os.fsencode(self.conf)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                if process.name().startswith("slurmstepd") and mark in Path(f"/proc/{process.pid}/environ").read_bytes():
                    process.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
