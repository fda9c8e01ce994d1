"""Which queue a client asks: one's own, or the machine's.

1. Who names a world has it: GPURUN_DIR, --sim, a Slurm allocation. Where nobody has switched the machine's queue on, that is
   all, and it costs one look at one name.
2. Inside a job it is the queue that the job is in. So where GPURUN_JOB is set one's own arbiter, if it lives, is asked first
   whether it knows the caller: a step of a job begun before the machine's queue would else wait, in that, for the GPU that
   its own queue holds.
3. Else the mark decides, and never the bell: at boot, or while the service starts anew, the bell is missing for a moment, and
   clients would scatter into queues of their own.

Loaded only where the mark is there.
"""

import _socket
import os

from ..state import paths
from ..wire import PACKET, PROTOCOL, pack, unpack

# How long one's own arbiter is waited for to say whether it knows us.
KNOWS_SECONDS = 5.0


def open_where_machine_is_on(*, create: bool) -> paths.Folder | None:
    """Do what `open_queue` does where the mark is there."""
    if "GPURUN_JOB" in os.environ:
        own = paths.open_folder(None, create=False)
        if own is not None and knows_us(own):
            return own
    if paths.is_opted_out():
        return paths.open_folder(None, create=create)
    # What is a user's own (logs of -d) stays in his own folder: the machine's is root's.
    own = paths.open_folder(None)
    assert own is not None
    return paths.Folder(own.path, own.fd, paths.MACHINE_BELL)


def knows_us(own: paths.Folder) -> bool:
    """Whether the arbiter of one's own queue lives, and we are inside a job of it."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(KNOWS_SECONDS)
        sock.connect(own.bell())
        sock.send(pack("inside", version=PROTOCOL))
        kind, values = unpack(sock.recv(PACKET))
    except (OSError, ValueError):  # nobody listens, or it is one of before, which knows no such question
        return False
    finally:
        sock.close()
    return kind == "done" and values.get("text", "") != ""
