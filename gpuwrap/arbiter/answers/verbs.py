"""What the arbiter does for the verbs: each takes its targets one by one, and says for each what was done.

1. Killing, pausing and renicing are idempotent, so a request that comes twice harms nobody.
2. The echo of a changed priority waits for the plan that it leads to, and says what that plan does.
3. What is told about GPUs comes from a look that is fresh.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ...clocks import wall_at
from ...errors import FAILED, GpurunError
from ...host import processes
from ...lifecycle import Event, JobState
from ...model import Job, Plan, View
from ...policy.effects import effect
from ...policy.ranks import by_place
from ...policy.words import clock_of, ordinal, safe
from ..bell.socket import Connection
from ..jobs.killing import SPARED
from ..turn import Ledger
from .changing import change
from .table import Values

if TYPE_CHECKING:
    from ..loop import Arbiter
    from .answers import Answers

# So many of a line are looked at for a list of it, whether they are stopped at their terminals: each costs a read of /proc.
MOST_LOOKED_AT = 200


class NotYours(NamedTuple):
    """A job to which nothing is done."""

    number: int
    why: str


class Verbs:
    """Carries out what verbs ask for, and remembers those that must wait for something."""

    def __init__(self, arbiter: "Arbiter", answers: "Answers") -> None:
        self._arbiter = arbiter
        self._seats = arbiter.seats
        self._store = arbiter.store
        self._turn = arbiter.turn
        self._answers = answers
        self._watchers: dict[Connection, set[int]] = {}
        self.renicings: Ledger[Connection, list[list[object]]] = Ledger(arbiter.turn)
        self._effects: dict[int, str] = {}
        self.kinds: dict[str, Callable[[Connection, Values], None]] = {
            "kill": self._kill,
            "renice": self._renice,
            "set": self._set,
            "pause": self._pause,
            "resume": self._resume,
            "watch": self._watch,
            "explain": self._explain,
            "line": self._line,
            "why": self._why,
            "gpus": self._gpus,
            "drain": self._drain,
            "leave": self._leave,
        }

    def gone(self, connection: Connection) -> None:
        """Who asked has gone."""
        self._watchers.pop(connection, None)

    def _kill(self, connection: Connection, values: Values) -> None:
        number = values.get("signal")
        by = self._arbiter.name_of(connection.uid)
        done = []
        named = [each for each in self._jobs(connection, values) if isinstance(each, Job)]
        lived = {each.id for each in named if each.state is not JobState.ENDED}
        for job in self._jobs(connection, values):
            if isinstance(job, NotYours):
                done.append([job.number, False, job.why])
            elif job.state is JobState.ENDED and job.id in lived:  # it waited for one that was named before it (-a ok:JOB)
                done.append([job.id, True, "cancelled while waiting"])
            elif values.get("requeue"):
                done.append([job.id, *self._arbiter.reruns.evict_by_hand(job, by)])
            elif job.state is JobState.ENDED and job.id not in self._arbiter.leftovers:
                strays = self._arbiter.killing.kill_strays(job, number)
                done.append([job.id, strays not in (None, SPARED), strays or "has already ended"])
            else:
                text = self._arbiter.killing.kill(job, number, by)
                done.append([job.id, text != SPARED, text])
        self._turn.answer(connection, json.dumps(done))

    def _pause(self, connection: Connection, values: Values) -> None:
        """Hold waiting jobs in line, pause running ones."""
        by = self._arbiter.name_of(connection.uid)
        done: list[list[object]] = []
        for job in self._jobs(connection, values):
            if isinstance(job, NotYours):
                done.append([job.number, False, job.why])
            elif job.state is JobState.WAITING:
                self._store.move(job, Event.HOLD, f"held by {by}")
                done.append([job.id, True, f"held in line: gpurun resume {job.id} lets it go"])
            elif job.state is JobState.RUNNING:
                refusal = self._arbiter.pausing.pause([job], None, f"paused by {by}", by_hand=True)
                done.append([job.id, refusal is None, refusal or "paused"])
            else:
                done.append([job.id, False, _cannot_be(job, "paused")])
        self._turn.replan()
        self._turn.answer(connection, json.dumps(done))

    def _resume(self, connection: Connection, values: Values) -> None:
        """Let held and paused jobs go on."""
        by = self._arbiter.name_of(connection.uid)
        done: list[list[object]] = []
        for job in self._jobs(connection, values):
            if isinstance(job, NotYours):
                done.append([job.number, False, job.why])
            elif job.state is JobState.HELD:
                self._store.move(job, Event.RELEASE, f"let go by {by}")
                done.append([job.id, True, "waits again"])
            elif job.state is JobState.PAUSED:
                done.append([job.id, *self._arbiter.pausing.resume_by_hand(job, by)])
            else:
                done.append([job.id, False, _cannot_be(job, "resumed")])
        self._add_places(done)
        self._turn.replan()
        self._turn.answer(connection, json.dumps(done))

    def _renice(self, connection: Connection, values: Values) -> None:
        done: list[list[object]] = []
        for job in self._jobs(connection, values):
            if isinstance(job, NotYours):
                done.append([job.number, False, job.why])
                continue
            if job.state is JobState.ENDED:
                done.append([job.id, False, "has already ended"])
                continue
            wanted = job.priority + values["by"] if "by" in values else values["priority"]
            wanted = max(-100, min(100, wanted))
            wanted = wanted if job.uid is None else self._answers.admission.capped_priority(wanted, job.uid)
            self._store.change(job, priority=wanted)
            done.append([job.id, True, f"priority {job.priority} → {wanted}"])
        self._add_places(done)
        self._turn.replan()
        self.renicings[connection] = done  # answered after the next plan, with what it does

    def _set(self, connection: Connection, values: Values) -> None:
        done: list[list[object]] = []
        for job in self._jobs(connection, values):
            if isinstance(job, NotYours):
                done.append([job.number, False, job.why])
            else:
                done.append([job.id, *change(self._arbiter, self._answers.admission, job, values)])
        self._turn.answer(connection, json.dumps(done))

    def note_effects(self, made: Plan, view: View) -> None:
        """Remember what a plan does for jobs whose priority was just changed: the plan after it knows no more of it."""
        for done in self.renicings.values():
            for job_id, well, _text in done:
                if well and isinstance(job_id, int) and job_id not in self._effects:
                    self._effects[job_id] = effect(made, job_id, view, clock_of(time.monotonic(), wall_at()))

    def planned(self) -> None:
        """A plan was made: echo what it does for changed priorities."""
        effects, self._effects = self._effects, {}
        for connection, done in self.renicings.take():
            told = [
                [job_id, well, f"{text}, {effects[job_id]}" if effects.get(job_id) else text]  # type: ignore[index,call-overload]
                for job_id, well, text in done
            ]
            self._turn.answer(connection, json.dumps(told))

    def _add_places(self, done: list[list[object]]) -> None:
        """Say of those in line where they stand now that all of them were changed."""
        lines: dict[int | None, list[int]] = {}
        views, in_line, now_mono = self._arbiter.deciding.views, self._store.in_line.values(), time.monotonic()
        for queue in dict.fromkeys(job.parent_id for job in in_line):
            line = sorted([job for job in in_line if job.parent_id == queue], key=by_place(views.get(queue), now_mono))
            lines[queue] = [job.id for job in line]
        places = {job_id: (place, len(line)) for line in lines.values() for place, job_id in enumerate(line, 1)}
        for each in done:
            job_id, well, text = each
            if well and isinstance(job_id, int) and job_id in places:
                place, count = places[job_id]
                each[2] = f"{text}, {ordinal(place)} of {count}"

    def _jobs(self, connection: Connection, values: Values) -> "Iterator[Job | NotYours]":
        """Yield the jobs named by number, each as it is when its turn comes, and why nothing is done to others."""
        crowd = self._arbiter.crowd
        for number in values["jobs"]:
            job = self._store.find(number)
            if job is None:
                yield NotYours(number, "no such job")
            elif crowd is not None and not crowd.may(self._arbiter.asker(connection), job):
                yield NotYours(number, f"is {safe(job.user)}'s")
            else:
                yield job

    def _leave(self, connection: Connection, _values: Values) -> None:
        """Leave now instead of in a while, if nothing is left to do."""
        if self._store.live:
            self._turn.say(connection, "refused", text="jobs are still there", status=FAILED)
            return
        self._arbiter.make_room()
        self._turn.say(connection, "done", text="")

    def _watch(self, connection: Connection, values: Values) -> None:
        waited = set(values["jobs"])
        running = {
            job_id
            for job_id in waited
            if (job := self._store.live.get(job_id)) is not None and job.state is not JobState.ENDED
        }
        self._watchers[connection] = running
        self._answer_watchers()

    def ended(self, job: Job) -> None:
        """Tell those who wait for a job, once its end is written down."""
        self._turn.do(lambda: self._tell_watchers(job))

    def _tell_watchers(self, job: Job) -> None:
        for running in self._watchers.values():
            running.discard(job.id)
        self._answer_watchers()

    def _answer_watchers(self) -> None:
        for connection in [connection for connection, running in self._watchers.items() if not running]:
            del self._watchers[connection]
            self._turn.say(connection, "done", text="")

    def _explain(self, connection: Connection, values: Values) -> None:
        job_ids = values["jobs"]
        looked_at: set[int] = set()
        for job_id in job_ids:
            self._note_stop(job_id, looked_at)
        told = self._arbiter.lines.explain_all(job_ids, listed=values.get("listed", False))
        if values.get("plain"):  # so that who lists jobs need not import json
            text = "\n".join(["\t".join((str(job_id), rule, line, *helps)) for job_id, (rule, line, helps) in told.items()])
        else:
            text = json.dumps(told)
        self._turn.answer(connection, text)

    def _line(self, connection: Connection, values: Values) -> None:
        bare = values.get("bare", False)
        looked_at: set[int] = set()
        for job_id in () if bare else islice(self._store.in_line, MOST_LOOKED_AT):
            self._note_stop(job_id, looked_at)
        self._turn.answer(connection, self._arbiter.lines.lined_up(bare=bare))

    def _why(self, connection: Connection, values: Values) -> None:
        job = self._store.live.get(values["job"])
        if job is not None:
            self._note_stop(job.id, set())
        words = self._arbiter.lines.tell(job) if job is not None else None
        self._turn.answer(connection, json.dumps(words))

    def _gpus(self, connection: Connection, values: Values) -> None:
        if "looked" not in values and self._look_stale(connection, "gpus", values):
            return
        try:
            gpus = self._arbiter.inventory.gpus()
        except GpurunError as err:
            self._answers.refuse(connection, err)
            return
        self._turn.answer(connection, json.dumps(gpus))

    def _drain(self, connection: Connection, values: Values) -> None:
        if self._look_stale(connection, "drain", values):
            return
        done = self._arbiter.inventory.drain(values["list"], values["drained"])
        self._turn.answer(connection, json.dumps(done))

    def _look_stale(self, connection: Connection, kind: str, values: Values) -> bool:
        """Put a request about GPUs off until they have been looked at again."""
        if self._arbiter.inventory.is_fresh():
            return False
        self._answers.put_off(connection, kind, values)
        return True

    def _note_stop(self, job_id: int, looked_at: set[int]) -> None:
        """Look whether a waiting client is stopped at its terminal: only an offer would have found out."""
        seat, job = self._seats.get(job_id), self._store.live.get(job_id)
        if seat is None or job is None or job.state is not JobState.WAITING or seat.stopped or seat.pid in looked_at:
            return
        if not self._arbiter.lines.has_terminal(job_id) and seat.sweep is None:
            return
        looked_at.add(seat.pid)
        stat = processes.read_stat(job.identity.pid)
        if stat is not None and stat.state in "Tt":
            for each in self._arbiter.sweeps.seats_like(seat):
                each.stopped = True
            self._turn.replan()


def _cannot_be(job: Job, done: str) -> str:
    state = "has already ended" if job.state is JobState.ENDED else f"is {job.state.value}"
    return f"cannot be {done}: it {state}"
