"""From the options of a launch to those of srun and sbatch: the table, and what it has no line for. Pure.

1. No resource is sent that nobody asked for: what the site file says, the user or the site has asked for.
2. What Slurm cannot do is refused by name, with the reason; nothing is accepted and then left out.
3. What is done in another way than here is told (`notes`).
4. The user's own words for Slurm (`--slurm`) come last, so that they win.
"""

from ..errors import UsageError
from ..units import format_size
from .site import Site

Given = dict[str, str | bool]
Request = dict[str, object]

# A comment of a job that begins so was submitted by gpurun.
MARK = "gpurun:1"
NAME_LENGTH = 100
# What no shell acts on.
PLAIN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+:,./-"

# Options that mean nothing to Slurm, and why.
NOT_THERE = {
    "device": "Slurm picks the cards: a site can name a type of GPU (slurm.toml), or --slurm=--gres=gpu:TYPE:N",
    "not": "Slurm picks the cards",
    "expect": "Slurm's order knows time limits alone: -t",
    "once": "Slurm cannot look and submit in one step",
    "once_waiting": "Slurm cannot look and submit in one step",
    "retries": "Slurm runs a failed job once; its own requeue is for jobs that it ended (-r)",
    "signal": "Slurm ends with TERM, and KILL after the site's KillWait; --slurm=--signal=USR1@60 gives a notice before -t",
}
GIVE_WAY = {
    "never": "whether a job may be ended for others is the partition's or the QOS's rule",
    "pause": "Slurm's suspension frees no GPU",
    "suspend": "Slurm's suspension frees no GPU",
}


class Mapped:
    """What a launch is for Slurm: options of srun and sbatch alike, what is to be told, and what stands in the comment."""

    __slots__ = ("gpus", "name", "notes", "options", "priority", "user_options")

    def __init__(self) -> None:
        self.options: list[str] = []
        self.user_options: list[str] = []
        self.notes: list[str] = []
        self.gpus = 1
        self.priority = 0
        self.name = ""

    @property
    def all_options(self) -> list[str]:
        """Every option, the user's own last."""
        return [*self.options, *self.user_options]


def mapped(given: Given, request: Request, argv: list[bytes], site: Site, dependency: str | None = None) -> Mapped:
    """Map a launch. `dependency` is what `--after` came to. Raises UsageError for what Slurm cannot do."""
    _refuse(given, request)
    found = Mapped()
    found.gpus = _gpus(request)
    found.name = job_name(str(request["name"]) if "name" in request else None, argv)
    found.priority = int(str(request.get("priority", 0)))
    options = found.options
    options += ["-N1", "-n1", f"--job-name={found.name}"]
    options += _gres(found, request, site)
    options += _place(found, "priority" in request, site)
    if request.get("time") is not None:
        options.append(f"--time={_minutes(found, float(str(request['time'])))}")
    if dependency is not None:
        options.append(f"--dependency={dependency}")
        options += ["--kill-on-invalid-dep=yes"] if is_batch(given, request) else []  # srun does not know it [run]
    options += site.arguments
    more = given.get("slurm")
    found.user_options = more.split("\0") if isinstance(more, str) else []
    if any(word.startswith(("-M", "--cluster")) for word in found.user_options):
        raise UsageError("--on slurm: --slurm=-M: the verbs would not find it there: SLURM_CONF chooses the cluster")
    return found


def job_name(name: str | None, argv: list[bytes]) -> str:
    """Return what the job is called in Slurm: its name, or its program's; squeue prints it as it is, so in one line."""
    text = name or argv[0].rpartition(b"/")[2].decode("utf-8", "replace") or "gpurun"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:NAME_LENGTH]


def comment(token: str, found: Mapped, request: Request) -> str:
    """Return the comment by which the job is known again, and what was asked for in our words."""
    memory = request.get("memory")
    wish = "" if memory is None else f" m={memory}"
    return f"--comment={MARK} k={token} p={found.priority} g={found.gpus}{wish}"


