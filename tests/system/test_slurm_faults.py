"""What goes wrong with Slurm: its controller down or restarted, munge down, refusals, jobs that vanish or others end."""

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, why_not
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A cluster whose daemons are ended and started; a short timeout, so that nobody waits long for one that is down."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    cluster = Cluster(nodes=1, lines=("MessageTimeout=2", "EnforcePartLimits=ALL", "PriorityType=priority/multifactor"))
    yield cluster
    cluster.close()


@pytest.fixture
def frail(own_cluster: Cluster) -> Iterator[Cluster]:
    """The same, whole again after a test."""
    yield own_cluster
    if "munged" not in own_cluster.daemons:
        own_cluster.start_munge()
    if "slurmctld" not in own_cluster.daemons:
        own_cluster.start_controller()
    own_cluster.empty()


@pytest.fixture
def world(frail: Cluster, make_world: MakeWorld) -> World:
    return make_world(None, **frail.env)


def fill(cluster: Cluster) -> str:
    job = cluster.run("sbatch", "--parsable", "-o", "/dev/null", "--gres=gpu:4", "--wrap=exec sleep 600").strip()
    wait_until(lambda: cluster.states() == {job: "RUNNING"}, "all GPUs to be held")
    return job


def saved(cluster: Cluster) -> Callable[[], bool]:
    """Slurm writes its state down every few seconds: a controller that is killed before has forgotten what was new."""
    path = cluster.folder / "state" / "job_state"
    before = path.stat().st_mtime_ns if path.exists() else 0
    return lambda: path.exists() and path.stat().st_mtime_ns > before


def test_while_the_controller_is_down_a_launch_tries_again_and_runs_when_it_is_back(world: World, frail: Cluster) -> None:
    frail.end("slurmctld")
    front = world.start("--on", "slurm", "sh", "-c", "echo ran; exit 3")
    back = world.start("--on", "slurm", "-d", "sh", "-c", "exit 4")
    for child in (front, back):
        assert child.stderr is not None
        assert child.stderr.readline().startswith("gpurun: Slurm does not answer: ")
        assert child.stderr.readline() == "its jobs go on; sinfo says when it is back\n"
    frail.start_controller()
    assert front.communicate(timeout=60) == ("ran\n", "")
    assert front.returncode == 3
    job = back.communicate(timeout=60)[0].strip()
    assert world.run("wait", job, timeout=60).returncode == 4


def test_while_the_controller_is_down_the_wait_limit_holds_and_verbs_say_so(world: World, frail: Cluster) -> None:
    job = world.run("--on", "slurm", "-d", "-g", "0", "sleep", "600").stdout.strip()
    frail.end("slurmctld")
    for words in (("-w", "1s"), ("-n",)):
        done = world.run("--on", "slurm", *words, "true")
        assert done.returncode == 124, done.stderr
    done = world.run("ls", extra={"SLURM_CONF": world.env["SLURM_CONF"]})
    assert "Slurm does not answer" in done.stderr or job in done.stdout
    for words in (("kill", job), ("why", job), ("renice", "low", job)):
        done = world.run(*words)
        assert (done.returncode, "Slurm does not answer" in done.stderr) == (1, True), done


def test_the_controller_restarted_under_jobs_that_run_and_wait(world: World, frail: Cluster, tmp_path: Path) -> None:
    """What runs goes on, what waits keeps its place, and both end as they would have."""
    go = tmp_path / "go"
    runs = world.start("--on", "slurm", "-g", "3", "sh", "-c", f"echo ready; while ! test -e {go}; do sleep 0.1; done; exit 5")
    assert runs.stdout is not None
    assert runs.stdout.readline() == "ready\n"
    waits = world.start("--on", "slurm", "-g", "4", "sh", "-c", "exit 6")
    wait_until(lambda: sorted(frail.states().values()) == ["PENDING", "RUNNING"], "both to be there")
    job = world.run("--on", "slurm", "-d", "-g", "4", "sh", "-c", "exit 7").stdout.strip()
    wait_until(saved(frail), "Slurm to write its state down", within=30)
    frail.end("slurmctld")
    frail.start_controller()
    assert (runs.poll(), waits.poll()) == (None, None)
    go.touch()
    assert runs.wait(60) == 5
    assert waits.wait(60) == 6
    assert world.run("wait", job, timeout=60).returncode == 7


