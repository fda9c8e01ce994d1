"""Which GPU a job gets and is told: MIG, links, inherited choices, what containers hide, and what other tools say."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import GIB, MIB, NO_PERMISSION, Gpu, Instance, Process
from truth import Machine, Seen
from waiting import wait_until
from world import World

MakeMachine = Callable[..., Machine]
SHOW = "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER $GPURUN_GPU_UUIDS"


@pytest.fixture
def make_machine(tmp_path: Path, make_world: Callable[..., World]) -> MakeMachine:
    return lambda *gpus, settings="": Machine(tmp_path, make_world, *gpus, settings=settings)


def shown(machine: Machine, *options: str, **popen: object) -> list[str]:
    done = machine.world.run(*options, "--", "sh", "-c", SHOW, **popen)
    assert done.returncode == 0, done.stderr
    return str(done.stdout).split()


def test_a_box_with_one_divided_gpu_offers_three_gpus_and_seven_instances(make_machine: MakeMachine) -> None:
    instances = [Instance(f"MIG-{uuid.uuid4()}", total=10 * GIB) for _ in range(7)]
    machine = make_machine(Gpu(), Gpu(), Gpu(mig=instances, uuid=f"GPU-{uuid.uuid4()}"), Gpu())
    gpus = json.loads(machine.text("gpus", "--json"))["gpus"]
    assert sorted(gpu["index"] for gpu in gpus) == [0, 1, 3, *range(4, 11)]
    assert {instance.uuid for instance in instances} < {gpu["uuid"] for gpu in gpus}
    visible, order, uuids = shown(machine, "-i", "MIG")
    assert (visible, order) == (uuids, "PCI_BUS_ID")
    assert visible in {instance.uuid for instance in instances}
    visible, _, uuids = shown(machine, "-m", "12G")  # no instance has that much
    assert visible in ("0", "1", "3")
    assert uuids.startswith("GPU-")
    # Each instance holds one job, all at once.
    jobs = [machine.start("-i", "MIG", "--", "sleep", "1000") for _ in range(7)]
    wait_until(lambda: [job["state"] for job in machine.jobs()] == ["running"] * 7, "all instances to be used", 30)
    assert len({job["devices"][0]["uuid"] for job in machine.jobs()}) == 7
    eighth = machine.start("-i", "MIG", "--", "true")
    machine.why(eighth, "busy")
    machine.end(jobs[3].pid)
    assert eighth.wait(30) == 0


def test_wide_jobs_get_whole_gpus_and_never_instances(make_machine: MakeMachine) -> None:
    """A program sees one instance and nothing beside it."""
    instances = [Instance(f"MIG-{uuid.uuid4()}") for _ in range(7)]
    machine = make_machine(Gpu(), Gpu(), Gpu(mig=instances, uuid=f"GPU-{uuid.uuid4()}"), Gpu())
    assert shown(machine, "-g", "all")[0] == "0,1,3"
    assert shown(machine, "-g", "3")[0] == "0,1,3"
    assert shown(machine, "-g", "all", "-i", "MIG")[0].startswith("MIG-")
    done = machine.world.run("-g", "4", "--", "true")
    assert done.returncode == 125
    assert "needs 4 GPUs, but only 3 may be used: of 7 MIG instances a program sees one alone" in done.stderr
    holder = machine.run_job("-g", "2", "sleep", "1000")
    wide = machine.start("-g", "2", "--", "true")
    assert "job 4" in machine.why(wide, "busy")
    assert shown(machine, "-m", "1G")[0].startswith("MIG-")
    machine.end(holder.pid)
    assert wide.wait(30) == 0


def test_half_of_a_box_of_eight_is_one_island_of_links(make_machine: MakeMachine) -> None:
    machine = make_machine(*[Gpu(name="NVIDIA H100 80GB HBM3", numa=index % 2) for index in range(8)])
    islands = ((0, 2, 5, 7), (1, 3, 4, 6))
    machine.box.nvlinks = [(a, b, 6) for island in islands for a in island for b in island if a < b]
    machine.box.write()
    assert shown(machine, "-g", "4")[0] in ("0,2,5,7", "1,3,4,6")
    first = machine.run_job("-g", "4", "sleep", "1000")
    taken = {each["index"] for each in machine.job_of(first)["devices"]}
    assert set(map(int, shown(machine, "-g", "4")[0].split(","))) == set(range(8)) - taken


@pytest.mark.parametrize(
    ("options", "visible", "expected"), [(("-g", "all"), "", "0,1"), (("-i", "1"), "", "1"), ((), "1", "1")]
)
def test_while_the_driver_is_opened_what_depends_on_it_waits(
    make_machine: MakeMachine, options: tuple[str, ...], visible: str, expected: str
) -> None:
    machine = make_machine(Gpu(), Gpu())
    machine.box.hang("nvmlInit", 30)
    extra = {"CUDA_VISIBLE_DEVICES": visible}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    child = machine.start("-v", *options, "--", "sh", "-c", SHOW, extra=extra, **pipes)
    assert child.stderr.readline() == "gpurun: waits for a GPU: the NVIDIA driver is being opened\n"
    done = machine.world.run("-n", *options, "--", "true", extra=extra)
    assert done.returncode == 124
    plain = machine.start("--", "true")  # it is in line already
    assert "the NVIDIA driver is being opened" in machine.why(plain)
    machine.box.mend()
    assert child.communicate(timeout=20)[0].split()[0] == expected
    assert child.returncode == 0
    assert plain.wait(30) == 0


def test_wide_jobs_get_linked_gpus_and_gpus_shows_the_links(make_machine: MakeMachine) -> None:
    machine = make_machine(*[Gpu(numa=index // 4) for index in range(8)])
    # Pairs 1-6 and 2-5 are linked by more than the rest.
    machine.box.nvlinks = [(1, 6, 4), (2, 5, 4), (0, 1, 2)]
    machine.box.write()
    assert shown(machine, "-g", "2")[0] in ("1,6", "2,5")
    text = machine.gpus_text()
    assert "NVLink to GPU 6" in text or "NVLink to GPUs 0 and 6" in text
    assert "free" in text


def test_an_inherited_choice_limits_and_is_said_once(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(), Gpu(), Gpu(), Gpu())
    uuids = [gpu["uuid"] for gpu in json.loads(machine.text("gpus", "--json"))["gpus"]]
    for visible, expected in (("2", "2"), ("3,2", "2"), (uuids[3], "3"), (uuids[1][:12], "1"), ("", "0"), ("NoDevFiles", "0")):
        done = machine.world.run("--", "sh", "-c", SHOW, extra={"CUDA_VISIBLE_DEVICES": visible})
        if visible == uuids[1][:12] and sum(one.startswith(visible) for one in uuids) > 1:
            continue
        assert done.stdout.split()[0] == expected, (visible, done.stderr)
        said = "CUDA_VISIBLE_DEVICES lists 2 GPUs, the job gets 1 of them" in done.stderr
        assert said == ("," in visible), (visible, done.stderr)
    quiet = machine.world.run("-q", "--", "true", extra={"CUDA_VISIBLE_DEVICES": "0,1"})
    assert quiet.stderr == ""
    inner = machine.world.run("-g", "2", "--", machine.world.command, "true")
    assert inner.stderr == ""
    for visible, says in (("0,-1,1", ""), ("1,0,1", "lists 2 GPUs, the job gets 1"), (f"{uuids[1]},junk", "")):
        done = machine.world.run("--", "true", extra={"CUDA_VISIBLE_DEVICES": visible})
        assert (done.returncode, says in done.stderr, bool(done.stderr)) == (0, True, bool(says)), (visible, done.stderr)
    done = machine.world.run("--", "true", extra={"CUDA_VISIBLE_DEVICES": "9"})
    assert done.returncode == 125
    assert "no such GPU" in done.stderr


BLOCK = "import gpuwrap\nwith gpuwrap.gpu():\n    print('granted')"


STEP = {"CUDA_VISIBLE_DEVICES": "NoDevFiles", "SLURM_JOB_ID": "77", "SLURMD_NODENAME": "n1"}


def test_a_step_of_slurm_without_gpus_gets_none(make_machine: MakeMachine) -> None:
    """There NoDevFiles is Slurm's own word; in a profile, outside, it says nothing."""
    world, step = make_machine().world, STEP
    says = "no GPU to be had: this step of Slurm has none (CUDA_VISIBLE_DEVICES=NoDevFiles)\n"
    for words in (["true"], ["-d", "true"], ["--dry-run", "true"], ["--array", "1-3", "true"], ["-r", "-m", "1G", "true"]):
        done = world.run(*words, extra=step)
        assert (done.returncode, done.stdout) == (125, ""), words
        assert says in done.stderr
        assert "srun --gres=gpu:1" in done.stderr
    block = subprocess.run([sys.executable, "-c", BLOCK], env=world.env | step, capture_output=True, text=True, timeout=60)
    assert (block.returncode, block.stdout) == (1, "")
    assert says in block.stderr
    without = world.run("-g", "0", "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]", extra=step)
    assert (without.returncode, without.stdout) == (0, "[]\n"), without.stderr
    assert world.run("set", "-p", "5", "9", extra=step).returncode == 1  # there is no such job: nothing else is wrong


