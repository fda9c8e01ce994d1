"""The launch: register, wait for the grant, become the program.

1. The program is looked up before anything is asked for: what cannot run never waits.
2. Its arguments and environment are passed on byte for byte: argv from /proc/self/cmdline, the environment through
   putenv and execv, never a rebuilt dict, which drops and refuses entries [run].
3. From `take` until just before exec all signals are blocked; those that come meanwhile hit the program or us with their
   default action, and none is lost in a Python handler.
4. What Python changed about the process (SIGPIPE, SIGXFSZ, SIGINT, LC_CTYPE) is put back.
5. Nothing is written to stdout.

Every program is started through here: only builtin and `_`-modules are imported, the rest where it is needed.
"""

import _signal
import errno
import os
import sys
import time

from ..arbiter.summon import Call, WaitLimitPassed
from ..errors import FAILED, WAIT_LIMIT, GpurunError, ProgramNotFound, ProgramNotRunnable, UsageError
from ..state.paths import Folder, open_folder
from ..wire import PROTOCOL, pack

Given = dict[str, str | bool]

# How long a client with a wait limit bears an arbiter that says nothing, beyond that limit, before it goes alone.
ARBITER_GRACE_SECONDS = 10.0
# What a lab's profile sets without meaning any GPU in particular.
SAYS_NOTHING = ("", "-1", "NoDevFiles")
# What Python sets LC_CTYPE to in the C locale [PEP 538].
COERCED_LOCALES = ("C.UTF-8", "C.utf8", "UTF-8")


def run(given: Given, words: list[str]) -> None:
    """Run the program `words` under the options `given`. Returns only if it never started; raises GpurunError."""
    request = read_request(given)
    if not words:
        raise UsageError("program missing: gpurun [OPTION]... PROGRAM [ARG]...")
    argv, offset = program_argv(len(words))
    path = find_program(argv[0])
    sim = simulated(given)
    folder = open_folder(sim)
    assert folder is not None
    launch = _form(request)(folder, sim, given, request, path, argv, offset)
    if given.get("dry_run"):
        launch.rehearse()
        return
    if "output" in request:
        from .output import Output

        launch.output = Output(str(request["output"]))
        launch.output.try_out()
    launch.start()


def _form(request: dict[str, object]) -> "type[Launch]":
    """The form follows from the options alone: only what may be run again, or is in the background, keeps a parent."""
    if "stub" not in request:
        return Launch
    if "detach" in request:
        from .detach import Detached

        return Detached
    from .stub import Stub

    return Stub


def simulated(given: Given) -> str | None:
    """Return the spec of the simulated GPUs, from --sim or GPURUN_SIM; None on real ones. Raises UsageError."""
    spec = given.get("sim") or os.environ.get("GPURUN_SIM")
    if not isinstance(spec, str) or not spec:
        return None
    from ..units import parse_simulated

    parse_simulated(spec)  # refused before there is a world of that name
    return spec


def read_request(given: Given) -> dict[str, object]:
    """Turn options into the fields of a request; what only the arbiter can judge stays text. Raises UsageError."""
    from ..units import parse_integer

    request: dict[str, object] = {}
    gpus = given.get("gpus")
    if isinstance(gpus, str) and gpus != "all":
        count = parse_integer(gpus)
        if count is None or count < 0:
            raise UsageError(f"gpus {gpus}: a count, 0 or more, or all")
        gpus = str(count)
    request["gpus"] = gpus
    if "memory" in given:
        from ..units import parse_size

        if given["memory"] == "auto":
            request["auto"] = 1
        else:
            request["memory"], request["percent"] = parse_size(str(given["memory"]))
    if "priority" in given:
        from ..units import parse_priority

        request["priority"] = parse_priority(str(given["priority"]))
    if "exclusive" in given:
        if "memory" not in given:
            raise UsageError("--exclusive: only with -m: without it GPUs are never shared")
        request["exclusive"] = True
    request.update(_wait_limit(given))
    name = given.get("name")
    if isinstance(name, str):
        if not name:
            raise UsageError("name: must not be empty")
        if parse_integer(name) is not None:
            raise UsageError(f"name {name}: a name cannot be a number: did you mean -g {name}?")
        request["name"] = name
    if "time" in given:
        from ..units import parse_duration

        seconds = parse_duration(str(given["time"]))
        if not seconds:
            raise UsageError(f"time {given['time']}: must be more than nothing")
        request["time"] = seconds
    for option in ("after", "once"):
        if option in given:
            request[option] = _text_of(given[option], option)
    for option in ("device", "not"):
        if option in given:
            request[option] = given[option]
    if not given.keys().isdisjoint(("give_way", "restartable", "signal", "retries")):
        from ..restarts import read_restarts

        request.update(read_restarts(given))
    if "detach" in given or "output" in given:
        from .output import read_output

        request.update(read_output(given))
    return request


def _text_of(value: str | bool, option: str) -> str:
    text = str(value)
    if not text or not text.isprintable():
        raise UsageError(f"--{option} {_text(os.fsencode(text))}: must be text that can be printed")
    return text


