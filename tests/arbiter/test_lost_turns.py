"""Whatever is asked: lose the turn that it came in, let what follows happen, and all ends where it would have ended.

Each kind of request has a story: what is there before, what is said, and what the client does when it hears `again`, is
refused or loses its connection, as real clients do (a refused one is asked once more, by a person or a script).
"""

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
from inprocess import Client, five_good_wakes, full_disk, made_arbiter, started, wake

from gpuwrap.arbiter.answers.table import KINDS, Lost
from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.lifecycle import JobState

END_STATUS = 0x300
"""wait(2): it exited with 3."""


@dataclass
class Stage:
    """An arbiter, a program that runs as job 1 or not, and who asks."""

    arbiter: Arbiter
    leader: "subprocess.Popen[bytes]"
    client: Client
    heard: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def ask(self, kind: str, **values: object) -> None:
        self.client.ask(kind, **values)
        self.listen()

    def listen(self) -> None:
        wake(self.arbiter, self.arbiter.devices.fileno())
        self.heard += self.client.heard()

    def come_back(self) -> None:
        """Connect again."""
        self.client.close()
        self.client = Client(self.arbiter)

    def kinds(self) -> list[str]:
        return [kind for kind, _values in self.heard]


class Story(NamedTuple):
    """What is there before, and what is said then."""

    before: Callable[[Stage], None]
    said: Callable[[Stage], None]


def nothing(_stage: Stage) -> None:
    return None


def one_runs(stage: Stage) -> None:
    started(stage.arbiter, stage.leader)


def one_waits(stage: Stage) -> None:
    """Job 1 has the GPU, job 2 is the client's."""
    one_runs(stage)
    five_good_wakes(stage.arbiter)
    register(stage)


def register(stage: Stage) -> None:
    stage.ask("register", key="k", offset=0)


def one_is_offered(stage: Stage) -> None:
    stage.ask("register", key="k", offset=0, gpus=0)
    five_good_wakes(stage.arbiter)
    stage.listen()
    assert "offer" in stage.kinds()


def one_has_taken(stage: Stage) -> None:
    one_is_offered(stage)
    stage.ask("take")
    assert stage.kinds()[-1] == "go"


def a_stub_runs(stage: Stage) -> None:
    stage.ask("register", key="k", offset=0, gpus=0, stub=1, retries=0)
    five_good_wakes(stage.arbiter)
    stage.ask("take")
    stage.ask("started", attempt=1, child=1)


def rows_are_known(stage: Stage) -> None:
    stage.ask("rows", indices="1-3")


def a_sweep_waits(stage: Stage) -> None:
    one_runs(stage)
    five_good_wakes(stage.arbiter)
    rows_are_known(stage)
    sweep(stage)


def a_sweep_is_offered(stage: Stage) -> None:
    rows_are_known(stage)
    stage.ask("sweep", key="s", offset=0, count=3, gpus=0)
    five_good_wakes(stage.arbiter)
    stage.listen()


def sweep(stage: Stage) -> None:
    stage.ask("sweep", key="s", offset=0, count=3)


def asks(kind: str, **values: object) -> Callable[[Stage], None]:
    return lambda stage: stage.ask(kind, **values)


STORIES: dict[str, Story] = {
    "register": Story(one_runs, register),
    "rehearse": Story(one_runs, asks("rehearse", key="k", offset=0)),
    "take": Story(one_is_offered, asks("take")),
    "failed": Story(one_has_taken, asks("failed", status=127, cause="no such file")),
    "release": Story(one_has_taken, asks("release", key="k", failed=0)),
    "continued": Story(one_waits, asks("continued")),
    "started": Story(a_stub_runs, asks("started", attempt=1, child=1)),
    "ended": Story(a_stub_runs, asks("ended", attempt=1, status=END_STATUS)),
    "pending": Story(a_stub_runs, asks("pending")),
    "rows": Story(nothing, rows_are_known),
    "sweep": Story(lambda stage: (one_runs(stage), rows_are_known(stage))[0], sweep),
    "become": Story(a_sweep_is_offered, asks("become", row=1, key="s:1")),
    "row": Story(a_sweep_waits, asks("row", row=2, key="s", index=1, status=0)),
    "forsake": Story(a_sweep_waits, asks("forsake", text="given up")),
    "kill": Story(one_waits, asks("kill", jobs="1 2")),
    "renice": Story(one_waits, asks("renice", jobs="1 2", priority=3)),
    "set": Story(one_waits, asks("set", jobs="2", name="n", time=60, wait=100)),
    "pause": Story(one_waits, asks("pause", jobs="2")),
    "resume": Story(lambda stage: (one_waits(stage), stage.ask("pause", jobs="2"))[0], asks("resume", jobs="2")),
    "drain": Story(nothing, asks("drain", list="0", drained=1)),
    "leave": Story(nothing, asks("leave")),
    "watch": Story(one_waits, asks("watch", jobs="9")),
    "explain": Story(one_waits, asks("explain", jobs="2")),
    "line": Story(one_waits, asks("line", bare=1)),
    "figures": Story(one_waits, asks("figures")),
    "why": Story(one_waits, asks("why", job=2)),
    "gpus": Story(one_runs, asks("gpus")),
    "ping": Story(nothing, asks("ping")),
    "inside": Story(one_runs, asks("inside")),
    "mend": Story(nothing, asks("mend")),
}


