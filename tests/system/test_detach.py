"""Jobs in the background (-d), output to files (-o), and logs."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from waiting import let_pass, wait_until
from world import World

SLEEP = ("python3", "-c", "import time; time.sleep(60)")


def block(world: World) -> "subprocess.Popen[str]":
    """Have both GPUs taken."""
    child = world.start("-g", "all", *SLEEP)
    wait_until(lambda: "running" in world.states(), "the GPUs to be taken")
    return child


def until_ended(world: World, job_id: int) -> None:
    wait_until(lambda: world.state(job_id) == "ended", f"job {job_id} to end")


def test_a_detached_job_prints_its_number_at_once_and_its_status_is_known(world: World) -> None:
    done = world.run("-d", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    assert world.run("wait", "1").returncode == 7
    assert world.job(1)["result"]["code"] == 7
    shown = world.run("logs", "1")
    assert (shown.returncode, shown.stdout) == (0, "out\nerr\n")


def test_it_has_no_terminal_no_input_and_no_living_parent_of_the_callers(world: World, tmp_path: Path) -> None:
    facts = tmp_path / "facts"
    script = f"cat; (ps -o sid=,pgid=,tty= -p $$; echo $PPID) > {facts}"
    assert world.run("-d", "sh", "-c", script, input="nobody reads this\n").stdout == "1\n"
    assert world.run("wait", "1").returncode == 0
    session, group, tty, stub = facts.read_text().split()
    assert session == group
    assert tty == "?"
    assert int(stub) == world.rows("SELECT pid FROM job WHERE id = 1")[0]["pid"]
    assert world.run("logs", "1").stdout == ""


def test_it_survives_the_end_and_the_hang_up_of_its_terminal(world: World) -> None:
    import pty

    pid, master = pty.fork()
    if pid == 0:
        os.execve("/bin/sh", ["sh", "-c", f"{world.command} -d sleep 3; exec sleep 60"], world.env)
    try:
        wait_until(lambda: world.state(1) == "running", "the job to run")
    finally:
        os.close(master)  # hangs up
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert world.run("wait", "1").returncode == 0


def test_while_it_waits_the_caller_is_free_and_logs_follows_until_its_end(world: World) -> None:
    blocker = block(world)
    begun = time.monotonic()
    assert world.run("-d", "sh", "-c", "echo started; echo done").stdout == "2\n"
    assert time.monotonic() - begun < 5
    assert world.state(2) == "waiting"
    plain = world.run("logs", "2")
    assert (plain.returncode, plain.stdout) == (0, "")
    follower = world.start("logs", "-f", "2")
    assert world.run("kill", "1").returncode == 0
    blocker.wait(30)
    assert follower.communicate(timeout=15) == ("started\ndone\n", "")
    assert follower.returncode == 0


def test_logs_of_several_jobs_are_prefixed_and_lines_are_never_mixed(world: World) -> None:
    for name in ("a", "b"):
        world.run("-d", "-m", "1G", "sh", "-c", f"for i in 1 2 3; do printf {name}; sleep 0.05; echo $i; done; printf end")
    follower = world.run("logs", "-f", "1", "2")
    lines = follower.stdout.splitlines()
    assert [line for line in lines if line.startswith("1: ")] == ["1: a1", "1: a2", "1: a3", "1: end"]
    assert [line for line in lines if line.startswith("2: ")] == ["2: b1", "2: b2", "2: b3", "2: end"]


def test_output_goes_to_the_end_of_a_file_named_by_the_number(world: World, tmp_path: Path) -> None:
    for form in ((), ("-d",)):
        done = world.run(*form, "-o", "log-%j-100%%", "sh", "-c", "echo out; echo err >&2", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "2\n"
    until_ended(world, 2)
    for number in (1, 2):
        assert (tmp_path / f"log-{number}-100%").read_text() == "out\nerr\n"
        assert world.run("logs", str(number)).stdout == "out\nerr\n"
    same = tmp_path / "same"
    for _ in range(2):
        world.run("-o", same, "echo", "line")
    assert same.read_text() == "line\nline\n"


def test_a_file_that_cannot_be_written_is_said_before_anything_waits(world: World, tmp_path: Path) -> None:
    for form in ((), ("-d",)):
        done = world.run(*form, "-o", tmp_path / "no" / "file", "true")
        complaint = f"gpurun: cannot write: {tmp_path}/no/file: no such file or directory\n"
        assert (done.returncode, done.stdout, done.stderr) == (125, "", complaint)
        done = world.run(*form, "-o", tmp_path / "no" / "%j", "true")
        complaint = f"gpurun: cannot write: {tmp_path}/no/%j: no such file or directory\n"
        assert (done.returncode, done.stdout, done.stderr) == (125, "", complaint)
    done = world.run("-d", "-o", tmp_path / "no-%j" / "file", "true")  # known only once there is a number
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"gpurun: cannot write: {tmp_path}/no-1/file: no such file or directory\n"
    wait_until(lambda: set(world.states()) == {"ended"}, "nothing to be left")


def test_a_program_that_cannot_be_executed_is_said_where_the_caller_looks(world: World, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    done = world.run("-o", tmp_path / "log", script)
    assert done.returncode == 127
    assert "bad interpreter" in done.stderr
    assert world.run("-d", "no-such-program").returncode == 127


def test_logs_says_where_output_went_that_was_not_kept(world: World, tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    world.run("true", stdout=slave)
    os.close(slave)
    os.close(master)
    done = world.run("logs", "1")
    complaint = "gpurun: logs: job 1 wrote to a terminal: nothing is kept; next time -o FILE or -d\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", complaint)
    world.run("true")
    assert "job 2 wrote to a pipe: nothing is kept" in world.run("logs", "2").stderr
    with (tmp_path / "redirected 100%j").open("w") as file:
        world.run("echo", "hello", stdout=file)
    assert world.run("logs", "3").stdout == "hello\n"
    assert world.run("logs", "99").stderr == "gpurun: logs: job 99: no such job\n"


@pytest.mark.parametrize(("count", "expected"), [("0", ""), ("1", "3"), ("2", "2\n3"), ("9", "1\n2\n3")])
def test_the_last_lines_are_those_of_tail(world: World, count: str, expected: str) -> None:
    world.run("-d", "printf", "1\n2\n3")
    until_ended(world, 1)
    assert world.run("logs", "-n", count, "1").stdout == expected
    world.run("-d", "printf", "1\n2\n3\n")
    until_ended(world, 2)
    assert world.run("logs", "-n", count, "2").stdout == (expected + "\n" if expected else "")


def test_a_log_of_a_gigabyte_makes_nobody_large(world: World, tmp_path: Path) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(1 << 30)  # one line of a gigabyte
    with big.open("ab") as file:
        world.run("echo", "\nlast", stdout=file)
    with Path(os.devnull).open("wb") as null:
        child = world.start("logs", "1", stdout=null)
        _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    assert usage.ru_maxrss < 200 * 1024  # the test's own, from which it was forked, counts too
    assert world.run("logs", "-n", "1", "1").stdout == "last\n"


def test_following_two_logs_of_a_gigabyte_makes_nobody_large(world: World) -> None:
    for _ in range(2):  # one line of a gigabyte, and a short one
        world.run("-d", "-m", "1G", "sh", "-c", "truncate -s 1G /proc/self/fd/1; echo; echo end; sleep 60")
    logs = [world.folder / "logs" / f"{number}.log" for number in (1, 2)]
    wait_until(lambda: all(log.exists() and log.stat().st_size > 1 << 30 for log in logs), "both to have written")
    with Path(os.devnull).open("wb") as null:
        follower = world.start("logs", "-f", "1", "2", stdout=null)

    def shown() -> int:
        """How far both files were read."""
        files = [fd for fd in Path(f"/proc/{follower.pid}/fd").iterdir() if fd.resolve() in logs]
        infos = [Path(f"/proc/{follower.pid}/fdinfo/{fd.name}").read_text() for fd in files]
        return sum(int(info.split()[1]) for info in infos)

    wait_until(lambda: shown() == sum(log.stat().st_size for log in logs), "all to be shown", 60)
    stubs = [row["pid"] for row in world.rows("SELECT pid FROM job")]
    for pid in (follower.pid, world.arbiter_pid(), *stubs):
        peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()
        assert int(peak[0]) < 64 * 1024, (pid, peak)
    follower.kill()


def test_now_or_not_at_all_holds_in_the_background_too(world: World) -> None:
    assert world.run("-d", "-n", "true").stdout == "1\n"
    until_ended(world, 1)
    block(world)
    done = world.run("-d", "-n", "true")
    assert (done.returncode, done.stdout) == (124, "")
    assert world.run("-d", "-n", "-E", "9", "true").returncode == 9


def test_a_detached_job_outlives_the_arbiter_and_its_keeper(world: World) -> None:
    assert world.run("-d", "sh", "-c", "sleep 2; exit 5").stdout == "1\n"
    wait_until(lambda: world.state(1) == "running", "the job to run")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    assert world.run("wait", "1").returncode == 5


@pytest.mark.parametrize("keeper", [False, True])
def test_one_that_waits_outlives_the_arbiter_too(world: World, keeper: bool) -> None:
    blocker = block(world)
    assert world.run("-d", "sh", "-c", "exit 5").stdout == "2\n"
    wait_until(lambda: world.state(2) == "waiting", "the job to wait")
    for pid in [*([world.keeper_pid()] if keeper else []), world.arbiter_pid()]:
        assert pid is not None
        psutil.Process(pid).kill()
    blocker.kill()
    assert world.run("wait", "2").returncode == 5
    assert world.job(2)["attempt"] == 1


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_when_the_stub_is_killed_nothing_is_left_of_the_job(world: World, state: str) -> None:
    if state == "waiting":
        block(world)
    number = int(world.run("-d", *SLEEP).stdout)
    wait_until(lambda: world.state(number) == state, f"the job to be {state}")
    stub = psutil.Process(world.rows("SELECT pid FROM job WHERE id = ?", number)[0]["pid"])
    children = stub.children(recursive=True)
    stub.kill()
    until_ended(world, number)
    wait_until(lambda: not any(child.is_running() for child in children), "the program to be gone")
    assert (world.folder / "logs" / f"{number}.log").exists()


def test_a_waiting_one_that_is_killed_says_so_in_its_log(world: World) -> None:
    block(world)
    number = world.run("-d", "true").stdout.strip()
    assert world.run("kill", number).returncode == 0
    until_ended(world, int(number))
    wait_until(lambda: f"job {number}: cancelled by" in world.run("logs", number).stdout, "the log to say it")


@pytest.mark.parametrize("options", ["", "--array 1-2"], ids=["one", "a sweep"])
def test_a_detached_job_started_inside_a_job_asks_inside_it(make_world: Callable[..., World], options: str) -> None:
    """The script waits for it: in the outer queue it would wait for the script's end."""
    world = make_world("1x24G")
    outer = world.run("sh", "-c", f"{world.command} -d {options} true >/dev/null; {world.command} wait 2-9; echo $?")
    assert outer.stdout == "0\n"
    assert {row["parent_id"] for row in world.rows("SELECT parent_id FROM job WHERE id > 1")} == {1}


