"""Slurm's reasons in sentences, and what would help. Pure.

Of src/common/slurm_protocol_defs.c (job_reason_string) and the manual of squeue, JOB REASON CODES.
"""

# By the beginning of Slurm's word: which rule it is, in our sentence, and what would help.
REASONS: tuple[tuple[str, str, str], ...] = (
    ("Priority", "jobs of higher priority are before it", "gpurun renice raises one's own again that was lowered"),
    ("Resources", "no machine has so many GPUs free now", "fewer GPUs (-g), or a shorter time limit (-t)"),
    ("DependencyNeverSatisfied", "a job that it comes after failed: it never starts", "gpurun kill takes it out of the line"),
    ("Dependency", "it comes after jobs that have not ended (-a)", ""),
    ("BeginTime", "its time has not come: a job that was ended to be run again waits two minutes", ""),
    ("JobHeldUser", "its owner holds it", "gpurun resume lets it go"),
    ("JobHeldAdmin", "an administrator holds it", "ask the administrators, or gpurun kill takes it out of the line"),
    ("JobArrayTaskLimit", "as many rows of its sweep run as may run at once (%N)", ""),
    ("PartitionTimeLimit", "its time limit is longer than the partition allows", "gpurun set -t with a shorter one"),
    ("PartitionNodeLimit", "the partition has not as many machines", "another partition: --slurm=--partition=NAME"),
    ("PartitionDown", "the partition is closed", "sinfo says which are open"),
    ("PartitionInactive", "the partition is closed", "sinfo says which are open"),
    ("ReqNodeNotAvail", "the machines that it needs are reserved or out of service", "sinfo -R says why; or a shorter -t"),
    ("NodeDown", "a machine that it needs is down", "sinfo -R says why"),
    ("BadConstraints", "no machine has what it asks for: it will never start", "gpurun kill, and ask for something else"),
    ("QOSMaxGRES", "its QOS gives nobody more GPUs at once", "it starts when a job of yours ends"),
    ("QOSMaxGres", "its QOS gives nobody more GPUs at once", "it starts when a job of yours ends"),
    ("QOSMaxJobs", "its QOS lets nobody run more jobs at once", "it starts when a job of yours ends"),
    ("QOSGrp", "all jobs of its QOS together have what they may have", "it starts when one of them ends"),
    ("QOSMaxWall", "its time limit is longer than its QOS allows", "gpurun set -t with a shorter one"),
    ("QOS", "its QOS allows no more now", "sacctmgr show qos says what it allows"),
    ("AssocGrp", "all jobs of its account together have what they may have", "it starts when one of them ends"),
    ("AssocMaxJobs", "the account lets nobody run more jobs at once", "it starts when a job of yours ends"),
    ("Assoc", "the account allows no more now", "sacctmgr show assoc says what it allows"),
    ("MaxGRESPer", "the account gives nobody more GPUs at once", "it starts when a job of yours ends"),
    ("Licenses", "a licence that it needs is in use", ""),
    ("Reservation", "its reservation has not begun", ""),
    ("InvalidAccount", "its account is not known any more", "gpurun kill, and another account (--slurm=--account=NAME)"),
    ("InvalidQOS", "its QOS is not known any more", "gpurun kill, and another QOS (--slurm=--qos=NAME)"),
    ("JobLaunchFailure", "its start failed on the machine", "the administrators see why in slurmd's log"),
    ("launch_failed_requeued_held", "its start failed, and it is held since", "gpurun resume tries it again"),
    ("Cleaning", "it is being cleared up after its last run", ""),
    ("Prolog", "the site's own preparations for it run", ""),
    ("NodeFail", "the machine that it ran on failed", ""),
    ("Preempted", "a job of higher priority took its GPUs", ""),
    ("None", "Slurm has not looked at it yet", ""),
)  # fmt: skip


def sentence(reason: str) -> str:
    """Say why a job waits; Slurm's own word, where there is no sentence for it."""
    found = next((text for word, text, _help in REASONS if reason.strip("(").startswith(word)), None)
    return found if found is not None else f"Slurm says {reason}" if reason else "Slurm does not say why"


def what_helps(reason: str) -> str:
    """Say what would help, nothing if that is not known."""
    return next((help for word, _text, help in REASONS if reason.strip("(").startswith(word)), "")


def is_hopeless(reason: str) -> bool:
    """Whether the job will not start as it is, however long it waits."""
    never = ("PartitionTimeLimit", "PartitionNodeLimit", "BadConstraints", "QOSMaxWall", "InvalidAccount", "InvalidQOS")
    return reason.startswith(never)


def is_held(reason: str) -> bool:
    """Whether somebody holds the job."""
    return reason.startswith(("JobHeld", "launch_failed_requeued_held"))
