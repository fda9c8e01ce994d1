"""What commands were seen to need: peaks of finished jobs, by the fingerprint of their command.

1. A fingerprint is the program, its arguments and the script among them by its whole path and rough size. The values of
   options that change no memory (`HARMLESS`) are left out: a sweep over seeds is one command.
2. A peak is raised at once and lowered slowly, by a quarter of the difference, and only by runs that succeeded: one that
   failed early has not shown what it needs.
3. A run that failed with (nearly) all that it was promised, or that the GPU has, or on a shared GPU with more than any run
   before it, is taken to have run out of memory: half as much again is learned. One that failed while it was promised what
   had been learned is given twice that, whatever was seen of it: a program dies at the allocation that nobody saw. The next
   run that succeeds shows what is needed, and what was known before the failures counts again.
4. A script that has grown or shrunk by more than about a third is another one: what it needed is forgotten.
"""

import hashlib
import os
import signal
from collections.abc import Callable
from math import log

from ..model import Job, ResultKind
from ..units import MIB

MARGIN_FACTOR = 1.2
MARGIN_BYTES = 512 * MIB
OUT_OF_MEMORY_PART = 0.95
OUT_OF_MEMORY_FACTOR = 1.5
UNSEEN_FACTOR = 2
# How a program dies that finds no memory, beside its exit status; by other signals somebody ends it.
DEADLY = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
# As shells tell of those others, and of what was no program.
ENDED_BY_HAND = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM)
TOLD_BY_SHELLS = (126, 127, *(128 + number for number in ENDED_BY_HAND))
# A failed run as long as this has shown what it needs.
SHOWN_SECONDS = 60.0
# Sizes of scripts are told apart by steps of this ratio; the steps beside are the same script, edited.
SIZE_RATIO = 1.3

# Options whose value changes no memory, with - and _ alike: --seed 3, --seed=3, seed=3 (hydra).
HARMLESS = frozenset((
    "seed", "random-seed", "rng-seed", "lr", "learning-rate", "weight-decay", "epochs", "num-epochs", "max-epochs",
    "max-steps", "name", "run-name", "exp-name", "experiment-name", "job-name", "run-id", "tag", "tags", "notes",
    "wandb-project", "output", "output-dir", "output-path", "out", "out-dir", "outdir", "save-dir", "save-path",
    "log-dir", "logdir", "log-file", "results-dir",
))  # fmt: skip
SCRIPTS = (b".py", b".sh")


def fingerprint(argv: tuple[bytes, ...], cwd: bytes, script_bytes: int | None = None) -> str:
    """Name a command. Two of one name need the same memory, near enough; anything else may not.

    `script_bytes` is the size of its script, None if it is not known.
    """
    words = [os.path.basename(argv[0]) if argv else b""]
    words += [os.path.join(cwd, word) if word.endswith(SCRIPTS) else word for word in _without_values(argv[1:])]
    digest = hashlib.blake2b(b"\0".join(words), digest_size=16).hexdigest()
    return digest if script_bytes is None else f"{digest}:{round(log(script_bytes + 1, SIZE_RATIO))}"


def _without_values(words: tuple[bytes, ...]) -> list[bytes]:
    kept: list[bytes] = []
    drops = False
    for word in words:
        if drops and not word.startswith(b"--"):
            drops = False
            continue
        name, equals, _value = word.partition(b"=")
        drops = _is_harmless(name) and not equals and word.startswith(b"--")
        kept.append(name if equals and _is_harmless(name) else word)
    return kept


def _is_harmless(name: bytes) -> bool:
    return name.lstrip(b"-").replace(b"_", b"-").decode("utf-8", "replace") in HARMLESS


def recall(known_as: str, peak_of: Callable[[str], int | None]) -> int | None:
    """Return the peak learned of a command; of one whose script was edited a little, the larger of its neighbours'."""
    exact = peak_of(known_as)
    digest, colon, step = known_as.partition(":")
    if exact is not None or not colon:
        return exact
    near = [peak for each in (int(step) - 1, int(step) + 1) if (peak := peak_of(f"{digest}:{each}")) is not None]
    return max(near, default=None)


def needed_bytes(peak_bytes: int) -> int:
    """Return what a command seen before is taken to need: its peak, a fifth more, and 512 MiB."""
    return int(peak_bytes * MARGIN_FACTOR) + MARGIN_BYTES


def is_success(job: Job) -> bool:
    """Whether a job ended well."""
    return job.result is not None and job.result.kind is ResultKind.EXIT and job.result.code == 0


def learned_from(job: Job, known_bytes: int | None) -> int | None:
    """Return the peak to remember after a job that has ended, None if it teaches nothing. `known_bytes`: remembered so far."""
    peak = job.peak_bytes or 0
    if job.fingerprint is None or job.started_at is None or job.result is None:
        return None
    if _relied_on_learned(job) and has_failed(job):
        assert job.learned_bytes is not None
        relied = known_bytes or int((job.learned_bytes - MARGIN_BYTES) / MARGIN_FACTOR)
        return max(relied * UNSEEN_FACTOR, int(peak * OUT_OF_MEMORY_FACTOR))
    if not peak:
        return None
    if is_success(job):
        return peak if known_bytes is None else max(peak, known_bytes - (known_bytes - peak) // 4)
    if ran_out_of_memory(job, known_bytes):
        return max(int(peak * OUT_OF_MEMORY_FACTOR), known_bytes or 0)
    begun, ended = job.started_mono, job.ended_mono
    long = begun is not None and ended is not None and ended - begun >= SHOWN_SECONDS
    return max(peak, known_bytes or 0) if known_bytes is not None or long else None


def ran_out_of_memory(job: Job, known_bytes: int | None = None) -> bool:
    """Whether a job that failed by itself had nearly all the memory that it could have, or more than it ever needed.

    The allocation that fails is never seen: what was held before it may be much less than what there was.
    """
    peak = job.peak_bytes or 0
    more = known_bytes is not None and peak > known_bytes and not any(share.whole for share in job.shares)
    return has_failed(job) and (more or peak >= OUT_OF_MEMORY_PART * min(share.bytes for share in job.shares))


def has_failed(job: Job) -> bool:
    """Whether a job that had GPUs failed by itself, as a program does that finds no memory."""
    result = job.result
    if result is None or result.text is not None or not job.shares:
        return False  # a text names who ended it
    if result.kind is ResultKind.SIGNAL:
        return result.signal in DEADLY
    return result.kind is ResultKind.EXIT and result.code not in (0, *TOLD_BY_SHELLS)


def _relied_on_learned(job: Job) -> bool:
    """Whether all that a job was promised is what had been learned of its command."""
    asked = job.request.memory_bytes
    mine = job.learned_bytes is not None and asked in (None, job.learned_bytes) and job.request.memory_percent is None
    return mine and bool(job.shares) and not any(share.whole for share in job.shares)
