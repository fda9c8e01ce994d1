"""A job changed is a job made anew, a grant is written as JSON: the fast way gives what the slow way does."""

import json
from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Identity, Job, Request, Share
from gpuwrap.state.rows import shares_from_text, text_from_shares

JOB = Job(7, "key", None, "anna", JobState.WAITING, 0, Request(), Identity("boot", 1, 2, 3), (b"python",), b"/", 1.5)


def test_a_changed_job_is_equal_to_a_replaced_one() -> None:
    changes = {"state": JobState.GRANTED, "shares": (Share("GPU-0", 0, 5, False),), "granted_mono": 2.5}
    assert JOB.changed(**changes) == replace(JOB, **changes)  # type: ignore[arg-type]
    assert JOB.changed() == JOB
    assert JOB.changed() is not JOB


def test_every_field_can_be_changed_and_the_job_itself_stays() -> None:
    before = repr(JOB)
    for field in fields(Job):
        mark = object()
        changed = JOB.changed(**{field.name: mark})
        assert [name.name for name in fields(Job) if getattr(changed, name.name) is not getattr(JOB, name.name)] == [field.name]
        assert getattr(changed, field.name) is mark
    assert repr(JOB) == before


@given(st.lists(st.builds(Share, st.text(), st.integers(0, 15), st.integers(0, 1 << 50), st.booleans()), max_size=4))
def test_a_grant_is_written_as_json_whatever_its_gpus_are_called(shares: list[Share]) -> None:
    grant = tuple(shares)
    text = text_from_shares(grant)
    assert json.loads(text) == [[each.uuid, each.index, each.bytes, int(each.whole)] for each in grant]
    assert shares_from_text(text) == grant
