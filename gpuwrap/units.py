"""Sizes, durations and priorities: from what people type, to what people read.

Sizes are bytes with base 1024, durations are seconds. The launch path imports this module, so it imports
nothing: `re` alone would add milliseconds to every start.
"""

from .errors import UsageError

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_SIZE_UNITS = {"k": KIB, "m": MIB, "g": GIB, "t": 1024**4}
_SIZE_SUFFIXES = ("", "b", "i", "ib")
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

PRIORITY_WORDS = {"low": -10, "normal": 0, "high": 10, "urgent": 50}
PRIORITY_LOWEST, PRIORITY_HIGHEST = -100, 100
# One named step: from this much above, work makes lower work give way.
PRIORITY_STEP = 10
SIMULATED_MOST = 64


def parse_size(text: str) -> tuple[int | None, float | None]:
    """Read a size: (bytes, None) for `6G`, (None, percent) for `50%`. Raises UsageError."""
    number, unit = _split_number(text)
    if number is None:
        raise UsageError(f"memory {text}: not a size: a number and a unit, as in 8G")
    if number <= 0:
        raise UsageError(f"memory {text}: must be more than nothing")
    if not unit:
        raise UsageError(f"memory {text}: unit missing: {text}G or {text}M?")
    if unit == "%":
        if number > 100:
            raise UsageError(f"memory {text}: more than 100%")
        return None, number
    letter, suffix = unit[0].lower(), unit[1:].lower()
    if letter not in _SIZE_UNITS or suffix not in _SIZE_SUFFIXES:
        raise UsageError(f"memory {text}: unknown unit: K, M, G, T or %")
    size = number * _SIZE_UNITS[letter]  # infinite, perhaps
    if not 1 <= size < 2**62:
        raise UsageError(f"memory {text}: out of range")
    return int(size), None


def parse_simulated(spec: str) -> list[int]:
    """Read simulated GPUs, `2x24G`, `24G` or `1x24G+2x80G`: the bytes of each. Raises UsageError."""
    sizes: list[int] = []
    for part in spec.split("+"):
        count_text, times, size_text = part.rpartition("x")
        count = parse_integer(count_text) if times else 1
        try:
            size, _percent = parse_size(size_text)
        except UsageError:
            size = None
        if size is None or count is None or not 1 <= count <= SIMULATED_MOST:
            raise UsageError(f"simulated GPUs {spec}: not understood: 2x24G, for example")
        sizes += [size] * count
    if len(sizes) > SIMULATED_MOST:
        raise UsageError(f"simulated GPUs {spec}: at most {SIMULATED_MOST}")
    return sizes


def parse_duration(text: str, what: str = "time") -> float:
    """Read a duration in seconds: `90s`, `1.5h`, `1h30m`, `H:MM:SS`. Raises UsageError, naming `what`."""
    if ":" in text:
        return _parse_clock(text, what)
    seconds, rest = 0.0, text
    while rest:
        number, unit = _split_number(rest)
        if number is None:
            raise UsageError(f"{what} {text}: not a duration: a number and a unit, as in 15m")
        if not unit:
            raise UsageError(f"{what} {text}: unit missing: {text}s or {text}m?")
        if unit[0].lower() not in _DURATION_UNITS:
            raise UsageError(f"{what} {text}: unknown unit: s, m, h or d")
        seconds += number * _DURATION_UNITS[unit[0].lower()]
        rest = unit[1:]
    if not text:
        raise UsageError(f"{what}: a duration is missing, as in 15m")
    if not seconds < 2**31:
        raise UsageError(f"{what} {text}: out of range")
    return seconds


def _parse_clock(text: str, what: str) -> float:
    parts = text.split(":")
    plain = all(part.isascii() and part.isdigit() for part in parts)
    if len(parts) != 3 or not plain or any(int(part) > 59 for part in parts[1:]) or len(parts[0]) > 6:
        raise UsageError(f"{what} {text}: not a duration: H:MM:SS")
    hours, minutes, seconds = (int(part) for part in parts)
    return float(hours * 3600 + minutes * 60 + seconds)


def _split_number(text: str) -> tuple[float | None, str]:
    """Split `1.5G` into 1.5 and `G`; the number is None if none stands at the start."""
    end = 0
    while end < len(text) and (text[end] in "0123456789" or (text[end] == "." and "." not in text[:end])):
        end += 1
    digits = text[:end]
    if not digits.strip("."):
        return None, text
    return float(digits), text[end:]


def parse_priority(text: str) -> int:
    """Read a priority: a word or −100…100, higher runs first. Raises UsageError."""
    word = PRIORITY_WORDS.get(text.lower())
    if word is not None:
        return word
    number = parse_integer(text)
    if number is None:
        from .options import nearest  # only for mistakes

        near = nearest(text.lower(), list(PRIORITY_WORDS))
        if near:
            raise UsageError(f"priority {text}: did you mean {near}?")
        raise UsageError(f"priority {text}: low, normal, high, urgent or a number from -100 to 100, higher runs first")
    if not PRIORITY_LOWEST <= number <= PRIORITY_HIGHEST:
        raise UsageError(f"priority {text}: -100 to 100, higher runs first")
    return number


def parse_integer(text: str) -> int | None:
    """Read a decimal integer as people write it; None for what int() accepts beyond that (`1_0`, ` 1`, other digits)."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not digits or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        return None
    return int(text)


def parse_run(word: str) -> tuple[int, int] | None:
    """Read a job's number or a range, `14` or `14-53`: its first and its last; None if it is neither."""
    number = parse_integer(word)
    first, _, last = word.partition("-")
    if number is not None or not (first.isdigit() and last.isdigit()):
        return None if number is None else (number, number)
    low, high = parse_integer(first), parse_integer(last)
    return None if low is None or high is None else (low, high)


def split_jobs(word: str) -> list[str]:
    """Return the parts of a list of numbers and ranges, `1,3-4`; any other word whole."""
    parts = word.split(",")
    return parts if all(parse_run(part) is not None for part in parts) else [word]


def format_size(size: int, unit: bool = True) -> str:
    """Write bytes as people read them: `8G`, `79.6G`, `500M`."""
    for letter, factor in (("T", 1024**4), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size >= factor or letter == "K":
            if letter == "T" and size < 10 * factor:
                continue  # 1.5T hides more than 1536G does
            number = f"{size / factor:.1f}"
            return number.removesuffix(".0") + (letter if unit else "")
    raise AssertionError("the loop ends at K")


def format_of(part: int, whole: int) -> str:
    """Write `8 of 79.6G`: two sizes, the unit once where it is the same."""
    part_text, whole_text = format_size(part), format_size(whole)
    if part_text[-1] == whole_text[-1]:
        part_text = part_text[:-1]
    return f"{part_text} of {whole_text}"


def format_duration(seconds: float) -> str:
    """Write a duration as people say it, coarse: `12 s`, `3 min`, `2 h`, `4 d`."""
    if seconds < 60:
        return f"{max(0, int(seconds))} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min"
    if seconds < 2 * 86400:
        hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
    return f"{int(seconds // 86400)} d"


def format_limit(seconds: float) -> str:
    """Write a duration exactly, as it could be typed: `90s`, `1h30m`."""
    text, left = "", seconds
    for letter, factor in (("d", 86400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, factor)
        text += f"{int(count)}{letter}" if count else ""
    return text + f"{left:g}s" if left or not text else text
