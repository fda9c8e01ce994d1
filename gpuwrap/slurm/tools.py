"""Slurm's own programs: how they are called, and what they complain of in words of ours. The only place that runs them.

1. Text output alone, with every field named: SQUEUE_FORMAT and its like are taken away, JSON changes with each version and
   takes ten times as long [run, 22.05].
2. Nothing of an allocation we stand in gets into a new one: leftovers of SLURM_* exclude one another.
3. A program that hangs has a bound: a controller that is down keeps its callers for 9 s [run].
"""

import os

from ..errors import FAILED, NOT_FOUND, SOME_FAILED, GpurunError, printable

CALL_SECONDS = 30.0
# What formats and filters output, or asks another cluster than SLURM_CONF names, by its beginning.
FORMATS = (
    b"SLURM_CLUSTERS", b"SBATCH_CLUSTERS", b"SQUEUE_", b"SINFO_", b"SACCT_", b"SCANCEL_", b"SCONTROL_", b"SPRIO_",
    b"SLURM_TIME_FORMAT",
)  # fmt: skip
OF_ALLOCATION = (b"SLURM_", b"SLURMD_", b"SBATCH_", b"SRUN_", b"SALLOC_", b"PMI_", b"PMIX_")
KEPT = (b"SLURM_CONF", b"SLURM_CONF_SERVER")
# What an outer job of gpurun's, or an outer grant, has set.
OF_JOB = (
    b"CUDA_VISIBLE_DEVICES", b"CUDA_DEVICE_ORDER", b"GPURUN_JOB", b"GPURUN_GPU_UUIDS", b"GPURUN_GRANTED", b"GPURUN_ATTEMPT",
    b"GPURUN_INDEX", b"GPURUN_SIM", b"GPURUN_SIM_DIR", b"GPURUN_PREEMPT_FILE",
)  # fmt: skip
# What the controller not answering looks like, and munge; of src/common/slurm_errno.c, and seen.
DOWN = (
    "Unable to contact slurm controller", "Unable to establish controller machine", "Zero Bytes were transmitted",
    "Socket timed out", "Connection refused", "Slurm backup controller in standby mode",
    "Slurm controller not responding", "Transport endpoint is not connected", "Slurm temporarily unable to accept job",
)  # fmt: skip
MUNGE = ("Munge", "munged", "Protocol authentication error", "auth plugin")
# What a refusal means, by a part of Slurm's words, and what to change.
ADVICE = (
    ("nvalid account or account/partition", "say an account (sacctmgr show assoc): --slurm=--account=NAME, or in slurm.toml"),
    ("nvalid partition", "sinfo lists the partitions: --slurm=--partition=NAME, or partition in slurm.toml"),
    ("nvalid qos", "sacctmgr show qos lists them: --slurm=--qos=NAME, or qos in slurm.toml"),
    ("nvalid feature", "sinfo -o %f lists the features: constraints in slurm.toml"),
    ("nvalid generic resource", "this Slurm has no such GPUs: gpurun doctor --on slurm says what it has"),
    ("nvalid gres", "this Slurm has no such GPUs: gpurun doctor --on slurm says what it has"),
    ("node configuration is not available", "no machine of this partition has that: ask for fewer GPUs, or another partition"),
    ("time limit is invalid", "the partition allows less time: a shorter -t (scontrol show partition says how much)"),
    ("QOSMaxSubmitJob", "as many jobs as the site allows you wait and run: submit the rest later"),
    ("AssocMaxSubmitJob", "as many jobs as the site allows you wait and run: submit the rest later"),
    ("ob violates accounting/QOS policy", "the account or QOS allows less: fewer GPUs, a shorter -t, or fewer jobs at once"),
    ("nvalid --nice", "only priorities of 0 and less can be sent as nice"),
    ("nvalid job array specification", "this Slurm takes smaller arrays (MaxArraySize): cut the sweep into parts"),
    ("ob dependency problem", "a job of --after is not known to Slurm any more"),
    ("PartitionDown", "the partition is closed: sinfo says which are open"),
    ("Required partition not available", "the partition is closed: sinfo says which are open"),
    ("User not found on host", "this user is not known where the controller runs: ask the administrators"),
)  # fmt: skip
NO_SLURM = "install Slurm's client commands, or leave --on slurm out"


