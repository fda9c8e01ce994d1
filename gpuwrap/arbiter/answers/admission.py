"""Reading requests: what a client asks for, inside which job it asks, and whether this machine can ever give it.

1. Nothing the client says about itself is believed but what harms only itself: pid, uid, command line and folder come from
   the kernel.
2. What can never be granted is refused before there is a row.
"""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ...clocks import suspended_seconds, wall_at
from ...host import processes
from ...lifecycle import JobState
from ...model import GiveWay, GpuSample, Job, Request
from ...outputs import escaped
from ...policy.learning import fingerprint, needed_bytes, recall
from ...policy.naming import choose_devices, count_all, depends_on_machine, first_seen, fitting_auto, visible_gpus
from ...policy.refused import Refused
from ...policy.users import capped_priority, over_cap
from ...policy.words import safe
from ...turns import turn
from ...units import GIB, format_duration, format_size
from ..bell.socket import Connection
from ..seeing.views import runs_without
from .table import Values

if TYPE_CHECKING:
    from ..loop import Arbiter

DEMO_HINT = "try it on simulated GPUs: gpurun demo"


class Inherited(NamedTuple):
    """What limits a job's choice of GPUs whatever else is asked for."""

    visible: str | None = None
    """The CUDA_VISIBLE_DEVICES of its gpurun."""
    seen: list[str] | None = None
    """The GPUs that CUDA sees in its process already, which choose in their order."""


