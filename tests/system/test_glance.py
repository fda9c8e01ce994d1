"""A list of jobs that can be acted on as it stands."""

from waiting import wait_until
from world import World


def test_a_row_of_alike_jobs_is_killed_as_it_stands_and_no_other(world: World) -> None:
    for number, gpu in enumerate("0100", 1):
        world.start("-m", "5G", "-i", gpu, "sleep", "600")
        wait_until(lambda: world.state(number) == "running", "the job to run")  # noqa: B023
    rows = [line.split()[:4] for line in world.run("ls").stdout.splitlines()[1:]]
    assert rows == [["1,3-4", "running", "0", "0"], ["2", "running", "0", "1"]]
    assert world.run("kill", rows[0][0]).returncode == 0
    wait_until(lambda: [job["state"] for job in world.jobs()] == ["ended", "running", "ended", "ended"], "three to end")
    shown = world.run("history", "1,3-4").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["JOB", "1", "3", "4"]


def test_of_a_list_each_part_that_is_no_job_is_named(world: World) -> None:
    world.run("true")
    world.start("sleep", "600")
    wait_until(lambda: world.state(2) == "running", "job 2 to run")
    done = world.run("renice", "high", "1-2,7,9-10")
    assert done.returncode == 1
    assert done.stdout.startswith("job 2: priority 0 → 10")
    assert done.stderr == (
        "gpurun: renice: job 7: no such job\ngpurun: renice: job 9-10: no such job\nusage: gpurun renice PRIORITY JOB... "
        "(or: renice --by N JOB...)\n"
    )


def test_a_name_is_no_list_of_numbers(world: World) -> None:
    done = world.run("-N", "1,3-4", "true")
    assert done.returncode == 125
    assert done.stderr == "gpurun: name 1,3-4: a name cannot be a list of numbers: it means these jobs\n"