def facts(stage: Stage) -> list[object]:
    """What the rows say, but for moments, and what else would outlive the arbiter."""
    store = stage.arbiter.store
    found: list[object] = [len(stage.arbiter.notes.drained.get()), stage.arbiter._leaving]
    for number in store.numbers(0, 99):
        job = store.find(number)
        assert job is not None
        kind = job.result.kind if job.result is not None else None
        found.append((job.id, job.state, job.priority, job.name, job.request, job.attempt, kind, len(job.shares)))
        if job.state is not JobState.ENDED:
            found.append((number in stage.arbiter.seats, stage.arbiter.patience.left().keys()))
    return found


def tell(stage: Stage, story: Story) -> None:
    story.said(stage)
    for _ in range(5):
        stage.listen()


def deaf() -> None:
    """Do not end when asked to: how soon a process does is the kernel's business, and no part of where a story ends."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def play(
    folder: Path, story: Story, kind: str, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> tuple[list[object], str]:
    """Tell a story; returns where it ended, and what was heard last."""
    folder.mkdir()
    monkeypatch.setenv("GPURUN_DIR", str(folder))
    with made_arbiter(folder) as arbiter, subprocess.Popen(["sleep", "600"], preexec_fn=deaf) as leader:
        stage = Stage(arbiter, leader, Client(arbiter))
        five_good_wakes(arbiter)
        story.before(stage)
        five_good_wakes(arbiter)
        stage.listen()
        stage.heard.clear()
        if lost:
            before = facts(stage)
            with full_disk(arbiter, monkeypatch):
                tell_while_it_is_full(stage, story)
            assert facts(stage) == before, "something has happened although its turn was lost"
            again(stage, kind)
        # What was answered nevertheless is not asked again, and rows stay known to the connection that named them.
        if not lost or (KINDS[kind].lost is not Lost.REPEAT and kind != "rows"):
            tell(stage, story)
        end, heard = facts(stage), stage.kinds()
        stage.client.close()
        leader.kill()
    return end, heard[-1] if heard else ""


def tell_while_it_is_full(stage: Stage, story: Story) -> None:
    story.said(stage)
    stage.listen()


def again(stage: Stage, kind: str) -> None:
    """Do what a client of ours does that heard this."""
    lost = KINDS[kind].lost
    heard = stage.kinds()
    five_good_wakes(stage.arbiter)
    if lost is Lost.DROP:
        stage.come_back()
        if kind == "ended":
            stage.ask("register", key="k", offset=0, running=1, attempt=1)
        if kind in ("sweep", "row", "forsake"):
            stage.ask("rows", indices="1-3")
        if kind in ("row", "forsake"):
            sweep(stage)
    elif lost is Lost.AGAIN:
        assert heard[-1] in ("again", "offer"), heard
        stage.listen()
    elif lost is Lost.REFUSE:
        assert "refused" in heard, heard
    elif lost is Lost.REPEAT:
        assert "refused" not in heard, heard
        stage.listen()


# In one's own queue the database is read instead.
OF_THE_MACHINES_QUEUE = {"jobs"}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in OF_THE_MACHINES_QUEUE])
def test_a_request_whose_turn_was_lost_ends_where_one_ends_that_was_not(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = STORIES[kind]
    unlost = play(tmp_path / "unlost", story, kind, monkeypatch, lost=False)
    lost = play(tmp_path / "lost", story, kind, monkeypatch, lost=True)
    assert lost == unlost
