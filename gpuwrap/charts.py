"""What has been, in text: sums as a table, and a day as lines of bars.

1. Nothing of a user's text reaches the terminal raw.
2. A picture is as wide as its screen, 80 columns where there is none; each bar has a column at least.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from .accounts.days import Bar, busy_seconds, lanes
from .accounts.stretches import Stretch
from .accounts.sums import Sum
from .policy.words import safe
from .tables import Screen, Table, draw
from .units import format_duration
from .widths import cut

WIDTH = 80
# So many lanes of one GPU are drawn; of those who share it beyond that only the number is told.
MOST_LANES = 6
COMPUTES, STANDS, IDLE, MIXED = "━", "┄", "·", "╍"
HEADS = {"user": "USER", "name": "NAME", "day": "DAY"}


def hours(seconds: float) -> str:
    """Write GPU-seconds as GPU-hours: `0.02`, `3.4`, `120`."""
    value = seconds / 3600
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def sums_as_table(sums: Sequence[Sum], by: str, screen: Screen) -> list[str]:
    """Lines of `history --by`: a header and a row for each key."""
    never = ["NEVER RAN"] if any(each.never_ran for each in sums) else []
    header = ["GPU-HOURS", "JOBS", "FAILED", *never, "WAITED", "AT MOST", HEADS[by]]
    rows = [
        [
            hours(each.gpu_seconds), str(each.jobs), str(each.failed or ""), *(str(each.never_ran or "") for _ in never),
            _duration(each.waited_median), _duration(each.waited_most), safe(each.key, 40),
        ]
        for each in sums
    ]  # fmt: skip
    return draw(Table(header, rows, [""] * len(rows), tuple(header[:-1]), ("AT MOST",)), screen)


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else format_duration(seconds)


def day_as_lines(
    stretches: Sequence[Stretch], gpus: Sequence[int], names: Mapping[int, str], begun_at: float, ended_at: float, width: int
) -> list[str]:
    """Draw stretches between two dates: a line with the hours, lines of bars for each GPU, and who the bars are.

    `names` says what jobs are called; the number of a job stands at the beginning of its bar, if it has room.
    """
    by_gpu = lanes(stretches, gpus)
    label = max([len(f"GPU {index}") for index in by_gpu] or [5]) + 2
    columns = max(width - label, 20)
    scale = _Scale(begun_at, ended_at, columns)
    lines = [" " * label + scale.hours()]
    told: dict[int, float] = {}
    for index, its in by_gpu.items():
        name = f"GPU {index}".ljust(label)
        for lane in its[:MOST_LANES] or [[]]:
            lines.append((name + scale.draw(lane)).rstrip())
            name = " " * label
        if len(its) > MOST_LANES:
            lines.append(f"{name}and {sum(len(lane) for lane in its[MOST_LANES:])} more at the same time")
        for lane in its:
            for bar in lane:
                told[bar.job_id] = told.get(bar.job_id, 0.0) + sum(each.seconds for each in bar.stretches)
    lines += ["", f"{COMPUTES} computes  {STANDS} paused  {IDLE} idle"]
    for index in by_gpu:
        busy = busy_seconds([each for each in stretches if index in each.gpus])
        lines.append(f"GPU {index}: {format_duration(busy)} of {format_duration(ended_at - begun_at)}, {_percent(busy, scale)}")
    return [*lines, "", *_longest(told, names, width)] if told else lines


def _percent(busy: float, scale: "_Scale") -> str:
    return f"{100 * busy / scale.seconds:.0f}%"


def _longest(told: Mapping[int, float], names: Mapping[int, str], width: int, most: int = 10) -> list[str]:
    """Name those that had the most."""
    first = sorted(told, key=lambda job_id: -told[job_id])[:most]
    digits = max(len(str(job_id)) for job_id in first)
    lines = [
        cut(f"{job_id:>{digits}}  {format_duration(told[job_id]):>10}  {names.get(job_id, '')}", width) for job_id in first
    ]
    left = len(told) - len(first)
    return [*lines, f"and {left} more: gpurun history --since 1d"] if left else lines


class _Scale:
    """From dates to columns."""

    def __init__(self, begun_at: float, ended_at: float, columns: int) -> None:
        self.begun_at, self.columns = begun_at, columns
        self.seconds = max(ended_at - begun_at, 1.0)

    def _at(self, at: float) -> float:
        return (at - self.begun_at) / self.seconds * self.columns

    def hours(self) -> str:
        """Write hours above the bars, as close as they can be read."""
        step = next(step for step in (1, 2, 3, 4, 6, 12, 24) if step * self.columns * 3600 / self.seconds >= 8 or step == 24)
        line = [" "] * self.columns
        at = datetime.fromtimestamp(self.begun_at).replace(minute=0, second=0, microsecond=0).timestamp()
        while at < self.begun_at + self.seconds:
            place = round(self._at(at))
            text = datetime.fromtimestamp(at).strftime("%H:%M")
            if datetime.fromtimestamp(at).hour % step == 0 and 0 <= place <= self.columns - len(text):
                line[place : place + len(text)] = text
            at += 3600
        return "".join(line).rstrip()

    def draw(self, lane: Sequence[Bar]) -> str:
        """Draw bars that follow each other. One that is too short to be seen has a column all the same."""
        cells = [IDLE] * self.columns
        for bar in lane:
            first = last = min(int(self._at(bar.begun_at)), self.columns - 1)
            for stretch in bar.stretches:
                begin, end = int(self._at(stretch.begun_at)), max(round(self._at(stretch.ended_at)), 0)
                begin = min(max(begin, 0), self.columns - 1)
                last = max(last, end - 1, begin)
                for place in range(begin, min(max(end, begin + 1), self.columns)):
                    mark = STANDS if stretch.paused else COMPUTES
                    cells[place] = mark if cells[place] in (IDLE, mark) else MIXED
            number = str(bar.job_id)
            if last - first >= len(number):
                cells[first : first + len(number)] = number
        return "".join(cells)
