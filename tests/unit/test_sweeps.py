"""Which rows a sweep has, and what each runs."""

import subprocess

import pytest

from gpuwrap.errors import UsageError
from gpuwrap.outputs import expanded, with_index
from gpuwrap.sweeps import LONGEST_LINE, MOST_ROWS, argv_of, from_words, in_words, parse_array, read_commands


@pytest.mark.parametrize(
    ("text", "indices", "limit"),
    [
        ("1-3", [1, 2, 3], None),
        ("7", [7], None),
        ("0", [0], None),
        ("1-20%4", list(range(1, 21)), 4),
        ("1,5,7-9", [1, 5, 7, 8, 9], None),
        ("9,1-2", [1, 2, 9], None),
        ("1-3,2-4", [1, 2, 3, 4], None),
        ("0-100:10", list(range(0, 101, 10)), None),
        ("1-4:3%1", [1, 4], 1),
        (f"1-{MOST_ROWS}", list(range(1, MOST_ROWS + 1)), None),
    ],
)
def test_a_list_of_indices_is_read_as_slurm_does(text: str, indices: list[int], limit: int | None) -> None:
    assert parse_array(text) == (indices, limit)


@pytest.mark.parametrize(
    "text",
    ["", "a", "3-1", "1-", "-1", "1--3", "1,,2", "1,", "1:2", "1-5:", "1-5:0", "1-5:x", "1-20%", "1-20%0", "1-20%x", "1-20%-1",
     "%4", "1-20%4%4", "0-10000", "1-99999999999", "1_0", "１-3", " 1", "1-3 ", "+1", "1-9000,10000-19000"],
)  # fmt: skip
def test_what_is_no_list_of_indices_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"^array "):
        parse_array(text)


def test_commands_have_the_numbers_of_their_lines() -> None:
    content = b"# two commands\n\ntrue 1\r\n   \n  # none\n\ttrue 2"
    assert read_commands(content, "f") == [(3, b"true 1"), (6, b"true 2")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no command"),
        (b"\n# x\n", "holds no command"),
        (b"true\nfalse \0 x\n", "line 2: holds a NUL byte"),
        (b"echo 'x\n", "line 1: no closing quotation"),
        (b"true\necho x \\\n  y\n", "line 2: ends with a backslash: a command is one line"),
        (b"echo $X \\\n", "line 1: ends with a backslash"),
        (b"echo \\\\\\\r\n", "line 1: ends with a backslash"),
        (b"true " + b"x" * LONGEST_LINE, "line 1: longer than"),
        (b"true\n" * (MOST_ROWS + 1), "more than 10000 commands"),
        (b"#" * (17 << 20), "larger than 16M"),
    ],
)
def test_a_file_of_which_not_every_line_can_be_run_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=f"^f: {words}"):
        read_commands(content, "f")


def test_what_an_editor_adds_is_no_command() -> None:
    assert read_commands(b"\xef\xbb\xbftrue\r\n", "f") == [(1, b"true")]
    assert read_commands(b"echo \\\\\n", "f") == [(1, b"echo \\\\")]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        (b"echo a\fb c\vd\te\rf", (b"echo", b"a\fb", b"c\vd", b"e\rf")),
        (b"echo 'a' b\fc\vd\t''e\rf", (b"echo", b"a", b"b\fc\vd", b"e\rf")),
        (b"python t.py  --lr 0.1", (b"python", b"t.py", b"--lr", b"0.1")),
        (b"python t.py --lr=0.1 \xff", (b"python", b"t.py", b"--lr=0.1", b"\xff")),
        (b"a 'b  c' \"d e\" f\\ g ''", (b"a", b"b  c", b"d e", b"f g", b"")),
        (b"'my prog' x", (b"my prog", b"x")),
    ],
)
def test_a_simple_line_is_run_without_a_shell(line: bytes, argv: tuple[bytes, ...]) -> None:
    assert argv_of(line) == argv


@pytest.mark.parametrize(
    "line",
    [b"a | b", b"a > f", b"a && b", b"a; b", b"a $X", b"a `b`", b"a *.py", b"a ~/x", b"a {1,2}", b"a &", b"LR=1 a", b"cd x",
     b"exit 3", b"if", b"! true", b"a # b", b"a \"$X\"", b"a [x]", b"a ?"],
)  # fmt: skip
def test_a_line_that_needs_a_shell_has_one(line: bytes) -> None:
    assert argv_of(line) == (b"/bin/sh", b"-c", line)


@pytest.mark.parametrize(
    "line", [b"printf %s: a 'b  c' \"d e\" f\\ g ''", b"printf %s. a\\\\b \"x\\\\y\" 'p\"q'", b"printf %s %%",
     b"printf %s: a\fb c\vd\t  e\rf", b"printf %s: 'a' b\fc\vd\t''e\rf"],
)
def test_a_line_means_the_same_with_and_without_a_shell(line: bytes) -> None:
    shell = subprocess.run([b"/bin/sh", b"-c", line], capture_output=True, check=True)
    assert subprocess.run(argv_of(line), capture_output=True, check=True).stdout == shell.stdout


@pytest.mark.parametrize("numbers", [[], [1], [14, 15, 16], [1, 2, 5, 9, 10], [3, 1, 2], [0, 0, 5]])
def test_numbers_are_written_as_runs_and_read_again(numbers: list[int]) -> None:
    assert from_words(in_words(numbers)) == numbers


def test_runs_are_short() -> None:
    assert in_words([*range(14, 34), 35]) == "14-33,35"


def test_the_index_stands_in_the_name_of_the_output() -> None:
    assert expanded(with_index(b"/a/%i-%j-%%i.log", 7), 14) == b"/a/7-14-%i.log"
