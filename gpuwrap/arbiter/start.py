"""Becoming the arbiter: lock, database, keeper, recovery, bell, and only then "ready".

1. Alone means a held lock (flock through filelock, never a soft one, which would survive kill -9), held for life.
2. What the database says is compared with the processes before the bell is opened: another boot id means that nothing of
   it runs; a dead leader means that its job has ended.
3. Claims of running jobs are bound before anything is planned.
4. The keeper stands before anything is changed: who is killed while it recovers is followed by another.
"""

import contextlib
import gc
import os
import socket
import sys
import time
from typing import NoReturn

from ..client.call import knock
from ..client.summon import arbiter_command
from ..errors import GpurunError, StoreError
from ..host import processes
from ..host.devices import Devices
from ..host.freezer import leave_groups
from ..host.simulated import sim_root_of
from ..lifecycle import STARTED, JobState
from ..model import Job
from ..state import paths
from ..state.notes import Kept
from ..state.store import Store
from ..wire import pack
from .bell.seat import Seat
from .birth import explained
from .compose import compose
from .keeper import KEPT_FD
from .log import log
from .loop import Arbiter
from .pausing import forgotten
from .shutdown import RESTARTED
from .tuning import settings_at_start

LOCK_SECONDS = 10.0
LOCK_POLL_SECONDS = 0.01
CLAIM_SECONDS = 1.0
# How often a disk that is full is tried again.
DISK_SECONDS = 1.0
MOST_LOG_BYTES = 1 << 20
# The third start by a keeper within this time gives up: something kills every arbiter.
CRASH_WINDOW_SECONDS = 60.0
CRASHES_BORNE = 2
# A plan of thousands makes thousands of records, none in cycles: looking through all that lives each time would cost more.
RECORDS_BETWEEN_COLLECTIONS = 50_000


def main(words: list[str]) -> NoReturn:
    """Be the arbiter of a state folder.

    `words`: the folder's path, the simulated GPUs' spec or "", and "keeper" if it was one, else the pid of who summoned it.
    """
    path, sim, start = words
    pouch = inherited_pouch() if start == "keeper" else None
    _settle_process()
    try:
        serve(path, sim or None, pouch, [] if start == "keeper" else list(processes.ancestors(int(start))))
    except GpurunError as err:
        log("start", err.text)
        _report(pack("failed", text=err.text, hint=err.hint))
        sys.exit(1)
    sys.exit(0)


def serve(path: str, sim: str | None, pouch: socket.socket | None, summoners: list[processes.Stat]) -> None:
    """Take the lock, recover, serve, leave. Raises GpurunError if it cannot even begin.

    `pouch`: what a keeper kept of its arbiter's claims, None if a client summoned us: the first of `summoners`, its
    ancestors after it.
    """
    by_keeper = pouch is not None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    folder = paths.Folder(path, fd)
    lock = Lock(folder)
    try:
        if not lock.take():
            _report(pack("ready"))  # another arbiter answers the bell
            return
        store = Store(folder)
    except StoreError:
        forgotten.free_all(folder, sim_root_of(folder.path) if sim is not None else None)
        raise
    devices, sim_root = open_devices(folder, sim)
    command = [*arbiter_command(path, sim), "keeper"]
    settings = settings_at_start(Kept(store), store.live.values())
    arbiter = compose(folder, store, devices, settings, command, sim_root)
    arbiter.mending.on_retire, arbiter.mending.is_alone = lock.release, lock.is_ours
    arbiter.farewell.listen()
    arbiter.orphans.adopters.note_birth(summoners)
    if pouch is not None:
        arbiter.claims.inherit(pouch)
    arbiter.keeper.start()
    try:
        begins = begin(arbiter, by_keeper)
    except BaseException:
        arbiter.keeper.dismiss()
        forgotten.free_all(folder, sim_root)
        raise
    if not begins:
        return
    log("ready", f"arbiter {os.getpid()}" + (" by keeper" if by_keeper else ""))
    _report(pack("ready"))
    arbiter.lodging.settle()
    serve_until_done(arbiter, lock)


def serve_until_done(arbiter: Arbiter, lock: "Lock") -> None:
    """Serve, and leave in good order."""
    arbiter.timers.after(forgotten.AFTER_SECONDS, arbiter.pausing.free_forgotten)
    arbiter.deciding.await_clients()
    arbiter.turn.replan()
    arbiter.run()
    arbiter.store.close()
    lock.release()


def begin(arbiter: Arbiter, by_keeper: bool) -> bool:
    """Recover and hang up the bell; false if keepers start arbiters too often, and nobody shall follow this one."""
    store = arbiter.store
    _record(arbiter, store, by_keeper)
    gives_up = by_keeper and store.keeper_starts_within(CRASH_WINDOW_SECONDS) > CRASHES_BORNE
    if gives_up:
        arbiter.keeper.dismiss()
    with arbiter.turn:
        recover(arbiter)
        arbiter.tuning.remember()
        arbiter.orphans.look()
        arbiter.order.cancel_failed()
    arbiter.follow([*arbiter.seats, *store.live])
    arbiter.turn.carry_out(arbiter.bell.send)
    arbiter.catch_up()
    arbiter.holding.let_go()
    if gives_up:
        log("give-up", "started too often by keepers: the next gpurun command summons another arbiter")
        with arbiter.turn:
            arbiter.pausing.thaw_everything("the arbiter gives up")
        arbiter.turn.carry_out(arbiter.bell.send)
        return False
    gc.freeze()
    gc.set_threshold(RECORDS_BETWEEN_COLLECTIONS)
    arbiter.bell.open()
    return True


