from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.artifacts import read_artifact
from stages.errors import ArtifactError, DiffTalkError, DiskError, InputError
from tests.artifacts.small import Config, leftovers, run, tree

TEXTS = {"a-1": "alpha", "b-2": "beta", "c-3": "gamma"}


def failing(error: BaseException, bad: str = "b-2") -> Any:
    def during(id: str, folder: Path) -> None:
        if id == bad:
            raise error

    return during


def failures(root: Path) -> list[dict[str, Any]]:
    path = root / "failures.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_one_bad_unit_is_recorded_and_the_rest_go_on(tmp_path: Path) -> None:
    outcome = run(tmp_path, TEXTS, during=failing(InputError("b-2.txt: no face", detail="ffmpeg said so")))
    assert (outcome.report.done, outcome.report.failed, outcome.report.exit_code) == (2, {"b-2": "b-2.txt: no face"}, 4)
    (record,) = failures(tmp_path)
    assert {k: record[k] for k in ("id", "source", "error", "message", "detail", "final")} == {
        "id": "b-2", "source": "b-2.txt", "error": "InputError", "message": "b-2.txt: no face", "detail": "ffmpeg said so", "final": True,
    }  # fmt: skip
    assert read_artifact(tmp_path, "clips").manifest["clips"] == {"ok": ["a-1", "c-3"], "failed": ["b-2"]}
    assert not leftovers(tmp_path) and not (tmp_path / "clips" / "b-2").exists()


def test_all_bad_is_exit_code_3_and_still_an_artifact_that_says_so(tmp_path: Path) -> None:
    outcome = run(tmp_path, {"b-2": "beta"}, during=failing(InputError("no face")))
    assert outcome.report.exit_code == 3
    assert read_artifact(tmp_path, "clips").manifest["clips"] == {"ok": [], "failed": ["b-2"]}


def test_bad_input_is_remembered_with_its_reason(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, during=failing(InputError("no face")))
    before = tree(tmp_path)
    outcome = run(tmp_path, TEXTS)
    assert outcome.made == [] and outcome.report.exit_code == 4
    assert "skip b-2: failed before: no face (--force tries again)" in outcome.lines.logged
    assert tree(tmp_path) == before


@pytest.mark.parametrize("change", [{"force": True}, {"config": Config(size=26)}, {"code": 2}])
def test_bad_input_is_tried_again_when_something_changes(tmp_path: Path, change: dict[str, Any]) -> None:
    run(tmp_path, TEXTS, config=Config(), during=failing(InputError("no face")))
    outcome = run(tmp_path, TEXTS, **{"config": Config()} | change)
    assert "b-2" in outcome.made and outcome.report.exit_code == 0
    assert not failures(tmp_path) and len(read_artifact(tmp_path, "clips").clips) == 3


