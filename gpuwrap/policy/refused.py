"""What is said of a request that is not done."""

from ..errors import GpurunError


class Refused(Exception):
    """A request that is not done, ever: `error` says why."""

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        self.error = GpurunError(text, hint=hint)
        super().__init__(text)
