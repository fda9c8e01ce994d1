"""What to say where an extra is not installed."""

from ..errors import GpurunError


def lacking(what: str, extra: str, err: ImportError) -> GpurunError:
    """Return the error for something that needs an extra which is not there."""
    return GpurunError(f"{what}: not installed: {err.name or err}", hint=f"pip install 'gpuwrap[{extra}]'", status=1)
