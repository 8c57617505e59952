from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stages.artifacts import Input, read_artifact
from stages.artifacts.model import ModelStore
from stages.errors import ArtifactError
from stages.runtime import Runtime
from tests.artifacts.small import run, tree


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 10
    width: int = 8


def store(root: Path, *, config: Config | None = None, code: int = 1, digest: str = "d", **runtime: Any) -> ModelStore:
    return ModelStore(
        root, kind="vae", stage="train-vae", code=code, config=config or Config(),
        inputs=[Input("clips", "clips", digest)], runtime=Runtime(**runtime),
    )  # fmt: skip


def train(root: Path, **how: Any) -> None:
    with store(root, **how) as model:
        model.open_for_training()
        (root / "model.safetensors").write_bytes(b"weights")
        (root / "state").mkdir(exist_ok=True)
        model.seal(["model.safetensors"], {"finished": True, "step": model.config["steps"]})


def test_a_finished_model_is_sealed_and_need_not_run(tmp_path: Path) -> None:
    train(tmp_path)
    assert read_artifact(tmp_path, "vae").manifest["facts"]["step"] == 10
    with store(tmp_path) as model:
        assert model.why() == ""


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"config": Config(steps=20)}, "config (steps: 10 -> 20)"), ({}, "")],
)
def test_a_longer_run_goes_on(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    train(tmp_path)
    with store(tmp_path, **how) as model:
        assert model.why() == reason
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("how", "reason"),
    [({"config": Config(width=9)}, r"config \(width: 8 -> 9\)"), ({"code": 2}, r"code \(1 -> 2\)"), ({"digest": "e"}, r"input \(clips\)")],
)
def test_other_settings_are_refused_and_force_starts_anew(tmp_path: Path, how: dict[str, Any], reason: str) -> None:
    train(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match=rf"other settings: {reason}; choose another --out, or --force"), store(tmp_path, **how):
        pytest.fail("entered")
    assert tree(tmp_path) == before
    with store(tmp_path, **how, force=True) as model:
        assert model.why() == "missing" and not (tmp_path / "state").exists()


def test_a_training_without_a_state_has_nothing_to_lose(tmp_path: Path) -> None:
    with store(tmp_path) as model:  # and fails before its first step
        model.open_for_training()
    with store(tmp_path, config=Config(width=9)) as model:
        assert model.why() == "missing"


def test_a_training_of_unknown_make_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    (tmp_path / "training.json").write_text('{"someone": "else"}')
    with pytest.raises(ArtifactError, match="other settings"), store(tmp_path):
        pytest.fail("entered")
    assert (tmp_path / "samples").exists()


def test_a_setting_that_an_earlier_version_did_not_have_counts_as_off(tmp_path: Path) -> None:
    train(tmp_path)

    @dataclass(frozen=True, kw_only=True)
    class Later(Config):
        strength: float | None = 0.0

    for value in (0.0, None):
        with store(tmp_path, config=Later(strength=value)) as model:
            assert model.why() == ""
    with pytest.raises(ArtifactError, match=r"strength.*0.5"), store(tmp_path, config=Later(strength=0.5)):
        pytest.fail("entered")


@pytest.mark.parametrize("force", [False, True])
def test_another_artifact_is_never_thrown_away(tmp_path: Path, force: bool) -> None:
    run(tmp_path, {"a": "alpha"})
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match="already holds a clips artifact, not vae"), store(tmp_path, force=force):
        pytest.fail("entered")
    assert tree(tmp_path) == before


def test_damage_and_unfinished_training_are_told(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weighty")
    with store(tmp_path) as model:
        assert model.why() == "damaged (model.safetensors)"
        model.open_for_training()
        assert model.why() == "going on"
    for text in ("", "{}", "[]"):
        (tmp_path / "artifact.json").write_text(text)
        with pytest.raises(ArtifactError) if text == "{}" else store(tmp_path) as model:
            if text == "{}":
                store(tmp_path).__enter__()
            else:
                assert isinstance(model, ModelStore) and model.why() == "damaged (artifact.json cannot be read)"


def test_dry_run_changes_nothing(tmp_path: Path) -> None:
    with store(tmp_path / "none", dry_run=True) as model:
        assert model.why() == "missing"
    assert not (tmp_path / "none").exists()


def test_a_model_of_unknown_settings_is_not_overwritten(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / "training.json").unlink()
    with pytest.raises(ArtifactError, match=r"unknown settings \(no training\.json\)"), store(tmp_path):
        pytest.fail("entered")


def test_the_manifest_tells_no_place(tmp_path: Path) -> None:
    train(tmp_path / "here")
    train(tmp_path / "there")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")
    assert str(tmp_path) not in json.dumps(read_artifact(tmp_path / "here", "vae").manifest)
