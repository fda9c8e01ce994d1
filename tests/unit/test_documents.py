"""The options tables, --help, the man page, the completions and the README say the same.

`GPURUN_WRITE_EXPECTED=1 pytest tests/unit/test_documents.py` writes the completions' tables anew.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import gpuwrap
from gpuwrap.options import LAUNCH, VERBS, Option
from gpuwrap.state.settings import SETTINGS

ROOT = Path(__file__).parents[2]
MAN = ROOT / "man" / "gpurun.1"
README = ROOT / "README.md"
FILES = {"bash": "gpurun.bash", "zsh": "_gpurun", "fish": "gpurun.fish"}
BEGIN, END = "# --- tables (compared with gpurun's own by a test)\n", "# --- end of tables\n"


def quoted(text: str) -> str:
    return text.replace("'", "’")


def bash_tables() -> Iterator[str]:
    yield f"__gpurun_verbs='{' '.join(VERBS)}'"
    yield f"__gpurun_options='{' '.join(name for option in LAUNCH for name in option.names)}'"
    yield f"__gpurun_valued='{' '.join(name for option in LAUNCH if option.metavar for name in option.names)}'"
    for name in VERBS:
        valued = " ".join(each for option in VERBS[name].options if option.metavar for each in option.names)
        yield f"__gpurun_valued_{name}='{valued}'"
        yield f"__gpurun_options_{name}='{' '.join(each for option in VERBS[name].options for each in option.names)}'"


def zsh_spec(option: Option, key: str) -> str:
    names = option.names
    value = f":{option.metavar}: __gpurun_values {key}" if option.metavar else ""
    told = quoted(option.help).replace("[", "(").replace("]", ")").replace(":", "\\:")
    spec = f"[{told}]{value}"
    if len(names) == 1:
        return f"{names[0]}{'=' if option.metavar else ''}{spec}"
    short, long = names
    return f"({short} {long})" + "{" + f"{short}{'+' if value else ''},{long}{'=' if value else ''}" + "}" + spec


def zsh_lines(options: list[Option], launch: bool) -> Iterator[str]:
    for option in options:
        key = "ask_signal" if launch and option.key == "signal" else option.key
        spec = zsh_spec(option, key)
        if "{" in spec:  # brace expansion is the shell's: written out here
            exclusive, _, rest = spec.partition("{")
            names, _, rest = rest.partition("}")
            for name in names.split(","):
                yield f"{exclusive}{name}{rest}"
        else:
            yield spec


def zsh_tables() -> Iterator[str]:
    yield "typeset -ga __gpurun_verbs=("
    for name, verb in VERBS.items():
        yield f"    '{name}:{quoted(verb.summary)}'"
    yield ")"
    yield "typeset -ga __gpurun_options=("
    for line in zsh_lines(LAUNCH, launch=True):
        yield f"    '{line}'"
    yield ")"
    yield f"typeset -g __gpurun_valued='{' '.join(name for option in LAUNCH if option.metavar for name in option.names)}'"
    yield "typeset -gA __gpurun_verb_options=("
    for name in VERBS:
        lines = "\n".join(zsh_lines(VERBS[name].options, launch=False))
        yield f"    {name} '{lines}'"
    yield ")"


FISH_VALUES = {
    "gpus": "1 2 4 8 all 0",
    "memory": "4G 8G 16G 24G 40G 80G 50%",
    "device": "(__gpurun_list gpus)",
    "not": "(__gpurun_list gpus)",
    "priority": "low normal high urgent",
    "wait": "10m 1h 4h 1d",
    "time": "10m 1h 4h 1d",
    "after": "(__gpurun_list jobs)",
    "on": "here slurm",
    "give_way": "never pause suspend requeue",
    "sim": "1x24G 2x24G 4x80G",
    "by": "10 -10",
    "sums": "user name day",
    "user": "(__fish_complete_users)",
}
FISH_FILES = ("output", "each", "plot", "token_file", "textfile")


def fish_line(option: Option, condition: str, launch: bool) -> str:
    words = [f"complete -c gpurun -n '{condition}'"]
    for name in option.names:
        words.append(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}")
    if option.metavar:
        words.append("-r -F" if option.key in FISH_FILES else "-x")
        values = FISH_VALUES.get(option.key, "")
        if option.key == "signal":
            values = "TERM:120 all:TERM:120 USR1:60,TERM:30 INT:60" if launch else "TERM KILL INT HUP USR1 USR2 STOP CONT"
        if values:
            words.append(f"-a '{values}'")
    words.append(f"-d '{quoted(option.help)}'")
    return " ".join(words)


def fish_tables() -> Iterator[str]:
    yield f"set -g __gpurun_verbs {' '.join(VERBS)}"
    yield f"set -g __gpurun_valued {' '.join(name for option in LAUNCH if option.metavar for name in option.names)}"
    for name, verb in VERBS.items():
        yield f"complete -c gpurun -f -n __gpurun_first -a {name} -d '{quoted(verb.summary)}'"
    for option in LAUNCH:
        yield fish_line(option, "__gpurun_launch", True)
    for name in VERBS:
        for option in VERBS[name].options:
            yield fish_line(option, f"__gpurun_verb {name}", False)


TABLES = {"bash": bash_tables, "zsh": zsh_tables, "fish": fish_tables}


@pytest.mark.parametrize("shell", FILES)
def test_completions_know_every_verb_and_option(shell: str) -> None:
    path = ROOT / "completions" / FILES[shell]
    text = path.read_text()
    wanted = BEGIN + "".join(f"{line}\n" for line in TABLES[shell]()) + END
    start, end = text.index(BEGIN), text.index(END) + len(END)
    if os.environ.get("GPURUN_WRITE_EXPECTED"):
        text = text[:start] + wanted + text[end:]
        path.write_text(text)
        end = text.index(END) + len(END)
    assert text[start:end] == wanted


@pytest.mark.parametrize("shell", FILES)
def test_completion_prints_the_file(shell: str) -> None:
    done = subprocess.run([sys.executable, "-m", "gpuwrap", "completion", shell], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "completions" / FILES[shell]).read_text()


def printed(*words: str) -> str:
    return subprocess.run([sys.executable, "-m", "gpuwrap", *words], capture_output=True, text=True, check=True).stdout


def test_help_shows_every_option_and_verb_in_80_columns() -> None:
    text = printed("--help", "all")
    for option in LAUNCH:
        assert re.search(rf"^  {re.escape(', '.join(option.names))}( |$)", text, re.MULTILINE), option.names
    for name in VERBS:
        assert re.search(rf"^  gpurun {name}\b", text, re.MULTILINE), name
    daily = printed("--help")
    assert len(daily.splitlines()) <= 40
    for line in (daily + text + "".join(printed(name, "--help") for name in VERBS)).splitlines():
        assert len(line) <= 80, line


def man_text() -> str:
    """The man page's source without its font changes."""
    text = MAN.read_text()
    text = re.sub(r"\\f.", "", text).replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "").replace("\\(ha", "^")
    return re.sub(r'"', "", text)


