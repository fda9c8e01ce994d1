"""Every sentence on why a job waits, in one text that a person can read through: `tests/system/expected/sentences.txt`.

`GPURUN_WRITE_EXPECTED=1 pytest tests/unit/test_sentences.py` writes it anew; read it before it is committed.
"""

import re
from dataclasses import replace

from screens import expect
from views import DATE, GIB, NOW, TOTAL, foreign, gpu, gpus, in_state, running, share, waiting

from gpuwrap.lifecycle import JobState
from gpuwrap.model import Bounds, Claim, ComputeMode, Gpu, Job, Leftover, Row, Rule, View, Yielding
from gpuwrap.policy import refusals
from gpuwrap.policy.effects import effect
from gpuwrap.policy.plan import plan
from gpuwrap.policy.story import Lister, Storyteller
from gpuwrap.policy.words import clock_of

Case = tuple[Job, View]


def case(job: Job, cards: tuple[Gpu, ...], *others: Job, **more: object) -> Case:
    return job, View(cards, (*others, job), **more)  # type: ignore[arg-type]


def sharing(number: int, gigabytes: int, **more: object) -> Job:
    return running(number, share(0, gigabytes * GIB, whole=False), m=gigabytes, **more)  # type: ignore[arg-type]


def interrupting(way: Yielding, held: int = 20, m: int = 10, victim: Job | None = None, **more: object) -> Case:
    card = gpu(free_bytes=TOTAL - held * GIB, used={12: held * GIB})
    below = victim or running(12, share(0))
    return case(waiting(14, m=m, priority=50), (card,), below, yielding={12: way}, **more)


def after(jobs: str) -> Job:
    return replace(waiting(13), after_jobs=jobs)


