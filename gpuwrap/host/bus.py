"""Questions to systemd over D-Bus, by its own tool as a subprocess: the only place that starts it.

1. Asked is who is there anyway: PID 1, the user manager, logind. Where no systemd runs nothing is started.
2. What they answer is words. What they did is what the kernel says.
3. A question can be waited for with an end (`ask`), or watched by who must not wait (`Question`).

The launch in the background asks too, so nothing is imported that it does not have already.
"""

import os
import select
import time

TOOL = "busctl"
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
LOGIN = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_MOST_WORDS = 4096


class Refused(Exception):
    """It was not done as asked; the text follows the name of who was asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)


def is_there() -> bool:
    """Whether this machine was booted with systemd [sd_booted(3)]."""
    return os.path.isdir("/run/systemd/system")


class Question:
    """A question that is under way: `fileno` becomes readable once it is over. Raises Refused if it cannot be asked."""

    def __init__(self, *words: str) -> None:
        uid = os.geteuid()
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "XDG_RUNTIME_DIR": f"/run/user/{uid}",
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path=/run/user/{uid}/bus",
        }
        self._reading, writing = os.pipe()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, null, 0), *((os.POSIX_SPAWN_DUP2, writing, fd) for fd in (1, 2))]
        try:
            self._pid = os.posix_spawnp(TOOL, [TOOL, *words], environment, file_actions=actions, setsigmask=())
        except OSError as err:
            os.close(self._reading)
            raise Refused(f"cannot be asked: {TOOL}: {str(err.strerror).lower()}") from err
        finally:
            os.close(null)
            os.close(writing)

    def fileno(self) -> int:
        """Return the descriptor that is readable once there is an answer."""
        return self._reading

    def answer(self) -> str:
        """Return what was answered. Raises Refused. Waits until the tool has ended, which it is about to."""
        if not self._pid:
            raise Refused("does not answer")
        text = os.read(self._reading, _MOST_WORDS).decode(errors="replace").strip()
        status = self._end()
        if status:
            raise Refused(f"refuses: {text.splitlines()[0] if text else f'{TOOL}: exit {os.waitstatus_to_exitcode(status)}'}")
        return text

    def give_up(self) -> None:
        """Wait for it no longer. What was asked for may still be done."""
        if self._pid:
            os.kill(self._pid, 9)  # ours and not waited for: the pid is its own
            self._end()

    def _end(self) -> int:
        os.close(self._reading)
        pid, self._pid = self._pid, 0
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:
            return 0  # our parent ignores SIGCHLD, and so do we: the kernel has reaped it


def ask(until_mono: float, *words: str) -> str:
    """Ask, and return what was answered. Raises Refused, at `until_mono` at the latest."""
    question = Question(*words)
    poll = select.poll()
    poll.register(question, select.POLLIN)
    if not poll.poll(max(0.0, until_mono - time.monotonic()) * 1000):
        question.give_up()
    return question.answer()