def test_what_needs_no_gpu_of_slurm_runs_in_a_step_without(make_world: Callable[..., World]) -> None:
    """Simulated GPUs, and where jobs shall run without a driver."""
    without_driver = make_world(None)
    (without_driver.directory / "settings.toml").write_text('without_gpu = "run"\n')
    for words, says in ((["--sim", "1x24G"], "0\n"), ([], "\n")):
        done = without_driver.run(*words, "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", extra=STEP)
        assert (done.returncode, done.stdout) == (0, says), done.stderr


@pytest.mark.parametrize("visible", ["0", "0,1", "7"])
def test_a_job_without_gpus_does_not_mind_which_it_inherited(world: World, visible: str) -> None:
    """As inside every job: what is started there by `gpurun -g 0` has the outer one's choice in its environment."""
    done = world.run("-g", "0", "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]", extra={"CUDA_VISIBLE_DEVICES": visible})
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_in_a_slurm_job_its_gpus_are_numbered_as_cuda_does(make_machine: MakeMachine) -> None:
    """Its cgroup has GPUs 2 and 3; Slurm numbers these from 0, or names them by UUID."""
    machine = make_machine(Gpu(), Gpu(), Gpu(), Gpu())
    for index in (0, 1):
        machine.box.fail("nvmlDeviceGetHandleByIndex", NO_PERMISSION, index)
    uuids = [str(gpu.uuid) for gpu in machine.box.gpus]
    slurm = {"SLURM_JOB_ID": "77", "SLURMD_NODENAME": "n1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for visible, expected in (("0", (0, 2)), ("1", (1, 3)), (uuids[3], (1, 3)), ("", (0, 2))):
        index, uuid_index = expected
        given = shown(machine, extra={**slurm, "CUDA_VISIBLE_DEVICES": visible})
        assert given == [str(index), "PCI_BUS_ID", uuids[uuid_index]], visible
    assert shown(machine, "-g", "all", extra={**slurm, "CUDA_VISIBLE_DEVICES": "0,1"})[0] == "0,1"
    done = machine.world.run("--", "true", extra={**slurm, "CUDA_VISIBLE_DEVICES": uuids[0]})
    assert done.returncode == 125  # it is not ours


def test_an_inherited_index_may_mean_another_gpu_on_unlike_cards_and_this_is_said_once(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(name="Tesla T4"), Gpu(name="NVIDIA A100"))
    uuids = [gpu["uuid"] for gpu in json.loads(machine.text("gpus", "--json"))["gpus"]]
    doubt = "CUDA_VISIBLE_DEVICES 0 is taken as GPU 0 of nvidia-smi (Tesla T4): CUDA counts the fastest first"
    for visible, order, doubtful in (("0", "", True), ("0", "PCI_BUS_ID", False), (uuids[0], "", False)):
        extra = {"CUDA_VISIBLE_DEVICES": visible} | ({"CUDA_DEVICE_ORDER": order} if order else {})
        done = machine.world.run("--", "sh", "-c", SHOW, extra=extra)
        assert done.stdout.split()[0] == "0"
        assert done.stderr.count(doubt) == doubtful, done.stderr


def test_gpus_are_named_by_globs_of_their_uuid_too(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(name="NVIDIA A100"), Gpu(name="NVIDIA H100"))
    uuids = [gpu["uuid"] for gpu in json.loads(machine.text("gpus", "--json"))["gpus"]]
    for word, expected in (("GPU-*", "0"), (f"{uuids[1][4:12]}*", "1"), (f"*{uuids[1][-6:]}", "1"), ("*h100", "1")):
        assert shown(machine, "-i", word)[0] == expected, word


NVITOP = """
import json
from nvitop import Device
print(json.dumps([
    {"index": one.index, "uuid": one.uuid(), "name": one.name(), "total": one.memory_total(), "free": one.memory_free(),
     "processes": {str(pid): process.gpu_memory() for pid, process in one.processes().items()}}
    for one in Device.all()
]))
"""


def test_other_tools_agree(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(utilization=37), Gpu(name="Tesla T4", total=16 * GIB))
    pid = machine.stranger(3 * GIB)
    environment = {**machine.world.env, "PATH": "/usr/bin:/bin"}
    mine: list[Seen] = json.loads(machine.text("gpus", "--json"))["gpus"]
    pytest.importorskip("nvitop")
    done = subprocess.run([sys.executable, "-c", NVITOP], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    for one, other in zip(mine, theirs, strict=True):
        assert (one["index"], one["uuid"], one["name"]) == (other["index"], other["uuid"], other["name"])
        assert (one["total_bytes"], one["free_bytes"]) == (other["total"], other["free"])
        assert {str(each["pid"]): each["bytes"] for each in one["foreign"]} == other["processes"]
    pytest.importorskip("gpustat")
    words = [sys.executable, "-m", "gpustat", "--json"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for one, other in zip(mine, json.loads(done.stdout)["gpus"], strict=True):
        assert (one["index"], one["uuid"], one["name"]) == (other["index"], other["uuid"], other["name"])
        assert one["total_bytes"] == other["memory.total"] * MIB
        assert [(each["pid"], each["bytes"]) for each in one["foreign"]] == [
            (each["pid"], each["gpu_memory_usage"] * MIB) for each in other["processes"]
        ]
        assert [each["user"] for each in one["foreign"]] == [each["username"] for each in other["processes"]]
    assert mine[0]["foreign"][0]["pid"] == pid


@pytest.mark.needs("unshare")
def test_in_a_container_pids_of_the_machine_leave_the_totals(make_machine: MakeMachine) -> None:
    machine = make_machine(Gpu(), Gpu())
    words = ("unshare", "--pid", "--fork", "--mount-proc")
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no pid namespace can be made here")
    run = machine.world.command
    machine.box.set(0, processes=[Process(4_000_000, 6 * GIB)])  # a pid of the machine
    script = f"{run} gpus --json; {run} doctor; {run} -i 1 true && {run} -i 0 -m 8G true && {run} -n -i 0 true; echo status $?"
    done = subprocess.run([*words, "sh", "-c", script], env=machine.world.env, capture_output=True, text=True, timeout=60)
    first = json.loads(done.stdout.splitlines()[0])["gpus"][0]
    assert (first["foreign"], first["state"]) == ([], "unknown"), done.stderr
    assert "the driver names processes that cannot be seen from this container" in done.stdout
    assert "status 124" in done.stdout  # whole: 6G are somebody's; shared: there is room
