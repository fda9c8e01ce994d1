"""The allocation of Slurm's that this process runs in, if it does: a world of its own for each job, machine and set of GPUs.

1. SLURM_JOB_ID alone proves nothing: a shell of salloc has it on the machine where it was typed, and what outlives a job (tmux,
   a container, a file of variables) keeps it. Inside is who is below the job's slurmstepd, or in its cgroup; of others Slurm is
   asked, and believed to be inside if it cannot tell (a container without Slurm's commands).
2. Steps of one job with other GPUs are other worlds: under a device cgroup each numbers its own from 0. Tasks with the same
   GPUs share a line. Claims keep those apart that overlap.

Loaded only where SLURM_JOB_ID is set; nothing but builtin modules is imported unless Slurm has to be asked.
"""

import os

VARIABLES = ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
ASK_SECONDS = 3
LONGEST_NAME = 120

_answers: dict[str, str] = {}


def suffix(job: str, node: str, gpus: str) -> str:
    """Name the world of an allocation, for the name of its folder; empty for what is none."""
    if not job.isalnum() or not node:
        return ""
    parts = [f"-slurm{job}", node, *([gpus] if gpus else [])]
    return ".".join("".join(c if c.isalnum() or c in "-," else "_" for c in part) for part in parts)[:LONGEST_NAME]


def suffix_here() -> str:
    """`suffix` of this process; empty outside every allocation."""
    job, node, step_gpus, job_gpus = (os.environ.get(name, "") for name in VARIABLES)
    return suffix(job, node, step_gpus or job_gpus) if stray() is None else ""


def stray() -> str | None:
    """Say why SLURM_JOB_ID counts for nothing here; None if it is not set, or this process is inside."""
    job, node = os.environ.get("SLURM_JOB_ID", ""), os.environ.get("SLURMD_NODENAME", "")
    if not job.isalnum():
        return None
    if not node:
        where = os.environ.get("SLURM_JOB_NODELIST", "")
        return (
            f"job {job} of Slurm's has its GPUs{f' on {_plain(where)}' if where else ''}, not here, in the shell of salloc: "
            "srun gpurun … starts there; this is the line of this machine"
        )
    if job not in _answers:
        _answers[job] = "" if _is_below_its_step(job) or _is_in_its_cgroup(job) else _asked(job, node)
    return _answers[job] or None


def has_no_gpus() -> bool:
    """Whether Slurm, who hands out this machine's GPUs, gave none to the allocation that this process is in.

    It leaves CUDA_VISIBLE_DEVICES out then [run, 22.05], which CUDA reads as all of them. Where Slurm hands out no GPUs,
    all are meant.
    """
    named = ("CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "SLURM_GPUS_ON_NODE", "SLURM_STEP_SHARDS")
    if any(name in os.environ for name in named) or not suffix_here():
        return False
    answer = _scontrol("show", "node", os.environ["SLURMD_NODENAME"])
    return answer is not None and any(word.startswith("Gres=") and "gpu" in word for word in answer.split())


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isalnum() or letter in "-_,[]")[:60]


def _is_below_its_step(job: str) -> bool:
    """Whether an ancestor is a slurmstepd of the job: it writes `slurmstepd: [7.0]` over its arguments."""
    pid = os.getppid()
    for _ in range(100):
        if pid <= 1:
            return False
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                line = file.read(4096)
            if b"(slurmstepd" in line:
                with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
                    title = file.read(4096).replace(b"\0", b" ")
                found = title.partition(b"[")[2].partition(b".")[0]
                return not found.isdigit() or found == job.encode()
        except OSError:
            return False
        pid = int(line[line.rindex(b")") + 2 :].split()[1])
    return False


def _is_in_its_cgroup(job: str) -> bool:
    try:
        with open("/proc/self/cgroup", "rb", buffering=0) as file:
            text = file.read(65536)
    except OSError:
        return False
    return f"/job_{job}/".encode() in text.replace(b"\n", b"/")


def _asked(job: str, node: str) -> str:
    """Ask Slurm whether the job runs on this machine; empty if it does, or nobody can tell."""
    answer = _scontrol("show", "job", job)
    if answer is None:
        return ""
    runs = "JobState=RUNNING" in answer or "JobState=COMPLETING" in answer
    if "Invalid job id" in answer or (answer and not runs):
        return f"SLURM_JOB_ID={job} is left over from a job of Slurm's that has ended: this is the line of this machine"
    nodes = next((word[9:] for word in answer.split() if word.startswith("NodeList=")), "")
    if "[" not in nodes and "," not in nodes and nodes not in ("", node):
        return f"SLURM_JOB_ID={job}: that job of Slurm's runs on {_plain(nodes)}: this is the line of this machine"
    return ""


def _scontrol(*words: str) -> str | None:
    """Return what scontrol says, its complaints too; None if it cannot be asked."""
    import subprocess

    try:
        done = subprocess.run(
            ("scontrol", *words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=ASK_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.decode("utf-8", "replace")
    return text if done.returncode == 0 or "Invalid job id" in text else None
