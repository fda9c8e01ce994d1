"""gpurun: one word in front of a command, and it starts when a GPU is really free for it."""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every launch
if TYPE_CHECKING:
    from .block import gpu as gpu


def __getattr__(name: str) -> object:
    """Load `gpu`, the block for Python programs, when it is asked for: every launch imports this package."""
    if name == "gpu":
        from .block import gpu

        return gpu
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