def test_a_detached_job_that_waits_inside_goes_outside_with_the_end_of_its_outer(make_world: Callable[..., World]) -> None:
    world = make_world("1x24G")
    script = f"{world.command} -d sleep 2; {world.command} -d true"  # whole: they take turns
    assert world.run("sh", "-c", script).stdout == "2\n3\n"
    assert world.run("wait", "2", "3").returncode == 0
    assert world.run("true").returncode == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_it_can_be_started_with_standard_descriptors_closed(world: World, closed: str) -> None:
    script = f"{world.command} -d sh -c 'echo out; echo err >&2; exit 7' {closed}"
    done = subprocess.run(["sh", "-c", script], env=world.env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "" if ">&-" in closed.replace("2>&-", "") else "1\n", "")
    assert world.run("wait", "1").returncode == 7
    assert world.run("logs", "1").stdout == "out\nerr\n"


def test_a_number_that_cannot_be_printed_is_told_and_the_job_runs(world: World) -> None:
    with Path("/dev/full").open("w") as full:
        done = world.run("-d", "sh", "-c", "exit 7", stdout=full)
    text = "gpurun: job 1 is registered, but its number cannot be written: standard output: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, text)  # 125 would say that it was never started
    assert world.run("wait", "1").returncode == 7


@pytest.mark.parametrize("name", ["pipe", "pipe-%j"])
def test_a_pipe_that_nobody_reads_is_refused_and_holds_nothing(world: World, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for number in range(1, 4):
        os.mkfifo(tmp_path / f"pipe-{number}")
    for form in ((), ("-d",), ("-r",)):
        done = world.run(*form, "-o", tmp_path / name, "true", timeout=10)
        assert (done.returncode, done.stdout) == (125, "")
        assert done.stderr.startswith("gpurun: cannot write: ")
        assert done.stderr.endswith(": nobody reads this pipe\n")
    wait_until(lambda: not world.live(), "all to have ended")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert world.run("-o", tmp_path / "pipe", "echo", "read").returncode == 0
    assert os.read(reader, 100) == b"read\n"
    os.close(reader)


def test_following_ends_though_arbiter_and_keeper_were_killed_meanwhile(world: World, tmp_path: Path) -> None:
    child = world.start("-o", tmp_path / "log", "sh", "-c", "echo begun; sleep 4; echo done")
    wait_until(lambda: world.state(1) == "running", "the job to run")
    follower = world.start("logs", "-f", "1")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "begun\n"
    let_pass(0.5, "it has looked for an arbiter")
    for pid in (world.keeper_pid(), world.arbiter_pid()):
        assert pid is not None
        psutil.Process(pid).kill()
    assert child.wait(30) == 0
    assert follower.communicate(timeout=10) == ("done\n", "")


def test_a_file_that_comes_after_the_start_is_followed_and_one_that_never_comes_is_said(world: World, tmp_path: Path) -> None:
    world.start("-o", tmp_path / "log-%j", *SLEEP)
    wait_until(lambda: (tmp_path / "log-1").exists(), "the output to be there")
    (tmp_path / "log-1").rename(tmp_path / "away")
    assert world.run("logs", "1").returncode == 1
    follower = world.start("logs", "-f", "1")
    with pytest.raises(subprocess.TimeoutExpired):
        follower.wait(1)
    (tmp_path / "log-1").write_text("here\n")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "here\n"
    (tmp_path / "log-1").unlink()
    never = world.start("logs", "-f", "1")
    with pytest.raises(subprocess.TimeoutExpired):
        never.wait(1)
    world.run("kill", "-9", "1")
    assert never.communicate(timeout=10) == ("", f"gpurun: logs: cannot read: {tmp_path}/log-1: no such file or directory\n")
    assert (never.returncode, follower.wait(30)) == (1, 0)


def test_a_long_log_keeps_nobody_elses_lines_back(world: World, tmp_path: Path) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 30)
    world.run("-d", "-m", "1G", "-o", tmp_path / "long", "sleep", "60")
    world.run("-d", "-m", "1G", "sh", "-c", "echo mine; sleep 60")
    wait_until(lambda: world.run("logs", "2").stdout == "mine\n", "the second to write")
    follower = world.start("logs", "-f", "1", "2", encoding="latin-1")
    assert follower.stdout is not None
    before = 0
    while (line := follower.stdout.readline()).startswith("1: "):
        before += len(line)
    assert line == "2: mine\n"
    assert before < 100 << 20
    follower.kill()