def _refuse(given: Given, request: Request) -> None:
    for option, reason in NOT_THERE.items():
        if option in given:
            raise UsageError(f"--on slurm: --{option.replace('_', '-')}: {reason}")
    if given.get("sim"):
        raise UsageError("--on slurm: --sim: simulated GPUs are on this machine")
    how = given.get("give_way")
    if how in GIVE_WAY:
        raise UsageError(f"--on slurm: --give-way {how}: {GIVE_WAY[str(how)]}")
    batch = is_batch(given, request)
    if batch and ("nonblock" in given or "wait" in given):
        option = "-n" if "nonblock" in given else "-w"
        raise UsageError(f"--on slurm: {option}: not with -d, -r, --array or --each: sbatch has no limit for waiting")
    if "conflict_status" in given and batch:
        raise UsageError("--on slurm: -E: not with -d, -r, --array or --each")


def is_batch(given: Given, request: Request) -> bool:
    """Whether it is sbatch's: in the background, to be run again, or a sweep."""
    return bool(request.get("detach") or "array" in given or "each" in given or may_be_requeued(given))


def may_be_requeued(given: Given) -> bool:
    """Whether its owner says that it may be ended and run again."""
    return "restartable" in given or given.get("give_way") == "requeue"


def _gpus(request: Request) -> int:
    gpus = request.get("gpus")
    if gpus == "all":
        raise UsageError("--on slurm: -g all: how many GPUs a machine has differs there: say a number")
    return 1 if gpus is None else int(str(gpus))


def _gres(found: Mapped, request: Request, site: Site) -> list[str]:
    kind = f"gpu:{site.gpu}" if site.gpu else "gpu"
    whole = [f"--gres={kind}:{found.gpus}"] if found.gpus else []
    memory, percent = request.get("memory"), request.get("percent")
    if request.get("auto"):
        raise UsageError("--on slurm: -m auto: what a command was seen to need is known of this machine's jobs only")
    if (memory is None and percent is None) or not found.gpus:
        return whole
    shares = not request.get("exclusive")
    if shares and site.shards_per_gpu and (site.shard_bytes or memory is None):
        return [f"--gres=shard:{_shards(found, site, memory, percent)}"]
    if memory is not None and site.constraints:
        size = int(str(memory))
        fitting = [name for least, name in site.constraints if least >= size]
        if not fitting:
            raise UsageError(f"--on slurm: -m {format_size(size)}: no GPU that the site file names is that large")
        if shares:
            found.notes.append(f"whole GPUs with at least {format_size(size)}: this Slurm does not share them by memory")
        return [*whole, f"--constraint={fitting[0]}"]
    if percent is not None and not shares:
        return whole
    raise UsageError(
        "--on slurm: -m: this Slurm does not share GPUs by memory (no shards in the site file)",
        hint="without -m the job gets whole GPUs; gpurun doctor --on slurm says what this site can do",
    )


