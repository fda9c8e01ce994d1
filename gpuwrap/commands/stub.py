"""The stub: the small parent of a program that may be ended and run again (`-r`, `--retries`).

1. It is the registered process; the program is its child, in the same process group, session, terminal and pipes, started
   as the bare launch starts it. It dies of what its child died of, and stays silent.
2. It never acts on a stop signal itself: it follows its child, and not when the stop is the arbiter's [run: one that acts
   on SIGTSTP goes wrong with programs that ignore or catch it].
3. Signals of the terminal are not forwarded, the child has them already [run: it would get them twice]; what others send
   to the stub alone is. A signal sent to the whole process group by kill(2) cannot always be told from that: the stub
   forwards it unless the sender is below it or the signal still waits for the child, so a program may see it twice.
4. It is a subreaper, so whatever the program leaves behind is its child; and the child dies with it (PDEATHSIG).
5. While the program runs all signals are blocked here and taken one by one: nothing runs in a signal handler.

Limits: a second core dump is not written; timers of CPU time (setitimer) are not passed on, the real one is.
"""

import _signal
import fcntl
import os
import time
from typing import NoReturn

from ..arbiter.summon import WaitLimitPassed
from ..errors import FAILED, GpurunError
from ..restarts import stored_signals
from ..wire import PACKET, pack, unpack
from .run import Launch, ignored_by_caller, restore_python_signals

# From linux/prctl.h; Python has no prctl.
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
SI_USER = 0  # and below: sent by a process; above: by the kernel [asm-generic/siginfo.h]
ASK_TO_END = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
# A program that ends so soon after somebody else asked it to end was ended by that: it is not run again.
ASKED_SECONDS = 10.0
RECONNECT_SECONDS = 5.0
RECONNECT_LONGEST = 60.0
# How long the end of the program waits for the arbiter's word: success needs none.
LAST_WORD_SECONDS = 1.0
VERDICT_SECONDS = 30.0
# After the last delay KILL follows; the arbiter sees to the rest.
SAVING = b"saving"


