"""The waiting sentences: what comes after "job N waits for", and what would help."""

from time import localtime, strftime

import pytest
from views import DATE, GIB, NOW, TOTAL, foreign, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, Claim, ComputeMode, Gpu, Job, Leftover, View
from gpuwrap.policy.plan import plan
from gpuwrap.policy.reasons import help_lines, sentence
from gpuwrap.policy.words import command, safe


def told(job: Job, cards: tuple[Gpu, ...], *others: Job, **view: object) -> str:
    seen = View(cards, (*others, job), **view)  # type: ignore[arg-type]
    return sentence(plan(seen, NOW).reasons[job.id], job, seen, NOW, DATE)


def helped(job: Job, cards: tuple[Gpu, ...], *others: Job, **view: object) -> list[str]:
    seen = View(cards, (*others, job), **view)  # type: ignore[arg-type]
    return help_lines(plan(seen, NOW).reasons[job.id], job, seen)


def test_one_holder_is_named_with_command_and_time() -> None:
    text = told(waiting(13), gpus(1), running(12, share(0)))
    assert text == "a GPU, 1st in line: job 12 (python train.py, 2 h so far) has GPU 0"


def test_a_limit_of_the_holder_gives_an_end_time() -> None:
    text = told(waiting(13), gpus(1), running(12, share(0), time_limit_seconds=9000.0))
    at = strftime("%H:%M", localtime(DATE + 1800))
    assert text == f"a GPU, 1st in line: job 12 (python train.py, 2 h so far, ends by {at}) has GPU 0"


def test_a_limit_that_has_passed_gives_no_end_time() -> None:
    text = told(waiting(13), gpus(1), running(12, share(0), time_limit_seconds=60.0))
    assert text == "a GPU, 1st in line: job 12 (python train.py, 2 h so far) has GPU 0"


def test_the_place_in_line_is_told() -> None:
    line = [waiting(number) for number in range(13, 36)]
    for job, place in ((line[1], "2nd"), (line[2], "3rd"), (line[10], "11th"), (line[20], "21st")):
        others = [each for each in line if each is not job]
        assert f", {place} in line: " in told(job, gpus(1), running(12, share(0)), *others)


def test_two_holders_are_both_named() -> None:
    holders = running(3, share(0), share(1)), in_state(running(4, share(2)), JobState.GRANTED, started_mono=None)
    text = told(waiting(9), gpus(3), *holders)
    assert text == (
        "a GPU, 1st in line: job 3 (python train.py, 2 h so far) has GPUs 0 and 1, job 4 (python train.py, starting) has GPU 2"
    )


def test_many_holders_are_counted() -> None:
    holders = [running(number, share(number - 3)) for number in (3, 4, 5, 6, 7)]
    assert told(waiting(9), gpus(5), *holders) == "a GPU, 1st in line: jobs 3, 4, 5 and 2 more have GPUs 0-4"
    assert told(waiting(9), gpus(3), *holders[:3]) == "a GPU, 1st in line: jobs 3, 4 and 5 have GPUs 0-2"


def test_of_many_none_is_said_to_have_a_gpu_that_it_was_not_granted() -> None:
    holders = [running(3, share(0)), *[running(number, share(1)) for number in (4, 5)]]
    cards = gpu(0, used={3: GIB, 4: GIB, 5: GIB}), gpu(1, used={4: GIB, 5: GIB})
    text = told(waiting(9, allowed=frozenset({"GPU-0"})), cards, *holders)
    assert text == "a GPU, 1st in line: jobs 3, 4 and 5 are on GPU 0"


def test_one_that_is_granted_a_gpu_at_this_moment_has_it() -> None:
    text = told(waiting(9), gpus(2), running(3, share(1)), waiting(7))
    assert text.endswith("has GPU 1, job 7 (python train.py, starting) has GPU 0")


def test_a_gpu_kept_free_is_told_with_what_is_still_awaited() -> None:
    at = strftime("%H:%M", localtime(DATE + 1800))
    text = told(waiting(20, 2), gpus(2), running(9, share(0), time_limit_seconds=9000.0))
    assert text == f"2 GPUs: GPU 1 is kept free for it, GPU 0 by {at} (limit of job 9)"
    text = told(waiting(20, 2), gpus(2), running(9, share(0)))
    assert text == "2 GPUs: GPU 1 is kept free for it, GPU 0 when job 9 ends (it has no time limit)"
    paused = in_state(running(9, share(0), time_limit_seconds=9000.0), JobState.PAUSED)
    assert told(waiting(20, 2), gpus(2), paused) == "2 GPUs: GPU 1 is kept free for it, GPU 0 when job 9 ends"


def test_an_end_far_away_is_a_day() -> None:
    text = told(waiting(20, 2), gpus(2), running(9, share(0), time_limit_seconds=9e5))
    assert text.endswith(f"GPU 0 by {strftime('%d %b', localtime(DATE + 9e5 - 7200))} (limit of job 9)")


