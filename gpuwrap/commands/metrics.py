"""metrics: figures for Prometheus, served or written once.

An arbiter that is up is asked; none is summoned, and none is kept from leaving.
"""

import contextlib

from .. import __version__
from ..errors import GpurunError, UsageError
from ..exports.lacking import lacking
from ..state.chronicle import Chronicle
from ..units import parse_integer
from .asking import Given, World

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from ..exports.prometheus import Sample

ADDRESS, PORT = "127.0.0.1", 9460
ANSWER_SECONDS = 2.0


def main(given: Given, operands: list[str]) -> int:
    """Serve until we are ended, or write once."""
    if operands:
        raise UsageError(f"{operands[0]}: metrics takes no operand")
    if "listen" in given and "textfile" in given:
        raise UsageError("--listen goes without --textfile")
    try:
        from ..exports import prometheus
    except ImportError as err:
        raise lacking("metrics", "metrics", err) from err
    if "textfile" not in given:
        prometheus.serve(lambda: take(given), *read_address(str(given.get("listen", ADDRESS))))
        return 0
    path = str(given["textfile"])
    if not path.endswith(".prom"):
        raise UsageError(f"--textfile {path}: FILE.prom: node_exporter reads no other")
    prometheus.write(lambda: take(given), path)
    return 0


def read_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, `:PORT`, `PORT`, `HOST`, `[::1]:PORT`. Raises UsageError."""
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon and parse_integer(text) is not None:
        host, port = "", text
    elif not colon and not host:
        host, port = text, ""
    number = parse_integer(port) if port else PORT
    host = host.removeprefix("[").removesuffix("]")
    if not text or number is None or not 0 < number < 65536 or any(letter in host for letter in "/[] "):
        raise UsageError(f"--listen {text}: not understood: 127.0.0.1:{PORT}, for example")
    return host or ADDRESS, number


def take(given: Given) -> "Sample":
    """Look at the world."""
    from ..exports.prometheus import Sample

    sample = Sample(__version__)
    world = World(given)
    if world.folder is None or world.reader is None:
        return sample
    chronicle = Chronicle(world.folder)
    try:
        sample.states, sample.granted, sample.totals = chronicle.states(), chronicle.granted(), chronicle.totals()
        sample.arbiter_starts = chronicle.arbiter_starts()
    finally:
        chronicle.close()
    with contextlib.suppress(GpurunError):  # one that hangs is none that is up
        if world.has_arbiter():
            sample.gpus = world.ask_within(ANSWER_SECONDS, "gpus")
            sample.figures = world.ask_within(ANSWER_SECONDS, "figures")
    world.hang_up()
    return sample