@pytest.mark.parametrize(
    "error",
    [DiffTalkError("worker died"), ValueError("a bug"), ArtifactError("clip x: crops.npy cannot be read"), MemoryError(), OSError("odd"),
     PermissionError(errno.EACCES, "Permission denied", "/elsewhere/in.mp4"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_another_error_fails_its_unit_only_and_is_tried_again(tmp_path: Path, error: Exception) -> None:
    outcome = run(tmp_path, TEXTS, during=failing(error))
    assert (outcome.report.done, list(outcome.report.failed)) == (2, ["b-2"])
    (record,) = failures(tmp_path)
    assert record["error"] == type(error).__name__ and record["message"] and not record["final"]
    assert bool(record["detail"]) != isinstance(error, DiffTalkError)  # a bug comes with its traceback
    again = run(tmp_path, TEXTS)
    assert again.made == ["b-2"] and again.report.exit_code == 0 and not failures(tmp_path)


def test_facts_that_are_no_json_fail_their_unit(tmp_path: Path) -> None:
    for facts in ({"x": float("nan")}, {"x": object()}):
        outcome = run(tmp_path, {"a-1": "x"}, force=True, during=None)
        assert outcome.report.done == 1
        from stages.artifacts import Store
        from stages.runtime import Runtime
        from tests.artifacts.small import units

        with Store(tmp_path, kind="clips", stage="small", code=2, config=Config(), runtime=Runtime(force=True)) as store:
            for unit in store.plan(units({"a-1": "x"})):
                with store.draft(unit) as draft:
                    draft.facts |= facts
            assert list(store.seal().failed) == ["a-1"]


def test_a_failure_over_an_older_version_lists_neither(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, config=Config())
    first = tree(tmp_path)
    outcome = run(tmp_path, TEXTS, config=Config(size=30), during=failing(InputError("no face")))
    assert outcome.report.exit_code == 4
    assert read_artifact(tmp_path, "clips").manifest["clips"] == {"ok": ["a-1", "c-3"], "failed": ["b-2"]}
    assert run(tmp_path, TEXTS, config=Config(size=30)).made == []
    assert read_artifact(tmp_path, "clips").manifest["clips"]["failed"] == ["b-2"]
    assert (tmp_path / "clips" / "b-2" / "a.txt").exists()  # the older version was not thrown away ...
    run(tmp_path, TEXTS, config=Config())
    assert tree(tmp_path) == first  # ... and serves again with the older configuration


def test_failures_of_other_sources_stay_until_they_are_made(tmp_path: Path) -> None:
    run(tmp_path, {"b-2": "beta"}, during=failing(InputError("no face")))
    run(tmp_path, {"a-1": "alpha"})
    assert read_artifact(tmp_path, "clips").manifest["clips"] == {"ok": ["a-1"], "failed": ["b-2"]}


def test_a_torn_failures_file_costs_only_another_try(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, during=failing(InputError("no face")))
    with (tmp_path / "failures.jsonl").open("ab") as f:
        f.write(b'[]\n{"id": "x"}\n\xff\xfe\n{"id": "c-3", "mess')
    outcome = run(tmp_path, TEXTS)
    assert outcome.made == [] and list(outcome.report.failed) == ["b-2"]
    assert [f["id"] for f in failures(tmp_path)] == ["b-2"]


def test_a_name_that_is_not_unicode_can_fail(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    for _ in range(2):
        outcome = run(tmp_path, TEXTS | {name: "x"}, during=failing(InputError(f"{name}: no face"), name))
        assert list(outcome.report.failed) == [name] and len(outcome.report.failed) == 1


# -- the disk


def full_after(writes: int) -> Any:
    """os.replace, out of space after so many renames."""
    real, left = os.replace, [writes]

    def replace(*names: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*names)

    return replace


@pytest.mark.parametrize("writes", range(7))
def test_a_full_disk_ends_the_run_and_loses_nothing_committed(tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "reference", TEXTS)
    committed: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_after(writes))
        try:
            run(tmp_path / "out", TEXTS, during=lambda *_: committed.extend((tmp_path / "out" / "clips").glob("*/clip.json")))
        except DiskError as error:
            assert "disk is full" in str(error) and "what is done is kept" in str(error)
        else:
            pytest.fail("the disk was full")
    assert not leftovers(tmp_path) and not failures(tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in set(committed)}
    outcome = run(tmp_path / "out", TEXTS)
    assert outcome.report.exit_code == 0 and {p: p.stat().st_mtime_ns for p in times} == times
    assert tree(tmp_path / "out") == tree(tmp_path / "reference")


def test_a_disk_that_fills_while_a_unit_is_written_ends_the_run(tmp_path: Path) -> None:
    def during(id: str, folder: Path) -> None:
        if id == "b-2":
            with open("/dev/full", "wb", buffering=0) as f:
                np.zeros(1 << 20).tofile(f)

    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(DiskError, match="disk is full"):
        run(tmp_path, TEXTS, during=during)
    assert [p.name for p in (tmp_path / "clips").iterdir()] == ["a-1"] and not leftovers(tmp_path)
    assert run(tmp_path, TEXTS).made == ["b-2", "c-3"]


def test_a_failure_that_cannot_be_recorded_ends_the_run_and_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise DiskError("cannot write: the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("stages.artifacts.store.append_line", full)
        patch.setattr("stages.artifacts.journal.append_line", lambda path, record: full() if record["event"] != "start" else None)
        with pytest.raises(DiskError):
            run(tmp_path, TEXTS, during=failing(InputError("no face")))
    assert run(tmp_path, TEXTS).report.exit_code == 0  # the lock is free, too


SMALL_FILES = (
    "import sys, pathlib; from tests.artifacts.small import run\n"
    "from stages.errors import ArtifactError\n"
    "try:\n"
    "    run(pathlib.Path(sys.argv[1]), {'a-1': 'x', 'b-2': 'y' * 100_000, 'c-3': 'z'})\n"
    "except ArtifactError as error:\n"
    "    sys.exit(f'told: {error}')\n"
)


def test_a_limit_on_file_sizes_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_FILES, tmp_path / "out"], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("told: cannot write") and "larger than the limit" in done.stderr
    assert [p.name for p in (tmp_path / "out" / "clips").iterdir()] == ["a-1"] and not leftovers(tmp_path)


def test_a_real_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=300k none "{tmp_path}"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("this user may not mount a small file system")
    script = f'{mount} && "$1" -c "$2" "$3"; echo "code $?"; ls "$3/clips"; rm -r "$3/clips/b-2"; ls -A "$3"'
    big = SMALL_FILES.replace("100_000", "200_000")
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", sys.executable, big, tmp_path / "out"], capture_output=True, text=True, timeout=60
    )
    assert "told: cannot write" in done.stderr and "disk is full" in done.stderr, done.stderr
    assert done.stdout.split()[:3] == ["code", "1", "a-1"] and "artifact.json" not in done.stdout and ".tmp" not in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_output_folder_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    for root in (tmp_path, tmp_path / "out"):
        with pytest.raises(ArtifactError, match="permission denied; choose another output"):
            run(root, TEXTS)
