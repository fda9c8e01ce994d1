"""`gpurun doctor --on slurm`: what the Slurm here can do of what gpurun asks, and whether the site file is right."""

import shutil
import sys
from collections.abc import Callable, Iterator

from ..commands.asking import Given
from ..commands.finding import Finding
from ..errors import SOME_FAILED, GpurunError, UsageError
from ..units import format_size
from . import tools
from .reading import settings_of
from .site import SYSTEM, Site, files, read_site

Pairs = dict[str, str]
PROGRAMS = ("srun", "sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")
SEEN_VERSION = "22.05"


def doctor(given: Given, operands: list[str], local: Callable[[Given, list[str]], int]) -> int:
    """Check what there is of Slurm; without `--on slurm` it is this machine's doctor. Exit 1 if something is bad."""
    if given.get("on") == "here" or "on" not in given:
        return local(given, operands)
    if given.get("on") != "slurm":
        raise UsageError(f"--on {given['on']}: here or slurm")
    if operands:
        raise UsageError(f"{operands[0]}: doctor takes no operand")
    bad = False
    for found in _findings():
        bad |= found.verdict == "bad"
        print(f"{found.verdict:<8}  {found.subject:<12}  {found.text}")
        if found.help:
            print(f"{'':<24}{found.help}")
        sys.stdout.flush()
    return SOME_FAILED if bad else 0


def _findings() -> Iterator[Finding]:
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        yield Finding("bad", "programs", f"not found: {', '.join(missing)}", tools.NO_SLURM)
        return
    try:
        version = tools.ask("scontrol", "--version").strip().rpartition(" ")[2]
        seen = version.startswith(SEEN_VERSION)
        tried = "" if seen else f": gpurun was tried on {SEEN_VERSION} only"
        yield Finding("ok" if seen else "note", "version", f"Slurm {version}{tried}")
        config = settings_of(tools.ask("scontrol", "show", "config"))
    except GpurunError as err:
        yield Finding("bad", "controller", err.text, err.hint or "")
        return
    yield Finding("ok", "controller", f"cluster {config.get('ClusterName', '?')} answers")
    site: Site | None = None
    try:
        site = read_site()
        where = ", ".join(site.sources) if site.sources else f"none ({', '.join(files())})"
        yield Finding("ok" if site.sources else "note", "site file", where)
    except GpurunError as err:
        yield Finding("bad", "site file", err.text, err.hint or "")
    for check in (_gpus, _partitions, _qos, _priority, _giving_way, _history, _arrays, _devices):
        try:
            yield from check(config, site or Site())
        except GpurunError as err:
            yield Finding("bad", check.__name__.strip("_"), err.text, err.hint or "")


def _gpus(config: Pairs, site: Site) -> Iterator[Finding]:
    kinds = config.get("GresTypes", "").split(",")
    if "gpu" not in kinds:
        text = "this Slurm hands out no GPUs (GresTypes has no gpu)"
        yield Finding("bad", "GPUs", text, "gpurun --on slurm -g 0 runs what needs none")
        return
    nodes = tools.ask("sinfo", "--noheader", "--Node", "--format=%N|%G").splitlines()
    gres = dict(line.split("|", 1) for line in nodes if "|" in line)
    with_gpus = {node: text for node, text in gres.items() if "gpu" in text}
    machines = "1 machine" if len(with_gpus) == 1 else f"{len(with_gpus)} machines"
    kinds_there = ", ".join(sorted(set(with_gpus.values())))[:90]
    yield Finding("ok" if with_gpus else "bad", "GPUs", f"{machines}: {kinds_there}")
    if site.gpu is not None and not any(f"gpu:{site.gpu}:" in text for text in gres.values()):
        yield Finding("bad", "GPUs", f"gpu = {site.gpu}: no machine has such", f"correct it in {site.sources[-1]}")
    if "shard" not in kinds:
        text = "not shared by memory: no shards here; -m is refused, or taken as a filter (constraints)"
        yield Finding("bad" if site.shards_per_gpu else "note", "sharing", text)
        return
    shards = _count(gres, "shard")
    cards = _count(gres, "gpu")
    each = shards // cards if cards else 0
    if site.shards_per_gpu is None or site.shard_bytes is None:
        yield Finding("note", "sharing", f"{each} shards a GPU, but the site file does not say of how much memory",
                      f'shards_per_gpu = {each} and shard_memory = "6G", say, in {SYSTEM}')  # fmt: skip
    elif site.shards_per_gpu != each:
        yield Finding("bad", "sharing", f"shards_per_gpu = {site.shards_per_gpu}, but Slurm has {each} a GPU")
    else:
        yield Finding("ok", "sharing", f"{each} shards of {format_size(site.shard_bytes)} a GPU, counted and not enforced")


def _count(gres: Pairs, kind: str) -> int:
    total = 0
    for text in gres.values():
        for part in text.split(","):
            words = part.partition("(")[0].split(":")
            if words[0] == kind and words[-1].isdigit():
                total += int(words[-1])
    return total


