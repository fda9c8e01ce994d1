"""What the page shows of a world: its database, looked at when it has changed, and what only the arbiter knows.

1. While nothing changes the arbiter is asked as seldom as `GPUS_SECONDS` says; while nobody looks, not at all.
2. What takes long is made seldom: of all time so much is spent on it, at most, whatever the number of jobs.
3. Nothing of a user's text is told raw: what would be obeyed or hidden is escaped here, and the page writes text only.
"""

import os
import time
from collections.abc import Sequence
from typing import Any

from .. import __version__
from ..accounts.days import a_day_before
from ..clocks import Now
from ..errors import GpurunError, UsageError
from ..lifecycle import IN_LINE, JobState
from ..listed import Listed
from ..listing import command_of
from ..listing import state_words as words_of_state
from ..model import Job
from ..outputs import kept_in
from ..policy.words import safe
from ..render import job_as_json, load_words, state_words
from ..state.chronicle import Chronicle, Past, present
from ..turns import before
from ..units import format_size, parse_priority
from ..web.feed import Facts
from ..web.source import Output
from .asking import World, my_name

# How often the GPUs are looked at when nothing else happens; the arbiter looks at them about as often.
GPUS_SECONDS = 3.0
ANSWER_SECONDS = 5.0
# The last day is drawn anew so often at most, and so often at least.
DAY_SECONDS, DAY_ANYHOW_SECONDS = 10.0, 60.0
BUSY_PART = 0.05
MOST_EXPLAINED, MOST_ENDED, MOST_BARS, MOST_EVENTS = 60, 30, 1500, 200
TEXT_LENGTH = 160
SKEW_SECONDS = 2.0