def test_the_man_page_has_every_option_and_verb_that_exists_and_no_other() -> None:
    text = man_text()
    section = text[text.index(".SH OPTIONS") : text.index(".SH VERBS")]
    tagged = {word for line in re.findall(r"\.TP\n(.*)", section) for word in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", line)}
    assert tagged == {name for option in LAUNCH for name in option.names}
    section = text[text.index(".SH VERBS") : text.index(".SH EXIT STATUS")]
    heads = re.findall(r"\.TP\n\.B[RI]? ([a-z]+)(.*)", section)
    assert [name for name, _ in heads] == list(VERBS)
    for name, rest in heads:
        given = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", rest))
        wanted = {each for option in VERBS[name].options for each in option.names} - {"--sim", "-h", "--help"}
        assert given >= {option.names[0] for option in VERBS[name].options} - {"--sim", "-h"}, name
        assert given <= wanted | {"-9", "-KILL"}, name


def test_the_man_page_names_every_setting_and_json_key() -> None:
    from gpuwrap.render import GPU_KEYS

    text = man_text()
    section = text[text.index(".SH SETTINGS") : text.index(".SH JSON")]
    for name, setting in SETTINGS.items():
        default = "none" if setting.default == [] else setting.default
        assert f".BR {name}  ({default})\n" in section, name
    assert section.count("\n.BR ") - section.count("\n.BR GPURUN_DIR") - section.count("\n.BR refuse") == len(SETTINGS)
    jobs = (
        "id name user state priority gpus memory_bytes exclusive give_way devices pid argv cwd submitted_at started_at "
        "ended_at attempt times_given_way peak_bytes result why sweep"
    )
    for key in [*jobs.split(), *GPU_KEYS]:
        assert re.search(rf"\b{key}\b", text), key


def test_the_man_page_opens_with_what_it_does_then_the_verb_rule_and_examples() -> None:
    text = man_text()
    description = text[text.index(".SH DESCRIPTION") : text.index(".SH EXAMPLES")]
    assert description.splitlines()[2].startswith("registers a job, waits until a GPU is free")
    assert "\nA verb is a verb only as the very first word; a word with a slash never is.\n" in description
    assert text.index(".SH EXAMPLES") < text.index(".SH OPTIONS")
    assert f"gpuwrap {gpuwrap.__version__}" in text.splitlines()[0]


@pytest.mark.parametrize("tool", ["mandoc", "groff"])
def test_the_man_page_has_no_warnings(tool: str) -> None:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    words = {"mandoc": ["-T", "lint", "-W", "warning"], "groff": ["-man", "-Tutf8", "-ww", "-z", "-rCHECKSTYLE=3"]}[tool]
    done = subprocess.run([found, *words, str(MAN)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


def test_the_readme_uses_only_what_exists() -> None:
    known = {name for option in LAUNCH for name in option.names}
    text = README.read_text()
    for line in re.findall(r"^(?:    |\t).*gpurun .*$", text, re.MULTILINE):
        for words in re.findall(r"(?<![\w/.])gpurun ([^|;&#\n]*)", line):
            first, *rest = words.split() or [""]
            table = {each for option in VERBS[first].options for each in option.names} if first in VERBS else known
            for word in [first, *rest]:
                if not word.startswith("-") or word == "--":
                    if first not in VERBS and not word.startswith("-"):
                        break
                    continue
                name = word.partition("=")[0]
                assert name in table or name in ("-9", "-5", "-KILL"), line
                if any(name in option.names and option.metavar for option in LAUNCH) and first not in VERBS:
                    break


def test_the_package_ships_what_it_prints() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    for path in ("share/bash-completion/completions/gpurun", "share/zsh/site-functions/_gpurun",
                 "share/fish/vendor_completions.d/gpurun.fish", "share/man/man1/gpurun.1", "gpuwrap/completions",
                 "share/gpurun/grafana-dashboard.json"):  # fmt: skip
        assert path in project, path