def _shards(found: Mapped, site: Site, memory: object, percent: object) -> int:
    assert site.shards_per_gpu is not None
    if found.gpus > 1:
        raise UsageError(f"--on slurm: -g {found.gpus} -m: Slurm takes shards from one GPU")
    if memory is None:
        count = -(-float(str(percent)) * site.shards_per_gpu // 100)
        return max(1, int(count))
    assert site.shard_bytes is not None
    size = int(str(memory))
    count = -(-size // site.shard_bytes)
    if count > site.shards_per_gpu:  # Slurm would keep it waiting for ever: Reason=Resources [run, 22.05]
        most = format_size(site.shard_bytes * site.shards_per_gpu)
        raise UsageError(f"--on slurm: -m {format_size(size)}: a GPU has {most} here: leave -m out for a whole one")
    if size % site.shard_bytes:
        each = format_size(site.shard_bytes)
        found.notes.append(f"-m {format_size(size)} is {count} shards of {each}, counted and not enforced")
    return count


def _place(found: Mapped, asked: bool, site: Site) -> list[str]:
    """Say where it stands in the line: partition, QOS and nice."""
    band = site.band_of(found.priority)
    partition = band.partition if band and band.partition else site.partition
    qos = band.qos if band and band.qos else site.qos
    options = []
    if partition:
        options.append(f"--partition={partition}")
    if site.account:
        options.append(f"--account={site.account}")
    if qos:
        options.append(f"--qos={qos}")
    if found.priority < 0:
        options.append(f"--nice={-found.priority * site.nice_step}")
    elif found.priority > 0 and asked and (band is None or band.since <= 0):
        found.notes.append(
            f"priority {found.priority} counts as 0: Slurm lets nobody raise his own; a site can name a QOS for it (slurm.toml)"
        )
    return options


def _minutes(found: Mapped, seconds: float) -> int:
    minutes = max(1, int(-(-seconds // 60)))
    if minutes * 60 != seconds:
        found.notes.append(f"the time limit is {minutes} min: Slurm counts whole minutes")
    return minutes


def slurm_output(template: str, *, array: bool) -> str:
    """Turn a path in which %j is the job's number (%i a row's index) into Slurm's pattern. Raises UsageError."""
    if "\\" in template:
        raise UsageError("--on slurm: -o: a backslash in the file's name: Slurm replaces nothing behind it")
    parts = []
    for part in template.split("%%"):
        pieces = part.split("%")
        text = pieces[0]
        for piece in pieces[1:]:
            if piece[:1] == "j":
                text += ("%A_%a" if array else "%j") + piece[1:]
            elif piece[:1] == "i" and array:
                text += "%a" + piece[1:]
            else:
                text += "%%" + piece
        parts.append(text)
    return "%%".join(parts)


# --- command lines ------------------------------------------------------------------------------------------------


def program_words(argv: list[bytes], gpus: int) -> list[bytes]:
    """Return what runs on the node: env(1) tells 126 from 127, which srun does not [run]; without GPUs none are seen.

    Slurm leaves CUDA_VISIBLE_DEVICES out there, which CUDA reads as all of them [run].
    """
    words = [b"env"] if gpus else [b"env", b"CUDA_VISIBLE_DEVICES="]
    if b"=" in argv[0]:  # env would take it for a variable
        words += [b"sh", b"-c", b'exec "$@"', b"sh"]
    return [*words, *argv]


def script(rows: list[list[bytes]], gpus: int, indices: list[int] | None = None) -> bytes:
    """Return the script of sbatch; with `indices` one row for each task of an array."""
    has_dos = any(b"\r\n" in word for row in rows for word in row)
    lines = [
        b"#!/bin/sh",
        *([b"CR=$(printf '\\r')"] if has_dos else []),
        b"GPURUN_JOB=s$SLURM_JOB_ID GPURUN_ATTEMPT=$((${SLURM_RESTART_COUNT:-0} + 1))",
        b"export GPURUN_JOB GPURUN_ATTEMPT",
    ]
    if not gpus:
        lines.append(b"CUDA_VISIBLE_DEVICES=; export CUDA_VISIBLE_DEVICES")
    if indices is None:
        lines.append(b"exec " + quoted(rows[0]))
        return b"\n".join(lines) + b"\n"
    lines += [b"GPURUN_JOB=s${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID", b"case $SLURM_ARRAY_TASK_ID in"]
    if len(rows) == 1:
        lines += [b"*) GPURUN_INDEX=$SLURM_ARRAY_TASK_ID; export GPURUN_INDEX; exec " + quoted(rows[0]) + b" ;;"]
    else:
        for index, row in zip(indices, rows, strict=True):
            lines.append(b"%d) GPURUN_INDEX=%d; export GPURUN_INDEX; exec " % (index, index) + quoted(row) + b" ;;")
    lines.append(b"esac")
    return b"\n".join(lines) + b"\n"


def quoted(words: list[bytes]) -> bytes:
    """Quote words for a shell, whatever bytes they are made of."""
    return b" ".join(_quoted(word) for word in words)


def _quoted(word: bytes) -> bytes:
    if word and not word.translate(None, PLAIN):
        return word
    text = b"'" + word.replace(b"'", b"'\"'\"'") + b"'"
    return text.replace(b"\r\n", b"'\"$CR\"'\n")  # sbatch refuses a script that holds what ends lines in DOS [run]


def shown(words: list[bytes]) -> str:
    """Write a command line as a shell would read it."""
    return b" ".join(_quoted_plainly(word) for word in words).decode("utf-8", "surrogateescape")


def _quoted_plainly(word: bytes) -> bytes:
    is_option = word.startswith(b"--") and b"=" in word
    name, equals, value = word.partition(b"=") if is_option else (b"", b"", word)
    if value and not value.translate(None, PLAIN + b"="):
        return word
    return name + equals + b"'" + value.replace(b"'", b"'\"'\"'") + b"'"
