"""A list of jobs that can be acted on as it stands."""

from collections.abc import Callable
from pathlib import Path

import pytest
from screens import expect
from terminal import Terminal
from waiting import wait_until
from world import World


def test_a_row_of_alike_jobs_is_killed_as_it_stands_and_no_other(world: World) -> None:
    for number, gpu in enumerate("0100", 1):
        world.start("-m", "5G", "-i", gpu, "sleep", "600")
        wait_until(lambda: world.state(number) == "running", "the job to run")  # noqa: B023
    terminal = Terminal(world, [world.command, "ls"], env={"NO_COLOR": "1"})
    terminal.finish()
    rows = [line.split()[:4] for line in terminal.text().splitlines()[2:]]
    assert rows == [["1,3-4", "running", "0", "0"], ["2", "running", "0", "1"]]
    assert world.run("kill", rows[0][0]).returncode == 0
    wait_until(lambda: world.states() == ["ended", "running", "ended", "ended"], "three to end")
    shown = world.run("history", "1,3-4").stdout.splitlines()
    assert [line.split()[0] for line in shown] == ["JOB", "1", "3", "4"]


@pytest.fixture
def sixty_one(make_world: Callable[..., World], tmp_path: Path) -> World:
    """Situation 31: four run, one is held, one comes after another, one wants a certain GPU, and the others wait."""
    world = make_world("2x80G")
    for name in ("train.py", "t.py"):
        (tmp_path / name).write_text("import time\ntime.sleep(600)\n")
    queued = [
        ["-t", "5h", "-N", "nightly", "python", "train.py"],
        *[["-m", "30G", "python", name] for name in ("train.py", "t.py")],
        ["-p", "9", "-N", "große-Änderung", "python", "train.py"],
        *[["-m", "30G", "-N", f"sweep-lr-{number}", "python", "train.py"] for number in range(1, 12)],
        *[["-N", f"x{number}", "bash", "-c", f"python t.py {number}"] for number in range(1, 20)],
        *[["-p", str(-number), "python", "t.py", "--secs", str(number)] for number in range(1, 26)],
        ["-a", "ok:5", "python", "t.py", "after"],
        ["-i", "1", "python", "t.py", "one"],
    ]
    for number, words in enumerate(queued, 1):
        assert world.run("-d", *words, cwd=tmp_path).stdout == f"{number}\n"
        if number <= 3:
            wait_until(lambda: world.state(number) == "running", "it to run")  # noqa: B023
    assert world.run("pause", "20").returncode == 0
    return world


def listed(world: World, columns: int, lines: int = 40) -> str:
    terminal = Terminal(world, [world.command, "ls"], columns=columns, lines=lines, env={"NO_COLOR": "1"})
    terminal.finish()
    return terminal.text()


def test_a_queue_of_61_is_read_on_one_screen(sixty_one: World) -> None:
    for columns in (60, 80, 120):
        expect(f"glance-61-{columns}", listed(sixty_one, columns))
    told = [line.split()[0] for line in sixty_one.run("ls").stdout.splitlines()[1:]]
    assert len(told) == 61, "in a pipe each job has its line"
    places = {job["id"]: job["place"] for job in sixty_one.jobs(all=False)}
    assert [places[number] for number in (1, 4, 5, 61, 59)] == [None, 1, 2, 33, 58]
    short = listed(sixty_one, 80, 8).splitlines()
    assert short[-1] == "61 jobs: 3 run, 57 wait, 1 held"
    assert short[-2].split()[:2] == ["JOB", "STATE"]


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


def test_a_number_after_a_flag_is_told_with_what_was_meant(world: World) -> None:
    for words, told in (
        (["-n", "4", "true"], "-n takes no number: did you mean -g 4?"),
        (["4", "true"], "4: no program: did you mean -g 4?"),
        (["-J", "x", "true"], "unknown option -J: did you mean -N x?"),
    ):
        done = world.run(*words)
        assert (done.returncode, done.stdout, done.stderr) == (125, "", f"gpurun: {told}\n")


def test_a_program_called_like_a_number_is_run(world: World, tmp_path: Path) -> None:
    (tmp_path / "4").write_text("#!/bin/sh\nexit 5\n")
    (tmp_path / "4").chmod(0o755)
    assert world.run("-n", "4", extra={"PATH": f"{tmp_path}:{world.env['PATH']}"}).returncode == 5


def test_help_is_found_however_it_is_asked_for(world: World) -> None:
    said = world.run("kill", "--help").stdout
    assert [world.run(*words).stdout for words in (("help", "kill"), ("kill", "-h"))] == [said] * 2
    assert world.run("-h").stdout == world.run("help").stdout == world.run("--help").stdout
    assert world.run("help", "all").stdout == world.run("--help", "all").stdout
    assert world.run("-V").stdout == world.run("--version").stdout
    done = world.run("help", "kil")
    assert done.returncode == 2
    assert done.stderr == "gpurun: help: kil: no such verb: did you mean kill?\ngpurun help lists them\n"


@pytest.mark.parametrize("behind", [False, True], ids=["as-a-verb", "behind---"])
def test_a_word_of_other_queues_gets_a_note_where_it_would_wait(world: World, behind: bool) -> None:
    world.start("-g", "all", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    terminal = Terminal(world, [world.command, *(["--"] if behind else []), "tail", "3"])
    shown = terminal.await_text("waits for a GPU")
    assert ("gpurun: tail is taken for the program of that name: gpurun logs shows output" in shown) is not behind


def test_why_explains_each_job_it_is_asked_for(world: World) -> None:
    world.start("-g", "all", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be taken")
    world.start("sleep", "601")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    world.start("sleep", "602")
    wait_until(lambda: world.state(3) == "waiting", "job 3 to wait")
    done = world.run("why", "1-3,99")
    assert [text.split(" (")[0] for text in done.stdout.split("\n\n")] == ["job 1", "job 2", "job 3"]
    assert (done.returncode, done.stderr) == (1, "gpurun: why: job 99: no such job\n")