class Stub(Launch):
    """A launch that stays the parent of its program."""

    child = 0
    attempt = 0
    """The run that was last started; 0 before the first."""
    status: int | None = None
    """How the child ended, as waitpid(2) tells it."""
    held = False
    """The arbiter pauses the job: a stop of the child is its doing."""
    settled = False
    alone = False
    """The arbiter does not know us (its database has gone): the program runs on, and its status is ours."""

    # --- registration -------------------------------------------------------------------------------------------

    def _running(self) -> dict[str, object]:
        """Say which run is under way, to an arbiter that may be new."""
        if not self.attempt or self.waits:
            return {}
        return {"attempt": self.attempt, "running": self.child if self.status is None else 0, "held": self.held or None}

    waits = False
    """The last run is over and told, and the next has not begun."""

    # --- one run ------------------------------------------------------------------------------------------------

    def _become(self, values: dict[str, str]) -> None:
        """Run the program as a child. Returns if it is to be run again, with signals as before."""
        self._announce(values)
        if not self.settled:
            self._settle()
        self.attempt = int(values["GPURUN_ATTEMPT"])
        self.waits = False
        self.preempt = os.path.basename(values.get("GPURUN_PREEMPT_FILE", ""))
        self.call.limit_mono = None
        self.request.pop("wait", None)  # the wait limit is for the first start
        self.status, self.held, self.stopped, self.stop_missed = None, False, 0, False
        self.steps: list[tuple[int, float]] = []
        self.ending = False
        self.ending_until: float | None = None
        self.asked, self.asked_to_end_mono = False, -ASKED_SECONDS
        self.sent: set[int] = set()
        self.stay_stopped, self.woken_mono = False, 0.0
        self.reconnect_mono, self.reconnect_wait = 0.0, 0.0
        self.terminal = _Terminal()
        self._start(values)
        self.begun_run_mono = time.monotonic()
        self.call.send(pack("started", attempt=self.attempt, child=self.child))
        self._attend()
        self._follow()
        self._unattend()
        again = self._report()
        self._clean_up()
        if again is None:
            self._mirror()
        self._wait_again(again)

    def _settle(self) -> None:
        """Once, before the first run: what the program shall find, and what we need to be its parent."""
        self.settled = True
        self.ignored = ignored_by_caller()
        self.ignores = [number for number in _signal.valid_signals() if _signal.getsignal(number) == _signal.SIG_IGN]
        self.timer = _signal.setitimer(_signal.ITIMER_REAL, 0)  # not inherited by fork
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, the kernel would reap the child, and tell nobody
        self.prctl = _load_prctl()
        self.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.failures = 0
        self.reruns = 0
        self.short = 0

    def _start(self, values: dict[str, str]) -> None:
        """Fork the program. It execs only when we have seen to signals that came just before."""
        reading, writing = os.pipe()
        stub = os.getpid()
        early = self._early()
        self.child = os.fork()
        if self.child == 0:
            os.close(writing)
            self._be_program(values, stub, reading)
        os.close(reading)
        for number in early:
            self._signal_child(number)
        for number in _signal.sigpending() - {_signal.SIGCHLD, _signal.SIGCONT, _signal.SIGIO}:
            # Of the kernel, and not with the child: it came before the fork.
            if not self._child_has(number):
                info = _signal.sigtimedwait((number,), 0)
                if info is not None:
                    self._note_request(number)
                    self._signal_child(number)
        os.write(writing, b"g")
        os.close(writing)

    def _early(self) -> list[int]:
        """Take the signals that wait for us: the program, not there yet, shall have them."""
        numbers = []
        ours = {_signal.SIGCHLD, _signal.SIGCONT, _signal.SIGIO}
        while (info := _signal.sigtimedwait(_signal.valid_signals() - ours, 0)) is not None:
            self._note_request(info.si_signo)
            numbers.append(info.si_signo)
        return numbers

    def _be_program(self, values: dict[str, str], stub: int, gate: int) -> NoReturn:
        """In the child: become the program."""
        try:
            self.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
            if os.getppid() != stub or not os.read(gate, 1):
                os._exit(FAILED)  # the stub died meanwhile
            if _signal.SIGCHLD in self.ignores:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
            restore_python_signals(self.ignored)
            if self.attempt == 1 and self.timer[0]:
                _signal.setitimer(_signal.ITIMER_REAL, *self.timer)
            self._execute(values)
        except GpurunError as err:
            from ..cli import complain

            complain(err, None)
            os._exit(err.status)
        finally:
            os._exit(FAILED)

    # --- following the child ------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Until the child ends: take signals, stop as it stops, hear the arbiter, ask it to end if told to."""
        everything = _signal.valid_signals()
        while True:
            seconds = self._seconds_to_wait()
            info = _signal.sigwaitinfo(everything) if seconds is None else _signal.sigtimedwait(everything, seconds)
            while info is not None:
                self._got(info)
                info = _signal.sigtimedwait(everything, 0)
            self._sweep()
            self._listen()
            if self.status is not None:
                return
            if self.stopped and not self.held:
                self._stop_too()
            self._escalate()

    def _seconds_to_wait(self) -> float | None:
        moments = [] if self.ending_until is None else [self.ending_until]
        if self.call.socket is None and not self.alone:
            moments.append(self.reconnect_mono)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _got(self, info: "_signal.struct_siginfo") -> None:
        number = info.si_signo
        if number == _signal.SIGCHLD:
            return
        if number == _signal.SIGCONT:
            if self.woken_mono + 1.0 > time.monotonic() and info.si_pid == self.arbiter_pid:
                self.stay_stopped = True  # the user had stopped it: only our request to end woke it
            self._continue_child()
            return
        if info.si_code > SI_USER:
            self._note_request(number)
            if number == _signal.SIGALRM:
                self._signal_child(number)
            if self.held:
                self._got_while_held(number)
        elif info.si_pid != os.getpid() and not self._is_below(info.si_pid):
            self._note_request(number)
            if not self._child_has(number):
                self._signal_child(number)
            if self.held and number in ASK_TO_END:
                self._got_while_held(number)

    def _got_while_held(self, number: int) -> None:
        """The child stands still by the arbiter's will and cannot act on it."""
        if number == _signal.SIGTSTP:
            # Kept from the child: its SIGCONT would throw it away. The shell gets its prompt now.
            self.stop_missed = not self._would_stop()
            if not self.stop_missed:
                self._stop_self(number)
        elif number in ASK_TO_END:
            self._say("pending", signal=number)

    def _would_stop(self) -> bool:
        """Whether Ctrl-Z has its default effect on the child."""
        status = _status_of(self.child)
        bit = 1 << (_signal.SIGTSTP - 1)
        return not (_mask(status, b"SigIgn") | _mask(status, b"SigCgt") | _mask(status, b"SigBlk")) & bit

    def _note_request(self, number: int) -> None:
        if number in ASK_TO_END:
            self.asked_to_end_mono = time.monotonic()

    def _is_below(self, pid: int) -> bool:
        """Whether a process is a descendant of ours: what it sent to the whole group the child has as well."""
        ours = os.getpid()
        for _ in range(100):
            if pid == self.child:
                return True
            try:
                with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                    line = file.read(4096)
            except OSError:
                return False
            pid = int(line[line.rindex(b")") + 2 :].split()[1])
            if pid == ours:
                return True
            if pid <= 1:
                return False
        return False

    def _child_has(self, number: int) -> bool:
        """Whether a signal waits for the child already."""
        status = _status_of(self.child)
        return bool((_mask(status, b"ShdPnd") | _mask(status, b"SigPnd")) >> (number - 1) & 1)

    def _signal_child(self, number: int) -> None:
        """Signal the child, which is ours and not reaped: its pid is its own."""
        if self.status is None:
            try:
                os.kill(self.child, number)
            except (ProcessLookupError, PermissionError):
                return  # it has just become somebody else's (setuid)

    def _continue_child(self) -> None:
        if not self.held and self._child_state() == b"T":
            self._signal_child(_signal.SIGCONT)
            self.stopped = 0

    def _child_state(self) -> bytes:
        try:
            with open(f"/proc/{self.child}/stat", "rb", buffering=0) as file:
                line = file.read(4096)
        except OSError:
            return b"X"
        return line[line.rindex(b")") + 2 :][:1]

    def _sweep(self) -> None:
        """Collect what happened to the child, and reap orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid != self.child or self.status is not None:
                continue
            if os.WIFSTOPPED(status):
                self.stopped = os.WSTOPSIG(status)
            elif os.WIFCONTINUED(status):
                self.stopped = 0
            else:
                self.status = status

    def _stop_too(self) -> None:
        """Stop as the child did, so that the shell sees what it would have seen; go on when it lets us."""
        number, self.stopped = self.stopped, 0
        if self._child_state() == b"T":
            self._stop_self(number)
            self._continue_child()

    def _stop_self(self, number: int) -> None:
        before = None if number == _signal.SIGSTOP else _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        if number != _signal.SIGSTOP:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))  # here we stop
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (number,))
            _signal.signal(number, before)
        self.woken_mono = time.monotonic()

    # --- the bell -----------------------------------------------------------------------------------------------

    def _attend(self) -> None:
        """Have the kernel tell us by SIGIO when the bell has something for us: one wait for everything."""
        self.arbiter_pid = 0
        sock = self.call.socket
        if sock is None:
            return
        self.arbiter_pid = int.from_bytes(sock.getsockopt(1, 17, 12)[:4], "little")  # SOL_SOCKET, SO_PEERCRED
        sock.setblocking(False)
        fcntl.fcntl(sock.fileno(), fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(sock.fileno(), fcntl.F_GETFL)
        fcntl.fcntl(sock.fileno(), fcntl.F_SETFL, flags | fcntl.FASYNC)
        os.kill(os.getpid(), _signal.SIGIO)  # what lies there already told nobody

    def _unattend(self) -> None:
        if self.call.socket is not None:
            fd = self.call.socket.fileno()
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~fcntl.FASYNC)
            self.call.socket.setblocking(True)

    def _listen(self) -> None:
        """Handle what the arbiter says; find it again if the connection broke."""
        while self.call.socket is not None:
            try:
                packet = self.call.socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.call.drop()
                break
            self.reconnect_wait = 0.0
            self._heard(*unpack(packet))
        if not self.alone and self.status is None and self.reconnect_mono <= time.monotonic():
            self._reconnect()

    def _reconnect(self) -> None:
        """Reach the arbiter, a new one perhaps, and tell it what runs. Does not keep the child waiting for long."""
        self.call.limit_mono = time.monotonic() + RECONNECT_SECONDS
        try:
            self.call.send(self._register())
        except (WaitLimitPassed, GpurunError, OSError):
            self.call.drop()
        self.call.limit_mono = None
        self.reconnect_mono = time.monotonic() + self.reconnect_wait
        self.reconnect_wait = min(RECONNECT_LONGEST, self.reconnect_wait * 2 or 0.1)
        self._attend()
        self._sweep()  # summoning may have taken a SIGCHLD away

    def _heard(self, kind: str, values: dict[str, str]) -> None:
        if kind == "give-way":
            if int(values["attempt"]) == self.attempt and not self.ending:
                self._begin_to_end(values)
        elif kind == "pausing":
            self.held = True
            self._say("ok", what=kind)
        elif kind == "resuming":
            self.held = False
            self._say("ok", what=kind)
            if self.stop_missed:
                self.stop_missed = False
                self._signal_child(_signal.SIGTSTP)
        elif kind in ("unknown", "refused"):
            self.alone = True
            self.call.drop()

    def _say(self, kind: str, **values: object) -> None:
        if self.call.socket is not None:
            try:
                self.call.socket.send(pack(kind, **values))
            except OSError:
                return  # its end is seen when it is read

    # --- asking the program to end ------------------------------------------------------------------------------

    def _begin_to_end(self, values: dict[str, str]) -> None:
        self.ending = True
        self.steps = list(stored_signals(values["signals"]))
        if self.preempt:
            self._write_preempt_file()
        self.ending_until = time.monotonic()
        self.held = False
        self._continue_child()

    def _write_preempt_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(self.preempt, flags, 0o600, dir_fd=self.call.folder.fd)
        except OSError:
            return  # a full disk: the signals come all the same
        try:
            os.fchmod(fd, 0o600)
            os.write(fd, b"requested\n")
        except OSError:
            pass
        finally:
            os.close(fd)

    def _says_saving(self) -> bool:
        if not self.preempt:
            return False
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(self.preempt, flags, dir_fd=self.call.folder.fd)
        except OSError:
            return False
        try:
            return os.read(fd, 64).strip().startswith(SAVING)
        except OSError:
            return False
        finally:
            os.close(fd)

    def _escalate(self) -> None:
        """Send what is due. A program that says that it is saving is spared the signals in between, not KILL."""
        while self.ending_until is not None and self.ending_until <= time.monotonic():
            if not self.steps:
                self.ending_until = None
                self._send_step(_signal.SIGKILL)
                return
            number, seconds = self.steps.pop(0)
            if not self.sent or not self._says_saving():
                self._send_step(number)
            self.ending_until += seconds

    def _send_step(self, number: int) -> None:
        self.asked = True
        self.sent.add(number)
        self._signal_child(number)
        if number != _signal.SIGKILL:
            self._continue_child()  # stopped, it would keep the signal for later

    # --- the end of a run ---------------------------------------------------------------------------------------

    def _report(self) -> dict[str, str] | None:
        """Tell the arbiter how the run ended; returns its answer if the program is to be run again."""
        assert self.status is not None
        self._early()
        self.pending: tuple[str, dict[str, str]] | None = None
        done = self.status == 0
        self.call.limit_mono = time.monotonic() + (LAST_WORD_SECONDS if done else VERDICT_SECONDS)
        seconds = time.monotonic() - self.begun_run_mono
        ended = pack(
            "ended", attempt=self.attempt, status=self.status, seconds=f"{seconds:.3f}", asked=self.asked,
            interrupted=self._was_interrupted(), failures=self.failures, reruns=self.reruns, short=self.short,
        )  # fmt: skip
        while not self.alone:
            try:
                if self.call.limit_mono is not None and self.call.limit_mono < time.monotonic():
                    return None
                if self.call.socket is None and not self.call.send(self._register()):
                    continue
                if not self.call.send(ended):
                    continue
                answer = self._verdict()
            except (WaitLimitPassed, GpurunError, OSError):
                return None  # nobody to ask: it ended, and its status is the answer
            if answer is not None:
                return answer[1] if answer[0] == "rerun" else None
        return None

    def _verdict(self) -> tuple[str, dict[str, str]] | None:
        while (message := self.call.receive()) is not None:
            kind = message[0]
            if kind == "settling":  # what the program left behind is being ended
                self.call.limit_mono = None
                self._sweep()
            elif kind in ("offer", "again"):  # it has been in line again for a while
                self.pending = message
                return "rerun", {}
            elif kind in ("rerun", "exit", "unknown", "refused"):
                return message
        return None

    def _was_interrupted(self) -> bool:
        """Whether somebody wants it ended for good: Ctrl-C, a hang-up, a kill that was not the arbiter's eviction."""
        assert self.status is not None
        if os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) in ASK_TO_END:
            return os.WTERMSIG(self.status) not in self.sent
        return self.asked_to_end_mono + ASKED_SECONDS > time.monotonic()

    def _clean_up(self) -> None:
        if self.preempt:
            try:
                os.unlink(self.preempt, dir_fd=self.call.folder.fd)
            except OSError:
                return

    def _wait_again(self, values: dict[str, str]) -> None:
        """Be an ordinary waiting client again."""
        self.child, self.waits = 0, True
        self.call.limit_mono = None
        self.failures = int(values.get("failures", self.failures))
        self.reruns = int(values.get("reruns", self.reruns))
        self.short = int(values.get("short", self.short))
        self.line = None
        if self.call.socket is not None:
            self.call.socket.setblocking(True)
        self._sweep()
        self.terminal.restore()
        if "text" in values and not self.quiet and self.terminal.can_be_told():
            from .waitline import write

            write(f"gpurun: {values['text']}\n")
        for number in _signal.sigpending() - {*ASK_TO_END, _signal.SIGTSTP}:
            _signal.sigtimedwait((number,), 0)  # meant for the run that is over
        if self.stay_stopped:
            self._stop_self(_signal.SIGTSTP)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
        after = float(values.get("after", 0))
        if after:
            time.sleep(after)  # passed over meanwhile; a signal ends it
            self.call.send(pack("continued"))

    def _mirror(self) -> NoReturn:
        """End as the program did."""
        assert self.status is not None
        self.call.drop()
        if os.WIFSIGNALED(self.status):
            import resource

            number = os.WTERMSIG(self.status)
            resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            self.prctl(PR_SET_DUMPABLE, 0)  # a core pattern that is a pipe does not look at the limit
            if number not in (_signal.SIGKILL, _signal.SIGSTOP):
                _signal.signal(number, _signal.SIG_DFL)
            os.kill(os.getpid(), number)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
            os._exit(128 + number)  # as the first process of a pid namespace nothing kills us
        os._exit(os.WEXITSTATUS(self.status))


