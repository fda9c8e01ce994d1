"""One turn: what a wake brings as one transaction, and what that wants done.

1. A handler writes rows and says what shall be done: nothing of it happens before the turn is committed, and nothing ever if
   it is lost. Then the rows are as before, timers that fell due fall due again, and there is nothing to undo.
2. What was wanted is done in this order: `do`, which cannot be taken back (signals, letting go of descriptors), then what was
   said, then, once the answers are on their way, what nobody waits for (`later`).
3. What is kept in mind beside the rows and hangs on a turn stands in a `Ledger`, which is lost with it.
4. What hangs on a job is made from its row by followers: after a commit, after a turn that was lost, and at the start.
5. One turn object serves all turns, since there is one at a time: whoever may write or speak holds it.
"""

import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Generic, Protocol, TypeVar

from ..model import Job
from ..state.store import Store
from ..sweeps import in_words
from ..wire import CHUNK, pack
from .timers import Timers

K = TypeVar("K")
V = TypeVar("V")

Client = Any
"""Whom something is said to, a connection of the bell: here nothing is known of it."""


class Follower(Protocol):
    """Who keeps what hangs on a job: timers, watched descriptors, claims."""

    def follow(self, job_id: int, job: Job | None) -> None:
        """Make what hangs on this job as its row says; None: it has gone. Idempotent; writes nothing; at any time."""


class Turn:
    """The turn that is being made."""

    def __init__(self, store: Store, timers: Timers) -> None:
        self._store = store
        self._timers = timers
        self._do: list[Callable[[], None]] = []
        self._said: list[tuple[Client, bytes]] = []
        self._rows: dict[tuple[object, ...], tuple[Client, str, list[int], dict[str, object]]] = {}
        self._later: list[Callable[[], None]] = []
        self._due: list[Callable[[], None]] = []
        self._ledgers: dict[Ledger[Any, Any], None] = {}
        self.was_lost = False
        """Whether the last turn was: until one is committed nobody is offered anything before it is."""
        self.changed_mono: float | None = None
        """Since when something has changed that no plan knows; None: the plan that is in force knows everything."""

    # --- what handlers want done ---------------------------------------------------------------------------------

    def say(self, client: Client | None, kind: str, /, **values: object) -> None:
        """Say something once this is committed; to nobody if the client has gone."""
        if client is not None:
            self._said.append((client, pack(kind, **values)))

    def say_of_row(self, client: Client | None, kind: str, job_id: int, /, **values: object) -> None:
        """Say something about a row of a sweep: one message for all of which the same is said, with the text of the first."""
        if client is not None:
            key = (client, kind, values.get("kind"), values.get("status"))
            self._rows.setdefault(key, (client, kind, [], values))[2].append(job_id)

    def answer(self, client: Client, text: str) -> None:
        """Answer a verb with a text of any length, in pieces: `more`…, `done`."""
        pieces = [text[at : at + CHUNK // 4] for at in range(0, len(text), CHUNK // 4)] or [""]
        for piece in pieces[:-1]:
            self.say(client, "more", text=piece)
        self.say(client, "done", text=pieces[-1])

    def do(self, effect: Callable[[], None]) -> None:
        """Have done what cannot be taken back, before the answers."""
        self._do.append(effect)

    def later(self, effect: Callable[[], None]) -> None:
        """Have done what nobody waits for."""
        self._later.append(effect)

    def replan(self) -> None:
        """Something has changed that may let a job start: a look, then a plan."""
        if self.changed_mono is None:
            self.changed_mono = time.monotonic()

    # --- the loop's side -----------------------------------------------------------------------------------------

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Commit. Raises StoreError if that cannot be; then, as after any error, nothing has happened."""
        self.was_lost = True
        try:
            if kind is None:
                self._store.commit()
                self.was_lost = False
        finally:
            if self.was_lost:
                self._throw_away()
            else:
                self._timers.committed()
                self._due += self._later
                self._later = []
                self.stand()

    def stand(self) -> None:
        """What ledgers hold now is no more lost with this turn."""
        for ledger in self._ledgers:
            ledger.stand()
        self._ledgers.clear()

    def _throw_away(self) -> None:
        self._store.undo()
        self._do.clear()
        self._said.clear()
        self._rows.clear()
        self._later.clear()
        for ledger in self._ledgers:
            ledger.put_back()
        self._ledgers.clear()
        self._timers.undone()

    def carry_out(self, send: Callable[[Client, bytes], None]) -> None:
        """Do and say what a turn wanted that was committed."""
        effects, self._do = self._do, []
        for effect in effects:
            effect()
        self.speak(send)

    def speak(self, send: Callable[[Client, bytes], None]) -> None:
        """Send what was said; after a turn that was lost, to those whom it was refused."""
        said, self._said = self._said, []
        rows, self._rows = self._rows, {}
        said += [(client, pack(kind, rows=in_words(sorted(ids)), **values)) for client, kind, ids, values in rows.values()]
        for client, packet in said:
            send(client, packet)

    def has_said_to(self, client: Client) -> bool:
        """Whether anything will be said to a client once this is committed."""
        return any(client is other for other, _packet in self._said)

    def take_due(self) -> list[Callable[[], None]]:
        """Return what nobody waits for, to be done now."""
        due, self._due, self._later = self._due + self._later, [], []
        return due

    def join(self, ledger: "Ledger[Any, Any]") -> None:
        """A ledger was written in."""
        self._ledgers[ledger] = None


class Ledger(MutableMapping[K, V], Generic[K, V]):
    """What is kept in mind beside the rows, by whom it concerns: what a turn that is lost has changed in it is put back."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._now: dict[K, V] = {}
        self._before: dict[K, tuple[V] | None] = {}

    def __hash__(self) -> int:
        return id(self)

    def __getitem__(self, key: K) -> V:
        return self._now[key]

    def __setitem__(self, key: K, value: V) -> None:
        self._note(key)
        self._now[key] = value

    def __delitem__(self, key: K) -> None:
        self._note(key)
        del self._now[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)

    def take(self) -> list[tuple[K, V]]:
        """Take everything out."""
        items = list(self._now.items())
        for key, _value in items:
            del self[key]
        return items

    def forget(self, key: K) -> None:
        """It concerns nobody any more, whatever becomes of the turn."""
        self._now.pop(key, None)
        self._before.pop(key, None)

    def _note(self, key: K) -> None:
        if key not in self._before:
            self._before[key] = (self._now[key],) if key in self._now else None
            self._turn.join(self)

    def stand(self) -> None:
        """What it holds now is as of a turn that was committed."""
        self._before.clear()

    def put_back(self) -> None:
        """The turn was lost."""
        for key, before in self._before.items():
            if before is None:
                self._now.pop(key, None)
            else:
                self._now[key] = before[0]
        self._before.clear()
