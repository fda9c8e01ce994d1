"""What the server needs of the world; the verb provides it."""

from typing import Any, NamedTuple, Protocol

from .feed import Facts


class Output(NamedTuple):
    """Where a job's output is; `path` None: nowhere, and `words` says why. `has_ended`: nothing more will come."""

    path: bytes | None
    words: str
    has_ended: bool


class Source(Protocol):
    """The world as the page shows it. All is called from one thread, and may take a moment."""

    def hello(self) -> dict[str, Any]:
        """Return what stays as it is: whose page it is, and of which world."""

    def look(self, anew: bool) -> Facts | None:
        """Return what there is to tell; None if nothing has changed since the last time, unless `anew`."""

    def rest(self) -> None:
        """Nobody looks: let the arbiter and the database go."""

    def job(self, number: int) -> dict[str, Any] | None:
        """Return all about a job; None if there is none."""

    def output(self, number: int) -> Output | None:
        """Return where a job's output is; None if there is no such job."""

    def act(self, verb: str, number: int, value: str | None) -> tuple[bool, str]:
        """Do what a verb does to a job; returns whether it was done, and what was done or why not."""
