"""Who is asked to end beside the leader of a job, and when: the one rule for `kill`, time limits and evictions. Pure.

1. The leader is asked first and alone: a program that saves by itself needs its workers for that.
2. If it lives on and only waits for its children, they are asked too, and so on below each that was asked. A shell runs no
   trap before the command in its foreground has ended, and who ignores the signal passes it to nobody: their children are
   asked soon. Who can have passed it on has perhaps done so, and nobody is to be asked twice while he saves: the children
   of such a one are asked when most of the delay is over.
3. Asked are those that catch the signal. Those that would die of it serve them (a tee, a shell in between), or are to finish
   what they do before the trap runs: they are asked if nobody there catches it, no other signal follows, and most of the
   delay is over.
4. What outlives its leader is asked alike, from the topmost down: those that would die of it are not waited for by anybody
   then, and are asked at once if nobody there catches it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# How long it may take until a process that can act on a signal is seen to: of short delays a part.
LOOK_SECONDS = 2.0
LOOK_PART = 0.25
# When those are asked that may have been asked already by the one they belong to: as a part of the delay.
LATE_PART = 0.75
# A handler that only notes the signal takes less; processor time is counted in ticks of 0.01 s.
IDLE_SECONDS = 0.015
# SIGINT and SIGQUIT. What a shell without job control starts with `&` ignores both, and has another standard input than the
# shell [POSIX, Shell Command Language, Asynchronous Lists]: all else it starts in its foreground.
BOTH_INTERRUPTS = 0b110


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process is seen to do. The masks are those of /proc/PID/status: bit N-1 stands for signal N."""

    pid: int
    start_ticks: int
    sleeps: bool
    waits: bool
    """It sleeps in wait(2)."""
    is_shell: bool
    cpu_seconds: float
    catches: int
    """Signals that it has a handler for, or blocks: it takes those by itself."""
    ignores: int
    children: tuple[int, ...]
    shares_stdin: bool = False
    """It has its parent's standard input. Known only of those that ignore both interrupts."""

    def does_catch(self, number: int) -> bool:
        """Whether it can do something about a signal."""
        return bool(self.catches >> (number - 1) & 1)

    def ignores_interrupts(self) -> bool:
        """Whether it ignores SIGINT and SIGQUIT."""
        return self.ignores & BOTH_INTERRUPTS == BOTH_INTERRUPTS

    def does_ignore(self, number: int) -> bool:
        """Whether a signal does nothing to it."""
        return bool(self.ignores >> (number - 1) & 1)


@dataclass(slots=True)
class Asked:
    """One that was asked: as it was then, and as it was seen last."""

    first: Standing
    last: Standing


Read = Callable[[int], Standing | None]


@dataclass(slots=True)
class Round:
    """One signal, to all that have to be asked by it, by pid. The phase is `late` when most of its delay is over."""

    number: int
    asked: Mapping[int, Asked]
    read: Read
    """Looks at a process; None if it has gone, or is no part of the job."""
    late: bool = False
    is_last: bool = True
    """No other signal follows, but KILL."""

    def below(self, pid: int) -> list[Standing]:
        """Return who is to be asked now below a process that was asked."""
        now = self._still(pid)
        heirs = self._heirs(self.asked[pid], now) if now is not None else []
        found, is_busy = self._search(heirs)
        if found or is_busy or not (self.is_last and self.late):
            return found
        return [heir for heir in heirs if not heir.does_ignore(self.number)]

    def left_behind(self, leader: int, left: Iterable[int]) -> list[Standing] | None:
        """Return who is to be asked now of those that outlived their leader; None if this signal is nothing to anybody there.

        Who catches it may have been asked, by the trap of a shell in whose background he was: other programs wait for those
        whom they asked.
        """
        there = [each for pid in left if (each := self.read(pid)) is not None]
        lower = {child for each in there for child in each.children}
        found, is_busy = self._search(each for each in there if each.pid not in lower)
        if self.caught_it(leader) and self.asked[leader].first.is_shell and not self.late:
            is_busy = is_busy or any(each.ignores_interrupts() for each in found)
            found = [each for each in found if not each.ignores_interrupts()]
        if found or is_busy:
            return found
        return [each for each in there if not each.does_ignore(self.number)] if self.is_last else None

    def caught_it(self, pid: int) -> bool:
        """Whether one that was asked could do something about it."""
        return pid in self.asked and self.asked[pid].first.does_catch(self.number)

    def is_there(self, pid: int) -> bool:
        """Whether one that was asked lives on."""
        return self._still(pid) is not None

    def _still(self, pid: int) -> Standing | None:
        """Look at one that was asked; None if it was not, or has gone."""
        asked, now = self.asked.get(pid), self.read(pid)
        return now if asked is not None and now is not None and asked.first.start_ticks == now.start_ticks else None

    def _heirs(self, asked: Asked, now: Standing) -> list[Standing]:
        """Return the children that one only waits for who was asked; none if it does anything else."""
        acts = now.cpu_seconds - asked.last.cpu_seconds > IDLE_SECONDS or not set(now.children) <= set(asked.first.children)
        if acts or not now.sleeps or not (now.waits or now.is_shell):
            return []
        children = [child for pid in now.children if (child := self.read(pid)) is not None]
        if self.late or not (asked.first.does_catch(self.number) or now.does_catch(self.number)):
            return children
        if not now.is_shell:
            return []
        if now.ignores_interrupts():  # as all that it starts does, then
            return children if any(child.shares_stdin for child in children) else []
        return [child for child in children if not child.ignores_interrupts()]

    def _search(self, heirs: Iterable[Standing]) -> tuple[list[Standing], bool]:
        """Return the nearest that catch the signal, and whether one that was asked is still there."""
        found: list[Standing] = []
        is_busy, pending = False, list(heirs)
        for heir in pending:  # which grows
            if self.is_there(heir.pid):
                is_busy = True
                found += self.below(heir.pid)
            elif heir.does_catch(self.number):
                found.append(heir)
            else:
                pending += [child for pid in heir.children if (child := self.read(pid)) is not None]
        return found, is_busy


def next_look(at: float, seconds: float) -> float | None:
    """Return when to look next after a signal whose delay is so long, None if no more. Both are seconds from the signal on."""
    late, every = seconds * LATE_PART, min(LOOK_SECONDS, seconds * LOOK_PART)
    after = late if at < late < at + every else at + every
    return after if at < after < seconds else None
