"""What doctor says: each line that is bad is followed by what to do, and everything that is well is said to be."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from equipment import missing_gpu
from screens import expect
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


def told(world: World, text: str, *subjects: str) -> str:
    """The lines about these subjects, each with what to do."""
    lines, wanted = [], False
    for line in text.splitlines():
        if not line.startswith(" "):
            wanted = line[10:].startswith(subjects)
        if wanted:
            lines.append(line.replace(str(world.directory), "FOLDER").replace(os.path.expanduser("~"), "HOME"))
    return "\n".join(lines) + "\n"


def test_on_simulated_gpus_nothing_is_bad(world: World) -> None:
    done = world.run("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nbad " not in "\n" + done.stdout
    expect("doctor-simulated", told(world, done.stdout, "driver", "GPU ", "database", "arbiter"))


def test_each_line_is_a_verdict_a_subject_and_a_text_in_aligned_columns(world: World) -> None:
    for line in world.run("doctor").stdout.splitlines():
        assert line.startswith((*(f"{verdict:<10}" for verdict in ("ok", "note", "bad", "unproven")), " " * 24)), line
        assert line[24] != " ", line


def test_without_a_driver_it_says_what_to_install_and_names_the_demo(make_world: MakeWorld) -> None:
    if missing_gpu() != "no NVIDIA driver (libnvidia-ml.so.1)" or Path("/proc/driver/nvidia").exists():
        pytest.skip("here is a driver")
    world = make_world(None)
    done = world.run("doctor")
    assert done.returncode == 1
    expect("doctor-no-driver", told(world, done.stdout, "driver", "NVML"))


SETTINGS = {
    "unknown": b"min_rum = '5m'\n",
    "not-toml": b"min_run = \n",
    "no-duration": b"min_run = 5\n",
    "no-count": b"keep_history = -1\n",
    "not-utf-8": b"\xff = 1\n",
    "too-large": b"min_run = 0x" + b"f" * 5000,
    "too-many-digits": b"keep_history = " + b"1" * 5000,
    "too-deep": b"ignore = " + b"[" * 20_000,
}


@pytest.mark.parametrize("fault", SETTINGS)
def test_bad_settings_are_named_with_file_and_key(world: World, fault: str) -> None:
    (world.directory / "settings.toml").write_bytes(SETTINGS[fault])
    done = world.run("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    expect(f"doctor-settings-{fault}", told(world, done.stdout, "settings"))
    refused = world.run("true")
    assert (refused.returncode, refused.stdout) == (125, "")
    assert str(world.directory / "settings.toml") in refused.stderr
    assert len(refused.stderr.splitlines()) <= 2


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_settings_that_are_no_file_are_refused_and_keep_nobody_waiting(world: World, make: Callable[[Path], None]) -> None:
    make(world.directory / "settings.toml")
    done = world.run("doctor", timeout=10)
    assert done.returncode == 1
    cause = "not a regular file" if make is os.mkfifo else "is a directory"
    assert f"cannot read settings: {world.directory}/settings.toml: {cause}" in done.stdout
    refused = world.run("-n", "true", timeout=10)
    assert (refused.returncode, refused.stdout) == (125, "")
    assert refused.stderr == f"gpurun: cannot read settings: {world.directory}/settings.toml: {cause}\n"


def test_every_setting_is_told_with_its_value_and_where_it_comes_from(world: World) -> None:
    file = world.directory / "settings.toml"
    file.write_text("min_run = '10m'\nignore = ['alice', 42]\n")
    done = world.run("doctor")
    assert done.returncode == 0
    lines = told(world, done.stdout, "settings")
    expect("doctor-settings-changed", lines)
    # What it prints can be written into a file as it is.
    file.write_text("".join(f"{line[24:].rpartition(' (')[0]}\n" for line in lines.splitlines()[1:]))
    again = told(world, world.run("doctor").stdout, "settings")
    assert again == lines.replace("(default)", "(FOLDER/settings.toml)")


@pytest.mark.needs("unshare", "umount")
def test_without_a_cgroup_it_says_what_cannot_be_paused(world: World) -> None:
    alone = ["unshare", "--mount"]
    script = "umount -a -l -t cgroup2 && ! grep -q ' - cgroup2 ' /proc/self/mountinfo"
    if subprocess.run([*alone, "sh", "-c", script], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace without cgroups can be made here")
    done = subprocess.run(
        [*alone, "sh", "-c", f"{script} && exec {world.command} doctor"],
        env=world.env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expect("doctor-no-cgroup", told(world, done.stdout, "freezer"))


def test_an_arbiter_that_is_missing_is_said_and_what_brings_it_back(world: World) -> None:
    world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    expect("doctor-arbiter", told(world, world.run("doctor").stdout, "arbiter"))
    killed = [psutil.Process(pid) for pid in (world.keeper_pid(), world.arbiter_pid()) if pid is not None]
    for process in killed:
        process.kill()
    wait_until(lambda: world.arbiter_pid() is None, "the arbiter to be gone")
    expect("doctor-no-arbiter", told(world, world.run("doctor").stdout, "arbiter"))
