"""The command line as data: every launch option, verb and verb option, and the one parser that reads them.

1. argv is split before anything else sees it: what follows the program's name is never looked at.
2. A verb is a verb only as the very first word; a word with a slash never is.
3. Help, man page, completions and README are compared with these tables by a test.

The launch path imports this module: it imports only units and errors, and costs well under a millisecond.
"""

from .errors import UsageError
from .units import parse_run


class Option:
    """One option: `names` as typed, `metavar` None for a flag, `daily` if the first help screen shows it.

    `repeats`: it may be given several times; the values stand one after the other, with NUL between them.
    """

    __slots__ = ("daily", "help", "key", "metavar", "names", "repeats")

    def __init__(
        self, names: str, metavar: str | None, help: str, *, daily: bool = False, key: str = "", repeats: bool = False
    ) -> None:
        self.repeats = repeats
        self.names = names.split()
        self.key = key or self.names[-1].lstrip("-").replace("-", "_")
        self.metavar = metavar
        self.help = help
        self.daily = daily


SIM = Option("--sim", "SPEC", "on simulated GPUs, 2x24G say: a world of its own")
HELP = Option("-h --help", None, "print help")

LAUNCH = [
    Option("-g --gpus", "N", "GPUs, all or none of them (1); `all`; 0 starts at once", daily=True),
    Option("-m --memory", "SIZE", "memory needed on each GPU, to share it: 6G, 50%, auto", daily=True),
    Option("--exclusive", None, "with -m: nobody else computes on its GPUs while it runs"),
    Option("-i --device", "LIST", "only these GPUs: index, UUID prefix or name glob"),
    Option("--not", "LIST", "never these GPUs"),
    Option("-p --priority", "N", "higher runs first: -100 to 100 (0), low, high, urgent", daily=True),
    Option("-n --nonblock", None, "give up at once instead of waiting: exit 124", daily=True),
    Option("-w --wait", "DURATION", "give up after waiting that long: exit 124", daily=True),
    Option("-E --conflict-exit-code", "N", "exit status for -n, -w and --once instead of 124", key="conflict_status"),
    Option("-t --time", "DURATION", "time limit: asked to end (--signal), then killed", daily=True),
    Option("--expect", "DURATION", "how long it may take, for the order; never ends it"),
    Option("-a --after", "JOB,…", "start when those ended; ok:JOB only if it succeeded"),
    Option("--give-way", "HOW", "how it may give way: never, pause, suspend, requeue"),
    Option("-r --restartable", None, "it may be ended and run again", daily=True),
    Option("--signal", "LIST", "how it is asked to end (TERM:120)"),
    Option("-d --detach", None, "in the background; prints the job's number", daily=True),
    Option("-o --output", "FILE", "output to the end of FILE; %j is the job's number"),
    Option("--retries", "N", "run again after a failure, at most N times"),
    Option("--once", "KEY", "not while a job of that KEY waits or runs: exit 124"),
    Option("--once-waiting", "KEY", "not while one of that KEY waits; after those that run"),
    Option("--each", "FILE", "sweep: a job for each line of FILE, or of - (input)"),
    Option("--array", "LIST", "sweep: a job for each GPURUN_INDEX, 1-20%4: 4 at once"),
    Option("-N --name", "NAME", "name of the job"),
    Option("-q --quiet", None, "say nothing while waiting"),
    Option("-v --verbose", None, "say what was granted, and wait aloud"),
    Option("--dry-run", None, "say what would happen, and do nothing"),
    Option("--on", "WHERE", "where it runs: here, or slurm: Slurm queues and runs it"),
    Option("--slurm", "ARG", "with --on slurm: ARG goes to srun or sbatch as it is", repeats=True),
    SIM,
    Option("-h --help", None, "print help; --help all prints all options"),
    Option("-V --version", None, "print the version"),
]


class Verb:
    """One verb: its usage line's operands, what it does in a few words, and its options.

    `signals`: it takes `-9` and `-KILL` as kill(1) does. `numbers`: `-5` is an operand, as for renice(1).
    """

    __slots__ = ("numbers", "operands", "options", "signals", "summary")

    def __init__(
        self,
        operands: str,
        summary: str,
        *options: Option,
        signals: bool = False,
        numbers: bool = False,
    ) -> None:
        self.signals = signals
        self.numbers = numbers
        self.operands = operands
        self.summary = summary
        self.options = [*options, SIM, HELP]


