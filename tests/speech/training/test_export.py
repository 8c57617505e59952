from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.runtime import Runtime
from stages.speech.graph import AcousticGraph
from stages.speech.training.export import export
from stages.speech.training.network import AcousticModel, Sizes

CPU = Runtime(device="cpu")


@pytest.mark.parametrize("half, least", [(False, 1e-5), (True, 5e-3)])
@pytest.mark.parametrize("output", ["logits", "hidden"])
def test_the_file_computes_what_the_trained_network_computes(tmp_path, half, least, output):
    torch.manual_seed(0)
    model = AcousticModel(Sizes(dense=24, lstm=16, hidden=10), 4, 6).eval()
    export(model, tmp_path / "a.onnx", half=half)
    rng = np.random.default_rng(0)
    mfcc = torch.from_numpy(rng.normal(size=(1, 57, 26)).astype(np.float32))
    seen = []
    model.h1.register_forward_hook(lambda module, inputs, result: seen.append(inputs[0]))
    with torch.no_grad():
        wanted = model(mfcc)[output][0].numpy()
    graph = AcousticGraph(tmp_path / "a.onnx", CPU, threads=1, output=output)
    found = graph(seen[0][0].numpy())
    assert found.shape == wanted.shape and graph.width == wanted.shape[1]
    assert np.abs(found - wanted).max() < least
    assert np.abs(wanted).max() > 10 * least, "the comparison must be able to fail"


def test_half_precision_halves_the_file(tmp_path):
    model = AcousticModel(Sizes(dense=64, lstm=64, hidden=32), 4, 6)
    for half in (False, True):
        export(model, tmp_path / f"{half}.onnx", half=half)
    assert (tmp_path / "True.onnx").stat().st_size < 0.55 * (tmp_path / "False.onnx").stat().st_size