def cases() -> dict[str, Case]:
    limited = running(12, share(0), time_limit_seconds=9000.0)
    stays = Yielding(no_evict="may not be restarted (-r)")
    can = Yielding(pause_seconds=3600.0, no_evict="may not be restarted (-r)")
    ended = in_state(running(12, share(0)), JobState.ENDED, ended_mono=NOW - 200)
    left = Leftover(12, 4711, "python", 20 * GIB, NOW - 200)
    bob, claim = foreign(28973, GIB, user="bob"), Claim(7001, "bob")
    mine = foreign(4242, int(1.2 * GIB), user="anna", mine=True, idle_seconds=10800.0)
    row = replace(waiting(14), row=Row(10, 5, 2))
    rows = [replace(running(number, share(number - 10)), row=Row(10, number, 2)) for number in (10, 11)]
    return {
        "one holder": case(waiting(13), gpus(1), running(12, share(0))),
        "one holder with a time limit": case(waiting(13), gpus(1), limited),
        "two holders": case(waiting(13), gpus(2), running(11, share(1)), limited),
        "many holders": case(waiting(13), gpus(5), *[running(number, share(number - 3)) for number in range(3, 8)]),
        "second in line": case(waiting(14), gpus(1), limited, waiting(13)),
        "two GPUs, one kept": case(waiting(20, 2), gpus(2), running(12, share(0))),
        "two GPUs, one kept, and a limit": case(waiting(20, 2), gpus(2), limited),
        "behind a GPU that is kept": case(waiting(21), gpus(2), running(12, share(0)), waiting(20, 2)),
        "too little memory": case(waiting(13, m=8), gpus(1), sharing(12, 20)),
        "too little memory, several": case(waiting(13, m=8), gpus(1), sharing(11, 10), sharing(12, 10)),
        "more memory than there is": case(waiting(13, m=200), gpus(2)),
        "whole, where others share": case(waiting(13), gpus(1), sharing(12, 4)),
        "jobs_per_gpu": case(waiting(13, m=1), gpus(1), sharing(12, 4), bounds=Bounds(jobs_per_gpu=1)),
        "one's own process": case(waiting(13), (gpu(foreign=(mine,), free_bytes=TOTAL - 2 * GIB),)),
        "a stranger's process": case(waiting(13), (gpu(foreign=(foreign(991, 3 * GIB, user="bob"),)),)),
        "a colleague's job": case(waiting(13), (gpu(foreign=(bob,), claim=claim),)),
        "a colleague's job that nobody came across": case(waiting(13), (gpu(foreign=(bob,)),), neighbours={"GPU-0": claim}),
        "a claim": case(waiting(13), (gpu(claim=claim),)),
        "a claim of nobody known": case(waiting(13), (gpu(claim=Claim(None, None)),)),
        "left behind": case(waiting(13), (gpu(free_bytes=4 * GIB, used={12: 20 * GIB}, leftovers=(left,)),), ended),
        "held by nobody": case(waiting(13), (gpu(free_bytes=4 * GIB),)),
        "unhealthy": case(waiting(13), (gpu(fault="GPU is lost"),)),
        "drained": case(waiting(13), (gpu(drained=True),)),
        "unknown": case(waiting(13), (gpu(free_bytes=None),)),
        "prohibited": case(waiting(13), (gpu(compute_mode=ComputeMode.PROHIBITED),)),
        "only fewer GPUs": case(waiting(13, 4), gpus(1)),
        "no driver": case(waiting(13), (), fault="no NVIDIA driver: libnvidia-ml.so.1 not found"),
        "held": case(in_state(waiting(13), JobState.HELD), gpus(1)),
        "stopped": case(waiting(13), gpus(1), stopped=frozenset({13})),
        "absent": case(waiting(13), gpus(1), absent=frozenset({13})),
        "after one": case(waiting(13), gpus(1), running(12, share(0)), after={13: (12,)}),
        "after one's success": case(after("ok:12"), gpus(1), running(12, share(0)), after={13: (12,)}),
        "after both": case(after("3-5 ok:12"), gpus(1), limited, after={13: (3, 4, 5, 12)}),
        "a sweep that is full": case(row, gpus(2), *rows),
        "gives way never": interrupting(replace(stays, no_pause="never gives way (--give-way never)")),
        "holds too much": interrupting(can),
        "runs in a terminal": interrupting(replace(stays, no_pause="runs in a terminal: a pause would be noticed there")),
        "was paused a moment ago": interrupting(can, held=1, victim=replace(running(12, share(0)), returned_mono=NOW - 120)),
        "may hardly be paused": interrupting(replace(can, pause_seconds=200.0), held=1),
        "several CUDA processes": interrupting(replace(can, pause_seconds=300.0, short_only=True), held=1),
        "is starting": interrupting(can, victim=in_state(running(12, share(0)), JobState.GRANTED)),
        "several alike": case(
            waiting(14, priority=50), gpus(2), running(11, share(0)), running(12, share(1)),
            yielding={number: replace(stays, no_pause="runs in a terminal") for number in (11, 12)},
        ),
    }  # fmt: skip


def test_all_sentences_in_one_text() -> None:
    lines = []
    for title, (job, view) in cases().items():
        made = plan(view, NOW)
        reason = made.reasons[job.id]
        teller = Storyteller(view, NOW, DATE)
        text = teller.sentence(reason, job)
        waits = f"job {job.id}: {text}" if reason.rule in (Rule.HELD, Rule.STOPPED) else f"job {job.id} waits for {text}"
        lines += [f"== {title}", f"line  {waits}"]
        lines.append(f"ls    {Lister(view, NOW, DATE).sentence(reason, job)}")
        lines += [f"why   {text}." for text in teller.sentences(reason, job)]
        lines += [f"help  {text}" for text in teller.help_lines(reason, job)]
        echo = effect(made, job.id, view, clock_of(NOW, DATE))
        lines += [f"echo  {echo}"] if echo else []
        lines.append("")
    lines.append("== Why a job cannot give way")
    lines += [f"job 12 {text}" for name, text in sorted(vars(refusals).items()) if name.isupper() and isinstance(text, str)]
    lines += [f"job 12 {text}" for text in (
        refusals.too_young(300.0, computes=True), refusals.too_young(300.0, computes=False), refusals.too_slow(120.0, 14),
        refusals.too_long(200.0, short_only=False), refusals.too_long(300.0, short_only=True),
    )]  # fmt: skip
    text = "\n".join(lines)
    assert not re.search(r"\b(it|they) (is|are) (is|are)\b|\bNone\b|  +[a-z]+  ", text)
    expect("sentences", text)
