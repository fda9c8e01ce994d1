"""Who is asked beside the leader: the rule, without processes."""

import signal

import pytest

from gpuwrap.policy.asking import Asked, Round, Standing, next_look

TERM = signal.SIGTERM
BIT = 1 << (TERM - 1)
BOTH_INTERRUPTS = 0b110


def process(pid: int, *children: int, **facts: object) -> Standing:
    given = {"sleeps": True, "waits": True, "is_shell": False, "cpu_seconds": 1.0, "catches": BIT, "ignores": 0}
    return Standing(pid, pid * 10, children=children, **{**given, **facts})  # type: ignore[arg-type]


def shell(pid: int, *children: int, **facts: object) -> Standing:
    return process(pid, *children, is_shell=True, **facts)


def round_of(*there: Standing, asked: tuple[Standing, ...] = (), **facts: bool) -> Round:
    """All that are there now; the first of them was asked, and `asked` as they were then."""
    by_pid = {each.pid: each for each in there}
    before = {each.pid: Asked(each, each) for each in (there[0], *asked)}
    return Round(TERM, before, by_pid.get, **facts)


def pids(found: list[Standing]) -> list[int]:
    return [each.pid for each in found]


def test_what_a_shell_with_a_trap_waits_for_is_asked() -> None:
    assert pids(round_of(shell(1, 2), process(2)).below(1)) == [2]


@pytest.mark.parametrize(
    "facts", [{"sleeps": False}, {"waits": False}], ids=["computes", "saves"]
)
def test_a_program_that_does_anything_but_wait_keeps_its_workers(facts: dict[str, object]) -> None:
    for late in (False, True):
        assert round_of(process(1, 2, 3, **facts), process(2), process(3), late=late).below(1) == []


def test_who_used_the_processor_or_started_something_since_it_was_asked_acts_on_it() -> None:
    before = shell(1, 2)
    for now in (shell(1, 2, cpu_seconds=1.2), shell(1, 2, 3)):
        for late in (False, True):
            assert round_of(now, process(2), process(3), asked=(before,), late=late).below(1) == []


def test_who_can_have_passed_it_on_is_given_most_of_the_delay() -> None:
    for leader in (process(1, 2), shell(1, 2)):
        child = process(2, ignores=BOTH_INTERRUPTS)  # in a shell's background: `wait` takes traps
        assert round_of(leader, child).below(1) == []
        assert pids(round_of(leader, child, late=True).below(1)) == [2]


def test_who_ignores_it_has_passed_it_to_nobody() -> None:
    assert pids(round_of(process(1, 2, catches=0, ignores=BIT), process(2)).below(1)) == [2]


def test_who_came_to_ignore_it_has_acted() -> None:
    """As timeout(1) does once it has passed it on."""
    before, now = process(1, 2), process(1, 2, catches=0, ignores=BIT)
    assert round_of(now, process(2), asked=(before,)).below(1) == []


@pytest.mark.parametrize(("shares", "expected"), [(True, [2]), (False, [])])
def test_a_shell_that_itself_runs_in_the_background_is_known_by_its_childs_input(shares: bool, expected: list[int]) -> None:
    leader = shell(1, 2, ignores=BOTH_INTERRUPTS)
    child = process(2, ignores=BOTH_INTERRUPTS, shares_stdin=shares)
    assert pids(round_of(leader, child).below(1)) == expected


def test_step_by_step_below_a_shell_below_a_shell() -> None:
    there = (shell(1, 2), shell(2, 3), process(3))
    assert pids(round_of(*there).below(1)) == [2]
    assert pids(round_of(*there, asked=(there[1],)).below(1)) == [3]
    assert pids(round_of(*there, asked=there[1:]).below(1)) == []


def test_below_a_long_chain_of_such_as_would_die_of_it_somebody_catches_it() -> None:
    chain = [process(pid, pid + 1, catches=0) for pid in range(2, 5000)]
    assert pids(round_of(shell(1, 2), *chain, process(5000)).below(1)) == [5000]


def test_what_would_die_of_it_is_asked_late_if_nobody_catches_it_and_no_other_signal_follows() -> None:
    tee, inner = process(3, catches=0), shell(4, 5, catches=0)
    for catching in (process(2), process(5)):
        there = (shell(1, *({2, 3} if catching.pid == 2 else {3, 4})), tee, inner, catching)
        assert pids(round_of(*there).below(1)) == [catching.pid]
        assert pids(round_of(*there, asked=(catching,)).below(1)) == [], "it is saving, and the others serve it"
    there = (shell(1, 3, 4), tee, inner, process(5, catches=0))
    assert round_of(*there, is_last=False, late=True).below(1) == []
    assert round_of(*there).below(1) == [], "a step of a loop that ends after it"
    assert pids(round_of(*there, late=True).below(1)) == [3, 4]


def left(leader: Standing, *there: Standing, asked: tuple[Standing, ...] = (), **facts: bool) -> list[int] | None:
    """Who is asked of those that outlived the leader."""
    found = round_of(leader, *there, asked=asked, **facts).left_behind(leader.pid, [each.pid for each in there])
    return None if found is None else pids(found)


def test_what_a_leader_left_behind_is_asked_at_once_unless_its_trap_can_have_asked_it() -> None:
    there = (process(2), process(3, catches=0))
    for leader in (shell(1, catches=0), process(1), shell(1)):
        for late in (False, True):
            assert left(leader, *there, late=late) == [2]
            assert left(leader, there[1], late=late) == [3]
    there = (process(2, ignores=BOTH_INTERRUPTS), process(3, catches=0, ignores=BOTH_INTERRUPTS))
    assert left(process(1), *there) == [2]
    assert left(shell(1), *there) == []
    assert left(shell(1), there[1]) == [3]
    assert left(shell(1), *there, late=True) == [2]
    assert left(shell(1), *there, asked=there[:1], late=True) == [], "it is saving, and the other serves it"


def test_of_what_a_leader_left_behind_a_program_that_saves_by_itself_keeps_its_workers() -> None:
    there = (process(2, 3, 4), process(3), process(4, catches=0))
    assert left(shell(1, catches=0), *there) == [2]
    assert left(shell(1, catches=0), *there, asked=there[:1]) == []
    there = (process(2, 3, catches=0), process(3, 4), process(4))
    assert left(shell(1, catches=0), *there) == [3]


def test_a_signal_that_is_nothing_to_those_left_behind_is_not_sent_to_them_if_another_follows() -> None:
    assert left(shell(1, catches=0), process(2, catches=0), is_last=False) is None
    assert left(shell(1, catches=0), process(2), process(3, catches=0), is_last=False) == [2]
    assert left(shell(1, catches=0), process(2), asked=(process(2),), is_last=False) == []


def test_another_process_of_that_pid_was_not_asked() -> None:
    before = process(2)
    now = Standing(2, 777, True, True, False, 0.0, BIT, 0, ())
    assert pids(round_of(shell(1, 2), now, asked=(before,)).below(1)) == [2]


def test_it_is_looked_every_two_seconds_or_quarters_and_when_most_is_over() -> None:
    def looks(seconds: float) -> list[float]:
        found = [0.0]
        while (at := next_look(found[-1], seconds)) is not None:
            found.append(at)
        return found[1:]

    assert looks(4.0) == [1.0, 2.0, 3.0]
    assert looks(10.0) == [2.0, 4.0, 6.0, 7.5, 9.5]
    assert 90.0 in looks(120.0)
    assert looks(0.0) == []