def test_the_wait_limit_holds_while_munge_is_down(world: World, frail: Cluster) -> None:
    """Slurm's commands say nothing then for half a minute."""
    frail.end("munged")
    done = world.run("--on", "slurm", "-w", "1s", "-v", "true")
    assert done.returncode == 124
    assert "not started within the wait limit: Slurm has not answered" in done.stderr
    frail.start_munge()
    assert world.run("--on", "slurm", "-g", "0", "true").returncode == 0


def test_a_refusal_is_slurms_own_words_and_what_to_change(world: World) -> None:
    for words, says, hint in (
        (["--slurm=--partition=no"], "Invalid partition name specified", "sinfo lists the partitions"),
        (["-g", "9"], "Requested node configuration is not available", "fewer GPUs"),
        (["--slurm=--partition=high", "-t", "5h"], "Requested time limit is invalid", "a shorter -t"),
        (["--slurm=--constraint=no"], "Invalid feature specification", "sinfo -o %f"),
        (["--slurm=--frobnicate"], "unrecognized option '--frobnicate'", ""),
    ):
        for form in ([], ["-d"]):
            done = world.run("--on", "slurm", *form, *words, "true")
            assert (done.returncode, done.stdout) == (125, ""), done
            assert says in done.stderr, (words, form, done.stderr)
            assert hint in done.stderr, (words, form, done.stderr)
            assert len(done.stderr.splitlines()) <= 2


def test_what_is_ended_behind_our_back_is_what_slurm_says(world: World, frail: Cluster) -> None:
    child = world.start("--on", "slurm", "sh", "-c", "echo ready; exec sleep 600")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    frail.run("scancel", *frail.states())
    assert child.wait(30) == -signal.SIGTERM
    assert child.stderr is not None
    assert child.stderr.read().endswith(": ended from outside (scancel)\n")
    job = world.run("--on", "slurm", "-d", "sleep", "600").stdout.strip()
    wait_until(lambda: frail.states() == {job[1:]: "RUNNING"}, "the job to run")
    frail.run("scancel", job[1:])
    assert world.run("wait", job).returncode == 143
    assert "signal 15, cancelled" in world.run("history", job).stdout
    fill(frail)
    child = world.start("--on", "slurm", "true")
    wait_until(lambda: "PENDING" in frail.states().values(), "the job to wait")
    frail.run("scancel", "--state=PENDING", "--me")
    assert child.wait(30) == -signal.SIGTERM
    assert child.stderr is not None
    assert "taken out of the line while it waited" in child.stderr.read()


def test_a_node_that_is_lost_is_said(world: World, frail: Cluster) -> None:
    job = world.run("--on", "slurm", "-d", "sleep", "600").stdout.strip()
    wait_until(lambda: frail.states() == {job[1:]: "RUNNING"}, "the job to run")
    frail.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
    done = world.run("wait", job)
    assert (done.returncode, "its machine failed" in done.stderr) == (143, True), done
    frail.done("scontrol", "update", "NodeName=n1", "State=RESUME")  # it may have come back by itself
    wait_until(lambda: frail.run("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D").strip() == "1", "the node to be back")


def test_a_requeued_job_is_waited_for_and_its_log_goes_on(world: World, frail: Cluster) -> None:
    says = "echo attempt $GPURUN_ATTEMPT; if test $GPURUN_ATTEMPT = 1; then exec sleep 600; fi; exit 9"
    job = world.run("--on", "slurm", "-d", "-r", "-g", "0", "sh", "-c", says).stdout.strip()
    wait_until(lambda: "attempt 1" in world.run("logs", job).stdout, "the first run")
    assert "Slurm lets it wait two minutes" in world.run("kill", "--requeue", job).stdout
    wait_until(lambda: frail.states() == {job[1:]: "PENDING"}, "the job to wait again")
    assert "waits two minutes" in world.run("why", job).stdout
    assert world.run("kill", job).returncode == 0


