"""The launch as a thin parent of srun: the program has our stdin, terminal, working directory and environment, and we its end.

1. srun stands in a session of its own, so that what a terminal, timeout(1) or a shell sends to the whole group reaches us
   alone: TERM, HUP and QUIT make srun kill the program at once, and so do two INT within a second [run, 22.05]. It reads the
   terminal all the same, since job control asks only those whose terminal it is.
2. A signal is passed on by scancel, as it is. While the job waits it takes the job out of the line, and we die of it.
3. Killed ourselves, srun is killed with us (PDEATHSIG), and Slurm ends the job of an srun that is gone [run]: no orphan.
4. A controller that does not answer is asked again until the wait limit; what runs goes on meanwhile.
"""

import _signal as signal  # signal itself brings enum along
import os
import select
import sys
import time

from ..errors import FAILED, WAIT_LIMIT, GpurunError
from ..launch.child import PR_SET_PDEATHSIG, Prctl, end_as
from ..launch.launch import say
from ..launch.waitline import Line, in_foreground
from . import record, tools
from .engine import Slurm
from .listening import Listener
from .mapping import Given, Mapped, Request, comment, program_words
from .reading import SlurmJob
from .reasons import is_hopeless, sentence, what_helps

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
PASSED_ON = (*ENDING, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
# How long a job waits before squeue is asked why, and how often then.
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.5, 5.0
# How long srun may need to take a job out of the line.
WITHDRAW_SECONDS = 3.0
SHORT_SECONDS = 3.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 1.0, 15.0
RESEND_SECONDS = 2.0
# With -n Slurm answers at once, or not at all: without munged srun is silent for half a minute [run, 22.05].
NO_ANSWER_SECONDS = 10.0


def srun_words(given: Given, request: Request, found: Mapped, argv: list[bytes], token: str, *, pty: bool) -> list[bytes]:
    """Return the command line of srun. `pty`: stdin and stdout are our terminal's, and we are in its foreground."""
    words = ["srun", "-v", "-X"]
    if pty:
        words.append("--pty")
    elif _is_terminal(1):
        words.append("--unbuffered")  # with a terminal of its own for stdout alone, as ours is [run]
    if "nonblock" in given:
        words.append("--immediate=1")
    output = request.get("output")
    if output is not None:
        from .mapping import slurm_output

        words += [f"--output={slurm_output(str(output), array=False)}", "--open-mode=append"]
    words += [*found.options, comment(token, found, request), *found.user_options]
    return [*(os.fsencode(word) for word in words), *program_words(argv, found.gpus)]


def wants_pty() -> bool:
    """Whether the program gets a terminal of its own there."""
    return _is_terminal(0) and _is_terminal(1) and in_foreground_of(0)


def in_foreground_of(fd: int) -> bool:
    """Whether a terminal's foreground process group is ours."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


class Foreground:
    """One launch."""

    def __init__(self, given: Given, request: Request, found: Mapped, argv: list[bytes], engine: Slurm) -> None:
        self.given, self.request, self.found, self.argv, self.engine = given, request, found, argv, engine
        self.token = os.urandom(6).hex()
        self.quiet, self.verbose = "quiet" in given, "verbose" in given
        wait = request.get("wait")
        limit = NO_ANSWER_SECONDS if "nonblock" in given else None if wait is None else float(str(wait))
        self.limit_mono = None if limit is None else time.monotonic() + limit
        self.line = Line()
        self.prctl = Prctl()
        self.srun = 0
        self.listener = Listener()
        self.got: list[int] = []
        self.resend: list[int] = []
        self.resend_mono = 0.0
        self.messenger = 0
        self.recorded = ""
        self.has_asked_to_end = False
        self.look_mono = 0.0
        self.told_down = self.told_hopeless = False

    def run(self) -> None:
        """Run the program and end as it did. Raises GpurunError if it never started."""
        waking, woken = os.pipe()
        for fd in (waking, woken):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in (*PASSED_ON, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda number, _frame: self.got.append(number))
        pause = FIRST_RETRY_SECONDS
        while True:
            status = self._attempt(waking)
            if self.listener.has_started or self.listener.status is not None or (self.recorded and not self.listener.said):
                self._end(status)
            err = self._refused(status)
            if not isinstance(err, tools.SlurmDown):
                raise err
            if "nonblock" in self.given:
                self._give_up(err.text)
            if not self.told_down and not self.quiet:
                say(f"{err.text}: trying again" + (f"\n{err.hint}" if err.hint else ""))
            self.told_down = True
            self._pause(pause, waking)
            pause = min(LAST_RETRY_SECONDS, pause * 2)
            self._clear_away()

    # --- one srun -----------------------------------------------------------------------------------------------

    def _attempt(self, waking: int) -> int:
        """Run srun to its end; returns its wait status."""
        self.listener = Listener()
        words = srun_words(self.given, self.request, self.found, self.argv, self.token, pty=wants_pty())
        may_read = not _is_terminal(0) or in_foreground_of(0)
        reading, writing = os.pipe()
        parent = os.getpid()
        self.srun = os.fork()
        if self.srun == 0:
            self._become_srun(words, writing, parent, may_read=may_read)
        os.close(writing)
        self.look_mono = time.monotonic() + FIRST_LOOK_SECONDS
        ended = os.pidfd_open(self.srun)
        is_open = True
        while True:
            readable = select.select([*([reading] if is_open else []), waking, ended], [], [], self._sleep())[0]
            if waking in readable:
                _empty(waking)
            if is_open and reading in readable:
                data = os.read(reading, 1 << 16)
                is_open = bool(data)
                self._pass_on(self.listener.hear(data, last=not data))
            self._heed()
            if ended in readable and not (is_open and reading in readable):
                break
        while is_open and select.select([reading], [], [], 0)[0]:
            data = os.read(reading, 1 << 16)
            is_open = bool(data)
            self._pass_on(self.listener.hear(data, last=not data))
        self._pass_on(self.listener.hear(b"", last=True))
        os.close(reading)
        os.close(ended)
        self.line.erase()
        status = os.waitpid(self.srun, 0)[1]
        self.srun = 0
        return status

    def _become_srun(self, words: list[bytes], writing: int, parent: int, *, may_read: bool) -> None:
        """In the child: a session of its own, our death its own, and srun. Never returns."""
        try:
            os.setsid()
            self.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            for number in (*PASSED_ON, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ):
                if callable(signal.getsignal(number)) or number in (signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
            if os.getppid() != parent:
                os._exit(FAILED)
            if not may_read:
                null = os.open(os.devnull, os.O_RDONLY)  # srun would read what is typed for another
                os.dup2(null, 0)
            os.dup2(writing, 2)
            os.execvpe(b"srun", words, tools.environment())
        except FileNotFoundError:
            os.write(2, b"srun: fatal: not found\n")
        except BaseException as err:
            os.write(2, f"srun: fatal: {err}\n".encode())
        finally:
            os._exit(FAILED)

    def _sleep(self) -> float:
        """Return how long nothing is to be done."""
        now, until = time.monotonic(), []
        if not self.listener.has_started:
            if self.limit_mono is not None:
                until.append(self.limit_mono)
            if self.listener.is_queued:
                until.append(self.look_mono)
        if self.resend or self.messenger:
            until.append(now + 0.05 if self.messenger else self.resend_mono)
        return max(0.0, min(until, default=now + 3600.0) - now)

    def _heed(self) -> None:
        """Do what is due."""
        if self.listener.job and not self.listener.is_queued:
            self.line.erase()
            self._record()
        if not self.listener.has_started:
            if any(b"Munge" in line for line in self.listener.said):
                self._signal_srun(signal.SIGKILL)  # it would try for half a minute before it says so
            if self.limit_mono is not None and time.monotonic() >= self.limit_mono:
                self._over_limit()
            elif self.listener.is_queued and time.monotonic() >= self.look_mono:
                self._tell_why()
        while self.got:
            self._take_signal(self.got.pop(0))
        self._send()

    def _pass_on(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(2, data) :]
            except OSError:
                return

    # --- signals ------------------------------------------------------------------------------------------------

    def _take_signal(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._signal_srun(number)
        elif number == signal.SIGCONT:
            if self.listener.has_started:
                self.resend.append(number)
        elif number == signal.SIGTSTP:
            self._stop()
        elif self.listener.has_started:
            self.resend.append(number)
        else:
            self._withdraw()
            if not self.listener.has_started:
                self._die(number)
            self.resend.append(number)

    def _send(self) -> None:
        """Pass signals on, one after the other; a controller that does not answer is asked again."""
        if self.messenger:
            pid, status = os.waitpid(self.messenger, os.WNOHANG)
            if pid == 0:
                return
            self.messenger = 0
            if status == 0:
                self.resend.pop(0)
            else:
                if not self.told_down and not self.quiet:
                    self.told_down = True
                    say(f"Slurm does not answer: SIG{name_of(self.resend[0])} is passed on when it does")
                self.resend_mono = time.monotonic() + RESEND_SECONDS
                return
        if self.resend and time.monotonic() >= self.resend_mono and self.srun:
            self.has_asked_to_end |= self.resend[0] in ENDING
            name = name_of(self.resend[0])
            self.messenger = os.fork()
            if self.messenger == 0:
                try:
                    null = os.open(os.devnull, os.O_RDWR)
                    for fd in (0, 1, 2):
                        os.dup2(null, fd)
                    os.setsid()
                    words = [b"scancel", f"--signal={name}".encode(), self.listener.job.encode()]
                    os.execvpe(b"scancel", words, tools.environment())
                finally:
                    os._exit(FAILED)

    def _stop(self) -> None:
        """Ctrl-Z: the program stands still, then we."""
        self.line.erase()
        if self.listener.has_started:
            tools.call("scancel", "--signal=STOP", self.listener.job, seconds=SHORT_SECONDS)
        os.kill(os.getpid(), signal.SIGSTOP)
        self.line.redraw()

    def _signal_srun(self, number: int) -> None:
        if self.srun:
            os.kill(self.srun, number)

    def _die(self, number: int) -> None:
        self.line.erase()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    # --- waiting ------------------------------------------------------------------------------------------------

    def _tell_why(self) -> None:
        """Say why it waits, on a terminal or if asked to."""
        self.look_mono = time.monotonic() + LOOK_SECONDS
        tells = not self.quiet and (self.verbose or (sys.stderr is not None and _is_terminal(2)))
        job = self._look()
        if job is not None and job.reason == "DependencyNeverSatisfied":
            self._withdraw()
            raise GpurunError(f"job s{job.job}: cancelled: {sentence(job.reason)}")
        if job is not None and is_hopeless(job.reason) and not self.quiet and not self.told_hopeless:
            self.told_hopeless = True
            say(f"s{job.job} will not start: {sentence(job.reason)}" + (f"\n{what_helps(job.reason)}"))
        if not tells:
            return
        why = f": {sentence(job.reason)}" if job is not None and job.state in ("waiting", "held") else ""
        self.line.show(f"s{self.listener.job} waits in Slurm's line{why}", plain=not in_foreground())

    def _look(self) -> SlurmJob | None:
        try:
            jobs = self.engine.listed()
        except GpurunError:
            return None
        return next((job for job in jobs if job.base == self.listener.job), None)

    def _over_limit(self) -> None:
        """The wait limit has passed: hold the job first, so that it cannot start while it is taken out of the line."""
        self.limit_mono = None
        job = self.listener.job
        if job and self.listener.is_queued:
            try:
                tools.call("scontrol", "hold", job, seconds=SHORT_SECONDS)
                state = tools.call("squeue", "--noheader", f"--jobs={job}", "--format=%T", seconds=SHORT_SECONDS).output.strip()
                if state in ("RUNNING", "CONFIGURING"):
                    tools.call("scontrol", "release", job, seconds=SHORT_SECONDS)
                    return  # it has just started
            except tools.SlurmDown:
                pass
        self._withdraw()
        if self.listener.has_started:
            return
        self._give_up("" if job else "Slurm has not answered")

    def _withdraw(self) -> None:
        """Have srun take the job out of the line and end; the harder way, if it takes too long."""
        until = time.monotonic() + WITHDRAW_SECONDS
        self._signal_srun(signal.SIGINT)
        while self.srun and time.monotonic() < until:
            if os.waitid(os.P_PID, self.srun, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
            time.sleep(0.01)
        self._signal_srun(signal.SIGKILL)

    def _give_up(self, why: str) -> None:
        self.line.erase()
        if self.verbose or (not self.quiet and sys.stderr is not None and _is_terminal(2)):
            job = f"s{self.listener.job}: " if self.listener.job else ""
            say(f"{job}not started within the wait limit{': ' if why else ''}{why}")
        raise SystemExit(int(str(self.given.get("conflict_status", WAIT_LIMIT))))

    def _pause(self, seconds: float, waking: int) -> None:
        """Wait before the next try: a signal ends it, and so does the wait limit."""
        until = time.monotonic() + seconds
        if self.limit_mono is not None:
            until = min(until, self.limit_mono)
        while (left := until - time.monotonic()) > 0:
            select.select([waking], [], [], left)
            _empty(waking)
            while self.got:
                number = self.got.pop(0)
                if number in PASSED_ON:
                    self._die(number)
                if number == signal.SIGTSTP:
                    os.kill(os.getpid(), signal.SIGSTOP)
        if self.limit_mono is not None and time.monotonic() >= self.limit_mono:
            self._give_up("Slurm does not answer")

    def _clear_away(self) -> None:
        """A request that was lost on its way may have been heard: no job of ours is left in the line."""
        try:
            for job in self.engine.listed(fresh=True):
                if job.wish.get("k") == self.token:
                    self.engine.cancel(job.job)
        except GpurunError:
            return

    # --- the end ------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        if self.recorded or not self.listener.job:
            return
        self.recorded = self.listener.job
        text = comment(self.token, self.found, self.request).partition("=")[2]
        entry = record.new(self.recorded, self.argv, None, comment=text, name=self.found.name, date=_date(), started=_date())
        record.write(entry)
        if self.verbose:
            say(f"s{self.recorded} starts on Slurm")

    def _end(self, status: int) -> None:
        """End as the program did."""
        ended = self.listener.status
        if ended is None:
            code = os.waitstatus_to_exitcode(status)
            ended = code - 128 if 128 < code < 128 + signal.NSIG else (code << 8 if code >= 0 else -code)
        is_signal = os.WIFSIGNALED(ended)
        record.note(
            self.recorded, state="FAILED" if ended else "COMPLETED", code=None if is_signal else os.WEXITSTATUS(ended),
            signal=os.WTERMSIG(ended) if is_signal else None, ended=_date(),
        )  # fmt: skip
        self.engine.forget()
        if self.listener.notice and not self.has_asked_to_end and not self.quiet:
            say(f"s{self.recorded}: {_ended_by(self.listener.notice)}")
        if sys.stdout is not None:
            sys.stdout.flush()
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        end_as(ended & 0xFF7F, self.prctl)

    def _refused(self, status: int) -> GpurunError:
        """Return why the program never started."""
        errors = b"\n".join(self.listener.said).decode("utf-8", "replace")
        if "fatal: not found" in errors:
            return tools.not_installed("srun")
        if "already completing or completed" in errors or "has been revoked" in errors:
            if not self.quiet:
                say(f"s{self.listener.job}: taken out of the line while it waited")
            self._die(signal.SIGTERM)
        if "nonblock" in self.given and ("nodes are busy" in errors or "mmediate" in errors):
            self._give_up("no GPU is free in Slurm")
        if not errors:
            code = os.waitstatus_to_exitcode(status)
            how = f"exit {code}" if code >= 0 else f"signal {-code}"
            return GpurunError(f"srun ended before the program started ({how})")
        return tools.refusal("srun", errors)


def _ended_by(notice: bytes) -> str:
    """Say who ended the job, as the step's manager has it."""
    kinds = (
        (b"TIME LIMIT", "its time limit passed"), (b"PREEMPTION", "a job of higher priority took its GPUs"),
        (b"NODE FAILURE", "its machine failed"), (b"OUT OF MEMORY", "it ran out of memory"),
    )  # fmt: skip
    return next((words for part, words in kinds if part in notice), "ended from outside (scancel)")


def name_of(number: int) -> str:
    """Name a signal without SIG."""
    names = [name for name in dir(signal) if name.startswith("SIG") and not name.startswith("SIG_")]
    return next((name[3:] for name in names if getattr(signal, name) == number), str(number))


def _date() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def _empty(fd: int) -> None:
    try:
        while os.read(fd, 512):
            pass
    except BlockingIOError:
        return
