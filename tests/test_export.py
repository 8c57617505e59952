"""export: what is given away works like the trained model, weighs half, and replaces nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stages import export, infer
from stages.artifacts import read_artifact
from stages.dubbing.model import load_model
from stages.errors import ArtifactError, UsageError
from stages.runtime import Runtime
from tests.small import make_model


def test_an_exported_model_is_a_whole_model_of_half_the_size(tmp_path):
    model = make_model(tmp_path / "model")
    (model / "state").mkdir()
    (model / "state" / "optimizer.pt").write_bytes(b"x" * 1000)
    export.run(export.Config(steps=3, strength=0.5), model, tmp_path / "given" / "away", Runtime())
    given = read_artifact(tmp_path / "given" / "away", "denoiser")
    assert sorted(p.name for p in given.root.iterdir()) == ["artifact.json", "config.json", "first-stage", "model.safetensors"]
    assert all(t.dtype == torch.float16 for t in load_file(given.root / "model.safetensors").values() if t.is_floating_point())
    assert given.manifest["facts"]["stored"] == "fp16"
    (one, _, _), (two, _, _) = load_model(model, Runtime()), load_model(given.root, Runtime())
    assert next(two.denoiser.parameters()).dtype == torch.float32
    for a, b in ((one.denoiser, two.denoiser), (one.first_stage, two.first_stage)):
        assert all(np.allclose(x, y, rtol=1e-3, atol=1e-4) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    described = load_model(given.root, Runtime())[1]
    filled = infer.Config(steps=7).filled(described["sampling"])
    assert (filled.steps, filled.strength) == (7, 0.5) and infer.Config().filled({}).steps == 10
    with pytest.raises(UsageError, match="exists"):
        export.run(export.Config(), model, given.root, Runtime())


def test_a_first_stage_with_other_latents_is_refused(tmp_path):
    model = make_model(tmp_path / "model")
    export.run(export.Config(precision="fp32"), model, tmp_path / "copy", Runtime())
    vae = tmp_path / "copy" / "first-stage"
    export.run(export.Config(), model, tmp_path / "with the same", Runtime(), vae)
    described = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps({**described, "std": [0.5]}))
    with pytest.raises(ArtifactError, match="another std"):
        export.run(export.Config(), model, tmp_path / "with another", Runtime(), vae)
    assert not (tmp_path / "with another").exists()
