"""From our options to Slurm's, from Slurm's words to ours: tables, without a Slurm."""

import subprocess
import sys
from pathlib import Path

import pytest

from gpuwrap.errors import UsageError
from gpuwrap.launch.request import read_request
from gpuwrap.options import LAUNCH, parse
from gpuwrap.slurm import reading, reasons, record, site, tools
from gpuwrap.slurm.engine import Slurm
from gpuwrap.slurm.interface import Engine
from gpuwrap.slurm.listening import Listener
from gpuwrap.slurm.mapping import Mapped, is_batch, mapped, quoted, script, shown, slurm_output
from gpuwrap.slurm.names import read_name
from gpuwrap.slurm.site import Band, Site, read_site
from gpuwrap.units import GIB

FRONT = ["-N1", "-n1"]


def of(words: str, at: Site | None = None, program: bytes = b"/usr/bin/train") -> Mapped:
    given, _ = parse([*words.split(), "--", "x"], LAUNCH, permute=False)
    return mapped(given, read_request(given), [program], at or Site())


@pytest.mark.parametrize(
    ("words", "at", "expected"),
    [
        ("", Site(), "--job-name=train --gres=gpu:1"),
        ("-g 0", Site(), "--job-name=train"),
        ("-g 4 -N x", Site(), "--job-name=x --gres=gpu:4"),
        (
            "-g 2",
            Site(gpu="a100", partition="gpu", account="phys"),
            "--job-name=train --gres=gpu:a100:2 --partition=gpu --account=phys",
        ),
        ("-p -5", Site(), "--job-name=train --gres=gpu:1 --nice=500"),
        ("-p low", Site(nice_step=7), "--job-name=train --gres=gpu:1 --nice=70"),
        ("-p high", Site(bands=(Band(10, "urgent", None),), qos="normal"), "--job-name=train --gres=gpu:1 --qos=urgent"),
        ("-p 5", Site(bands=(Band(10, "urgent", None),), qos="normal"), "--job-name=train --gres=gpu:1 --qos=normal"),
        ("-p urgent", Site(bands=(Band(10, "a", "p"), Band(50, None, "q"))), "--job-name=train --gres=gpu:1 --partition=q"),
        ("-t 90m", Site(), "--job-name=train --gres=gpu:1 --time=90"),
        ("-t 61s", Site(), "--job-name=train --gres=gpu:1 --time=2"),
        ("-m 10G", Site(shard_bytes=6 * GIB, shards_per_gpu=4), "--job-name=train --gres=shard:2"),
        ("-m 50%", Site(shards_per_gpu=4), "--job-name=train --gres=shard:2"),
        ("-m 30G", Site(constraints=((40 * GIB, "big"), (80 * GIB, "huge"))), "--job-name=train --gres=gpu:1 --constraint=big"),
        ("--exclusive -m 60G", Site(constraints=((80 * GIB, "b"),)), "--job-name=train --gres=gpu:1 --constraint=b"),
        ("-r", Site(arguments=("--mem=0",)), "--job-name=train --gres=gpu:1 --mem=0"),
    ],
)
def test_options_are_mapped_and_nothing_else_is_sent(words: str, at: Site, expected: str) -> None:
    assert of(words, at).options == [*FRONT, *expected.split()]


