"""The launch in the background (`-d`): a stub of its own session, which registers, waits and runs the program.

1. With -n the caller is told when the job starts.
2. stdin is empty; stdout and stderr are the log from the moment the number is known.
"""

from ..wire import pack
from .background import Background
from .launch import Launch
from .output import Output, default_output, make_log_folder
from .stub import Stub


class Detached(Background, Stub):
    """A stub in the background."""

    def start(self) -> None:
        """Open the log first."""
        if self.output is None and "output" not in self.request:
            make_log_folder(self.call.folder)
            self.request["output"] = default_output(self.call.folder)
            self.output = Output(str(self.request["output"]))
        super().start()

    def _stay(self) -> None:
        Launch.start(self)

    # --- in the stub --------------------------------------------------------------------------------------------

    def _registered(self, job: str) -> None:
        super()._registered(job)
        self._let_go()
        if self.output is not None:
            self.output.redirect(int(job))
            self.output = None  # the program inherits it
        if "nonblock" not in self.given:
            self._tell_caller(pack("job", id=job, doom=self.doom))

    def _become(self, values: dict[str, str]) -> None:
        self._tell_caller(pack("job", id=self.job, doom=self.doom))
        super()._become(values)