def test_dry_run_starts_and_makes_nothing(world: World, tmp_path: Path) -> None:
    done = world.run("-d", "-o", tmp_path / "log", "--dry-run", "true")
    assert done.returncode == 0
    assert done.stdout.startswith("would start now")
    assert world.jobs() == []
    assert list(tmp_path.iterdir()) == []


def test_a_job_that_never_ran_has_no_output_and_its_log_says_so(world: World) -> None:
    world.start("-g", "2", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    assert world.run("-w", "0s", "true").returncode == 124
    done = world.run("logs", "2")
    assert (done.returncode, done.stderr) == (1, "gpurun: logs: job 2 never ran: wait-limit\n")


def test_dry_run_of_who_waits_for_nothing_says_that_it_would_not_start(world: World) -> None:
    assert world.run("--dry-run", "-n", "-g", "all", "true").stdout.startswith("would start now")
    world.start("-g", "all", "sleep", "600")
    wait_until(lambda: world.state(1) == "running", "the GPUs to be held")
    assert world.run("-n", "true").returncode == 124
    assert world.run("--dry-run", "-n", "true").stdout.startswith("would not start: it waits for ")
    assert world.run("--dry-run", "-w", "1h", "true").stdout.startswith("would wait for ")


def test_of_a_job_that_never_ran_wait_returns_what_its_gpurun_ended_with(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    def registered(*words: object) -> str:
        return world.run("-d", *words).stdout.strip()

    failing = registered("-g", "0", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done; exit 3")
    cancelled = registered("-g", "0", "-a", f"ok:{failing}", "true")
    world.start("-g", "all", "sleep", "600")
    wait_until(lambda: world.state(3) == "running", "the GPUs to be held")
    late, killed = registered("-w", "1s", "true"), registered("true")
    assert world.run("kill", killed).returncode == 0
    gate.touch()
    assert {job: world.run("wait", job).returncode for job in (failing, cancelled, late, killed)} == {
        failing: 3, cancelled: 125, late: 124, killed: 143,
    }  # fmt: skip
    assert "not started within the wait limit" in world.run("wait", late).stderr


def test_a_glob_names_the_same_jobs_whenever_one_waits_for_them(world: World, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    world.run("-d", "-g", "0", "-N", "lr-1", "false")  # of this name a later one counts
    world.run("-d", "-g", "0", "-N", "lr-1", "sh", "-c", "exit 3")
    until_ended(world, 2)
    world.run("-d", "-g", "0", "-N", "lr-2", "sh", "-c", f"until [ -e {gate} ]; do sleep 0.05; done")
    assert world.run("-g", "0", "-a", "ok:lr-*", "true").returncode == 125
    with world.start("wait", "lr-*") as waiting:
        gate.touch()
        assert waiting.wait(30) == 3
    assert world.run("wait", "lr-*").returncode == 3
    assert world.run("wait", "lr-[2]", "lr-?").returncode == 3
    assert world.run("logs", "lr-*").returncode == 0
    assert world.run("kill", "lr-*").returncode == 1
    assert world.run("wait", "x*").returncode == 1
