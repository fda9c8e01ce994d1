"""One launch, from registration to exec.

1. From `take` until just before exec all signals are blocked; those that come meanwhile hit the program or us with their
   default action, and none is lost in a Python handler.
2. Nothing is written to stdout.

Every program is started through here: only builtin and `_`-modules are imported, the rest where it is needed.
"""

import _signal
import errno
import os
import sys
import time

from ..client.call import Call
from ..errors import FAILED, WAIT_LIMIT, GpurunError, ProgramNotFound, ProgramNotRunnable, WaitLimitPassed
from ..options import taken_for_program
from ..state.paths import Folder
from ..wire import PROTOCOL, pack
from .program import execute, ignored_by_caller, readable, restore_python_signals, script_bytes, set_environment
from .request import Given, simulated, stray_simulation, visible

TYPE_CHECKING = False  # known to type checkers by its name; typing itself would cost a tenth of the start
if TYPE_CHECKING:
    from .output import Output
    from .waitline import Line

# How long a client with a wait limit bears an arbiter that says nothing, beyond that limit, before it goes alone.
ARBITER_GRACE_SECONDS = 10.0


def say(text: str) -> None:
    """Write one message line to stderr, if there is one: with stderr closed, descriptor 2 may be anything.

    Where nothing can be written, as on a full disk, the program is started all the same.
    """
    if sys.stderr is not None:
        try:
            os.write(2, f"gpurun: {text}\n".encode("utf-8", "replace"))
        except OSError:
            return


def warn(given: Given) -> None:
    """Say what is probably not meant, once for a launch."""
    if "quiet" in given:
        return
    stray = stray_simulation(given)
    if stray is not None:
        say(stray)
    if "SLURM_JOB_ID" in os.environ and simulated(given) is None:
        from ..state import allocation

        stray = allocation.stray()
        if stray is not None:
            say(stray)