JSON = Option("--json", None, "JSON, never cut or coloured")
ALL = Option("--all", None, "all jobs of mine")
USER = Option("-u --user", "USER", "only the jobs of USER")

# What `set` changes.
CHANGEABLE = ("gpus", "memory", "exclusive", "device", "not", "priority", "wait", "time", "name")

VERBS = {
    "ls": Verb(
        "[JOB]...",
        "jobs, and why they wait",
        Option("-a --all", None, "ended ones too"),
        Option("-w --watch", None, "stay on the screen; q leaves"),
        USER,
        JSON,
    ),
    "kill": Verb(
        "JOB...",
        "end jobs, waiting or running",
        Option("-s --signal", "SIGNAL", "send this signal instead; also -9, -KILL"),
        ALL,
        Option("--requeue", None, "end it, and run it again when there is room (-r)"),
        Option("-y --yes", None, "do not ask"),
        signals=True,
    ),
    "renice": Verb(
        "PRIORITY JOB...",
        "change the priority of jobs, at once",
        Option("--by", "N", "change by N instead"),
        ALL,
        numbers=True,
    ),
    "pause": Verb("JOB...", "hold waiting jobs, pause running ones", ALL),
    "resume": Verb("JOB...", "let held and paused jobs go on", ALL),
    "why": Verb("[JOB]...", "why jobs wait, and what would help"),
    "gpus": Verb("[drain|undrain LIST]", "GPUs: memory, jobs, health", JSON),
    "set": Verb(
        "JOB...",
        "change what a waiting job asks for",
        *[option for option in LAUNCH if option.key in CHANGEABLE],
        ALL,
    ),
    "again": Verb(
        "JOB...", "run ended jobs' commands again from here", Option("--failed", None, "only those that failed, of a sweep say")
    ),
    "logs": Verb(
        "JOB...",
        "show and follow output",
        Option("-f --follow", None, "go on until the jobs have ended, waiting ones too"),
        Option("-n --lines", "N", "only the last N lines of what is there"),
    ),
    "wait": Verb(
        "JOB...",
        "wait for jobs, return the status",
        ALL,
        Option("--bell", None, "then ring the terminal, and have it notify you"),
    ),
    "history": Verb(
        "[JOB]...",
        "what ran: waited, ran, memory, result",
        Option("--since", "WHEN", "ended since: 2d, yesterday, 14:30, 2026-11-20"),
        USER,
        Option("-n --lines", "N", "only the last N"),
        Option("--by", "WHAT", "sums: GPU-hours, jobs, waits by user, name or day", key="sums"),
        Option("--day", None, "the last day as a picture, a line for each GPU"),
        Option("--replay", None, "what another order would have brought (setting order)"),
        Option("--order", "O", "with --replay: arrival, shortest or fair alone"),
        Option("--plot", "FILE", "the same into FILE.svg or FILE.png ([plot])"),
        JSON,
    ),
    "top": Verb("", "live screen of GPUs and jobs; q leaves", USER),
    "web": Verb(
        "",
        "a page for the browser: GPUs, jobs, logs",
        Option("--port", "N", "port (8600); 0: any that is free"),
        Option("--bind", "ADDRESS", "listen there (127.0.0.1); elsewhere with --token-file"),
        Option("--token-file", "FILE", "the token to ask for; made if it is not there"),
        Option("--control", None, "the page may kill, pause, resume and renice my jobs"),
    ),
    "metrics": Verb(
        "",
        "figures for Prometheus",
        Option("--listen", "ADDRESS", "serve them at [HOST]:PORT (127.0.0.1:9460)"),
        Option("--textfile", "FILE", "write them once, for node_exporter's collector"),
    ),
    "doctor": Verb("", "check the set-up", Option("--on", "WHERE", "slurm: check what a Slurm here can do")),
    "demo": Verb(
        "", "the story on simulated GPUs, in a minute", Option("--fast", None, "without pauses for the reader"),
        Option("--script", None, "print a train.py to try it with"),
    ),
    "completion": Verb("SHELL", "print the completion for bash, zsh or fish"),
    "machine": Verb(
        "on|off|status|run", "one queue for everybody on this machine", Option("--force", None, "off although jobs run")
    ),
    "help": Verb("[VERB|all]", "print help, of a verb too"),
}

