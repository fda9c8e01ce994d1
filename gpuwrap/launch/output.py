"""Where a program's output goes if the launch says so (`-o`): opened before anything waits, put in place last.

Loaded on the launch path only if -o or -d is given.
"""

import errno
import fcntl
import os

from ..errors import GpurunError, UsageError, printable
from ..outputs import LOGS, escaped, expanded, has_number
from ..state.paths import Folder

Given = dict[str, str | bool]


def read_output(given: Given) -> dict[str, object]:
    """Read -o and -d into the fields of a request. Raises UsageError."""
    request: dict[str, object] = {}
    if "output" in given:
        file = os.fsencode(str(given["output"]))
        if not file:
            raise UsageError("output: the file's name must not be empty")
        try:
            path = file if file.startswith(b"/") else escaped(os.getcwdb()) + b"/" + file
        except OSError as err:
            raise GpurunError(f"cannot write: {_text(file)}: {str(err.strerror).lower()}") from err
        request["output"] = os.fsdecode(path)
    if "detach" in given:
        request["detach"] = request["stub"] = True
    return request


def default_output(folder: Folder) -> str:
    """Return where a detached job's output goes if nobody says."""
    return os.fsdecode(escaped(os.fsencode(folder.path))) + f"/{LOGS}/%j.log"


class Output:
    """A file for stdout and stderr. Raises GpurunError if it cannot be written."""

    def __init__(self, template: str) -> None:
        self.template = os.fsencode(template)
        self.fd = -1
        self._saved: list[int] = []

    def try_out(self) -> None:
        """Open the file now, so that nobody waits in vain; while its name is not known, look at its folder."""
        if has_number(self.template):
            self.look()
        else:
            self._open(0)

    def look(self) -> None:
        """See that the file's folder, if that is known, is there and can be written to. Leaves nothing."""
        folder = self.template[: self.template.rindex(b"/") + 1]
        if has_number(folder):
            return
        path = expanded(folder, 0)
        cause = None
        try:
            os.stat(path)
        except OSError as err:
            cause = str(err.strerror).lower()
        if cause is None and not os.access(path, os.W_OK | os.X_OK):
            is_there = not has_number(self.template) and os.path.exists(expanded(self.template, 0))
            cause = None if is_there else "its folder cannot be written to"
        if cause is not None:
            raise GpurunError(f"cannot write: {_text(self.template)}: {cause}")

    def redirect(self, job_id: int) -> None:
        """Send stdout and stderr to the file."""
        if self.fd < 0:
            self._open(job_id)
        self._saved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if _is_open(fd) else -1 for fd in (1, 2)]
        for fd in (1, 2):
            os.dup2(self.fd, fd)

    def restore(self) -> None:
        """The program could not be started: what there is to say is said where it would have been."""
        for fd, saved in zip((1, 2), self._saved, strict=False):
            if saved >= 0:
                os.dup2(saved, fd)

    def _open(self, job_id: int) -> None:
        path = expanded(self.template, job_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY
        try:
            # A named pipe would keep us, with a grant perhaps and all signals blocked, until somebody reads.
            fd = os.open(path, flags | os.O_NONBLOCK, 0o666)
        except OSError as err:
            cause = "nobody reads this pipe" if err.errno == errno.ENXIO else str(err.strerror).lower()
            raise GpurunError(f"cannot write: {_text(path)}: {cause}") from err
        os.set_blocking(fd, True)
        self.fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)  # with a standard descriptor closed it would take its place
        os.close(fd)


def make_log_folder(folder: Folder) -> None:
    """Make the folder of the logs."""
    try:
        os.mkdir(LOGS, 0o700, dir_fd=folder.fd)
    except FileExistsError:
        pass
    except OSError as err:
        raise GpurunError(f"cannot make: {folder.path}/{LOGS}: {str(err.strerror).lower()}") from err


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _text(path: bytes) -> str:
    return printable(path.decode("utf-8", "replace"))
