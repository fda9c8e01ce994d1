"""Rows of the job table and records, one made of the other: beyond the store nobody sees a row.

`JOB_COLUMNS` of the schema, `row_from_job` and `job_from_row` name the same columns in the same order.
"""

import json
from typing import Any, NamedTuple

from ..clocks import suspended_seconds
from ..lifecycle import JobState
from ..model import GiveWay, Identity, Job, Request, Result, ResultKind, Row, Share
from ..turns import turn

_REQUEST_COLUMNS = (
    "gpus", "memory_bytes", "memory_percent", "exclusive", "allowed", "give_way", "time_limit_seconds",
)  # fmt: skip
_RESULT_COLUMNS = ("result_kind", "result_code", "result_signal", "result_text")


class PastRow(NamedTuple):
    """How long a job ran that has ended, and how long ago that was; `by_itself`: nobody ended it."""

    user: str
    name: str | None
    cwd: bytes
    fingerprint: str | None
    gpus: int
    sweep: int | None
    seconds: float
    age_seconds: float
    by_itself: int


def columns_of(changes: dict[str, Any]) -> dict[str, Any]:
    """Turn changed fields of a Job into columns."""
    columns: dict[str, Any] = {}
    for field, value in changes.items():
        if field == "result":
            columns.update(zip(_RESULT_COLUMNS, _result_values(value), strict=True))
        elif field == "shares":
            columns["devices"] = text_from_shares(value)
        elif field == "request":
            columns.update(zip(_REQUEST_COLUMNS, _request_values(value), strict=True))
        elif field == "identity":
            columns.update(
                boot_id=value.boot_id, pid_namespace=value.pid_namespace, pid=value.pid, start_ticks=value.start_ticks
            )
        else:
            columns[field] = value
    return columns


def _request_values(request: Request) -> tuple[Any, ...]:
    return (
        request.gpus, request.memory_bytes, request.memory_percent, int(request.exclusive),
        _text_from_uuids(request.allowed), request.give_way.value, request.time_limit_seconds,
    )  # fmt: skip


def _result_values(result: Result | None) -> tuple[Any, ...]:
    if result is None:
        return (None, None, None, None)
    return (result.kind.value, result.code, result.signal, result.text)


def row_from_job(job: Job) -> tuple[Any, ...]:
    """Return the values of all columns but the number, which the database gives, and the grant."""
    request, identity = job.request, job.identity
    return (
        job.key, job.name, job.user, job.state.value, job.priority, *_request_values(request),
        identity.boot_id, identity.pid_namespace, identity.pid, identity.start_ticks,
        b"\0".join(job.argv), job.cwd, job.submitted_at, job.started_at, job.ended_at, job.attempt,
        job.times_given_way, job.peak_bytes, *_result_values(job.result), job.parent_id, int(job.stub), job.signals,
        job.retries, job.yields_to, int(job.requeue), job.fingerprint, job.learned_bytes,
        job.output, job.after_jobs, job.once, int(job.detached),
        *((job.row.sweep, job.row.index, job.row.limit) if job.row is not None else (None, None, None)),
        int(job.output_asked), job.submitted_mono, job.granted_mono, job.started_mono, job.ended_mono, job.paused_mono,
        job.returned_mono, job.expect_seconds, job.uid,
    )  # fmt: skip


def row_of(job: Job) -> tuple[Any, ...]:
    """Return all columns of a job, the number and the grant too, as `job_from_row` takes them."""
    return (job.id, *row_from_job(job), text_from_shares(job.shares))


def job_from_row(row: tuple[Any, ...], shares: tuple[Share, ...]) -> Job:
    """Make a job of all columns and of the grant that it has, or last had."""
    (
        job_id, key, name, user, state, priority, gpus, memory_bytes, memory_percent, exclusive, allowed, give_way,
        time_limit, boot_id, pid_namespace, pid, start_ticks, argv, cwd, submitted_at, started_at, ended_at,
        attempt, times_given_way, peak_bytes, result_kind, result_code, result_signal, result_text, parent_id, stub,
        signals, retries, yields_to, requeue, fingerprint, learned_bytes, output, after_jobs, once, detached, sweep,
        sweep_index, sweep_limit, output_asked, submitted_mono, granted_mono, started_mono, ended_mono, paused_mono,
        returned_mono, expect, uid, _devices,
    ) = row  # fmt: skip
    uuids = None if allowed is None else frozenset(allowed.split())
    request = Request(gpus, memory_bytes, memory_percent, bool(exclusive), uuids, GiveWay(give_way), time_limit)
    result = Result(ResultKind(result_kind), result_code, result_signal, result_text) if result_kind else None
    identity = Identity(boot_id, pid_namespace, pid, start_ticks)
    return Job(
        job_id, key, name, user, JobState(state), priority, request,
        identity, tuple(argv.split(b"\0")), cwd, submitted_at, shares,
        started_at, ended_at, attempt, times_given_way, peak_bytes, result, parent_id,
        bool(stub), signals, retries, yields_to, bool(requeue), fingerprint, learned_bytes,
        output, after_jobs, once, bool(detached), Row(sweep, sweep_index, sweep_limit) if sweep is not None else None,
        bool(output_asked), submitted_mono, granted_mono, started_mono, ended_mono, paused_mono, returned_mono,
        expect, turn(identity, submitted_mono, suspended_seconds()), uid,
    )  # fmt: skip


def _text_from_uuids(uuids: frozenset[str] | None) -> str | None:
    return None if uuids is None else " ".join(sorted(uuids))


def text_from_shares(shares: tuple[Share, ...]) -> str:
    """Write a grant as JSON; put together here, since each start waits for it."""
    quoted = json.encoder.encode_basestring_ascii
    return "[" + ", ".join([f"[{quoted(s.uuid)}, {s.index}, {s.bytes}, {int(s.whole)}]" for s in shares]) + "]"


def shares_from_text(text: str | None) -> tuple[Share, ...]:
    """Read the grant a job has or last had."""
    if not text:
        return ()
    return tuple(Share(uuid, index, size, bool(whole)) for uuid, index, size, whole in json.loads(text))
