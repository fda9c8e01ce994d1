"""Jobs, GPUs, commands and processes in words for people, the same wherever they are named.

What comes from outside (commands, users, faults) is written escaped: nothing that a terminal would obey.
"""

from time import localtime, strftime

from ..widths import columns, cut

TYPE_CHECKING = False  # as type checkers read it: lists of jobs wait for this module, and typing imports much
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ..model import ForeignProcess, Job, Leftover

COMMAND_LENGTH = 40
# An hour of the day says nothing beyond this.
CLOCK_SECONDS = 18 * 3600
PROHIBITS = "its compute mode prohibits computing"
_ENDINGS = ("th", "st", "nd", "rd", "th", "th", "th", "th", "th", "th")


def command(argv: "Sequence[bytes]") -> str:
    """Write a command for people: short, in one line, safe on any terminal."""
    return command_line([argument.decode("utf-8", "surrogateescape") for argument in argv[:COMMAND_LENGTH]])


def named_command(job: "Job") -> str:
    """Write a job's command, and its name before it."""
    return f"{safe(job.name, 30)}: {command(job.argv)}" if job.name else command(job.argv)


def command_line(words: list[str]) -> str:
    """Write the words of a command for people."""
    if not words:
        return "?"
    words = words[:COMMAND_LENGTH]
    if words[0].startswith("/"):
        words[0] = words[0].rstrip("/").rpartition("/")[2] or "/"
    text = " ".join(words)
    if text.count(" ") >= len(words) or "" in words:
        # Quoted where the words would run together: this is for reading, not for pasting.
        text = " ".join(f"'{word}'" if not word or " " in word else word for word in words)
    return safe(text, COMMAND_LENGTH)


def safe(text: str, length: int = COMMAND_LENGTH) -> str:
    """Escape what a terminal might obey or cannot show (controls, directions, stray bytes), and cut it with `…`.

    `length` is in columns.
    """
    if text.isprintable():
        return cut(text, length)
    shown, used = "", 0
    for place, letter in enumerate(text):
        piece = letter if letter.isprintable() else _escaped(letter)
        used += columns(piece)
        if used > length or (used == length and place + 1 < len(text)):
            return shown + "…"
        shown += piece
    return shown


def program(process: "ForeignProcess | Leftover") -> str:
    """Name what a process runs, without the folder of its program."""
    if not process.command:
        return "process"
    path, space, rest = process.command.partition(" ")
    name = path.rstrip("/").rpartition("/")[2] if path.startswith("/") else path
    return safe((name or path) + space + rest)


def gpu_list(indices: "Iterable[int]") -> str:
    """Write `GPU 0`, `GPUs 0 and 2`, `GPUs 0-3, 5 and 7`."""
    runs: list[list[int]] = []
    for number in sorted(set(indices)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"GPU{'s' if len(runs) > 1 or len(runs[0]) > 1 else ''} {joined(texts)}"


def job_list(job_ids: "Iterable[int]") -> str:
    """Write `jobs 3, 4, 5 and 2 more`."""
    numbers = sorted(set(job_ids))
    if len(numbers) == 1:
        return f"job {numbers[0]}"
    if len(numbers) > 4:
        return f"jobs {', '.join(map(str, numbers[:3]))} and {len(numbers) - 3} more"
    return f"jobs {joined([str(number) for number in numbers])}"


def gpu_count(count: int) -> str:
    """Write `a GPU`, `3 GPUs`."""
    return "a GPU" if count == 1 else f"{count} GPUs"


def joined(texts: "Sequence[str]") -> str:
    """Write `a, b and c`."""
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def be(indices: "Sequence[int]") -> str:
    """Write `is` or `are`."""
    return "is" if len(indices) == 1 else "are"


def moment(seconds: float, now_at: float) -> str:
    """Write when it is in so many seconds: the hour, or of what is far away the day."""
    return strftime("%H:%M" if seconds < CLOCK_SECONDS else "%d %b", localtime(now_at + seconds))


def clock_of(now_mono: float, now_at: float) -> "Callable[[float], str]":
    """Return what writes a moment on the clock that decides: `at 16:09`, `now` if it has passed."""
    return lambda mono: f"at {moment(mono - now_mono, now_at)}" if mono > now_mono else "now"


def ordinal(place: int) -> str:
    """Write `1st`, `22nd`."""
    return f"{place}{'th' if 10 < place % 100 < 14 else _ENDINGS[place % 10]}"


def how_to_permit(index: int) -> str:
    """Say who can change a GPU's compute mode, and how."""
    return f"root can change it: nvidia-smi -i {index} -c DEFAULT"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii") if code < 0xD800 or code > 0xDFFF else f"\\u{code:04x}"


def signal_name(number: int) -> str:
    """Name a signal as kill(1) does."""
    import signal  # lists wait for this module, and seldom name one

    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def cause_of_end(text: "str | None") -> str:
    """Say what ended a job, if that is news to its owner: not that somebody killed it, or that a block was left."""
    return "" if text is None or text.startswith(("killed", "block of ")) else safe(text, 80)
