from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import read_artifact
from stages.errors import ArtifactError
from tests.artifacts.small import run

TEXTS = {"a-1": "alpha", "b-2": "beta"}


def test_an_absent_artifact_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no clips artifact at .*: make it with `difftalk preprocess .*none`"):
        read_artifact(tmp_path / "none", "clips")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"file is a file, .*`difftalk preprocess VIDEOS --out DIR`"):
        read_artifact(tmp_path / "file", "clips")
    with pytest.raises(ArtifactError, match=r"extract-audio '.*/a folder'`"):
        read_artifact(tmp_path / "a folder" / "features", "features")
    with pytest.raises(ArtifactError, match=f"`difftalk extract-audio {tmp_path}`"):
        read_artifact(tmp_path / "features", "features")


def test_an_incomplete_artifact_names_its_command(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    (tmp_path / "artifact.json").unlink()
    with pytest.raises(ArtifactError, match=r"no artifact\.json: .* has not ended; run `difftalk preprocess VIDEOS --out"):
        read_artifact(tmp_path, "clips")


def test_an_artifact_of_another_kind_is_refused(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    with pytest.raises(ArtifactError, match="is a clips artifact, not denoiser; denoiser is made by `difftalk train"):
        read_artifact(tmp_path, "denoiser")


def test_another_schema_is_refused(tmp_path: Path) -> None:
    run(tmp_path, TEXTS)
    manifest = json.loads((tmp_path / "artifact.json").read_text())
    (tmp_path / "artifact.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(ArtifactError, match="has schema 2, this version reads 1"):
        read_artifact(tmp_path, "clips")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "clips"}', "\xff\xfe"])
def test_a_manifest_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    run(tmp_path, TEXTS)
    (tmp_path / "artifact.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"artifact\.json.* again"):
        read_artifact(tmp_path, "clips")


@pytest.mark.parametrize("name", ["clip.json", "a.txt"])
def test_a_clip_that_has_gone_is_told(tmp_path: Path, name: str) -> None:
    run(tmp_path, TEXTS)
    (tmp_path / "clips" / "b-2" / name).unlink()
    artifact = read_artifact(tmp_path, "clips")
    with pytest.raises(ArtifactError, match=r"clip b-2: .* rerun the command that made? it|rerun the command that makes it"):
        artifact.clips["b-2"].array("a.txt")


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY"])
def test_an_array_that_is_torn_is_told(tmp_path: Path, content: Any) -> None:
    run(tmp_path, TEXTS)
    (tmp_path / "clips" / "b-2" / "x.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"clip b-2: .*x\.npy cannot be read"):
        read_artifact(tmp_path, "clips").clips["b-2"].array("x.npy")
