"""Folder, limits, priorities, descriptors and all else that a program inherits stay as they were."""

import os
import resource
import signal
from collections.abc import Callable

import pytest
from fidelity import Case, Counted, check_probes, entries, hostile_modules, only_gpurun, probe, probe_all
from world import World


def inherited_cases(world: World) -> list[Case]:
    """One thing changed at a time, and the whole probe compared each time."""
    scratch = str(world.scratch)
    hostile = hostile_modules(world)
    odd = os.fsdecode(os.fsencode(scratch) + b"/odd \xff\n folder")
    os.makedirs(odd, exist_ok=True)
    deep = scratch + "/d" + "/deep" * 60
    os.makedirs(deep, exist_ok=True)
    (world.scratch / "data").write_bytes(b"0123456789" * 100)
    data = str(world.scratch / "data")
    cases = [
        probe(world, "nothing changed"),
        probe(world, "cwd /", ["chdir", "/"]),
        probe(world, "cwd deep", ["chdir", deep]),
        probe(world, "cwd with odd bytes", ["chdir", odd]),
        probe(world, "cwd full of modules", ["chdir", str(hostile)]),
        probe(world, "cwd deleted", ["deleted cwd", scratch]),
        probe(world, "session of its own", ["session"]),
        probe(world, "group of its own", ["group"]),
        probe(world, "nice 5", ["nice", 5]),
        probe(world, "nice 19", ["nice", 19]),
        probe(world, "ionice idle", ["io priority", 3 << 13]),
        probe(world, "ionice best effort 7", ["io priority", 2 << 13 | 7]),
        probe(world, "batch scheduling", ["scheduler", os.SCHED_BATCH, 0]),
        probe(world, "idle scheduling", ["scheduler", os.SCHED_IDLE, 0]),
        probe(world, "one CPU", ["affinity", [min(os.sched_getaffinity(0))]]),
        probe(world, "oom_score_adj", ["write", "/proc/self/oom_score_adj", "500"]),
        probe(world, "coredump_filter", ["write", "/proc/self/coredump_filter", "0x7f"]),
        probe(world, "no randomisation", ["personality", 0x0040000]),
        probe(world, "timer slack", ["prctl", 29, 123456]),
        probe(world, "signal at the parent's death", ["prctl", 1, signal.SIGUSR2], ["ignore", [signal.SIGUSR2]]),
        probe(world, "no new privileges", ["prctl", 38, 1]),
        probe(world, "subreaper", ["prctl", 36, 1]),
        probe(world, "no huge pages", ["prctl", 41, 1]),
        probe(world, "alarm", ["alarm", 300]),
        probe(world, "virtual timer", ["timer", signal.ITIMER_VIRTUAL, 300]),
        probe(world, "profiling timer", ["timer", signal.ITIMER_PROF, 300]),
        probe(world, "USR1 blocked", ["block", [signal.SIGUSR1]]),
        probe(world, "HUP ignored", ["ignore", [signal.SIGHUP]]),
        probe(world, "CHLD ignored", ["ignore", [signal.SIGCHLD]]),
    ]
    cases += [probe(world, f"umask {mask:03o}", ["umask", mask]) for mask in (0, 0o002, 0o022, 0o077, 0o777)]
    for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"):
        which = getattr(resource, name)
        try:
            resource.getrlimit(which)
        except (ValueError, OSError):
            continue
        step = 1 if name in ("RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_NOFILE", "RLIMIT_NPROC") else 4096
        cases.append(probe(world, f"{name} soft lowered", ["limit", name, step, 0]))
        cases.append(probe(world, f"{name} both lowered", ["limit", name, 2 * step, step]))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    cases += [
        probe(world, "few descriptors", ["limit", "RLIMIT_NOFILE", 0, most - 20]),
        probe(world, "small stack", ["limit", "RLIMIT_STACK", 7 << 20, 0]),
        probe(world, "no core", ["limit", "RLIMIT_CORE", 1 << 41, 1 << 41]),
    ]  # fmt: skip
    if os.geteuid() == 0:
        cases += [
            probe(world, "nice -5", ["nice", -5]),
            probe(world, "round robin", ["scheduler", os.SCHED_RR, 3]),
            probe(world, "ionice real time", ["io priority", 1 << 13 | 4]),
            probe(world, "groups", ["groups", [4, 7, 65534]]),
        ]
    # Descriptors
    for closed in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]):
        cases.append(probe(world, f"closed {closed}", ["close", closed]))
        cases.append(probe(world, f"closed {closed}, 7 open", ["close", closed], ["hold", 7, data, os.O_RDONLY, True]))
    for number in (3, 4, 5, 6, 9, 10, 63, 64, 100, 255, 500):
        cases.append(probe(world, f"{number} inherited", ["hold", number, data, os.O_RDWR, True]))
        cases.append(probe(world, f"{number} closed by exec", ["hold", number, data, os.O_RDWR, False]))
    cases += [
        probe(world, "3 to 40 inherited", *(["hold", number, data, os.O_RDONLY, True] for number in range(3, 41))),
        probe(world, "every other inherited", *(["hold", n, data, os.O_RDONLY, bool(n % 2)] for n in range(3, 41))),
        probe(world, "appending", ["hold", 3, data, os.O_WRONLY | os.O_APPEND, True]),
        probe(world, "at an offset", ["hold", 3, data, os.O_RDONLY, True], ["seek", 3, 123]),
        probe(world, "non-blocking", ["hold", 3, "/dev/zero", os.O_RDONLY, True], ["nonblocking", 3]),
        probe(world, "a folder", ["hold", 3, scratch, os.O_RDONLY | os.O_DIRECTORY, True]),
        probe(world, "path only", ["hold", 3, data, os.O_PATH, True]),
        probe(world, "stdin at an offset", ["seek", 0, 77], input=data),
        probe(world, "stdin non-blocking", ["nonblocking", 0], input=data),
        probe(world, "stdin is /dev/full", ["hold", 0, "/dev/full", os.O_RDWR, True]),
        probe(world, "stdout is /dev/full", ["hold", 1, "/dev/full", os.O_RDWR, True]),
        probe(world, "stderr is /dev/full", ["hold", 2, "/dev/full", os.O_RDWR, True]),
        probe(world, "stdin only writable", ["hold", 0, data, os.O_WRONLY, True]),
        probe(world, "stdout only readable", ["hold", 1, data, os.O_RDONLY, True]),
    ]
    return cases