class SlurmDown(GpurunError):
    """The controller does not answer: the same may work later."""


class Answer:
    """What a program of Slurm's said."""

    __slots__ = ("errors", "output", "status")

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status, self.output, self.errors = status, output, errors


def call(*words: str, stdin: bytes | None = None, seconds: float = CALL_SECONDS) -> Answer:
    """Run a program of Slurm's and return what it said. Raises GpurunError if it is not there, SlurmDown if it hangs."""
    import subprocess  # 4 ms, and a launch that need not wait calls nothing

    try:
        done = subprocess.run(
            words, input=b"" if stdin is None else stdin, capture_output=True, timeout=seconds, env=environment(), check=False
        )
    except FileNotFoundError as err:
        raise not_installed(words[0]) from err
    except OSError as err:
        raise GpurunError(f"cannot run: {words[0]}: {str(err.strerror).lower()}") from err
    except subprocess.TimeoutExpired as err:
        raise SlurmDown(f"Slurm does not answer: {words[0]} was silent for {seconds:g} s") from err
    return Answer(done.returncode, _text(done.stdout), _text(done.stderr))


def ask(*words: str, stdin: bytes | None = None, seconds: float = CALL_SECONDS) -> str:
    """Run a program that must succeed, and return its output. Raises GpurunError."""
    answer = call(*words, stdin=stdin, seconds=seconds)
    if answer.status:
        raise refusal(words[0], answer.errors)
    return answer.output


def not_installed(program: str) -> GpurunError:
    """What is said where there is no Slurm."""
    return GpurunError(f"cannot use Slurm: {program}: not found", hint=NO_SLURM, status=NOT_FOUND)


def refusal(program: str, errors: str, status: int = FAILED) -> GpurunError:
    """Return Slurm's own words as an error, and what to change where that is known."""
    words = own_words(errors)
    if any(part in errors for part in MUNGE):
        munge = "munge proves to Slurm who you are: is munged running on this machine? (munge -n | unmunge)"
        return SlurmDown(f"cannot ask Slurm: {words}", hint=munge)
    if is_down(errors):
        return SlurmDown(f"Slurm does not answer: {words}", hint="its jobs go on; sinfo says when it is back")
    if "Could not establish a configuration source" in errors:
        return GpurunError("cannot use Slurm: no configuration: no slurm.conf on this machine", hint=NO_SLURM)
    hint: str | None = next((advice for part, advice in ADVICE if part in errors), None)
    return GpurunError(f"{program}: {words}" if words else f"{program}: failed without a word", hint=hint, status=status)


def is_down(errors: str) -> bool:
    """Whether what a program complains of is that the controller does not answer."""
    return any(part in errors for part in DOWN)


def own_words(errors: str) -> str:
    """Return the last complaint without the program's name before it: what comes first leads to it."""
    lines = [line for line in errors.splitlines() if line.strip() and not line.startswith("Try ")]
    text = lines[-1] if lines else ""
    for _ in range(2):
        head, colon, rest = text.partition(": ")
        if colon and (head in ("error", "fatal") or head.isalpha()):
            text = rest
    return printable(text.strip())


def environment() -> dict[bytes, bytes]:
    """Return our environment as Slurm's programs may see it."""
    kept = dict(os.environb)
    inside = b"SLURM_JOB_ID" in kept or b"SLURM_JOBID" in kept
    for name in list(kept):
        formats = name.startswith(FORMATS)
        left_over = inside and name.startswith(OF_ALLOCATION) and name not in KEPT
        if formats or left_over or name in OF_JOB:
            del kept[name]
    return kept


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def some_failed(err: GpurunError) -> GpurunError:
    """The same error as a verb's: what it names could not be done."""
    err.status = SOME_FAILED
    return err
