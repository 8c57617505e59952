from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.artifacts import read_artifact
from stages.errors import ArtifactError, InputError, UsageError
from tests.artifacts.small import leftovers, run, tree

TEXTS = {f"u-{i:02}": f"text {i}" for i in range(12)}

SHARD = (
    "import sys, pathlib; from stages.errors import InputError; from tests.artifacts.small import run\n"
    "def during(id, folder):\n"
    "    if id == 'u-03': raise InputError('no face')\n"
    f"run(pathlib.Path(sys.argv[1]), {TEXTS!r}, shard=(int(sys.argv[2]), 2), during=during)"
)


def no_face(id: str, folder: Path) -> None:
    if id == "u-03":
        raise InputError("no face")


def test_shards_at_once_then_the_plain_run_equal_a_single_run(tmp_path: Path) -> None:
    root = tmp_path / "sharded"
    both = [subprocess.Popen([sys.executable, "-c", SHARD, root, str(i)]) for i in (0, 1)]
    assert [p.wait(60) for p in both] == [0, 0]
    with pytest.raises(ArtifactError, match="has not ended"):
        read_artifact(root, "clips")
    outcome = run(root, TEXTS)
    assert outcome.made == [] and outcome.report.failed == {"u-03": "no face"}
    run(tmp_path / "single", TEXTS, during=no_face)
    assert tree(root) == tree(tmp_path / "single") and not leftovers(root)


def test_each_unit_belongs_to_one_shard(tmp_path: Path) -> None:
    made = [run(tmp_path / str(i), TEXTS, shard=(i, 3)).made for i in range(3)]
    assert sorted(id for part in made for id in part) == sorted(TEXTS)
    assert all(made), "a share without work: choose other texts"


def test_a_shard_run_again_does_nothing(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, shard=(0, 2), during=no_face)
    run(tmp_path, TEXTS, shard=(1, 2), during=no_face)
    before = tree(tmp_path)
    for i in (0, 1):
        assert run(tmp_path, TEXTS, shard=(i, 2)).made == []
    assert tree(tmp_path) == before
    named = [json.loads(line)["id"] for p in tmp_path.glob("failures*.jsonl") for line in p.read_text().splitlines()]
    assert named == ["u-03"]


def test_a_shards_later_failure_overrides_an_earlier_one(tmp_path: Path) -> None:
    def other(id: str, folder: Path) -> None:
        if id == "u-03":
            raise InputError("too short")

    run(tmp_path, TEXTS, during=no_face)
    for i in (0, 1):
        run(tmp_path, TEXTS, shard=(i, 2), code=2, during=other)
    assert run(tmp_path, TEXTS, code=2).report.failed == {"u-03": "too short"}


def test_the_plain_run_sweeps_up_after_killed_shards(tmp_path: Path) -> None:
    (tmp_path / ".tmp-0-of-2" / "half").mkdir(parents=True)
    run(tmp_path, TEXTS, shard=(1, 2))
    assert (tmp_path / ".tmp-0-of-2").exists()  # another shard's, which may be alive
    run(tmp_path, TEXTS)
    assert not leftovers(tmp_path)


def test_merge_seals_what_shards_made_and_equals_a_single_run(tmp_path: Path) -> None:
    root = tmp_path / "sharded"
    for i in range(3):
        run(root, TEXTS, shard=(i, 3), during=no_face)
    outcome = run(root, TEXTS, merge=True, during=no_face)
    assert outcome.made == [] and outcome.report.failed == {"u-03": "no face"} and outcome.report.exit_code == 4
    run(tmp_path / "single", TEXTS, during=no_face)
    assert tree(root) == tree(tmp_path / "single") and not leftovers(root)
    assert not list(root.glob(".digests-*")) and read_artifact(root, "clips").digest == read_artifact(tmp_path / "single", "clips").digest


def test_merge_names_what_is_missing_and_makes_and_seals_nothing(tmp_path: Path) -> None:
    run(tmp_path, TEXTS, shard=(0, 3))
    before = tree(tmp_path)
    missing = sorted(set(TEXTS) - {p.name for p in (tmp_path / "clips").iterdir()})
    with pytest.raises(ArtifactError, match=f"{len(missing)} of 12 are not made yet .*{missing[0]}.*--merge away"):
        run(tmp_path, TEXTS, merge=True)
    assert tree(tmp_path) == before and not (tmp_path / "artifact.json").exists()


def test_merge_keeps_a_failure_that_the_plain_run_would_try_again(tmp_path: Path) -> None:
    def bug(id: str, folder: Path) -> None:
        if id == "u-03":
            raise ValueError("once")

    for i in (0, 1):
        run(tmp_path, TEXTS, shard=(i, 2), during=bug)
    outcome = run(tmp_path, TEXTS, merge=True)
    assert outcome.made == [] and outcome.report.failed == {"u-03": "once"} and len(read_artifact(tmp_path, "clips").clips) == 11
    assert run(tmp_path, TEXTS).made == ["u-03"] and len(read_artifact(tmp_path, "clips").clips) == 12


@pytest.mark.parametrize("also", [{"shard": (0, 2)}, {"force": True}])
def test_merge_with_what_makes_clips_is_refused(also: dict, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--merge makes nothing"):
        run(tmp_path, TEXTS, merge=True, **also)
