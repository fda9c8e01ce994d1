"""Whose turn is first among jobs of one priority: who was started first.

A shell that starts forty jobs with `&` starts them in order, and they come to the arbiter in any. So a job counts in line from
the start of its process, as the kernel tells it, if it was registered soon after that; else (a shell that did something before
it became gpurun, a block in Python) from its registration. Of what was started in one tick the pid decides: they are given
upwards. Where nothing does, as among the rows of a sweep, it is the number.
"""

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from .model import Identity, Job

# Linux counts the starts of processes in hundredths of a second, whatever its own clock does [USER_HZ; proc(5), starttime].
TICKS = 100
# On a busy machine forty Pythons at once take seconds to come so far.
SOON_TICKS = 10 * TICKS
# No pid needs more bits [Linux, PID_MAX_LIMIT].
PID_BITS = 22


def turn(identity: "Identity", submitted_mono: float | None, suspended_seconds: float) -> int:
    """Return from when a job counts: ticks since boot, and behind them the pid where that matters, as one number.

    A start is told on a clock that goes on while the machine is suspended, unlike `submitted_mono`: so long it was until then.
    """
    if submitted_mono is None:
        return 0  # of another boot: nobody is waiting for that one
    ticks = round((submitted_mono + suspended_seconds) * TICKS)
    if -1 <= ticks - identity.start_ticks <= SOON_TICKS:
        return identity.start_ticks << PID_BITS | identity.pid
    return ticks << PID_BITS


def before(job: "Job") -> tuple[int, int, int]:
    """Return what a line is sorted by."""
    return -job.priority, job.turn, job.id
