"""Every kind of bad input: one line (two if the second says what to do), the right exit status, and nothing left.

Databases that cannot be used and full disks are in `test_crash.py`.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from proof import claims_on, databases, left_over, processes_of, read_rows
from standin import DRIVER_NOT_LOADED, ERROR_UNKNOWN, LIB_RM_VERSION_MISMATCH, Gpu, NoCompiler, build
from waiting import wait_until
from world import World

MakeWorld = Callable[..., World]
Done = "subprocess.CompletedProcess[str]"


def assert_one_line(done: Done, status: int, *words: str) -> None:
    """One line, or a second one that is a hint; all `words` stand in it; no standard output, no Python in sight."""
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2, done.stderr
    first = lines[0]
    assert first.startswith("gpurun: "), first
    assert not first.endswith(".") or first.endswith("[ARG]..."), first
    for word in words:
        assert word in done.stderr, done.stderr
    for trace in ("Traceback", "Error(", "Errno", "None", "b'"):
        assert trace not in done.stderr, done.stderr


def assert_nothing_left(world: World, *, rows: int = 0) -> None:
    """No row (but those the test made itself), no process but an idle arbiter and its keeper, no lock, no claim."""
    for database in databases(world.directory):
        assert read_rows(database, "SELECT count(*) FROM job") == [(rows,)]
    found: list[str] = []

    def empty() -> bool:
        uuids = [uuid for database in databases(world.directory) for (uuid,) in read_rows(database, SEEN)]
        found[:] = left_over(world.directory, uuids, idle=[world.arbiter_pid(), world.keeper_pid()])
        return not found

    with contextlib.suppress(AssertionError):
        wait_until(empty, "nothing to be left", 8)
    assert not found


SEEN = "SELECT DISTINCT uuid FROM share"


def is_running(world: World) -> bool:
    return any(job["state"] == "running" for job in world.jobs())


# The command line

USAGE: dict[str, tuple[list[str], list[str]]] = {
    "unknown long option": (["--frobnicate", "true"], ["--frobnicate", "unknown option"]),
    "unknown short option": (["-Z", "true"], ["-Z", "unknown option"]),
    "misspelt option": (["--gpu", "2", "true"], ["--gpu", "did you mean --gpus"]),
    "option of another tool": (["--gres=gpu:2", "true"], ["--gres", "did you mean -g 2"]),
    "value missing": (["-g"], ["-g", "missing"]),
    "value for a flag": (["--nonblock=yes", "true"], ["--nonblock", "takes no value"]),
    "memory without unit": (["-m", "8", "true"], ["memory 8: unit missing: 8G or 8M?"]),
    "unknown unit of memory": (["-m", "8Go", "true"], ["memory 8Go: unknown unit: K, M, G, T or %"]),
    "memory that is no number": (["-m", "lots", "true"], ["memory lots"]),
    "memory of nothing": (["-m", "0G", "true"], ["memory 0G"]),
    "negative memory": (["-m", "-4G", "true"], ["memory -4G"]),
    "more than all memory": (["-m", "120%", "true"], ["memory 120%"]),
    "duration without unit": (["-w", "60", "true"], ["60: unit missing: 60s or 60m?"]),
    "unknown unit of time": (["-w", "60x", "true"], ["60x: unknown unit"]),
    "priority out of range": (["-p", "200", "true"], ["priority 200: -100 to 100, higher runs first"]),
    "priority below range": (["-p", "-101", "true"], ["priority -101: -100 to 100, higher runs first"]),
    "unknown priority": (["-p", "hihg", "true"], ["priority hihg"]),
    "GPUs that are no number": (["-g", "two", "true"], ["two"]),
    "negative GPUs": (["-g", "-1", "true"], ["-1"]),
    "a name that is a number": (["-N", "4", "true"], ["a name cannot be a number: did you mean -g 4?"]),
    "exclusive without memory": (["--exclusive", "true"], ["--exclusive"]),
    "conflict status": (["-E", "300", "-n", "true"], ["300"]),
    "no program": (["-g", "1"], ["program missing"]),
    "nothing": ([], []),
    "unknown simulation": (["--sim", "lots", "true"], ["lots"]),
}


@pytest.mark.parametrize("kind", USAGE)
def test_a_command_line_that_cannot_be_understood(world: World, kind: str) -> None:
    """Said before anything is asked of anybody: no folder, no arbiter, no row."""
    words, expected = USAGE[kind]
    done = world.run(*words)
    if kind == "nothing":
        assert done.returncode == 125
        assert len(done.stderr.splitlines()) == 3
        assert done.stdout == ""
    else:
        assert_one_line(done, 125, *expected)
    assert list(world.directory.iterdir()) == [], "something was made for a usage error"
    assert world.processes() == []


VERB_USAGE = {
    "unknown option": (["ls", "--frobnicate"], ["--frobnicate"]),
    "kill without a job": (["kill"], ["usage: gpurun kill"]),
    "kill by an unknown signal": (["kill", "-s", "NOPE", "1"], ["NOPE"]),
    "renice without a job": (["renice", "5"], ["usage: gpurun renice PRIORITY JOB"]),
    "renice to nothing": (["renice"], ["usage: gpurun renice PRIORITY JOB"]),
    "renice out of range": (["renice", "500", "1"], ["500", "-100 to 100"]),
    "renice to an unknown priority": (["renice", "hihg", "1"], ["hihg"]),
    "wait for nothing": (["wait"], ["usage: gpurun wait"]),
    "top of a job": (["top", "14"], ["14: top takes no operand"]),
    "top in a pipe": (["top"], ["top: needs a terminal on standard output"]),
    "ls -w in a pipe": (["ls", "-w"], ["ls: --watch: needs a terminal on standard output"]),
}


@pytest.mark.parametrize("kind", VERB_USAGE)
def test_a_verb_that_cannot_be_understood(world: World, kind: str) -> None:
    words, expected = VERB_USAGE[kind]
    assert_one_line(world.run(*words), 2, *expected)
    assert list(world.directory.iterdir()) == []


# Beyond the machine


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-g", "3"], ["needs 3 GPUs", "has 2"]),
        (["-m", "200G"], ["no GPU has 200G", "the largest has", "GPU 0"]),
        (["-i", "7"], ["7"]),
        (["-i", "H100*"], ["H100*"]),
        (["-i", "GPU-ffffffff"], ["GPU-ffffffff"]),
        (["--not", "9"], ["9"]),
        (["--not", "0,1"], []),
        (["-g", "2", "-i", "0"], []),
        (["-g", "2", "-m", "200G"], ["no GPU has 200G"]),
    ],
    ids=lambda words: " ".join(words) if words and words[0].startswith("-") else None,
)
def test_what_the_machine_does_not_have_is_refused_at_once(world: World, words: list[str], expected: list[str]) -> None:
    for busy in (False, True):
        if busy:
            world.start("-g", "2", "--", "sleep", "60")
            wait_until(lambda: is_running(world), "the GPUs to be taken")
        assert_one_line(world.run(*words, "--", "true", timeout=10), 125, *expected)
    assert len(world.jobs()) == 1


def test_a_preset_list_that_names_no_gpu_of_this_machine_is_refused(world: World) -> None:
    done = world.run("--", "true", extra={"CUDA_VISIBLE_DEVICES": "7"})
    assert_one_line(done, 125, "CUDA_VISIBLE_DEVICES")
    assert_nothing_left(world)


# The program


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    (tmp_path / "plain").write_text("no program\n")
    (tmp_path / "plain").chmod(0o644)
    (tmp_path / "folder").mkdir()
    (tmp_path / "no-interpreter").write_text("#! /no/such/interpreter -x\n")
    (tmp_path / "no-interpreter").chmod(0o755)
    (tmp_path / "bad-interpreter").write_text(f"#!{tmp_path}/no-interpreter\n")
    (tmp_path / "bad-interpreter").chmod(0o755)
    (tmp_path / "busy").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "busy").chmod(0o755)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "status", "cause"),
    [
        ("no-such-program-anywhere", 127, "not found"),
        ("./no-such-program", 127, "not found"),
        ("./plain/below", 126, "not a directory"),
        ("./dangling", 127, ""),
        ("", 127, ""),
        ("./plain", 126, "permission denied"),
        ("./folder", 126, "directory"),
        ("./loop", 126, ""),
        ("./no-interpreter", 127, "bad interpreter: no such file"),
    ],
)
def test_a_program_that_cannot_run_is_told_before_waiting(
    world: World, programs: Path, program: str, status: int, cause: str
) -> None:
    """Also while all GPUs are taken: nobody waits an hour to learn of a typing error."""
    assert_one_line(world.run("--", program, cwd=programs), status, "cannot run", cause)
    assert list(world.directory.iterdir()) == []
    world.start("-g", "2", "--", "sleep", "60")
    wait_until(lambda: is_running(world), "the GPUs to be taken")
    assert_one_line(world.run("--", program, cwd=programs, timeout=10), status, "cannot run", cause)
    assert len(world.jobs()) == 1


@pytest.mark.parametrize(
    ("program", "statuses"),
    [("./bad-interpreter", (126, 127)), ("./busy", (126,))],
    ids=["bad interpreter", "text file busy"],
)
def test_a_program_that_fails_to_exec_gives_its_grant_back(
    world: World, programs: Path, program: str, statuses: tuple[int, ...]
) -> None:
    """The kernel finds out, after the offer. The job has a row, since it was granted a GPU; it holds nothing."""
    with (programs / "busy").open("r+b"):  # open for writing: ETXTBSY
        bare = subprocess.run(["bash", "-c", f"exec {program}"], cwd=programs, capture_output=True)
        assert bare.returncode in statuses
        for _ in range(3):
            done = world.run("-g", "2", "--", program, cwd=programs, timeout=10)
            assert done.returncode in statuses, done
            assert_one_line(done, done.returncode, "cannot run", program)
    assert world.run("-g", "2", "-n", "--", "true").returncode == 0, "the GPUs were not given back"
    assert {job["state"] for job in world.jobs()} == {"ended"}
    assert_nothing_left(world, rows=4)


def test_a_word_of_another_tool_is_answered_with_ours(world: World, programs: Path) -> None:
    # A PATH of its own: cancel(1) is a program where there is a print server.
    done = world.run("cancel", "14", extra={"PATH": str(programs)})
    assert_one_line(done, 127, "cancel", "gpurun kill ends jobs")
    assert_one_line(world.run("no-such-alias", "14"), 127, "aliases and shell functions need: gpurun bash -ic")
    assert_one_line(world.run("LR=1", "true"), 127, "put LR=1 before gpurun")
    assert_nothing_left(world)


# The state folder


def test_a_state_folder_that_is_no_folder(make_world: MakeWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world = make_world(GPURUN_DIR=str(tmp_path / "file"))
    for words, status in ([["--", "true"], 125], [["ls"], 1]):
        assert_one_line(world.run(*words), status, "state folder", "file")
    assert processes_of(tmp_path) == {}


def test_a_state_folder_on_a_disk_that_cannot_be_written(make_world: MakeWorld, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid() == 0:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("mount is not permitted")
    else:
        folder.chmod(0o500)
    try:
        world = make_world(GPURUN_DIR=str(folder))
        cause = "read-only" if os.geteuid() == 0 else "permission denied"
        assert_one_line(world.run("--", "true"), 125, "state folder", cause)
        assert processes_of(folder) == {}
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", folder], check=True)


def sealed(world: World, *words: str) -> Done:
    """Run gpurun where the state folder can only be read, as in a unit with ProtectHome=read-only."""
    seal = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    child = world.start(*words, prefix=("unshare", "--mount", "sh", "-c", seal, str(world.directory)))
    output, errors = child.communicate(timeout=30)
    if "unshare:" in errors or "mount:" in errors:
        pytest.skip("no mount namespace can be had here (unshare)")
    return subprocess.CompletedProcess(words, child.returncode, output, errors)


@pytest.mark.needs("unshare", "mount")
def test_where_the_state_folder_can_only_be_read_jobs_run_while_an_arbiter_is_up(world: World) -> None:
    assert world.run("--", "true").returncode == 0
    assert (done := sealed(world, "--", "echo", "ran")).returncode == 0, done
    assert done.stdout == "ran\n"
    assert world.arbiter_pid() is not None
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), "the world to be closed")
    done = sealed(world, "--", "true")
    assert_one_line(done, 125, f"cannot use state folder: {world.folder}: read-only file system", "ReadWritePaths=")
    assert [job["id"] for job in world.jobs()] == [1, 2], "one world, and nothing was registered in another"
    assert sealed(world, "ls").returncode == 0
    assert "\nbad       database      cannot be written: read-only file system\n" in sealed(world, "doctor").stdout


@pytest.mark.parametrize("words", [["ls"], ["ls", "-a", "--json"], ["--help"], ["history"]], ids=" ".join)
def test_output_that_cannot_be_written_is_said_of_it_and_of_nothing_else(world: World, words: list[str]) -> None:
    for number in range(40):  # more than is kept back to be written at once
        assert world.run("-g", "0", "-N", f"{number}-{'x' * 200}", "true").returncode == 0
    with open("/dev/full", "w") as full:
        done = world.run(*words, stdout=full)
    verb = "" if words == ["--help"] else f"{words[0]}: "
    assert done.stderr == f"gpurun: {verb}cannot write: standard output: no space left on device\n"
    assert done.returncode == (1 if verb else 125)


def test_a_message_that_cannot_be_written_keeps_no_program_from_running(world: World) -> None:
    with open("/dev/full", "w") as full:
        assert world.run("-v", "--", "sh", "-c", "exit 3", stderr=full).returncode == 3
        assert world.run("-n", "-g", "5", "--", "true", stderr=full).returncode == 125


def test_descriptors_that_cannot_be_had_are_said_in_one_line(world: World) -> None:
    few = ("sh", "-c", 'ulimit -n 5; exec "$@"', "sh")
    child = world.start("--", "true", prefix=few)
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, len(errors.splitlines())) == (125, 1), errors
    assert "too many open files" in errors.lower()


def test_a_state_folder_of_another_owner(make_world: MakeWorld) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a folder away")
    world = make_world()
    assert world.run("--", "true").returncode == 0
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), "the world to be closed")
    os.chown(world.folder, 65534, 65534)
    for words, status in ([["--", "true"], 125], [["ls"], 1], [["kill", "1"], 1]):
        assert_one_line(world.run(*words), status, "state folder", "uid 65534")
    lines = world.run("doctor").stdout.splitlines()
    assert len(lines) - len(set(lines)) <= 1, "the remedy alone stands twice"
    assert world.processes() == []


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_state_folder_that_others_may_enter(world: World, mode: int) -> None:
    assert world.run("--", "true").returncode == 0
    for process in world.processes():
        process.kill()
    wait_until(lambda: not world.processes(), "the world to be closed")
    world.folder.chmod(mode)
    assert_one_line(world.run("--", "true"), 125, "state folder", "others may enter it")
    assert world.processes() == []


class NetworkFilesystem:
    """A FUSE mount served by a thread of the test, as sshfs would be: one empty folder where nothing can be made."""

    GETATTR, STATFS, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS, FORGET, BATCH_FORGET = 3, 17, 26, 27, 28, 29, 34, 2, 42

    def __init__(self, point: Path) -> None:
        self.point = point
        self.device = os.open("/dev/fuse", os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if libc.mount(b"server:/home", os.fsencode(point), b"fuse.sshfs", 0, options):
            os.close(self.device)
            raise OSError(ctypes.get_errno(), "mount")
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.device, 2**17)
            except OSError:
                return  # ENODEV: unmounted
            _, opcode, unique = struct.unpack_from("<IIQ", request)
            if opcode in (self.FORGET, self.BATCH_FORGET):
                continue
            body, error = self.answer(opcode)
            with contextlib.suppress(OSError):
                os.write(self.device, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)

    def answer(self, opcode: int) -> tuple[bytes, int]:
        match opcode:
            case self.INIT:
                return struct.pack("<IIIIHHI", 7, 31, 65536, 0, 0, 0, 65536) + bytes(40), 0
            case self.GETATTR:
                attributes = struct.pack("<QQQQQQIIIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40700, 2, 0, 0, 0, 4096, 0)
                return struct.pack("<QII", 1, 0, 0) + attributes, 0
            case self.STATFS:
                return struct.pack("<QQQQQIIII", 10**6, 10**6, 10**6, 10**6, 10**6, 4096, 255, 4096, 0) + bytes(24), 0
            case self.OPENDIR:
                return struct.pack("<QII", 0, 0, 0), 0
            case self.READDIR | self.RELEASEDIR | self.ACCESS:
                return b"", 0
            case 1:  # LOOKUP
                return b"", errno.ENOENT
            case _:
                return b"", errno.EPERM

    def close(self) -> None:
        subprocess.run(["umount", "-l", self.point], check=True)
        self.thread.join(5)
        os.close(self.device)


@pytest.fixture
def network_folder() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    point = Path(tempfile.mkdtemp(prefix="gr-net-", dir="/tmp"))
    try:
        mounted = NetworkFilesystem(point)
    except OSError as err:
        point.rmdir()
        pytest.skip(f"FUSE is not permitted: {err}")
    yield point
    mounted.close()
    shutil.rmtree(point, ignore_errors=True)


@pytest.mark.parametrize("below", ["", "not/yet/there"])
def test_a_state_folder_on_a_network_filesystem(make_world: MakeWorld, network_folder: Path, below: str) -> None:
    world = make_world(GPURUN_DIR=str(network_folder / below))
    assert_one_line(world.run("--", "true"), 125, "state folder", "fuse.sshfs", "local")
    assert processes_of(network_folder) == {}


# The driver


def test_no_driver_is_said_and_the_demo_is_named(make_world: MakeWorld) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    world = make_world(None)
    done = world.run("--", "true")
    assert done.stderr.splitlines() == [
        "gpurun: no GPU to be had: no NVIDIA driver: libnvidia-ml.so.1 not found",
        "try it on simulated GPUs: gpurun demo",
    ]
    assert_one_line(done, 125)
    assert_nothing_left(world)
    assert world.run("-g", "0", "--", "true").returncode == 0, "a job without GPUs needs no driver"


@pytest.mark.parametrize("options", [[], ["-g", "2", "-m", "4G"], ["-g", "all"], ["-i", "0"], ["-r"], ["-m", "auto"]])
def test_without_a_driver_it_runs_after_one_line_if_the_setting_says_so(make_world: MakeWorld, options: list[str]) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    world = make_world(None)
    (world.directory / "settings.toml").write_text('without_gpu = "run"\n')
    script = 'echo "[$CUDA_VISIBLE_DEVICES]"; exit 3'
    done = world.run(*options, "--", "sh", "-c", script)
    fault = "runs without a GPU: no NVIDIA driver: libnvidia-ml.so.1 not found"
    assert (done.returncode, done.stdout, done.stderr) == (3, "[]\n", f"gpurun: job 1 {fault}\n")
    inner = world.run("-q", *options, "--", world.command, "--", "true")
    assert (inner.returncode, inner.stderr) == (0, f"gpurun: job 3 {fault}\n"), "what is asked for inside runs as well"
    assert [(job["state"], job["devices"]) for job in world.jobs()] == [("ended", [])] * 3
    assert world.run("-g", "0", "--", "true").stderr == "", "who asked for none is told nothing"


def test_without_a_driver_rows_of_a_sweep_and_blocks_run_too(make_world: MakeWorld) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    world = make_world(None)
    (world.directory / "settings.toml").write_text('without_gpu = "run"\n')
    done = world.run("--array", "1-3", "--", "sh", "-c", "echo $GPURUN_INDEX")
    assert (done.returncode, sorted(done.stdout.split())) == (0, ["1", "2", "3"])
    block = "import gpuwrap\nwith gpuwrap.gpu() as grant:\n    print(grant.devices)"
    python = subprocess.run([sys.executable, "-c", block], env=world.env, capture_output=True, text=True, timeout=30)
    assert (python.returncode, python.stdout) == (0, "()\n"), python.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (DRIVER_NOT_LOADED, ["driver", "not loaded"]),
        (LIB_RM_VERSION_MISMATCH, ["driver"]),
        (ERROR_UNKNOWN, ["driver"]),
    ],
)
def test_a_driver_that_fails_at_once_is_said(make_world: MakeWorld, tmp_path: Path, code: int, words: list[str]) -> None:
    try:
        box = build(tmp_path / "driver", Gpu(uuid=f"GPU-{uuid.uuid4()}"))
    except NoCompiler as missing:
        pytest.skip(str(missing))
    box.fail("nvmlInit", code)
    world = make_world(None, **box.environment)
    assert_one_line(world.run("--", "true"), 125, "no GPU to be had", *words)
    assert_nothing_left(world)
    assert claims_on([str(box.gpus[0].uuid)]) == []


# Jobs


@pytest.fixture
def ended(world: World) -> World:
    """A world in which job 1 has ended."""
    assert world.run("--", "true").returncode == 0
    wait_until(lambda: world.state(1) == "ended", "job 1 to end")
    return world


@pytest.mark.parametrize(
    "words",
    [["kill", "99"], ["renice", "5", "99"], ["wait", "99"], ["kill", "no-such-name"], ["kill", "lr-*"], ["ls", "99"]],
    ids=" ".join,
)
def test_an_unknown_job(ended: World, words: list[str]) -> None:
    done = ended.run(*words)
    assert_one_line(done, 1, f"job {words[-1]}: no such job")
    assert_nothing_left(ended, rows=1)


def test_a_range_that_names_nobody(ended: World) -> None:
    assert_one_line(ended.run("kill", "50-60"), 1, "50-60", "no such job")


@pytest.mark.parametrize("words", [["kill", "1"], ["renice", "5", "1"]], ids=" ".join)
def test_an_ended_job(ended: World, words: list[str]) -> None:
    assert_one_line(ended.run(*words), 1, "job 1", "ended")
    assert_nothing_left(ended, rows=1)


def test_of_several_targets_those_that_can_be_done_are_done(ended: World) -> None:
    holder = ended.start("-g", "2", "--", "sleep", "60")
    wait_until(lambda: ended.state(2) == "running", "job 2 to run")
    waiting = [ended.start("--", "true") for _ in range(2)]
    wait_until(lambda: ended.state(4) == "waiting", "job 4 to wait")
    done = ended.run("renice", "7", "99", "3", "1", "4")
    assert done.returncode == 1, done
    assert len(done.stderr.splitlines()) >= 2
    assert "job 99: no such job" in done.stderr
    assert "job 1" in done.stderr
    assert [job["priority"] for job in ended.jobs(all=False)] == [0, 7, 7]
    done = ended.run("kill", "99", "3", "1", "4")
    assert done.returncode == 1, done
    assert "job 99: no such job" in done.stderr
    assert [child.wait(30) for child in waiting] == [-15, -15]
    assert holder.poll() is None
    assert ended.run("kill", "2").returncode == 0
    assert holder.wait(30) == -15
    assert_nothing_left(ended, rows=4)


# --- words that are names, and words that are none ------------------------------------------------------------------

NO_TEXT = b"\xff\x1b[31m"
VERBS_ON_JOBS = {
    "kill": 1, "ls": 1, "why": 1, "pause": 1, "resume": 1, "logs": 1, "wait": 1, "again": 1, "history": 1,
    "renice 5": 1, "set -p 5": 1,
}  # fmt: skip


@pytest.fixture
def some_job(make_world: MakeWorld) -> World:
    world = make_world("1x24G")
    assert world.run("-N", "x", "true").returncode == 0
    return world


@pytest.mark.parametrize("verb", VERBS_ON_JOBS)
def test_bytes_that_are_no_text_name_no_job(some_job: World, verb: str) -> None:
    done = some_job.run(*verb.split(), NO_TEXT)
    assert_one_line(done, VERBS_ON_JOBS[verb], "job ??[31m: no such job")


def test_an_empty_word_names_no_job(some_job: World) -> None:
    assert_one_line(some_job.run("kill", ""), 1, "job '': no such job")


@pytest.mark.parametrize(("verb", "where"), [("ls", " on simulated GPUs (1x24G)"), ("history", "")])
def test_bytes_that_are_no_text_are_no_user(some_job: World, verb: str, where: str) -> None:
    done = some_job.run(verb, "-u", NO_TEXT)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"no jobs{where}\n", "")


NAMES = {
    "5-6": "a name cannot be a range",
    "*": "a name cannot be a pattern",
    "lr-[0]": "a name cannot be a pattern",
    "what?": "a name cannot be a pattern",
    "4": "a name cannot be a number",
    "sweep-7": "is what a sweep without a name is called",
    "": "must not be empty",
    b"n\xff": "these bytes are not UTF-8",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["", "-d", "-r"])
def test_a_name_that_would_mean_other_jobs_is_refused(make_world: MakeWorld, name: str | bytes, form: str) -> None:
    world = make_world("1x24G")
    done = world.run(*form.split(), "-N", name, "true")
    assert_one_line(done, 125, NAMES[name])
    assert_nothing_left(world)


def test_a_waiting_job_cannot_be_given_such_a_name_either(make_world: MakeWorld) -> None:
    world = make_world("1x24G")
    world.start("sleep", "600")
    wait_until(lambda: world.state(1) == "running", "job 1 to run")
    world.start("-q", "-N", "good", "true")
    wait_until(lambda: world.state(2) == "waiting", "job 2 to wait")
    for name, why in NAMES.items():
        assert_one_line(world.run("set", "-N", name, "2"), 2, why)
    assert world.job(2)["name"] == "good"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_verbs_do_what_they_do_though_standard_descriptors_are_closed(world: World, closed: str) -> None:
    assert world.run("-d", "sleep", "60").returncode == 0
    wait_until(lambda: world.state(1) == "running", "the job to run")
    verbs = ["ls", "ls --json", "history", "gpus", "doctor", "logs 1", "renice 5 1", "set -t 1h 1", "completion bash"]
    for words in [*verbs, "--dry-run true", "kill -9 1", "wait 1"]:
        script = f"{world.command} {words} {closed}"
        done = subprocess.run(["sh", "-c", script], env=world.env, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (137 if words == "wait 1" else 0, ""), words
    assert (world.job(1)["priority"], world.job(1)["result"]["signal"]) == (5, 9)
