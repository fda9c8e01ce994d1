"""Standard output: an error of it bears its name, so that it is not taken for one of anything else, nor another for its own.

Every command loads this module.
"""

import io
import os
import sys

NAME = "standard output"

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every launch
if TYPE_CHECKING:
    from typing import Any


class _Named(io.FileIO):
    """What `print` writes to in the end."""

    def write(self, data: "Any", /) -> int:
        try:
            return super().write(data)
        except OSError as err:
            err.filename = NAME
            raise


def name_errors() -> None:
    """From now on what `print` cannot write is an OSError with the file name NAME; letters that its encoding lacks are `?`."""
    was = sys.stdout
    if isinstance(was, io.TextIOWrapper):
        bytes_out = io.BufferedWriter(_Named(1, "wb", closefd=False))
        errors = "replace" if was.errors == "strict" else was.errors
        sys.stdout = io.TextIOWrapper(bytes_out, was.encoding, errors, "\n", was.line_buffering, was.write_through)


def put(data: bytes) -> None:
    """Write all of it at once, past what `print` may still keep. Raises OSError with the file name NAME."""
    while data:
        try:
            data = data[os.write(1, data) :]
        except OSError as err:
            err.filename = NAME
            raise


def abandon() -> None:
    """Throw away what was not written yet: Python would complain once more while it flushes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
