"""A verb's question to the arbiter, asked ahead of the need: the answer is that of the question."""

import os
import signal

import pytest
from waiting import wait_until
from world import World

from gpuwrap.commands.asking import ANSWER_SECONDS, _read_reasons
from gpuwrap.commands.asking import World as Asking
from gpuwrap.listed import Listed


@pytest.fixture
def asking(world: World, monkeypatch: pytest.MonkeyPatch) -> Asking:
    for name in ("GPURUN_DIR", "GPURUN_SIM"):
        monkeypatch.setenv(name, world.env[name])
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "-N", "behind", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    return Asking({})


def test_the_answer_comes_to_whoever_asks_the_same(asking: Asking) -> None:
    asking.ask_ahead("explain", jobs="2")
    assert asking.ask("explain", jobs="2")["2"][0] == "busy"
    assert asking.ask("explain", jobs="2")["2"][0] == "busy", "and is not kept"


def test_another_question_does_not_get_it(asking: Asking) -> None:
    asking.ask_ahead("explain", jobs="2")
    assert [gpu["index"] for gpu in asking.ask("gpus")] == [0, 1]
    assert asking.ask("explain", jobs="2")["2"][0] == "busy"


def test_it_is_asked_again_if_the_arbiter_is_killed_meanwhile(asking: Asking, world: World) -> None:
    pid = world.arbiter_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    asking.ask_ahead("explain", jobs="2")
    os.kill(pid, signal.SIGKILL)
    assert isinstance(asking.ask("explain", jobs="2"), dict)


def test_reasons_are_fetched_after_they_were_asked_for(asking: Asking) -> None:
    fetch = asking.explain(asking.live(), listed=True)
    assert fetch()[2][1] == "a GPU, 1st in line: job 1 has GPUs 0 and 1"
    assert asking.explain([])() == {}


def test_reasons_come_as_lines_and_from_an_older_arbiter_as_json(asking: Asking) -> None:
    lines, as_json = (asking._ask("explain", jobs="1 2", listed=True, plain=plain) for plain in (True, None))
    assert as_json.startswith("{")
    assert _read_reasons(lines) == _read_reasons(as_json) == {2: ("busy", "a GPU, 1st in line: job 1 has GPUs 0 and 1", [])}
    assert _read_reasons(asking._ask("explain", jobs="1", plain=True)) == {}


def test_a_list_shows_what_the_records_say(asking: Asking, world: World) -> None:
    world.run("-g", "0", "-N", "gone", "sh", "-c", "exit 3")
    world.start("-q", "-i", "1", "-m", "50%", "--exclusive", "-t", "1h", "--give-way", "never", b"/bin/echo", b"\xff  x", b"")
    wait_until(lambda: world.state(4) == "waiting", "job 4 to wait")
    world.start("-q", "--array", "1-2%1", "true", "--seed")
    wait_until(lambda: world.state(6) == "waiting", "all to wait")
    reader = asking.reader
    assert reader is not None
    records, listed = reader.jobs(ended=True), reader.listed(ended=True)
    assert len(records) == len(listed) == 6
    for record, each in zip(records, listed, strict=True):
        other = Listed.of(record)
        assert {name: getattr(each, name) for name in Listed.__slots__ if name != "shares"} == {
            name: getattr(other, name) for name in Listed.__slots__ if name != "shares"
        }
        assert each.has_ended == record.has_ended
        assert each.devices == {share.uuid: share.index for share in record.shares}
    assert [each.words[1] for each in listed if each.id == 4] == ["\udcff  x"]


def test_an_arbiter_that_hangs_keeps_no_list_waiting(asking: Asking, world: World) -> None:
    pid = world.arbiter_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        done = world.run("ls", timeout=10 * ANSWER_SECONDS)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (done.returncode, done.stderr) == (0, "gpurun: the arbiter has not answered for 5 s: why jobs wait is not known\n")
    assert "sleep 600" in done.stdout
    assert "behind" in done.stdout
    assert "1st" in world.run("ls").stdout
