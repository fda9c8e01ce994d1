"""The arbiter's loop: wake, handle, plan, commit, follow, answer.

1. Everything one wake brings is one transaction; answers and signals go out after it is committed, and then what nobody waits
   for is done. If it cannot be committed, nothing of it has happened (`turn`). What hangs on the jobs that it touched is made
   as their rows say, in either case. An offer, which is a question, goes out before, and even
   before the plan (`ahead`): who takes it within a millisecond is let go by the same commit.
2. Nothing here waits but epoll; what may hang (the driver) is asked elsewhere.
3. The arbiter leaves when no job and no grant is left for `IDLE_SECONDS`: it takes the bell away, looks once more, then
   lets its lock go.
"""

import select
import time
from collections.abc import Callable, Iterable, Sequence

from ..errors import StoreError
from ..host import peers, processes
from ..host.devices import Devices
from ..model import Job
from ..state.notes import Kept
from ..state.paths import DATABASE, Folder
from ..state.settings import Settings
from ..state.store import Store
from .answers.answers import Answers, Poisoned
from .bell.ahead import Ahead
from .bell.room import Room, is_lack_of_room
from .bell.seating import Seating
from .bell.socket import Bell, Connection
from .birth import explained
from .errands import Errands
from .farewell import Farewell
from .jobs.after import Order
from .jobs.asking import Asking
from .jobs.enforce import Enforcer
from .jobs.killing import Killing
from .jobs.ladders import Ladders
from .jobs.limits import Limits
from .jobs.memory import Memory
from .jobs.patience import Patience
from .jobs.rerunning import Reruns
from .jobs.scarcity import Scarcity
from .jobs.sweeps import Sweeps
from .keeper import Keeper
from .kin.containers import Containers
from .kin.known import Known
from .kin.leftovers import Leftovers, Survivors
from .kin.links import Links
from .kin.marker import Markers
from .kin.members import Members
from .kin.orphans import Orphans
from .kin.owners import Owners
from .kin.walk import Walk
from .lodging import Lodging
from .log import log
from .mending import Mending
from .pausing.pausing import Pausing
from .people.crowd import Asker, Crowd
from .pruning import Pruning
from .seeing.astray import Astray
from .seeing.deciding import Deciding
from .seeing.expectations import Expectations
from .seeing.observe import Observer
from .seeing.sampling import Sampling
from .seeing.views import bounds_of
from .shutdown import Shutdown
from .telling.ends import Ends
from .telling.figures import Figures
from .telling.gpus import Inventory
from .telling.wait_line import Lines
from .timers import Timer, Timers
from .tuning import Tuning
from .turn import Follower, Turn
from .worlds.claims import Claims
from .worlds.holding import Holding

IDLE_SECONDS = 30.0
RETRY_SECONDS = 0.2
# After so long without a batch that failed the disk is taken to have room again, though nothing was written.
FORGET_SECONDS = 5.0
# How long the arbiter is without a keeper that died, or could not be had, before it starts another.
KEEPER_SECONDS = 0.2
# For so long nothing else is done while the answer to an offer is on its way: clients take less, unless they stand still.
ANSWER_SECONDS = 0.001


