"""Sweeps (`--each`, `--array`): one process and one connection for all rows that wait.

1. Every row is a job. They are registered together; while they wait this process stands for all of them.
2. Of an offered row a child is forked: it takes the row over under its own identity, and goes on as any launch does, with
   `-r` and `--retries` as any stub. So a row that runs is an ordinary job with this process as its parent.
3. A child is reaped once the arbiter has heard how it ended: nobody else can know for certain.
4. Signals of the terminal are not forwarded, the rows have them already; what others send to us alone is. Each that asks
   for an end also gives up the rows that wait; then we stay until the last row has ended, and die of it. Ctrl-Z stops us.
5. Rows die with us (PDEATHSIG), and what waits is cancelled by the arbiter, which sees our end.
"""

import _signal
import os
import sys
import time

from ..client.call import open_queue
from ..errors import FAILED, WAIT_LIMIT, GpurunError, UsageError, WaitLimitPassed
from ..outputs import with_index
from ..sweeps import argv_of, from_words, in_words, parse_array
from ..wire import PROTOCOL, pack
from .background import Background, fill_closed_descriptors
from .child import PR_SET_PDEATHSIG, Child, Prctl
from .hearing import Hearing
from .launch import Launch, refusal, say, warn
from .output import Output
from .program import find_program, program_argv, script_bytes
from .request import Given, read_request, simulated
from .rowlaunch import LATE, RowLaunch, RowStub
from .stub import ASK_TO_END, SI_USER
from .sweep_rows import Row, counted, in_parts, jobs_in_words, read_each

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from typing import NoReturn

# A sweep that starts at once has nothing to tell.
FIRST_SECONDS = 0.25
FORWARDED = (*ASK_TO_END, _signal.SIGUSR1, _signal.SIGUSR2)


def run_sweep(given: Given, words: list[str]) -> None:
    """Run a sweep. Returns only if it was not to be started, or is in the background; raises GpurunError."""
    if "each" in given and "array" in given:
        raise UsageError("--each and --array: only one of them")
    for option in [option for option in ("once", "once_waiting") if option in given]:
        name = option.replace("_", "-")
        raise UsageError(f"--{name}: goes without --each and --array: one of its key at a time")
    request = read_request(given)
    if "detach" in request:  # a row has its parent as it is
        request["stub"] = True if request.get("retries") or request.get("give_way") == "requeue" else None
    argv, offset, path = [b""], 1 << 20, b""
    if "array" in given:
        if not words:
            raise UsageError("program missing: gpurun --array LIST PROGRAM [ARG]...")
        indices, limit = parse_array(str(given["array"]))
        argv, offset = program_argv(len(words))
        path = find_program(argv[0])
        rows = [Row(index, None, path) for index in indices]
    else:
        rows, limit = read_each(str(given["each"]), words)
    if limit is None and request["gpus"] == "0":
        limit = len(os.sched_getaffinity(0))  # without GPUs all would start at once
    sim = simulated(given)
    warn(given)
    if "detach" in request:
        fill_closed_descriptors()
    folder = open_queue(sim)
    assert folder is not None
    sweep = (DetachedSweep if "detach" in request else Sweep)(folder, sim, given, request, path, argv, offset)
    sweep.rows, sweep.limit = rows, limit
    rehearsed = bool(given.get("dry_run"))
    if "output" in request:
        _try_outputs(os.fsencode(str(request["output"])), rows, only_look=rehearsed)
    if rehearsed:
        sweep.rehearse()
        return
    sweep.start()


def _try_outputs(template: bytes, rows: list[Row], *, only_look: bool) -> None:
    """See that the rows can write where they are to: of each folder one file is looked at; the one file of all is opened."""
    files: dict[bytes, Output] = {}
    for row in rows:
        file = with_index(template, row.index)
        files.setdefault(os.path.dirname(file), Output(os.fsdecode(file)))
    for output in files.values():
        output.look()
    if not only_look and with_index(template, 1) == with_index(template, 2):
        Output(os.fsdecode(template)).try_out()


