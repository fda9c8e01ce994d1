"""What keys do on a list of jobs that stays on the screen."""

import pytest

from gpuwrap.commands.browsing import Browser, Page, keys_in

TABLE = [
    "40 jobs: 1 runs, 39 wait",
    "         JOB  STATE     PRIO↑  COMMAND",
    "           1  running       0  nightly: python train.py",
    *[f"{number:>12}  {number - 1}th         0  x{number}: python t.py" for number in range(2, 39)],
    "        1100 of 2000 done, about 5 min left",
    "          39  paused        0  last: python t.py",
    "2,4,6,8,10,…  40th          0  5×  sweep-1: python t.py",
]


class Stage:
    """A browser of ten lines and sixty columns, and the verbs that were run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.browser = Browser(self.run)
        self.page = Page(TABLE)
        self.frame()

    def run(self, words: list[str]) -> str:
        self.ran.append(" ".join(words))
        return "told\n" + "\n".join(f"line {number}" for number in range(20)) if words[0] in ("why", "logs") else "done"

    def frame(self) -> list[str]:
        return self.browser.frame(self.page, 60, 10, "gpurun ls")

    def type(self, *keys: str) -> list[str]:
        for key in keys:
            assert self.browser.key(key)
            self.frame()
        return self.frame()


def on(lines: list[str]) -> str:
    """The number of the row under the cursor."""
    return next((line[4:].split()[0] for line in lines if line.startswith("\x1b[7m")), "")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nothing_is_lost_below_the_screen(stage: Stage) -> None:
    lines = stage.frame()
    assert len(lines) == 10
    assert lines[1:4] == TABLE[:3]
    assert lines[-1] == "… and 35 more lines"
    assert on(lines) == "", "no row is marked before a key says so"
    seen = {line.split()[0].removeprefix("\x1b[7m") for _ in range(45) for line in stage.type("j")[3:9]}
    assert {str(number) for number in range(1, 40)} <= seen
    assert stage.frame()[1:3] == TABLE[:2], "totals and header stay"


def test_keys_move_as_they_do_elsewhere(stage: Stage) -> None:
    assert on(stage.type("down")) == "1"
    assert on(stage.type("j", "j")) == "3"
    assert on(stage.type("up", "k")) == "1"
    assert on(stage.type("page down")) == "6"
    assert on(stage.type("end")) == "2,4,6,8,10,…"
    assert on(stage.type("home")) == "1"
    assert on(stage.type("page up")) == "1"


def test_the_cursor_stays_on_its_job_when_others_leave(stage: Stage) -> None:
    stage.type("down", "down", "down")
    stage.page = Page([*TABLE[:2], *TABLE[4:]])
    assert on(stage.frame()) == "3"


def test_a_filter_shows_only_rows_with_a_text(stage: Stage) -> None:
    lines = stage.type("/", *"NIGHT", "enter")
    assert [line for line in lines if "python" in line] == [TABLE[2]]
    assert lines[-1] == "only rows with: NIGHT (Escape shows all)"
    assert len([line for line in stage.type("escape") if "python" in line]) > 1


def test_enter_tells_why_and_any_key_goes_back(stage: Stage) -> None:
    lines = stage.type("j", "j", "enter")
    assert stage.ran == ["why 2"]
    assert (lines[2], lines[-1]) == ("told", "… and 14 more lines; any key goes back")
    assert stage.type("end")[-2] == "line 19"
    assert on(stage.type("x")) == "2"
    stage.type("l", "x")
    assert stage.ran == ["why 2", "logs -n 200 2"]


def test_what_ends_or_changes_something_asks_first(stage: Stage) -> None:
    assert stage.type("j", "K")[-1] == "kill 1? [y/N]"
    stage.type("n")
    assert stage.type("r", "5", "x", "erase", "0")[-1] == "priority of 1: 50_"
    assert stage.ran == []
    assert stage.type("enter")[-1] == "done"
    assert stage.ran == ["renice 50 1"]
    stage.type("K", "y")
    stage.type("r", "escape", "r", "enter")
    assert stage.ran == ["renice 50 1", "kill -y 1"]


def test_pause_pauses_and_lets_go_on(stage: Stage) -> None:
    stage.type("j", "p", "end", "up", "p")
    assert stage.ran == ["pause 1", "resume 39"]


def test_a_row_that_does_not_name_all_its_jobs_is_not_acted_on(stage: Stage) -> None:
    assert "use its name" in stage.type("end", "K")[-1]
    assert stage.ran == []


def test_keys_tells_the_keys_and_q_leaves(stage: Stage) -> None:
    assert any("renice it" in line for line in [*stage.type("?"), *stage.type("page down")])
    stage.type("x")
    assert not stage.browser.key("q")


def test_what_a_terminal_sends_is_cut_into_keys() -> None:
    assert keys_in("\x1b[A\x1bOBj\x1b[5~\x1b[6~q") == ["up", "down", "j", "page up", "page down", "q"]
    assert keys_in("\x1b[1;5Ck\x1b") == ["k", "escape"], "a key that we do not know is left out whole"
    assert keys_in("é\n\x7f") == ["é", "enter", "erase"]
