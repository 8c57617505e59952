from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.runtime import Runtime
from stages.speech.graph import AcousticGraph
from stages.speech.training.export import LIP_GAIN, export
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
        out = model(mfcc)
    wanted = out[output][0].numpy()
    if output == "logits":  # their mean, which says nothing about letters, is the lips' opening
        wanted = wanted - wanted.mean(1, keepdims=True) + LIP_GAIN * out["lips_of_hidden"][0, :, :1].numpy()
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


def test_the_lips_in_the_logits_leave_the_letters_as_they_were(tmp_path):
    torch.manual_seed(0)
    model = AcousticModel(Sizes(dense=24, lstm=16, hidden=10), 4, 6).eval()
    rows = torch.randn(1, 40, 26)
    seen = []
    model.h1.register_forward_hook(lambda module, inputs, result: seen.append(inputs[0]))
    with torch.no_grad():
        out = model(rows)
    export(model, tmp_path / "a.onnx", half=False)
    logits = torch.from_numpy(AcousticGraph(tmp_path / "a.onnx", CPU, threads=1)(seen[0][0].numpy()))
    assert torch.allclose(logits.softmax(-1), out["logits"][0].softmax(-1), atol=1e-5)
    assert torch.allclose(logits.mean(-1), LIP_GAIN * out["lips_of_hidden"][0, :, 0], atol=1e-4)
