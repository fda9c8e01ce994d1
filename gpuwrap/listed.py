"""A job as a list shows it: plain values, so that a list of thousands costs neither records nor what they import.

Lists wait for this module: it imports nothing.
"""

TYPE_CHECKING = False  # as type checkers read it; importing typing would cost every list
if TYPE_CHECKING:
    from .model import Job

# In the order in which `Listed` takes them; the database's columns are called the same.
FIELDS = (
    "id", "name", "user", "state", "priority", "gpus", "memory_bytes", "memory_percent", "exclusive", "allowed", "give_way",
    "time_limit_seconds", "submitted_at", "started_at", "ended_at", "result_kind", "result_code", "result_signal",
    "result_text", "parent_id", "sweep", "sweep_index", "argv", "boot_id", "submitted_mono", "started_mono", "ended_mono",
    "devices",
)  # fmt: skip
IN_LINE = ("waiting", "held")


class Listed:
    """One job; never changed once it is made.

    States and kinds are the words of the database. `asked` is what the request comes to, `allowed` how many GPUs it may be
    given (None: any), `words` its command, where bytes that are not UTF-8 are kept (surrogateescape). Of the grant that it
    has, or last had, `devices` are the indices by UUID; `shares` only tells whether two are the same.
    """

    __slots__ = (
        "allowed", "asked", "boot_id", "devices", "ended_at", "ended_mono", "gpus", "id", "memory_bytes", "memory_percent",
        "name", "parent_id", "priority", "result_code", "result_kind", "result_signal", "result_text", "shares", "started_at",
        "started_mono", "state", "submitted_at", "submitted_mono", "sweep", "sweep_index", "user", "words",
    )  # fmt: skip

    def __init__(
        self, id: int, name: str | None, user: str, state: str, priority: int, gpus: int, memory_bytes: int | None,
        memory_percent: float | None, exclusive: int, allowed: str | None, give_way: str, time_limit_seconds: float | None,
        submitted_at: float, started_at: float | None, ended_at: float | None, result_kind: str | None,
        result_code: int | None, result_signal: int | None, result_text: str | None, parent_id: int | None,
        sweep: int | None, sweep_index: int | None, argv: bytes, boot_id: str, submitted_mono: float | None,
        started_mono: float | None, ended_mono: float | None, devices: str | None,
    ) -> None:  # fmt: skip
        self.id, self.name, self.user, self.state, self.priority = id, name, user, state, priority
        self.gpus, self.memory_bytes, self.memory_percent = gpus, memory_bytes, memory_percent
        self.allowed = None if allowed is None else len(allowed.split())
        self.asked = (gpus, memory_bytes, memory_percent, exclusive, allowed, give_way, time_limit_seconds)
        self.submitted_at, self.started_at, self.ended_at = submitted_at, started_at, ended_at
        self.submitted_mono, self.started_mono, self.ended_mono = submitted_mono, started_mono, ended_mono
        self.boot_id = boot_id
        self.result_kind, self.result_code = result_kind, result_code
        self.result_signal, self.result_text = result_signal, result_text
        self.parent_id, self.sweep, self.sweep_index = parent_id, sweep, sweep_index
        self.words = argv.decode("utf-8", "surrogateescape").split("\0")
        self.shares: object = devices
        self.devices = _devices_from(devices) if devices else {}

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; its grant may still stand."""
        return self.state == "ended"

    @classmethod
    def of(cls, job: "Job") -> "Listed":
        """Return a whole record as a list shows it."""
        request, result = job.request, job.result
        kind, code, signal, text = (
            (None, None, None, None) if result is None else (result.kind.value, result.code, result.signal, result.text)
        )
        sweep, index = (None, None) if job.row is None else (job.row.sweep, job.row.index)
        listed = cls(
            job.id, job.name, job.user, job.state.value, job.priority, request.gpus, request.memory_bytes,
            request.memory_percent, request.exclusive, None if request.allowed is None else " ".join(sorted(request.allowed)),
            request.give_way.value, request.time_limit_seconds, job.submitted_at, job.started_at, job.ended_at,
            kind, code, signal, text, job.parent_id, sweep, index, b"\0".join(job.argv), job.identity.boot_id,
            job.submitted_mono, job.started_mono, job.ended_mono, None,
        )  # fmt: skip
        listed.shares, listed.devices = job.shares, {share.uuid: share.index for share in job.shares}
        return listed


def _devices_from(text: str) -> dict[str, int]:
    """Read `[["UUID", index, bytes, whole], …]` without json, which would cost as much as all the rest of a list."""
    if "\\" in text:  # no driver's UUID needs an escape
        import json

        return {uuid: index for uuid, index, *_ in json.loads(text)}
    pieces = text.split('"')
    return {uuid: int(rest.split(",", 2)[1]) for uuid, rest in zip(pieces[1::2], pieces[2::2], strict=True)}