def test_a_job_behind_a_kept_gpu_names_whom_it_is_kept_for() -> None:
    text = told(waiting(21), gpus(2), running(9, share(0)), waiting(20, 2))
    assert text == "a GPU, 2nd in line: GPU 1 is kept for job 20"


def test_missing_memory_is_told_where_most_is_left() -> None:
    one = running(3, share(0, 20 * GIB, whole=False), m=20)
    two = [running(number, share(1, 8 * GIB, whole=False), m=8) for number in (4, 5)]
    text = told(waiting(9, m=8), gpus(1), one)
    assert text == "8G on a GPU, 1st in line: GPU 0 has 4 of 24G left beside job 3 (python train.py, 2 h so far)"
    text = told(waiting(9, m=10), gpus(2), one, *two)
    assert text == "10G on a GPU, 1st in line: the most is on GPU 1, 8 of 24G left beside jobs 4 and 5"
    assert told(waiting(9, memory_percent=50.0), gpus(1), one).startswith("50% on a GPU, 1st in line: ")
    assert told(waiting(9, m=200), gpus(2)) == "200G on a GPU, 1st in line: GPUs 0 and 1 have at most 24G in all"


def test_ones_own_process_is_called_yours() -> None:
    mine = foreign(4242, int(1.2 * GIB), user="anna", mine=True, idle_seconds=10800.0)
    card = gpu(foreign=(mine,), free_bytes=TOTAL - int(1.2 * GIB))
    assert told(waiting(3), (card,)) == "GPU 0: your python (pid 4242) holds 1.2G, idle for 3 h"
    assert helped(waiting(3), (card,)) == ["it is not in the queue: end it, or share the GPU with -m SIZE"]


def test_a_strangers_process_and_claim_are_told_by_gpu() -> None:
    cards = (gpu(0), gpu(1), gpu(2, foreign=(foreign(),)), gpu(3, claim=Claim(7001, "carla")))
    text = told(waiting(9), cards, running(1, share(0)), running(2, share(1)))
    assert text == (
        "a GPU, 1st in line: job 1 (python train.py, 2 h so far) has GPU 0, "
        "job 2 (python train.py, 2 h so far) has GPU 1, "
        "GPU 2: bob's python (pid 991, 31G), not in the queue, GPU 3: carla's gpurun has it (pid 7001)"
    )
    assert told(waiting(9), cards[3:]) == "GPU 3: carla's gpurun has it (pid 7001)"
    assert told(waiting(9), (gpu(claim=Claim(None, None)),)) == "GPU 0: another gpurun has it"
    unseen = gpu(foreign=(foreign(user=None, command=None, size=None),))
    assert told(waiting(9), (unseen,)) == "GPU 0: somebody's process (pid 991), not in the queue"


def test_a_gpu_of_a_colleagues_gpurun_is_told_as_that_whoever_came_first_upon_it() -> None:
    """Situation 33: its job is no stranger to be asked, and sharing does not help, since the claim stands."""
    job, claim = foreign(28973, GIB, user="bob"), Claim(7001, "bob")
    text = "GPU 0: bob's gpurun has it (its job: pid 28973, 1G)"
    helps = ["each user has a queue of their own here: it comes free when bob's job ends; -m does not share it"]
    for cards, view in (((gpu(foreign=(job,), claim=claim),), {}), ((gpu(foreign=(job,)),), {"neighbours": {"GPU-0": claim}})):
        assert told(waiting(2), cards, **view) == text
        assert helped(waiting(2), cards, **view) == helps
    unrelated = gpu(foreign=(foreign(5, GIB, user="carla"),))
    assert "not in the queue" in told(waiting(2), (unrelated,), neighbours={"GPU-0": claim})


def test_what_an_ended_job_left_is_told() -> None:
    ended = in_state(running(12, share(1)), JobState.ENDED, ended_mono=NOW - 200)
    left = Leftover(12, 4711, "python", 20 * GIB, NOW - 200)
    card = gpu(1, free_bytes=4 * GIB, used={12: 20 * GIB}, leftovers=(left,))
    text = told(waiting(13), (card,), ended)
    assert text == "GPU 1: 20G still held by pid 4711 (python), left by job 12, ended 3 min ago"
    assert helped(waiting(13), (card,), ended) == ["gpurun kill 12 ends it"]
    assert told(waiting(13), gpus(1), in_state(running(12, share(0)), JobState.ENDED)) == "GPU 0: still held by job 12"


SHUT = {
    "GPU 0: 20G held by nobody the driver names": gpu(free_bytes=4 * GIB),
    "GPU 0: unhealthy: GPU is lost": gpu(fault="GPU is lost"),
    "GPU 0: drained": gpu(drained=True),
    "GPU 0: the driver does not say how much memory is free": gpu(free_bytes=None),
}


