"""What verbs share: the world they speak of, its database, its arbiter, and the jobs that words name.

A verb reads the database itself; it asks the arbiter only for what lives there. If everything of gpurun was killed while
jobs were there, the first verb summons an arbiter, which repairs.
"""

import os
import sys
import time
from _socket import SO_PEERCRED, SOL_SOCKET

from ..client.call import Call, knock, open_queue
from ..errors import GpurunError, NoSuchJob, StoreError, UsageError, WaitLimitPassed
from ..launch.request import simulated
from ..standing import Standing
from ..state.paths import Folder
from ..state.reading import Reader
from ..units import parse_integer, parse_run, split_jobs
from ..wire import PROTOCOL, pack

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..listed import Listed
    from ..model import Job

Given = dict[str, str | bool]
# Why a job waits: the rule, the sentence, and what would help.
Why = tuple[str, str, list[str]]
# For how long a verb bears that the bell's queue is full, and a list that it is not answered.
ANSWER_SECONDS = 5.0
# Numbers sent in one packet.
AT_ONCE = 4000


class World:
    """The world a verb speaks of."""

    def __init__(self, given: Given, *, create: bool = False) -> None:
        self.sim = simulated(given)
        self.folder: Folder | None = open_queue(self.sim, create=create)
        self._call: Call | None = None
        self._asked_ahead: bytes | None = None
        self.reader: Reader | None = self._read()

    def _read(self) -> Reader | None:
        """Open the database. One that holds no live job, or is broken, is doubted: an arbiter that is up may know better."""
        if self.folder is None:
            return None
        if self.folder.machine_bell is not None:
            from ..state.asked import AskedReader

            return AskedReader(self.ask)
        try:
            reader = self._open(self.folder)
            if (reader is not None and reader.has_live()) or not self._is_looked_at("ping"):
                return reader
        except StoreError as err:
            if not err.is_unsound or not self._is_looked_at("mend"):
                raise
        return self._open(self.folder)

    def _is_looked_at(self, kind: str) -> bool:
        """Have an arbiter that is up look at its files, as at each wake, or closely; false if there is none that can."""
        try:
            if not self.has_arbiter():
                return False
            self.ask(kind)
        except GpurunError:
            return False
        finally:
            if self._call is not None:
                self._call.drop()  # no arbiter is kept from leaving by our connection
            self._call = None
        return True

    def _open(self, folder: Folder) -> Reader | None:
        try:
            return Reader(folder)
        except FileNotFoundError:
            return None

    def refresh(self) -> None:
        """Look again: what was not there may be there now, and no arbiter is kept from leaving by our connection."""
        self.hang_up()
        if self.folder is None:
            self.folder = open_queue(self.sim, create=False)
        self.reader = self.reader or self._read()
        self.repair()

    def repair(self) -> None:
        """Summon an arbiter if jobs are there and none answers: they may all have ended meanwhile."""
        if self.reader is not None and self.reader.has_live() and not self.has_arbiter():
            self.ask("ping")

    def has_arbiter(self) -> bool:
        """Whether an arbiter answers the bell."""
        if self.folder is None:
            return False
        if self._call is None:
            try:
                sock = knock(self.folder, ANSWER_SECONDS)
            except WaitLimitPassed:
                raise GpurunError(f"the arbiter does not answer: its bell has been busy for {ANSWER_SECONDS:g} s") from None
            if sock is None:
                return False
            self._call = Call(self.folder, self.sim)
            self._call.socket = sock
        return True

    def ask(self, kind: str, **values: object) -> "Any":
        """Ask the arbiter and return its JSON answer, None if it had nothing to say. Raises GpurunError if it refuses."""
        import json  # with what it imports it would cost every list

        text = self._ask(kind, **values)
        return json.loads(text) if text else None

    def _ask(self, kind: str, **values: object) -> str:
        packet = pack(kind, version=PROTOCOL, **values)
        call, asked, self._asked_ahead = self._to_arbiter(), self._asked_ahead, None
        ahead = call.receive() if asked == packet else None
        if asked not in (None, packet):
            call.drop()  # the answer to another question is on its way there
        answer, found = ahead if ahead is not None and ahead[0] != "old" else call.ask(packet)
        text = found.get("text", "")
        while answer == "more":
            following = call.receive()
            if following is None:
                raise GpurunError("the arbiter ended while it answered")
            answer, found = following
            text += found.get("text", "")
        if answer == "refused":
            raise GpurunError(found["text"], hint=found.get("hint"), status=1)
        return text

    def ask_within(self, seconds: float, kind: str, **values: object) -> "Any":
        """Ask, but wait for so long at most. Raises GpurunError, too, if there is no answer by then."""
        call = self._to_arbiter()
        call.limit_mono = time.monotonic() + seconds
        try:
            return self.ask(kind, **values)
        except WaitLimitPassed:
            call.drop()  # the answer may still come, to nobody
            raise GpurunError(f"the arbiter has not answered for {seconds:g} s") from None
        finally:
            call.limit_mono = None

    def arbiter_pid(self) -> int | None:
        """Return the process to which we are connected, as the kernel names it."""
        sock = self._call.socket if self._call is not None else None
        if sock is None:
            return None
        credentials = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)

    def hang_up(self) -> None:
        """Let the arbiter go: no connection of ours keeps it from leaving."""
        if self._call is not None:
            self._call.drop()
            self._call, self._asked_ahead = None, None

    def ask_ahead(self, kind: str, **values: object) -> None:
        """Send a question that `ask` will soon be called with: it is answered while we do something else."""
        packet = pack(kind, version=PROTOCOL, **values)
        self._asked_ahead = packet if self._to_arbiter().send(packet) else None

    def _to_arbiter(self) -> Call:
        assert self.folder is not None
        if self._call is None:
            self._call = Call(self.folder, self.sim)
        return self._call

    def ask_about(self, kind: str, jobs: list[int], **values: object) -> "list[Any]":
        """Ask about jobs by number, as many packets as it takes; the answers of a list are joined."""
        answers: list[Any] = []
        for at in range(0, len(jobs), AT_ONCE):
            numbers = " ".join(str(job) for job in jobs[at : at + AT_ONCE])
            answers += self.ask(kind, jobs=numbers, **values) or []
        return answers

    def explain(self, jobs: "Sequence[Job | Listed]", *, listed: bool = False) -> "Callable[[], dict[int, Why]]":
        """Ask why jobs wait or stand still (rule, sentence, what would help); what is returned fetches the answer.

        It tells what an arbiter can tell: without one nobody waits; one that hangs keeps no list waiting. `listed`: briefly.
        """
        holding = self.reader.holding_ids() if self.reader is not None else frozenset()
        numbers = [str(job.id) for job in jobs if not job.has_ended or job.id in holding]
        texts = [" ".join(numbers[at : at + AT_ONCE]) for at in range(0, len(numbers), AT_ONCE)]
        if not texts or not self.has_arbiter():
            return dict
        self.ask_ahead("explain", jobs=texts[0], listed=listed, plain=True)

        def fetch() -> dict[int, Why]:
            found: dict[int, Why] = {}
            call = self._to_arbiter()
            call.limit_mono = time.monotonic() + ANSWER_SECONDS
            try:
                for text in texts:
                    found |= _read_reasons(self._ask("explain", jobs=text, listed=listed, plain=True))
            except WaitLimitPassed:
                call.drop()
                self._complain()
            finally:
                call.limit_mono = None
            return found

        return fetch

    def ask_line(self) -> None:
        """Send the question that `line` will be called for: it is answered while the database is read."""
        if self.reader is not None and self.reader.has_live() and self.has_arbiter():
            self.ask_ahead("line", bare=False)

    def line(self, *, bare: bool = False) -> Standing:
        """Ask where jobs stand in line and, unless `bare`, why they wait. As with `explain`, what nobody tells is missing."""
        if self.reader is None or not self.reader.has_live() or not self.has_arbiter():
            return Standing()
        call = self._to_arbiter()
        call.limit_mono = time.monotonic() + ANSWER_SECONDS
        try:
            return Standing.read(self._ask("line", bare=bare))
        except WaitLimitPassed:
            call.drop()
            self._complain()
        except GpurunError:
            pass  # an older arbiter knows no such question: its jobs stand by rank and number
        finally:
            call.limit_mono = None
        return Standing()

    @staticmethod
    def _complain() -> None:
        lacks = f"the arbiter has not answered for {ANSWER_SECONDS:g} s: why jobs wait is not known"
        sys.stderr.write(f"gpurun: {lacks}\n")

    def live(self) -> "list[Job]":
        """Return the jobs in line, running or holding."""
        return self.reader.jobs(ended=False) if self.reader is not None else []

    def select(self, words: list[str], *, everything: bool = False, ended: bool = False) -> "tuple[list[Job], list[NoSuchJob]]":
        """Find the jobs that words name: number, range, list of both, name or glob; with `everything` all of mine that live.

        A name is the live jobs of that name, else the latest that ended: all rows of it, if that is a sweep. Of ranges and
        lists, and of sweeps that are not over, those that have ended belong to it if `ended`, and the names that a glob matches
        are those of ended jobs, too: then the answer is the same whenever one asks. Returns what was found, each once, and an
        error for each word that names none.
        """
        found: dict[int, Job] = {}
        missing: list[NoSuchJob] = []
        live = self.live()
        if everything:
            found = {job.id: job for job in self._mine(live) if not job.has_ended}
        for word in words:
            named = {part: self._named(part, live, ended) for part in split_jobs(word)}
            missing += [NoSuchJob(part) for part, jobs in named.items() if not jobs]
            jobs = [job for each in named.values() for job in each]
            if len(named) > 1 and not ended:
                jobs = [job for job in jobs if not job.has_ended] or jobs
            found |= {job.id: job for job in jobs}
        return list(found.values()), missing

    def _mine(self, jobs: "list[Job]") -> "list[Job]":
        """Return one's own of some jobs: in the queue of a machine names, globs and --all mean these."""
        if self.folder is None or self.folder.machine_bell is None:
            return jobs
        return [job for job in jobs if job.uid == os.getuid()]

    def _named(self, word: str, live: "list[Job]", ended: bool) -> "list[Job]":
        if self.reader is None:
            return []
        run = parse_run(word)
        if run is not None:
            jobs = self.reader.by_number(*run)
            return jobs if ended else [job for job in jobs if not job.has_ended] or jobs
        if any(letter in word for letter in "*?["):
            from fnmatch import fnmatchcase  # imports re

            live = self._mine(live)
            names = self.reader.names() if ended else [job.name for job in live if job.name is not None]
            matched = [name for name in dict.fromkeys(names) if fnmatchcase(name, word)]
            jobs = sorted((job for name in matched for job in self._called(name, live)), key=lambda job: job.id)
        else:
            jobs = self._called(word, self._mine(live))
        return self._whole(jobs) if ended else jobs

    def _called(self, name: str, live: "list[Job]") -> "list[Job]":
        assert self.reader is not None
        return [job for job in live if job.name == name] or self.reader.latest_named(name)

    def _whole(self, jobs: "list[Job]") -> "list[Job]":
        """Add to rows the others of their sweeps, by number, as far as they have the same name."""
        assert self.reader is not None
        found = {job.id: job for job in jobs}
        for sweep, name in {(job.row.sweep, job.name): None for job in jobs if job.row is not None}:
            for row in self.reader.rows_named(sweep, name or ""):
                found.setdefault(row.id, row)
        return [found[number] for number in sorted(found)]


