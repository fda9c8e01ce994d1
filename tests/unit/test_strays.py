"""Jobs that compute where they were granted nothing: who counts as one, and what is said."""

from dataclasses import replace

from views import GIB, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Identity, Job, View
from gpuwrap.policy.astray import Cause, Stray, cause, find, here, notice, notice_beside, there
from gpuwrap.policy.reasons import sentence

UUIDS = [card.uuid for card in gpus(3)]
INDICES = {uuid: index for index, uuid in enumerate(UUIDS)}


def job(number: int, *granted: int, led_by: int | None = None) -> Job:
    made = running(number, *[share(index) for index in granted])
    return replace(made, identity=Identity("boot", 1, led_by or number, 1))


def strays(*jobs: Job, **used: dict[int, int | None]) -> list[tuple[int, int]]:
    by_job = {int(name[1:]): {UUIDS[index]: size for index, size in sizes.items()} for name, sizes in used.items()}
    return [(each.job_id, each.index) for each in find({job.id: job for job in jobs}, by_job, INDICES)]


def test_who_holds_memory_on_a_gpu_that_it_was_not_granted_is_astray() -> None:
    assert strays(job(2, 1), j2={0: GIB}) == [(2, 0)]
    assert strays(job(2, 1), j2={0: None}) == [(2, 0)]
    assert strays(job(2, 1), job(3), j2={2: GIB, 0: GIB, 1: GIB}, j3={0: GIB}) == [(2, 0), (2, 2), (3, 0)]
    assert strays(job(2, 1), j2={1: GIB}) == strays(job(2, 1), j2={0: 0}) == []


def test_only_what_runs_is_astray() -> None:
    for state in JobState:
        started = state in (JobState.RUNNING, JobState.PAUSED, JobState.SUSPENDED, JobState.STOPPING)
        assert bool(strays(in_state(job(2, 1), state), j2={0: GIB})) is started, state


def test_blocks_of_one_process_are_not_told_apart() -> None:
    assert strays(job(2, 0, led_by=7), job(3, 1, led_by=7), j3={0: GIB, 1: GIB}) == []
    assert strays(job(2, 0, led_by=7), job(3, 1, led_by=7), j3={0: GIB, 2: GIB}) == [(3, 2)]


def test_the_cause_is_what_its_process_was_started_with() -> None:
    assert cause(True, below_sudo=False) is cause(True, below_sudo=True) is Cause.SETS
    assert cause(False, below_sudo=True) is cause(None, below_sudo=True) is Cause.SUDO
    assert cause(False, below_sudo=False) is Cause.LACKS
    assert cause(None, below_sudo=False) is Cause.UNKNOWN
    assert cause(True, below_sudo=True, draws=True) is Cause.DRAWS


def test_how_it_is_said() -> None:
    stray = Stray(2, UUIDS[0], 0, int(29.3 * GIB), (1,), Cause.SETS)
    assert here(stray) == "job 2: 29.3G here, but was granted GPU 1 (it sets CUDA_VISIBLE_DEVICES itself)"
    assert there([stray]) == "29.3G on GPU 0, but was granted GPU 1 (it sets CUDA_VISIBLE_DEVICES itself)"
    assert notice(stray) == "job 2 computes on GPU 0, it was granted GPU 1: does it set CUDA_VISIBLE_DEVICES?"
    assert notice_beside(stray, job(9, 0)) == "job 9: job 2 computes on GPU 0 too (29.3G), it was granted GPU 1"
    by_sudo = replace(stray, bytes=None, granted=(1, 2), cause=Cause.SUDO)
    keeps = "sudo --preserve-env=CUDA_VISIBLE_DEVICES,CUDA_DEVICE_ORDER keeps it"
    assert here(by_sudo) == f"job 2: here, but was granted GPUs 1 and 2 (sudo drops CUDA_VISIBLE_DEVICES; {keeps})"
    assert notice(by_sudo).endswith(f"it was granted GPUs 1 and 2: sudo drops CUDA_VISIBLE_DEVICES: {keeps}")
    assert there([replace(stray, granted=()), replace(stray, index=2)]).startswith(
        "29.3G on GPU 0, 29.3G on GPU 2, but was granted none ("
    )


def test_who_waits_is_told_what_a_job_was_granted_and_where_it_computes() -> None:
    asks = waiting(9)
    cards = (gpu(0, used={2: 10 * GIB}, free_bytes=14 * GIB), gpu(1))
    alone = View(cards, (job(2, 1), asks))
    assert told(alone, asks).endswith("so far) has GPU 1 and computes on GPU 0 too")
    beside = View((*cards, gpu(2)), (job(2, 1), job(3, 2), asks))
    assert "has GPU 1 and computes on GPU 0 too, job 3" in told(beside, asks)
    nowhere = View((cards[0],), (job(2), asks))
    assert told(nowhere, asks).endswith("so far) computes on GPU 0, but was granted none")


def told(view: View, asks: Job) -> str:
    from views import NOW

    from gpuwrap.policy.plan import plan

    return sentence(plan(view, NOW).reasons[asks.id], asks, view, NOW, NOW)
