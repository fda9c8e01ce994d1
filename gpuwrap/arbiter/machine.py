"""The arbiter of the whole machine: the same one, run as root by systemd or another supervisor, with everybody's jobs.

1. The bell is systemd's, where it gives one: not bound, unlinked or judged here. Then an idle arbiter leaves by ending, and
   there is no keeper: systemd starts the next one, and keeps the claims meanwhile. Else it hangs up its own bell, stays, and
   has a keeper.
2. The file of settings is `/etc/gpurun/settings.toml` alone.
3. It never moves to another cgroup, and never leaves for a client that is newer or better off.
"""

import contextlib
import os
import resource
import sys

from ..errors import FAILED, GpurunError
from ..host.freezer import leave_groups
from ..state import machine, paths
from ..state.notes import Kept
from ..state.settings import use_machine_file
from ..state.store import Store
from .bell.socket import Connection
from .compose import compose
from .log import log
from .loop import Arbiter
from .people.crowd import Crowd
from .people.names import Names
from .people.service import DescriptorStore, Given, notify
from .start import Lock, begin, inherited_pouch, open_devices, serve_until_done
from .tuning import rules_of, settings_at_start


def serve_machine(words: list[str]) -> None:
    """Be the arbiter of the whole machine, until told to end. Raises GpurunError if it cannot even begin.

    `words`: "keeper" if it was one.
    """
    os.umask(0o077)
    os.chdir("/")
    os.environ["HOME"] = "/"
    pouch = inherited_pouch() if words == ["keeper"] else None
    given = Given()
    if given.bell is None:
        os.makedirs(paths.MACHINE_RUN, 0o755, exist_ok=True)
        os.chmod(paths.MACHINE_RUN, 0o755)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    use_machine_file(machine.SETTINGS, machine.read_parts)
    state = paths.machine_state()
    assert state is not None
    folder = paths.Folder(state.path, state.fd, paths.MACHINE_BELL)
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write("gpurun-arbiter")
    leave_groups()
    lock = Lock(folder)
    if not lock.take():
        raise GpurunError("machine run: another arbiter answers already")
    store = Store(folder)
    devices, _ = open_devices(folder, None)
    is_service = notify("STATUS=recovering")
    command = [] if is_service else [sys.executable, "-I", "-m", "gpuwrap", "machine", "run", "keeper"]
    settings = settings_at_start(Kept(store), store.live.values())
    arbiter = compose(folder, store, devices, settings, command, None)
    arbiter.mending.on_retire, arbiter.mending.is_alone = lock.release, lock.is_ours
    names = Names(lambda: _names_known(arbiter))
    arbiter.crowd = Crowd(rules_of(settings.people), names, store)
    arbiter.holding.keeps_for_the_line = True
    arbiter.watch(names.fileno(), lambda _mask: names.heard())
    arbiter.bell.given = given.bell
    arbiter.bell.on_knock = lambda connection: _lets_in(arbiter, connection)
    arbiter.stays = given.bell is None
    arbiter.farewell.listen()
    if is_service:
        arbiter.claims.store = DescriptorStore()
    arbiter.claims.says_after_you = False
    arbiter.claims.take_over(given.claims)
    if pouch is not None:
        arbiter.claims.inherit(pouch)
    arbiter.keeper.start()
    if not begin(arbiter, pouch is not None):
        return
    log("ready", f"arbiter {os.getpid()} of the machine" + (" by keeper" if pouch is not None else ""))
    notify("READY=1\nSTATUS=ready")
    serve_until_done(arbiter, lock)


def _lets_in(arbiter: Arbiter, connection: Connection) -> bool:
    """Whether somebody may come in: he has room left, and the kernel can say which process he is."""
    crowd = arbiter.crowd
    assert crowd is not None
    if not crowd.has_room(connection.uid, arbiter.bell.by_uid.get(connection.uid, 0)):
        return False
    if connection.pid == 0:
        text = "this process cannot be told from outside its container: ask from the machine itself"
        arbiter.bell.send_now(connection, "refused", text=text, status=FAILED)
        return False
    return True


def _names_known(arbiter: Arbiter) -> None:
    """The password database has answered: what is shown, and what hangs on names, may be otherwise."""
    crowd, store = arbiter.crowd, arbiter.store
    if crowd is None:
        return
    crowd.answered()
    for job in list(store.live.values()):
        name = crowd.names.shown(job.uid) if job.uid is not None else job.user
        if name != job.user:
            store.change(job, user=name)
    arbiter.turn.replan()