@pytest.mark.parametrize(
    ("words", "at", "named"),
    [
        ("--slurm=-M --slurm=other", Site(), "--slurm=-M"),
        ("-i 3", Site(), "--device: Slurm picks the cards"),
        ("--not 3", Site(), "--not: Slurm picks"),
        ("-m 8G", Site(), "-m: this Slurm does not share GPUs by memory"),
        ("-m auto", Site(), "-m auto"),
        ("-m 25G", Site(shard_bytes=6 * GIB, shards_per_gpu=4), "-m 25G: a GPU has 24G here"),
        ("-g 2 -m 8G", Site(shard_bytes=6 * GIB, shards_per_gpu=4), "-g 2 -m: Slurm takes shards from one GPU"),
        ("-m 90G", Site(constraints=((80 * GIB, "huge"),)), "-m 90G: no GPU that the site file names"),
        ("-g all", Site(), "-g all"),
        ("--give-way pause", Site(), "--give-way pause: Slurm's suspension frees no GPU"),
        ("--give-way suspend", Site(), "frees no GPU"),
        ("--give-way never", Site(), "--give-way never"),
        ("--once k", Site(), "--once"),
        ("--once-waiting k", Site(), "--once-waiting"),
        ("--retries 3", Site(), "--retries"),
        ("--signal USR1:60", Site(), "--signal"),
        ("--sim 1x24G", Site(), "--sim"),
        ("-d -n", Site(), "-n: not with -d"),
        ("-d -w 1m", Site(), "-w: not with -d"),
        ("--array 1-3 -n", Site(), "-n: not with -d"),
    ],
)
def test_what_slurm_cannot_do_is_refused_by_name(words: str, at: Site, named: str) -> None:
    with pytest.raises(UsageError) as refused:
        of(words, at)
    assert "--on slurm: " + named in refused.value.text or named in refused.value.text
    assert refused.value.text.startswith("--on slurm: ")


def test_what_is_done_otherwise_is_told() -> None:
    assert "whole minutes" in of("-t 61s").notes[0]
    assert "counts as 0" in of("-p 10").notes[0]
    assert "2 shards of 6G" in of("-m 10G", Site(shard_bytes=6 * GIB, shards_per_gpu=4)).notes[0]
    assert of("-p 10", Site(bands=(Band(10, "q", None),))).notes == of("-t 2m").notes == []


def test_the_users_own_words_come_last_and_may_repeat() -> None:
    found = of("--slurm --mem=0 --slurm=-A --slurm phys -d", Site(arguments=("--exclusive",)))
    assert found.all_options[-4:] == ["--exclusive", "--mem=0", "-A", "phys"]


def test_what_is_sbatchs() -> None:
    def batch(words: str) -> bool:
        given, _ = parse([*words.split(), "x"], LAUNCH, permute=False)
        return is_batch(given, read_request(given))

    by_sbatch = ("-d", "-r", "--give-way requeue", "--array 1-3", "--each f")
    assert [batch(words) for words in (*by_sbatch, "", "-q")] == [True] * 5 + [False] * 2


def test_a_path_is_slurms_pattern() -> None:
    assert slurm_output("/a/%j.log", array=False) == "/a/%j.log"
    assert slurm_output("/a/%j.log", array=True) == "/a/%A_%a.log"
    assert slurm_output("/a/%i%%x%N", array=True) == "/a/%a%%x%%N"
    with pytest.raises(UsageError):
        slurm_output("/a\\b", array=False)


WORDS = [b"a", b"", b"a b", b"'\"\\$`!", b"\xff\xfe", b"x\r\ny", b"\n", b"*?[~#", "größe".encode(), b"--", b"=", b"a=b"]


def test_a_script_holds_any_words(tmp_path: Path) -> None:
    text = script([[b"printf", b"[%s]\\n", *WORDS]], 1)
    assert b"\r\n" not in text
    done = subprocess.run(["sh"], input=text, capture_output=True, check=True)
    assert done.stdout == b"".join(b"[%s]\n" % word for word in WORDS)
    line = shown([b"printf", b"[%s]\\n", *WORDS, b"--comment=a b", b"--x='$y"])
    done = subprocess.run(["sh", "-c", line.encode("utf-8", "surrogateescape")], capture_output=True, check=True)
    assert done.stdout == b"".join(b"[%s]\n" % word for word in [*WORDS, b"--comment=a b", b"--x='$y"])


def test_a_row_runs_its_own_words() -> None:
    text = script([[b"echo", b"one"], [b"echo", b"two"]], 0, [3, 7])
    env = {"SLURM_ARRAY_TASK_ID": "7", "PATH": "/bin:/usr/bin"}
    done = subprocess.run(["sh"], input=text, capture_output=True, check=True, env=env)
    assert done.stdout == b"two\n"
    assert quoted([b"a", b"b c"]) == b"a 'b c'"