@pytest.mark.parametrize("text", SHUT)
def test_a_gpu_that_nobody_can_have_says_why(text: str) -> None:
    assert told(waiting(3), (SHUT[text],)) == text
    assert helped(waiting(3), (SHUT[text],))


def test_alike_gpus_are_told_once() -> None:
    assert told(waiting(3), gpus(4, drained=True)) == "a GPU: GPUs 0-3: drained"
    cards = tuple(gpu(index, claim=Claim(7000 + index, "carla")) for index in range(6))
    assert told(waiting(3), cards).endswith("GPU 2: carla's gpurun has it (pid 7002), and 3 more GPUs")


def test_compute_mode_and_limits_say_so() -> None:
    text = told(waiting(3), (gpu(compute_mode=ComputeMode.PROHIBITED),))
    assert text.endswith("GPU 0: its compute mode prohibits computing")
    small = running(1, share(0, GIB, whole=False), m=1)
    text = told(waiting(3, m=1), (gpu(compute_mode=ComputeMode.EXCLUSIVE_PROCESS),), small)
    assert text.endswith("GPU 0: its compute mode admits one process: job 1 (python train.py, 2 h so far)")
    text = told(waiting(3, m=1), gpus(1), small, bounds=Bounds(jobs_per_gpu=1))
    assert text.endswith("GPU 0: job 1 (python train.py, 2 h so far), at most 1 on a GPU (jobs_per_gpu)")


def test_those_passed_over_say_why() -> None:
    job = waiting(14)
    assert told(in_state(job, JobState.HELD), gpus(1)) == "held: gpurun resume 14 lets it go"
    assert told(job, gpus(1), stopped=frozenset({14})) == "stopped at its terminal, keeps its place"
    assert told(job, gpus(1), absent=frozenset({14})) == "its gpurun to come back, keeps its place"
    assert told(in_state(job, JobState.WAITING, shares=(share(0),)), gpus(1)) == "GPU 0: its earlier run still holds it"


def test_fewer_gpus_than_asked_for_is_told() -> None:
    assert told(waiting(3, 4), gpus(1)) == "4 GPUs: only 1 of those that it may use is here"
    assert told(waiting(3, allowed=frozenset({"gone"})), gpus(1)) == "a GPU: none of those that it may use are here"


def test_help_says_how_to_share_and_how_to_go_first() -> None:
    urgent = "gpurun renice urgent 3 makes less important jobs give way, where they can"
    kill = "gpurun kill 1 ends job 1"
    sharer = running(1, share(0, GIB, whole=False), m=1)
    share_it = "started with -m SIZE it would share a GPU with others that fit"
    assert helped(waiting(3), gpus(1), sharer) == [share_it, urgent, kill]
    assert helped(waiting(3), gpus(1), running(1, share(0))) == [urgent, kill], "the first in line is always told what would"
    assert helped(waiting(3, priority=50), gpus(1), running(1, share(0), priority=45)) == [kill]
    assert helped(waiting(3), gpus(1), running(1, share(0)), waiting(2, priority=5)) == [
        "gpurun renice 6 3 puts it first in line"
    ]
    assert helped(waiting(3), gpus(1), running(1, share(0)), waiting(2, priority=100)) == []
    assert helped(waiting(3, m=8), gpus(1), running(1, share(0, 20 * GIB, whole=False), m=20)) == [
        "started with a smaller -m SIZE it might fit", urgent, kill,
    ]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ((b"/usr/bin/python3", b"/home/a/train.py"), "python3 /home/a/train.py"),
        ((b"./run.sh",), "./run.sh"),
        ((b"python", b"-c", b"print( 1 )", b""), "python -c 'print( 1 )' ''"),
        ((b"a\x1b[2J\n\tb",), "a\\x1b[2J\\n\\tb"),
        ((b"caf\xc3\xa9", b"\xff\xfe"), "café \\xff\\xfe"),
        (("x\u202egpj.exe".encode(),), "x\\u202egpj.exe"),
        ((b"python", b"train.py", b"--" + b"x" * 90), "python train.py --" + "x" * 21 + "…"),
        ((b"/",), "/"),
        ((), "?"),
    ],
)
def test_commands_are_written_short_and_safe(argv: tuple[bytes, ...], text: str) -> None:
    assert command(argv) == text
    assert len(command(argv)) <= 40
    assert command(argv).isprintable()


def test_a_cut_never_splits_an_escape() -> None:
    assert safe("\x1b" * 20, 10) == "\\x1b\\x1b…"
    assert safe("abcdefghij", 10) == "abcdefghij"
    assert safe("abcdefghijk", 10) == "abcdefghi…"


def test_names_from_outside_cannot_reach_the_terminal() -> None:
    card = gpu(foreign=(foreign(user="b\x1bob", command="py\nthon"),))
    text = told(waiting(3), (card,))
    assert text.isprintable()
    assert "b\\x1bob's py\\nthon" in text
    assert told(waiting(3), (gpu(fault="a\x07b"),)) == "GPU 0: unhealthy: a\\x07b"