class Sweep(Launch):
    """The process in whose name rows wait."""

    rows: list[Row]
    limit: int | None = None
    ending = 0
    """The signal by which it was asked to end."""
    name = ""

    def start(self) -> None:
        """Register, run all rows, exit with their status."""
        if _signal.getsignal(_signal.SIGINT) not in (_signal.SIG_IGN, _signal.SIG_DFL):
            _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
        self.ignored = self._ignored_by_caller()
        self.waiting: dict[int, Row] = {}
        self.running: dict[int, tuple[Row, Child]] = {}
        self.introduced: list[Row] = []
        try:
            kind, values = self.call.ask(*self._introduction())
        except WaitLimitPassed:
            self._give_up("the arbiter does not answer")
        if kind == "refused":
            raise refusal(values)
        self._numbered(values)
        self._enrolled()
        self._follow()
        self._finish()

    def rehearse(self) -> None:
        """Ask what would happen to the first row, and print it to stdout."""
        kind, values = self.call.ask(self._register(rehearsal=True))
        if kind == "refused":
            raise refusal(values)
        at_once = f", {self.limit} at once" if self.limit is not None else ""
        print(f"{counted(len(self.rows), 'row')}{at_once}: the first {values['text']}")

    def _enrolled(self) -> None:
        """All rows have their numbers."""

    # --- registration -------------------------------------------------------------------------------------------

    def _introduction(self) -> list[bytes]:
        """Return the packets that register the rows that have not started; again, to another arbiter perhaps."""
        rows = self.introduced = [row for row in self.rows if row.status is None and row.index not in self.running]
        packets = [pack("rows", **part) for part in in_parts(rows)]
        request = {name: value for name, value in self.request.items() if name != "wait"}
        if "wait" in self.request:
            request["wait"] = self._wait_left()
        packets.append(pack(
            "sweep", version=PROTOCOL, key=self.key, count=len(rows), limit=self.limit, offset=self.offset,
            visible=self.visible, script=script_bytes(self.argv), **request,
        ))  # fmt: skip
        return packets

    def _last_of_introduction(self) -> bytes:
        """Send the packets of the introduction but the last, and return that."""
        *packets, last = self._introduction()
        for packet in packets:
            self.call.send(packet)
        return last

    def _numbered(self, values: dict[str, str]) -> None:
        """Hear the numbers of the rows that were introduced; 0: nobody knows what became of it."""
        self.name = values.get("name", self.name)
        for row, job in zip(self.introduced, from_words(values["ids"]), strict=True):
            self.waiting.pop(row.job, None)
            row.job = job
            if job and row.status is None:
                self.waiting[job] = row
            elif not job:
                row.status = FAILED
        self.job = in_words([row.job for row in self.rows])

    # --- following ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Until no row is left: take signals, fork rows that are offered, collect those that have ended."""
        self.call.limit_mono = None
        self.hearing = Hearing(self.call, self._last_of_introduction)
        self.prctl = Prctl()
        self.ignores_children = _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)  # ignored, the kernel would reap the rows, and tell nobody
        asked = [number for number in FORWARDED if _signal.getsignal(number) != _signal.SIG_IGN]
        taken = {*asked, _signal.SIGCHLD, _signal.SIGIO, _signal.SIGCONT}
        _signal.pthread_sigmask(_signal.SIG_BLOCK, taken)
        self.hearing.attend()
        tells = not self.quiet and (self.verbose or (sys.stderr is not None and os.isatty(2)))
        self.tell_mono = time.monotonic() + FIRST_SECONDS if tells else None
        while self.waiting or self.running:
            seconds = self._seconds_to_wait()
            info = _signal.sigwaitinfo(taken) if seconds is None else _signal.sigtimedwait(taken, seconds)
            while info is not None:
                self._got(info)
                info = _signal.sigtimedwait(taken, 0)
            self._collect()
            self._listen()
            if self.tell_mono is not None and self.tell_mono <= time.monotonic():
                self.tell_mono = None
                self._tell_waiting()

    def _seconds_to_wait(self) -> float | None:
        moments = [] if self.tell_mono is None else [self.tell_mono]
        moments += self.hearing.moments()
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    def _tell_waiting(self) -> None:
        if self.waiting and not self.ending:
            from .waitline import write

            at_once = f", {self.limit} at once" if self.limit is not None else ""
            verb = "wait" if len(self.waiting) > 1 else "waits"
            write(f"gpurun: {jobs_in_words(self.waiting)} {verb}: {counted(len(self.rows), 'row')} of {self.name}{at_once}\n")

    def _got(self, info: "_signal.struct_siginfo") -> None:
        number = info.si_signo
        if number == _signal.SIGCONT:
            self.hearing.say("continued")
        elif number in FORWARDED:
            if info.si_code <= SI_USER:
                for _row, child in self.running.values():
                    if not child.is_below_us(info.si_pid) and not child.has(number):
                        child.signal(number)
            if number in ASK_TO_END:
                self.hearing.asked_to_end(number)
                self._give_rest_up(number)

    def _give_rest_up(self, number: int) -> None:
        """Start no more rows; those that run were asked to end."""
        if not self.ending:
            self.ending = number
            for row in self.waiting.values():
                row.status = 128 + number
            self.waiting.clear()
            self._forsake_rest()

    def _forsake_rest(self) -> None:
        name = _signal.strsignal(self.ending) or str(self.ending)
        self.hearing.say("forsake", text=f"given up with its sweep: {name.lower()}")

    def _forsake_hopeless(self) -> None:
        """Give up the rows whose processes end too soon."""
        for row in self.waiting.values():
            if row.is_hopeless():
                self.hearing.say("forsake", row=row.job, text="cannot be started: its process ends at once")

    def _listen(self) -> None:
        for kind, values in self.hearing.messages():
            self._heard(kind, values)
        if self.hearing.is_missed() and self.hearing.reconnect_mono <= time.monotonic():
            self.hearing.reconnect()
            self._say_again()

    def _say_again(self) -> None:
        """Tell the arbiter that was found what the one before may not have heard, or not have written."""
        if self.ending:
            self._forsake_rest()
        for row, child in self.running.values():
            if child.status is not None:
                self._report(row, child.status)

    def _report(self, row: Row, status: int) -> None:
        """Say how a child ended. What is answered names the index: in a world that began anew numbers are others'."""
        self.hearing.say("row", row=row.job, key=self.key, index=row.index, status=status)

    def _heard(self, kind: str, values: dict[str, str]) -> None:
        jobs = from_words(values.get("rows", ""))
        if kind == "offer":
            for job in jobs:
                self._fork(job)
        elif kind == "again":  # an offer was withdrawn: we were stopped, or slow
            self.hearing.say("continued")
        elif kind in ("over", "back"):
            for index in jobs:
                self._reap(index, over=kind == "over")
        elif kind == "end":
            self._ended(jobs, values)
        elif kind == "sweep":
            self._numbered(values)
            self._forsake_hopeless()  # now, by their numbers there
        elif kind == "refused":
            self._ended(list(self.waiting), {"kind": "cancelled", "text": values["text"], "status": str(FAILED)})

    def _ended(self, jobs: list[int], values: dict[str, str]) -> None:
        """Rows ended that had not started."""
        rows = {job: self.waiting.pop(job) for job in jobs if job in self.waiting}
        if not rows:
            return
        if values["kind"] == "wait-limit":
            status = int(str(self.given.get("conflict_status", WAIT_LIMIT)))
            tells = self.verbose or (not self.quiet and sys.stderr is not None and os.isatty(2))
            text = f"not started within the wait limit: {values.get('text', '')}"
        else:
            status = int(values.get("status", 128 + _signal.SIGTERM))
            tells, text = not self.quiet, values.get("text", "")
        for row in rows.values():
            row.status = status
        if tells:
            say(f"{jobs_in_words(rows)}: {text}")

    # --- rows that run ------------------------------------------------------------------------------------------

    def _fork(self, job: int) -> None:
        """Let a child become a row that was offered."""
        row = self.waiting.get(job)
        if row is None or self.ending or row.is_hopeless():
            return
        ours = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            return  # too many processes just now: the offer is withdrawn, and comes again
        if pid == 0:
            self._be_row(row, ours)
        del self.waiting[job]
        child = Child()
        child.pid = pid
        self.running[row.index] = row, child
        for number in _signal.sigpending() & set(ASK_TO_END):
            if not child.has(number):
                child.signal(number)  # it came before the fork

    def _be_row(self, row: Row, sweep: int) -> "NoReturn":
        """In the child: be the launch of this row."""
        status = FAILED
        try:
            self.prctl(PR_SET_PDEATHSIG, _signal.SIGKILL)
            if os.getppid() != sweep:
                os._exit(FAILED)
            self.call.drop()
            if self.ignores_children:
                _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self.mask)
            argv = self.argv if row.line is None else [*argv_of(row.line)]
            form = RowStub if self.request.get("stub") else RowLaunch
            launch = form(self.call.folder, self.sim, self.given, dict(self.request), row.path, argv, 0)
            launch.take_over(row, self.key, self.begun_mono, self.mask, self.ignored, is_first=row is self.rows[0])
        except GpurunError as err:
            status = err.status
            say(err.report())
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        finally:
            os._exit(status)

    def _collect(self) -> None:
        """See which children have ended, and tell how; they are reaped when that was heard."""
        for row, child in self.running.values():
            if child.status is None:
                found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if found is not None:
                    exited = found.si_code == os.CLD_EXITED
                    child.status = found.si_status << 8 if exited else found.si_status
                    self._report(row, child.status)

    def _reap(self, index: int, *, over: bool) -> None:
        """The arbiter knows: the row is over, or its child never became it, and it waits on."""
        found = self.running.get(index)
        if found is None or found[1].status is None:
            return
        row, child = self.running.pop(index)
        status = child.status or 0
        os.waitpid(child.pid, 0)
        if not over and not self.ending:
            row.deaths += status != LATE
            self.waiting[row.job] = row
            if row.is_hopeless():
                self._forsake_hopeless()
        else:
            row.status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _finish(self) -> None:
        """End as the rows did: the first status that is not 0, in order; by the signal that asked for the end."""
        self.call.drop()
        if self.ending:
            _signal.signal(self.ending, _signal.SIG_DFL)
            os.kill(os.getpid(), self.ending)
            _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (self.ending,))
        raise SystemExit(next((row.status for row in self.rows if row.status), 0))


class DetachedSweep(Background, Sweep):
    """A sweep in the background: its caller is told all its numbers."""

    def _stay(self) -> None:
        Sweep.start(self)

    def _enrolled(self) -> None:
        self._let_go()
        self._tell_caller(pack("job", id=self.job, doom=self.doom))
