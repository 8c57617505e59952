from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from stages.artifacts import read_artifact
from stages.errors import ArtifactError, InputError
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
