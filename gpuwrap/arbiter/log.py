"""The arbiter's log: one line a step, with a fixed key for tests and a sentence for people, on stderr."""

import sys
import time


def log(key: str, sentence: str) -> None:
    """Write one line. A full disk must not stop the arbiter."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    try:
        sys.stderr.write(f"{stamp} {key}: {sentence}\n")
        sys.stderr.flush()
    except OSError:
        return
