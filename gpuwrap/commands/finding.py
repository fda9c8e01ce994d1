"""One line of what `doctor` found."""

from typing import NamedTuple


class Finding(NamedTuple):
    """One line: `verdict` is ok, note, bad, unproven or mended; `help` what to do."""

    verdict: str
    subject: str
    text: str
    help: str = ""
