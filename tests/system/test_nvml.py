"""Reading real NVML: gpus.py and nvidia-ml-py over the stand-in libnvidia-ml.so.1, in a process of their own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standin import (
    DRIVER_NOT_LOADED,
    ERROR_UNKNOWN,
    EXCLUSIVE_PROCESS,
    FUNCTION_NOT_FOUND,
    GIB,
    GPU_IS_LOST,
    INSUFFICIENT_SIZE,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY,
    MIB,
    NO_PERMISSION,
    NOT_SUPPORTED,
    PROHIBITED,
    RESET_REQUIRED,
    TIMEOUT,
    Box,
    Gpu,
    Instance,
    NoCompiler,
    Process,
    build,
    uuid_of,
)
from waiting import wait_until

import gpuwrap
from gpuwrap.host import connections, gpus, health, nvml
from gpuwrap.host.nvml import SILENT

PROBE = Path(__file__).parent.parent / "standin" / "probe.py"
LOOK_SECONDS = 2.0
HANG_SECONDS = 30
NO_ANSWER = "the driver does not answer"
LOST = "the GPU is lost (fell off the bus)"

Seen = dict[str, Any]
MakeBox = Callable[..., Box]


class Probe:
    """A running probe.py on one box."""

    def __init__(self, library_folder: str) -> None:
        root = str(Path(gpuwrap.__file__).parents[1])
        env = {**os.environ, "LD_LIBRARY_PATH": library_folder, "PYTHONPATH": root}
        self.child = subprocess.Popen(
            [sys.executable, str(PROBE)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, command: str) -> Seen:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(f"{command}\n")
        self.child.stdin.flush()
        line = self.child.stdout.readline()
        assert line, "the probe died"
        answer: Seen = json.loads(line)
        return answer

    def look(self) -> Seen:
        return self.tell("look")

    def gpus(self) -> list[Seen]:
        look = self.look()
        assert look["fault"] is None
        samples: list[Seen] = look["samples"]
        return samples

    def gpu(self) -> Seen:
        (sample,) = self.gpus()
        return sample

    def end(self) -> int:
        """Close its standard input, upon which it leaves; returns its exit status."""
        assert self.child.stdin
        self.child.stdin.close()
        return self.child.wait(30)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            if stream:
                stream.close()


@pytest.fixture
def make_box(tmp_path: Path) -> MakeBox:
    def make(*gpus: Gpu, old_driver: int = 0) -> Box:
        try:
            return build(tmp_path / "driver", *gpus, old_driver=old_driver)
        except NoCompiler as err:
            pytest.skip(str(err))

    return make


@pytest.fixture
def watch() -> Iterator[Callable[[Box], Probe]]:
    """Start a probe on a box; all of them are ended after the test."""
    probes: list[Probe] = []

    def start(box: Box) -> Probe:
        probes.append(Probe(box.library_folder))
        return probes[-1]

    yield start
    for probe in probes:
        probe.kill()


Watch = Callable[[Box], Probe]


# What a look tells


def test_a_free_gpu_is_told_with_all_its_figures(make_box: MakeBox, watch: Watch) -> None:
    look = watch(make_box(Gpu(total=24 * GIB, reserved=512 * MIB, utilization=3, numa=1))).look()
    assert look["fault"] is None
    assert not look["readable_after"]
    assert look["samples"] == [
        {
            "uuid": uuid_of(0),
            "index": 0,
            "name": "NVIDIA GeForce RTX 4090",
            "total_bytes": 24 * GIB,
            "free_bytes": 24 * GIB - 512 * MIB,
            "processes": [],
            "utilization_percent": 3,
            "compute_mode": "default",
            "fault": None,
            "is_mig": False,
            "numa_node": 1,
            "links": {},
            "load": {"temperature_celsius": 40, "power_watts": 30.0, "power_limit_watts": 450.0, "fan_percent": 30},
        }
    ]


def test_a_strangers_process_is_named_with_its_memory(make_box: MakeBox, watch: Watch) -> None:
    sample = watch(make_box(Gpu(processes=[Process(4711, 5 * GIB)]))).gpu()
    assert sample["processes"] == [{"pid": 4711, "bytes": 5 * GIB, "graphics": False}]
    assert sample["free_bytes"] == 24 * GIB - 512 * MIB - 5 * GIB


def test_a_process_without_a_known_figure_has_none(make_box: MakeBox, watch: Watch) -> None:
    sample = watch(make_box(Gpu(processes=[Process(4711, None)]))).gpu()
    assert sample["processes"] == [{"pid": 4711, "bytes": None, "graphics": False}]


def test_memory_that_the_driver_does_not_tell_is_unknown(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    box.fail("nvmlDeviceGetMemoryInfo", NOT_SUPPORTED)
    sample = watch(box).gpu()
    assert (sample["total_bytes"], sample["free_bytes"], sample["fault"]) == (None, None, None)


def test_utilization_that_the_driver_does_not_tell_is_unknown(make_box: MakeBox, watch: Watch) -> None:
    sample = watch(make_box(Gpu(utilization=None))).gpu()
    assert (sample["utilization_percent"], sample["fault"]) == (None, None)


@pytest.mark.parametrize("code", [NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND])
def test_a_process_list_that_can_never_be_had_is_unknown_not_empty(make_box: MakeBox, watch: Watch, code: int) -> None:
    box = make_box(Gpu(processes=[Process(4711, GIB)]))
    box.fail("nvmlDeviceGetComputeRunningProcesses", code)
    sample = watch(box).gpu()
    assert (sample["processes"], sample["fault"]) == (None, None)


@pytest.mark.parametrize("kind", ["Compute", "MPSCompute"])
def test_a_process_list_that_fails_this_time_is_a_fault(make_box: MakeBox, watch: Watch, kind: str) -> None:
    """Nobody would be seen on the GPU, whoever computes there."""
    box = make_box(Gpu(processes=[Process(4711, 300 * MIB, "compute" if kind == "Compute" else "mps")]))
    probe = watch(box)
    for told_before, codes in ((False, (ERROR_UNKNOWN, TIMEOUT, INSUFFICIENT_SIZE)), (True, (NOT_SUPPORTED, NO_PERMISSION))):
        for code in codes:
            probe.tell("new")
            box.mend()
            if told_before:
                assert probe.gpu()["processes"]
            box.fail(f"nvmlDeviceGet{kind}RunningProcesses", code)
            sample = probe.gpu()
            assert sample["fault"], (kind, code)
            assert (sample["processes"], sample["free_bytes"]) == (None, None)
            box.mend()
            assert [each["pid"] for each in probe.gpu()["processes"]] == [4711]


def test_who_only_draws_does_not_compute(make_box: MakeBox, watch: Watch) -> None:
    lists = [Process(1, 40 * MIB, "graphics"), Process(2, GIB), Process(2, GIB, "graphics"), Process(3, None, "mps")]
    sample = watch(make_box(Gpu(processes=lists))).gpu()
    assert sorted(sample["processes"], key=lambda process: process["pid"]) == [
        {"pid": 1, "bytes": 40 * MIB, "graphics": True},
        {"pid": 2, "bytes": GIB, "graphics": False},
        {"pid": 3, "bytes": None, "graphics": False},
    ]


@pytest.mark.parametrize(("mode", "name"), [(EXCLUSIVE_PROCESS, "exclusive process"), (PROHIBITED, "prohibited")])
def test_the_compute_mode_is_told(make_box: MakeBox, watch: Watch, mode: int, name: str) -> None:
    assert watch(make_box(Gpu(compute_mode=mode))).gpu()["compute_mode"] == name


def test_a_changed_compute_mode_is_seen_at_the_next_look(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    probe = watch(box)
    assert probe.gpu()["compute_mode"] == "default"
    box.set(0, compute_mode=EXCLUSIVE_PROCESS)
    assert probe.gpu()["compute_mode"] == "exclusive process"


def test_a_compute_mode_that_cannot_be_had_this_time_is_no_default(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(compute_mode=PROHIBITED))
    probe = watch(box)
    for code in (ERROR_UNKNOWN, NO_PERMISSION):  # the second once it was told
        box.fail("nvmlDeviceGetComputeMode", code)
        assert probe.gpu()["fault"]
        box.mend()
        assert (probe.gpu()["fault"], probe.gpu()["compute_mode"]) == (None, "prohibited")


def test_a_living_process_holds_what_its_file_says_and_a_dead_one_nothing(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    probe = watch(box)
    holder = subprocess.Popen(["sleep", "60"])
    try:
        box.allocate(0, holder.pid, 3 * GIB)
        sample = probe.gpu()
        assert sample["processes"] == [{"pid": holder.pid, "bytes": 3 * GIB, "graphics": False}]
        assert sample["free_bytes"] == 24 * GIB - 512 * MIB - 3 * GIB
    finally:
        holder.kill()
    wait_until(lambda: probe.gpu()["processes"] == [], "the dead process to hold nothing")  # a zombie neither
    holder.wait()
    assert probe.gpu()["free_bytes"] == 24 * GIB - 512 * MIB


# Drivers of other times


@pytest.mark.parametrize("old_driver", [1, 2])
def test_old_drivers_are_read_too(make_box: MakeBox, watch: Watch, old_driver: int) -> None:
    lists = [Process(1, 40 * MIB, "graphics"), Process(2, GIB), Process(3, None)]
    sample = watch(make_box(Gpu(processes=lists), old_driver=old_driver)).gpu()
    assert sorted(sample["processes"], key=lambda process: process["pid"]) == [
        {"pid": 1, "bytes": 40 * MIB, "graphics": True},
        {"pid": 2, "bytes": GIB, "graphics": False},
        {"pid": 3, "bytes": None, "graphics": False},
    ]
    assert sample["total_bytes"] == 24 * GIB


def test_drivers_with_longer_list_entries_than_promised_are_understood(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(processes=[Process(1001, GIB), Process(1002, 2 * GIB), Process(1003, 3 * GIB)]))
    box.wide = True
    box.write()
    processes = watch(box).gpu()["processes"]
    assert [(process["pid"], process["bytes"]) for process in processes] == [
        (1001, GIB),
        (1002, 2 * GIB),
        (1003, 3 * GIB),
    ]


# No driver


def test_without_a_library_there_is_no_driver(tmp_path: Path, make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    # No library at all, also where a real one is installed: a file that is none ends the search.
    (box.folder / LIBRARY).write_bytes(b"")
    look = watch(box).look()
    assert look["fault"] == "no NVIDIA driver: libnvidia-ml.so.1 not found"
    assert (look["samples"], look["pending"]) == ([], False)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (DRIVER_NOT_LOADED, "no NVIDIA driver: not loaded"),
        (LIB_RM_VERSION_MISMATCH, "the driver was upgraded under us: reload it or reboot"),
        (ERROR_UNKNOWN, "the NVIDIA driver cannot be used: Unknown Error"),
    ],
)
def test_a_driver_that_cannot_be_opened_is_explained(make_box: MakeBox, watch: Watch, code: int, fault: str) -> None:
    box = make_box()
    box.fail("nvmlInit", code)
    look = watch(box).look()
    assert (look["fault"], look["samples"], look["pending"]) == (fault, [], False)


def test_a_driver_without_gpus_is_explained(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    box.gpus = []
    box.write()
    assert watch(box).look()["fault"] == "no NVIDIA GPU: the driver finds none"


def test_opening_the_driver_is_tried_again_but_not_at_every_look(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    box.fail("nvmlInit", DRIVER_NOT_LOADED)
    probe = watch(box)
    assert probe.look()["fault"]
    box.mend()
    assert probe.look()["fault"]
    probe.tell("new")
    probe.tell("set INIT_RETRY_SECONDS 0.1")
    box.fail("nvmlInit", DRIVER_NOT_LOADED)
    assert probe.look()["fault"]
    box.mend()
    wait_until(lambda: probe.look()["fault"] is None, "the driver to be opened")


def test_a_reloaded_driver_is_opened_again_in_the_same_look(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    probe = watch(box)
    assert len(probe.gpus()) == 2
    box.forget_sessions()
    assert [sample["fault"] for sample in probe.gpus()] == [None, None]


def test_a_driver_that_goes_away_for_good_is_a_fault(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    probe = watch(box)
    assert probe.gpu()["fault"] is None
    box.fail("*", DRIVER_NOT_LOADED)
    look = probe.look()
    assert (look["fault"], look["pending"]) == ("no NVIDIA driver: not loaded", False)
    (sample,) = look["samples"]  # it is still known which GPUs there are
    assert (sample["uuid"], sample["fault"], sample["free_bytes"]) == (uuid_of(0), "no NVIDIA driver: not loaded", None)


# GPUs that are broken


@pytest.mark.parametrize(
    ("function", "code", "fault"),
    [
        ("*", GPU_IS_LOST, LOST),
        ("nvmlDeviceGetUtilizationRates", GPU_IS_LOST, LOST),
        ("nvmlDeviceGetComputeRunningProcesses", RESET_REQUIRED, "the GPU needs a reset"),
        ("nvmlDeviceGetMemoryInfo", ERROR_UNKNOWN, "the driver reports an unknown error on the GPU"),
        ("nvmlDeviceGetMemoryInfo", 17, "the driver says of the GPU: The operating system has blocked the request."),
    ],
)
def test_a_broken_gpu_has_a_fault_and_hides_no_other(
    make_box: MakeBox, watch: Watch, function: str, code: int, fault: str
) -> None:
    box = make_box(Gpu(), Gpu(utilization=9), Gpu())
    box.fail(function, code, 1)
    probe = watch(box)
    samples = probe.gpus()
    assert [sample["fault"] for sample in samples] == [None, fault, None]
    assert [sample["index"] for sample in samples] == [0, 1, 2]
    broken = samples[1]
    assert (broken["total_bytes"], broken["free_bytes"], broken["utilization_percent"]) == (None, None, None)
    assert broken["processes"] is None
    box.mend()
    whole = probe.gpus()[1]
    assert (whole["fault"], whole["uuid"], whole["utilization_percent"]) == (None, uuid_of(1), 9)


def test_gpus_that_are_forbidden_to_us_are_not_there_for_cuda_either(make_box: MakeBox, watch: Watch) -> None:
    """In a Slurm job whose cgroup has one device of four."""
    box = make_box(*[Gpu()] * 4)
    for index in (0, 1, 3):
        box.fail("nvmlDeviceGetHandleByIndex", NO_PERMISSION, index)
    probe = watch(box)
    sample = probe.gpu()
    assert (sample["index"], sample["uuid"], sample["fault"]) == (0, uuid_of(2), None)
    box.fail("nvmlDeviceGetMemoryInfo", GPU_IS_LOST, 2)
    assert (probe.gpu()["index"], probe.gpu()["uuid"], probe.gpu()["fault"]) == (0, uuid_of(2), LOST)


def test_gpus_that_are_all_forbidden_are_told_with_the_reason(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    probe = watch(box)
    probe.gpus()
    box.fail("nvmlDeviceGetHandleByIndex", NO_PERMISSION)
    for again in (False, True):
        if again:
            probe.tell("new")
        else:
            box.forget_sessions()
        samples = probe.gpus()
        assert [(each["index"], each["fault"]) for each in samples] == [
            (index, "no permission to use the GPU") for index in (0, 1)
        ]


def test_a_gpu_that_breaks_keeps_its_name_and_uuid(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu(name="Tesla T4"))
    probe = watch(box)
    probe.gpus()
    box.fail("*", GPU_IS_LOST, 1)
    sample = probe.gpus()[1]
    assert (sample["uuid"], sample["name"], sample["fault"]) == (uuid_of(1), "Tesla T4", LOST)


def test_a_gpu_that_was_never_read_has_a_made_up_uuid(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    box.fail("*", GPU_IS_LOST, 1)
    assert watch(box).gpus()[1]["uuid"] == "unknown-1"


# What hangs


def test_a_gpu_that_hangs_hides_no_other(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu(), Gpu(utilization=50))
    probe = watch(box)
    assert probe.look()["took"] < LOOK_SECONDS / 2
    box.hang("nvmlDeviceGetMemoryInfo", HANG_SECONDS, 1)

    look = probe.look()
    assert look["begin_took"] < 0.2
    assert LOOK_SECONDS - 0.2 < look["took"] < LOOK_SECONDS + 1.5
    assert [sample["fault"] for sample in look["samples"]] == [None, NO_ANSWER, None]
    assert look["samples"][1]["uuid"] == uuid_of(1)
    assert look["samples"][1]["free_bytes"] is None
    assert look["samples"][2]["utilization_percent"] == 50

    threads = look["threads"]
    for _ in range(5):  # it is not asked again, nor waited for
        look = probe.look()
        assert look["took"] < LOOK_SECONDS / 2
        assert look["samples"][1]["fault"] == NO_ANSWER
        assert look["threads"] == threads

    box.mend()
    wait_until(lambda: probe.gpus()[1]["fault"] is None, "the GPU to answer again")


def test_all_gpus_may_hang(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(*[Gpu()] * 8)
    box.hang("nvmlDeviceGetHandleByIndex", HANG_SECONDS)
    probe = watch(box)
    look = probe.look()
    assert look["took"] < LOOK_SECONDS + 1.5
    assert [sample["fault"] for sample in look["samples"]] == [NO_ANSWER] * 8
    assert [sample["uuid"] for sample in look["samples"]] == [f"unknown-{index}" for index in range(8)]
    box.mend()
    wait_until(lambda: not any(sample["fault"] for sample in probe.gpus()), "all GPUs to answer")


def test_links_that_hang_delay_no_later_look(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    box.hang("nvmlDeviceGetTopologyCommonAncestor", HANG_SECONDS, 0)
    probe = watch(box)
    assert [sample["fault"] for sample in probe.gpus()] == [None, None]
    look = probe.look()
    assert look["took"] < LOOK_SECONDS / 2
    assert [sample["fault"] for sample in look["samples"]] == [NO_ANSWER, None]


def test_a_driver_that_hangs_while_it_is_opened_is_a_fault(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    box.hang("nvmlInit", HANG_SECONDS)
    probe = watch(box)
    look = probe.look()
    assert (look["fault"], look["samples"], look["pending"]) == ("the NVIDIA driver does not answer", [], True)
    assert LOOK_SECONDS - 0.2 < look["took"] < LOOK_SECONDS + 1.5
    assert look["begin_took"] < 0.2
    box.mend()
    wait_until(lambda: probe.look()["fault"] is None, "the driver to answer")


def test_a_driver_that_hangs_stops_nobody_from_leaving(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    box.hang("nvmlDeviceGetMemoryInfo", HANG_SECONDS, 0)
    probe = watch(box)
    probe.tell("begin")
    assert probe.end() == 0


# MIG and connections


def test_mig_instances_are_gpus_of_their_own(make_box: MakeBox, watch: Watch) -> None:
    instances = [Instance("MIG-a", total=10 * GIB), Instance("MIG-b", total=20 * GIB, processes=[Process(7, GIB)])]
    box = make_box(Gpu(), Gpu(mig=instances, utilization=50), Gpu())
    samples = watch(box).gpus()
    assert [(sample["index"], sample["uuid"], sample["is_mig"]) for sample in samples] == [
        (0, uuid_of(0), False),
        (3, "MIG-a", True),
        (4, "MIG-b", True),
        (2, uuid_of(2), False),
    ]
    assert [sample["total_bytes"] for sample in samples] == [24 * GIB, 10 * GIB, 20 * GIB, 24 * GIB]
    assert samples[2]["processes"] == [{"pid": 7, "bytes": GIB, "graphics": False}]
    assert samples[2]["free_bytes"] == 19 * GIB
    assert samples[2]["utilization_percent"] is None
    assert samples[1]["links"] == {}


def test_a_gpu_that_is_divided_while_it_is_watched_is_not_offered_whole(make_box: MakeBox, watch: Watch) -> None:
    box = make_box()
    probe = watch(box)
    assert probe.gpu()["uuid"] == uuid_of(0)
    box.set(0, mig=[Instance("MIG-a"), Instance("MIG-b")])
    assert [sample["uuid"] for sample in probe.gpus()] == ["MIG-a", "MIG-b"]
    box.set(0, mig=None, facts={"mig": 0})
    assert probe.gpu()["uuid"] == uuid_of(0)


def test_a_broken_mig_instance_hides_no_other(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(mig=[Instance("MIG-a"), Instance("MIG-b")]))
    probe = watch(box)
    probe.gpus()
    box.fail("nvmlDeviceGetMemoryInfo", RESET_REQUIRED, "0:0")
    assert [sample["fault"] for sample in probe.gpus()] == ["the GPU needs a reset", None]


def test_a_divided_gpu_that_breaks_is_told_as_its_instances(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(mig=[Instance("MIG-a"), Instance("MIG-b")]))
    probe = watch(box)
    indices = [sample["index"] for sample in probe.gpus()]
    box.fail("*", GPU_IS_LOST, "0:1")
    box.fail("*", GPU_IS_LOST, "0:0")
    probe.gpus()
    box.fail("*", GPU_IS_LOST, 0)
    samples = probe.gpus()
    assert [(sample["uuid"], sample["fault"]) for sample in samples] == [("MIG-a", LOST), ("MIG-b", LOST)]
    assert [sample["index"] for sample in samples] == indices == [1, 2]


def test_a_divided_gpu_of_which_the_mode_cannot_be_read_is_not_offered_whole(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(mig=[Instance("MIG-a")]))
    probe = watch(box)
    probe.tell("set SLOW_SECONDS 0")
    assert probe.gpu()["fault"] is None
    box.fail("nvmlDeviceGetMigMode", ERROR_UNKNOWN)
    for _ in range(2):
        sample = probe.gpu()
        assert sample["uuid"] == "MIG-a"
        assert sample["fault"] == "the driver reports an unknown error on the GPU"


def test_a_gpu_in_mig_mode_without_instances_cannot_be_used(make_box: MakeBox, watch: Watch) -> None:
    sample = watch(make_box(Gpu(mig=[]))).gpu()
    assert (sample["uuid"], sample["fault"]) == (uuid_of(0), "MIG is on, but the GPU has no instances")


def test_gpus_behind_switches_are_connected_by_all_their_links(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(*[Gpu(name="NVIDIA H100 80GB HBM3", numa=index // 4) for index in range(8)])
    box.nvlinks = [(index, "switch", 18) for index in range(8)]
    box.write()
    samples = watch(box).gpus()
    for sample in samples:
        assert sample["links"] == {uuid_of(index): 118 for index in range(8) if index != sample["index"]}
        assert sample["numa_node"] == sample["index"] // 4


def test_links_rank_nvlink_before_the_way_over_the_bus(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu(), Gpu(), Gpu())
    box.nvlinks = [(0, 1, 4), (0, 2, 2)]
    box.topology = [(0, 3, 50), (1, 2, 40), (1, 3, 10), (2, 3, 20)]
    box.write()
    links = [sample["links"] for sample in watch(box).gpus()]
    assert links[0] == {uuid_of(1): 104, uuid_of(2): 102, uuid_of(3): 10}
    assert links[1] == {uuid_of(0): 104, uuid_of(2): 20, uuid_of(3): 50}
    assert links[3] == {uuid_of(0): 10, uuid_of(1): 50, uuid_of(2): 40}


@pytest.mark.parametrize("function", ["nvmlDeviceGetNvLinkState", "nvmlDeviceGetNvLinkRemotePciInfo", "nvmlDeviceGetPciInfo"])
def test_links_that_could_not_be_read_are_asked_for_again(make_box: MakeBox, watch: Watch, function: str) -> None:
    box = make_box(Gpu(), Gpu(), Gpu())
    box.nvlinks = [(0, 1, 4), (0, 2, 2)]
    box.write()
    box.fail(function, ERROR_UNKNOWN)
    probe = watch(box)
    probe.tell("set SLOW_SECONDS 0.2")
    truth = {uuid_of(1): 104, uuid_of(2): 102}
    assert probe.gpus()[0]["links"] != truth
    box.mend()
    wait_until(lambda: probe.gpus()[0]["links"] == truth, "the links to be known")


XID_48 = "Xid 48: double-bit memory error"


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents", "nvmlDeviceGetUUID", "*"])
def test_xids_are_heard_although_the_first_look_could_not_subscribe(make_box: MakeBox, watch: Watch, function: str) -> None:
    box = make_box(Gpu(), Gpu())
    box.fail(function, ERROR_UNKNOWN if function != "*" else GPU_IS_LOST, "*" if "EventSet" in function else 1)
    probe = watch(box)
    probe.gpus()
    box.mend()
    assert [sample["fault"] for sample in probe.gpus()] == [None, None]
    box.send_xid(1, 48)
    assert [sample["fault"] for sample in probe.gpus()] == [None, XID_48]


def test_memory_trouble_stays_known_while_it_cannot_be_read(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(facts={"remap_failure": 1}))
    probe = watch(box)
    assert "(ECC)" in probe.gpu()["fault"]
    box.fail("nvmlDeviceGetRemappedRows", ERROR_UNKNOWN)
    assert "(ECC)" in probe.gpu()["fault"]


def test_links_that_the_driver_does_not_tell_are_left_out(make_box: MakeBox, watch: Watch) -> None:
    box = make_box(Gpu(), Gpu())
    box.fail("nvmlDeviceGetTopologyCommonAncestor", NOT_SUPPORTED)
    assert [sample["links"] for sample in watch(box).gpus()] == [{}, {}]


# Whatever fails


def entry_points() -> list[str]:
    """Every NVML function that the reader calls, from its source."""
    text = "".join(Path(str(module.__file__)).read_text() for module in (gpus, nvml, connections, health))
    lists = {f"nvmlDeviceGet{kind}RunningProcesses" for kind in ("Compute", "MPSCompute", "Graphics")}
    return sorted({"nvmlInit", "nvmlDeviceGetCount", *re.findall(r'"(nvml\w+)"', text)} | lists)


TRUE_FIGURES = {"total_bytes": 24 * GIB, "free_bytes": 24 * GIB - 512 * MIB - 6 * GIB, "utilization_percent": 37}
NVLINKS = 102  # two links
TRUE_PROCESSES = [(1, 2 * GIB, False), (2, 3 * GIB, False), (3, GIB, True)]


# Who only draws may be; an MPS client only where the driver has no such list at all.
MAY_BE_MISSING = {
    ("nvmlDeviceGetGraphicsRunningProcesses", True): {TRUE_PROCESSES[2]},
    ("nvmlDeviceGetGraphicsRunningProcesses", False): {TRUE_PROCESSES[2]},
    ("nvmlDeviceGetMPSComputeRunningProcesses", True): {TRUE_PROCESSES[1]},
}


def complaint(look: Seen, function: str, never: bool = False) -> str | None:
    """What is wrong with a look in which `function` failed for GPU 1; `never`: as one that was never told fails."""
    if look["fault"] is not None:
        return None if all(sample["fault"] for sample in look["samples"]) else "a GPU without a fault and no driver"
    if len(look["samples"]) != 2:
        return "a GPU is missing"  # but for one forbidden to us, which has a test of its own
    for sample in look["samples"]:
        if sample["fault"] is not None:
            if any(sample[figure] is not None for figure in TRUE_FIGURES) or sample["processes"] is not None:
                return "figures beside a fault"
            continue
        for figure, truth in TRUE_FIGURES.items():
            if sample[figure] not in (truth, None):
                return f"{figure} is {sample[figure]}"
        if sample["compute_mode"] != "exclusive process" and not (never and function == "nvmlDeviceGetComputeMode"):
            return f"compute mode is {sample['compute_mode']}"
        if sample["is_mig"] or sample["numa_node"] not in (1, None):
            return f"MIG is {sample['is_mig']}, the NUMA node {sample['numa_node']}"
        if any(uuid != uuid_of(1 - sample["index"]) or level > NVLINKS for uuid, level in sample["links"].items()):
            return f"links are {sample['links']}"
        if sample["processes"] is None:
            if never and function == "nvmlDeviceGetComputeRunningProcesses":
                continue
            return "no processes, and no fault"
        named = [(process["pid"], process["bytes"], process["graphics"]) for process in sample["processes"]]
        missing = [process for process in TRUE_PROCESSES if process not in named]
        if set(named) - set(TRUE_PROCESSES) or not set(missing) <= MAY_BE_MISSING.get((function, never), set()):
            return f"processes are {named}"
    return None if look["samples"][0]["fault"] is None else "the other GPU has a fault"


@pytest.mark.parametrize("function", entry_points())
def test_an_entry_point_that_fails_makes_nothing_up(make_box: MakeBox, watch: Watch, function: str) -> None:
    processes = [Process(1, 2 * GIB), Process(2, 3 * GIB, "mps"), Process(3, GIB, "graphics")]
    box = make_box(*[Gpu(processes=processes, utilization=37, compute_mode=EXCLUSIVE_PROCESS, numa=1)] * 2)
    box.nvlinks = [(0, 1, 2)]
    of_driver = not function.startswith("nvmlDevice") or function == "nvmlDeviceGetCount"
    where = "*" if of_driver else 1
    probe = watch(box)
    wrong = {}
    for code in [*range(1, 31), ERROR_UNKNOWN, 4321]:
        for moment in ("from the start", "later"):
            if (function, code, moment) == ("nvmlDeviceGetHandleByIndex", NO_PERMISSION, "from the start"):
                continue
            probe.tell("new")
            box.mend()
            if moment == "later":
                assert complaint(probe.look(), function) is None
            box.fail(function, code, where)
            found = complaint(probe.look(), function, never=moment == "from the start" and code in SILENT)
            if found:
                wrong[code, moment] = found
    assert not wrong


MIG_FUNCTIONS = (
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetMaxMigDeviceCount",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetComputeRunningProcesses",
)


@pytest.mark.parametrize("function", MIG_FUNCTIONS)
def test_a_divided_gpu_is_never_offered_whole_whatever_fails(make_box: MakeBox, watch: Watch, function: str) -> None:
    box = make_box(Gpu(mig=[Instance("MIG-a", processes=[Process(7, GIB)]), Instance("MIG-b")]), Gpu())
    probe = watch(box)
    wrong = {}
    for code in [*range(1, 31), ERROR_UNKNOWN]:
        for moment in ("from the start", "later"):
            never = moment == "from the start" and code in SILENT
            if never and function == "nvmlDeviceGetMigMode":
                continue  # as a driver that knows no MIG
            probe.tell("new")
            box.mend()
            if moment == "later":
                probe.look()
            for where in (0, "0:0", "0:1"):
                box.fail(function, code, where)
            for sample in probe.look()["samples"]:
                if sample["fault"] is None and (sample["uuid"] == uuid_of(0) or sample["total_bytes"] == 0):
                    wrong[code, moment] = sample
                untold = never and "Processes" in function and sample["processes"] is None
                if sample["uuid"] == "MIG-a" and sample["fault"] is None and not sample["processes"] and not untold:
                    wrong[code, moment] = sample
    assert not wrong