class Arbiter:
    """The one process that decides in a world."""

    def __init__(
        self,
        folder: Folder,
        store: Store,
        devices: Devices,
        settings: Settings,
        keeper_command: list[str],
        sim_root: str | None,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.store, self.notes = store, Kept(store)
        self.devices = devices
        self.sim_root = sim_root
        self.crowd: Crowd | None = None
        """The users of the machine's queue; None in a queue of one's own."""
        self.stays = False
        """Whether nobody would start another when it is rung for: then it does not leave."""
        self.timers = Timers()
        self.turn = Turn(store, self.timers)
        self.room = Room()
        self.seating = Seating(self.turn, self.timers, self, store, self.room, lambda: self.bell.connections)
        self.seats, self.away = self.seating.seats, self.seating.away
        self.leaders, self.leftovers = self.seating.leaders, self.seating.leftovers
        self.walk, self.known = Walk(self.leaders), Known()
        lineages = processes.Lineages()
        self.links = Links(self.known, self.walk, Markers(sim_root))
        self.orphans = Orphans(store, self.known, self.walk, self.links, self.leaders, lineages)
        self.members = Members(store, self.known, self.walk, self.links, self.leaders, lineages, self.holders)
        self.containers = Containers(self.members, self.links)
        self.owners = Owners(store.live, store.holding, self.known, self.links)
        self.bounds = bounds_of(settings)
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self.unwritten: StoreError | None = None
        """Why batches cannot be committed, until one was that had something to write, or none failed for a while."""
        self._lost_mono = 0.0
        self._has_offered = False
        self._idle_timer: Timer | None = None
        self._leaving = False
        self.figures, self.ends = Figures(), Ends(self)
        self.ahead = Ahead(self)
        self.expectations = Expectations(store)
        self.deciding = Deciding(self)
        self.claims = Claims(self, self.timers, self._claims_changed)
        self.holding = Holding(self.turn, store, self.claims)
        self.ladders = Ladders(self.timers)
        self.followers: Sequence[Follower] = ()
        """Who makes what hangs on a job as its row says, in order."""
        self.enforcer = Enforcer(self)
        self.killing = Killing(self)
        self.asking = Asking(self)
        self.pausing = Pausing(self)
        self.reruns = Reruns(self)
        self.limits = Limits(self)
        self.order = Order(self)
        self.patience = Patience(self)
        self.pruning = Pruning(self)
        self.left_behind = Leftovers(
            store, self.leftovers, self.known, self.links, self.owners, self.notes.kin, lambda: self.deciding.look
        )
        self.survivors = Survivors(
            self.known, self.holders, self.leaders, self, self.room, lambda job_id: self.enforcer.survivor_ended(job_id)
        )
        self.memory = Memory(self)
        self.mending = Mending(self)
        self.astray = Astray(self)
        self.sweeps = Sweeps(self)
        self.sampling = Sampling(self)
        self.observer = Observer(
            store.live, store.holding, self.seats, self.known, self.owners, settings["ignore"], nested=store.nested,
            away=self.away,
        )
        self.observer.strangers.recall(self.notes.idle_strangers.get(), time.monotonic())
        self.answers = Answers(self)
        self.bell = Bell(folder, self, self.answers.answer, self.answers.gone, self.room)
        self.lines = Lines(self)
        self.inventory = Inventory(self)
        self.tuning = Tuning(self)
        self.keeper = Keeper(self, keeper_command, self.claims.pouch.inner.fileno(), self._lacks_keeper)
        self.errands = Errands(self, self.timers)
        self.shutdown, self.scarcity = Shutdown(self.turn, store, self.errands), Scarcity()
        self.farewell, self.lodging = Farewell(self), Lodging(self)
        self.watch(devices.fileno(), lambda _mask: self.deciding.look_over())

    # --- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until nothing is left to do."""
        self.step([])
        while not self._leaving:
            if self._has_offered and (waiting := self._epoll.poll(ANSWER_SECONDS)):
                self.step(waiting)  # who answers the offer waits for us; what is due waits for nobody
            self.catch_up()
            if not self._leaving:
                self.step(self._epoll.poll(self.timers.timeout()))
        self.catch_up()
        self.keeper.dismiss()

    def step(self, ready: list[tuple[int, int]]) -> None:
        """Handle one wake."""
        self._has_offered = False
        self.ahead.over()
        if self.crowd is not None:
            self.crowd.count(self.store.holding.values(), self.deciding.look.samples if self.deciding.look else ())
        try:
            with self.turn:
                self.mending.look()
                self.tuning.check()
                self.timers.run()
                self._serve(ready)
                self.deciding.decide()
                self._has_offered = self.ahead.has_offered()
                if self._has_offered:
                    answers = self._epoll.poll(ANSWER_SECONDS)
                    self._serve(answers)
                    self.deciding.decide()
                    self._has_offered = self.ahead.has_offered() or not answers
                self.deciding.note_look()
                if self.crowd is not None:
                    self.crowd.write_down(self.turn.do)
        except (StoreError, Poisoned, OSError) as err:
            if isinstance(err, OSError):
                if not is_lack_of_room(err):
                    raise
                err = StoreError("write", DATABASE, str(err.strerror).lower())
            self._not_committed(err)
            return
        self.follow(self.store.touched)
        self.mending.committed()
        self.answers.committed()
        self.turn.carry_out(self.bell.send)
        self.bell.let_in()
        if self.unwritten is not None and (self.store.has_written or time.monotonic() > self._lost_mono + FORGET_SECONDS):
            self.unwritten = None
            self.lines.refresh_soon()
        self._arm()

    def follow(self, job_ids: Iterable[int]) -> None:
        """Make what hangs on jobs as their rows say."""
        for job_id in dict.fromkeys(job_ids):
            job = self.store.live.get(job_id)
            for follower in self.followers:
                follower.follow(job_id, job)

    def _serve(self, ready: list[tuple[int, int]]) -> None:
        """Call back for every descriptor that is ready: who comes first of all, or one user's crowd would keep others out."""
        bell = self.bell.listens_at()
        self.bell.begin_wake()
        for fd, mask in sorted(ready, key=lambda each: each[0] != bell) if len(ready) > 1 else ready:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(mask)

    def _not_committed(self, err: StoreError | Poisoned) -> None:
        """The batch did not happen: all is as before it, who asked in it hears so, and the rest is tried again soon."""
        err = explained(self.folder, err) if isinstance(err, StoreError) else err
        self.figures.not_committed()
        is_news = self.unwritten is None or self.unwritten.text != err.text
        if is_news:  # or a disk that stays full would be filled by saying so
            log("store", err.text)
        if isinstance(err, StoreError):
            self.mending.doubt(err)
        if isinstance(err, StoreError):
            self.unwritten, self._lost_mono = err, time.monotonic()
            self.answers.refuse_all(err)
            self.answers.birth.refuse_all(err)
            self.lines.batch_lost(news=is_news)
        else:
            self.answers.refuse_poisoned(err)
        self.answers.look_on()
        self.turn.speak(self.bell.send)
        self.bell.let_in()
        self.turn.stand()
        self.follow([*self.seats, *self.store.live, *self.store.touched])  # what is said now is said with the next that is
        self.turn.replan()
        self._arm()
        time.sleep(RETRY_SECONDS)  # what woke us is still there and would wake us at once

    # --- descriptors --------------------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call back when a descriptor is ready."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, events)

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor; before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def catch_up(self) -> None:
        """Do what nobody waits for."""
        for action in self.turn.take_due():
            try:
                action()
            except OSError as err:  # a look that could not be had: another comes
                if not is_lack_of_room(err):
                    raise
                log("room", f"not done for want of a descriptor: {err}")
        if not self.bell.is_in_place() and self.store.is_in_place():
            log("bell", "somebody removed the bell: hanging up another")
            self.bell.open()

    # --- what is asked for everywhere ---------------------------------------------------------------------------

    def name_of(self, uid: int) -> str:
        """Return what to call a user; the machine's queue never asks the password database itself."""
        return processes.user_name(uid) if self.crowd is None else self.crowd.names.shown(uid)

    def asker(self, connection: Connection) -> Asker:
        """Return who asks, as the kernel says it."""
        if connection.asker is None:
            at_home = all(peers.is_of_our_namespaces(connection.pid))
            connection.asker = Asker(connection.uid, peers.groups_of(connection.socket), at_home)
        return connection.asker

    def holders(self, job: Job) -> list[tuple[int, int | None]]:
        """Return a job's processes that the driver named at the last look."""
        return self.owners.holders(self.deciding.look, job) if self.deciding.look is not None else []

    def total_bytes(self, uuid: str) -> int | None:
        """Return the memory of a GPU."""
        for sample in self.deciding.look.samples if self.deciding.look else ():
            if sample.uuid == uuid:
                return sample.total_bytes
        return None

    def _claims_changed(self) -> None:
        self.holding.stand()
        self.turn.replan()

    # --- time ---------------------------------------------------------------------------------------------------

    def _arm(self) -> None:
        """Set the timers for the next look and for leaving."""
        self.sampling.arm()
        if self.store.live or self.answers.busy():
            if self._idle_timer is not None:
                self._idle_timer.cancel()
                self._idle_timer = None
        elif self._idle_timer is None:
            self._idle_timer = self.timers.after(0.0 if self.mending.has_retired else IDLE_SECONDS, self._leave)

    def _leave(self) -> None:
        self._idle_timer = None
        if self.stays:
            return
        if not self.store.live and self.bell.close():
            log("leave", "no job and no grant is left")
            self._leaving = True

    def make_room(self) -> None:
        """Leave to a newer arbiter, which reads everything from the database. Called inside a batch; answers still go out."""
        self.turn.do(self.stop_at_once)

    def stop_at_once(self) -> None:
        """Leave after this wake; jobs, claims and pauses are left to the next arbiter."""
        self.bell.retire()
        self._leaving = True

    def _lacks_keeper(self) -> None:
        if not self.farewell.has_begun:
            self.timers.after(KEEPER_SECONDS, self.keeper.start)