def test_names_of_jobs() -> None:
    for word, job in (("s12", "12"), ("s12_7", "12_7"), ("s12_1-4", "12_[1-4]"), ("s12_[1,3]", "12_[1,3]")):
        name = read_name(word)
        assert name is not None
        assert name.job == job
    assert [read_name(word) for word in ("12", "s", "sx", "s12_", "s12_a", "sweep-3", "s1-3")] == [None] * 7


# --- what Slurm prints, as it was seen on 22.05 -------------------------------------------------------------------

SQUEUE = """\
11|N/A|RUNNING|None|1|0|1-02:03:04|UNLIMITED|n1|low|2026-11-30T23:44:55|2026-11-30T23:44:55|gpurun:1 k=a p=-5 g=2 m=1024|we|ird
12|7|PENDING|Priority|4294901757|500|0:00|2:00||low|2026-11-30T23:44:55|N/A|gpurun:1 k=b p=0 g=1|x
12|8-20%4|PENDING|JobHeldUser|0|0|INVALID|2:00||low|2026-11-30T23:44:55|N/A|gpurun:1 k=b p=0 g=1|x
13|N/A|PENDING|(null)|1|0|0:00|2:00||low|N/A|N/A|(null)|other
a line of something else
"""


def test_squeue_is_read_whatever_a_name_holds() -> None:
    jobs = reading.jobs_of(SQUEUE)
    assert [job.job for job in jobs] == ["11", "12_7", "12_[8-20%4]", "13"]
    assert [job.state for job in jobs] == ["running", "waiting", "held", "waiting"]
    assert [job.is_ours for job in jobs] == [True, True, True, False]
    first = jobs[0]
    assert (first.name, first.elapsed, first.priority, first.gpus, first.nodes) == ("we|ird", 93784.0, -5, 2, "n1")
    assert (jobs[1].rank, jobs[1].nice, jobs[1].reason) == (4294901757, 500, "Priority")


SACCT = """\
12|COMPLETED|0:0|2026-11-30T10:00:00|2026-11-30T10:00:01|2026-11-30T10:00:09|8|n1||train
13|CANCELLED by 1000|0:15|2026-11-30T10:00:00|Unknown|2026-11-30T10:00:09|0|None assigned||x|y
14_3|FAILED|3:0|2026-11-30T10:00:00|2026-11-30T10:00:01|2026-11-30T10:00:09|8|n1|gpurun:1 k=a p=0 g=1|row
15|PREEMPTED|0:0|2026-11-30T10:00:00|2026-11-30T10:00:01|2026-11-30T10:00:09|8|n1||low
16|TIMEOUT|0:0|2026-11-30T10:00:00|2026-11-30T10:00:01|2026-11-30T10:00:09|8|n1||long
"""


def test_sacct_is_read() -> None:
    jobs = reading.from_sacct(SACCT)
    assert [(job.job, job.status, job.result) for job in jobs] == [
        ("12", 0, "exit 0"),
        ("13", 143, "signal 15, cancelled"),
        ("14_3", 3, "exit 3"),
        ("15", 0, "a job of higher priority took its GPUs"),
        ("16", 0, "its time limit passed"),
    ]
    assert (jobs[1].name, jobs[1].started) == ("x|y", "")


SCONTROL = """\
JobId=11 JobName=we|ird name=x
   UserId=root(0) GroupId=root(0) MCS_label=N/A
   Priority=0 Nice=5 Account=(null) QOS=(null)
   JobState=FAILED Reason=NonZeroExitCode Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=0 Reboot=0 ExitCode=61:0
   RunTime=00:00:10 TimeLimit=UNLIMITED TimeMin=N/A
   SubmitTime=2026-11-30T23:44:55 EligibleTime=2026-11-30T23:44:55
   StartTime=2026-11-30T23:44:55 EndTime=2026-11-30T23:45:05 Deadline=N/A
   Partition=low AllocNode:Sid=localhost:5158
   NodeList=n1
   Comment=gpurun:1 t=abc g=2

JobId=21 ArrayJobId=20 ArrayTaskId=1 JobName=row
   JobState=RUNNING Reason=None Dependency=(null)
   ExitCode=0:0
"""


