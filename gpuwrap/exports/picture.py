"""history --plot: the GPUs' time as a picture, a row for each GPU and a bar for each job; the only importer of matplotlib."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ..accounts.days import Bar, lanes
from ..accounts.sums import sums_by
from ..errors import GpurunError
from ..policy.words import safe
from ..state.chronicle import Past
from .lacking import lacking

MOST_USERS = 12
ROW_INCHES, WIDTH_INCHES, LABEL_LENGTH = 0.34, 11.0, 40


def draw_picture(
    path: str, past: Past, gpus: Sequence[int], names: Mapping[int, str], begun_at: float, ended_at: float
) -> None:
    """Draw what jobs had between two dates into a file, of a kind that its name tells. Raises GpurunError.

    It is written aside and renamed: nobody sees half a picture.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import dates, pyplot
    except ImportError as err:
        raise lacking("--plot", "plot", err) from err
    matplotlib.rcParams["text.parse_math"] = False  # a name may hold two dollars
    matplotlib.rcParams["svg.fonttype"] = "none"  # text that can be searched
    stretches = [each for its in past.stretches.values() for each in its if each.gpus]
    by_gpu = lanes(stretches, gpus)
    rows = [(index, lane) for index, its in by_gpu.items() for lane in its or [[]]]
    users = _users(past)
    colours = {user: f"C{place % 10}" for place, user in enumerate(users)}
    owner = {job.id: job.user for job in past.jobs}
    height = max(2.2, ROW_INCHES * len(rows) + 1.4)
    figure, (axes, sums) = pyplot.subplots(
        2, 1, figsize=(WIDTH_INCHES, height + 0.5 + 0.3 * len(users)),
        gridspec_kw={"height_ratios": [height, 0.5 + 0.3 * max(len(users), 1)]}, layout="constrained",
    )  # fmt: skip
    for place, (_index, lane) in enumerate(rows):
        for bar in lane:
            _draw_bar(axes, place, bar, colours.get(owner[bar.job_id], "0.6"), names, ended_at - begun_at)
    _label(axes, dates, rows, begun_at, ended_at)
    hours = list(users.values())
    sums.barh([safe(user, LABEL_LENGTH) for user in users], hours, color=list(colours.values()), height=0.6, alpha=0.7)
    sums.invert_yaxis()
    sums.set_xlabel("GPU-hours (computing; pauses do not count)")
    for place, value in enumerate(hours):
        sums.annotate(f" {value:.1f}" if value >= 1 else f" {value:.2f}", (value, place), va="center", fontsize=8)
    sums.margins(x=0.1)
    for each in (axes, sums):
        each.spines[["top", "right"]].set_visible(False)
    _save(figure, path)
    pyplot.close(figure)


def _users(past: Past) -> dict[str, float]:
    """GPU-hours by user, the most first."""
    found = sums_by(past.jobs, past.stretches, past.waits, lambda job, _stretch: [(job.user, 1.0)])
    return {each.key: each.gpu_seconds / 3600 for each in found[:MOST_USERS]}


def _draw_bar(axes: Any, place: int, bar: Bar, colour: str, names: Mapping[int, str], seconds: float) -> None:
    for stretch in bar.stretches:
        begun, ended = _day(stretch.begun_at), _day(stretch.ended_at)
        style: dict[str, Any] = {"alpha": 0.25, "hatch": "////"} if stretch.paused else {"alpha": 0.7}
        axes.barh(place, ended - begun, left=begun, height=0.8, color=colour, edgecolor="white", linewidth=0.5, **style)
    part = (bar.ended_at - bar.begun_at) / max(seconds, 1)
    room = int(part * WIDTH_INCHES * 13)  # letters of that size in an inch, and the axis takes some of the width
    text = f"{bar.job_id} {names.get(bar.job_id, '')}"
    if room >= len(str(bar.job_id)) + 1:
        shown = text if len(text) <= room else text[: room - 1] + "…" if room > 8 else str(bar.job_id)
        axes.text(_day(bar.begun_at), place, " " + shown, va="center", fontsize=7, clip_on=True)


def _label(axes: Any, dates: Any, rows: Sequence[tuple[int, Sequence[Bar]]], begun_at: float, ended_at: float) -> None:
    first = {index: place for place, (index, _lane) in reversed(list(enumerate(rows)))}
    axes.set_yticks(list(first.values()), [f"GPU {index}" for index in first])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_xlim(_day(begun_at), _day(ended_at))
    zone = datetime.fromtimestamp(ended_at).astimezone().tzinfo
    locator = dates.AutoDateLocator(tz=zone)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))
    for index, place in first.items():
        if place and index != rows[0][0]:
            axes.axhline(place - 0.5, color="0.8", linewidth=0.5)


def _day(at: float) -> float:
    """A date as matplotlib counts: days since 1970 [matplotlib.dates]."""
    return at / 86400


def _save(figure: Any, path: str) -> None:
    folder, name = os.path.split(os.path.abspath(path))
    aside = None
    try:
        fd, aside = tempfile.mkstemp(prefix=f".{name[:100]}.", suffix=os.path.splitext(name)[1], dir=folder)
        os.close(fd)
        figure.savefig(aside, dpi=150)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(aside, 0o666 & ~mask)
        os.replace(aside, path)
    except OSError as err:
        if aside is not None:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        raise GpurunError(f"cannot write: {path}: {str(err.strerror or err).lower()}", status=1) from err
