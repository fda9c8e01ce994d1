"""From the options of a command line to the fields of a request; what only the arbiter can judge stays text.

The launch path imports this module: units and what else is needed for an option are imported where it is given.
"""

import os

from ..errors import UsageError
from ..wire import NO_DEVICES
from .program import readable

Given = dict[str, str | bool]
# There as long as NVIDIA's kernel module is loaded; containers that may use it see it too.
DRIVER = "/proc/driver/nvidia/version"

# What a lab's profile sets without meaning any GPU in particular.
SAYS_NOTHING = ("", "-1", NO_DEVICES)


def simulated(given: Given) -> str | None:
    """Return the spec of the simulated GPUs, from --sim or GPURUN_SIM; None on real ones. Raises UsageError."""
    spec = given.get("sim") or os.environ.get("GPURUN_SIM")
    if not isinstance(spec, str) or not spec:
        return None
    from ..units import parse_simulated

    parse_simulated(spec)  # refused before there is a world of that name
    return spec


def stray_simulation(given: Given) -> str | None:
    """Say that the simulated GPUs come from a variable although a driver is here; None if they do not, or it is not.

    The program would compute on a real GPU, which others may hold. Inside a simulated job the variable is gpurun's own.
    """
    spec = os.environ.get("GPURUN_SIM")
    if given.get("sim") or not spec or "GPURUN_SIM_DIR" in os.environ or not os.path.exists(DRIVER):
        return None
    return f"GPURUN_SIM={spec} is set: the grant is of simulated GPUs, but the program may use real ones (unset GPURUN_SIM)"


def read_request(given: Given) -> dict[str, object]:
    """Turn options into the fields of a request; what only the arbiter can judge stays text. Raises UsageError."""
    from ..units import parse_integer

    request: dict[str, object] = {}
    gpus = given.get("gpus")
    if isinstance(gpus, str) and gpus != "all":
        count = parse_integer(gpus)
        if count is None or count < 0:
            raise UsageError(f"gpus {gpus}: a count, 0 or more, or all")
        gpus = str(count)
    request["gpus"] = gpus
    if "memory" in given:
        from ..units import parse_size

        if given["memory"] == "auto":
            request["auto"] = 1
        else:
            request["memory"], request["percent"] = parse_size(str(given["memory"]))
    if "priority" in given:
        from ..units import parse_priority

        request["priority"] = parse_priority(str(given["priority"]))
    if "exclusive" in given:
        if "memory" not in given:
            raise UsageError("--exclusive: only with -m: without it GPUs are never shared")
        request["exclusive"] = True
    request.update(_wait_limit(given))
    name = given.get("name")
    if isinstance(name, str):
        request["name"] = _name(name)
    if "time" in given:
        from ..units import parse_duration

        seconds = parse_duration(str(given["time"]))
        if not seconds:
            raise UsageError(f"time {given['time']}: must be more than nothing")
        request["time"] = seconds
    if "expect" in given:
        from ..units import parse_duration

        seconds = parse_duration(str(given["expect"]), "expect")
        if not seconds:
            raise UsageError(f"expect {given['expect']}: must be more than nothing")
        request["expect"] = seconds
    for option in ("after", "once"):
        if option in given:
            request[option] = _text_of(given[option], option)
    if "once_waiting" in given:
        if "once" in given:
            raise UsageError("--once and --once-waiting: one of them")
        request["once"], request["waiting"] = _text_of(given["once_waiting"], "once-waiting"), 1
    for option in ("device", "not"):
        if option in given:
            request[option] = given[option]
    if not given.keys().isdisjoint(("give_way", "restartable", "signal", "retries")):
        from ..restarts import read_restarts

        request.update(read_restarts(given))
    if "detach" in given or "output" in given:
        from .output import read_output

        request.update(read_output(given))
    return request


def visible(sim: str | None) -> str | None:
    """Return the caller's CUDA_VISIBLE_DEVICES if it lists GPUs, None if it says nothing.

    NoDevFiles in a step of Slurm is Slurm's own word, and no profile's: that lists none. So does a step that Slurm gave none.
    Simulated GPUs are not Slurm's.
    """
    if sim is None and "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" not in os.environ:
        from ..state.allocation import has_no_gpus

        return NO_DEVICES if has_no_gpus() else None
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if listed in SAYS_NOTHING and (listed != NO_DEVICES or sim is not None or not os.environ.get("SLURM_JOB_ID")):
        return None
    return listed


def _name(name: str) -> str:
    """Return a name that JOB can say: one that means this job, and no other."""
    from ..units import parse_integer, parse_run, split_jobs

    if not name:
        raise UsageError("name: must not be empty")
    if parse_integer(name) is not None:
        raise UsageError(f"name {name}: a name cannot be a number: did you mean -g {name}?")
    if len(split_jobs(name)) > 1:
        raise UsageError(f"name {name}: a name cannot be a list of numbers: it means these jobs")
    first, _, last = name.partition("-")
    if parse_run(name) is not None:
        raise UsageError(f"name {name}: a name cannot be a range: it means jobs {first} to {last}")
    if any(letter in name for letter in "*?["):
        raise UsageError(f"name {name}: a name cannot be a pattern: * ? and [ stand for other letters")
    if first == "sweep" and last.isdigit():
        raise UsageError(f"name {name}: is what a sweep without a name is called, by the number of its first job")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"name {readable(os.fsencode(name))}: must be text: these bytes are not UTF-8") from None
    return name


def _text_of(value: str | bool, option: str) -> str:
    text = str(value)
    if not text or not text.isprintable():
        raise UsageError(f"--{option} {readable(os.fsencode(text))}: must be text that can be printed")
    return text


def _wait_limit(given: Given) -> dict[str, object]:
    limit: dict[str, object] = {}
    if "wait" in given:
        from ..units import parse_duration

        limit["wait"] = parse_duration(str(given["wait"]), "wait")
    if "nonblock" in given:
        limit["wait"] = 0.0
    if "conflict_status" in given:
        from ..units import parse_integer

        status = parse_integer(str(given["conflict_status"]))
        if status is None or not 0 <= status <= 255:
            raise UsageError(f"exit status {given['conflict_status']}: 0 to 255")
    return limit