# What people type who know another tool: the option that does it here.
HABITS = {
    "--gres": "-g",
    "--gpus-per-task": "-g",
    "--gpus-per-node": "-g",
    "--nice": "-p",
    "--mem": "-m",
    "--immediate": "-n",
    "--job-name": "-N",
    "--dependency": "-a",
    "--requeue": "-r",
    "--nodes": "-g",
    "--user": "ls -u",
    "--label": "-N",
    "--exclude": "--not",
    "--nodelist": "-i",
    "--error": "-o",
    "-G": "-g",
    "-I": "-n",
    "-J": "-N",
    "-L": "-N",
    "-D": "-a",
}
# Options of other queues that mean nothing here, and why.
POINTLESS = {
    **dict.fromkeys(("-c", "--cpus-per-task"), "CPUs are not shared out here: leave it out"),
    **dict.fromkeys(("-A", "--account", "--partition", "--qos"), "there is one line here: leave it out"),
}
# Flags after which a number is taken for a program, and what was meant, if not -g.
NUMBERED = {"-r": "--retries", "--restartable": "--retries"}
# Words that are no verb here, and the verb that does it.
HABIT_VERBS = {
    "cancel": "kill ends jobs",
    "stop": "kill ends jobs",
    "rm": "kill ends jobs",
    "remove": "kill ends jobs",
    "scancel": "kill ends jobs",
    "ps": "ls lists jobs",
    "list": "ls lists jobs",
    "status": "ls lists jobs",
    "queue": "ls lists jobs",
    "squeue": "ls lists jobs",
    "follow": "logs follows output",
    "nice": "renice changes priorities",
    "add": "needs no verb: gpurun PROGRAM [ARG]...",
    "run": "needs no verb: gpurun PROGRAM [ARG]...",
    "submit": "needs no verb: gpurun PROGRAM [ARG]...",
    "sbatch": "needs no verb: gpurun -d PROGRAM [ARG]...",
    "srun": "needs no verb: gpurun PROGRAM [ARG]...",
    "jobs": "ls lists jobs",
    "show": "ls lists jobs, why explains one",
    "info": "why explains one job",
    "tail": "logs shows output",
    "log": "logs shows output",
    "output": "logs shows output",
    "hold": "pause holds jobs",
    "release": "resume lets jobs go on",
    "restart": "again runs an ended job once more",
    "sacct": "history lists ended jobs",
    "sinfo": "gpus lists GPUs",
    "watch": "ls -w stays on the screen",
    "htop": "top stays on the screen",
    "version": "--version prints the version",
}


def parse(
    words: list[str], table: list[Option], *, permute: bool, numbers: bool = False
) -> tuple[dict[str, str | bool], list[str]]:
    """Read options: what was given by key, and the words that are none; with `numbers` negative ones are among these.

    Without `permute` everything from the first word that is no option on belongs to the program and is not looked at;
    with it (verbs) options may follow operands. `--` ends the options. Raises UsageError.
    """
    given: dict[str, str | bool] = {}
    operands: list[str] = []
    by_name = {name: option for option in table for name in option.names}
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            operands += words[at:]
            break
        if len(word) < 2 or word[0] != "-" or (numbers and word[1:].isdigit()):
            operands.append(word)
            if permute:
                continue
            operands += words[at:]
            break
        read = _long if word.startswith("--") else _short
        at = read(word, words, at, by_name, given)
        if "help" in given and not permute:
            operands += words[at:]
            break
    return given, operands


def signals_as_options(words: list[str]) -> list[str]:
    """Turn `-9` and `-KILL` into `--signal=…`, as kill(1) reads them; what follows `--` is left alone."""
    read: list[str] = []
    for at, word in enumerate(words):
        if word == "--":
            return read + words[at:]
        name = word[1:]
        signal = word[:1] == "-" and (name.isdigit() or (len(name) > 1 and name[0].isalpha() and name.isupper()))
        read.append(f"--signal={name}" if signal else word)
    return read


