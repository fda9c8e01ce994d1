"""gpurun: one word in front of any command, and it starts when a GPU is really free for it.

Python programs that nothing can be put in front of have `gpuwrap.gpu`: see help(gpuwrap.gpu).
"""

__version__ = "0.1.0"
__all__ = ["BlockGrant", "GpurunError", "gpu"]

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every launch
if TYPE_CHECKING:
    from .block import BlockGrant as BlockGrant
    from .block import gpu as gpu
    from .errors import GpurunError as GpurunError


def __getattr__(name: str) -> object:
    """Load what Python programs ask for when they do: every launch imports this package."""
    if name == "GpurunError":
        from .errors import GpurunError

        return GpurunError
    if name in __all__:
        from . import block

        return getattr(block, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
