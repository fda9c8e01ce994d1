"""What an administrator says about people in /etc/gpurun/settings.toml, and that nobody else can say it."""

import os
from pathlib import Path

import pytest

from gpuwrap.errors import GpurunError
from gpuwrap.people import ORDINARY, Between
from gpuwrap.state import machine, settings

FILE = """
between_users = "priority"
own_queues = "last"
admin_group = "operators"
jobs_per_gpu = 2

[default]
max_gpus = 2
max_priority = "high"
default_time = "1d"

[groups.students]
max_gpus = 1
weight = 0.5

[groups.staff]
max_gpus = "all"
may_refuse = false

[users.carla]
may_interrupt = "others"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "settings.toml"
    path.parent.mkdir(mode=0o755)
    path.write_text(FILE)
    path.chmod(0o644)
    return path


def refused(path: Path, owner: int | None = None) -> str:
    with pytest.raises(GpurunError) as told:
        machine.split(machine.read_file(str(path), os.geteuid() if owner is None else owner), str(path))
    return f"{told.value.text} / {told.value.hint}".replace(str(path.parent), "ETC")


def test_a_user_may_what_the_default_his_first_group_and_his_own_table_say_the_later_winning(file: Path) -> None:
    rules, rest = machine.split(machine.read_file(str(file), os.geteuid()))
    assert rest == {"jobs_per_gpu": 2}
    assert (rules.between, rules.own_queues, rules.admin_group) == (Between.PRIORITY, "last", "operators")
    bob = rules.caps_of("bob", frozenset())
    assert (bob.max_gpus, bob.max_priority, bob.default_time_seconds, bob.may_refuse) == (2, 10, 86400.0, True)
    both = rules.caps_of("dave", frozenset({"staff", "students"}))
    assert (both.max_gpus, both.weight, both.may_refuse) == (1, 0.5, True), "the first group in the file"
    carla = rules.caps_of("carla", frozenset({"staff"}))
    assert (carla.max_gpus, carla.may_refuse, carla.may_interrupt) == (None, False, True)
    assert rules.says_who("max_gpus", "carla", frozenset({"staff"})) == "[groups.staff]"
    assert rules.says_who("max_gpus", "bob", frozenset()) == "[default]"
    assert rules.says_who("max_jobs", "bob", frozenset()) == "the default"
    assert rules.says_who("may_interrupt", "carla", frozenset()) == "[users.carla]"


def test_without_a_file_everybody_may_what_is_ordinary(tmp_path: Path) -> None:
    rules, rest = machine.split(machine.read_file(str(tmp_path / "none"), os.geteuid()))
    assert rest == {}
    assert rules == machine.Rules()
    assert rules.caps_of("anna", frozenset()) is ORDINARY


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("betwen_users = 'fair'", "betwen_users: unknown / did you mean between_users?"),
        ("own_queues = 'never'", "own_queues: never: one of last / None"),
        ("on_end = ['mail', 'root']", "on_end: each user sets it for himself / None"),
        ("between_users = 'fare'", "between_users: fare: one of fair, priority, arrival / None"),
        ("[users.anna]\nmax_gpu = 1", "[users.anna] max_gpu: unknown / did you mean max_gpus?"),
        ("[users.anna]\nmax_gpus = -1", "[users.anna] max_gpus: -1: a count / None"),
        ("[users.anna]\nmax_gpus = true", "[users.anna] max_gpus: True: a count / None"),
        ("[default]\nweight = 0", "[default] weight: 0: a weight from 0.01 to 1000 / None"),
        ("[default]\nweight = nan", "[default] weight: nan: a weight from 0.01 to 1000 / None"),
        ("[default]\nmax_time = 3", "[default] max_time: 3: text in quotes, with a unit / None"),
        ("[default]\nmax_priority = 1000", "[default] max_priority: 1000: a priority from -100 to 100 / None"),
        ("users = 3", "[users]: a table for each name / None"),
        ("[users]\nanna = 3", "[users.anna]: a table / None"),
        ("[groups.x]\nmay_refuse = 1", "[groups.x] may_refuse: 1: true or false / None"),
    ],
)
def test_what_cannot_be_read_is_named(file: Path, text: str, told: str) -> None:
    file.write_text(text)
    assert refused(file) == f"cannot use settings: ETC/settings.toml: {told}"


def test_a_file_that_another_could_have_written_is_not_read(file: Path) -> None:
    file.chmod(0o666)
    assert refused(file).startswith("cannot use settings: ETC/settings.toml: others may write it / chown root")
    file.chmod(0o644)
    file.parent.chmod(0o777)
    assert refused(file).startswith("cannot use settings: ETC: others may write it")
    file.parent.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(file, 1001, -1)
        assert refused(file).startswith("cannot use settings: ETC/settings.toml: belongs to uid 1001")
        os.chown(file, 0, 1001)
        file.chmod(0o664)
        assert refused(file).startswith("cannot use settings: ETC/settings.toml: its group may write it")


def test_no_setting_of_people_has_the_name_of_one_of_every_queue() -> None:
    assert not set(settings.SETTINGS) & {*machine.WHOLE, *machine.CAPS, "default", "groups", "users"}
