"""Rows of sweeps while they wait: one process, one connection and one descriptor for all of them.

1. A row is a job. While it waits it stands in the name of its sweep's process; its key begins with that process, for good.
2. An offer names the row. A child of the sweep's process takes the row over (`become`): from then on the row's process is
   that child, with its own connection, and everything about a job holds.
3. All rows are registered in one batch under keys that follow from the sweep's key and their index: who lost the answer
   registers again, and nothing is there twice.
4. Few rows of a process are on offer at a time: of a crowd of children most would come too late. Of its other grants each is
   offered once a child has come for one before.
5. The sweep's process tells how its children ended (`row`), and reaps them only when it has been heard.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ...errors import FAILED
from ...host import processes
from ...lifecycle import IN_LINE, JobState
from ...model import Identity, Job, ResultKind, Row
from ...outputs import with_index
from ...policy.refused import Refused
from ...sweeps import MOST_ROWS, in_words
from ..answers.table import Values
from ..bell.seat import Seat
from ..bell.socket import Connection
from ..log import log
from .enforce import OFFER_SECONDS

if TYPE_CHECKING:
    from ..loop import Arbiter

# A child needs some milliseconds to come for its row, more of them on a busy machine.
OFFERS_AT_ONCE = 16
# Index, what it runs (None: the command line of the process), and the size of its script.
Piece = tuple[int, tuple[bytes, ...] | None, int | None]


@dataclass(slots=True, eq=False)
class Sweep:
    """The process of a sweep, and the rows that wait in its name."""

    identity: Identity
    connection: Connection | None = None
    pidfd: int | None = None
    watched: bool = False
    rows: dict[int, None] = field(default_factory=dict)
    offered: set[int] = field(default_factory=set)
    """Rows for which no child has come yet."""
    to_offer: dict[int, float] = field(default_factory=dict)
    """Rows that are granted and will be offered later, with the moment of the grant."""
    leader_of: int = 0
    """The row by which its pid is known among the leaders."""


class Sweeps:
    """Registers rows, hands them over, and follows the processes in whose name they wait."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._sweeps: dict[Identity, Sweep] = {}
        self._pieces: dict[Connection, list[Piece]] = {}
        self.kinds: dict[str, Callable[[Connection, Values], None]] = {
            "rows": self._rows,
            "sweep": self._sweep,
            "become": self._become,
            "row": self._row_ended,
            "forsake": self._forsake,
        }

    # --- registering --------------------------------------------------------------------------------------------

    def _rows(self, connection: Connection, values: Values) -> None:
        """A part of the rows; `sweep` follows, and says how many there are."""
        indices = values["indices"]
        nothing = [None] * len(indices)
        commands, sizes = values.get("lines", nothing), values.get("scripts", nothing)
        pieces = self._pieces.setdefault(connection, [])
        every = [*(index for index, _argv, _size in pieces), *indices]
        if len(every) > MOST_ROWS or len(set(every)) < len(every) or not len(indices) == len(commands) == len(sizes):
            raise Refused(f"cannot register rows: at most {MOST_ROWS}, each index once, and a command and a size for each")
        pieces += zip(indices, commands, sizes, strict=True)

    def _sweep(self, connection: Connection, values: Values) -> None:
        arbiter = self._arbiter
        pieces = self._pieces.get(connection, [])
        if len(pieces) != values["count"]:  # the connection broke in between
            arbiter.bell.drop(connection)
            self.gone(connection)
            return
        assert connection.identity is not None
        prefix = f"{_begin(connection.identity)}{values['key']}:"
        known = [self._store.find_key(prefix + str(index)) for index, _argv, _size in pieces]
        if not any(known) and pieces:
            if arbiter.answers.machine_unknown(connection, "sweep", values):
                return
            jobs = self._register(connection, pieces, values, prefix)
        else:
            jobs = self._return(connection, known)
        self._pieces.pop(connection, None)
        for job in jobs:
            if job is not None and job.id in self._seats:
                arbiter.answers.admission.note_inherited(job.id, values)
        if "wait" in values:
            arbiter.patience.limit([job for job in jobs if job is not None], values["wait"])
        name = next((job.name for job in jobs if job is not None), None)
        self._turn.say(connection, "sweep", ids=in_words([job.id if job else 0 for job in jobs]), name=name)
        self._turn.replan()

    def _register(self, connection: Connection, pieces: list[Piece], values: Values, prefix: str) -> list[Job | None]:
        """Write all rows; their numbers follow each other."""
        arbiter = self._arbiter
        base = arbiter.answers.admission.read_job(connection, values, prefix)
        first = self._store.next_id()
        base = replace(base, name=base.name or f"sweep-{first}")
        sweep = self._meet(connection)
        jobs: list[Job | None] = []
        for index, argv, size in pieces:
            job = base
            if argv is not None:
                job = arbiter.answers.admission.with_command(base, argv, size, values)
            output = with_index(base.output, index) if base.output is not None and "output" in values else base.output
            job = replace(job, key=prefix + str(index), row=Row(first, index, values.get("limit")), output=output)
            job = self._store.register(job)
            self._seat(job, sweep)
            jobs.append(job)
        log("sweep", f"{len(jobs)} rows from job {first} on")
        return jobs

    def _return(self, connection: Connection, known: list[Job | None]) -> list[Job | None]:
        """The process is here again, perhaps at another arbiter: tell it what it missed."""
        sweep = self._meet(connection)
        for job in known:
            if job is None:
                continue
            if job.state is JobState.ENDED:
                self._tell_ended(connection, job)
            elif self.holds(job):
                self._seat(job, sweep)
                if job.state is JobState.GRANTED:
                    self._arbiter.enforcer.offer(job)
        return known

    def _tell_ended(self, connection: Connection, job: Job) -> None:
        result = job.result
        kind = result.kind if result is not None else ResultKind.LOST
        status = result.code if result is not None and kind is ResultKind.CANCELLED else None
        text = (result.text if result is not None else None) or "ended"
        self._turn.say_of_row(connection, "end", job.id, kind=kind.value, status=status, text=text)

    # --- processes and their rows -------------------------------------------------------------------------------

    def holds(self, job: Job) -> bool:
        """Whether a row waits in the name of its sweep's process: no child has become it yet."""
        waits = job.state in IN_LINE or job.state is JobState.GRANTED
        return job.row is not None and waits and job.key.startswith(_begin(job.identity))

    def _meet(self, connection: Connection) -> Sweep:
        """Return the record of the process that speaks."""
        assert connection.identity is not None
        sweep = self._sweeps.get(connection.identity)
        if sweep is None:
            sweep = self._sweeps[connection.identity] = Sweep(connection.identity)
        sweep.connection = connection
        for job_id in sweep.rows:
            self._seats[job_id].connection = connection
        self._wake(sweep)
        return sweep

    def _of(self, connection: Connection) -> Sweep | None:
        sweep = self._sweeps.get(connection.identity) if connection.identity is not None else None
        return sweep if sweep is not None and sweep.connection is connection else None

    def _seat(self, job: Job, sweep: Sweep) -> Seat:
        """Give a row its seat in the name of the process; also if a child's becoming it was undone."""
        seat = self._seats.setdefault(job.id, Seat(sweep.identity.pid, job.id, self._arbiter.away))
        if seat.sweep is not sweep:
            if seat.connection is not None:
                seat.connection.job_id = None
            seat.let_go_of_leader(self._arbiter)
            seat.sweep, seat.pid = sweep, sweep.identity.pid
            look = self._arbiter.deciding.look
            if look is None or look.pending:
                self._arbiter.answers.unjudged[job.id] = None
        seat.connection = sweep.connection
        sweep.rows[job.id] = None
        if self._arbiter.leaders.setdefault(sweep.identity.pid, job.id) == job.id:
            sweep.leader_of = job.id
        return seat

    def restore(self, job: Job) -> Seat:
        """Find a row's place again, after a restart or a batch that was undone."""
        sweep = self._sweeps.get(job.identity)
        if sweep is None:
            sweep = self._sweeps[job.identity] = Sweep(job.identity, pidfd=processes.open_pidfd(job.identity))
        seat = self._seat(job, sweep)
        if job.state is not JobState.GRANTED:
            sweep.offered.discard(job.id)
            sweep.to_offer.pop(job.id, None)
        if sweep.connection is None:
            self._turn.do(lambda: self._watch(sweep))
        return seat

    def end_abandoned(self) -> None:
        """After a restart: end the rows whose process has gone."""
        for sweep in list(self._sweeps.values()):
            if sweep.pidfd is None:
                self._process_ended(sweep)

    def has_rows(self, connection: Connection) -> bool:
        """Whether rows wait in the name of the process that speaks; those of a batch that was undone do not."""
        sweep = self._sweeps.get(connection.identity) if connection.identity is not None else None
        return sweep is not None and any(job_id in self._store.live for job_id in sweep.rows)

    def seats_like(self, seat: Seat) -> list[Seat]:
        """Return the seats of all that wait in the name of the same process: if it is stopped, all of them are."""
        return [seat] if seat.sweep is None else [self._seats[job_id] for job_id in seat.sweep.rows]

    def left(self, job_id: int, seat: Seat) -> None:
        """A row has left its seat."""
        sweep = seat.sweep
        if sweep is not None:
            sweep.rows.pop(job_id, None)
            sweep.offered.discard(job_id)
            sweep.to_offer.pop(job_id, None)
            if sweep.to_offer:
                self._timers.after(0.0, lambda: self._offer_more(sweep))  # in a batch: here there is none
            self._forget_if_over(sweep)

    def gone(self, connection: Connection) -> None:
        """A connection ended: rows wait on, until their process ends or comes back."""
        self._pieces.pop(connection, None)
        sweep = self._of(connection)
        if sweep is None:
            return
        sweep.connection = None
        for job_id in sweep.rows:
            self._seats[job_id].connection = None
        if sweep.pidfd is None:
            sweep.pidfd = connection.open_pidfd()
        if sweep.pidfd is None:
            self._process_ended(sweep)
        self._watch(sweep)
        self._forget_if_over(sweep)
        self._turn.replan()

    def _watch(self, sweep: Sweep) -> None:
        if sweep.pidfd is not None and not sweep.watched and sweep.identity in self._sweeps:
            sweep.watched = True
            self._arbiter.watch(sweep.pidfd, lambda _mask: self._process_ended(sweep))

    def _process_ended(self, sweep: Sweep) -> None:
        status = processes.exit_status(sweep.pidfd, sweep.identity) if sweep.pidfd is not None else None
        for job_id in list(sweep.rows):
            self._arbiter.enforcer.waiting_ended(job_id, status)
        sweep.connection = None
        self._turn.do(lambda: self._forget_if_over(sweep))

    def _forget_if_over(self, sweep: Sweep) -> None:
        if sweep.rows or sweep.connection is not None or self._sweeps.get(sweep.identity) is not sweep:
            return
        del self._sweeps[sweep.identity]
        if self._arbiter.leaders.get(sweep.identity.pid) == sweep.leader_of:
            del self._arbiter.leaders[sweep.identity.pid]
        if sweep.pidfd is not None:
            if sweep.watched:
                self._arbiter.unwatch(sweep.pidfd)
            os.close(sweep.pidfd)
            sweep.pidfd = None

    # --- offers -------------------------------------------------------------------------------------------------

    def may_offer(self, job_id: int, sweep: Sweep) -> bool:
        """Whether a row that was granted is offered now; if not, it will be."""
        if job_id not in sweep.offered and len(sweep.offered) >= OFFERS_AT_ONCE:
            sweep.to_offer.setdefault(job_id, time.monotonic())
            return False
        sweep.to_offer.pop(job_id, None)
        sweep.offered.add(job_id)
        return True

    def _offer_more(self, sweep: Sweep) -> None:
        """A child came for its row, or the row has gone: offer others."""
        while sweep.to_offer and len(sweep.offered) < OFFERS_AT_ONCE:
            job_id = next(iter(sweep.to_offer))
            granted_mono = sweep.to_offer.pop(job_id)
            job = self._store.live.get(job_id)
            if job is None or job.state is not JobState.GRANTED or job_id not in sweep.rows:
                continue
            if granted_mono + OFFER_SECONDS < time.monotonic():  # a stranger may have come to its GPU meanwhile
                self._arbiter.enforcer.withdraw(job_id)
            else:
                self._arbiter.enforcer.offer(job)

    def not_taken(self, job_id: int, sweep: Sweep) -> None:
        """An offer was withdrawn, since the process is stopped or slow: so is what was to be offered to it."""
        sweep.offered.discard(job_id)
        later, sweep.to_offer = sweep.to_offer, {}
        for other in later:
            job = self._store.live.get(other)
            if job is not None and job.state is JobState.GRANTED and other in sweep.rows:
                self._arbiter.enforcer.take_back(job)

    # --- what the process says ----------------------------------------------------------------------------------

    def continued(self, connection: Connection) -> bool:
        """The process was stopped, or slow, and goes on; false if it is none of a sweep."""
        sweep = self._of(connection)
        if sweep is None:
            return False
        self._wake(sweep)
        self._turn.replan()
        return True

    def _wake(self, sweep: Sweep) -> None:
        for job_id in sweep.rows:
            seat = self._seats[job_id]
            seat.stopped = seat.mute = False

    def _become(self, connection: Connection, values: Values) -> None:
        """A child of the process takes a row over that was offered."""
        arbiter = self._arbiter
        job = self._store.find(values["row"])
        if job is not None and job.identity == connection.identity:
            arbiter.answers.returned(connection, job, values)
            return
        if "running" in values:
            arbiter.reruns.connected(connection, None, values)
            return
        seat = self._seats.get(job.id) if job is not None else None
        if job is None or seat is None or not self._may_become(connection, job, values):
            self._turn.say(connection, "again")
            return
        sweep = seat.sweep
        assert sweep is not None
        sweep.offered.discard(job.id)
        sweep.to_offer.pop(job.id, None)
        if arbiter.enforcer.is_stale(job.id):
            arbiter.enforcer.take_back(job)
            self._turn.say(connection, "again")
            self._offer_more(sweep)
            return
        assert connection.identity is not None
        sweep.rows.pop(job.id)
        seat.sweep, seat.connection, seat.pid = None, None, connection.pid
        job = self._store.change(job, identity=connection.identity)
        arbiter.seating.adopt(job, connection)
        self._turn.later(lambda: arbiter.orphans.remember_ancestors(job))
        self._turn.say(connection, "job", id=job.id)
        self._turn.say(connection, "offer")
        self._offer_more(sweep)

    def _may_become(self, connection: Connection, job: Job, values: Values) -> bool:
        """Whether a row was offered, and who asks is a child of the process in whose name it waits."""
        if job.state is not JobState.GRANTED or not self.holds(job):
            return False
        stat = processes.read_stat(connection.pid)
        parent = processes.read_stat(job.identity.pid)
        is_child = stat is not None and stat.parent == job.identity.pid
        is_ours = parent is not None and parent.start_ticks == job.identity.start_ticks
        return is_child and is_ours and job.key == f"{_begin(job.identity)}{values['key']}"

    def _row_ended(self, connection: Connection, values: Values) -> None:
        """A child of the process ended; its parent knows how."""
        arbiter = self._arbiter
        job, index = self._store.find(values["row"]), values["index"]
        assert connection.identity is not None
        mine = job is not None and job.key == f"{_begin(connection.identity)}{values['key']}:{index}"
        if job is None or not mine or job.state is JobState.ENDED:
            self._turn.say_of_row(connection, "over", index)
        elif self.holds(job):
            self._turn.say(connection, "back", rows=index)  # before any offer: one that came earlier was passed over
            if job.state is JobState.GRANTED:
                arbiter.enforcer.offer(job)
        else:
            arbiter.enforcer.leader_ended(job.id, values["status"])
            self._turn.say_of_row(connection, "over", index)

    def _forsake(self, connection: Connection, values: Values) -> None:
        """The process gives up rows that have not started: one, or all."""
        sweep = self._of(connection)
        if sweep is None:
            return
        for job_id in [values["row"]] if "row" in values else list(sweep.rows):
            job = self._store.live.get(job_id)
            if job is not None and job_id in sweep.rows:
                status = FAILED if "row" in values else None
                self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, values["text"], status)


def _begin(identity: Identity) -> str:
    """How the keys of a process begin."""
    return f"{identity.boot_id}:{identity.pid}:{identity.start_ticks}:"
