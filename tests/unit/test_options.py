"""The parser: whose words are whose, in every form that an option has."""

import pytest

from gpuwrap.errors import UsageError
from gpuwrap.options import LAUNCH, VERBS, nearest, number_for_program, parse, signals_as_options, taken_for_program

LINES = {
    "python t.py": ({}, "python t.py"),
    "-m 8G python -m x": ({"memory": "8G"}, "python -m x"),
    "-m8G python": ({"memory": "8G"}, "python"),
    "--memory=8G python": ({"memory": "8G"}, "python"),
    "--memory= python": ({"memory": ""}, "python"),
    "-nm 8G python": ({"nonblock": True, "memory": "8G"}, "python"),
    "-qvp-5 python": ({"quiet": True, "verbose": True, "priority": "-5"}, "python"),
    "-p -5 python": ({"priority": "-5"}, "python"),
    "-m 8G -- -m x": ({"memory": "8G"}, "-m x"),
    "-- ls": ({}, "ls"),
    "-m -- python": ({"memory": "--"}, "python"),
    "-m 1G ls --json": ({"memory": "1G"}, "ls --json"),
    "- x": ({}, "- x"),
    "python -- -m 8G": ({}, "python -- -m 8G"),
    "-p 1 -p 2 x": ({"priority": "2"}, "x"),
    "--help all": ({"help": True}, "all"),
    "": ({}, ""),
}


@pytest.mark.parametrize("line", LINES)
def test_the_launch_form(line: str) -> None:
    given, rest = parse(line.split(), LAUNCH, permute=False)
    assert (given, rest) == (LINES[line][0], LINES[line][1].split())


def test_a_negative_priority_is_no_option_to_renice() -> None:
    options = VERBS["renice"].options
    assert parse(["-5", "14", "--all"], options, permute=True, numbers=VERBS["renice"].numbers) == ({"all": True}, ["-5", "14"])
    assert parse(["--by", "-5", "14"], options, permute=True, numbers=True) == ({"by": "-5"}, ["14"])
    with pytest.raises(UsageError, match="unknown option -5"):
        parse(["-5"], VERBS["logs"].options, permute=True, numbers=VERBS["logs"].numbers)


def test_verbs_take_options_after_their_operands() -> None:
    given, operands = parse(["14", "--all", "lr-*", "-s", "TERM", "--", "-x"], VERBS["kill"].options, permute=True)
    assert given == {"all": True, "signal": "TERM"}
    assert operands == ["14", "lr-*", "-x"]


MISTAKES = {
    "--memroy 8G": "unknown option --memroy: did you mean --memory?",
    "--lsit": "unknown option --lsit: did you mean gpurun ls?",
    "--jsno": "unknown option --jsno: --help lists them",
    "--gres=gpu:2 x": "unknown option --gres: did you mean -g 2?",
    "--nice x": "unknown option --nice: did you mean -p?",
    "-Z x": "unknown option -Z: --help lists them",
    "-qZ x": "unknown option -Z: --help lists them",
    "-m": "-m: SIZE missing",
    "--memory": "--memory: SIZE missing",
    "--quiet=1 x": "--quiet: takes no value",
    "-J x true": "unknown option -J: did you mean -N x?",
    "-Jx true": "unknown option -J: did you mean -N x?",
    "-G 2 true": "unknown option -G: did you mean -g 2?",
    "--job-name=x true": "unknown option --job-name: did you mean -N x?",
    "-I true": "unknown option -I: did you mean -n?",
    "-c 4 true": "unknown option -c: CPUs are not shared out here: leave it out",
    "--cpus-per-task=4 true": "unknown option --cpus-per-task: CPUs are not shared out here: leave it out",
    "-c exit": "unknown option -c: did you mean gpurun sh -c 'COMMAND'?",
    "--partition gpu true": "unknown option --partition: there is one line here: leave it out",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_told_with_what_was_meant(line: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(line.split(), LAUNCH, permute=False)
    assert refused.value.text == MISTAKES[line]


def test_a_verbs_mistakes_name_its_own_options_alone() -> None:
    for line, told in (("--jsno", "--json"), ("--wacth", "--watch")):
        with pytest.raises(UsageError, match=f"did you mean {told}"):
            parse([line], VERBS["ls"].options, permute=True)
    with pytest.raises(UsageError, match="--help lists them"):
        parse(["--kil"], VERBS["ls"].options, permute=True)


def test_signals_are_options_of_kill_until_the_double_dash() -> None:
    assert signals_as_options(["-9", "-KILL", "-s", "TERM", "14", "--", "-9"]) == [
        "--signal=9", "--signal=KILL", "-s", "TERM", "14", "--", "-9",
    ]  # fmt: skip
    assert signals_as_options(["-y", "--all", "-SIGTERM"]) == ["-y", "--all", "--signal=SIGTERM"]


@pytest.mark.parametrize("table", [LAUNCH, *(verb.options for verb in VERBS.values())])
def test_no_name_and_no_key_is_there_twice(table: list) -> None:  # type: ignore[type-arg]
    names = [name for option in table for name in option.names]
    keys = [option.key for option in table]
    assert len(names) == len(set(names))
    assert len(keys) == len(set(keys))


def test_the_nearest_word_is_found_only_where_one_is_near() -> None:
    assert nearest("renize", list(VERBS)) == "renice"
    assert nearest("lsit", ["ls", "list"]) == "list"
    assert nearest("python", list(VERBS)) is None
    assert nearest("", list(VERBS)) is None


NUMBERS = {
    ("-n", "4"): "-n takes no number: did you mean -g 4?",
    ("-qn", "4"): "-n takes no number: did you mean -g 4?",
    ("--nonblock", "4"): "--nonblock takes no number: did you mean -g 4?",
    ("-r", "3"): "-r takes no number: did you mean --retries 3?",
    ("", "2"): "2: no program: did you mean -g 2?",
    ("-m8G", "2"): "2: no program: did you mean -g 2?",
    ("--", "2"): "2: no program: did you mean -g 2?",
    ("8G", "2"): "2: no program: did you mean -g 2?",
    ("-n", "4x"): None,
}


@pytest.mark.parametrize("words", NUMBERS)
def test_a_number_that_is_no_program_is_told_with_what_was_meant(words: tuple[str, str]) -> None:
    meant = number_for_program(*words)
    assert (meant and meant.text) == NUMBERS[words]


def test_words_of_other_queues_are_noticed_only_where_a_verb_could_be_meant() -> None:
    assert taken_for_program(["tail", "3"]) == "tail is taken for the program of that name: gpurun logs shows output"
    assert all(taken_for_program(line.split()) for line in ("ps", "ps -a", "nice 5 3", "nice 5 3-9", "info 2", "show"))
    meant = ("--", "-- ps", "nice python t.py", "tail -f log", "python ps", "", "ls", "watch nvidia-smi")
    assert not any(taken_for_program(line.split()) for line in meant)