def _wait_limit(given: Given) -> dict[str, object]:
    limit: dict[str, object] = {}
    if "wait" in given:
        from ..units import parse_duration

        limit["wait"] = parse_duration(str(given["wait"]), "wait")
    if "nonblock" in given:
        limit["wait"] = 0.0
    if "conflict_status" in given:
        from ..units import parse_integer

        status = parse_integer(str(given["conflict_status"]))
        if status is None or not 0 <= status <= 255:
            raise UsageError(f"exit status {given['conflict_status']}: 0 to 255")
    return limit


def program_argv(count: int) -> tuple[list[bytes], int]:
    """Return the last `count` words of our own command line as the kernel has them, and how many stand before them.

    sys.argv was decoded with the locale's codec, which some locales cannot undo.
    """
    with open("/proc/self/cmdline", "rb", buffering=0) as file:
        entries = file.readall().split(b"\0")[:-1]
    return entries[-count:], len(entries) - count


def find_program(name: bytes) -> bytes:
    """Find a program as execvp would. Raises ProgramNotFound (127) or ProgramNotRunnable (126)."""
    if b"/" in name:
        candidates = [name]
    elif not name:
        raise ProgramNotFound("")
    else:
        search = os.environb.get(b"PATH", b"/bin:/usr/bin")
        candidates = [(folder or b".") + b"/" + name for folder in search.split(b":")]
    refused = None
    for path in candidates:
        try:
            mode = os.stat(path).st_mode
        except OSError as err:
            if err.errno != errno.ENOENT and (err.errno != errno.ENOTDIR or path is name):
                refused = str(err.strerror).lower()
            continue
        if mode & 0o170000 == 0o040000:
            refused = "is a directory"
        elif os.access(path, os.X_OK):
            return path
        else:
            refused = "permission denied"
    if refused is not None:
        raise ProgramNotRunnable(_text(name), refused)
    raise ProgramNotFound(_text(name), hint=_not_found_hint(_text(name)))


def _not_found_hint(name: str) -> str | None:
    from ..options import HABIT_VERBS, VERBS, nearest

    if name in HABIT_VERBS:
        return "gpurun " + HABIT_VERBS[name]
    if "=" in name and name.partition("=")[0].isidentifier():
        return f"variables go first: put {name} before gpurun"
    if "/" in name:
        return None
    near = nearest(name, [verb for verb, record in VERBS.items() if not record.later])
    if near:
        return f"did you mean gpurun {near}?"
    return f"aliases and shell functions need: gpurun bash -ic '{name} …'"


def _script_bytes(argv: list[bytes]) -> int | None:
    """Return the size of the script that is run: much changed, it may need other memory than before.

    Asked here, since a folder on a server that is down would keep the arbiter waiting for all.
    """
    for word in argv:
        if word.endswith((b".py", b".sh")):
            try:
                return os.stat(word).st_size
            except OSError:
                return None
    return None