def test_everything_inherited_stays(warm: World, counted: Counted) -> None:
    check_probes(counted, probe_all(warm, inherited_cases(warm)))


def test_everything_inherited_stays_cold(fresh: Callable[..., World], counted: Counted) -> None:
    """Each case must summon the arbiter itself: what becomes the program has forked, locked and listened."""
    wanted = (
        "nothing changed", "cwd deleted", "cwd full of modules", "closed [0]", "closed [1]", "closed [2]",
        "closed [0, 1, 2]", "3 to 40 inherited", "every other inherited", "umask 777", "CHLD ignored",
        "USR1 blocked", "session of its own", "nice 19", "few descriptors", "alarm",
        "signal at the parent's death", "RLIMIT_FSIZE both lowered", "HUP ignored", "stderr is /dev/full",
    )  # fmt: skip
    world = fresh()
    cases = []
    for name in wanted:
        # Its own state folder; bare and under run with the same variables.
        own = fresh("1x24G")
        case = next(case for case in inherited_cases(world) if case.name == name)
        case.env = entries({**world.env, "GPURUN_DIR": own.env["GPURUN_DIR"]})
        cases.append(case)
    check_probes(counted, probe_all(world, cases, workers=2))


@only_gpurun
@pytest.mark.parametrize("options", [["-g", "0"], ["-m", "4G"], ["-g", "4"], ["-g2", "-p", "high", "-N", "x", "-v"], ["--"]])
def test_everything_inherited_stays_with_options(warm: World, counted: Counted, options: list[str]) -> None:
    wanted = ("nothing changed", "closed [0, 1, 2]", "3 to 40 inherited", "USR1 blocked", "alarm")
    cases = [case for case in inherited_cases(warm) if case.name in wanted]
    pairs = probe_all(warm, cases, options=options)
    if "-v" in options:
        for pair in pairs:
            pair.under.err = pair.bare.err
            if pair.under.report:
                # It has written there: another position.
                pair.under.report["descriptors"].update(
                    {n: facts for n, facts in pair.bare.report["descriptors"].items() if n == "2"}
                )
    check_probes(counted, pairs)
