"""Which GPUs suit a request best, of those where it fits.

Whole GPUs are chosen by how they are connected; shared ones so that those stay whole that somebody waits for. Equal ones by
their index: a plan that is made again chooses the same.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import comb, inf

from ..model import Gpu
from .placement import Room, Shape

# Sets of GPUs that are compared one by one; where there are more, a set is grown from each GPU instead.
SETS_COMPARED = 1000


def choose(rooms: Sequence[Room], shape: Shape, wanted_whole: Callable[[Room], bool]) -> list[Room]:
    """Return the best of the rooms, all of which fit; `wanted_whole` tells where a whole-GPU job waits.

    Sharing jobs: an empty GPU that no whole-GPU job waits for; else beside others, where utilisation is least, then
    where least memory is left over; an empty GPU that is waited for comes last.
    """
    if all(room.need(shape)[1] for room in rooms):
        return best_connected(rooms, shape.gpus)

    def rank(room: Room) -> tuple[int, float, int, int]:
        size, whole = room.need(shape)
        left = 0 if whole else room.available - size
        if room.empty:
            return (2 if wanted_whole(room) else 0), 0, left, room.gpu.index
        utilization = room.gpu.utilization_percent
        return 1, inf if utilization is None else utilization, left, room.gpu.index

    return sorted(sorted(rooms, key=rank)[: shape.gpus], key=_index)


def best_connected(rooms: Sequence[Room], count: int) -> list[Room]:
    """Return the set whose worst link is best, then all links together, then with fewest NUMA nodes, then lowest."""
    rooms = sorted(rooms, key=_index)
    if count in (1, len(rooms)):
        return rooms[:count]
    links = [[_link(one.gpu, other.gpu) for other in rooms] for one in rooms]
    pairs = {links[i][j] for i, j in combinations(range(len(rooms)), 2)}
    if len(pairs) == 1:
        return _fewest_nodes(rooms, count)
    sets = combinations(range(len(rooms)), count)
    candidates = list(sets) if comb(len(rooms), count) <= SETS_COMPARED else _grown(links, count)

    def score(chosen: tuple[int, ...]) -> tuple[int, int, int]:
        found = [links[i][j] for i, j in combinations(chosen, 2)]
        return min(found), sum(found), -len({rooms[i].gpu.numa_node for i in chosen})

    return [rooms[i] for i in max(candidates, key=score)]


def _index(room: Room) -> int:
    return room.gpu.index


def _link(one: Gpu, other: Gpu) -> int:
    return max(one.links.get(other.uuid, 0), other.links.get(one.uuid, 0))


def _fewest_nodes(rooms: list[Room], count: int) -> list[Room]:
    """Return rooms, all equally connected, from as few NUMA nodes as it takes."""
    nodes: dict[int | None, list[Room]] = {}
    for room in rooms:
        nodes.setdefault(room.gpu.numa_node, []).append(room)
    enough = [members for members in nodes.values() if len(members) >= count]
    if enough:
        return enough[0][:count]
    chosen: list[Room] = []
    for members in sorted(nodes.values(), key=len, reverse=True):
        chosen += members[: count - len(chosen)]
    return sorted(chosen, key=_index)


def _grown(links: list[list[int]], count: int) -> list[tuple[int, ...]]:
    """Grow one set from each GPU, adding the best-connected each time."""
    sets = []
    for seed in range(len(links)):
        chosen, rest = [seed], [i for i in range(len(links)) if i != seed]
        worst, total = list(links[seed]), list(links[seed])
        while len(chosen) < count:
            best = max(rest, key=lambda i, worst=worst, total=total: (worst[i], total[i], -i))  # type: ignore[misc]
            chosen.append(best)
            rest.remove(best)
            for i in rest:
                worst[i] = min(worst[i], links[best][i])
                total[i] += links[best][i]
        sets.append(tuple(sorted(chosen)))
    return sorted(sets)
