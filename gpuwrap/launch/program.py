"""The program: found as execvp would, started with what our caller gave us, byte for byte.

1. What cannot run is told before anything is asked for.
2. Its arguments and environment are passed on as they are: argv from /proc/self/cmdline, the environment through putenv
   and execv, never a rebuilt dict, which drops and refuses entries [run].
3. What Python changed about the process (SIGPIPE, SIGXFSZ, SIGCONT, LC_CTYPE) is put back.

The launch path imports this module: only builtin and `_`-modules are imported.
"""

import _signal
import errno
import os
import sys

from ..errors import NOT_FOUND, GpurunError, ProgramNotFound, ProgramNotRunnable

# What Python sets LC_CTYPE to in the C locale [PEP 538].
COERCED_LOCALES = ("C.UTF-8", "C.utf8", "UTF-8")
MAY_BE_COERCED = os.environ.get("LC_CTYPE") in COERCED_LOCALES


def program_argv(count: int) -> tuple[list[bytes], int]:
    """Return the last `count` words of our own command line as the kernel has them, and how many stand before them.

    sys.argv was decoded with the locale's codec, which some locales cannot undo.
    """
    with open("/proc/self/cmdline", "rb", buffering=0) as file:
        entries = file.readall().split(b"\0")[:-1]
    return entries[-count:], len(entries) - count


def find_program(name: bytes) -> bytes:
    """Find a program as execvp would. Raises GpurunError: 127: it (or its interpreter) is not there; 126: it cannot be run."""
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
            if mode & 0o170000 == 0o100000 and _lacks_interpreter(path):
                raise GpurunError(f"cannot run: {readable(name)}: bad interpreter: no such file", status=NOT_FOUND)
            return path
        else:
            refused = "permission denied"
    if refused is not None:
        raise ProgramNotRunnable(readable(name), refused)
    raise ProgramNotFound(readable(name), hint=_not_found_hint(readable(name)))


def _lacks_interpreter(path: bytes) -> bool:
    """Whether a file begins with `#!` and names what is not there: no wait would help. What cannot be read is left to exec."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        line = os.read(fd, 256).partition(b"\n")[0]
        words = line[2:].split(None, 1) if line.startswith(b"#!") else []
        if words:
            os.stat(words[0].split(b"\0")[0])
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    finally:
        os.close(fd)
    return False


def _not_found_hint(name: str) -> str | None:
    from ..options import HABIT_VERBS, VERBS, nearest

    if name in VERBS:
        return f"a verb is one only as the first word: gpurun {name} …"
    if name in HABIT_VERBS:
        return "gpurun " + HABIT_VERBS[name]
    if "=" in name and name.partition("=")[0].isidentifier():
        return f"variables go first: put {name} before gpurun"
    if "/" in name:
        return None
    near = nearest(name, [*VERBS, *HABIT_VERBS])
    if near in HABIT_VERBS:
        return "gpurun " + HABIT_VERBS[near]
    if near:
        return f"did you mean gpurun {near}?"
    return f"aliases and shell functions need: gpurun bash -ic '{name} …'"


def script_bytes(argv: list[bytes]) -> int | None:
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


def readable(raw: bytes) -> str:
    """Make bytes fit for a message: nothing that a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in raw.decode("utf-8", "replace"))


def execute(path: bytes, argv: list[bytes]) -> None:
    """Become the program, as execvp would. Raises OSError."""
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
    if MAY_BE_COERCED:
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
    """Put back what Python ignores at its start: SIGPIPE and SIGXFSZ, default unless our caller ignores them.

    PYTHONFAULTHANDLER and PYTHONDEVMODE have it catch others, ignored or not: it knows what they were.
    """
    if "faulthandler" in sys.modules:
        sys.modules["faulthandler"].disable()
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