def test_killed_gpurun_leaves_a_batch_job_to_the_verbs(world: World, frail: Cluster) -> None:
    child = world.start("--on", "slurm", "-r", "-g", "0", "sh", "-c", "echo ready; exec sleep 600")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.kill()
    child.wait(10)
    (number,) = frail.states()
    assert world.run("ls", f"s{number}").stdout.splitlines()[1].split()[:2] == [f"s{number}", "running"]
    assert world.run("kill", f"s{number}").returncode == 0


# --- what the real one does not show: stand-ins for its commands ---------------------------------------------------


@pytest.fixture
def stand_in(make_world: MakeWorld, tmp_path: Path) -> Callable[..., World]:
    """A world whose Slurm is made of scripts."""

    def make(**scripts: str) -> World:
        for tool in ("srun", "sbatch", "squeue", "scancel", "scontrol", "sacct"):
            path = tmp_path / tool
            path.write_text(f"#!/bin/sh\n{scripts.get(tool, 'exit 0')}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return make_world(None, PATH=f"{tmp_path}:{os.environ['PATH']}")

    return make


def test_a_job_that_nobody_remembers_is_unknown(stand_in: Callable[..., World]) -> None:
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    none = "echo 'Slurm accounting storage is disabled' >&2; exit 1"
    world = stand_in(sbatch="cat > /dev/null; echo 7", scontrol=gone, sacct=none)
    assert world.run("--on", "slurm", "-d", "true").stdout == "s7\n"
    done = world.run("wait", "s7")
    assert done.returncode == 1
    assert done.stderr == "gpurun: wait: s7: Slurm knows it no more, and nobody saw how it ended: unknown\n"
    assert "unknown" in world.run("history").stdout
    assert world.run("why", "s7").stdout == "s7 (true) does not wait: it ended: unknown.\n"


def test_a_vanished_job_is_asked_of_sacct(stand_in: Callable[..., World]) -> None:
    gone = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    row = "7|CANCELLED by 0|0:9|2026-11-30T10:00:00|2026-11-30T10:00:01|2026-11-30T10:00:09|8|n1||true"
    world = stand_in(sbatch="cat > /dev/null; echo '7;other'", scontrol=gone, sacct=f"echo '{row}'")
    assert world.run("--on", "slurm", "-d", "true").stdout == "s7\n"
    assert world.run("wait", "s7").returncode == 137
    assert "signal 9, cancelled" in world.run("history").stdout


def test_two_clusters_are_not_taken_for_each_other(stand_in: Callable[..., World]) -> None:
    world = stand_in(sbatch="cat > /dev/null; echo 7", squeue="exit 0", scontrol="exit 1", sacct="exit 1")
    here, there = {"SLURM_CONF": "/etc/a/slurm.conf"}, {"SLURM_CONF": "/etc/b/slurm.conf"}
    assert world.run("--on", "slurm", "-d", "true", extra=here).stdout == "s7\n"
    assert world.run("why", "s7", extra=here).returncode == 0
    done = world.run("why", "s7", extra=there)
    assert (done.returncode, done.stderr) == (1, "gpurun: why: s7: no such job\n")


def test_without_slurm_it_is_said(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(None, PATH=str(tmp_path))
    for words in (["true"], ["-d", "true"]):
        done = world.run("--on", "slurm", *words)
        assert done.returncode == 127
        assert ": not found" in done.stderr.splitlines()[-2]
        assert done.stderr.splitlines()[-1] == "install Slurm's client commands, or leave --on slurm out"
    done = world.run("doctor", "--on", "slurm")
    assert (done.returncode, done.stdout.startswith("bad       programs      not found: srun")) == (1, True)


def test_what_sbatch_says_beside_its_number_is_no_number(stand_in: Callable[..., World]) -> None:
    world = stand_in(sbatch="cat > /dev/null; echo Submitted batch job 7")
    done = world.run("--on", "slurm", "-d", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "no job number in what it printed: Submitted batch job 7" in done.stderr


def test_a_list_of_500_jobs_is_there_before_anybody_wonders(stand_in: Callable[..., World], record_property: Any) -> None:
    """Measured with a squeue that answers at once; the real one needs some 15 ms."""
    row = "%d|N/A|PENDING|Priority|1|0|0:00|1:00||low|2026-11-30T23:44:55|N/A|gpurun:1 k=b p=0 g=1|train"
    world = stand_in(squeue="cat $GPURUN_DIR/rows")
    (world.directory / "rows").write_text("".join(row % number + "\n" for number in range(1, 501)))
    (world.directory / "slurm").mkdir()
    taken = []
    for _ in range(5):
        before = os.times()
        done = world.run("ls")
        after = os.times()
        assert done.stdout.count("\n") == 501
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    record_property("counted", f"{min(taken) * 1000:.0f} ms of CPU for 500 jobs")
    assert min(taken) < 0.3, taken


def test_squeue_is_asked_once_in_five_seconds_for_all(stand_in: Callable[..., World]) -> None:
    row = "%d|N/A|PENDING|Priority|1|0|0:00|1:00||low|2026-11-30T23:44:55|N/A|gpurun:1 k=b p=0 g=1|train"
    world = stand_in(squeue=f"echo asked >> $GPURUN_DIR/asked; echo '{row % 7}'")
    (world.directory / "slurm").mkdir()
    for words in (["ls"], ["ls", "--json"], ["ls", "s7"], ["completion", "jobs", "kill"]):
        assert "s7" in world.run(*words).stdout
    asked = (world.directory / "asked").read_text().count("asked")
    assert asked == 1, f"{asked} times"


def test_doctor_says_what_this_slurm_can_do(world: World) -> None:
    done = world.run("doctor", "--on", "slurm")
    assert done.returncode == 0, done.stdout
    assert "1 machine: gpu:fake:4" in done.stdout
    assert "nice is not heeded" in done.stdout
    (world.directory / "slurm.toml").write_text('partition = "no"\nshards_per_gpu = 4\n[constraints]\n"40G" = "big"\n')
    done = world.run("doctor", "--on", "slurm")
    assert done.returncode == 1
    for says in ("bad       partition     no: not known to Slurm", "40G = big: no machine has this feature", "no shards here"):
        assert says in done.stdout


# --- giving way --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_who_is_preempted_by_requeue_resumes(make_world: MakeWorld, tmp_path: Path) -> None:
    """Slurm lets it wait two minutes before it is run again."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    lines = ("PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE")
    cluster = Cluster(nodes=1, lines=lines, low="PreemptMode=REQUEUE", high="PreemptMode=OFF")
    try:
        world = make_world(None, **cluster.env)
        (world.directory / "slurm.toml").write_text('[[priority]]\nfrom = 10\npartition = "high"\n')
        state = tmp_path / "state"
        program = (
            f"n=$(cat {state} 2>/dev/null || echo 0); echo from $n; trap 'echo saved; exit 99' TERM; "
            f"test $GPURUN_ATTEMPT = 1 || exit 3; while :; do n=$((n+1)); echo $n > {state}; sleep 0.1; done"
        )
        low = world.run("--on", "slurm", "-d", "-r", "-g", "4", "bash", "-c", program).stdout.strip()
        wait_until(lambda: state.exists() and int(state.read_text() or 0) > 5, "the job to have done something")
        high = world.run("--on", "slurm", "-p", "high", "-g", "4", "sh", "-c", "exit 8", timeout=60)
        assert high.returncode == 8, high.stderr
        assert world.run("wait", low, timeout=300).returncode == 3
        lines = world.run("logs", low).stdout.splitlines()
        firsts = [int(line.split()[1]) for line in lines if line.startswith("from")]
        assert firsts[0] == 0
        assert firsts[1] > 5, lines
    finally:
        cluster.close()

