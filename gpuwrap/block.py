"""A grant for a part of a Python program: `with gpuwrap.gpu(memory="6G") as grant:`, for notebooks and scripts.

`async with` waits in a thread, and `@gpuwrap.gpu(…)` makes a block of each call of a function.

1. The block is a job like any other, in the same queue; its leader is this process, so that its death frees it.
2. It waits visibly, and an interrupt cancels: the connection goes, and with it the job.
3. CUDA reads CUDA_VISIBLE_DEVICES once: where it was initialised in a block, or below gpurun, later blocks are given the first
   of the GPUs that it saw there and no others; where nobody knows what it saw they are refused. After the block the variables
   are as before. The environment is the whole process's: while a block is open in one thread, or in one task of asyncio,
   others cannot open any.
4. A CUDA context does not go away at the block's end: what this process still holds then stays counted, and is said. Its next
   block takes that over.
5. A fork that leaves a block gives nothing back: the block is of the process that entered it.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from .client.call import Call, open_queue
from .errors import GpurunError, UsageError, WaitLimitPassed
from .wire import PROTOCOL, pack

P = ParamSpec("P")
R = TypeVar("R")

# How long an arbiter that says nothing is borne beyond the wait limit.
ARBITER_GRACE_SECONDS = 10.0

# The thread that enters a block, and with `async with` the task.
Owner = tuple[int, object]

_open: list["gpu"] = []
"""The blocks of this process that wait or are entered, the innermost last; after a fork those of the parent, too."""

_seen: dict[int, str] = {}
"""The UUIDs of the GPUs that CUDA sees in a process of this pid, where it was initialised; the parent's after a fork."""


@dataclass(frozen=True, slots=True)
class BlockGrant:
    """What was granted: the job's number, the GPUs' indices and UUIDs, and the bytes promised on each."""

    job: int
    devices: tuple[int, ...]
    uuids: tuple[str, ...]
    bytes: tuple[int, ...]


