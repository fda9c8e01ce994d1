"""The words that clients and the arbiter exchange over the bell.

One SEQPACKET packet is one message: a kind and named values, all text, joined by NUL bytes, which no
argument, path or environment value can contain. Long texts (answers to verbs) are cut into packets of at most
`CHUNK` bytes, since packets over the socket's send buffer (212 KB by default) are refused [tested].

The launch path imports this module: it imports nothing itself.
"""

# Raised when a message changes its meaning; an arbiter older than its client leaves, a newer one serves older clients.
PROTOCOL = 3

CHUNK = 60_000
# Room for the longest message: a chunk and its framing.
PACKET = 65_536
# The CUDA_VISIBLE_DEVICES of a step of Slurm that has no GPU; elsewhere labs have it in their profiles.
NO_DEVICES = "NoDevFiles"


def pack(kind: str, /, **values: object) -> bytes:
    """Make one packet. `None` is left out, bools become 0 and 1; text keeps bytes that are not UTF-8 (surrogateescape)."""
    parts = [kind]
    for name, value in values.items():
        if value is None:
            continue
        if value is True or value is False:
            value = int(value)
        parts.append(f"{name}={value}")
    return "\0".join(parts).encode("utf-8", "surrogateescape")


def unpack(packet: bytes) -> tuple[str, dict[str, str]]:
    """Read one packet: its kind and its values. Raises ValueError for what `pack` could not have made."""
    kind, *pairs = packet.decode("utf-8", "surrogateescape").split("\0")
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"no value in {pair!r}")
        values[name] = value
    return kind, values
