"""A turn: what it wants done is done once it is committed, in order, and never if it is lost."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuwrap.arbiter.timers import Timers
from gpuwrap.arbiter.turn import Ledger, Turn
from gpuwrap.errors import StoreError
from gpuwrap.state.paths import Folder
from gpuwrap.state.store import Store
from gpuwrap.wire import unpack


class Made:
    """A turn over a real store, and what came of it."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(Folder(str(folder), os.open(folder, os.O_RDONLY)))
        self.timers = Timers()
        self.turn = Turn(self.store, self.timers)
        self.done: list[object] = []

    def note(self, what: object) -> None:
        self.done.append(what)

    def carry_out(self) -> list[object]:
        self.turn.carry_out(lambda client, packet: self.note((client, *unpack(packet))))
        for each in self.turn.take_due():
            each()
        done, self.done = self.done, []
        return done


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    made = Made(tmp_path)
    yield made
    made.store.close()


def lose(made: Made, monkeypatch: pytest.MonkeyPatch) -> "pytest.RaisesContext[StoreError]":
    def refuse() -> None:
        raise StoreError("write", "state.db", "the disk is full")

    monkeypatch.setattr(made.store, "commit", refuse)
    return pytest.raises(StoreError)


def want_everything(made: Made) -> None:
    made.turn.later(lambda: made.note("later"))
    made.turn.say("anna", "job", id=1)
    made.turn.say(None, "job", id=2)
    made.turn.do(lambda: made.note("done"))
    made.turn.do(lambda: made.turn.say("ben", "done"))


def test_what_a_turn_wants_is_done_in_order_once_it_is_committed(made: Made) -> None:
    with made.turn:
        want_everything(made)
        assert made.done == []
    assert made.carry_out() == ["done", ("anna", "job", {"id": "1"}), ("ben", "done", {}), "later"]
    assert made.carry_out() == []


def test_a_turn_that_is_lost_leaves_nothing_to_be_done(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full, lose(made, full), made.turn:
        want_everything(made)
    assert made.turn.was_lost
    assert made.carry_out() == []
    with made.turn:
        pass
    assert (made.turn.was_lost, made.carry_out()) == (False, [])


def test_a_mistake_within_a_turn_loses_it(made: Made) -> None:
    def mistaken() -> None:
        with made.turn:
            want_everything(made)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        mistaken()
    assert made.carry_out() == []


def test_of_rows_one_message_says_what_is_said_of_all_of_them(made: Made) -> None:
    with made.turn:
        for row in (3, 1, 2):
            made.turn.say_of_row("anna", "end", row, kind="cancelled", text=f"as {row}")
        made.turn.say_of_row("anna", "end", 7, kind="lost", text="gone")
    assert made.carry_out() == [
        ("anna", "end", {"rows": "1-3", "kind": "cancelled", "text": "as 3"}),
        ("anna", "end", {"rows": "7", "kind": "lost", "text": "gone"}),
    ]


def test_a_long_answer_goes_in_pieces(made: Made) -> None:
    text = "ä" * 40_000
    with made.turn:
        made.turn.answer("anna", text)
        assert made.turn.has_said_to("anna")
        assert not made.turn.has_said_to("ben")
    told = made.carry_out()
    assert [kind for _client, kind, _values in told] == ["more", "more", "done"]  # type: ignore[misc]
    assert "".join(values["text"] for _client, _kind, values in told) == text  # type: ignore[misc]


def test_a_ledger_is_as_before_a_turn_that_was_lost(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger: Ledger[str, int] = Ledger(made.turn)
    with made.turn:
        ledger["a"], ledger["b"] = 1, 2
    with monkeypatch.context() as full, lose(made, full), made.turn:
        ledger["a"] = 9
        del ledger["a"]
        ledger["c"] = 3
        assert ledger.take() == [("b", 2), ("c", 3)]
        ledger["b"] = 7
    assert dict(ledger) == {"a": 1, "b": 2}


def test_who_is_forgotten_in_a_turn_that_is_lost_stays_so(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger: Ledger[str, int] = Ledger(made.turn)
    with made.turn:
        ledger["a"], ledger["b"] = 1, 2
    with monkeypatch.context() as full, lose(made, full), made.turn:
        ledger["a"] = 5
        assert len(ledger.take()) == 2
        ledger.forget("a")
    assert dict(ledger) == {"b": 2}


def test_what_is_kept_in_mind_between_two_turns_is_not_lost_with_the_next(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger: Ledger[str, int] = Ledger(made.turn)
    with monkeypatch.context() as full, lose(made, full), made.turn:
        ledger["a"] = 1
    ledger["b"] = 2
    made.turn.stand()
    with monkeypatch.context() as full, lose(made, full), made.turn:
        ledger["c"] = 3
    assert dict(ledger) == {"b": 2}


def test_a_timer_that_fell_due_in_a_turn_that_was_lost_falls_due_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    made.timers.after(0.0, lambda: made.note("due"))
    with monkeypatch.context() as full, lose(made, full), made.turn:
        made.timers.run()
    with made.turn:
        made.timers.run()
    assert made.carry_out() == ["due", "due"]
    assert made.timers.timeout() == -1


def test_a_plan_is_wanted_since_the_first_of_several_changes(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([5.0, 6.0]).__next__)
    assert made.turn.changed_mono is None
    made.turn.replan()
    made.turn.replan()
    assert made.turn.changed_mono == 5.0
