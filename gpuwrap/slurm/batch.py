"""What sbatch does: jobs in the background (-d), jobs that may be run again (-r), and sweeps (--array, --each).

1. Each has a file for its output, whose folder is made first: where it is missing the job fails without a word [run, 22.05].
2. In the foreground the output is followed and the jobs are waited for; a signal is passed on. Killed ourselves, they go on;
   `gpurun ls` has them.
"""

import os
import signal
import sys
import time
from types import FrameType

from ..errors import SOME_FAILED, GpurunError, UsageError
from ..launch.launch import say
from ..launch.sweep_rows import read_each
from ..stdout import put
from ..sweeps import argv_of, in_words, parse_array
from . import record, tools
from .engine import Slurm
from .following import Follower
from .mapping import Given, Mapped, Request, comment, may_be_requeued, script, shown, slurm_output

# Slurm's default for MaxArraySize is 1001: indices to 1000.
LARGEST_INDEX = 1000
NOBODY_KNOWS = "nobody knows how it ended"


class Batch:
    """One launch that sbatch takes."""

    def __init__(self, given: Given, request: Request, found: Mapped, argv: list[bytes], engine: Slurm) -> None:
        self.given, self.request, self.found, self.argv, self.engine = given, request, found, argv, engine
        self.indices: list[int] | None = None
        self.rows = [argv]
        self.limit: int | None = None
        if "array" in given:
            self.indices, self.limit = parse_array(str(given["array"]))
        elif "each" in given:
            rows, self.limit = read_each(str(given["each"]), [])
            self.indices = [row.index for row in rows]
            self.rows = [list(argv_of(row.line or b"")) for row in rows]
        if self.indices is not None and self.indices[-1] > LARGEST_INDEX:
            what = "a row" if "each" in given else "an index"
            raise UsageError(
                f"--on slurm: {what} of number {self.indices[-1]}: Slurm takes {LARGEST_INDEX} as it is set up by default",
                hint="cut the sweep into parts",
            )
        self.token = os.urandom(6).hex()

    @property
    def pattern(self) -> str:
        """Where the output goes, as Slurm writes it."""
        is_array = self.indices is not None
        if "output" in self.request:
            return slurm_output(str(self.request["output"]), array=is_array)
        folder = record.folder().replace("%", "%%")
        return f"{folder}/logs/{'%A_%a' if is_array else '%j'}.log"

    def options(self) -> list[str]:
        """Return every option of sbatch."""
        requeue = "--requeue" if may_be_requeued(self.given) else "--no-requeue"  # else what must run once runs twice
        words = [f"--output={self.pattern}", "--open-mode=append", requeue]
        if self.indices is not None:
            at_once = f"%{self.limit}" if self.limit is not None else ""
            words.append(f"--array={in_words(self.indices)}{at_once}")
        return [*words, *self.found.options, comment(self.token, self.found, self.request), *self.found.user_options]

    def script(self) -> bytes:
        """Return the script."""
        return script(self.rows, self.found.gpus, self.indices)

    def rehearse(self) -> str:
        """Return what would be run: the command line, and the script that it reads."""
        words = [os.fsencode(word) for word in ("sbatch", "--parsable", *self.options())]
        return f"{shown(words)} <<'END'\n{self.script().decode('utf-8', 'surrogateescape')}END"

    def run(self) -> None:
        """Submit; in the background print the number, else wait and end as the jobs did."""
        self._make_folder()
        number = self._submit()
        text = comment(self.token, self.found, self.request).partition("=")[2]
        log = os.fsencode(self.pattern.replace("%%", "\0").replace("%A", number).replace("%j", number).replace("\0", "%%"))
        count = None if self.indices is None else len(self.indices)
        shown_argv = self.argv if self.argv else [b"sweep"]
        date = time.strftime("%Y-%m-%dT%H:%M:%S")
        record.write(record.new(number, shown_argv, log, comment=text, name=self.found.name, date=date, rows=count))
        record.prune()
        self._warn_of_nice(number)
        if "detach" in self.request:
            if sys.stdout is not None:
                put(f"s{number}\n".encode())
            return
        raise SystemExit(self._follow(number))

    def _submit(self) -> str:
        """Submit, again while the controller does not answer."""
        pause, told = 1.0, False
        while True:
            try:
                return self.engine.submit(self.options(), self.script())
            except tools.SlurmDown as err:
                if not told and "quiet" not in self.given:
                    say(f"{err.text}: trying again" + (f"\n{err.hint}" if err.hint else ""))
                told = True
                time.sleep(pause)
                pause = min(15.0, pause * 2)
                known = self._submitted_before()
                if known is not None:
                    return known

    def _submitted_before(self) -> str | None:
        """A submission whose answer was lost may have been heard."""
        try:
            jobs = self.engine.listed(fresh=True)
        except GpurunError:
            return None
        return next((job.base for job in jobs if job.wish.get("k") == self.token), None)

    def _make_folder(self) -> None:
        folder = os.path.dirname(self.pattern)
        if "%" in folder.replace("%%", ""):
            raise UsageError("--on slurm: -o: the folder must be there before the job has its number")
        folder = folder.replace("%%", "%")
        if "output" in self.request and not os.path.isdir(folder):
            raise GpurunError(f"cannot write: {self.request['output']}: no such file or directory")
        record.folder()

    def _warn_of_nice(self, number: str) -> None:
        """Say if nice cannot work here: where the sum of all weights is small every job has priority 1 [run, 22.05]."""
        if self.found.priority >= 0 or "quiet" in self.given:
            return
        rank = tools.call("squeue", "--noheader", f"--jobs={number}", "--format=%Q").output.split()
        if rank and rank[0] in ("0", "1"):
            say(f"s{number}: this cluster does not heed nice: all jobs have the least priority anyway")

    # --- in the foreground ----------------------------------------------------------------------------------------

    def _follow(self, number: str) -> int:
        """Show what the jobs write until they have ended; their status."""
        got: list[int] = []

        def take(signal_number: int, _frame: FrameType | None) -> None:
            got.append(signal_number)

        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(each) != signal.SIG_IGN:
                signal.signal(each, take)
        if "verbose" in self.given or (sys.stderr is not None and os.isatty(2) and "quiet" not in self.given):
            rows = "" if self.indices is None else f", {len(self.indices)} rows"
            say(f"s{number} is submitted to Slurm{rows}; its output follows, without a terminal and without input")
        pattern = self.pattern.replace("%A", number).replace("%j", number)
        follower = Follower(self.engine, number, self.indices, os.fsencode(pattern))
        asked = 0
        while not follower.is_over():
            while got:
                asked = got.pop(0) if asked in (0, signal.SIGUSR1, signal.SIGUSR2) else got.pop(0) and asked
                self._pass_on(number, asked)
            follower.look()
        if asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) and follower.never_ran():
            signal.signal(asked, signal.SIG_DFL)
            os.kill(os.getpid(), asked)
        statuses = follower.statuses()
        if None in statuses:
            say(f"s{number}: {NOBODY_KNOWS}")
        return next((SOME_FAILED if status is None else status for status in statuses if status != 0), 0)

    def _pass_on(self, number: str, signal_number: int) -> None:
        name = signal.Signals(signal_number).name.removeprefix("SIG")
        try:
            self.engine.cancel(number, name)
            if signal_number not in (signal.SIGUSR1, signal.SIGUSR2):
                tools.call("scancel", "--state=PENDING", number)
        except GpurunError as err:
            say(f"{err.text}: {name} was not passed on")
