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

Here the runs follow each other, and signals find their way; what a run consists of stands in `child`, `hearing`, `ending`
and `terminal`, made anew for each. All of it is loaded before the wait: an update of gpurun meanwhile changes nothing.

Limits: a second core dump is not written; timers of CPU time (setitimer) are not passed on, the real one is.
"""

import _signal
import os
import time

from ..errors import FAILED, GpurunError, WaitLimitPassed
from ..wire import pack
from .child import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, Child, Prctl, end_as
from .ending import Ending
from .hearing import Hearing
from .launch import Launch, say
from .program import restore_python_signals
from .terminal import Terminal

TYPE_CHECKING = False  # as type checkers read it; a stub shall not load typing or collections, which bring re along
if TYPE_CHECKING:
    from typing import NoReturn

SI_USER = 0  # and below: sent by a process; above: by the kernel [asm-generic/siginfo.h]
ASK_TO_END = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGQUIT, _signal.SIGTERM)
# A program that ends so soon after somebody else asked it to end was ended by that: it is not run again.
ASKED_SECONDS = 10.0
# How long the end of the program waits for the arbiter's word: success needs none.
LAST_WORD_SECONDS = 1.0
VERDICT_SECONDS = 30.0


class Stub(Launch):
    """A launch that stays the parent of its program."""

    attempt = 0
    """The run that was last started; 0 before the first."""
    waits = False
    """The last run is over and told, and the next has not begun."""
    settled = False
    rests_until_mono = 0.0
    """When a run that failed is tried again, and not before; 0 if nothing is to be waited for but a grant."""

    # --- registration -------------------------------------------------------------------------------------------

    def _running(self) -> dict[str, object]:
        """Say which run is under way, or for how long there is none, to an arbiter that may be new."""
        if self.rests_until_mono:
            return {"rests": max(0.0, self.rests_until_mono - time.monotonic())}
        if not self.attempt or self.waits:
            return {}
        running = self.child.pid if self.child.status is None else 0
        return {"attempt": self.attempt, "running": running, "held": self.child.held or None}

    # --- one run ------------------------------------------------------------------------------------------------

    def _become(self, values: dict[str, str]) -> None:
        """Run the program as a child. Returns if it is to be run again, with signals as before."""
        self._announce(values)
        if not self.settled:
            self._settle()
        self.attempt = int(values["GPURUN_ATTEMPT"])
        self.waits = False
        self.rests_until_mono = 0.0
        self.call.limit_mono = None
        self.request.pop("wait", None)  # the wait limit is for the first start
        self.child = Child()
        self.hearing = Hearing(self.call, self._register)
        self.ending = Ending(self.child, self.call.folder, os.path.basename(values.get("GPURUN_PREEMPT_FILE", "")))
        self.terminal = Terminal()
        self.go_on_missed, self.asked_to_end_mono = False, -ASKED_SECONDS
        self.stay_stopped, self.woken_mono = False, 0.0
        self._start(values)
        self.begun_run_mono = time.monotonic()
        self.call.send(pack("started", attempt=self.attempt, child=self.child.pid))
        self.hearing.attend()
        self._follow()
        self.hearing.leave()
        again = self._report()
        self.ending.clean_up()
        if again is None:
            self.call.drop()
            end_as(self._status(), self.prctl)
        self._wait_again(again)

    def _settle(self) -> None:
        """Once, before the first run: what the program shall find, and what we need to be its parent."""
        self.settled = True
        self.ignored = self._ignored_by_caller()
        self.ignores = [number for number in _signal.valid_signals() if _signal.getsignal(number) == _signal.SIG_IGN]
        self.timer = _signal.setitimer(_signal.ITIMER_REAL, 0)  # not inherited by fork
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, the kernel would reap the child, and tell nobody
        self.prctl = Prctl()
        self.prctl(PR_SET_CHILD_SUBREAPER, 1)
        self.failures = 0
        self.reruns = 0
        self.short = 0

    def _start(self, values: dict[str, str]) -> None:
        """Fork the program. It execs only when we have seen to signals that came just before."""
        reading, writing = os.pipe()
        stub = os.getpid()
        early = self._early()
        self.child.pid = os.fork()
        if self.child.pid == 0:
            os.close(writing)
            self._be_program(values, stub, reading)
        os.close(reading)
        for number in early:
            self.child.signal(number)
        for number in _signal.sigpending() - {_signal.SIGCHLD, _signal.SIGCONT, _signal.SIGIO}:
            # Of the kernel, and not with the child: it came before the fork.
            if not self.child.has(number):
                info = _signal.sigtimedwait((number,), 0)
                if info is not None:
                    self._note_request(number)
                    self.child.signal(number)
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

    def _be_program(self, values: dict[str, str], stub: int, gate: int) -> "NoReturn":
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
            say(err.report())
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
            self.child.sweep()
            self._listen()
            if self.child.status is not None:
                return
            if self.child.stopped and not self.child.held:
                self._stop_too()
            self.ending.escalate()

    def _seconds_to_wait(self) -> float | None:
        moments = [] if self.ending.due_mono is None else [self.ending.due_mono]
        moments += self.hearing.moments()
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _got(self, info: "_signal.struct_siginfo") -> None:
        number = info.si_signo
        if number == _signal.SIGCHLD:
            return
        if number == _signal.SIGCONT:
            if self.woken_mono + 1.0 > time.monotonic() and info.si_pid == self.hearing.arbiter_pid:
                self.stay_stopped = True  # the user had stopped it: only our request to end woke it
            self.go_on_missed = self.child.held
            self.child.go_on_with_us()
            return
        if info.si_code > SI_USER:
            self._note_request(number)
            if number == _signal.SIGALRM:
                self.child.signal(number)
            if self.child.held:
                self._got_while_held(number)
        elif info.si_pid == self.hearing.arbiter_pid or not self.child.is_below_us(info.si_pid):
            self._note_request(number)  # an arbiter that we summoned may be below us, but no part of the program
            if not self.child.has(number):
                self.child.signal(number)
            if self.child.held and number in ASK_TO_END:
                self._got_while_held(number)

    def _got_while_held(self, number: int) -> None:
        """The child stands still by the arbiter's will and cannot act on it."""
        if number == _signal.SIGTSTP:
            # The arbiter repeats it for the child, whose SIGCONT throws it away. The shell gets its prompt now.
            if self.child.would_stop():
                self.go_on_missed = False
                self._stop_self(number)
        elif number in ASK_TO_END:
            self.hearing.say("pending", signal=number)

    def _note_request(self, number: int) -> None:
        if number in ASK_TO_END:
            self.asked_to_end_mono = time.monotonic()
            self.hearing.asked_to_end(number)

    def _stop_too(self) -> None:
        """Stop as the child did, so that the shell sees what it would have seen; go on when it lets us."""
        number, self.child.stopped = self.child.stopped, 0
        if self.child.is_stopped():
            self._stop_self(number)
            self.child.go_on_with_us()

    def _stop_self(self, number: int) -> None:
        before = None if number == _signal.SIGSTOP else _signal.signal(number, _signal.SIG_DFL)
        os.kill(os.getpid(), number)
        if number != _signal.SIGSTOP:
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))  # here we stop
            _signal.pthread_sigmask(_signal.SIG_BLOCK, (number,))
            _signal.signal(number, before)
        self.woken_mono = time.monotonic()

    # --- the bell -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Handle what the arbiter says; find it again if the connection broke.

        Always after `sweep`: it says that it pauses before it does, so a stop that was seen is then known to be its own.
        """
        self._take_in()
        if self.hearing.is_missed() and self.child.status is None and self.hearing.reconnect_mono <= time.monotonic():
            self.hearing.reconnect()
            self.child.sweep()  # summoning may have taken a SIGCHLD away
            self._take_in()  # a new arbiter may have paused us at once

    def _take_in(self) -> None:
        for kind, values in self.hearing.messages():
            self._heard(kind, values)

    def _heard(self, kind: str, values: dict[str, str]) -> None:
        if kind == "give-way":
            if int(values["attempt"]) == self.attempt and not self.ending.begun:
                self.ending.begin(values["signals"])
        elif kind == "pausing":
            self.child.held = True
        elif kind == "resuming":
            self.child.held = False
            if self.go_on_missed:
                self.go_on_missed = False
                self.child.go_on()
        elif kind == "told":
            self._told(values["text"])
        elif kind in ("unknown", "refused"):
            self.hearing.alone = True
            self.call.drop()

    def _told(self, text: str) -> None:
        """Say what the arbiter has to say of the run, unless that would be written into what the program draws."""
        if not self.quiet and (not os.isatty(2) or self.terminal.can_be_told()):
            say(text)

    # --- the end of a run ---------------------------------------------------------------------------------------

    def _status(self) -> int:
        assert self.child.status is not None
        return self.child.status

    def _report(self) -> dict[str, str] | None:
        """Tell the arbiter how the run ended; returns its answer if the program is to be run again."""
        self._early()
        status = self._status()
        self.call.limit_mono = time.monotonic() + (VERDICT_SECONDS if status else LAST_WORD_SECONDS)
        seconds = time.monotonic() - self.begun_run_mono
        ended = pack(
            "ended", attempt=self.attempt, status=status, seconds=f"{seconds:.3f}", asked=bool(self.ending.sent),
            interrupted=self._was_interrupted(), failures=self.failures, reruns=self.reruns, short=self.short,
        )  # fmt: skip
        while not self.hearing.alone:
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
            if answer is not None and answer[0] == "rerun":
                return answer[1]
            if answer is not None:
                if answer[0] == "exit" and "text" in answer[1]:
                    self._told(answer[1]["text"])
                return None
        return None

    def _verdict(self) -> tuple[str, dict[str, str]] | None:
        while (message := self.call.receive()) is not None:
            kind = message[0]
            if kind == "settling":  # what the program left behind is being ended
                self.call.limit_mono = None
                self.child.sweep()
            elif kind == "told":
                self._told(message[1]["text"])
            elif kind in ("offer", "again"):  # it has been in line again for a while
                return "rerun", {}
            elif kind in ("rerun", "exit", "unknown", "refused"):
                return message
        return None

    def _was_interrupted(self) -> bool:
        """Whether somebody wants it ended for good: Ctrl-C, a hang-up, a kill that was not the arbiter's eviction."""
        status = self._status()
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) in ASK_TO_END:
            return os.WTERMSIG(status) not in self.ending.sent
        return self.asked_to_end_mono + ASKED_SECONDS > time.monotonic()

    def _wait_again(self, values: dict[str, str]) -> None:
        """Be an ordinary waiting client again."""
        self.waits = True
        self.call.limit_mono = None
        self.failures = int(values.get("failures", self.failures))
        self.reruns = int(values.get("reruns", self.reruns))
        self.short = int(values.get("short", self.short))
        self.line = None
        if self.call.socket is not None:
            self.call.socket.setblocking(True)
        self.child.sweep()
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
        self.rests_until_mono = time.monotonic() + after if after else 0.0

    def _next_message(self) -> tuple[str, dict[str, str]] | None:
        """Wait for a word of the arbiter, which passes us over until we have rested and say so."""
        if self.rests_until_mono:
            self.call.limit_mono = self.rests_until_mono
            try:
                return self.call.receive()
            except WaitLimitPassed:
                self.rests_until_mono = 0.0
                self.call.send(pack("continued"))
            finally:
                self.call.limit_mono = None
        return super()._next_message()

    def _continued(self, number: int, frame: object) -> None:
        if not self.rests_until_mono:
            super()._continued(number, frame)
        elif self.line is not None:
            self.line.redraw()