def test_scontrol_is_read() -> None:
    first, second = reading.from_scontrol(SCONTROL)
    assert (first.job, first.name, first.status, first.elapsed, first.gpus) == ("11", "we|ird name=x", 61, 10.0, 2)
    assert (second.job, second.state, second.status) == ("20_1", "running", None)
    assert reading.from_scontrol("No jobs in the system\n") == []


def test_every_reason_has_a_sentence_and_what_has_none_is_named() -> None:
    words = (
        "Priority", "Resources", "Dependency", "DependencyNeverSatisfied", "BeginTime", "JobHeldUser", "JobHeldAdmin",
        "JobArrayTaskLimit", "PartitionTimeLimit", "PartitionDown", "ReqNodeNotAvail, May be reserved for other job",
        "QOSMaxJobsPerUserLimit", "QOSMaxGRESPerUser", "QOSGrpGRES", "AssocGrpGRES", "AssocMaxJobsLimit", "NodeDown",
        "BadConstraints", "Licenses", "Reservation", "InvalidAccount", "None",
    )  # fmt: skip
    told = [reasons.sentence(word) for word in words]
    assert len(set(told)) == len(words) >= 15
    assert not any("Slurm says" in text for text in told)
    assert reasons.sentence("Brand_New") == "Slurm says Brand_New"
    assert reasons.is_held("JobHeldUser")
    assert not reasons.is_held("Priority")


def test_an_end_that_slurm_makes_has_words() -> None:
    for state in reading.ENDS:
        job = reading.SlurmJob()
        job.raw = state
        assert (job.state, job.result) == ("ended", reading.ENDS[state])


@pytest.mark.parametrize(
    ("errors", "words", "hint"),
    [
        ("srun: error: invalid partition: x\nsrun: error: Unable to allocate resources: Invalid partition name specified\n",
         "Unable to allocate resources: Invalid partition name specified", "sinfo lists the partitions"),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n",
         "Batch job submission failed: Invalid account or account/partition combination specified", "say an account"),
        ("srun: error: Unable to allocate resources: Requested node configuration is not available\n",
         "Unable to allocate resources: Requested node configuration is not available", "fewer GPUs"),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)\n",
         "Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", "a shorter -t"),
    ],
)  # fmt: skip
def test_a_refusal_is_slurms_own_words_and_what_to_change(errors: str, words: str, hint: str) -> None:
    err = tools.refusal("sbatch", errors)
    assert err.text == f"sbatch: {words}"
    assert hint in str(err.hint)


def test_a_controller_that_is_down_may_answer_later() -> None:
    err = tools.refusal("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n")
    assert isinstance(err, tools.SlurmDown)
    munge = "srun: error: If munged is up, restart with --num-threads=10\nsrun: error: Munge encode failed: x\n"
    err = tools.refusal("srun", munge)
    assert isinstance(err, tools.SlurmDown)
    assert "munged" in str(err.hint)
    assert not isinstance(tools.refusal("srun", "srun: error: whatever\n"), tools.SlurmDown)


# --- srun's words beside the program's ------------------------------------------------------------------------------


TOLD = (
    b"srun: defined options\nsrun: verbose             : 1\nsrun: job 7 queued and waiting for resources\n"
    b"srun: job 7 has been allocated resources\nsrun: jobid 7: nodes(1):`n1', cpu counts: 1(x1)\n"
    b"srun: launching StepId=7.0 on host n1, 1 tasks: 0\nsrun: launch/slurm: _task_start: Node n1, 1 tasks started\n"
)
OVER = b"srun: launch/slurm: _task_finish: Received task exit notification for 1 task of StepId=7.0 (status=0x0300).\n"
OVER += b"srun: error: n1: task 0: Exited with exit code 3\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
def test_only_what_the_program_wrote_is_passed_on(size: int) -> None:
    program = b"one\nsrun\nsrun: error: mine\nsru"
    text = TOLD + program + b"\n" + OVER
    listener = Listener()
    passed = b"".join(listener.hear(text[at : at + size]) for at in range(0, len(text), size)) + listener.hear(b"", last=True)
    assert passed == program + b"\n"
    assert (listener.job, listener.has_started, listener.is_queued, listener.status) == ("7", True, False, 0x300)