def _record(arbiter: Arbiter, store: Store, by_keeper: bool) -> None:
    """Write down that we started. A keeper's arbiter waits for a disk that is full: nobody else may come for who is paused."""
    while True:
        try:
            with store.batch():
                store.record_arbiter(os.getpid(), by_keeper)
        except StoreError as err:
            told = explained(arbiter.folder, err)
            if not by_keeper or not store.live or told is not err or arbiter.farewell.is_told:
                raise told from err
            log("start", err.text)
            time.sleep(DISK_SECONDS)
        else:
            return


def recover(arbiter: Arbiter) -> None:
    """Bring what the database says in line with what is alive. What hangs on those that live is made by followers."""
    _claim_standing(arbiter)
    # Known before anybody's leftovers are looked for: a client that waits inside a job carries that job's marker.
    boot = processes.boot_id()
    arbiter.leaders |= {job.identity.pid: job.id for job in arbiter.store.live.values() if job.identity.boot_id == boot}
    for job in list(arbiter.store.live.values()):
        if job.id not in arbiter.store.live:
            continue  # the end of another cancelled it (--after)
        if job.identity.boot_id != processes.boot_id():
            if job.state is not JobState.ENDED:
                arbiter.enforcer.lose(job, RESTARTED)
            else:
                arbiter.enforcer.release(job)
            continue
        if arbiter.sweeps.holds(job):
            arbiter.sweeps.restore(job)
            continue
        pidfd, has_gone = _leader_of(job)
        seat = arbiter.seating.adopt(job, None, pidfd)
        arbiter.left_behind.recall(job)
        if job.state is JobState.ENDED:
            arbiter.enforcer.look_for_leftovers(job)
        elif has_gone:
            if job.state in STARTED:
                arbiter.left_behind.search(job)
            arbiter.enforcer.leader_ended(job.id)
        else:
            _recognise(arbiter, job, seat)
    arbiter.pausing.recover_ended()
    arbiter.sweeps.end_abandoned()


def _leader_of(job: Job) -> tuple[int | None, bool]:
    """Open a pidfd of a job's leader, if there is room for it; whether it has gone."""
    try:
        pidfd = processes.open_pidfd(job.identity)
    except OSError:
        return None, False
    return pidfd, pidfd is None


def _claim_standing(arbiter: Arbiter) -> None:
    """Bind the claims of the grants that stand.

    A predecessor that was killed loses its lock a moment before its claims: the kernel closes descriptors one by one.
    """
    until = time.monotonic() + CLAIM_SECONDS
    while not arbiter.holding.stand():
        if time.monotonic() > until:
            log("claim", "another world has claimed a GPU that is granted here: its claim is awaited")
            return
        time.sleep(LOCK_POLL_SECONDS)
        arbiter.claims.forget_unwanted()


def _recognise(arbiter: Arbiter, job: Job, seat: Seat) -> None:
    """Find out of a job that lives what no row says."""
    arbiter.pausing.recover(job)
    stat = processes.read_stat(job.identity.pid)
    seat.stopped = job.state not in STARTED and stat is not None and stat.state in "Tt"
    if job.state in STARTED:
        arbiter.scarcity.watch(job)
        arbiter.orphans.remember_ancestors(job)


def inherited_pouch() -> socket.socket | None:
    try:
        pouch = socket.socket(fileno=KEPT_FD)
    except OSError:
        return None
    pouch.set_inheritable(False)
    return pouch


class Lock:
    """The lock that says who is the arbiter."""

    def __init__(self, folder: paths.Folder) -> None:
        import filelock  # 45 ms: only the arbiter pays for it

        self._folder = folder
        path = os.path.join(folder.path, paths.LOCK)
        self._busy = filelock.Timeout
        self._inode = 0
        self._lock = filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False, fallback_to_soft=False)

    def take(self) -> bool:
        """Take the lock; false once another arbiter answers. Raises GpurunError if its holder is mute."""
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                self._lock.acquire()
                self._inode = self._inode_at_path()
                return True
            except self._busy:
                sock = knock(self._folder, 0.5)
                if sock is not None:
                    sock.close()
                    return False
            except OSError as err:
                raise StoreError("lock", paths.LOCK, str(err.strerror).lower()) from err
            if time.monotonic() > until:
                raise GpurunError("cannot start an arbiter: the lock is held by one that does not answer")
            time.sleep(LOCK_POLL_SECONDS)  # it is just coming up, or just leaving

    def is_ours(self) -> bool:
        """Whether the lock still stands at its path: if it was removed, another may have one."""
        return self._inode == self._inode_at_path() != 0

    def _inode_at_path(self) -> int:
        try:
            return os.stat(paths.LOCK, dir_fd=self._folder.fd).st_ino
        except OSError:
            return 0

    def release(self) -> None:
        """Let the next arbiter come."""
        self._lock.release()


def open_devices(folder: paths.Folder, sim: str | None) -> tuple[Devices, str | None]:
    if sim is not None:
        from ..host.simulated import SimulatedDevices

        simulated = SimulatedDevices(sim, folder.path, os.fstat(folder.fd).st_ino)
        return simulated, simulated.root
    from ..host.gpus import NvidiaDevices

    return NvidiaDevices(), None


def _settle_process() -> None:
    """Leave behind what came with the one who summoned us: its name and group, a keeper's pipe, a large log."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write("gpurun-arbiter")
    leave_groups()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null > 2:
        os.close(null)
    with contextlib.suppress(OSError):
        if os.fstat(2).st_size > MOST_LOG_BYTES:
            os.ftruncate(2, 0)


def _report(packet: bytes) -> None:
    """Tell the one who summoned us, who waits on our stdout; a keeper's is /dev/null."""
    with contextlib.suppress(OSError):
        os.write(1, packet)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    if null > 2:
        os.close(null)
