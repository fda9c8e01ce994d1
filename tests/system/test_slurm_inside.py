"""gpurun inside an allocation of a real Slurm, in the shell of salloc, and where SLURM_JOB_ID is left over."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster import Cluster
from standin import Gpu
from truth import Machine
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]
MakeMachine = Callable[..., Machine]


@pytest.fixture
def make_machine(tmp_path: Path, make_world: MakeWorld) -> MakeMachine:
    return lambda *gpus: Machine(tmp_path, make_world, *gpus)


@pytest.fixture
def inside(cluster: Cluster, make_world: MakeWorld) -> World:
    """A world of simulated GPUs in which Slurm can be spoken to, and jobs of Slurm's can be started."""
    return make_world("2x24G", **cluster.env)


def srun(world: World, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["srun", "-Q", *words], env=world.env | variables, capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def folders(world: World) -> set[str]:
    return {path.name.partition("-sim-")[0].partition("-slurm")[2] for path in world.directory.iterdir() if path.is_dir()}


def test_each_job_and_machine_has_a_line_of_its_own(inside: World) -> None:
    says = "echo $SLURM_JOB_ID.$SLURMD_NODENAME.0"
    done = srun(inside, "-N2", "--ntasks-per-node=1", "--gres=gpu:1", inside.command, "sh", "-c", says)
    assert done.returncode == 0, done.stderr
    assert folders(inside) == set(done.stdout.split())
    assert len(folders(inside)) == 2
    assert done.stderr == ""


COUNT = """
import os, sys, time
folder = sys.argv[1]
mine = os.path.join(folder, os.environ["SLURM_PROCID"])
open(mine, "w").close()
print(len(os.listdir(folder)), flush=True)
time.sleep(0.2)
os.unlink(mine)
"""


def test_tasks_of_a_step_take_turns_on_its_gpus(inside: World, tmp_path: Path) -> None:
    """Four tasks want both GPUs each: never are two of them there at once."""
    (tmp_path / "there").mkdir()
    (tmp_path / "count.py").write_text(COUNT)
    done = srun(inside, "-N1", "-n4", "--gres=gpu:2", inside.command, "-q", "-g", "2", "python3", str(tmp_path / "count.py"),
                str(tmp_path / "there"))  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n" * 4), done.stderr
    assert len(folders(inside)) == 1


def test_steps_with_other_gpus_have_other_lines(inside: World) -> None:
    done = srun(inside, "-N1", "-n2", "--gres=gpu:2", "--gpu-bind=single:1", inside.command, "true")
    assert done.returncode == 0, done.stderr
    assert {name.rpartition(".")[2] for name in folders(inside)} == {"0", "1"}


def test_inside_neither_setting_nor_variable_hands_anything_to_slurm(inside: World, cluster: Cluster) -> None:
    world = inside
    words = (world.command, "-g", "0", "sh", "-c", "echo $SLURM_JOB_ID")
    done = srun(world, "-N1", "-n1", "--gres=gpu:1", *words, GPURUN_ON="slurm")
    assert done.returncode == 0, done.stderr
    assert folders(world) == {f"{done.stdout.strip()}.n1.0"}


def test_what_slurm_gave_no_gpu_gets_none(cluster: Cluster, make_machine: MakeMachine) -> None:
    """Slurm leaves CUDA_VISIBLE_DEVICES out, which means all GPUs to CUDA."""
    world = make_machine(Gpu(), Gpu()).world
    world.env |= cluster.env
    done = srun(world, "-N1", "-n1", world.command, "true")
    assert done.returncode == 125
    assert "no GPU to be had: this step of Slurm has none" in done.stderr
    done = srun(world, "-N1", "-n1", world.command, "-g", "0", "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    done = srun(world, "-N1", "-n1", "--gres=gpu:1", world.command, "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]")
    assert (done.returncode, done.stdout) == (0, "[0]\n"), done.stderr


def test_in_the_shell_of_salloc_the_line_is_this_machines(cluster: Cluster, make_machine: MakeMachine) -> None:
    world = make_machine(Gpu()).world
    world.env |= cluster.env
    done = subprocess.run(
        ["salloc", "-Q", "--gres=gpu:1", world.command, "sh", "-c", "echo [$CUDA_VISIBLE_DEVICES]"], env=world.env,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[0]\n"), done.stderr
    assert done.stderr.count("has its GPUs on n1, not here, in the shell of salloc") == 1
    assert folders(world) == {""}


def test_a_number_that_is_left_over_counts_for_nothing_and_is_said_once(cluster: Cluster, make_machine: MakeMachine) -> None:
    world = make_machine(Gpu()).world
    stale = {**cluster.env, "SLURM_JOB_ID": "999999", "SLURMD_NODENAME": "n1", "SLURM_JOB_GPUS": "0"}
    done = world.run("true", extra=stale)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == [
        "gpurun: SLURM_JOB_ID=999999 is left over from a job of Slurm's that has ended: this is the line of this machine"
    ]
    assert world.run("-q", "true", extra=stale).stderr == ""
    assert world.run("ls", extra=stale).stderr == ""
    assert folders(world) == {""}


def test_a_number_of_a_job_that_runs_elsewhere_is_left_over_too(cluster: Cluster, make_machine: MakeMachine) -> None:
    world = make_machine(Gpu()).world
    job = cluster.run("sbatch", "--parsable", "-w", "n2", "-o", "/dev/null", "--wrap=exec sleep 600").strip()
    wait_until(lambda: cluster.states() == {job: "RUNNING"}, "the job to run")
    done = world.run("true", extra={**cluster.env, "SLURM_JOB_ID": job, "SLURMD_NODENAME": "n1"})
    assert f"SLURM_JOB_ID={job}: that job of Slurm's runs on n2: this is the line of this machine" in done.stderr


def test_where_slurm_cannot_be_asked_the_variable_is_believed(make_world: MakeWorld, tmp_path: Path) -> None:
    """In a container of a job there are no commands of Slurm's, and no slurmstepd to be seen."""
    for tool in ("sh", "true", "sleep"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}")
    world = make_world("1x24G", SLURM_JOB_ID="77", SLURMD_NODENAME="n1", SLURM_JOB_GPUS="0,1", PATH=str(tmp_path))
    done = world.run("true")
    assert (done.returncode, done.stderr) == (0, "")
    assert folders(world) == {"77.n1.0,1"}


def test_asked_for_by_name_it_is_a_new_job(inside: World, cluster: Cluster) -> None:
    """srun inside a step would wait for its own step."""
    world = inside
    done = srun(world, "-N1", "-n1", "--gres=gpu:1", world.command, "--on", "slurm", "sh", "-c", "echo $SLURM_JOB_ID")
    assert done.returncode == 0, done.stderr
    outer = next(iter(cluster.states()), None)
    assert done.stdout.strip().isdigit()
    assert done.stdout.strip() != outer

