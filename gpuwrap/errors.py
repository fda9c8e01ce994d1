"""Every error that gpurun reports, with its exit status.

The launch path imports this module: it imports nothing itself.
"""

# What the launch form exits with when the program never ran (timeout(1) and env(1) use the same).
WAIT_LIMIT = 124
FAILED = 125
NOT_RUNNABLE = 126
NOT_FOUND = 127
# What verbs exit with.
SOME_FAILED = 1
USAGE = 2


class GpurunError(Exception):
    """What could not be done, to what, and why, in one line; `hint` is the line that says what to do next."""

    def __init__(self, text: str, *, hint: str | None = None, status: int = FAILED) -> None:
        self.text = text
        self.hint = hint
        self.status = status
        super().__init__(text)

    def report(self, verb: str | None = None) -> str:
        """Return what is said of it after `gpurun: `: a second line only if there is something to do next."""
        lines = [f"{verb}: {self.text}" if verb else self.text]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(printable(line) for line in lines)


def printable(text: str) -> str:
    """Make text fit for a message: nothing that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class UsageError(GpurunError):
    """The command line cannot be understood. The launch form exits 125 for it, a verb 2: cli knows which it was."""

    def __init__(self, text: str, *, hint: str | None = None) -> None:
        super().__init__(text, hint=hint, status=USAGE)


class ProgramNotFound(GpurunError):
    """The program is nowhere on PATH, or the path given does not exist."""

    def __init__(self, program: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot run: {program}: not found", hint=hint, status=NOT_FOUND)


class ProgramNotRunnable(GpurunError):
    """The program exists but may not be executed."""

    def __init__(self, program: str, cause: str) -> None:
        super().__init__(f"cannot run: {program}: {cause}", status=NOT_RUNNABLE)


class StateFolderError(GpurunError):
    """The folder that holds the database and the bell cannot be used."""

    def __init__(self, folder: str, cause: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot use state folder: {folder}: {cause}", hint=hint)


class StoreError(GpurunError):
    """SQLite refused: `doing` says what was tried ("open", "write").

    `is_unsound`: what is on the disk is not what was written there; not only does it refuse for now.
    """

    def __init__(self, doing: str, path: str, cause: str, *, hint: str | None = None, is_unsound: bool = False) -> None:
        self.cause = cause
        self.is_unsound = is_unsound
        super().__init__(f"cannot {doing} state database: {path}: {cause}", hint=hint)


class NoArbiter(GpurunError):
    """No arbiter answers and none could be started."""

    def __init__(self, cause: str, *, hint: str | None = None) -> None:
        super().__init__(f"cannot start the arbiter: {cause}", hint=hint)


class WaitLimitPassed(Exception):
    """The wait limit (-n, -w) passed before the arbiter answered; who waits says so, and it is no failure of gpurun's."""


class NoSuchJob(GpurunError):
    """No job of that number, name or pattern."""

    def __init__(self, what: str) -> None:
        super().__init__(f"job {printable(what) or repr(what)}: no such job", status=SOME_FAILED)