class Onlooker:
    """Tells the page of a world; see `web.source.Source`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._me = my_name()
        self._chronicle: Chronicle | None = None
        self._mark = -1
        self._facts: Facts = {}
        self._begun: dict[int, tuple[object, float]] = {}
        self._gpus_due = self._day_due = self._day_anyhow = 0.0
        self._ids: frozenset[int] = frozenset()
        self._hours: dict[str, float] = {}

    def hello(self) -> dict[str, Any]:
        """Return whose page it is, of which world."""
        return {"me": self._me, "sim": self._world.sim, "host": os.uname().nodename, "version": __version__}

    def rest(self) -> None:
        """Let the arbiter and the database go."""
        self._world.hang_up()
        self._close()

    def _close(self) -> None:
        if self._chronicle is not None:
            self._chronicle.close()
        self._chronicle, self._mark = None, -1

    def _opened(self) -> Chronicle | None:
        """Return the database, opened anew if it is another; None if there is none yet."""
        if self._chronicle is not None and not self._chronicle.is_in_place():
            self._close()
        if self._chronicle is None and self._world.folder is not None:
            try:
                self._chronicle = Chronicle(self._world.folder)
            except FileNotFoundError:
                return None
        return self._chronicle

    # --- looking ------------------------------------------------------------------------------------------------

    def look(self, anew: bool) -> Facts | None:
        """Return what there is to tell, None if it is as it was."""
        now_mono = time.monotonic()
        try:
            chronicle = self._opened()
            mark = chronicle.mark() if chronicle is not None else 0
        except GpurunError as err:
            return self._with_fault(err)
        changed, due = anew or mark != self._mark, now_mono >= self._gpus_due
        if not changed and not due and now_mono < self._day_anyhow:
            return None
        facts = dict(self._facts)
        try:
            jobs = chronicle.jobs(ended=False) if chronicle is not None else []
            facts |= self._from_arbiter(jobs)
            facts["jobs"] = {str(job.id): self._row(job, place, facts["why"]) for job, place in _with_places(jobs)}
            if chronicle is not None:
                facts |= self._from_past(chronicle, jobs, anew, changed)
            facts["users"] = self._users(jobs)
        except GpurunError as err:
            return self._with_fault(err)
        facts.pop("why")
        self._mark, self._facts = mark, facts
        spent = time.monotonic() - now_mono
        self._gpus_due = time.monotonic() + max(GPUS_SECONDS, spent / BUSY_PART)
        return facts

    def _with_fault(self, err: GpurunError) -> Facts:
        """What was known before, and what is wrong."""
        self._gpus_due = 0.0
        text = err.text if err.hint is None else f"{err.text} ({err.hint})"
        self._facts = {**self._facts, "arbiter": {"up": False, "text": safe(text, 300)}}
        return self._facts

    def _from_arbiter(self, jobs: Sequence[Job]) -> Facts:
        """Ask what only the arbiter knows; where it cannot be had, that is told, and the rest stays as it was."""
        in_line = sorted((job for job in jobs if job.state in IN_LINE), key=before)[:MOST_EXPLAINED]
        others = [job for job in jobs if job.state not in IN_LINE and job.state is not JobState.RUNNING][:MOST_EXPLAINED]
        numbers = " ".join(str(job.id) for job in [*in_line, *others])
        try:
            gpus = self._world.ask_within(ANSWER_SECONDS, "gpus")
            why = self._world.ask_within(ANSWER_SECONDS, "explain", jobs=numbers) if numbers else {}
        except GpurunError as err:
            self._world.hang_up()
            return self._with_fault(err) | {"why": {}}
        told = {int(number): sentence for number, (_rule, sentence, _helps) in (why or {}).items()}
        pid = self._world.arbiter_pid()
        return {"arbiter": {"up": True, "pid": pid, "text": ""}, "gpus": [_gpu(gpu, jobs) for gpu in gpus], "why": told}

    def _from_past(self, chronicle: Chronicle, jobs: Sequence[Job], anew: bool, changed: bool) -> Facts:
        found: Facts = {}
        sweeps = {job.row.sweep: None for job in jobs if job.row is not None and not job.has_ended}
        found["sweeps"] = [
            {
                "id": number, "name": safe(its.name, 40), "words": its.words(), "total": its.total, "done": its.done,
                "failed": its.failed, "run": its.run,
            }
            for number, its in chronicle.progress(sweeps).items()
        ]  # fmt: skip
        ids = frozenset(job.id for job in jobs if not job.has_ended)
        if anew or ids != self._ids:
            found["ended"] = [_ended(job) for job in chronicle.latest_ended(MOST_ENDED)]
            self._ids = ids
        now_mono = time.monotonic()
        if anew or now_mono >= (self._day_due if changed else self._day_anyhow):
            found["day"] = self._day(chronicle)
            spent = time.monotonic() - now_mono
            self._day_due = time.monotonic() + max(DAY_SECONDS, spent / BUSY_PART)
            self._day_anyhow = max(self._day_due, time.monotonic() + DAY_ANYHOW_SECONDS)
        return found

    def _row(self, job: Job, place: int | None, why: dict[int, str]) -> dict[str, Any]:
        request = job.request
        memory = "" if not request.gpus else "whole"
        if request.memory_bytes is not None:
            memory = format_size(request.memory_bytes)
        elif request.memory_percent is not None:
            memory = f"{request.memory_percent:g}%"
        return {
            "id": job.id, "name": safe(job.name or "", 60), "user": safe(job.user, 32), "state": job.state.value,
            "priority": job.priority, "gpus": request.gpus, "memory": memory,
            "devices": [] if job.state in IN_LINE else sorted(share.index for share in job.shares),
            "command": _command(job), "begun": self._begun_at(job), "place": place, "why": why.get(job.id),
            "sweep": None if job.row is None else [job.row.sweep, job.row.index], "mine": job.user == self._me,
        }  # fmt: skip

    def _begun_at(self, job: Job) -> float:
        """When it started, or else came, by the clock on the wall as it goes now; the same again unless that was set."""
        begun = (job.started_at, job.started_mono) if job.started_at else (job.submitted_at, job.submitted_mono)
        now = Now.here()
        reckoned = now.at_before(now.since(*begun, job.identity.boot_id))
        known = self._begun.get(job.id)
        if known is not None and known[0] == begun and abs(known[1] - reckoned) < SKEW_SECONDS:
            return known[1]
        if len(self._begun) > 20_000:
            self._begun.clear()
        self._begun[job.id] = begun, round(reckoned, 1)
        return self._begun[job.id][1]

    def _users(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        on: dict[str, set[str]] = {}
        for user, hours in self._hours.items():
            found[user] = {"user": user, "run": 0, "wait": 0, "gpus": 0, "hours": hours}
        for job in jobs:
            user = safe(job.user, 32)
            its = found.setdefault(user, {"user": user, "run": 0, "wait": 0, "gpus": 0, "hours": 0.0})
            if job.state in IN_LINE:
                its["wait"] += 1
            elif not job.has_ended:
                its["run"] += 1
                on.setdefault(user, set()).update(share.uuid for share in job.shares)
        for user, uuids in on.items():
            found[user]["gpus"] = len(uuids)
        return sorted(found.values(), key=lambda its: (-float(its["hours"]), str(its["user"])))[:100]

    def _day(self, chronicle: Chronicle) -> dict[str, Any]:
        """The last day: its bars, the longest if there are many, and who they are; what GPU-hours users had on it."""
        now = present()
        begun_at = a_day_before(now)
        past = chronicle.past(chronicle.since(begun_at), now, begun_at)
        self._hours = _hours(past)
        bars = sorted((each for its in past.stretches.values() for each in its if each.gpus), key=lambda each: -each.seconds)
        names = {job.id: job for job in past.jobs}
        shown = bars[:MOST_BARS]
        return {
            "begun": round(begun_at),
            "bars": [
                [each.job_id, each.gpus, round(each.begun_at), None if each.is_open else round(each.ended_at), int(each.paused)]
                for each in shown
            ],
            "names": {each.job_id: [_label(names[each.job_id]), safe(names[each.job_id].user, 32)] for each in shown},
            "left_out": len(bars) - len(shown),
        }

    # --- one job ------------------------------------------------------------------------------------------------

    def job(self, number: int) -> dict[str, Any] | None:
        """Return all about a job."""
        chronicle = self._opened()
        found = chronicle.by_number(number, number) if chronicle is not None else []
        if chronicle is None or not found:
            return None
        job = found[0]
        past = chronicle.past([job], present())
        output, words = kept_in(job.output, job.id)
        sentences, helps = self._why(job)
        return {
            "job": job_as_json(job, None), "words": state_words(job), "command": _command(job, 2000),
            "mine": job.user == self._me,
            "name": safe(job.name or "", 100),
            "text": safe(job.result.text, 300) if job.result is not None and job.result.text else "",
            "peak": None if job.peak_bytes is None else format_size(job.peak_bytes),
            "waited": past.waits.get(job.id),
            "computed": sum(each.seconds for each in past.stretches[job.id] if not each.paused),
            "paused": sum(each.seconds for each in past.stretches[job.id] if each.paused),
            "events": [
                {"at": move.at, "state": move.state, "why": safe(move.why, 300)}
                for move in chronicle.moves([job.id])[job.id][-MOST_EVENTS:]
            ],
            "why": sentences, "helps": helps,
            "output": safe(os.fsdecode(output), 300) if output is not None else None, "no_output": words,
            "progress": [f"{safe(its.name, 40)}: {its.words()}" for its in chronicle.progress([job.row.sweep]).values()]
            if job.row is not None else [],
        }  # fmt: skip

    def _why(self, job: Job) -> tuple[list[str], list[str]]:
        """Why it waits, or stands still, and what would help; nothing if the arbiter cannot be asked."""
        try:
            if job.state in IN_LINE:
                sentences, helps = self._world.ask_within(ANSWER_SECONDS, "why", job=job.id) or ([], [])
                return list(sentences), list(helps)
            if job.has_ended:
                return [], []
            told = self._world.ask_within(ANSWER_SECONDS, "explain", jobs=str(job.id)) or {}
        except GpurunError as err:
            return [err.text], []
        _rule, sentence, helps = told.get(str(job.id), ("", "", []))
        return [sentence] if sentence else [], helps

    def output(self, number: int) -> Output | None:
        """Return where a job's output is; that of others is theirs to show."""
        chronicle = self._opened()
        found = chronicle.by_number(number, number) if chronicle is not None else []
        if not found:
            return None
        job = found[0]
        if job.user != self._me:
            return Output(None, f"it is {safe(job.user, 32)}'s: only {safe(job.user, 32)} sees what it writes", True)
        path, words = kept_in(job.output, job.id)
        return Output(path, words and f"it wrote {words}: nothing is kept; next time -o FILE or -d", job.has_ended)

    def act(self, verb: str, number: int, value: str | None) -> tuple[bool, str]:
        """Do what a verb does, for jobs of the user that serves the page alone."""
        try:
            chronicle = self._opened()
            found = chronicle.by_number(number, number) if chronicle is not None else []
            if not found:
                return False, f"job {number}: no such job"
            if found[0].user != self._me:
                return False, f"job {number}: {safe(found[0].user, 32)}'s"
            values = {"priority": parse_priority(value or "")} if verb == "renice" else {}
            done = self._world.ask_within(ANSWER_SECONDS, verb, jobs=str(number), **values)
        except (GpurunError, UsageError) as err:
            return False, err.text
        (_number, well, text), *_ = done or [[number, False, "nothing was said"]]
        return bool(well), f"job {number}: {text}"


