"""Waiting for the machine's arbiter: its bell is not there, or nobody listens, for a moment (or until root looks).

The kernel says when the bell comes (inotify on its folder, and on the one above while that is missing): nothing polls.
Loaded only by who has to wait.
"""

import ctypes
import os
import select
import struct
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import GpurunError

Found = TypeVar("Found")
SAID_AFTER_SECONDS = 2.0
# [inotify(7)]
_CREATE, _MOVED_TO, _ATTRIB = 0x100, 0x80, 0x4
_EVENT = struct.Struct("iIII")


def await_bell(path: str, try_: Callable[[], Found | None], limit_mono: float | None, passed: type[Exception]) -> Found:
    """Try until it succeeds, each time that something appears where the bell stands. Raises `passed` at the limit."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise GpurunError("cannot wait for the arbiter: inotify: " + os.strerror(ctypes.get_errno()).lower())
    begun, is_said = time.monotonic(), False
    folders = [os.path.dirname(path), os.path.dirname(os.path.dirname(path))]
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        while True:
            for folder in folders:  # again each time: the folder itself may have come
                libc.inotify_add_watch(fd, os.fsencode(folder), _CREATE | _MOVED_TO | _ATTRIB)
            found = try_()
            if found is not None:
                return found
            now = time.monotonic()
            if limit_mono is not None and now >= limit_mono:
                raise passed
            ends = [] if limit_mono is None else [limit_mono]
            ends += [] if is_said else [begun + SAID_AFTER_SECONDS]
            if poll.poll(max(0.0, min(ends) - now) * 1000 if ends else None):
                os.read(fd, 65536)
            elif not is_said and time.monotonic() >= begun + SAID_AFTER_SECONDS:
                is_said = True
                if os.isatty(2):
                    sys.stderr.write("gpurun: gpurun.service does not run: ask root\n")
    finally:
        os.close(fd)
