"""The records that every layer shares: jobs, requests, grants, GPUs, and what the policy says about them.

All frozen: a record is a fact at one moment, and a change makes a new record. Suffixes tell clock and unit:
`_at` is wall-clock seconds shown to people, `_mono` is compared (see `clocks`), `_bytes` is bytes. `None` means unknown or
absent, never zero. This module knows nobody but the vocabulary beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from .lifecycle import JobState
from .people import People


class GiveWay(Enum):
    """The strongest way in which a job may be made to give way; each includes the milder ones."""

    NEVER = "never"
    PAUSE = "pause"
    SUSPEND = "suspend"
    REQUEUE = "requeue"


class Order(Enum):
    """What decides among jobs of equal priority, as the setting of this name has it."""

    ARRIVAL = "arrival"
    SHORTEST = "shortest"
    FAIR = "fair"


class Basis(Enum):
    """What an expectation rests on, the best first."""

    LIMIT = "limit"
    GUESS = "guess"
    COMMAND = "command"
    SWEEP = "sweep"
    OWNER = "owner"
    SO_FAR = "so far"


class ComputeMode(Enum):
    """Who may open CUDA contexts on a GPU, as its administrator set it (nvidia-smi -c)."""

    DEFAULT = "default"
    EXCLUSIVE_PROCESS = "exclusive process"
    PROHIBITED = "prohibited"


class ResultKind(Enum):
    """How a job ended; the values are frozen surface."""

    EXIT = "exit"
    SIGNAL = "signal"
    UNKNOWN = "unknown"
    CANCELLED = "cancelled"
    WAIT_LIMIT = "wait-limit"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: pids are reused, so boot, pid namespace and start time (clock ticks since boot) belong to it."""

    boot_id: str
    pid_namespace: int
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class Request:
    """What a job asks for.

    `gpus` is a count (0: none). Without `memory_bytes` and `memory_percent` it wants whole GPUs: nobody else computes
    there. `exclusive` adds that to a request with memory. `allowed` are the UUIDs it may be given, None any.
    """

    gpus: int = 1
    memory_bytes: int | None = None
    memory_percent: float | None = None
    exclusive: bool = False
    allowed: frozenset[str] | None = None
    give_way: GiveWay = GiveWay.PAUSE
    time_limit_seconds: float | None = None

    @property
    def shares(self) -> bool:
        """Whether others may compute on its GPUs."""
        return not self.exclusive and (self.memory_bytes is not None or self.memory_percent is not None)


@dataclass(frozen=True, slots=True)
class Share:
    """One GPU of a grant: `bytes` promised on it; `whole` says that nobody else computes there."""

    uuid: str
    index: int
    bytes: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended: `code` for EXIT, `signal` for SIGNAL, `text` a few words for people."""

    kind: ResultKind
    code: int | None = None
    signal: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A job's place in a sweep: the number of the sweep's first row, its own index (GPURUN_INDEX), how many run at once."""

    sweep: int
    index: int
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One registered command. `shares` is its grant, kept until nothing of the job holds it, also after the end."""

    id: int
    key: str
    name: str | None
    user: str
    state: JobState
    priority: int
    request: Request
    identity: Identity
    argv: tuple[bytes, ...]
    cwd: bytes
    submitted_at: float
    shares: tuple[Share, ...] = ()
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 1
    times_given_way: int = 0
    peak_bytes: int | None = None
    result: Result | None = None
    parent_id: int | None = None
    """The running job inside which it was asked for: it is granted GPUs of that job's grant, apart from the outer queue."""
    stub: bool = False
    """Whether a stub stands between its caller and the program: it can be run again, and paused behind the stub."""
    signals: str | None = None
    """How it is asked to end (`--signal`), None the default."""
    retries: int = 0
    """How often it is run again after a failure."""
    yields_to: int | None = None
    """The job for which it was paused, or is being evicted; None if nobody's, or by hand."""
    requeue: bool = False
    """Whether it is being asked to end in order to be run again (evicted), and not for good."""
    fingerprint: str | None = None
    """What its command is known by, to learn its memory need."""
    learned_bytes: int | None = None
    """What a command seen before needs on each GPU (its peak and a margin), None for one that is unknown."""
    output: bytes | None = None
    """Where its stdout leads, with `%j` for its number (see `outputs`); None if that is not known."""
    after_jobs: str | None = None
    """The jobs that must have ended before it starts: numbers, `ok:` before those that must have succeeded."""
    once: str | None = None
    """Its key (`--once`): while it is in line or runs no other of that key is registered, but by `--once-waiting`."""
    detached: bool = False
    """Whether it runs in the background (`-d`)."""
    row: "Row | None" = None
    """Its place in a sweep; None if it is no row of one."""
    output_asked: bool = False
    """Whether `output` is what it was asked to write to (-o), not what its gpurun's stdout led to."""
    submitted_mono: float | None = None
    """This and what follows are times of the boot in `identity`."""
    granted_mono: float | None = None
    started_mono: float | None = None
    ended_mono: float | None = None
    """None, too, if it ended with the boot."""
    paused_mono: float | None = None
    """Since when it is paused or suspended."""
    returned_mono: float | None = None
    """When it last went on after a pause."""
    expect_seconds: float | None = None
    """How long its owner thinks that it takes (`--expect`): nobody ends it for that."""
    turn: int = 0
    """Since when it counts in line among those of its priority (see `turns`); made from the rest, and not written down."""
    uid: int | None = None
    """Whose it is, as the kernel said when it was registered; None in rows of before that was kept. `user` is for showing."""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; its grant may still stand."""
        return self.state is JobState.ENDED

    def changed(self, **changes: object) -> "Job":
        """Return it with some fields changed, as `dataclasses.replace` does at twice the cost: each move makes a new one."""
        made: Job = object.__new__(Job)
        for read, write in _FIELDS_OF_JOB:
            write(made, read(self))
        for name, value in changes.items():
            object.__setattr__(made, name, value)
        return made


_FIELDS_OF_JOB = [(slot.__get__, slot.__set__) for slot in (getattr(Job, name) for name in Job.__slots__)]


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that the driver names on a GPU. `bytes` None: the driver does not say. `graphics`: draws, does not compute."""

    pid: int
    bytes: int | None
    graphics: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What a GPU is doing at a moment; figures that the driver does not tell are None. A fan may do more than 100 %."""

    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    fan_percent: int | None = None


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One look at one GPU by a host. Every figure may be None (not known); `fault` says why it must not be used.

    `processes` None: the driver does not tell which processes use it. `links` maps the UUIDs of other GPUs to how well
    they are connected (larger is better).
    """

    uuid: str
    index: int
    name: str
    total_bytes: int | None = None
    free_bytes: int | None = None
    processes: tuple[GpuProcess, ...] | None = None
    utilization_percent: int | None = None
    compute_mode: ComputeMode = ComputeMode.DEFAULT
    fault: str | None = None
    is_mig: bool = False
    numa_node: int | None = None
    links: Mapping[str, int] = field(default_factory=dict)
    load: Load | None = field(default=None, compare=False)
    """None of an instance. It is another at each look, and a GPU that is a degree warmer is nothing new to decide about."""


@dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A GPU process that is no job of ours. `user` and `command` None: it cannot be seen from here.

    `still`: how it is kept from computing (`stopped`, `frozen`), None if it is not.
    """

    pid: int
    user: str | None
    command: str | None
    bytes: int | None
    mine: bool = False
    idle_seconds: float | None = None
    still: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A GPU held by another world: `pid` and `user` of the arbiter that holds it, None if it cannot be asked."""

    pid: int | None
    user: str | None


@dataclass(frozen=True, slots=True)
class Leftover:
    """A process that outlived its job's leader and still holds a GPU."""

    job_id: int
    pid: int
    command: str | None
    bytes: int | None
    ended_mono: float | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """What the policy knows of one GPU: the sample, and what the arbiter made of it.

    `used` maps job ids to the bytes their processes hold there (None: not known). While the driver does not answer, `fault`
    says so and the figures are None: nothing new is placed there.
    """

    uuid: str
    index: int
    name: str
    total_bytes: int | None
    free_bytes: int | None
    foreign: tuple[ForeignProcess, ...] | None = ()
    used: Mapping[int, int | None] = field(default_factory=dict)
    leftovers: tuple[Leftover, ...] = ()
    claim: Claim | None = None
    fault: str | None = None
    drained: bool = False
    compute_mode: ComputeMode = ComputeMode.DEFAULT
    utilization_percent: int | None = None
    foreign_peak_bytes: int | None = None
    """The most that the foreign processes of now were seen to hold within the last hour."""
    bystander_bytes: int = 0
    """Memory of known processes that do not count as computing (displays, the MPS server, what the settings ignore)."""
    is_mig: bool = False
    numa_node: int | None = None
    links: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """How long a job is expected to compute still, in seconds, at the moment of the view that has it.

    `seconds` is the mean. `index` is what it is ranked by: less than the mean where it is likely to end soon, and else may
    take long. It lies mostly between `low` and `high`. `runs` is how many runs that rests on.
    """

    seconds: float
    index: float
    low: float
    high: float
    basis: Basis = Basis.SO_FAR
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The arbiter's limits (settings). `keep_free_bytes` is the headroom kept on every GPU."""

    keep_free_bytes: int = 0
    jobs_per_gpu: int | None = None
    min_run_seconds: float = 300.0
    """How long a job runs at least before it is evicted."""
    min_return_seconds: float = 300.0
    """How long a job runs at least after each return from a pause before it is paused again."""
    least_pause_seconds: float = 300.0
    """A job that may be paused for less than this is not paused for one of which nobody knows how long it runs."""
    min_run_among_equals_seconds: float = 120.0
    """How long a job runs at least, after its start or a return, before it gives way to one of equal priority."""
    due_after_seconds: float = 259200.0
    """Who has waited for this long, and for 20 times what it is expected to need, is passed by nobody any more."""


