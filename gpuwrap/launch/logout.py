"""What becomes of a background job at logout: where it would end, it is moved to where it does not, or its caller is told.

Only what a login session leaves behind can be ended by a logout, and only if logind is set to: it is asked, by who is in one.
"""

import os
import time

from ..host import bus, logind

ASK_SECONDS = 1.0
MOVE_SECONDS = 5.0


def survive(name: str) -> str | None:
    """See that we survive the logout, in a scope of that name. Returns why we will not, None if we will.

    Where logind does not answer nothing is known, and nothing is said.
    """
    if not bus.is_there() or not logind.are_we_in_session():
        return None
    try:
        if not logind.kills_at_logout(time.monotonic() + ASK_SECONDS):
            return None
    except bus.Refused:
        return None
    from ..host import usermanager  # as long to load as to ask: only where it is of use

    why = "logind is set to end what a session leaves (KillUserProcesses)"
    if os.geteuid() and not usermanager.lingers():
        return f"{why}\nloginctl enable-linger {usermanager.our_name()} lets such jobs stay"
    try:
        usermanager.adopt(os.getpid(), f"gpurun-{name}.scope", time.monotonic() + MOVE_SECONDS)
    except bus.Refused as refused:
        return f"{why}, and the user manager {refused.text}"
    return None
