"""Jobs after others (-a): order, success, failures said, and nobody who waits for himself."""

import subprocess
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from world import World


def gate(world: World, tmp_path: Path, status: int = 0, *options: str) -> tuple["subprocess.Popen[str]", Path]:
    """A running job that ends with a status once a file is there."""
    path = tmp_path / "gate"
    script = f"while ! [ -e {path} ]; do sleep 0.05; done; exit {status}"
    child = world.start(*options, "-m", "1G", "sh", "-c", script)
    wait_until(lambda: "running" in world.states(), "the first job to run")
    return child, path


def test_a_job_starts_when_the_others_have_ended_though_gpus_are_free(world: World, tmp_path: Path) -> None:
    first, path = gate(world, tmp_path, 3)
    after = world.start("-a", "1", "-m", "1G", "echo", "after")
    wait_until(lambda: world.state(2) == "waiting", "the second to wait")
    why = world.job(2)["why"]
    assert why["rule"] == "after"
    assert why["text"].startswith("job 1 (sh -c")
    assert why["text"].endswith("so far) to end")
    told = world.run("why", "2").stdout
    assert "waits: it starts after others, as it was asked to (--after)" in told
    assert "job 1" in told
    assert world.run("-n", "true").returncode == 0  # it keeps nothing from anybody
    assert after.poll() is None
    path.touch()
    assert first.wait(30) == 3
    assert after.communicate(timeout=10)[0] == "after\n"
    assert world.job(2)["started_at"] >= world.job(1)["ended_at"]


def test_ok_starts_after_success_and_is_cancelled_after_a_failure_down_the_line(world: World, tmp_path: Path) -> None:
    good, path = gate(world, tmp_path)
    glad = world.start("-a", "ok:1", "true")
    wait_until(lambda: world.state(2) == "waiting", "the second to wait")
    path.touch()
    assert (good.wait(30), glad.wait(10)) == (0, 0)
    path.unlink()
    bad, path = gate(world, tmp_path, 3, "-N", "bad")
    second = world.start("-a", "ok:bad", "true")
    wait_until(lambda: world.state(4) == "waiting", "the second to wait")
    third = world.start("-a", "any:4,ok:4", "true")
    wait_until(lambda: world.state(5) == "waiting", "the third to wait")
    path.touch()
    assert bad.wait(30) == 3
    assert second.wait(30) == third.wait(10) == 125
    assert second.stderr is not None
    assert second.stderr.read() == "gpurun: job 4: cancelled: job 3 failed (exit 3)\n"
    assert third.stderr is not None
    assert third.stderr.read() == "gpurun: job 5: cancelled: job 4 did not succeed (job 3 failed (exit 3))\n"
    assert world.job(4)["result"]["kind"] == "cancelled"
    # The failure is known already: refused at once, without a row.
    done = world.run("-a", "ok:3", "true")
    assert (done.returncode, done.stderr) == (125, "gpurun: job 3 failed (exit 3)\n")
    assert len(world.jobs()) == 5
    assert world.run("-a", "3", "true").returncode == 0


def test_it_is_known_to_the_next_arbiter(world: World, tmp_path: Path) -> None:
    first, path = gate(world, tmp_path, 4)
    after = []
    for number, text in ((2, "1"), (3, "ok:1")):
        after.append(world.start("-a", text, "true"))
        wait_until(lambda: world.state(number) == "waiting", "it to wait")  # noqa: B023
    pids = [world.keeper_pid(), world.arbiter_pid()]
    path.touch()
    for pid in pids:
        assert pid is not None
        psutil.Process(pid).kill()
    assert first.wait(30) == 4
    ended = [(child.wait(30), child.communicate()[1]) for child in after]
    assert ended[0] == (0, "")
    # Nobody of ours lived to see the status, except where the kernel keeps it.
    assert (ended[1][0], ended[1][1].partition(": job 1 ")[0]) == (125, "gpurun: job 3: cancelled")


@pytest.mark.parametrize("text", ["nobody", "1-", "-3"])
def test_who_is_nobody_cannot_be_waited_for(world: World, text: str) -> None:
    world.run("true")
    done = world.run(f"--after={text}", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"gpurun: after {text}: no such job\n"


def test_a_job_inside_another_cannot_wait_for_it(world: World) -> None:
    done = world.run("sh", "-c", f"{world.command} -a $GPURUN_JOB true")
    assert done.returncode == 125
    assert "it runs inside job 1, which would wait for it" in done.stderr


def test_a_job_without_gpus_waits_too_and_a_wait_limit_holds(world: World, tmp_path: Path) -> None:
    first, path = gate(world, tmp_path)
    note = world.start("-g", "0", "-a", "1", "echo", "told")
    assert world.run("-w", "1s", "-a", "1", "true").returncode == 124
    assert "would wait for job 1" in world.run("--dry-run", "-a", "1", "true").stdout
    assert note.poll() is None
    path.touch()
    assert first.wait(30) == 0
    assert note.communicate(timeout=10)[0] == "told\n"


def end_arbiters(world: World) -> None:
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()


def test_what_is_awaited_is_not_forgotten(world: World, tmp_path: Path) -> None:
    (world.directory / "settings.toml").write_text("keep_history = 1\n")
    assert world.run("-m", "1G", "true").returncode == 0
    second, path = gate(world, tmp_path)
    third = world.start("-a", "ok:1,2", "true")
    wait_until(lambda: world.state(3) == "waiting", "it to wait")
    for _ in range(3):
        assert world.run("-m", "1G", "true").returncode == 0
    end_arbiters(world)
    assert world.run("ls").returncode == 0
    wait_until(lambda: not world.rows("SELECT 1 FROM job WHERE id = 5"), "those beyond the latest to be forgotten", 15)
    path.touch()
    assert [child.wait(30) for child in (second, third)] == [0, 0]


def test_a_stub_killed_while_it_waits_for_another_has_failed_and_never_starts(world: World, tmp_path: Path) -> None:
    first, path = gate(world, tmp_path)
    ran = tmp_path / "ran"
    assert world.run("-d", "-a", "ok:1", "touch", ran).stdout == "2\n"
    last = world.start("-a", "ok:2", "true")
    wait_until(lambda: world.state(3) == "waiting", "all to wait")
    psutil.Process(world.rows("SELECT pid FROM job WHERE id = 2")[0]["pid"]).kill()
    assert last.wait(30) == 125
    assert world.state(2) == "ended"
    path.touch()
    assert first.wait(30) == 0
    assert world.run("-w", "5s", "-g", "2", "true").returncode == 0
    assert not ran.exists()
