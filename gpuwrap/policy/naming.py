"""Which GPUs a request names: `-i LIST` and `--not LIST`, `-g all`, an inherited CUDA_VISIBLE_DEVICES, `-m auto`."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from ..model import GpuSample, Job
from ..wire import NO_DEVICES
from .refused import Refused


def fitting_auto(
    learned: int | None, samples: list[GpuSample], parent: Job | None, allowed: frozenset[str] | None, gpus: int
) -> int | None:
    """Return what `-m auto` asks for: what the command was seen to need.

    None, whole GPUs, if that is not known, or more than enough of those that it may be given have.
    """
    if learned is None:
        return None
    granted = {share.uuid: share.bytes for share in parent.shares} if parent else {}
    chosen = [sample for sample in samples if allowed is None or sample.uuid in allowed]
    fitting = [sample for sample in chosen if learned < (granted.get(sample.uuid, sample.total_bytes) or 0)]
    return learned if fitting and len(fitting) >= gpus else None


def choose_devices(samples: list[GpuSample], only: str | None, never: str | None, visible: str | None) -> frozenset[str] | None:
    """Return the UUIDs that a request may be given, None for any. Raises Refused for a name that is no GPU here.

    `visible` is an inherited CUDA_VISIBLE_DEVICES: as CUDA does, it ends at the first entry that is no GPU.
    """
    if only is None and never is None and visible is None:
        return None
    chosen = samples
    if visible is not None:
        chosen = visible_gpus(samples, visible)
        if visible == NO_DEVICES:
            hint = "ask Slurm for some (srun --gres=gpu:1 …); gpurun -g 0 runs what needs none"
            raise Refused(f"no GPU to be had: this step of Slurm has none (CUDA_VISIBLE_DEVICES={visible})", hint=hint)
        if not chosen:
            raise Refused(f"CUDA_VISIBLE_DEVICES {visible}: no such GPU")
    if only is not None:
        named = named_gpus(samples, only)
        chosen = [sample for sample in chosen if sample in named]
    if never is not None:
        unwanted = named_gpus(samples, never)
        chosen = [sample for sample in chosen if sample not in unwanted]
    return frozenset(sample.uuid for sample in chosen)


def visible_gpus(samples: list[GpuSample], visible: str) -> list[GpuSample]:
    """Return the GPUs that a CUDA_VISIBLE_DEVICES lists, each once; it ends at the first entry that is none."""
    listed: list[GpuSample] = []
    for word in visible.split(","):
        found = [sample for sample in samples if _is_visible_as(sample, word.strip())]
        if not found:
            break
        listed += [sample for sample in found if sample not in listed]
    return listed


def first_seen(samples: list[GpuSample], seen: list[str], gpus: int, allowed: frozenset[str] | None) -> frozenset[str]:
    """Return the GPUs that a process has to be given in which CUDA is initialised already and sees those of UUIDs `seen`.

    What it calls its first GPU stays the first of them. Raises Refused if it asks for another.
    """
    first = frozenset(seen[:gpus])
    indices = {sample.uuid: str(sample.index) for sample in samples}
    sees = f"CUDA is initialised in this process already and sees GPU {', '.join(indices.get(uuid, uuid) for uuid in seen)}"
    if gpus > len(seen):
        raise Refused(f"needs {gpus} GPUs, but {sees} alone", hint="ask for as many in its first block, or in a new process")
    if allowed is not None and not first <= allowed:
        raise Refused(f"needs another GPU, but {sees}{' first' * (len(seen) > 1)}", hint="ask for it in a new process")
    return first


def depends_on_machine(values: Mapping[str, Any]) -> bool:
    """Whether a request cannot be read before it is known which GPUs there are."""
    return values.get("gpus") == "all" or not values.keys().isdisjoint(("device", "not", "visible", "auto", "seen"))


def count_all(samples: list[GpuSample], allowed: frozenset[str] | None) -> int:
    """Return what `-g all` means: the whole GPUs that may be used, one MIG instance where there is nothing else; never 0."""
    chosen = [sample for sample in samples if allowed is None or sample.uuid in allowed]
    return max(1, sum(not sample.is_mig for sample in chosen))


def _is_visible_as(sample: GpuSample, word: str) -> bool:
    return word == str(sample.index) or (len(word) > 4 and sample.uuid.startswith(word))


def named_gpus(samples: list[GpuSample], text: str) -> list[GpuSample]:
    """Return the GPUs of a LIST: index, UUID prefix or name glob. Raises Refused."""
    named: list[GpuSample] = []
    for word in text.split(","):
        word = word.strip()
        found = [sample for sample in samples if _is_named(sample, word.lower())]
        if not found:
            raise Refused(f"no GPU {word}", hint=_known_gpus(samples))
        named += found
    return named


def _is_named(sample: GpuSample, word: str) -> bool:
    if not word or word.isdigit():
        return word == str(sample.index)
    uuid = sample.uuid.lower()
    forms = (uuid, uuid.removeprefix("gpu-"))
    if any(len(word) >= 3 and form.startswith(word) for form in forms):
        return True
    return any(fnmatchcase(form, word) for form in (*forms, sample.name.lower()))


def _known_gpus(samples: list[GpuSample]) -> str:
    return "here are: " + ", ".join(f"{sample.index} ({sample.name})" for sample in samples)
