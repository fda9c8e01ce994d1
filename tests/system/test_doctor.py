"""What doctor says: each line that is bad is followed by what to do, and everything that is well is said to be."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import missing_gpu
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


SETTINGS = {"unknown": "min_rum = '5m'\n", "not-toml": "min_run = \n", "no-duration": "min_run = 5\n"}


@pytest.mark.parametrize("fault", SETTINGS)
def test_bad_settings_are_named_with_file_and_key(world: World, fault: str) -> None:
    (world.directory / "settings.toml").write_text(SETTINGS[fault])
    done = world.run("doctor")
    assert done.returncode == 1
    expect(f"doctor-settings-{fault}", told(world, done.stdout, "settings"))


def test_changed_settings_are_named(world: World) -> None:
    (world.directory / "settings.toml").write_text("min_run = '10m'\n")
    done = world.run("doctor")
    assert done.returncode == 0
    expect("doctor-settings-changed", told(world, done.stdout, "settings"))


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