class Admission:
    """Turns a client's words into a job, or refuses it."""

    def __init__(self, arbiter: "Arbiter") -> None:
        self._arbiter = arbiter
        self._store = arbiter.store
        self._orphans = arbiter.orphans
        self._inherited: dict[int, Inherited] = {}

    def note_inherited(self, job_id: int, values: Values) -> None:
        """Know what a client said that it inherited; a new arbiter knows it once the client is back."""
        self._inherited[job_id] = Inherited(values.get("visible"), values.get("seen"))

    def inherited_by(self, job_id: int) -> Inherited:
        """Return what limits the choice of a job, as far as its client has said it."""
        return self._inherited.get(job_id, Inherited())

    def follow(self, job_id: int, job: Job | None) -> None:
        """Nothing limits one that has gone."""
        if job is None:
            self._inherited.pop(job_id, None)

    def read_job(self, connection: Connection, values: Values, key: str) -> Job:
        """Read a job; its number is still 0. Raises Refused."""
        identity = connection.identity
        assert identity is not None
        parent = self._orphans.job_of_client(connection.pid)
        argv = processes.command_line(connection.pid)[values.get("offset", 0) :]
        cwd = processes.working_folder(connection.pid)
        known_as = self._known_as(fingerprint(argv, cwd, values.get("script")), connection.uid)
        peak = recall(known_as, self._store.learned_peak)
        learned = needed_bytes(peak) if peak is not None else None
        request = self._read_request(values, parent, learned)
        if parent is None and self._arbiter.crowd is not None:
            request = self._within_caps(connection, values, request)
        submitted_mono = time.monotonic()
        return Job(
            id=0,
            key=key,
            name=values.get("name"),
            user=self._arbiter.name_of(connection.uid),
            uid=connection.uid,
            state=JobState.WAITING,
            priority=self.capped_priority(values.get("priority", 0), connection.uid),
            request=request,
            identity=identity,
            argv=argv,
            cwd=cwd,
            submitted_at=wall_at(),
            submitted_mono=submitted_mono,
            turn=turn(identity, submitted_mono, suspended_seconds()),
            parent_id=parent.id if parent else None,
            fingerprint=known_as,
            learned_bytes=learned,
            stub=values.get("stub", False),
            signals=values.get("signals"),
            retries=values.get("retries", 0),
            after_jobs=self._read_after(values, parent, self._only(connection.uid)),
            once=values.get("once"),
            output=values["output"] if "output" in values else _output_of(connection.pid),
            output_asked="output" in values,
            detached=values.get("detach", False),
            expect_seconds=values.get("expect"),
        )

    def with_command(self, job: Job, argv: tuple[bytes, ...], script_bytes: int | None, values: Values) -> Job:
        """Return the same job with another command: a row of a sweep."""
        known_as = self._known_as(fingerprint(argv, job.cwd, script_bytes), job.uid)
        peak = recall(known_as, self._store.learned_peak)
        learned = needed_bytes(peak) if peak is not None else None
        request = job.request
        if values.get("auto"):
            parent = self._store.live.get(job.parent_id) if job.parent_id is not None else None
            request = self._read_request(values, parent, learned)
        return replace(job, argv=argv, fingerprint=known_as, learned_bytes=learned, request=request)

    def _only(self, uid: int) -> int | None:
        """Return whose names count: each user's own, where there are several."""
        return uid if self._arbiter.crowd is not None else None

    def _known_as(self, found: str, uid: int | None) -> str:
        """Return what a command is known by: what was learned of it is its user's own."""
        return found if self._arbiter.crowd is None else f"{uid} {found}"

    def capped_priority(self, priority: int, uid: int) -> int:
        """Return the priority that a user is given who asks for one."""
        crowd = self._arbiter.crowd
        return priority if crowd is None else capped_priority(priority, crowd.caps_of(uid))

    def _within_caps(self, connection: Connection, values: Values, request: Request) -> Request:
        """Return a request as its user may have it. Raises Refused."""
        crowd, uid = self._arbiter.crowd, connection.uid
        assert crowd is not None
        crowd.met(self._arbiter.asker(connection))
        caps = crowd.caps_of(uid)
        if values.get("gpus") == "all" and caps.max_gpus is not None:
            request = replace(request, gpus=min(request.gpus, caps.max_gpus))
        if request.time_limit_seconds is None and caps.default_time_seconds is not None:
            request = replace(request, time_limit_seconds=caps.default_time_seconds)
        in_line = sum(job.uid == uid for job in self._arbiter.store.in_line.values())
        over = over_cap(request.gpus, request.time_limit_seconds, in_line, caps)
        if over is not None:
            most = {"max_gpus": caps.max_gpus, "max_jobs": caps.max_jobs}.get(over)
            shown = format_duration(caps.max_time_seconds or 0) if most is None else str(most)
            where = crowd.says_who(over, uid)
            raise Refused(f"more than you may have: {over} is {shown}", hint=f"set by {where} in /etc/gpurun/settings.toml")
        return request

    def _read_after(self, values: Values, parent: Job | None, uid: int | None = None) -> str | None:
        wanted = [values["after"]] if "after" in values else []
        running = self._arbiter.order.running(values.get("once"), uid) if values.get("waiting") else ""
        wanted += [running] if running else []
        if not wanted:
            return None
        after, fault = self._arbiter.order.read(",".join(wanted), parent, uid)
        if fault is not None:
            raise Refused(fault)
        return after

    def _read_request(self, values: Values, parent: Job | None, learned: int | None = None) -> Request:
        gpus = values.get("gpus", 1)
        without = runs_without(self._arbiter.settings, self._arbiter.deciding.look)
        samples = self._machine(parent) if gpus and not without else []
        visible = values.get("visible") if gpus else None
        allowed = None if without else choose_devices(samples, values.get("device"), values.get("not"), visible)
        if gpus == "all":
            gpus = count_all(samples, allowed)
        if "seen" in values and samples:
            allowed = first_seen(samples, values["seen"], gpus, allowed)
        auto = fitting_auto(learned, samples, parent, allowed, gpus) if values.get("auto") else None
        request = Request(
            gpus=gpus,
            memory_bytes=values.get("memory", auto),
            memory_percent=values.get("percent"),
            exclusive=values.get("exclusive", False),
            allowed=allowed,
            give_way=values.get("give_way", GiveWay.PAUSE),
            time_limit_seconds=values.get("time"),
        )
        look = self._arbiter.deciding.look
        if request.gpus and not (look and look.pending):
            self.judge(request, parent.id if parent else None)
        return request

    def _machine(self, parent: Job | None) -> list[GpuSample]:
        """Return the GPUs a request can choose from. Raises Refused if there is no driver."""
        look = self._arbiter.deciding.look
        if look is None:
            return []
        if look.fault is not None and not look.pending and not look.samples:
            raise Refused(f"no GPU to be had: {look.fault}", hint=DEMO_HINT)
        samples = [sample for sample in look.samples]
        if parent is not None:
            granted = {share.uuid for share in parent.shares}
            samples = [sample for sample in samples if sample.uuid in granted]
        return samples

    def must_know(self, values: Values) -> None:
        """Raise Refused if which GPUs there are is not known yet, and is asked about."""
        look = self._arbiter.deciding.look
        if (look is None or look.pending) and depends_on_machine(values):
            raise Refused("the NVIDIA driver has not answered yet", hint="try again in a moment")

    def visible(self, values: Values) -> dict[str, object]:
        """Tell a client what its CUDA_VISIBLE_DEVICES means here: how many GPUs it lists, and what it might not mean."""
        look = self._arbiter.deciding.look
        if "visible" not in values or look is None:
            return {}
        found = visible_gpus(list(look.samples), values["visible"])
        by_index = [gpu for gpu in found if str(gpu.index) in values["visible"].replace(" ", "").split(",")]
        unlike = len({gpu.name for gpu in look.samples if not gpu.is_mig}) > 1
        if not by_index or not unlike or values.get("order") == "PCI_BUS_ID":
            return {"listed": len(found)}
        gpu = by_index[0]
        text = f"CUDA_VISIBLE_DEVICES {gpu.index} is taken as GPU {gpu.index} of nvidia-smi ({safe(gpu.name)})"
        return {"listed": len(found), "doubt": f"{text}: CUDA counts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID"}

    def machine_of(self, job: Job) -> list[GpuSample]:
        """Return the GPUs that a job in line can choose from. Raises Refused if there is no driver."""
        return self._machine(self.outer_of(job))

    def outer_of(self, job: Job) -> Job | None:
        """Return the job inside which a job was asked for."""
        return self._store.live.get(job.parent_id) if job.parent_id is not None else None

    def judge(self, request: Request, parent_id: int | None) -> None:
        """Refuse what this machine, or the job inside which it was asked for, can never give."""
        if request.gpus == 0 or runs_without(self._arbiter.settings, self._arbiter.deciding.look):
            return
        parent = self._store.live.get(parent_id) if parent_id is not None else None
        samples = self._machine(parent)
        chosen = [sample for sample in samples if request.allowed is None or sample.uuid in request.allowed]
        divided = sum(sample.is_mig for sample in chosen) if request.gpus > 1 else 0
        if divided:
            chosen = [sample for sample in chosen if not sample.is_mig]
        if request.gpus > len(chosen):
            raise Refused(_too_few(request.gpus, len(chosen), len(samples), divided, parent))
        if request.memory_bytes is None:
            return
        granted = {share.uuid: share.bytes for share in parent.shares} if parent else {}
        sizes = {sample.uuid: granted.get(sample.uuid, sample.total_bytes) for sample in chosen}
        fitting = [size for size in sizes.values() if size is None or request.memory_bytes <= _next_gib(size)]
        if len(fitting) >= request.gpus:
            return
        wanted = format_size(request.memory_bytes)
        largest = max(chosen, key=lambda sample: sizes[sample.uuid] or 0)
        size = format_size(sizes[largest.uuid] or 0)
        if parent is not None:
            raise Refused(f"needs {wanted}, but job {parent.id}, inside which it runs, has {size}")
        if fitting:
            raise Refused(f"only {len(fitting)} of {len(chosen)} GPUs has {wanted}")
        raise Refused(f"no GPU has {wanted}: the largest has {size} (GPU {largest.index})")


def _output_of(pid: int) -> bytes | None:
    """Where the program's stdout will lead if it was told nothing: where its gpurun's leads now."""
    target = processes.output_target(pid)
    return None if target is None else escaped(target)


def _too_few(wanted: int, chosen: int, there: int, divided: int, parent: Job | None) -> str:
    gpus = "1 GPU" if wanted == 1 else f"{wanted} GPUs"
    if divided:
        return f"needs {gpus}, but only {chosen} may be used: of {divided} MIG instances a program sees one alone"
    if parent is not None:
        return f"needs {gpus}, but job {parent.id}, inside which it runs, has {there}"
    if chosen < there:
        return f"needs {gpus}, but only {chosen} of {there} may be used (-i, --not, CUDA_VISIBLE_DEVICES)"
    return f"needs {gpus}: this machine has {there}"


def _next_gib(size: int) -> int:
    """A request up to the next whole GiB above what a card has counts as the whole card: a "24 GB" card has less."""
    return -(-size // GIB) * GIB