def _with_places(jobs: Sequence[Job]) -> list[tuple[Job, int | None]]:
    """Say of those that wait, and stand in no job's own queue, at which place they do."""
    in_line = sorted((job for job in jobs if job.state is JobState.WAITING and job.parent_id is None), key=before)
    places = {job.id: place for place, job in enumerate(in_line, 1)}
    return [(job, places.get(job.id)) for job in jobs]


def _command(job: Job, length: int = TEXT_LENGTH) -> str:
    return safe(" ".join(word.decode("utf-8", "surrogateescape") for word in job.argv), length)


def _label(job: Job) -> str:
    return command_of(Listed.of(job))


def _ended(job: Job) -> dict[str, Any]:
    listed = Listed.of(job)
    ran = None if job.started_mono is None or job.ended_mono is None else job.ended_mono - job.started_mono
    text = safe(job.result.text, 100) if job.result is not None and job.result.text else ""
    return {
        "id": job.id, "name": safe(job.name or "", 60), "user": safe(job.user, 32), "command": _command(job),
        "words": words_of_state(listed), "well": listed.result_code == 0, "text": text, "ended": job.ended_at, "ran": ran,
    }  # fmt: skip


def _hours(past: Past) -> dict[str, float]:
    found: dict[str, float] = {}
    for job in past.jobs:
        seconds = sum(each.seconds for each in past.stretches[job.id] if not each.paused)
        user = safe(job.user, 32)
        found[user] = round(found.get(user, 0.0) + seconds * job.request.gpus / 3600, 2)
    return found