class gpu:
    """Wait for GPUs and hold them: `with gpu(…) as grant:`, `async with` the same, or `@gpu(…)` above a function.

    memory: needed on each GPU, "6G", "50%" or "auto", which is then shared with others that fit; without it GPUs are whole.
    gpus: how many, or "all"; 0 starts at once and sees none.
    exclusive: with memory, nobody else computes on these GPUs meanwhile.
    device: only these GPUs, 0 or "0,2": index, UUID prefix or name glob.
    name: what lists call it.
    priority: -100 to 100, or "low", "normal", "high", "urgent"; higher runs first.
    time: how long the block may last, "4h" or seconds; then this process is asked to end (SIGTERM), and killed 120 s later.
    wait: how long to wait, "10m" or seconds; 0 is now or not at all.
    quiet: say nothing on stderr.

    What cannot be meant raises GpurunError at the call; entering raises it if the request is refused, and TimeoutError after
    `wait`. Inside, CUDA_VISIBLE_DEVICES is set; the block must come before the first use of CUDA.
    """

    def __init__(
        self, memory: str | None = None, *, gpus: int | str = 1, exclusive: bool = False, device: int | str | None = None,
        name: str | None = None, priority: int | str = 0, time: float | str | None = None, wait: float | str | None = None,
        quiet: bool = False,
    ) -> None:  # fmt: skip
        from .launch.request import read_request

        self._options: dict[str, Any] = {
            "memory": memory, "gpus": gpus, "exclusive": exclusive, "device": device, "name": name, "priority": priority,
            "time": time, "wait": wait,
        }  # fmt: skip
        given = self._options | {"time": _in_seconds(time), "wait": _in_seconds(wait)}
        self._given: dict[str, str | bool] = {
            name: value if value is True else str(value)
            for name, value in given.items()
            if value is not None and value is not False
        }
        read_request(self._given)
        self._quiet = quiet
        self._call: Call | None = None
        self._is_abandoned = False
        self._before: dict[str, str | None] = {}
        self._told = ""
        self._job = ""

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Make a block of each call of a function, which may be `async`."""
        from functools import wraps
        from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

        if isgeneratorfunction(function) or isasyncgenfunction(function):
            raise TypeError("gpu() goes around functions, not generators: put `with gpu()` inside")
        options, quiet = self._options, self._quiet

        @wraps(function)
        async def later(*words: P.args, **named: P.kwargs) -> Any:
            async with gpu(**options, quiet=quiet):
                return await cast(Any, function(*words, **named))

        @wraps(function)
        def now(*words: P.args, **named: P.kwargs) -> R:
            with gpu(**options, quiet=quiet):
                return function(*words, **named)

        return cast(Callable[P, R], later) if iscoroutinefunction(function) else now

    async def __aenter__(self) -> BlockGrant:
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        self._is_abandoned = False
        thread = ThreadPoolExecutor(1, "gpurun")  # not the loop's own, which a wait of hours would keep from others
        whose = threading.get_ident(), asyncio.current_task()
        waiting = asyncio.get_running_loop().run_in_executor(thread, self._enter, whose)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError as cancelled:
            self._abandon()
            try:
                await waiting
            except (GpurunError, OSError):  # TimeoutError is an OSError
                raise cancelled from None
            self.__exit__(type(cancelled), cancelled, None)
            raise
        finally:
            thread.shutdown(wait=False)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import asyncio

        await asyncio.to_thread(self.__exit__, kind, error, trace)

    def _abandon(self) -> None:
        """Have the thread that waits give up: it is woken by the end of its connection, and looks before it sleeps anew."""
        import socket

        self._is_abandoned = True
        connection = self._call.socket if self._call is not None else None
        if connection is not None:
            with contextlib.suppress(OSError):  # it has just closed it
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> BlockGrant:
        self._is_abandoned = False
        return self._enter((threading.get_ident(), None))

    def _enter(self, whose: Owner) -> BlockGrant:
        from .launch.request import read_request, simulated, stray_simulation, visible

        self._seen = seen_by_cuda()
        if self._call is not None:
            raise GpurunError("this block is entered already: make another")
        self._request = read_request(self._given)
        sim, stray = simulated({}), stray_simulation({})
        self._visible = visible(sim)
        if stray is not None and not self._quiet:
            _say(stray)
        folder = open_queue(sim)
        assert folder is not None
        self._key = os.urandom(8).hex()
        self._pid, self._whose = os.getpid(), whose
        self._refuse_others()
        self._call = Call(folder, sim)
        try:
            self._limit_wait()
            values = self._wait()
        except BaseException:
            _open.remove(self)
            self._erase()
            self._call.drop()  # a job whose client has gone leaves the line: the arbiter is told, since we live on
            self._cancel()
            self._call = None
            raise
        self._erase()
        return self._begin(values)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        from .units import format_size

        assert self._call is not None
        self._restore()
        if os.getpid() == self._pid:
            failed = kind is not None and not (isinstance(error, SystemExit) and error.code in (None, 0))
            _, values = self._call.ask(pack("release", version=PROTOCOL, key=self._key, failed=failed))
            held = int(values.get("held", 0))
            if self._uuids and (values.get("here") == "1" or has_gpu_open()):
                _seen.setdefault(self._pid, self._uuids)
            if held and not self._quiet:
                _say(f"job {self._job} ended; this process still holds {format_size(held)} until it ends or lets go")
        self._call.drop()
        self._call = None

    def _refuse_others(self) -> None:
        _open.append(self)
        thread, task = self._whose
        for block in _open[: _open.index(self)]:
            its_thread, its_task = block._whose
            is_other_task = None not in (task, its_task) and task is not its_task
            if block._pid == self._pid and (thread != its_thread or is_other_task):
                _open.remove(self)
                other = "another thread" if thread != its_thread else "another task"
                raise GpurunError(f"{other} of this process is in a block: the variables that CUDA reads are common to all")

    def _restore(self) -> None:
        """Put the environment back as it was; if a later block is still open, it does so in our stead."""
        at = _open.index(self)
        later = [block for block in _open[at + 1 :] if block._pid == os.getpid()]
        if later:
            later[0]._before |= self._before
        else:
            for name, value in self._before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        self._before = {}
        _open.remove(self)

    def _limit_wait(self) -> None:
        """Begin to count the wait limit, if there is one."""
        assert self._call is not None
        self._begun_mono = time.monotonic()
        self._call.limit_mono = None
        if "wait" in self._request:
            self._call.limit_mono = self._begun_mono + float(str(self._request["wait"])) + ARBITER_GRACE_SECONDS

    def _register(self) -> bytes:
        request = dict(self._request)
        if "wait" in request:  # repeated to a new arbiter, it says what is left
            request["wait"] = max(0.0, float(str(request["wait"])) - (time.monotonic() - self._begun_mono))
        return pack(
            "register", version=PROTOCOL, key=self._key, offset=0, tty=None if self._quiet else -os.getpid(),
            visible=self._visible, seen=self._seen if self._request["gpus"] != "0" else None, **request,
        )  # fmt: skip

    def _wait(self) -> dict[str, str]:
        assert self._call is not None
        try:
            values = self._granted(self._call)
        except WaitLimitPassed:
            raise TimeoutError("not started within the wait limit: the arbiter does not answer") from None
        self._call.limit_mono = None
        return values

    def _granted(self, call: Call) -> dict[str, str]:
        message: tuple[str, dict[str, str]] | None = None
        has_taken = False  # the answer is not here yet: taken twice, it would come twice, and the second be read at the end
        while True:
            if self._is_abandoned:
                raise GpurunError(f"job {self._job}: given up")
            if message is None:
                has_taken = False
            kind, values = message if message is not None else call.ask(self._register())
            if kind == "go":
                return values
            if kind == "offer":
                has_taken = has_taken or call.send(pack("take"))
            elif kind == "stay":
                has_taken = False
            elif kind == "job":
                self._job = values["id"]
            elif kind in ("wait", "note"):
                self._show(values["text"])
            elif kind == "limit":  # gpurun set -w
                self._request.pop("wait", None)
                self._request |= {"wait": values["seconds"]} if "seconds" in values else {}
                self._limit_wait()
            elif kind == "again":
                has_taken = False
                call.send(pack("continued"))
            elif kind == "end" and values["kind"] == "wait-limit":
                raise TimeoutError(f"job {self._job} not started within the wait limit: {values.get('text', '')}")
            elif kind == "end":
                raise GpurunError(f"job {self._job}: {values['text']}")
            elif kind == "refused":
                raise GpurunError(values["text"], hint=values.get("hint"))
            message = None if self._is_abandoned else call.receive()

    def _begin(self, values: dict[str, str]) -> BlockGrant:
        for name, value in values.items():
            if name.isupper() and name != "GPURUN_PREEMPT_FILE":
                self._before[name] = os.environ.get(name)
                os.environ[name] = value
        if "told" in values and not self._quiet:
            _say(values["told"])
        self._uuids = values["GPURUN_GPU_UUIDS"]
        uuids = tuple(self._uuids.split(",")) if self._uuids else ()
        sizes = tuple(int(size) for size in values["GPURUN_GRANTED"].split(",") if size)
        devices = tuple(int(index) for index in values["CUDA_VISIBLE_DEVICES"].split(",") if index.isdigit())
        return BlockGrant(int(values["GPURUN_JOB"]), devices, uuids, sizes)

    def _cancel(self) -> None:
        """Take the job out of the line; if nobody answers, the end of this process does."""
        assert self._call is not None
        try:
            self._call.limit_mono = time.monotonic() + ARBITER_GRACE_SECONDS
            self._call.ask(pack("release", version=PROTOCOL, key=self._key, failed=True))
        except (GpurunError, WaitLimitPassed, OSError):
            return
        finally:
            self._call.drop()

    def _show(self, text: str) -> None:
        if text != self._told and not self._quiet:
            self._told = text
            sys.stderr.write(("\r\x1b[K" if sys.stderr.isatty() else "") + "gpurun: " + text.replace("\n", "; "))
            sys.stderr.write("" if sys.stderr.isatty() else "\n")
            sys.stderr.flush()

    def _erase(self) -> None:
        if self._told and sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def seen_by_cuda() -> str | None:
    """Return the UUIDs of the GPUs that CUDA sees in this process, None if it is not initialised. Raises UsageError.

    What gpurun has set in the environment says so also where CUDA was initialised before the first block.
    """
    seen = _seen.get(os.getpid())
    if seen is None and has_gpu_open():
        seen = os.environ.get("GPURUN_GPU_UUIDS")
        if not seen:
            hint = "enter the block before the first use of the GPU, or start the program with gpurun"
            raise UsageError("CUDA is initialised in this process already: it would not see which GPU it is granted", hint=hint)
        _seen[os.getpid()] = seen
    return seen


def has_gpu_open() -> bool:
    """Whether this process has the device file of a GPU open, as it has from the initialisation of CUDA to its end."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith("/dev/nvidia") and target[len("/dev/nvidia") :].isdigit():
            return True
    return False


def _in_seconds(limit: float | str | None) -> str | None:
    """Write a limit as options have it: a number is of seconds here."""
    return limit if limit is None or isinstance(limit, str) else f"{limit}s"


def _say(text: str) -> None:
    sys.stderr.write(f"gpurun: {text}\n")