def test_what_a_steps_manager_says_of_the_end_is_kept_apart() -> None:
    listener = Listener()
    listener.hear(TOLD)
    said = b"slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-12-01T01:10:29 DUE TO TIME LIMIT ***\n"
    assert listener.hear(b"last\n" + said + b"slurm: mine\n") == b"last\nslurm: mine\n"
    assert b"TIME LIMIT" in listener.notice


def test_a_line_without_an_end_is_passed_on_at_once() -> None:
    listener = Listener()
    listener.hear(TOLD)
    assert listener.hear(b"Password: ") == b"Password: "
    assert listener.hear(OVER) == b""
    assert listener.status == 0x300


# --- the site file and the record -----------------------------------------------------------------------------------


def test_the_site_file_is_read_and_the_users_own_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "files", lambda: [str(tmp_path / "a.toml"), str(tmp_path / "b.toml")])
    (tmp_path / "a.toml").write_text(
        'partition = "gpu"\nnice_step = 50\nshard_memory = "6G"\nshards_per_gpu = 4\nargs = ["--mem=0"]\n'
        '[constraints]\n"40G" = "gpu40g"\n[[priority]]\nfrom = 10\nqos = "high"\n'
    )
    (tmp_path / "b.toml").write_text('partition = "mine"\n')
    read = read_site()
    assert (read.partition, read.nice_step, read.shard_bytes, read.shards_per_gpu) == ("mine", 50, 6 * GIB, 4)
    assert (read.constraints, read.arguments) == (((40 * GIB, "gpu40g"),), ("--mem=0",))
    band = read.band_of(50)
    assert read.band_of(9) is None
    assert band is not None
    assert (band.since, band.qos, band.partition) == (10, "high", None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('partion = "x"', "partion: unknown"), ("partition = 3", "a word in quotes"), ('shard_memory = "6"', "unit missing"),
        ("nice_step = 0", "a count"), ("priority = 3", "tables of from"), ("[[priority]]\nfrom = 200", "from 200: -100 to 100"),
        ("args = 3", "a list of words"), ("constraints = 3", "a table"),
    ],
)  # fmt: skip
def test_a_site_file_that_is_wrong_is_named(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpuwrap.errors import GpurunError

    path = tmp_path / "slurm.toml"
    path.write_text(text + "\n")
    monkeypatch.setattr(site, "files", lambda: [str(path)])
    with pytest.raises(GpurunError) as wrong:
        read_site()
    assert (str(path) in wrong.value.text, says in wrong.value.text) == (True, True)


def test_slurm_stands_behind_the_small_interface() -> None:
    engine: Engine = Slurm()  # the type checker compares them
    assert {name for name in vars(Engine) if not name.startswith("_")} <= set(dir(engine))


def test_a_launch_on_slurm_loads_little(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, gpuwrap.slurm.launching, gpuwrap.slurm.foreground; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"dataclasses", "typing", "subprocess", "json", "tomllib", "re", "enum", "datetime", "sqlite3", "pynvml"}
    assert not set(loaded) & heavy


def test_a_record_keeps_any_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPURUN_DIR", str(tmp_path))
    argv = [b"", b"a\nb", b"\\n", b"\xff", b"x\\"]
    record.write(record.new("12", argv, b"/tmp/\n\xff.log", comment="gpurun:1 k=a", name="x"))
    found = record.read("12")
    assert found is not None
    assert (found.argv, found.log) == (argv, b"/tmp/\n\xff.log")
    record.note("12", code=3)
    again = record.read("12")
    assert again is not None
    assert (again.number("code"), again.argv) == (3, argv)
    assert record.jobs() == ["12"]
    monkeypatch.setenv("SLURM_CONF", "/etc/other/slurm.conf")
    assert record.read("12") is None  # another cluster's number
