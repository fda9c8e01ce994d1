"""A program gets its arguments byte for byte, and is found or refused as by a shell."""

import os
import random
from pathlib import Path

import pytest
from fidelity import STAND_IN, Case, Counted, Run, check, entries, launch, only_gpurun, outcome
from world import World


def word_cases() -> list[Case]:
    """The program writes down its own command line, from the kernel's record."""
    shown = ["/bin/sh", "-c", "exec 3<&-; cat /proc/$$/cmdline"]
    every = [bytes([value]) for value in range(1, 256)]
    random_words = random.Random(22)
    words: dict[str, list[bytes]] = {
        "none": [],
        "empty": [b""],
        "empties": [b""] * 7,
        "empty last": [b"a", b""],
        "empty first": [b"", b"a"],
        "newline": [b"\n"],
        "newlines": [b"a\nb\n", b"\r\n"],
        "not UTF-8": [b"\xff\xfe", b"\x80", b"caf\xe9"],
        "surrogates": [b"\xed\xb2\x80", b"\xed\xa0\xbd"],
        "UTF-8": ["žluťoučký 🐎".encode()],
        "every byte": every,
        "every byte in one": [b"".join(every)],
        "100 KB in one": [b"x" * 100_000],
        "100 KB in 10000": [b"%09d" % number for number in range(10_000)],
        "100 KB of odd bytes": [random_words.randbytes(100_000).replace(b"\0", b"\n")],
        "1 MB": [b"y" * 100_000] * 10,
        "longest": [b"z" * (128 * 1024 - 1)],
        "spaces": [b" ", b"  a  b ", b"\t"],
        "quotes": [b"'", b'"', b"\\", b"`", b"$(id)", b"${HOME}", b"*", b"~", b"!"],
        "percent": [b"%j", b"%s", b"%", b"{}"],
        "verbs": [b"ls", b"kill", b"wait", b"demo", b"renice"],
        "help": [b"--help"],
        "version": [b"--version"],
        "-h": [b"-h"],
        "dashes": [b"--"],
        "many dashes": [b"--", b"--", b"-", b"---"],
        "gpus": [b"-g", b"9", b"--gpus=99"],
        "memory": [b"-m", b"nonsense", b"--memory"],
        "priority": [b"-p", b"1000", b"-n", b"-w", b"1s", b"-E", b"3"],
        "simulated": [b"--sim", b"nonsense", b"--dry-run", b"-q", b"-v"],
        "unknown options": [b"--unknown", b"-Z", b"-\xff", b"--\n"],
        "device": [b"-i", b"17", b"--not", b"0", b"--exclusive"],
        "assignments": [b"A=1", b"=odd", b"=", b"CUDA_VISIBLE_DEVICES=7"],
        "self": [b"gpurun", b"gpurun", b"-g", b"1"],
    }
    for number in range(20):
        words[f"random {number}"] = [
            random_words.randbytes(random_words.randrange(40)).replace(b"\0", b"") for _ in range(random_words.randrange(1, 30))
        ]
    return [Case(name, [*shown, *given]) for name, given in words.items()]


def test_arguments_are_passed_byte_for_byte(warm: World, counted: Counted) -> None:
    cases = word_cases()
    pairs = launch(warm, cases)
    for pair in pairs:
        assert pair.bare.out == b"".join(os.fsencode(word) + b"\0" for word in pair.argv), f"{pair.name}: launcher"
    check(counted, pairs)


def test_arguments_are_passed_after_a_double_dash_too(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, word_cases(), options=["--"]))


@only_gpurun
def test_arguments_are_passed_after_options_too(warm: World, counted: Counted) -> None:
    check(counted, launch(warm, word_cases(), options=["-g", "0", "-p", "low", "-N", "words"]))


def executable(path: Path, text: bytes, mode: int = 0o755) -> Path:
    path.write_bytes(text)
    path.chmod(mode)
    return path


