"""A job changed is a job made anew: the fast way gives what the slow way does."""

from dataclasses import fields, replace

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Identity, Job, Request, Share

JOB = Job(7, "key", None, "anna", JobState.WAITING, 0, Request(), Identity("boot", 1, 2, 3), (b"python",), b"/", 1.5)


def test_a_changed_job_is_equal_to_a_replaced_one() -> None:
    changes = {"state": JobState.GRANTED, "shares": (Share("GPU-0", 0, 5, False),), "granted_at": 2.5}
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