def _gpu(gpu: dict[str, Any], jobs: Sequence[Job]) -> dict[str, Any]:
    """A GPU for the page: what jobs hold and were promised, what strangers hold, and who uses it in words."""
    held = {int(number): size for number, size in (gpu.get("held") or {}).items()}
    promised = {job.id: share.bytes for job in jobs for share in job.shares if share.uuid == gpu["uuid"]}
    parts = [[number, held.get(number, 0), promised.get(number, 0)] for number in sorted({*held, *promised})]
    return {
        "index": gpu["index"], "name": safe(gpu["name"], 40), "state": gpu["state"], "total": gpu["total_bytes"],
        "free": gpu["free_bytes"], "parts": parts, "strangers": sum(each["bytes"] or 0 for each in gpu["foreign"]),
        "notes": [safe(note, 200) for note in gpu["notes"]], "load": gpu.get("load"), "load_words": load_words(gpu),
        "kept": gpu.get("kept"), "text": _memory_words(gpu),
    }  # fmt: skip


def _memory_words(gpu: dict[str, Any]) -> str:
    total, free = gpu["total_bytes"], gpu["free_bytes"]
    if total is None or free is None:
        return "memory unknown"
    used = format_size(total - free) if total > free else "0"
    return f"{used} of {format_size(total)} in use"


