"""How far a sweep is: `ls` and `why` say it, and `again --failed` runs what failed once more."""

from pathlib import Path

from waiting import wait_until
from world import World

# Rows end when the test has them end; the fourth fails.
ROW = 'until [ -e "$END-$GPURUN_INDEX" ] || [ -e "$END-all" ]; do sleep 0.05; done; [ $GPURUN_INDEX != 4 ]'


def begin(world: World, tmp_path: Path) -> None:
    done = world.run("-d", "-g", "1", "--array", "1-6", "--", "sh", "-c", ROW, env={**world.env, "END": str(tmp_path / "end")})
    assert done.returncode == 0, done.stderr


def end(tmp_path: Path, *which: object) -> None:
    for each in which:
        (tmp_path / f"end-{each}").touch()


def test_ls_and_why_say_how_far_a_sweep_is_and_again_runs_what_failed(world: World, tmp_path: Path) -> None:
    begin(world, tmp_path)
    end(tmp_path, 1, 2, 4)
    wait_until(lambda: [world.state(number) for number in (1, 2, 4)] == ["ended"] * 3, "three rows to have ended")
    wait_until(lambda: world.run("ls").stdout.count("running") == 2, "two others to run")
    listed = world.run("ls").stdout
    assert listed.count("3 of 6 done, 1 failed, 2 run, about 0 s left") == 1
    told = world.run("why", "6").stdout
    assert "sweep-1: 3 of 6 done, 1 failed, 2 run, about 0 s left." in told.splitlines()
    end(tmp_path, "all")
    wait_until(lambda: world.run("ls").stdout == "no jobs on simulated GPUs (2x24G)\n", "all to have ended")
    again = world.run("again", "--failed", "sweep-1", env={**world.env, "END": str(tmp_path / "end")})
    assert again.stdout == "7\n"
    wait_until(lambda: world.state(7) == "ended", "the row to have run again")
    row = world.rows("SELECT * FROM job WHERE id = 7")[0]
    assert row["argv"].startswith(b"sh\0-c\0")
    assert (row["result_kind"], row["result_code"]) == ("exit", 1), "it was given its GPURUN_INDEX once more"


def test_again_of_what_has_not_failed_runs_nothing(world: World) -> None:
    world.run("-N", "well", "true")
    wait_until(lambda: world.state(1) == "ended", "it to have ended")
    done = world.run("again", "--failed", "well")
    assert (done.returncode, done.stderr) == (0, "gpurun: again: none of these has failed\n")
    assert len(world.rows("SELECT id FROM job")) == 1
