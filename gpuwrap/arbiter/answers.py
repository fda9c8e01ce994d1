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

from ..errors import FAILED, GpurunError, StoreError
from ..host import processes
from ..lifecycle import IN_LINE, STARTED, Event, JobState
from ..model import Grant, Identity, Job, Plan, ResultKind, View
from ..policy.effects import effect
from ..policy.plan import plan
from ..wire import PROTOCOL
from .admission import Admission, Refused
from .bell import Connection
from .changing import change
from .enforce import gpu_words
from .log import log

if TYPE_CHECKING:
    from .loop import Arbiter

Values = dict[str, str]

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
        self._admission = Admission(arbiter)
        self._asked: list[tuple[Connection, str]] = []
        self._before_first_look: list[tuple[Connection, str, Values]] = []
        self._limited: set[int] = set()
        self._watchers: dict[Connection, set[int]] = {}
        self.rehearsals: list[tuple[Connection, Job]] = []
        self.renicings: list[tuple[Connection, list[list[object]]]] = []
        self._effects: dict[int, str] = {}
        self._kinds: dict[str, Callable[[Connection, Values], None]] = {
            "register": self._register,
            "rehearse": self._rehearse,
            "take": self._take,
            "failed": self._failed,
            "started": self._started,
            "ended": self._ended,
            "release": self._release,
            "ok": self._acknowledged,
            "pending": self._pending,
            "continued": self._continued,
            "kill": self._kill,
            "renice": self._renice,
            "set": self._set,
            "pause": self._pause,
            "resume": self._resume,
            "watch": self._watch,
            "explain": self._explain,
            "why": self._why,
            "gpus": self._gpus,
            "drain": self._drain,
            "leave": self._leave,
            "ping": lambda connection, _values: self._arbiter.bell.queue(connection, "done", text=""),
        }

    # --- the bell's side ----------------------------------------------------------------------------------------

    def answer(self, connection: Connection, kind: str, values: Values) -> None:
        """Handle one request."""
        if int(values.get("version", 0)) > PROTOCOL:
            self._too_old(connection)
            return
        handler = self._kinds.get(kind)
        if handler is None:
            self._arbiter.bell.queue(connection, "refused", text=f"the arbiter does not know {kind}", status=FAILED)
            return
        self._asked.append((connection, kind))
        try:
            handler(connection, values)
        except Refused as refused:
            self._refuse(connection, refused.error)
        except StoreError:
            raise
        except Exception as err:
            # One client's request must not take the queue down with it, whatever it is.
            log("request", "".join(format_exception(err)))
            raise Poisoned(connection, f"the arbiter cannot {kind}: {type(err).__name__}: {err}") from err

    def gone(self, connection: Connection) -> None:
        """A connection ended: the program has been exec'd, or the client has gone, or will come back."""
        self._watchers.pop(connection, None)
        self.rehearsals = [asked for asked in self.rehearsals if asked[0] is not connection]
        self._before_first_look = [asked for asked in self._before_first_look if asked[0] is not connection]
        seat = self._arbiter.seats.get(connection.job_id) if connection.job_id is not None else None
        if seat is None or connection.job_id is None:
            return
        seat.connection = None
        seat.told = None
        self._arbiter.watch_leader(connection.job_id)  # only the end of the process ends its job
        self._arbiter.touch()

    def committed(self) -> None:
        """The batch was committed: what was asked in it is answered."""
        self._asked.clear()

    def refuse_poisoned(self, poisoned: "Poisoned") -> None:
        """The batch was undone for one client's sake: it alone is refused; the others lose the connection and ask again."""
        asked, self._asked = self._asked, []
        self._refuse(poisoned.connection, GpurunError(poisoned.text))
        self._arbiter.bell.flush()
        for connection, _kind in asked:
            self._arbiter.bell.drop(connection)
            self.gone(connection)

    def refuse_all(self, err: StoreError) -> None:
        """The batch was not committed."""
        asked, self._asked = self._asked, []
        for connection, kind in asked:
            if kind == "take":
                self._arbiter.bell.queue(connection, "again")
            elif kind == "register":
                doing = GpurunError(f"cannot register job: {err.text.partition(': ')[2]}", hint=err.hint)
                self._refuse(connection, doing)
            elif kind == "ended":
                self._arbiter.bell.drop(connection)  # it comes back, and says so again
                self.gone(connection)
            elif kind not in ("failed", "continued", "started", "ok", "pending"):
                self._refuse(connection, err)

    def busy(self) -> bool:
        """Whether somebody is being served although no job is left."""
        return bool(self._before_first_look or self.rehearsals)

    def _refuse(self, connection: Connection, err: GpurunError) -> None:
        self._arbiter.bell.queue(connection, "refused", text=err.text, hint=err.hint, status=err.status)

    def _too_old(self, connection: Connection) -> None:
        log("old", "a client speaks a newer protocol: leaving to let it start its own arbiter")
        self._arbiter.bell.queue(connection, "old")
        self._arbiter.make_room()

    # --- launching ----------------------------------------------------------------------------------------------

    def _register(self, connection: Connection, values: Values) -> None:
        arbiter = self._arbiter
        identity = connection.identity
        assert identity is not None
        key = _key(identity, values)
        known = arbiter.store.find_key(key)
        if "running" in values:
            arbiter.reruns.connected(connection, known, values)
            return
        if known is not None:
            self._register_again(connection, known, values)
            return
        holder = arbiter.order.holder(values["once"]) if "once" in values else None
        if holder is not None:
            text = f"job {holder.id} of key {values['once']} is {holder.state.value}"
            arbiter.bell.queue(connection, "end", kind="once", text=text)
            return
        if self._machine_unknown(connection, "register", values):
            return
        job = arbiter.store.register(self._admission.read_job(connection, values, key))
        seat = arbiter.adopt(job, connection, connection.give_pidfd())
        self._note_wishes(job, values)
        seat.validated = arbiter.look is not None and not arbiter.look.pending
        arbiter.bell.queue(connection, "job", id=job.id)
        arbiter.touch()

    def _register_again(self, connection: Connection, job: Job, values: Values) -> None:
        arbiter = self._arbiter
        if job.state is JobState.ENDED:
            result = job.result
            kind = result.kind.value if result else ResultKind.LOST.value
            arbiter.bell.queue(connection, "job", id=job.id)
            text = (result.text if result else None) or "ended"
            status = result.code if result is not None and result.kind is ResultKind.CANCELLED else None
            arbiter.bell.queue(connection, "end", kind=kind, text=text, status=status)
            return
        arbiter.adopt(job, connection, connection.give_pidfd())
        self._note_wishes(job, values)
        arbiter.bell.queue(connection, "job", id=job.id)
        if job.state is JobState.GRANTED:
            arbiter.enforcer.offer(job)
        elif job.state in STARTED:
            arbiter.watch_leader(job.id)
            arbiter.enforcer.send_off(job)
            if job.requeue:
                arbiter.reruns.ask_again(job)
        arbiter.touch()

    def _note_wishes(self, job: Job, values: Values) -> None:
        seat = self._arbiter.seats[job.id]
        seat.tty = int(values["tty"]) if "tty" in values else None
        if "wait" in values:
            self.limit_wait(job, float(values["wait"]))

    def limit_wait(self, job: Job, seconds: float) -> None:
        """Have a job leave the line after so long."""
        self._arbiter.seats[job.id].limit_mono = time.monotonic() + seconds
        self._limited.add(job.id)
        if seconds > 0:
            self._arbiter.timers.after(seconds, self._arbiter.touch)

    def _machine_unknown(self, connection: Connection, kind: str, values: Values) -> bool:
        """Put a request off until the GPUs have been looked at once; without GPUs asked for nothing need be known."""
        if values.get("gpus") == "0" or self._arbiter.look is not None:
            return False
        self._before_first_look.append((connection, kind, values))
        self._asked.pop()
        self._arbiter.begin_look()
        return True

    def machine_known(self) -> None:
        """A look is over: handle what waited for it, and judge requests made before the machine was known."""
        waiting, self._before_first_look = self._before_first_look, []
        for connection, kind, values in waiting:
            self.answer(connection, kind, values)
        look = self._arbiter.look
        if look is None or look.pending:
            return
        for job in list(self._arbiter.store.in_line.values()):
            seat = self._arbiter.seats.get(job.id)
            if seat is None or seat.validated:
                continue
            seat.validated = True
            try:
                self._admission.judge(job.request, job.parent_id)
            except Refused as refused:
                self._refuse_registered(job, refused.error)

    def _refuse_registered(self, job: Job, err: GpurunError) -> None:
        connection = self._arbiter.seats[job.id].connection
        self._arbiter.enforcer.cancel(job, ResultKind.CANCELLED, err.text)
        if connection is not None:
            self._refuse(connection, err)

    def _take(self, connection: Connection, _values: Values) -> None:
        job = self._job_of(connection)
        if job is not None and job.state is JobState.GRANTED:
            self._arbiter.enforcer.take(job)
        elif job is not None and job.state in STARTED:
            self._arbiter.enforcer.send_off(job)
        else:
            self._arbiter.bell.queue(connection, "again")

    def _failed(self, connection: Connection, values: Values) -> None:
        job = self._job_of(connection)
        if job is not None and job.state in STARTED:
            self._arbiter.enforcer.not_runnable(job, int(values["status"]), values.get("cause", ""))

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
        job = arbiter.store.find_key(_key(connection.identity, values))
        held = 0
        if job is not None and (job.state in IN_LINE or job.state is JobState.GRANTED):
            arbiter.enforcer.cancel(job, ResultKind.CANCELLED, "given up while it waited")
        elif job is not None and job.state in STARTED:
            if "looked" not in values:  # what it holds now counts: the last look is too old, however fresh
                self._before_first_look.append((connection, "release", values | {"looked": "1"}))
                self._asked.pop()
                arbiter.begin_look()
                return
            held = arbiter.enforcer.block_ended(job, int(values["failed"]))
        arbiter.bell.queue(connection, "done", held=held)

    def _acknowledged(self, connection: Connection, values: Values) -> None:
        """A stub has heard that its job is paused or goes on; nothing waits for it: what was sent comes in order."""

    def _pending(self, connection: Connection, _values: Values) -> None:
        """Somebody asks a paused job to end: it goes on to receive it."""
        job = self._job_of(connection)
        if job is not None and job.state is JobState.PAUSED:
            self._arbiter.pausing.resume(job, "a signal waits for it")

    def _continued(self, connection: Connection, _values: Values) -> None:
        job = self._job_of(connection)
        if job is not None:
            seat = self._arbiter.seats[job.id]
            seat.stopped = seat.background = seat.mute = False
            seat.rests_until = None
            seat.told = None  # it may be in the foreground now, or no longer: tell it anew
            self._arbiter.touch()

    def _job_of(self, connection: Connection) -> Job | None:
        return self._arbiter.store.live.get(connection.job_id) if connection.job_id is not None else None

    # --- after each plan ----------------------------------------------------------------------------------------

    def planned(self) -> None:
        """A plan was made: end those whose wait limit has passed, and answer rehearsals."""
        now = time.monotonic()
        for job_id in list(self._limited):
            seat, job = self._arbiter.seats.get(job_id), self._arbiter.store.live.get(job_id)
            if seat is None or job is None or job.state in STARTED:
                self._limited.discard(job_id)
            elif seat.limit_mono is not None and seat.limit_mono <= now and job.state in IN_LINE:
                words = self._arbiter.lines.explain(job)
                self._arbiter.enforcer.cancel(job, ResultKind.WAIT_LIMIT, words[1] if words else "no GPU was free")
        self._answer_renicings()
        rehearsals, self.rehearsals = self.rehearsals, []
        for connection, job in rehearsals:
            self._arbiter.bell.queue(connection, "done", text=self._rehearsed(job))

    def _rehearse(self, connection: Connection, values: Values) -> None:
        if self._machine_unknown(connection, "rehearse", values):
            return
        job = self._admission.read_job(connection, values, "rehearsal")
        self.rehearsals.append((connection, job))
        self._arbiter.touch()

    def _rehearsed(self, job: Job) -> str:
        from dataclasses import replace

        from ..policy.reasons import Teller

        arbiter = self._arbiter
        assert arbiter.look is not None
        holder = arbiter.order.holder(job.once) if job.once is not None else None
        if holder is not None:
            return f"would not start: job {holder.id} of key {job.once} is {holder.state.value}"
        job = replace(job, id=arbiter.store.next_id())
        view = arbiter.view(job.parent_id, arbiter.look)
        if view is None:
            return f"would wait for job {job.parent_id}, inside which it runs"
        view = replace(view, jobs=(*view.jobs, job), after={**view.after, **arbiter.order.awaited_by(job)})
        made = plan(view, time.time())
        for action in made.actions:
            if isinstance(action, Grant) and action.job_id == job.id:
                return f"would start now on {gpu_words(action.shares)}"
        return f"would wait for {Teller(view, time.time()).sentence(made.reasons[job.id], job)}"

    # --- verbs --------------------------------------------------------------------------------------------------

    def _kill(self, connection: Connection, values: Values) -> None:
        number = int(values["signal"]) if "signal" in values else None
        by = processes.user_name(connection.uid)
        done = []
        for job in self._jobs(values):
            if isinstance(job, int):
                done.append([job, False, "no such job"])
            elif values.get("requeue") == "1":
                done.append([job.id, *self._arbiter.reruns.evict_by_hand(job, by)])
            elif job.state is JobState.ENDED and job.id not in self._arbiter.leftovers:
                strays = self._arbiter.enforcer.kill_strays(job, number)
                done.append([job.id, strays is not None, strays or "has already ended"])
            else:
                done.append([job.id, True, self._arbiter.enforcer.kill(job, number, by)])
        self._arbiter.bell.queue_long(connection, json.dumps(done))

    def _pause(self, connection: Connection, values: Values) -> None:
        """Hold waiting jobs in line, pause running ones."""
        by = processes.user_name(connection.uid)
        done: list[list[object]] = []
        for job in self._jobs(values):
            if isinstance(job, int):
                done.append([job, False, "no such job"])
            elif job.state is JobState.WAITING:
                self._arbiter.store.move(job, Event.HOLD, f"held by {by}")
                done.append([job.id, True, f"held in line: gpurun resume {job.id} lets it go"])
            elif job.state is JobState.RUNNING:
                refusal = self._arbiter.pausing.pause(job, None, f"paused by {by}", by_hand=True)
                done.append([job.id, refusal is None, refusal or "paused"])
            else:
                done.append([job.id, False, _cannot_be(job, "paused")])
        self._arbiter.touch()
        self._arbiter.bell.queue_long(connection, json.dumps(done))

    def _resume(self, connection: Connection, values: Values) -> None:
        """Let held and paused jobs go on."""
        by = processes.user_name(connection.uid)
        done: list[list[object]] = []
        for job in self._jobs(values):
            if isinstance(job, int):
                done.append([job, False, "no such job"])
            elif job.state is JobState.HELD:
                changed = self._arbiter.store.move(job, Event.RELEASE, f"let go by {by}")
                done.append([job.id, True, f"waits again, {self._place(changed)}"])
            elif job.state is JobState.PAUSED:
                self._arbiter.pausing.resume(job, f"resumed by {by}")
                done.append([job.id, True, "goes on"])
            else:
                done.append([job.id, False, _cannot_be(job, "resumed")])
        self._arbiter.touch()
        self._arbiter.bell.queue_long(connection, json.dumps(done))

    def _renice(self, connection: Connection, values: Values) -> None:
        done: list[list[object]] = []
        for job in self._jobs(values):
            if isinstance(job, int):
                done.append([job, False, "no such job"])
                continue
            if job.state is JobState.ENDED:
                done.append([job.id, False, "has already ended"])
                continue
            wanted = job.priority + int(values["by"]) if "by" in values else int(values["priority"])
            wanted = max(-100, min(100, wanted))
            changed = self._arbiter.store.change(job, priority=wanted)
            text = f"priority {job.priority} → {wanted}"
            if changed.state in IN_LINE:
                text += f", {self._place(changed)}"
            done.append([job.id, True, text])
        self._arbiter.touch()
        self.renicings.append((connection, done))  # answered after the next plan, with what it does

    def _set(self, connection: Connection, values: Values) -> None:
        done: list[list[object]] = []
        for job in self._jobs(values):
            if isinstance(job, int):
                done.append([job, False, "no such job"])
            else:
                done.append([job.id, *change(self._arbiter, self._admission, job, values)])
        self._arbiter.bell.queue_long(connection, json.dumps(done))

    def note_effects(self, made: Plan, view: View) -> None:
        """Remember what a plan does for jobs whose priority was just changed: the plan after it knows no more of it."""
        for _connection, done in self.renicings:
            for job_id, well, _text in done:
                if well and isinstance(job_id, int) and job_id not in self._effects:
                    self._effects[job_id] = effect(made, job_id, view)

    def _answer_renicings(self) -> None:
        renicings, self.renicings = self.renicings, []
        effects, self._effects = self._effects, {}
        for connection, done in renicings:
            told = [
                [job_id, well, f"{text}, {effects[job_id]}" if effects.get(job_id) else text]  # type: ignore[index,call-overload]
                for job_id, well, text in done
            ]
            self._arbiter.bell.queue_long(connection, json.dumps(told))

    def _place(self, job: Job) -> str:
        line = sorted(
            (other for other in self._arbiter.store.in_line.values()
             if other.parent_id == job.parent_id),
            key=lambda other: (-other.priority, other.id),
        )  # fmt: skip
        place = line.index(job) + 1
        suffix = {1: "st", 2: "nd", 3: "rd"}.get(place % 10 if place % 100 not in (11, 12, 13) else 0, "th")
        return f"{place}{suffix} of {len(line)}"

    def _jobs(self, values: Values) -> list[Job | int]:
        """Return the jobs named by number; the number itself where there is no such job."""
        found: list[Job | int] = []
        for text in values["jobs"].split():
            job = self._arbiter.store.find(int(text))
            found.append(job if job is not None else int(text))
        return found

    def _leave(self, connection: Connection, _values: Values) -> None:
        """Leave now instead of in a while, if nothing is left to do."""
        if self._arbiter.store.live:
            self._arbiter.bell.queue(connection, "refused", text="jobs are still there", status=FAILED)
            return
        self._arbiter.make_room()
        self._arbiter.bell.queue(connection, "done", text="")

    def _watch(self, connection: Connection, values: Values) -> None:
        waited = {int(text) for text in values["jobs"].split()}
        running = {
            job_id
            for job_id in waited
            if (job := self._arbiter.store.live.get(job_id)) is not None and job.state is not JobState.ENDED
        }
        self._watchers[connection] = running
        self._answer_watchers()

    def job_ended(self, job: Job) -> None:
        """Tell those who wait for a job."""
        for running in self._watchers.values():
            running.discard(job.id)
        self._answer_watchers()

    def _answer_watchers(self) -> None:
        for connection in [connection for connection, running in self._watchers.items() if not running]:
            del self._watchers[connection]
            self._arbiter.bell.queue(connection, "done", text="")

    def _explain(self, connection: Connection, values: Values) -> None:
        for job_id in [int(text) for text in values["jobs"].split()]:
            self._note_stop(job_id)
        listed = values.get("listed") == "1"
        words = self._arbiter.lines.explain_all([int(text) for text in values["jobs"].split()], listed=listed)
        self._arbiter.bell.queue_long(connection, json.dumps(words))

    def _why(self, connection: Connection, values: Values) -> None:
        job = self._arbiter.store.live.get(int(values["job"]))
        if job is not None:
            self._note_stop(job.id)
        words = self._arbiter.lines.tell(job) if job is not None else None
        self._arbiter.bell.queue_long(connection, json.dumps(words))

    def _gpus(self, connection: Connection, values: Values) -> None:
        if self._look_stale(connection, "gpus", values):
            return
        try:
            gpus = self._arbiter.inventory.gpus()
        except GpurunError as err:
            self._refuse(connection, err)
            return
        self._arbiter.bell.queue_long(connection, json.dumps(gpus))

    def _drain(self, connection: Connection, values: Values) -> None:
        if self._look_stale(connection, "drain", values):
            return
        done = self._arbiter.inventory.drain(values["list"], values["drained"] == "1")
        self._arbiter.bell.queue_long(connection, json.dumps(done))

    def _look_stale(self, connection: Connection, kind: str, values: Values) -> bool:
        """Put a request about GPUs off until they have been looked at again."""
        if self._arbiter.inventory.is_fresh():
            return False
        self._before_first_look.append((connection, kind, values))
        self._asked.pop()
        self._arbiter.begin_look()
        return True

    def _note_stop(self, job_id: int) -> None:
        """Look whether a waiting client is stopped at its terminal: only an offer would have found out."""
        seat, job = self._arbiter.seats.get(job_id), self._arbiter.store.live.get(job_id)
        if seat is None or job is None or job.state is not JobState.WAITING or not seat.tty or seat.stopped:
            return
        stat = processes.read_stat(job.identity.pid)
        if stat is not None and stat.state in "Tt":
            seat.stopped = True
            self._arbiter.touch()


def _key(identity: Identity, values: Values) -> str:
    """Name a job as its client does: pid and start time survive an exec, the rest is drawn for each."""
    return f"{identity.boot_id}:{identity.pid}:{identity.start_ticks}:{values['key']}"


def _cannot_be(job: Job, done: str) -> str:
    state = "has already ended" if job.state is JobState.ENDED else f"is {job.state.value}"
    return f"cannot be {done}: it {state}"