def number_for_program(before: str, word: str) -> UsageError | None:
    """Say what was meant by a number where the program's name stands, `-n 4`; `before` is the word in front, if any."""
    if not word.isdecimal():
        return None
    name = before if before.startswith("--") or len(before) < 2 else f"-{before[-1]}"
    if not any(name in option.names for option in LAUNCH if option.metavar is None):
        return UsageError(f"{word}: no program: did you mean -g {word}?")
    return UsageError(f"{name} takes no number: did you mean {NUMBERED.get(name, '-g')} {word}?")


def taken_for_program(words: list[str]) -> str | None:
    """Say which verb does what a command line seems to want, where a word of other queues is a program too: `tail 3`."""
    if words and words[0] in HABIT_VERBS and all(word.startswith("-") or parse_run(word) for word in words[1:]):
        return f"{words[0]} is taken for the program of that name: gpurun {HABIT_VERBS[words[0]]}"
    return None


def _long(word: str, words: list[str], at: int, by_name: dict[str, Option], given: dict[str, str | bool]) -> int:
    name, equals, value = word.partition("=")
    option = _known(name, value, by_name)
    if option.metavar is None:
        if equals:
            raise UsageError(f"{name}: takes no value")
        given[option.key] = True
        return at
    if not equals:
        if at == len(words):
            raise UsageError(f"{name}: {option.metavar} missing")
        value, at = words[at], at + 1
    _put(option, value, given)
    return at


def _short(word: str, words: list[str], at: int, by_name: dict[str, Option], given: dict[str, str | bool]) -> int:
    for position, letter in enumerate(word[1:], start=2):
        option = _known("-" + letter, word[position:] or "".join(words[at : at + 1]), by_name)
        if option.metavar is None:
            given[option.key] = True
            continue
        value = word[position:]
        if not value:
            if at == len(words):
                raise UsageError(f"-{letter}: {option.metavar} missing")
            value, at = words[at], at + 1
        _put(option, value, given)
        break
    return at


def _put(option: Option, value: str, given: dict[str, str | bool]) -> None:
    before = given.get(option.key) if option.repeats else None
    given[option.key] = value if before is None else f"{before}\0{value}"


def _known(name: str, value: str, by_name: dict[str, Option]) -> Option:
    option = by_name.get(name)
    if option is None and any(name in known.names for known in LAUNCH):
        raise UsageError(f"option {name}: not with this verb: it is for starting a job")
    if option is None and name in POINTLESS and "--version" in by_name:
        if name == "-c" and not value.isdecimal():
            raise UsageError("unknown option -c: did you mean gpurun sh -c 'COMMAND'?")
        raise UsageError(f"unknown option {name}: {POINTLESS[name]}")
    if option is None:
        raise UsageError(f"unknown option {name}" + _meant(name, value, by_name))
    return option


def _meant(name: str, value: str, by_name: dict[str, Option]) -> str:
    habit = HABITS.get(name)
    if habit in by_name or (habit and " " in habit):
        flag = habit in by_name and by_name[habit].metavar is None
        count = "" if flag else value.rpartition(":")[2]
        return f": did you mean {habit} {count}?" if count else f": did you mean {habit}?"
    if not name.startswith("--"):
        return ": --help lists them"
    # A verb's name is no option, but some type it like one.
    verbs = list(VERBS) if "--version" in by_name else []
    near = nearest(name[2:], [each[2:] for each in by_name if each.startswith("--")] + verbs)
    if near in verbs and f"--{near}" not in by_name:
        return f": did you mean gpurun {near}?"
    return f": did you mean --{near}?" if near else ": --help lists them"


def nearest(word: str, known: list[str]) -> str | None:
    """Return the known word that was probably meant, or None. Only runs for mistakes, so difflib may cost what it costs."""
    from difflib import get_close_matches

    close = get_close_matches(word, known, 1, 0.65)
    return close[0] if close else None