@dataclass(frozen=True, slots=True)
class Yielding:
    """What one running job could be made to do at this moment, as the arbiter found out by looking at its processes.

    `pause_seconds`: for how long it may be paused from now on (0: not at all, and `no_pause` says why and what would
    change it). `short_only`: only for newcomers whose time limit is within `pause_seconds` (several CUDA processes: their
    collective timeouts run on). `can_evict`: it allows to be ended and run again, and has a stub; else `no_evict`.
    """

    pause_seconds: float = 0.0
    short_only: bool = False
    no_pause: str | None = None
    can_evict: bool = False
    no_evict: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """All that `plan` looks at.

    `jobs` are those in line or holding something (ended ones whose grant still stands included), in any order. `absent`
    are jobs that cannot take an offer now and are passed over: `stopped` at their terminal or not connected (yet).
    """

    gpus: tuple[Gpu, ...]
    jobs: tuple[Job, ...]
    stopped: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()
    bounds: Bounds = Bounds()
    yielding: Mapping[int, Yielding] = field(default_factory=dict)
    """Of paused jobs, and of running ones that some waiting job, or one paused beside them, outranks by a step."""
    after: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Jobs in line that must not start before others have ended, and those others."""
    own: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """Jobs in line whose process itself still holds what ended jobs of its own left, and those jobs: it goes on with that."""
    patience: Mapping[int, float] = field(default_factory=dict)
    """For how many seconds jobs in line still wait, where that is limited (`-w`, `-n`)."""
    neighbours: Mapping[str, Claim] = field(default_factory=dict)
    """Claims of other worlds on GPUs (UUIDs) that nobody here has wanted so far: for telling alone, not for planning."""
    fault: str | None = None
    """Why there is no GPU at all."""
    without_gpu: bool = False
    """There is none, and who asks for some runs without (the setting of this name)."""
    order: Order = Order.ARRIVAL
    expected: Mapping[int, Expected] = field(default_factory=dict)
    """What jobs are expected to need still; nothing is looked at here in order of arrival."""
    burden: Mapping[int, float] = field(default_factory=dict)
    """In the order `fair`: the part of the recent use that a job's owner had, over an equal part; 1 where it is missing."""
    lost: Mapping[int, float] = field(default_factory=dict)
    """Seconds of work that a job would lose if it were ended now; where it is missing, all since its start."""
    people: People | None = None
    """Whose the jobs are, and how these people stand to each other; None: all are one user's."""


class Rule(Enum):
    """Which rule keeps a job waiting; the values appear as `why.rule` in the JSON."""

    HELD = "held"
    STOPPED = "stopped"
    ABSENT = "absent"
    AFTER = "after"
    SWEEP = "sweep"
    CAP = "cap"
    BUSY = "busy"
    MEMORY = "memory"
    BEHIND = "behind"
    FOREIGN = "foreign"
    CLAIMED = "claimed"
    LEFTOVER = "leftover"
    UNHEALTHY = "unhealthy"
    DRAINED = "drained"
    UNKNOWN = "unknown"
    UNEXPLAINED = "unexplained"
    JOBS_PER_GPU = "jobs-per-gpu"
    COMPUTE_MODE = "compute-mode"


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why one GPU cannot be had by one request: the rule, and who stands in the way (only what the rule is about is set)."""

    gpu_index: int
    rule: Rule
    job_ids: tuple[int, ...] = ()
    process: ForeignProcess | None = None
    leftover: Leftover | None = None
    claim: Claim | None = None
    fault: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None


class Refusal(NamedTuple):
    """Why a job cannot give way: words that follow its name, and where they have `{at}` in them, which moment that is."""

    job_id: int
    text: str
    at_mono: float | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a job waits: the rule that matters most, its place in line (1 is next), and what stands on each GPU.

    `behind` is the job that is kept GPUs for, when the rule is BEHIND. `kept` are indices of GPUs kept free for this job.
    """

    rule: Rule
    place: int
    gpus: int
    need_bytes: int | None = None
    obstacles: tuple[Obstacle, ...] = ()
    behind: int | None = None
    kept: tuple[int, ...] = ()
    yielding: tuple[int, ...] = ()
    """Jobs that are giving way to it now (being evicted)."""
    cannot_yield: tuple[Refusal, ...] = ()
    """Jobs of lower rank in its way that cannot give way to it."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Action: give a waiting job these shares."""

    job_id: int
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Action: make a running job stop computing, so that `newcomer_id` can run beside what it holds."""

    job_id: int
    newcomer_id: int


@dataclass(frozen=True, slots=True)
class Resume:
    """Action: let a paused job go on; `forced` because it was paused for as long as it may be, and not for room."""

    job_id: int
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Evict:
    """Action: end a job so that it can be run again when there is room; it makes room for `newcomer_id`."""

    job_id: int
    newcomer_id: int


Action = Grant | Pause | Resume | Evict


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, why each job that stays in line stays there, and which GPU (UUID) is kept for which job."""

    actions: tuple[Action, ...] = ()
    reasons: Mapping[int, Reason] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    stuck: Mapping[int, tuple[Refusal, ...]] = field(default_factory=dict)
    """Paused jobs that outrank by now those that compute beside them, and why these cannot give way."""
