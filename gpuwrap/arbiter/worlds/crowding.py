"""What others may cost us through a claim, which anybody can reach: how many are let in, and how often their word counts.

Pure rules: the sockets are in `claims`.
"""

from collections import Counter

# Of one user, at one claim: each of his worlds (state folders, Slurm steps) needs one connection.
MOST_OF_A_USER = 8
# In all, where there are descriptors enough: else the part of them that nobody else will miss.
MOST_IN_ALL = 256
PART_OF_DESCRIPTORS = 8
# A holder's release counts once in so long, and any release of a GPU once in the shorter time, whoever its holder was.
RELEASE_SECONDS = 1.0
ANY_RELEASE_SECONDS = 0.1


class Guests:
    """Who is let in: a few of each user at each claim, and in all no more than there is room for."""

    def __init__(self, descriptors: int) -> None:
        """`descriptors`: how many this process may have open."""
        self._most = min(MOST_IN_ALL, max(1, descriptors // PART_OF_DESCRIPTORS))
        self._there: Counter[tuple[str, int]] = Counter()

    def has_room(self) -> bool:
        """Whether anybody at all may be let in."""
        return self._there.total() < self._most

    def admit(self, uuid: str, uid: int) -> bool:
        """Count a guest in; false if he must come again later."""
        if not self.has_room() or self._there[uuid, uid] >= MOST_OF_A_USER:
            return False
        self._there[uuid, uid] += 1
        return True

    def leave(self, uuid: str, uid: int) -> None:
        """Count a guest out."""
        self._there[uuid, uid] -= 1
        if not self._there[uuid, uid]:
            del self._there[uuid, uid]


class Heeded:
    """Which releases were heeded a moment ago: who only says that he lets go, again and again, is heeded now and then."""

    def __init__(self) -> None:
        self._at: dict[str, dict[int, float]] = {}

    def seconds_until(self, uuid: str, uid: int, now_mono: float) -> float:
        """Say in how many seconds a release by a user counts (0: at once), and note that it does then."""
        past = {who: at for who, at in self._at.get(uuid, {}).items() if at + RELEASE_SECONDS > now_mono}
        due = max([now_mono, *(at + ANY_RELEASE_SECONDS for at in past.values())])
        if uid in past:
            due = max(due, past[uid] + RELEASE_SECONDS)
        self._at[uuid] = {**past, uid: due}
        return due - now_mono
