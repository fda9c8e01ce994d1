"""What makes a GPU that still answers unfit for new jobs: Xid errors, and memory trouble that ECC has found.

1. Xids are advisory: a driver that tells none, or not to us, is no fault. They are read at each look, never waited for; what
   could not be subscribed to is tried again at the next one.
2. An Xid that comes from a program's own mistake (13, 31, 43, 45 …) says nothing about the GPU and is not counted.
3. An Xid that counts is forgotten XID_SECONDS after the last one: if the GPU still answers every call by then, it is well.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol

Ask = Callable[..., Any]

XID_SECONDS = 60.0
# Events in one look, at most: a GPU in trouble may tell thousands.
MOST_EVENTS = 100

# [NVIDIA, XID errors; nvidia-ml-py, nvmlEventTypeXidCriticalError]
XID_EVENT = 0x8
XIDS = {
    46: "the GPU stopped processing",
    48: "double-bit memory error",
    61: "internal microcontroller breakpoint",
    62: "internal microcontroller halt",
    64: "a bad memory row could not be retired",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "high rate of single-bit memory errors",
    95: "uncontained memory error",
    119: "its system processor does not answer",
    120: "error of its system processor",
    122: "SPI failure",
    123: "power management failure",
    140: "unrecovered memory error",
    143: "GPU initialisation error",
    154: "the GPU asks for recovery",
}


class Session(Protocol):
    """The open NVML session (`nvml.Driver`)."""

    def ask(self, name: str, *arguments: Any, trouble: list[int] | None = None) -> Any:
        """Call an NVML function; None if it gives no answer, and a code in `trouble` if it may give one the next time."""


class Xids:
    """The Xids of one NVML session, of the GPUs that answer. `read` may hang."""

    def __init__(self, driver: Session) -> None:
        self._driver = driver
        self._set: Any = None
        self._registered: dict[str, int] = {}
        self._told: dict[int, tuple[int, float]] = {}
        self._done: set[int] = set()
        self._has_none = False

    def read(self, well: frozenset[int]) -> None:
        """Take in what has happened since the last look. `well`: the GPUs that answered this one."""
        ask = self._driver.ask
        self._done &= well  # one that was lost and came back may tell nothing more
        self._open()
        for index in well - self._done if self._set is not None else ():
            self._register(index)
        for _ in range(MOST_EVENTS if self._set is not None else 0):
            # 0 ms: answers at once; "timeout" when there is nothing is an error, so None.
            event = ask("nvmlEventSetWait_v2", self._set, 0)
            if event is None:
                return
            told_by = self._registered.get(ask("nvmlDeviceGetUUID", event.device) or "")
            if told_by is not None and event.eventType == XID_EVENT and event.eventData in XIDS:
                self._told[told_by] = (event.eventData, time.monotonic())

    def fault(self, index: int) -> str | None:
        """Return what is wrong with a GPU by its latest Xid, None if nothing or long ago."""
        code, at_mono = self._told.get(index, (0, 0.0))
        if not code or time.monotonic() - at_mono > XID_SECONDS:
            return None
        return f"Xid {code}: {XIDS[code]}"

    def _open(self) -> None:
        if self._set is None and not self._has_none:
            trouble: list[int] = []
            self._set = self._driver.ask("nvmlEventSetCreate", trouble=trouble)
            self._has_none = self._set is None and not trouble

    def _register(self, index: int) -> None:
        ask = self._driver.ask
        trouble: list[int] = []
        try:
            handle = ask("nvmlDeviceGetHandleByIndex", index, trouble=trouble)
            uuid = handle and ask("nvmlDeviceGetUUID", handle, trouble=trouble)
            if uuid:
                # It returns nothing where it works, as it does where it fails.
                ask("nvmlDeviceRegisterEvents", handle, XID_EVENT, self._set, trouble=trouble)
                self._registered[uuid] = index
        except Exception:  # a GPU that has just been lost: the others still count
            return
        if not trouble:
            self._done.add(index)


def ecc_fault(ask: Ask, handle: Any, known: str | None) -> str | None:
    """Say what ECC has found that makes a GPU unfit, None if nothing; what is `known` if it cannot be had this time.

    Pages that wait for a reset to be retired may still be used until then; rows that wait (from Ampere on) are set aside
    already, and only a failure counts [NVIDIA, dynamic page retirement; GPU memory error management].
    """
    trouble: list[int] = []
    if ask("nvmlDeviceGetRetiredPagesPendingStatus", handle, trouble=trouble) == 1:
        return "bad memory pages wait for a reset to be retired (ECC)"
    rows = ask("nvmlDeviceGetRemappedRows", handle, trouble=trouble)
    if rows is not None and rows[3]:
        return "bad memory rows could not be remapped (ECC): the GPU must be replaced"
    return known if trouble else None
