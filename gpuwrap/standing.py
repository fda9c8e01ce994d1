"""Where each job of a list stands, as the arbiter tells it in one answer: its place in line, and why it waits.

Lists wait for this module: it imports next to nothing.
"""

from .sweeps import from_words

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Mapping

# The rule and the sentence.
Note = tuple[str, str]
# Rules whose sentence is another for each job, though it says the same.
_OF_EACH = ("held", "stopped", "frozen")


class Standing:
    """Places in line (1 is served next) and notes, by the numbers of the jobs. What nobody told is missing."""

    __slots__ = ("notes", "places", "queues", "starts")

    def __init__(self) -> None:
        self.places: dict[int, int] = {}
        self.queues: dict[int, int] = {}
        """Of jobs that wait inside another's grant: that one."""
        self.notes: Mapping[int, Note] | dict[int, Note] = {}
        self.starts: dict[int, int] = {}
        """In how many seconds jobs are expected to start, of whom that can be said."""

    @classmethod
    def read(cls, text: str) -> "Standing":
        """Read the arbiter's answer (`lined_up`); kinds of lines that we do not know are left out."""
        self = cls()
        queues, reasons, notes = [], [], dict[int, Note]()
        for line in text.split("\n") if text else ():
            kind, *fields = line.split("\t")
            if kind == "queue":
                queues.append(fields)
            elif kind == "reason":
                reasons.append((fields[0], fields[1]))
            elif kind == "starts":
                self.starts = {int(job): int(seconds) for job, _, seconds in (field.partition(":") for field in fields)}
            elif kind == "job":
                notes[int(fields[0])] = (fields[1], fields[2])
        for whose, jobs, runs in queues:
            numbers = from_words(jobs)
            self.places |= {number: place for place, number in enumerate(numbers, 1)}
            if whose:
                self.queues |= dict.fromkeys(numbers, int(whose))
            at = 0
            for run in runs.split():
                count, _, reason = run.partition("*")
                following = at + int(count)
                notes |= dict.fromkeys(numbers[at:following], reasons[int(reason)])
                at = following
        self.notes = notes
        return self

    def reason(self, number: int) -> Note:
        """Return what a job has in common with those that wait for the same; empty if nothing was told."""
        note = self.notes.get(number, ("", ""))
        return (note[0], "") if note[0] in _OF_EACH else note