def _text(raw: bytes) -> str:
    """Make bytes fit for a message: nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in raw.decode("utf-8", "replace"))


def say(text: str) -> None:
    """Write one message line to stderr, if there is one: with stderr closed, descriptor 2 may be anything."""
    if sys.stderr is not None:
        os.write(2, f"gpurun: {text}\n".encode("utf-8", "replace"))


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
        self.mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())
        self.key = os.urandom(8).hex()
        self.quiet = "quiet" in given
        self.verbose = "verbose" in given
        self.line: Line | None = None
        self.output: Output | None = None
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
            raise _refusal(values)
        sys.stdout.write(values["text"] + "\n")

    def _register(self, rehearsal: bool = False) -> bytes:
        request = dict(self.request)
        if "wait" in request:  # repeated to a new arbiter, it says what is left
            request["wait"] = max(0.0, float(str(request["wait"])) - (time.monotonic() - self.begun_mono))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        return pack(
            "rehearse" if rehearsal else "register",
            version=PROTOCOL,
            key=self.key,
            offset=self.offset,
            visible=None if visible in SAYS_NOTHING else visible,
            script=_script_bytes(self.argv),
            **self._terminal(),
            **self._running(),
            **request,
        )

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
                raise _refusal(values)
            elif kind == "job":
                self._registered(values["id"])
            elif kind in ("wait", "note"):
                self._tell(kind, values)
            elif kind == "limit":  # gpurun set -w
                self._limit_wait(float(values["seconds"]))
            elif kind == "again":  # the offer was withdrawn, or taken too late; the job keeps its place
                self.call.send(pack("continued"))
            elif kind == "hush" and self.line is not None:  # another waiter of this terminal draws
                self.line.erase()
            message = self.call.receive()

    def _limit_wait(self, seconds: float) -> None:
        self.request["wait"] = seconds
        self.begun_mono = time.monotonic()
        self.call.limit_mono = self.begun_mono + seconds + ARBITER_GRACE_SECONDS

    def _registered(self, job: str) -> None:
        self.job = job
        self.ignored = ignored_by_caller()  # now, not between the offer and the program

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
        _signal.pthread_sigmask(_signal.SIG_SETMASK, _signal.valid_signals())

    def _take(self) -> tuple[str, dict[str, str]] | None:
        """Take the offer: the point of no return, if the answer is `go`. Unblocks signals again if it is not."""
        self._block()
        message = None
        if self.call.send(pack("take")):
            message = self.call.receive()
            while message is not None and message[0] in ("wait", "note", "offer", "limit"):
                message = self.call.receive()
        if message is None or message[0] != "go":
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
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
        """Say that the caller's CUDA_VISIBLE_DEVICES lists more GPUs than are asked for; inside a job it is gpurun's own."""
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        granted = values.get("CUDA_VISIBLE_DEVICES", "")
        if visible in SAYS_NOTHING or not granted or "GPURUN_JOB" in os.environ:
            return
        listed, got = visible.count(",") + 1, granted.count(",") + 1
        if listed > got:
            say(f"CUDA_VISIBLE_DEVICES lists {listed} GPUs, the job gets {got} of them (-g {listed} asks for all)")

    def _execute(self, values: dict[str, str]) -> None:
        """Exec. Reports a failure on the bell, which gives the grant back, and raises it."""
        set_environment(values, self.sim)
        if self.output is not None:
            self.output.redirect(int(self.job))
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        try:
            _execute(self.path, self.argv)
        except OSError as err:
            if self.output is not None:
                self.output.restore()
            cause = str(err.strerror).lower()
            not_found = err.errno == errno.ENOENT
            self.call.send(pack("failed", status=127 if not_found else 126, cause=cause))
            name = _text(self.argv[0])
            if not_found and os.path.exists(self.path):
                name, cause = name, "bad interpreter: no such file"
                raise GpurunError(f"cannot run: {name}: {cause}", status=127) from err
            if not_found:
                raise ProgramNotFound(name) from err
            raise ProgramNotRunnable(name, cause) from err

    def _tell(self, kind: str, values: dict[str, str]) -> None:
        if self.line is None:
            from .waitline import Line

            self.line = Line()
        self.line.show(values["text"], plain=kind == "note")

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


if False:  # for the type checker alone: the launch path must not import it
    from .output import Output
    from .waitline import Line


def _refusal(values: dict[str, str]) -> GpurunError:
    return GpurunError(values["text"], hint=values.get("hint"), status=int(values.get("status", FAILED)))


def _execute(path: bytes, argv: list[bytes]) -> None:
    try:
        os.execv(path, argv)
    except OSError as err:
        if err.errno != errno.ENOEXEC:
            raise
    # A script without `#!`: execvp(3) hands it to the shell, and so does every caller of it.
    os.execv(b"/bin/sh", [b"/bin/sh", path, *argv[1:]])


def set_environment(values: dict[str, str], sim: str | None) -> None:
    """Set what the program sees. `go` carries the variables by their own names; the rest of the environment stays."""
    variables = {name: value for name, value in values.items() if name.isupper()}
    if sim is not None:
        variables["GPURUN_SIM"] = sim
    for name, value in variables.items():
        os.unsetenv(name)  # putenv replaces one entry only, and there may be several of a name
        os.putenv(name, value)
    if os.environ.get("LC_CTYPE") in COERCED_LOCALES:
        _restore_locale()


def _restore_locale() -> None:
    """Undo what Python may have done to LC_CTYPE in the C locale [PEP 538].

    /proc shows the environment as exec left it: setenv does not reach it.
    """
    with open("/proc/self/environ", "rb", buffering=0) as file:
        entries = file.readall().split(b"\0")
    original = next((entry for entry in entries if entry.startswith(b"LC_CTYPE=")), None)
    if original is None:
        os.unsetenv("LC_CTYPE")
    else:
        os.putenv(b"LC_CTYPE", original.partition(b"=")[2])


def ignored_by_caller() -> int:
    """Return which signals (a mask) were ignored when we were started, as far as it can be told after Python's own start.

    Python does not remember what it found. A parent that is Python ignores some itself, but gives its children the
    default back (subprocess, restore_signals), so its status proves nothing.
    """
    return 0 if _parent_is_python() else _ignored_by_parent()


def restore_python_signals(ignored: int) -> None:
    """Put back what Python ignores at its start: SIGPIPE and SIGXFSZ, default unless our caller ignores them."""
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_IGN if ignored >> (number - 1) & 1 else _signal.SIG_DFL)
    if _signal.getsignal(_signal.SIGCONT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGCONT, _signal.SIG_DFL)


def _ignored_by_parent() -> int:
    try:
        with open(f"/proc/{os.getppid()}/status", "rb", buffering=0) as file:
            status = file.read(4096)
        return int(status.partition(b"\nSigIgn:")[2].split(None, 1)[0], 16)
    except (OSError, IndexError, ValueError):
        return 0


def _parent_is_python() -> bool:
    try:
        return os.path.basename(os.readlink(f"/proc/{os.getppid()}/exe")).startswith(("python", "pypy"))
    except OSError:
        return False
