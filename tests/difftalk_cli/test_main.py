"""The program as a user meets it: help, results, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import stages
from difftalk_cli.main import COMMANDS

ROOT = Path(__file__).parents[2]

SMALL = """
import sys
import difftalk_cli.main as program
import tests.difftalk_cli.small_command
sys.modules["difftalk_cli.commands.small"] = tests.difftalk_cli.small_command
program.COMMANDS["small"] = "A small command."
program.main()
"""
"""The real program with one more command, whose stage ends as its argument says."""


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=120)


def difftalk(*args: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "difftalk_cli", *args)


def small(*args: str) -> subprocess.CompletedProcess[str]:
    return python("-c", SMALL, "small", *args)


def test_help_lists_every_command() -> None:
    done = difftalk("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name


def test_help_is_quick() -> None:
    """The best of five, in processor seconds of the child: a busy machine makes everything look slow."""
    used = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert difftalk("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.5, used


def test_help_imports_no_stage_and_no_heavy_package() -> None:
    script = """
import sys
from difftalk_cli.main import app
app(["--help"], standalone_mode=False)
heavy = {"torch", "numpy", "cv2", "scipy", "dlib", "diffusers", "onnxruntime", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
assert {m for m in sys.modules if m.startswith("stages")} <= {"stages"}, sorted(sys.modules)
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr


def test_help_of_every_command_imports_no_torch() -> None:
    script = """
import sys
from difftalk_cli.main import COMMANDS, app
for name in COMMANDS:
    app([name, "--help"], standalone_mode=False)
heavy = {"torch", "diffusers", "onnxruntime", "matplotlib", "dlib"} & set(sys.modules)
assert not heavy, heavy
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage:") == len(COMMANDS)


def test_version() -> None:
    done = difftalk("--version")
    assert (done.returncode, done.stdout) == (0, f"difftalk {stages.__version__}\n")


@pytest.mark.parametrize(
    "args", [["nothing-like-it"], ["preprocess"], ["preprocess", "x", "--out", "y", "--no-such-option"], []]
)
def test_wrong_usage_exits_2_and_leaves_stdout_empty(args: list[str]) -> None:
    done = difftalk(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage:" in done.stderr and "Traceback" not in done.stderr


def test_a_mistyped_command_gets_a_suggestion() -> None:
    assert "preprocess" in difftalk("preproces").stderr


def test_a_bad_value_of_a_config_is_wrong_usage() -> None:
    done = small("work", "--count", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --count -1: must be at least 0\n"


def test_missing_input_exits_3_with_one_line_that_has_the_path_as_it_is(tmp_path: Path) -> None:
    odd = str(tmp_path / 'no [bold]such[/] "file" here.mp4')
    done = difftalk("preprocess", odd, "--out", str(tmp_path / "work"))
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and odd in done.stderr
    assert done.stderr.count("\n") == 1


def test_success_prints_only_the_result_path_on_stdout() -> None:
    done = small("my work", "-o", "the result")
    assert (done.returncode, done.stdout) == (0, "the result\n")
    assert done.stderr == "reading my work\n"


def test_quiet_says_nothing_but_the_result() -> None:
    done = small("work", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "work/result\n", "")


def test_json_is_one_object_on_stdout() -> None:
    done = small("some", "--json")
    assert done.returncode == 4
    record = json.loads(done.stdout)
    assert set(record) == {"out", "done", "skipped", "failed", "facts"}
    assert (record["done"], record["failed"]) == (2, {"clip": "no face"})


def test_some_failed_exits_4_and_says_where_to_look() -> None:
    done = small("some", "-o", "result")
    assert (done.returncode, done.stdout) == (4, "result\n")
    assert "1 failed, 2 done" in done.stderr and "failures.jsonl" in done.stderr


def test_a_bug_exits_1_and_names_the_kept_traceback() -> None:
    done = small("bug")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr and "KeyError" in done.stderr
    kept = re.search(r"(\S*difftalk-trace-\S+\.txt)", done.stderr)
    assert kept
    try:
        assert "small_stage.py" in Path(kept[1]).read_text(encoding="utf-8")
    finally:
        os.unlink(kept[1])


def test_debug_shows_the_traceback() -> None:
    done = small("bug", "--log-level", "debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "difftalk-trace" not in done.stderr


def test_sigterm_exits_130_as_ctrl_c_does() -> None:
    done = small("stop")
    assert (done.returncode, done.stdout) == (130, "")
    assert "interrupted" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-c", SMALL, "small", "work", "--quiet"],
            cwd=ROOT,
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")
