"""How many columns of a terminal a text takes, and texts that are cut to fit.

The launch path imports this module for its waiting line: it imports nothing until a letter needs it.
"""

TYPE_CHECKING = False  # as type checkers read it
if TYPE_CHECKING:
    from collections.abc import Sequence

# Below it every letter takes one column, and so do the `…` that our own texts end with and the `↑` of a header.
FIRST_OTHER = "\u0300"


def columns(text: str) -> int:
    """Return how many columns a text takes: East Asian wide letters take two, marks on other letters none."""
    return len(text) if _is_plain(text) else sum(map(_columns_of, text))


def columns_of_each(texts: "Sequence[str]") -> list[int]:
    """Return how many columns each text takes: of a thousand plain ones at once."""
    return list(map(len if "".join(texts).isascii() else columns, texts))


def _is_plain(text: str) -> bool:
    """Whether each letter takes one column; without looking at each, for the sake of long tables."""
    return text.isascii() or max(text.replace("…", ".").replace("↑", ".")) < FIRST_OTHER


def _columns_of(letter: str) -> int:
    from unicodedata import category, east_asian_width  # a shared object: only when such a letter comes

    # Marks of Thai or Hindi have no combining class; vowels of Hangul syllables in parts are drawn into them.
    if category(letter) in ("Mn", "Me") or "\u1160" <= letter <= "\u11ff":
        return 0
    return 2 if east_asian_width(letter) in "WF" else 1


def cut(text: str, width: int) -> str:
    """Return a text that takes at most `width` columns, with `…` where it was cut."""
    if _is_plain(text):
        return text if len(text) <= width else text[: max(0, width - 1)].rstrip() + "…"
    if columns(text) <= width:
        return text
    used = 1  # the `…`
    for at, letter in enumerate(text):
        used += _columns_of(letter)
        if used > width:
            return text[:at].rstrip() + "…"
    return text
