"""What the arbiter does for each request that comes over the bell.

1. A request may come twice (its sender lost the connection): registering is idempotent by key, killing and renicing are
   by nature.
2. A request that cannot be committed is refused with the reason; taking is answered `again`, since the job keeps its place.
"""

import json
import time
from collections.abc import Callable
from traceback import format_exception
from typing import TYPE_CHECKING

from ... import __version__
from ...errors import FAILED, GpurunError, StoreError
from ...host import processes
from ...lifecycle import IN_LINE, STARTED, JobState
from ...model import Identity, Job, ResultKind
from ...policy.naming import depends_on_machine
from ...policy.refused import Refused
from ...wire import PROTOCOL
from ..bell.room import is_lack_of_room
from ..bell.socket import Connection
from ..birth import Birth
from ..log import log
from ..people.showing import Showing
from ..seeing.views import DRIVER_OPENING
from ..turn import Ledger
from .admission import Admission
from .dry_run import Rehearsals
from .table import KINDS, Lost, Values, Who, read, version_of
from .verbs import Verbs

if TYPE_CHECKING:
    from ..loop import Arbiter


# What stubs of former versions still say, and nobody needs to hear.
FORMER = ("ok",)


class Poisoned(Exception):
    """A request that ran into a mistake of ours: the batch it came in cannot be trusted."""

    def __init__(self, connection: Connection, text: str) -> None:
        self.connection = connection
        self.text = text
        super().__init__(text)