class _Terminal:
    """The terminal as it was before a run: one that is killed in raw mode would leave no Ctrl-C to the wait."""

    def __init__(self) -> None:
        self.modes: list[object] | None = None
        try:
            if os.isatty(2) and os.tcgetpgrp(2) == os.getpgrp():
                import termios

                self.modes = termios.tcgetattr(2)
        except (OSError, ImportError):
            self.modes = None

    def restore(self) -> None:
        """Put the modes back, and take the foreground from a group that has gone; all only if we had it before."""
        if self.modes is None:
            return
        import termios

        try:
            group = os.tcgetpgrp(2)
            if group != os.getpgrp() and not _exists(group):
                os.tcsetpgrp(2, os.getpgrp())  # all signals are blocked: no SIGTTOU
            if os.tcgetpgrp(2) == os.getpgrp():
                termios.tcsetattr(2, termios.TCSADRAIN, self.modes)  # type: ignore[arg-type]
        except (OSError, termios.error):
            return

    def can_be_told(self) -> bool:
        """Whether a line on stderr hurts nobody: a terminal whose foreground we are, in cooked mode."""
        try:
            if not os.isatty(2) or os.tcgetpgrp(2) != os.getpgrp():
                return False
            import termios

            return bool(termios.tcgetattr(2)[3] & termios.ICANON)
        except (OSError, ImportError):
            return False


def _exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _status_of(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            return file.read(8192)
    except OSError:
        return b""


def _mask(status: bytes, name: bytes) -> int:
    fields = status.partition(b"\n" + name + b":")[2].split(None, 1)
    return int(fields[0], 16) if fields else 0


class _Prctl:
    def __init__(self) -> None:
        import ctypes  # 3 ms, and the only way: no module of Python's own has prctl

        self._call = ctypes.CDLL(None, use_errno=True).prctl
        self._errno = ctypes.get_errno
        self._long = ctypes.c_ulong

    def __call__(self, option: int, value: int) -> None:
        zero = self._long(0)
        if self._call(option, self._long(value), zero, zero, zero) != 0:
            raise OSError(self._errno(), os.strerror(self._errno()))


def _load_prctl() -> _Prctl:
    try:
        return _Prctl()
    except (ImportError, OSError, AttributeError) as err:
        raise GpurunError("cannot be the parent of a program: this Python has no ctypes") from err


