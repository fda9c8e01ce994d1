"""A mistake refuses its own request and nothing else of the same turn; what is newer or older than we are is borne."""

import pytest
from inprocess import Client, Jobs, five_good_wakes, wake

from gpuwrap.arbiter.loop import Arbiter
from gpuwrap.wire import PROTOCOL, pack

HUGE = "9" * 5000
REFUSED = {
    "a version that is no number": b"ping\0version=x",
    "a version of nothing": b"ping\0version=",
    "a version of 5000 digits": f"ping\0version={HUGE}".encode(),
    "fewer GPUs than none": b"register\0key=a\0gpus=-3",
    "GPUs that are no number": b"register\0key=a\0gpus=x",
    "less memory than none": b"register\0key=a\0memory=-5",
    "no memory": b"register\0key=a\0memory=0",
    "no part of the memory": b"register\0key=a\0percent=-1",
    "more than all memory": b"register\0key=a\0percent=101",
    "a wait that is no number": b"register\0key=a\0wait=nan",
    "a wait for ever": b"register\0key=a\0wait=inf",
    "a time that counts backwards": b"register\0key=a\0time=-1",
    "a priority beyond all": b"register\0key=a\0priority=100000",
    "a name that is no text": b"register\0key=a\0name=\xff",
    "a way that nobody gives": b"register\0key=a\0give_way=gladly",
    "a signal that cannot be caught": b"register\0key=a\0signals=9:10",
    "a signal without a delay": b"register\0key=a\0signals=15",
    "no key": b"register\0gpus=1",
    "a job that is no number": b"kill\0jobs=1 x",
    "no jobs": b"kill",
    "a signal that there is none of": b"kill\0jobs=1\0signal=900",
    "no priority": b"renice\0jobs=1",
    "more rows than may be": b"rows\0indices=1-999999999999",
    "a row twice": b"rows\0indices=1,1",
    "a row without its command": b"rows\0indices=1,2\0lines=true\0scripts=- -",
    "a row whose quotation is open": b"rows\0indices=1\0lines=echo 'a\0scripts=-",
    "an unknown kind": b"frobnicate\0a=b",
    "no kind": b"\0version=2",
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_mistake_refuses_its_own_request_alone(arbiter: Arbiter, jobs: Jobs, other: Client, wrong: str) -> None:
    """Whatever else came in the same wake: nobody loses what was asked, nor the connection."""
    running, waiting = jobs.start(), jobs.register()
    mad = Client(arbiter)
    other.socket.send(pack("watch", version=PROTOCOL, jobs=running))
    mad.socket.send(REFUSED[wrong])
    other.socket.send(pack("renice", version=PROTOCOL, jobs=waiting, by=5))
    wake(arbiter)
    five_good_wakes(arbiter)
    ((kind, values),) = mad.heard()
    assert kind == "refused"
    assert any(word in values["text"] for word in ("must be", "is missing", "does not know", "cannot register rows"))
    assert "\n" not in values["text"]
    assert len(values["text"]) < 200
    assert other.kinds() == ["done"], "the one is answered, and the other waits for an end"
    mad.ask("ping")
    assert mad.kinds() == ["done"]
    mad.close()
    seen = [(jobs.state(number), jobs.job(number).priority) for number in (running, waiting)]
    assert seen == [("running", 0), ("waiting", 5)]


def test_what_a_newer_client_says_beyond_what_is_known_is_not_looked_at(jobs: Jobs, other: Client) -> None:
    assert other.answer("ping", version=PROTOCOL, colour="red", jobs="x") is None


def test_who_speaks_a_newer_protocol_is_told_and_the_arbiter_makes_room(jobs: Jobs, other: Client) -> None:
    other.ask("ping", version=PROTOCOL + 1)
    assert other.kinds() == ["old"]


def test_an_older_stub_that_still_says_ok_hears_nothing(jobs: Jobs, other: Client) -> None:
    other.ask("ok", what="pausing")
    assert other.heard() == []
    assert other.answer("ping") is None


def test_a_connection_is_one_jobs(jobs: Jobs) -> None:
    """The end of a second one's process would be seen by nobody: it would wait, or run, for ever."""
    number = jobs.register()
    text = jobs.clients[number].refused("register", key="b")
    assert text == "cannot register job: this connection is another job's"
    assert len(jobs.arbiter.store.live) == 1


def test_the_same_key_is_the_same_job(jobs: Jobs) -> None:
    """Its client has lost the answer, and asks again."""
    number = jobs.register(key="k")
    jobs.clients[number].heard()
    jobs.clients[number].ask("register", key="k")
    assert dict(jobs.clients[number].heard())["job"]["id"] == str(number)
    assert len(jobs.arbiter.store.live) == 1