@pytest.mark.needs("bash")
def test_programs_are_found_and_refused_as_by_a_shell(warm: World, counted: Counted, tmp_path: Path) -> None:
    """As bash does it: the same status, and the program's own output; of a refusal, the message is gpurun's."""
    here = os.fsencode(tmp_path)
    # Not among them: a name that only folders on PATH have, or one too long for any; bash and env(1) disagree there.
    shows = b'echo "[$0]" "$@"; exit 7\n'
    for folder in ("first", "second", "third"):
        (tmp_path / folder).mkdir()
    executable(tmp_path / "script", b"#!/bin/sh\n" + shows)
    executable(tmp_path / "bare-script", shows)
    executable(tmp_path / "one-word", b"#! /bin/sh -e\n" + shows)
    executable(tmp_path / "lost", b"#!/nonexistent/interpreter\n" + shows)
    executable(tmp_path / "lost-env", b"#!/usr/bin/env nonexistent-interpreter\n" + shows)
    executable(tmp_path / "folder-interpreter", b"#!/usr/bin\n" + shows)
    executable(tmp_path / "empty", b"")
    executable(tmp_path / "plain", shows, 0o644)
    executable(tmp_path / "first/same", shows, 0o644)
    executable(tmp_path / "second/same", b"#!/bin/sh\n" + shows)
    executable(tmp_path / "first/hidden", shows, 0o644)
    executable(tmp_path / "third/no-line", shows)
    executable(tmp_path / "third/ls", b"#!/bin/sh\n" + shows)
    os.symlink("nowhere", tmp_path / "dangling")
    os.symlink("round", tmp_path / "round")
    os.symlink("script", tmp_path / "linked")
    executable(tmp_path / "-g", b"#!/bin/sh\n" + shows)
    executable(Path(os.fsdecode(here + b"/\xff\n name")), b"#!/bin/sh\n" + shows)
    words: list[bytes] = [
        b"./script", b"script", b"./bare-script", b"./one-word", b"./lost", b"./lost-env", b"./folder-interpreter",
        b"./empty", b"./plain", b"./binary", b"./dangling", b"./round", b"./linked", b"./-g", b"./\xff\n name",
        b"./first", b"first", b"./first/", b"./script/", b"./script/x", b"./nothing", b"nothing-of-the-kind",
        b"/nonexistent/folder/x", b"same", b"hidden", b"no-line", b"true", b"./" + b"n" * 300,
        b"/" * 5000 + b"bin/true", here + b"/script",
    ]  # fmt: skip
    path = b"PATH=" + b":".join([here + b"/first", here + b"/second", here + b"/third", b"/usr/bin", b"/bin"])
    base = [entry for entry in entries(warm.env) if not entry.startswith(b"PATH=")]
    cases = [Case(repr(word), [word, b"-x", b"--help"], [["chdir", str(tmp_path)]], [*base, path]) for word in words]
    pairs = launch(warm, cases, bare=["/bin/bash", "--norc", "-c", '"$@"', "bash"])
    assert {pair.bare.status >> 8 for pair in pairs} == {0, 1, 7, 126, 127}
    # A program that was never started must not leave anything in line.
    if not STAND_IN:
        assert [job for job in warm.jobs() if job["state"] != "ended"] == []
        for pair in pairs:
            if refused(pair.under) and pair.name != repr(b"./lost-env"):
                assert pair.under.err.startswith(b"gpurun: "), (pair.name, pair.under.err)
                assert pair.under.err.count(b"\n") <= 2, (pair.name, pair.under.err)
    check(counted, pairs, lambda run: {**outcome(run), "err": b"" if refused(run) else run.err})


def refused(run: Run) -> bool:
    return run.status in (126 << 8, 127 << 8)


def test_what_the_kernel_cannot_run_is_run_by_sh(warm: World, counted: Counted, tmp_path: Path) -> None:
    """As execvp(3) does it, which the launcher uses."""
    shows = b'echo "[$0]" "$@"; cat /proc/$$/comm; tr "\\0" "|" < /proc/$$/cmdline; exit 7\n'
    executable(tmp_path / "bare-script", shows)
    executable(tmp_path / "empty", b"")
    executable(tmp_path / "comment", b"# nothing\n" + shows)
    executable(tmp_path / "wrong-line", b"#\n!/bin/sh\n" + shows)
    executable(tmp_path / "binary", b"\x7fELF\x02\x01\x01" + bytes(100))
    executable(tmp_path / "one-word", b"#! /bin/sh -e\n" + shows)
    executable(tmp_path / "nested", os.fsencode(f"#!{tmp_path}/one-word\n") + shows)
    names = ["bare-script", "empty", "comment", "wrong-line", "binary", "one-word", "nested"]
    words: list[list[str | bytes]] = [[f"./{name}", *more] for name in names for more in ([], ["-x", "", "a b", b"\xff"])]
    words += [[str(tmp_path / "bare-script")], ["bare-script", "1"], ["nested"]]
    env = [f"PATH={tmp_path}:/usr/bin:/bin".encode(), *(e for e in entries(warm.env) if not e.startswith(b"PATH="))]
    cases = [Case(repr(word), word, [["chdir", str(tmp_path)]], env) for word in words]
    check(counted, launch(warm, cases))
