"""What leaves its caller behind (`-d`): forked twice into a session of its own, never a child of the arbiter.

1. What stands between it and the caller lives until it is registered, and no longer: by this chain of living parents the
   arbiter sees inside which job it was asked for. Asked outside, it would wait for that job, which may well wait for it.
2. The caller is told the job's number, or why there is none, and leaves.
3. Where a logout ends what a session leaves, it moves out of the session before it registers, or the caller is told.
4. What the caller left closed of stdin, stdout and stderr is filled first: no descriptor of ours may stand where the log will.
"""

import os
import sys

from ..client.summon import reap
from ..errors import FAILED, SOME_FAILED, GpurunError
from ..stdout import put
from ..wire import PACKET, pack, unpack
from .launch import Launch, say
from .logout import survive
from .output import default_output, make_log_folder


def fill_closed_descriptors() -> None:
    """Open what is closed of stdin, stdout and stderr; before anything else is opened, which would take their numbers."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        fd = os.open(os.devnull, os.O_RDWR)
    os.close(fd)


class Background(Launch):
    """What leaves its caller behind."""

    report = -1
    """Where the caller is told; -1 once it was."""
    doom: str | None = None
    """Why it will end at logout, if it will."""
    link = -1
    """Closed to have the process between us and the caller end; -1 once it was."""

    def start(self) -> None:
        """Start what stays, print the number, return. Raises GpurunError if the job was not registered."""
        if "output" not in self.request:
            make_log_folder(self.call.folder)
            self.request["output"] = default_output(self.call.folder)
        reading, self.report = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            self._leave()
        os.close(self.report)
        report = os.read(reading, PACKET)
        reap(child)
        self._hear(report)

    def _hear(self, report: bytes) -> None:
        if not report:
            raise GpurunError("the job ended before it was registered", hint=f"see {self.call.folder.path}/arbiter.log")
        kind, values = unpack(report)
        if kind == "refused":
            raise GpurunError(values["text"], hint=values.get("hint"), status=int(values["status"]))
        self.job = values["id"]
        if kind == "over":
            super()._give_up(values["text"], values["so"])
        if "doom" in values and not self.quiet:
            say(f"job {self.job} will end at logout: {values['doom']}")
        self._print_number()

    def _print_number(self) -> None:
        """Print the number; who has closed stdout does not want it. Never 125: the job is there, whoever can be told."""
        if sys.stdout is None:
            return
        try:
            put(f"{self.job}\n".encode())
        except BrokenPipeError:
            raise
        except OSError as err:
            text = f"job {self.job} is registered, but its number cannot be written: standard output"
            raise GpurunError(f"{text}: {str(err.strerror).lower()}", status=SOME_FAILED) from err

    def _leave(self) -> None:
        """In the first child: a session of its own, and in it the process that stays. Never returns."""
        status = FAILED
        try:
            os.setsid()
            registered, self.link = os.pipe()
            if os.fork():
                os.close(self.link)
                os.close(self.report)
                os.read(registered, 1)  # ends when the other has registered, or has ended
                os._exit(0)
            os.close(registered)
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            if null > 2:
                os.close(null)
            if sys.stderr is None:
                sys.stderr = os.fdopen(2, "w", closefd=False)  # the log, which there will be
            self.doom = survive(self.key)
            self._stay()
        except GpurunError as err:
            status = err.status
            self._complain(err)
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        finally:
            os._exit(status)

    def _stay(self) -> None:
        """In the process that stays: register and go on."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """The job is registered: nothing need stand between us and the caller any more."""
        if self.link >= 0:
            os.close(self.link)
            self.link = -1

    def _complain(self, err: GpurunError) -> None:
        if self.report >= 0:
            self._tell_caller(pack("refused", text=err.text, hint=err.hint, status=err.status))
        else:
            say(err.text)

    def _tell_caller(self, packet: bytes) -> None:
        if self.report >= 0:
            try:
                os.write(self.report, packet)
            except OSError:
                pass  # it was interrupted; the job stays
            finally:
                os.close(self.report)
                self.report = -1

    def _give_up(self, why: str, so: str = "not started within the wait limit") -> None:
        self._tell_caller(pack("over", id=self.job, text=why, so=so))
        super()._give_up(why, so)
