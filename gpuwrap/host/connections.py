"""How GPUs are connected: to each other, as a level that can be compared, and to NUMA nodes.

NVML is asked through the `ask` of `nvml`: None means that the driver does not say. What it does not say is left out, and
`trouble` gets the codes of errors that may be none the next time.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

Ask = Callable[..., Any]
Address = tuple[int, int, int]  # PCI domain, bus, device

# By NVML's level of the nearest common ancestor, from "one board" to "across sockets" [nvmlGpuTopologyLevel_t].
TOPOLOGY = {0: 60, 10: 50, 20: 40, 30: 30, 40: 20, 50: 10}
NVLINK = 100  # plus the number of links

# [nvidia-ml-py 13: NVML_NVLINK_MAX_LINKS, NVML_P2P_CAPS_INDEX_NVLINK, NVML_P2P_STATUS_OK, NVML_AFFINITY_SCOPE_NODE]
MOST_LINKS, P2P_NVLINK, P2P_OK, SCOPE_NODE = 36, 2, 0, 0
INVALID_ARGUMENT = 2  # of a link: the GPU has fewer
MASKS = 16  # of 64 NUMA nodes each


class Place(NamedTuple):
    """A GPU as seen from the others."""

    uuid: str
    handle: Any
    address: Address | None


def address_of(pci: Any) -> Address | None:
    """The place of an nvmlPciInfo_t, None for None. Not its text, of which there are two forms."""
    return (pci.domain, pci.bus, pci.device) if pci else None


def links(ask: Ask, mine: Place, others: Iterable[Place], trouble: list[int]) -> dict[str, int]:
    """How well a GPU is connected to others, by UUID: larger is better."""
    states: list[int] = []
    numbers = [link for link in range(MOST_LINKS) if ask("nvmlDeviceGetNvLinkState", mine.handle, link, trouble=states)]
    trouble += [code for code in states if code != INVALID_ARGUMENT]
    ask = partial(ask, trouble=trouble)
    ends = [address_of(ask("nvmlDeviceGetNvLinkRemotePciInfo", mine.handle, link)) for link in numbers]
    levels = {other.uuid: _nvlinks(ask, mine, other, ends) or _topology(ask, mine, other) for other in others}
    return {uuid: level for uuid, level in levels.items() if level}


def _nvlinks(ask: Ask, mine: Place, other: Place, ends: list[Address | None]) -> int | None:
    direct = ends.count(other.address) if other.address else 0
    if direct:
        return NVLINK + direct
    # Otherwise only through switches, and then with all links.
    if ends and ask("nvmlDeviceGetP2PStatus", mine.handle, other.handle, P2P_NVLINK) == P2P_OK:
        return NVLINK + len(ends)
    return None


def _topology(ask: Ask, mine: Place, other: Place) -> int | None:
    return TOPOLOGY.get(ask("nvmlDeviceGetTopologyCommonAncestor", mine.handle, other.handle))


def numa_node(ask: Ask, handle: Any, address: Address | None) -> int | None:
    """The node that a GPU is attached to, None if it is not known or not one.

    nvmlDeviceGetNumaNodeId is something else: the node that the GPU's own memory is, where it is one [NVML docs].
    """
    masks = ask("nvmlDeviceGetMemoryAffinity", handle, MASKS, SCOPE_NODE) or ()
    nodes = [64 * i + bit for i, mask in enumerate(masks) for bit in range(64) if mask >> bit & 1]
    if len(nodes) == 1:
        return nodes[0]
    return _sysfs_node(address) if address else None


def _sysfs_node(address: Address) -> int | None:
    domain, bus, device = address
    try:
        with open(f"/sys/bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.0/numa_node") as file:
            node = int(file.read())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None  # -1: there is only one, or the firmware does not say