class Answers:
    """Answers requests, and remembers those that must wait for something."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._timers = arbiter.timers
        self._turn = arbiter.turn
        self._figures = arbiter.figures
        self.birth = Birth(arbiter)
        self.admission = Admission(arbiter)
        self.verbs = Verbs(arbiter, self)
        self.rehearsals = Rehearsals(arbiter, self)
        self._asked: list[tuple[Connection, str, Values]] = []
        self._put_off: list[tuple[Connection, str, Values]] = []
        self._put_off_since: dict[Connection, float] = {}
        self.unjudged: Ledger[int, None] = Ledger(arbiter.turn)
        """Jobs whose requests were not judged against the machine yet, or must be once more."""
        self._kinds: dict[str, Callable[[Connection, Values], None]] = {
            "register": self._register,
            "rehearse": self.rehearsals.rehearse,
            "take": self._take,
            "failed": self._failed,
            "started": self._started,
            "ended": self._ended,
            "release": self._release,
            "pending": self._pending,
            "continued": self._continued,
            **arbiter.sweeps.kinds,
            "ping": lambda connection, _values: self._turn.say(connection, "done", text=""),
            "figures": self._tell_figures,
            "mend": arbiter.mending.asked,
            "inside": self._inside,
            "jobs": self._jobs,
            **self.verbs.kinds,
        }

    # --- the bell's side ----------------------------------------------------------------------------------------

    def answer(self, connection: Connection, kind: str, sent: dict[str, str]) -> None:
        """Handle one request as it was sent. One that cannot be read is refused at once, whatever becomes of the batch."""
        if kind in FORMER:
            return
        try:
            if version_of(kind, sent) > PROTOCOL:
                self._too_old(connection)
                return
            if self._arbiter.crowd is None and self.birth.leaves_to(connection):
                return
            values = read(kind, sent)
            self._refuse_stranger(connection, kind, values)
        except Refused as refused:
            self._arbiter.bell.send_now(connection, "refused", **_in_packet(refused.error))
            return
        self._handle(connection, kind, values)

    def _refuse_stranger(self, connection: Connection, kind: str, values: Values) -> None:
        """Refuse what is not the asker's to ask for; of several jobs each is judged by who carries it out. Raises Refused."""
        crowd, who = self._arbiter.crowd, KINDS[kind].who
        if crowd is None or who in (Who.ANYBODY, Who.OWNER):
            return
        asker = self._arbiter.asker(connection)
        if who is Who.ADMIN and not crowd.is_admin(asker):
            raise Refused(f"{kind}: only root can, and whom the settings let (admin_group)")
        job = self._arbiter.store.find(values["row"]) if who is Who.SELF and "row" in values else None
        if job is not None and not crowd.owns(asker, job):
            raise Refused(f"job {job.id} is {job.user}'s")

    def _handle(self, connection: Connection, kind: str, values: Values) -> None:
        """Handle a request that was read."""
        self._asked.append((connection, kind, values))
        try:
            self._kinds[kind](connection, values)
            self._store.write_down()  # while it is known who asked for it
        except Refused as refused:
            self.refuse(connection, refused.error)
        except Exception as err:
            if isinstance(err, StoreError) or is_lack_of_room(err):
                raise
            # One client's request must not take the queue down with it, whatever it is.
            log("request", "".join(format_exception(err)))
            raise Poisoned(connection, f"the arbiter cannot {kind}: {type(err).__name__}: {err}") from err

    def gone(self, connection: Connection) -> None:
        """A connection ended: the program has been exec'd, or the client has gone, or will come back."""
        self.verbs.gone(connection)
        self._arbiter.sweeps.gone(connection)
        self.rehearsals.gone(connection)
        self._put_off = [asked for asked in self._put_off if asked[0] is not connection]
        seat = self._seats.get(connection.job_id) if connection.job_id is not None else None
        if seat is None or connection.job_id is None:
            return
        seat.connection = None
        self._arbiter.lines.say_again(connection.job_id)
        self._arbiter.seating.watch_leader(connection.job_id, connection)  # only the end of the process ends its job
        job = self._store.live.get(connection.job_id)
        if job is None or job.state not in STARTED or self._arbiter.ahead.may_ask_to_give_way(job):
            self._turn.replan()

    def committed(self) -> None:
        """The batch was committed: what was asked in it is answered."""
        self._asked.clear()

    def refuse_poisoned(self, poisoned: "Poisoned") -> None:
        """The batch was undone for one client's sake: it alone is refused; the others lose the connection and ask again."""
        asked, self._asked = self._asked, []
        self.refuse(poisoned.connection, GpurunError(poisoned.text))
        self._turn.speak(self._arbiter.bell.send)
        for connection, _kind, _values in asked:
            self.gone(connection)
            self._arbiter.bell.drop(connection)

    def refuse_all(self, err: StoreError) -> None:
        """The batch was not committed: what is refused, and what not, says the table."""
        asked, self._asked = self._asked, []
        for connection, kind, values in asked:
            lost = KINDS[kind].lost if kind in KINDS else Lost.DROP
            if kind == "register" or (kind == "sweep" and not self._arbiter.sweeps.has_rows(connection)):
                self.refuse(connection, GpurunError(f"cannot register job: {err.text.partition(': ')[2]}", hint=err.hint))
            elif lost is Lost.REPEAT:
                self._answer_again(connection, kind, values)
            elif lost is Lost.AGAIN:
                self._turn.say(connection, "again")
            elif lost is Lost.DROP:
                self.gone(connection)
                self._arbiter.bell.drop(connection)
            elif lost is Lost.REFUSE:
                self.refuse(connection, err)
                if kind == "release":
                    self._give_back_later(connection, values)
        if self._arbiter.deciding.look is not None:
            self.planned()

    def look_on(self) -> None:
        """A turn was lost: those whose request was put off, and not come to when one before them failed, wait for a look."""
        if self._put_off:
            self._timers.after(0.0, self._arbiter.deciding.begin_look)

    def _answer_again(self, connection: Connection, kind: str, values: Values) -> None:
        """Answer what wrote nothing: only its answer was lost, with those of others. It waits for no look."""
        try:
            self._kinds[kind](connection, values | {"looked": True})
        except Refused as refused:
            self.refuse(connection, refused.error)
        except StoreError as err:
            self.refuse(connection, err)

    def busy(self) -> bool:
        """Whether somebody is being served although no job is left."""
        return bool(self._put_off or self.rehearsals.asked)

    def refuse(self, connection: Connection, err: GpurunError) -> None:
        """Say why what was asked is not done."""
        self._turn.say(connection, "refused", **_in_packet(err))

    def _tell_figures(self, connection: Connection, _values: Values) -> None:
        self._turn.answer(connection, json.dumps(self._figures.as_json()))

    def _too_old(self, connection: Connection) -> None:
        if self._arbiter.crowd is not None:  # it serves everybody, and its successor would be as old
            text = f"this machine's gpurun is {__version__}, and older than yours"
            self._arbiter.bell.send_now(connection, "refused", text=text, hint="ask root to update it", status=FAILED)
            return
        log("old", "a client speaks a newer protocol: leaving to let it start its own arbiter")
        self._asked.append((connection, "old", {}))
        self._turn.say(connection, "old")
        self._arbiter.make_room()

    def _inside(self, connection: Connection, _values: Values) -> None:
        """Say inside which of our jobs a process is, if any: then this is the queue for it to ask."""
        job = self._arbiter.orphans.job_of_client(connection.pid)
        self._turn.say(connection, "done", text="" if job is None else str(job.id))

    def _jobs(self, connection: Connection, values: Values) -> None:
        crowd = self._arbiter.crowd
        if crowd is None:
            raise Refused("the database can be read")
        rows = Showing(self._arbiter.folder, crowd).answer(self._arbiter.asker(connection), values)
        self._turn.answer(connection, rows)

    # --- launching ----------------------------------------------------------------------------------------------

    def _register(self, connection: Connection, values: Values) -> None:
        arbiter = self._arbiter
        identity = connection.identity
        assert identity is not None
        key = _key(identity, values)
        known = self._store.find_key(key)
        if known is None and "running" in values:
            arbiter.reruns.connected(connection, None, values)
            return
        if known is not None:
            self.returned(connection, known, values)
            return
        if (held := self.key_held(connection, values)) is not None:
            self._turn.say(connection, "end", kind="once", text=held)
            return
        if self.machine_unknown(connection, "register", values):
            return
        if connection.job_id is not None:  # the end of its process would be seen of one of them only
            raise Refused("cannot register job: this connection is another job's")
        job = self._store.register(self.admission.read_job(connection, values, key))
        arbiter.seating.adopt(job, connection)
        self._note_wishes(job, values)
        if arbiter.deciding.look is not None and not arbiter.deciding.look.pending:
            self.unjudged.pop(job.id, None)
        self._turn.later(lambda: arbiter.orphans.remember_ancestors(job))
        self._turn.say(connection, "job", id=job.id, **self.admission.visible(values))
        self._turn.replan()

    def returned(self, connection: Connection, job: Job, values: Values) -> None:
        """The client of a job is here again, or its stub."""
        if "running" in values:
            self._arbiter.reruns.connected(connection, job, values)
        else:
            self._register_again(connection, job, values)

    def _register_again(self, connection: Connection, job: Job, values: Values) -> None:
        arbiter = self._arbiter
        if job.state is JobState.ENDED:
            result = job.result
            kind = result.kind.value if result else ResultKind.LOST.value
            self._turn.say(connection, "job", id=job.id)
            text = (result.text if result else None) or "ended"
            status = result.code if result is not None and result.kind is ResultKind.CANCELLED else None
            self._turn.say(connection, "end", kind=kind, text=text, status=status)
            return
        arbiter.seating.adopt(job, connection)
        self._turn.later(lambda: arbiter.orphans.remember_ancestors(job))
        self._note_wishes(job, values)
        self._turn.say(connection, "job", id=job.id)
        if job.state is JobState.GRANTED:
            arbiter.enforcer.offer(job)
        elif job.state in STARTED:
            arbiter.seating.watch_leader(job.id)
            arbiter.enforcer.send_off(job)
            if job.requeue:
                arbiter.reruns.ask_again(job)
        self._turn.replan()

    def _note_wishes(self, job: Job, values: Values) -> None:
        seat = self._seats[job.id]
        self._arbiter.lines.hear(job.id, values.get("tty"))
        self.admission.note_inherited(job.id, values)
        if "wait" in values:
            self._arbiter.patience.limit([job], values["wait"])
        if values.get("offset") == 0:  # a block in a program: what that forks keeps the connection when it dies
            self._arbiter.seating.watch_leader(job.id)
        if "rests" in values:
            seat.mute = True
            self._arbiter.reruns.rest(job.id, values["rests"])

    def machine_unknown(self, connection: Connection, kind: str, values: Values) -> bool:
        """Put a request off until the GPUs have been looked at once; without GPUs asked for nothing need be known.

        One that says which GPUs, or all, waits until the driver has been opened as well: which they are is not known before.
        """
        look = self._arbiter.deciding.look
        if values.get("gpus") == 0 or (look is not None and not (look.pending and depends_on_machine(values))):
            return False
        self.put_off(connection, kind, values)
        asked_mono = self._put_off_since.setdefault(connection, time.monotonic())
        if look is not None:
            self._tell_opening(connection, kind, values, asked_mono)
        return True

    def _tell_opening(self, connection: Connection, kind: str, values: Values, asked_mono: float) -> None:
        """Say for what a request without a number waits; one whose wait limit has passed is not registered any more."""
        if kind == "register" and "wait" in values and time.monotonic() >= asked_mono + values["wait"]:
            self._put_off = [each for each in self._put_off if each[0] is not connection]
            self._turn.say(connection, "end", kind=ResultKind.WAIT_LIMIT.value, text=DRIVER_OPENING)
        elif kind == "register" and "tty" in values:
            stat = processes.read_stat(connection.pid)
            draws = values["tty"] > 0 and stat is not None and stat.foreground == stat.group
            self._turn.say(connection, "wait" if draws else "note", text=f"waits for a GPU: {DRIVER_OPENING}")

    def put_off(self, connection: Connection, kind: str, values: Values) -> None:
        """Answer a request after the look that begins now."""
        self._put_off.append((connection, kind, values))
        self._asked.pop()
        self._arbiter.deciding.begin_look()

    def machine_known(self) -> None:
        """A look is over: handle what waited for it, and judge requests made before the machine was known."""
        if self._put_off or self._put_off_since:
            for _ in range(len(self._put_off)):
                if self._put_off:  # who came first is dealt with, and waits no more: some may wait for the next look, too
                    self._handle(*self._put_off.pop(0))
            still = {connection for connection, _, _ in self._put_off}
            self._put_off_since = {each: since for each, since in self._put_off_since.items() if each in still}
        look = self._arbiter.deciding.look
        if look is None or look.pending:
            return
        for job_id in sorted(self.unjudged):
            job = self._store.in_line.get(job_id)
            if job is None and job_id in self._seats:
                continue  # it may come back into the line
            del self.unjudged[job_id]
            if job is None:
                continue
            try:
                self.admission.judge(job.request, job.parent_id)
            except Refused as refused:
                self._refuse_registered(job, refused.error)

    def _refuse_registered(self, job: Job, err: GpurunError) -> None:
        seat = self._seats[job.id]
        connection = seat.connection
        self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, err.text, FAILED if seat.sweep is not None else None)
        if connection is not None and seat.sweep is None:
            self.refuse(connection, err)

    def _take(self, connection: Connection, values: Values) -> None:
        job = self._job_of(connection)
        if job is not None and job.state is JobState.GRANTED:
            self._arbiter.enforcer.take(job)
        elif job is not None and job.state in STARTED:
            self._arbiter.enforcer.send_off(job)
        elif job is not None and self._arbiter.ahead.answered(self._seats[job.id]):
            self._turn.say(connection, "stay")
            if self._seats[job.id].is_away():
                self._continued(connection, values)  # it has said a word
        else:
            self._turn.say(connection, "again")

    def _failed(self, connection: Connection, values: Values) -> None:
        job = self._job_of(connection)
        if job is not None and job.state in STARTED:
            self._arbiter.enforcer.not_runnable(job, values["status"], values.get("cause", ""))

    def _started(self, connection: Connection, values: Values) -> None:
        job = self._job_of(connection)
        if job is not None:
            self._arbiter.reruns.started(job, values)

    def _ended(self, connection: Connection, values: Values) -> None:
        self._arbiter.reruns.ended(connection, self._job_of(connection), values)

    def _release(self, connection: Connection, values: Values) -> None:
        """A block of a Python program ends, or will not begin; the program goes on."""
        arbiter = self._arbiter
        assert connection.identity is not None
        key = _key(connection.identity, values)
        job = self._store.find_key(key)
        here = False
        if job is not None and job.state in STARTED:
            if "looked" not in values:  # what it holds now counts: the last look is too old, however fresh
                self.put_off(connection, "release", values | {"looked": True})
                return
            here = connection.pid in [pid for pid, _size in arbiter.holders(job)]
        self._turn.say(connection, "done", held=self._give_back(key, values["failed"]), here=int(here))

    def _give_back_later(self, connection: Connection, values: Values) -> None:
        """The end of a block could not be written down: its program goes on, and does not say so again."""
        assert connection.identity is not None
        key = _key(connection.identity, values)

        def again() -> None:
            self._give_back(key, values["failed"])

        self._timers.after(0.0, again)

    def _give_back(self, key: str, failed: bool) -> int:
        """End the job of a block, wherever it stands; returns what its process still holds, in bytes."""
        job = self._store.find_key(key)
        if job is not None and (job.state in IN_LINE or job.state is JobState.GRANTED):
            self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, "given up while it waited")
        elif job is not None and job.state in STARTED:
            return self._arbiter.enforcer.block_ended(job, int(failed))
        return 0

    def _pending(self, connection: Connection, _values: Values) -> None:
        """Somebody asks a paused job to end: it goes on to receive it."""
        job = self._job_of(connection)
        if job is not None and job.state is JobState.PAUSED:
            self._arbiter.pausing.asked_to_end(job)

    def _continued(self, connection: Connection, _values: Values) -> None:
        job = self._job_of(connection)
        if self._arbiter.sweeps.continued(connection):
            return
        if job is not None:
            seat = self._seats[job.id]
            seat.stopped = seat.mute = False
            self._arbiter.reruns.rest(job.id, None)
            self._arbiter.lines.begin_again(job.id)  # it may be in the foreground now, or no longer
            self._turn.replan()

    def _job_of(self, connection: Connection) -> Job | None:
        return self._store.live.get(connection.job_id) if connection.job_id is not None else None

    # --- after each plan ----------------------------------------------------------------------------------------

    def planned(self) -> None:
        """A plan was made, or lost: answer what waited for one."""
        self.verbs.planned()
        self.rehearsals.planned()

    def key_held(self, connection: Connection, values: Values) -> str | None:
        """Say which job stands in the way of another of its key (`--once`, `--once-waiting`); None if there is none."""
        only = connection.uid if self._arbiter.crowd is not None else None
        holder = self._arbiter.order.holder(values.get("once"), waiting=values.get("waiting", False), uid=only)
        return f"job {holder.id} of key {holder.once} is {holder.state.value}" if holder is not None else None


def _in_packet(err: GpurunError) -> dict[str, object]:
    return {"text": err.text, "hint": err.hint, "status": err.status}


def _key(identity: Identity, values: Values) -> str:
    """Name a job as its client does: pid and start time survive an exec, the rest is drawn for each."""
    return f"{identity.boot_id}:{identity.pid}:{identity.start_ticks}:{values['key']}"
