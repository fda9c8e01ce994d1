"""top: the GPUs as `gpus` shows them, above the jobs as `ls` shows them, on a screen that stays.

While it is open there is an arbiter, jobs or not: nobody else looks at the GPUs. It leaves soon after us.
"""

from ..errors import GpurunError, UsageError
from ..tables import Screen
from ..widths import cut
from . import gpus, ls
from .asking import Given, World
from .browsing import Page
from .watching import require_terminal, run_verb, watch


def main(given: Given, operands: list[str]) -> int:
    """Show both until `q` is typed. Without a driver it does not begin; one that goes away meanwhile is told in place."""
    if operands:
        raise UsageError(f"{operands[0]}: top takes no operand")
    require_terminal()
    world = World(given, create=True)
    world.ask("gpus")  # raises what can be said without a screen
    watch(lambda screen: _page(world, given, screen), "gpurun top", run_verb(world.sim))
    return 0


def _page(world: World, given: Given, screen: Screen) -> Page:
    """Return both tables; where they have not room, each GPU takes one line before jobs must be scrolled to."""
    world.refresh()
    told = None
    try:
        told = world.ask("gpus")
        above = gpus.table(told, screen, bars=True)
    except GpurunError as err:
        above = [cut(err.text, screen.width or 80)]
    jobs, _ = ls.find(world, given, [])
    below = ls.table(world, jobs, False, screen)
    if told and screen.height is not None and len(above) + 1 + len(below) > screen.height:
        above = gpus.table(told, screen, brief=True, bars=True)
    return Page(below, [*above, ""])