def _partitions(_config: Pairs, site: Site) -> Iterator[Finding]:
    text = tools.ask("scontrol", "--oneliner", "show", "partition")
    known, default = {}, ""
    for line in text.splitlines():
        pairs = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        known[pairs.get("PartitionName", "")] = pairs
        default = pairs["PartitionName"] if pairs.get("Default") == "YES" else default
    wanted = [name for name in (site.partition, *(band.partition for band in site.bands)) if name]
    for name in dict.fromkeys(wanted):
        if name not in known:
            yield Finding("bad", "partition", f"{name}: not known to Slurm", f"known: {', '.join(known)}")
    if not default and not site.partition:
        yield Finding("bad", "partition", "Slurm has no default one", f"partition = \"NAME\" in {SYSTEM}: {', '.join(known)}")
    else:
        name = site.partition or default
        limit = known.get(name, {}).get("MaxTime", "?")
        yield Finding("ok", "partition", f"{name}, time limit {limit}" + ("" if site.partition else " (Slurm's default)"))
    features = tools.ask("sinfo", "--noheader", "--format=%f").replace("\n", ",").split(",")
    for size, name in site.constraints:
        if name not in features:
            yield Finding("bad", "constraints", f"{format_size(size)} = {name}: no machine has this feature")


def _qos(config: Pairs, site: Site) -> Iterator[Finding]:
    wanted = [name for name in (site.qos, *(band.qos for band in site.bands)) if name]
    if not wanted:
        return
    if "slurmdbd" not in config.get("AccountingStorageType", ""):
        yield Finding("bad", "QOS", f"{', '.join(wanted)}: this Slurm has no accounting, and so no QOS")
        return
    known = tools.ask("sacctmgr", "--noheader", "--parsable2", "show", "qos", "format=Name").split()
    for name in dict.fromkeys(wanted):
        text = name if name in known else f"{name}: known are {', '.join(known)}"
        yield Finding("ok" if name in known else "bad", "QOS", text)


def _priority(config: Pairs, site: Site) -> Iterator[Finding]:
    kind = config.get("PriorityType", "")
    weights = [int(value) for name, value in config.items() if name.startswith("PriorityWeight") and value.isdigit()]
    if kind == "priority/multifactor" and sum(weights) < site.nice_step:
        text = "nice is not heeded: without weights every job has priority 1, so -p below 0 and renice change nothing"
        yield Finding("note", "priority", text, "PriorityWeightAge and the like are the administrators' (slurm.conf)")
    else:
        yield Finding("ok", "priority", f"{kind.rpartition('/')[2]}: -p below 0 is nice, {site.nice_step} for each step")
    if not any(band.since > 0 for band in site.bands):
        yield Finding("note", "priority", "-p above 0 counts as 0: nobody may raise his own",
                      f'[[priority]] from = 10, qos = "NAME" in {SYSTEM}, where there is one for urgent work')  # fmt: skip


def _giving_way(config: Pairs, _site: Site) -> Iterator[Finding]:
    mode, kind = config.get("PreemptMode", "OFF"), config.get("PreemptType", "")
    if "none" in kind or mode == "OFF":
        yield Finding("note", "giving way", "nobody's job makes another give way here (PreemptType)")
    elif "REQUEUE" in mode:
        wait = config.get("KillWait", "?")
        yield Finding("ok", "giving way", f"jobs of -r are ended (TERM, KILL after {wait}) and run again, two minutes later")
    elif "SUSPEND" in mode:
        yield Finding("note", "giving way", "by suspending, which frees no GPU in Slurm: only jobs without GPUs give way")
    else:
        yield Finding("note", "giving way", f"PreemptMode {mode}: who gives way is ended and not run again")
    if config.get("JobRequeue", "1") == "0":
        yield Finding("note", "giving way", "JobRequeue is off here; -r asks for it all the same (--requeue)")


def _history(config: Pairs, _site: Site) -> Iterator[Finding]:
    age = config.get("MinJobAge", "?")
    if "slurmdbd" in config.get("AccountingStorageType", ""):
        yield Finding("ok", "history", "sacct remembers what has ended")
    else:
        text = f"no accounting: Slurm forgets a job {age} after its end; what gpurun has not seen ending is unknown then"
        yield Finding("note", "history", text)


def _arrays(config: Pairs, _site: Site) -> Iterator[Finding]:
    most = config.get("MaxArraySize", "?")
    if most.isdigit() and int(most) < 1001:
        yield Finding("note", "sweeps", f"arrays have indices below {most} here")


def _devices(config: Pairs, _site: Site) -> Iterator[Finding]:
    task = config.get("TaskPlugin", "")
    if "cgroup" in task:
        yield Finding("ok", "devices", "a job sees its own GPUs alone, if ConstrainDevices is on (cgroup.conf)")
    else:
        text = "nothing keeps a job from other GPUs but CUDA_VISIBLE_DEVICES (no task/cgroup)"
        yield Finding("note", "devices", text)
