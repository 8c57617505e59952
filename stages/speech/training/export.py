"""From the trained torch model to the ONNX file that ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from stages.speech.network import Network, write_onnx
from stages.speech.training.network import AcousticModel

LIP_GAIN = 3.0
"""Logits for one deviation of the lips' opening: as large as the letters' own swing (1 to 2)."""


def export(model: nn.Module, path: Path, *, half: bool = True) -> None:
    """Write the part of `model` that inference needs, matrices in half precision unless told otherwise."""
    assert isinstance(model, AcousticModel)
    write_onnx(path, network_of(model), half=half)


def network_of(model: AcousticModel) -> Network:
    """The trained arrays in ONNX's order.

    A letter's probability does not change when all 29 logits rise together, so their mean is free to say something else:
    here it is the predicted opening of the lips, which training read from the same hidden layer (LIPS[0]). The letters stay
    what they were, exactly; what follows the logits sees the mouth without having to learn it.
    """

    def array(x: Tensor) -> np.ndarray:
        return x.detach().cpu().float().numpy()

    def gates(x: Tensor) -> np.ndarray:
        i, f, c, o = np.split(array(x), 4)  # torch's order
        return np.concatenate([i, o, f, c])

    lstm = model.lstm
    both = [(f"{k}_l0", f"{k}_l0_reverse") for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    w, r, b_input, b_state = (np.stack([gates(getattr(lstm, name)) for name in names]) for names in both)
    dense = [(array(h.weight).T.copy(), array(h.bias)) for h in (model.h1, model.h2, model.h3, model.h5, model.h6)]
    matrix, bias = dense[-1]
    opening = LIP_GAIN * array(model.lips_of_hidden.weight)[0], LIP_GAIN * array(model.lips_of_hidden.bias)[0]  # (hidden,), ()
    matrix = matrix - matrix.mean(1, keepdims=True) + opening[0][:, None]
    dense[-1] = matrix.astype(np.float32), (bias - bias.mean() + opening[1]).astype(np.float32)
    dense = tuple(dense)
    return Network(dense=dense, lstm=(w, r, np.concatenate([b_input, b_state], axis=1)))