def _read_reasons(text: str) -> dict[int, Why]:
    """Read an answer to `explain`: a line for each job, its fields between tabs, of which no sentence has any."""
    if text.startswith("{"):  # of an arbiter that knows no `plain`
        import json

        return {int(number): (rule, sentence, helps) for number, (rule, sentence, helps) in json.loads(text).items()}
    found: dict[int, Why] = {}
    for line in text.split("\n") if text else ():
        number, rule, sentence, *helps = line.split("\t")
        found[int(number)] = (rule, sentence, helps)
    return found


def require_jobs(operands: list[str], given: Given, usage: str) -> None:
    """Raise UsageError unless the words name jobs, or --all does."""
    if not operands and "all" not in given:
        raise UsageError("JOB missing", hint=f"usage: gpurun {usage}")
    if operands and "all" in given:
        raise UsageError("--all goes without JOB", hint=f"usage: gpurun {usage}")


def read_lines(given: Given) -> int | None:
    """Return how many lines `-n` wants, None for all. Raises UsageError."""
    if "lines" not in given:
        return None
    count = parse_integer(str(given["lines"]))
    if count is None or count < 0:
        raise UsageError(f"lines {given['lines']}: a count, 0 or more")
    return count


def my_name() -> str:
    """Return the name of the user who types."""
    from ..host.processes import user_name

    return user_name(os.getuid())
