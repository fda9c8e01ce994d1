"""What commands were seen to need: peaks of finished jobs, by the fingerprint of their command."""

import hashlib
import os

from ..model import Job
from ..units import MIB

MARGIN_FACTOR = 1.2
MARGIN_BYTES = 512 * MIB


def fingerprint(argv: tuple[bytes, ...], cwd: bytes) -> str:
    """Name a command: its program, its arguments, and the script among them by its whole path.

    Two runs of one script in one folder with the same arguments need the same memory, near enough; anything else may not.
    """
    words = [os.path.basename(argv[0]) if argv else b""]
    words += [os.path.join(cwd, word) if word.endswith((b".py", b".sh")) else word for word in argv[1:]]
    return hashlib.blake2b(b"\0".join(words), digest_size=16).hexdigest()


def needed_bytes(peak_bytes: int) -> int:
    """Return what a command seen before is taken to need: its peak, a fifth more, and 512 MiB."""
    return int(peak_bytes * MARGIN_FACTOR) + MARGIN_BYTES


def worth_learning(job: Job) -> bool:
    """Whether a job that has ended tells what its command needs: it ran, and was seen to use memory."""
    return job.fingerprint is not None and bool(job.peak_bytes) and job.started_at is not None