class Launch:
    """One launch from registration to exec."""

    def __init__(
        self, folder: Folder, sim: str | None, given: Given, request: dict[str, object], path: bytes,
        argv: list[bytes], offset: int,
    ) -> None:  # fmt: skip
        self.sim = sim
        self.given = given
        self.request = request
        self.path = path
        self.argv = argv
        self.offset = offset
        self.job = ""
        self.ignored = 0
        self.all_signals = _signal.valid_signals()
        self.visible = visible(sim)
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        self.key = os.urandom(8).hex()
        self.quiet = "quiet" in given
        self.verbose = "verbose" in given
        self.line: Line | None = None
        self.output: Output | None = None
        self.listed: dict[str, str] = {}
        wait = request.get("wait")
        self.begun_mono = time.monotonic()
        limit = None if wait is None else self.begun_mono + float(str(wait)) + ARBITER_GRACE_SECONDS
        self.call = Call(folder, sim, limit)

    def start(self) -> None:
        """Register, wait, exec. Returns only by an exception."""
        if _signal.getsignal(_signal.SIGINT) not in (_signal.SIG_IGN, _signal.SIG_DFL):
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Python's handler would turn death into an exit status
        if _signal.getsignal(_signal.SIGCONT) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGCONT, self._continued)
        try:
            self._wait()
        except WaitLimitPassed:
            self._give_up("the arbiter does not answer")

    def rehearse(self) -> None:
        """Ask what would happen, and print it to stdout."""
        kind, values = self.call.ask(self._register(rehearsal=True))
        if kind == "refused":
            raise refusal(values)
        print(values["text"])  # to nobody, if stdout is closed

    def _register(self, rehearsal: bool = False) -> bytes:
        request = dict(self.request)
        if "wait" in request:  # repeated to a new arbiter, it says what is left
            request["wait"] = self._wait_left()
        return pack(
            "rehearse" if rehearsal else "register",
            version=PROTOCOL,
            key=self.key,
            offset=self.offset,
            visible=self.visible,
            order=None if self.visible is None else os.environ.get("CUDA_DEVICE_ORDER"),
            script=script_bytes(self.argv),
            **self._terminal(),
            **self._running(),
            **request,
        )

    def _wait_left(self) -> float:
        """Return how many seconds are left of the wait limit; it must have one."""
        return max(0.0, float(str(self.request["wait"])) - (time.monotonic() - self.begun_mono))

    def _running(self) -> dict[str, object]:
        """Say what runs already, to an arbiter that may not know: nothing, since we would be it."""
        return {}

    def _terminal(self) -> dict[str, object]:
        """Say whether waiting is to be told, and where: the arbiter picks one waiter of each terminal to draw its line."""
        if self.quiet or sys.stderr is None:
            return {}
        try:
            facts = os.fstat(2)
            if os.isatty(2):
                return {"tty": facts.st_rdev}
        except OSError:
            return {}
        return {"tty": -os.getpid()} if self.verbose else {}

    def _wait(self) -> None:
        request = self._register()
        message: tuple[str, dict[str, str]] | None = self.call.ask(request)
        while True:
            if message is None:
                message = self.call.ask(self._register())
            kind, values = message
            if kind == "offer":
                message = self._take()
                continue
            if kind == "go":  # the answer to our take, or repeated since the connection broke
                self._block()
                self._become(values)
            elif kind == "end":
                self._end(values)
            elif kind == "refused":
                if self.line is not None:
                    self.line.erase()
                raise refusal(values)
            elif kind == "job":
                self._registered(values["id"])
                self.listed = self.listed or values
            elif kind == "again":  # the offer was withdrawn, or taken too late; the job keeps its place
                self._offer_withdrawn()
            else:
                self._heed(kind, values)
            message = self._next_message()

    def _heed(self, kind: str, values: dict[str, str]) -> None:
        """Take in what changes nothing but how we wait. (`stay`: the offer was made before the grant, which others got.)"""
        if kind in ("wait", "note"):
            self._tell(kind, values)
        elif kind == "limit":  # gpurun set -w
            self._limit_wait(float(values["seconds"]) if "seconds" in values else None)
        elif kind == "hush":
            self._own_line().hush()

    def _next_message(self) -> tuple[str, dict[str, str]] | None:
        return self.call.receive()

    def _offer_withdrawn(self) -> None:
        self.call.send(pack("continued"))

    def _limit_wait(self, seconds: float | None) -> None:
        if seconds is None:
            self.request.pop("wait", None)
            self.call.limit_mono = None
            return
        self.request["wait"] = seconds
        self.begun_mono = time.monotonic()
        self.call.limit_mono = self.begun_mono + seconds + ARBITER_GRACE_SECONDS

    def _registered(self, job: str) -> None:
        self.job = job
        self.ignored = self._ignored_by_caller()  # now, not between the offer and the program

    def _ignored_by_caller(self) -> int:
        return ignored_by_caller()

    def _continued(self, _number: int, _frame: object) -> None:
        """After a stop (Ctrl-Z) say that we can take an offer again; a broken connection shows itself at the next read."""
        if self.call.socket is not None:
            try:
                self.call.socket.send(pack("continued"))
            except OSError:
                return
        if self.line is not None:
            self.line.redraw()

    def _block(self) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.all_signals)

    def _take(self) -> tuple[str, dict[str, str]] | None:
        """Take the offer: the point of no return, if the answer is `go`. Unblocks signals again if it is not."""
        self._block()
        message, meanwhile = None, []
        if self.call.send(pack("take")):
            message = self.call.receive()
            while message is not None and message[0] in ("wait", "note", "hush", "offer", "limit"):
                meanwhile.append(message)
                message = self.call.receive()
        if message is None or message[0] != "go":
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
            for kind, values in meanwhile:
                self._heed(kind, values)
        return message

    def _become(self, values: dict[str, str]) -> None:
        """Become the program. Only the stub returns from here: the program is to be run again."""
        self._announce(values)
        restore_python_signals(self.ignored)
        self._execute(values)

    def _announce(self, values: dict[str, str]) -> None:
        if self.line is not None:
            self.line.erase()
        if not self.quiet and values.get("GPURUN_ATTEMPT") == "1":
            self._say_fewer(values)
        if self.verbose and "note" in values:
            say(values["note"])
        if "told" in values and not self.quiet:
            say(values["told"])

    def _say_fewer(self, values: dict[str, str]) -> None:
        """Say that the caller's CUDA_VISIBLE_DEVICES lists more GPUs than are asked for; inside a job it is gpurun's own.

        What it lists the arbiter has counted, but for the rows of a sweep.
        """
        if self.visible is None:
            return
        granted = values.get("CUDA_VISIBLE_DEVICES", "")
        if not granted or "GPURUN_JOB" in os.environ:
            return
        if "doubt" in self.listed:
            say(self.listed["doubt"])
        listed, got = int(self.listed.get("listed", self.visible.count(",") + 1)), granted.count(",") + 1
        if listed > got:
            say(f"CUDA_VISIBLE_DEVICES lists {listed} GPUs, the job gets {got} of them (-g {listed} asks for all)")

    def _execute(self, values: dict[str, str]) -> None:
        """Exec. Reports a failure on the bell, which gives the grant back, and raises it."""
        set_environment(values, self.sim)
        if self.output is not None:
            self.output.redirect(int(self.job))
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        try:
            execute(self.path, self.argv)
        except OSError as err:
            if self.output is not None:
                self.output.restore()
            cause = str(err.strerror).lower()
            not_found = err.errno == errno.ENOENT
            self.call.send(pack("failed", status=127 if not_found else 126, cause=cause))
            name = readable(self.argv[0])
            if not_found and os.path.exists(self.path):
                name, cause = name, "bad interpreter: no such file"
                raise GpurunError(f"cannot run: {name}: {cause}", status=127) from err
            if not_found:
                raise ProgramNotFound(name) from err
            raise ProgramNotRunnable(name, cause) from err

    def _tell(self, kind: str, values: dict[str, str]) -> None:
        shorter = [values[name] for name in sorted(values) if name.startswith("short")]
        self._own_line().show(values["text"], *shorter, plain=kind == "note")

    def _own_line(self) -> "Line":
        if self.line is None:
            from .waitline import Line

            self.line = Line()
            mistaken = taken_for_program(sys.argv[1:]) if os.isatty(2) else None
            if mistaken is not None:
                say(mistaken)
        return self.line

    def _end(self, values: dict[str, str]) -> None:
        if self.line is not None:
            self.line.erase()
        if values["kind"] == "wait-limit":
            self._give_up(values.get("text", ""))
        if values["kind"] == "once":
            self._give_up(values["text"], "not started")
        if "status" in values:
            raise GpurunError(f"job {self.job}: cancelled: {values['text']}", status=int(values["status"]))
        if not self.quiet:
            say(f"job {self.job}: {values['text']}")
        _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (_signal.SIGTERM,))
        os.kill(os.getpid(), _signal.SIGTERM)

    def _give_up(self, why: str, so: str = "not started within the wait limit") -> None:
        self.call.drop()  # which takes the job out of the line, if the arbiter has not done it itself
        tells = self.verbose or (not self.quiet and sys.stderr is not None and os.isatty(2))
        status = int(str(self.given.get("conflict_status", WAIT_LIMIT)))
        if tells:
            what = f"job {self.job}: " if self.job else ""
            say(f"{what}{so}: {why}" if why else f"{what}{so}")
        raise SystemExit(status)


def refusal(values: dict[str, str]) -> GpurunError:
    return GpurunError(values["text"], hint=values.get("hint"), status=int(values.get("status", FAILED)))
